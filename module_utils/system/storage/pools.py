# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""LVM thin pools: their sizes in extents, made and grown, never made smaller (lvmthin(7)).

The size of the metadata is always given, so that what fits into a group is known beforehand:
unless stated it is 1/1024 of the data (64 bytes for a chunk of 64 KiB), as lvmthin(7) advises,
and there is a spare of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Mapping, Sequence

from ... import units
from ...converge.action import Change
from ..operation import Run, Step
from ..outcome import Outcome, join
from .facet import POOL, Checker, Context

if TYPE_CHECKING:
    from ...converge.action import Pending
    from .lvm import Group, Pool

_NAME = re.compile(
    r"(?!.*_(?:[rtc]meta|[tc]data|mimage|rimage|mlog|vorigin|pmspare))"
    r"(?!snapshot|pvmove)[A-Za-z0-9_+][A-Za-z0-9_+.-]{0,126}",
    re.ASCII,
)
_PERCENT = re.compile(r"([1-9][0-9]?|100)%", re.ASCII)
_METADATA = (2 << 20, 15 << 30)  # bytes, least and most (lvmthin(7); the most is below 16 GiB)
_CHUNK = (64 << 10, 1 << 30)  # bytes, least and most


@dataclass(frozen=True)
class PoolWish:
    """A thin pool. ``size`` is as stated, and one of bytes and percent (of the group) is set."""

    name: str
    size: str
    bytes: int = 0
    percent: int = 0
    metadata: int = 0
    chunk: int = 0


def _bounded(path: str, value: Any, bounds: tuple[int, int], check: Checker) -> int:
    """Return a size in bytes, 0 where none is stated."""
    if value is None:
        return 0
    size = check.parsed(path, value, units.parse_size, bounds[0])
    if not bounds[0] <= size <= bounds[1]:
        low, high = (units.format_size(bound) for bound in bounds)
        check.say(path, f"a size from {low} to {high}", value)
    return size


def parse_pools(
    items: Sequence[Mapping[str, Any]], path: str, check: Checker
) -> tuple[PoolWish, ...]:
    """Return the thin pools that are declared for a group."""
    wishes = []
    for index, item in enumerate(items):
        here = f"{path}[{index}]"
        name = check.matches(
            f"{here}.name",
            item["name"],
            _NAME,
            "letters, digits, _ + . and -, no name of LVM's own",
        )
        share = _PERCENT.fullmatch(str(item["size"]))
        size = 0 if share else check.parsed(f"{here}.size", item["size"], units.parse_size, 1)
        if not share and size < 1:
            check.say(f"{here}.size", "a size above 0 (10GiB), or 1% to 100%", item["size"])
        chunk = _bounded(f"{here}.chunk_size", item.get("chunk_size"), _CHUNK, check)
        if chunk % _CHUNK[0]:
            check.say(f"{here}.chunk_size", "a multiple of 64KiB", item["chunk_size"])
        metadata = _bounded(f"{here}.metadata_size", item.get("metadata_size"), _METADATA, check)
        wishes.append(
            PoolWish(
                name, str(item["size"]), size, int(share.group(1)) if share else 0, metadata, chunk
            )
        )
    check.unique(path, [wish.name for wish in wishes])
    return tuple(wishes)


def _extents(size: int, extent: int) -> int:
    return -(-size // extent)


def metadata_extents(wish: PoolWish, data: int, extent: int) -> int:
    """Return the extents of the metadata, of which there are two, for ``data`` extents of data."""
    advised = min(max(data * extent // 1024, _METADATA[0]), _METADATA[1])
    return _extents(wish.metadata or advised, extent)


def wanted_extents(wish: PoolWish, group: Group) -> int:
    """Return the extents of data that are asked for; a share leaves room for the metadata."""
    if not wish.percent:
        return _extents(wish.bytes, group.extent)
    share = group.total * wish.percent // 100
    metadata = 2 * metadata_extents(wish, share, group.extent)
    return min(share, max(group.total - metadata, 0))


def _create(wish: PoolWish, group: Group, free: int, context: Context) -> tuple[Outcome, int]:
    """Return how a pool is made, and the extents that it takes."""
    name = f"thin_pool/{group.name}/{wish.name}"
    data = wanted_extents(wish, group)
    metadata = metadata_extents(wish, data, group.extent)
    needed = data + 2 * metadata
    if data < 1 or needed > free:
        size, room = (units.format_size(n * group.extent) for n in (needed, free))
        reason = f"{wish.size} with its metadata takes {size}, and {room} is free in {group.name}"
        return Outcome(blocked=(context.blocked(name, reason, "add a disk or ask for less"),)), 0
    changes = [Change("size", None, wish.size)]
    argv = [
        *("lvcreate", "--yes", "--type", "thin-pool"),
        *("--extents", str(data), "--poolmetadatasize", f"{metadata * group.extent}b"),
    ]
    if wish.metadata:
        changes.append(Change("metadata_size", None, units.format_size(wish.metadata)))
    if wish.chunk:
        changes.append(Change("chunk_size", None, units.format_size(wish.chunk)))
        argv += ["--chunksize", f"{wish.chunk}b"]
    argv += ["--name", wish.name, group.name]
    action = context.action(POOL, name, "create", "it is missing", changes)
    return Outcome((Step(action, (Run(tuple(argv)),)),)), needed


def _grow(
    wish: PoolWish, pool: Pool, group: Group, free: int, context: Context
) -> tuple[Outcome, int]:
    """Return how a pool becomes as large as declared, and the extents that it takes."""
    name = f"thin_pool/{group.name}/{wish.name}"
    full = f"{group.name}/{wish.name}"
    have, extent = _extents(pool.size, group.extent), group.extent
    want = wanted_extents(wish, group)
    if wish.percent:  # a share takes what room there is
        want = min(want, have + free)
    less = max(_extents(wish.metadata, extent) - _extents(pool.metadata, extent), 0)
    more = max(want - have, 0)
    needed = more + 2 * less
    if needed > free:
        room = units.format_size(free * extent)
        reason = f"it needs {units.format_size(needed * extent)} more, and {room} is free"
        return Outcome(blocked=(context.blocked(name, reason, "add a disk or ask for less"),)), 0
    pending: tuple[Pending, ...] = ()
    if not wish.percent and want < have:
        reason = f"it is {units.format_size(pool.size)}, larger than {wish.size}"
        remedy = "state the size that it has: a thin pool cannot be made smaller"
        pending = (context.pending(name, "cannot_shrink", reason, remedy),)
    changes, operations = [], []
    if less:
        changes.append(
            Change(
                "metadata_size",
                units.format_size(pool.metadata),
                units.format_size(wish.metadata),
            )
        )
        size = f"{_extents(wish.metadata, extent) * extent}b"
        operations.append(Run(("lvextend", "--poolmetadatasize", size, full)))
    if more:
        changes.append(Change("size", units.format_size(pool.size), wish.size))
        operations.append(Run(("lvextend", "--extents", str(want), full)))
    if not changes:
        return Outcome(pending=pending), 0
    action = context.action(POOL, name, "grow", "it is smaller than declared", changes)
    return Outcome((Step(action, tuple(operations)),), pending), needed


def plan_pools(wishes: Sequence[PoolWish], group: Group, context: Context) -> Outcome:
    """Return what makes the pools of a group as declared, in their order of declaration."""
    free = group.free
    outcomes = []
    for wish in wishes:
        pool = group.pools.get(wish.name)
        if pool is None and wish.name in group.volumes:
            name = f"thin_pool/{group.name}/{wish.name}"
            reason = "there is a volume of that name that is no thin pool"
            outcome = Outcome(blocked=(context.blocked(name, reason, "choose another name"),))
            taken = 0
        elif pool is None:
            outcome, taken = _create(wish, group, free, context)
        else:
            outcome, taken = _grow(wish, pool, group, free, context)
        outcomes.append(outcome)
        free -= taken
    return join(outcomes)
