# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""LVM volume groups on given disks; a disk that holds anything is refused unless it was forced.

A group of ours bears the tag ``virtfleet``. vgcreate(8) and vgextend(8) are run without --yes, so
that what came onto a disk after the look at it is still refused, by LVM itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Mapping, Sequence

from ...converge.action import Change
from ..operation import Operation, Run, Step
from ..outcome import Outcome, join
from .disks import LVM_MEMBER, Disk
from .facet import GROUP, Checker, Context
from .pools import PoolWish, parse_pools

if TYPE_CHECKING:
    from .lvm import Lvm

TAG = "virtfleet"
NAME = re.compile(r"[A-Za-z0-9_+][A-Za-z0-9_+.-]{0,126}", re.ASCII)  # lvm(8), valid names
_SETTLE = Run(("udevadm", "settle", "--timeout=30"))


@dataclass(frozen=True)
class GroupWish:
    """A volume group: its disks in order, those of them that may be wiped, its thin pools."""

    name: str
    disks: tuple[str, ...]
    forced: frozenset[str] = frozenset()
    pools: tuple[PoolWish, ...] = ()


def _disk(item: Any, path: str, forced: bool, check: Checker) -> tuple[str, bool]:
    """Return a disk's path and whether it may be wiped, from a path or {path, force}."""
    if not isinstance(item, Mapping):
        return check.absolute(path, item), forced
    for key in item:
        if key not in {"path", "force"}:
            check.say(f"{path}.{key}", "path or force", key)
    own = item.get("force", forced)
    if not isinstance(own, bool):
        check.say(f"{path}.force", "true or false", own)
    return check.absolute(f"{path}.path", item.get("path")), own is True


def parse_groups(items: Sequence[Mapping[str, Any]], path: str, check: Checker) -> list[GroupWish]:
    """Return the volume groups that are declared."""
    wishes = []
    for index, item in enumerate(items):
        here = f"{path}[{index}]"
        name = check.matches(f"{here}.name", item["name"], NAME, "letters, digits, _ + . and -")
        forced = bool(item.get("force"))
        disks = [
            _disk(disk, f"{here}.disks[{number}]", forced, check)
            for number, disk in enumerate(item["disks"])
        ]
        if not disks:
            check.say(f"{here}.disks", "at least one disk", item["disks"])
        wishes.append(
            GroupWish(
                name,
                tuple(disk for disk, _ in disks),
                frozenset(disk for disk, force in disks if force),
                parse_pools(item.get("thin_pools") or [], f"{here}.thin_pools", check),
            )
        )
    check.unique(path, [wish.name for wish in wishes])
    every = [disk for wish in wishes for disk in wish.disks]
    check.unique(f"{path}.disks", every)
    return wishes


def refusal(disk: Disk, lvm: Lvm, *, forced: bool) -> tuple[str, str] | None:
    """Return why a disk is not taken and what would help; None where it is free.

    A physical volume of no group is free: it is what an interrupted run leaves.
    """
    device = str(disk.device)
    group = lvm.members.get(device)
    if group:
        return (
            f"it belongs to the volume group {group}",
            f"remove it there: vgreduce {group} {device}",
        )
    if disk.uses:
        return "; ".join(disk.uses), "free it first; an override does not reach what is in use"
    orphan = device in lvm.members and set(disk.contents) == {LVM_MEMBER}
    if disk.contents and not orphan and not forced:
        what = ", ".join(disk.contents)
        return f"it holds {what}", "set force for this disk if all of that may be lost"
    return None


def _wipe(disk: Disk) -> list[Operation]:
    """Return what empties a disk: the partitions first, while they are there."""
    targets = [*disk.partitions, str(disk.device)]
    return [Run(("wipefs", "--all", *targets)), _SETTLE] if disk.contents else []


def _missing(wish: GroupWish, lvm: Lvm) -> list[Disk]:
    """Return the disks that are not in the group yet."""
    disks = [lvm.disks[path] for path in wish.disks]
    return [disk for disk in disks if lvm.members.get(str(disk.device)) != wish.name]


def _refused(wish: GroupWish, disks: Sequence[Disk], lvm: Lvm, context: Context) -> Outcome:
    blocked = []
    seen: dict[str, str] = {}
    for disk in disks:
        name = f"disk{disk.path}"
        if disk.device is None:
            if not context.expecting:
                blocked.append(
                    context.blocked(name, "it is not there", "see lsblk for the disks of the host")
                )
            continue
        found = refusal(disk, lvm, forced=disk.path in wish.forced)
        if disk.device in seen:
            found = f"it is the same as {seen[disk.device]}", "name each disk once"
        seen[disk.device] = disk.path
        if found:
            blocked.append(context.blocked(name, *found))
    return Outcome(blocked=tuple(blocked))


def _adopt(wish: GroupWish, lvm: Lvm, context: Context) -> Outcome:
    """Return how a group without the tag becomes ours: only if all its disks are declared."""
    declared = {lvm.disks[path].device for path in wish.disks}
    others = sorted(pv for pv, name in lvm.members.items() if name == wish.name)
    name = f"volume_group/{wish.name}"
    if not set(others) <= declared:
        reason = f"there is one of that name on {', '.join(others)} that virtfleet did not make"
        remedy = "choose another name, or declare all of its disks to adopt it"
        return Outcome(blocked=(context.blocked(name, reason, remedy),))
    action = context.action(
        GROUP, name, "adopt", "all of its disks are declared", [Change("tag", None, TAG)]
    )
    return Outcome((Step(action, (Run(("vgchange", "--addtag", TAG, wish.name)),)),))


def _take(wish: GroupWish, disks: Sequence[Disk], context: Context, *, exists: bool) -> Outcome:
    """Return the step that takes the disks into the group."""
    old = [disk for disk in disks if disk.contents and disk.contents != (LVM_MEMBER,)]
    changes = [
        Change(f"disks.{disk.path}", ", ".join(disk.contents) or None, "physical volume")
        for disk in disks
    ]
    action = context.action(
        GROUP,
        f"volume_group/{wish.name}",
        "grow" if exists else "create",
        "disks were added" if exists else "it is missing",
        changes,
        destructive=bool(old),
    )
    devices = [disk.device or disk.path for disk in disks]
    command = ("vgextend",) if exists else ("vgcreate", "--addtag", TAG)
    wipes = [operation for disk in old for operation in _wipe(disk)]
    return Outcome((Step(action, (*wipes, Run((*command, wish.name, *devices)))),))


def plan_group(wish: GroupWish, lvm: Lvm, context: Context) -> Outcome:
    """Return what makes a volume group as declared; nothing of it if a disk is refused."""
    group = lvm.groups.get(wish.name)
    disks = _missing(wish, lvm)
    refused = _refused(wish, disks, lvm, context)
    parts = [refused]
    if group and TAG not in group.tags:
        parts.append(_adopt(wish, lvm, context))
    if any(part.blocked for part in parts):
        return Outcome(blocked=join(parts).blocked)
    if disks:
        parts.append(_take(wish, disks, context, exists=group is not None))
    declared = {lvm.disks[path].device for path in wish.disks}
    others = sorted(pv for pv, name in lvm.members.items() if name == wish.name)
    more = [pv for pv in others if pv not in declared]
    if more:
        reason = f"{', '.join(more)} is in the group and not declared"
        remedy = "declare it, or take it out: pvmove, then vgreduce"
        pending = context.pending(f"volume_group/{wish.name}", "not_declared", reason, remedy)
        parts.append(Outcome(pending=(pending,)))
    return join(parts)


def remove_group(wish: GroupWish, lvm: Lvm, context: Context) -> Outcome:
    """Return what takes a volume group of ours away, with everything in it, if that was asked."""
    name = f"volume_group/{wish.name}"
    group = lvm.groups.get(wish.name)
    orphans = [
        str(disk.device)
        for disk in (lvm.disks[path] for path in wish.disks)
        if lvm.members.get(str(disk.device)) == "" and context.remove_data
    ]
    if group is None:
        if not orphans:
            return Outcome()
        action = context.action(GROUP, name, "delete", "an earlier run did not finish it")
        return Outcome((Step(action, (Run(("pvremove", *orphans)),)),))
    if not context.remove_data:
        remedy = "set kvm_storage_remove_data to remove it with everything in it"
        pending = context.pending(name, "data_kept", "it may hold data", remedy)
        return Outcome(pending=(pending,))
    if TAG not in group.tags:
        remedy = f"remove it by hand: vgremove {wish.name}"
        return Outcome(blocked=(context.blocked(name, "virtfleet did not make it", remedy),))
    if group.open and not context.expecting:
        reason = f"{', '.join(group.open)} in it is in use"
        return Outcome(blocked=(context.blocked(name, reason, "stop what uses it first"),))
    members = sorted(pv for pv, owner in lvm.members.items() if owner == wish.name)
    changes = [Change("volumes", list(group.volumes), None), Change("disks", members, None)]
    action = context.action(
        GROUP, name, "delete", "its removal with all data was asked for", changes, destructive=True
    )
    operations = (
        Run(("vgremove", "--force", "--yes", wish.name)),
        Run(("pvremove", *members)),
    )
    return Outcome((Step(action, operations),))
