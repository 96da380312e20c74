# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""LVM as it is on the host, and the plan of all groups and pools."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Mapping, Sequence

from ..outcome import Outcome, join
from .disks import Disk, device_of, look
from .facet import report
from .groups import GroupWish, plan_group, remove_group
from .pools import plan_pools

if TYPE_CHECKING:
    from .facet import Context, System

_EXTENT = 4 << 20  # bytes; vgcreate(8)'s own where nothing else is said
_HEAD = 1 << 20  # bytes before the first extent of a physical volume
_POOL = "t"  # the first of lvs(8)'s attributes: a thin pool
_PARTS = frozenset("tTe")  # the pool, its data, its metadata: in use wherever a volume is
_OPEN = 5  # the place of "o", device open, among them


@dataclass(frozen=True)
class Pool:
    """A thin pool; sizes in bytes."""

    size: int
    metadata: int


@dataclass(frozen=True)
class Group:
    """A volume group: the size of an extent in bytes, and how many there are and are free."""

    name: str
    extent: int
    total: int
    free: int
    tags: frozenset[str] = frozenset()
    pools: Mapping[str, Pool] = field(default_factory=dict)
    volumes: tuple[str, ...] = ()
    open: tuple[str, ...] = ()


@dataclass(frozen=True)
class Lvm:
    """Disks by declared path; groups by name; the group ("" for none) of each physical volume."""

    disks: Mapping[str, Disk] = field(default_factory=dict)
    members: Mapping[str, str] = field(default_factory=dict)
    groups: Mapping[str, Group] = field(default_factory=dict)


def _rows(system: System, command: str, fields: str) -> list[dict[str, str]]:
    """Return the rows of an LVM report, none where LVM is not installed yet."""
    argv = [command, "--reportformat", "json", "--units", "b", "--nosuffix", "--options", fields]
    answer = report(system, argv)
    if answer is None:
        return []
    rows: list[dict[str, str]] = answer["report"][0][command[:-1]]
    return rows


def _group(row: Mapping[str, str], volumes: Sequence[Mapping[str, str]]) -> Group:
    pools = {
        volume["lv_name"]: Pool(int(volume["lv_size"]), int(volume["lv_metadata_size"] or 0))
        for volume in volumes
        if volume["lv_attr"][0] == _POOL
    }
    opened = [
        volume["lv_name"]
        for volume in volumes
        if volume["lv_attr"][0] not in _PARTS and volume["lv_attr"][_OPEN] == "o"
    ]
    return Group(
        row["vg_name"],
        int(row["vg_extent_size"]),
        int(row["vg_extent_count"]),
        int(row["vg_free_count"]),
        frozenset(row["vg_tags"].split(",")) - {""},
        pools,
        tuple(volume["lv_name"] for volume in volumes),
        tuple(opened),
    )


def observe(system: System, wishes: Sequence[GroupWish]) -> Lvm:
    """Return what there is of LVM and of the declared disks; nothing is read without a wish."""
    if not wishes:
        return Lvm()
    volumes = _rows(system, "lvs", "vg_name,lv_name,lv_attr,lv_size,lv_metadata_size")
    groups = [
        _group(row, [volume for volume in volumes if volume["vg_name"] == row["vg_name"]])
        for row in _rows(
            system, "vgs", "vg_name,vg_tags,vg_extent_size,vg_extent_count,vg_free_count"
        )
    ]
    members = {
        device_of(system.root, row["pv_name"]) or row["pv_name"]: row["vg_name"]
        for row in _rows(system, "pvs", "pv_name,vg_name")
    }
    disks = {path: look(system, path) for wish in wishes for path in wish.disks}
    return Lvm(disks, members, {group.name: group for group in groups})


def _coming(wish: GroupWish, lvm: Lvm) -> Group | None:
    """Return the group as it will be with all its disks; None while a disk is not there."""
    disks = [lvm.disks[path] for path in wish.disks]
    if any(disk.device is None for disk in disks):
        return None
    group = lvm.groups.get(wish.name, Group(wish.name, _EXTENT, 0, 0))
    new = [disk for disk in disks if lvm.members.get(str(disk.device)) != wish.name]
    more = sum(max(disk.size - _HEAD, 0) // group.extent for disk in new)
    return Group(
        group.name,
        group.extent,
        group.total + more,
        group.free + more,
        group.tags,
        group.pools,
        group.volumes,
    )


def plan_all_groups(wishes: Sequence[GroupWish], lvm: Lvm, context: Context) -> Outcome:
    """Return what is to be done to all volume groups."""
    one = remove_group if context.absent else plan_group
    return join([one(wish, lvm, context) for wish in wishes])


def plan_all_pools(wishes: Sequence[GroupWish], lvm: Lvm, context: Context) -> Outcome:
    """Return what is to be done to all thin pools; they go with their groups."""
    outcomes = []
    for wish in () if context.absent else wishes:
        group = _coming(wish, lvm)
        if group is not None:
            outcomes.append(plan_pools(wish.pools, group, context))
        elif context.expecting:
            room = Group(wish.name, _EXTENT, 1 << 60, 1 << 60)  # it is known when the disk is
            outcomes.append(plan_pools(wish.pools, room, context))
    return join(outcomes)
