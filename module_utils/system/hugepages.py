# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pools of huge pages, of the machine or of one NUMA node (linux: admin-guide/mm/hugetlbpage.rst).

The kernel takes the pages when it is told to, and gives what it finds: fewer than asked for is no
error to it. What it gave is read again afterwards (see ``setting.not_taken``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Mapping, Sequence

from ..converge.errors import Problem, shown
from ..host.probes import memory
from ..units import UnitError, format_size, parse_size
from .setting import Setting

_LIMIT = 1 << 40  # pages
_KIB = 1024
_MIB = 1 << 20
_X86_REMEDY = "1GiB takes the processor flag pdpe1gb (in a virtual machine its host passes it on)"


@dataclass(frozen=True)
class Pool:
    """How many pages of a size (bytes) there shall be; no node is the machine as a whole."""

    size: int
    count: int
    node: int | None = None


@dataclass(frozen=True)
class Observed:
    """Sizes that the kernel knows (None: it has no huge pages) and memory in bytes by node."""

    sizes: tuple[int, ...] | None = None
    total: int | None = None
    nodes: Mapping[int, int | None] = field(default_factory=dict)


def parse(stated: Sequence[Mapping[str, Any]], problems: list[Problem]) -> list[Pool]:
    """Return the pools that were stated; what is wrong goes to ``problems``."""
    pools: list[Pool] = []
    for number, entry in enumerate(stated):
        path = f"hugepages[{number}]"
        size = 0
        try:
            size = parse_size(entry.get("size"))
        except UnitError:
            problems.append(
                Problem(f"{path}.size", "a size such as 2MiB or 1GiB", shown(entry.get("size")))
            )
        count, node = entry.get("count"), entry.get("node")
        if not _is_whole(count):
            problems.append(Problem(f"{path}.count", "a number of pages, 0 or more", shown(count)))
        if node is not None and not _is_whole(node):
            problems.append(Problem(f"{path}.node", "the number of a NUMA node", shown(node)))
        if size and _is_whole(count):
            pools.append(Pool(size, int(str(count)), node))
            _check_once(path, pools, problems)
    return pools


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LIMIT


def _check_once(path: str, pools: Sequence[Pool], problems: list[Problem]) -> None:
    last = pools[-1]
    for other in pools[:-1]:
        if other.size != last.size:
            continue
        if other.node == last.node:
            problems.append(Problem(path, "each size once a node", "it is stated twice"))
            return
        if None in (other.node, last.node):
            expected = "a size either by node or for the whole machine"
            problems.append(Problem(path, expected, "both are stated"))
            return


def read(root: str) -> Observed:
    """Return what the machine under ``root`` offers."""
    found = memory.probe(root)
    pools = found.hugepages
    return Observed(
        sizes=None if pools is None else tuple(pool.size for pool in pools),
        total=found.total,
        nodes={node.id: node.memory for node in found.nodes or []},
    )


def check_known(pools: Sequence[Pool], observed: Observed) -> list[Problem]:
    """Return which pools this machine cannot have."""
    if observed.sizes is None:
        return []
    problems = []
    for number, pool in enumerate(pools):
        path = f"hugepages[{number}]"
        if pool.size not in observed.sizes:
            sizes = ", ".join(map(format_size, observed.sizes)) or "none"
            expected = f"a size that this machine has ({sizes})"
            found = format_size(pool.size)
            remedy = _X86_REMEDY if pool.size == 1 << 30 else None
            problems.append(Problem(f"{path}.size", expected, found, remedy))
        if pool.node is not None and pool.node not in observed.nodes:
            nodes = ", ".join(map(str, sorted(observed.nodes))) or "none"
            expected = f"a NUMA node of this machine ({nodes})"
            problems.append(Problem(f"{path}.node", expected, str(pool.node)))
    return problems + _too_much(pools, observed)


def _too_much(pools: Sequence[Pool], observed: Observed) -> list[Problem]:
    problems = []
    for node in dict.fromkeys(pool.node for pool in pools):
        there = observed.nodes.get(node) if node is not None else observed.total
        asked = sum(pool.size * pool.count for pool in pools if node in (None, pool.node))
        if there is not None and asked >= there:
            where = "of the machine" if node is None else f"of node {node}"
            expected = f"less than the memory {where} ({there // _MIB}MiB) in all"
            problems.append(Problem("hugepages", expected, f"{asked // _MIB}MiB"))
    return problems


def path_of(pool: Pool) -> str:
    """Return where the kernel counts the pages of a pool."""
    base = "/sys/kernel/mm" if pool.node is None else f"/sys/devices/system/node/node{pool.node}"
    return f"{base}/hugepages/hugepages-{pool.size // _KIB}kB/nr_hugepages"


def settings(pools: Sequence[Pool]) -> list[Setting]:
    """Return the pools as values that the kernel keeps."""
    return [
        Setting(
            object=f"hugepages/{format_size(pool.size)}",
            key="count" if pool.node is None else f"node{pool.node}.count",
            path=path_of(pool),
            value=str(pool.count),
        )
        for pool in pools
    ]
