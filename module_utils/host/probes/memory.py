# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Memory as guests meet it: NUMA nodes, huge pages, KSM, THP, swap. Sizes are bytes.

linux: Documentation/admin-guide/mm/ and Documentation/ABI/stable/sysfs-devices-node.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from ..source import exists, expand, names, number, text, word

_NODES = "/sys/devices/system/node"
_KSM = "/sys/kernel/mm/ksm"
_THP = "/sys/kernel/mm/transparent_hugepage"
_HUGE = re.compile(r"hugepages-(\d+)kB")


@dataclass(eq=False, repr=False)
class HugePages:
    """The pool of one page size (bytes): all of it, and what nobody uses."""

    size: int
    total: int | None
    free: int | None


@dataclass(eq=False, repr=False)
class Node:
    """One NUMA node; ``distances`` are ACPI SLIT's, in the order of the online nodes."""

    id: int
    cpus: str | None
    memory: int | None
    free: int | None
    distances: list[int] = field(default_factory=list)
    hugepages: list[HugePages] = field(default_factory=list)


@dataclass(eq=False, repr=False)
class Memory:
    """The machine's memory; None is what this kernel does not say."""

    total: int | None = None
    available: int | None = None
    nodes: list[Node] | None = None
    hugepages: list[HugePages] | None = None
    ksm: bool | None = None
    ksm_across_nodes: bool | None = None
    ksm_pages_sharing: int | None = None
    ksm_supported: bool | None = None
    thp: str | None = None
    thp_defrag: str | None = None
    swap: int | None = None
    swap_used: int | None = None
    swappiness: int | None = None


def probe(root: str = "/") -> Memory:
    """Read the memory of the machine under ``root``."""
    meminfo = _meminfo(text(root, "/proc/meminfo"))
    run = number(root, f"{_KSM}/run")
    across = number(root, f"{_KSM}/merge_across_nodes")
    memory = Memory(
        total=meminfo.get("MemTotal"),
        available=meminfo.get("MemAvailable"),
        nodes=_nodes(root),
        hugepages=_hugepages(root, "/sys/kernel/mm/hugepages"),
        ksm_supported=exists(root, _KSM) if exists(root, "/sys/kernel/mm") else None,
        ksm=None if run is None else run == 1,
        ksm_across_nodes=None if across is None else across == 1,
        ksm_pages_sharing=number(root, f"{_KSM}/pages_sharing"),
        thp=_chosen(word(root, f"{_THP}/enabled")),
        thp_defrag=_chosen(word(root, f"{_THP}/defrag")),
        swappiness=number(root, "/proc/sys/vm/swappiness"),
    )
    swaps = text(root, "/proc/swaps")
    if swaps is not None:
        rows = [line.split() for line in swaps.splitlines()[1:]]
        # A path with blanks is escaped (\040), so the columns from the right are safe.
        memory.swap = sum(int(row[-3]) * 1024 for row in rows if len(row) >= 5)
        memory.swap_used = sum(int(row[-2]) * 1024 for row in rows if len(row) >= 5)
    return memory


def _meminfo(content: str | None) -> dict[str, int]:
    """Return the sizes of a meminfo file in bytes; per-node files put ``Node 0`` in front."""
    pairs = re.findall(r"(\w+):\s+(\d+) kB", content or "")
    return {name: int(value) * 1024 for name, value in pairs}


def _nodes(root: str) -> list[Node] | None:
    found = names(root, _NODES)
    if found is None:
        return None
    numbers = sorted(int(name[4:]) for name in found if re.fullmatch(r"node\d+", name))
    return [_node(root, number_) for number_ in numbers]


def _node(root: str, identity: int) -> Node:
    folder = f"{_NODES}/node{identity}"
    meminfo = _meminfo(text(root, f"{folder}/meminfo"))
    return Node(
        id=identity,
        cpus=word(root, f"{folder}/cpulist"),
        memory=meminfo.get("MemTotal"),
        free=meminfo.get("MemFree"),
        distances=[
            int(part) for part in (word(root, f"{folder}/distance") or "").split() if part.isdigit()
        ],
        hugepages=_hugepages(root, f"{folder}/hugepages") or [],
    )


def _hugepages(root: str, folder: str) -> list[HugePages] | None:
    found = names(root, folder)
    if found is None:
        return None
    sizes = sorted(int(match.group(1)) for match in map(_HUGE.fullmatch, found) if match)
    return [
        HugePages(
            size=size * 1024,
            total=number(root, f"{folder}/hugepages-{size}kB/nr_hugepages"),
            free=number(root, f"{folder}/hugepages-{size}kB/free_hugepages"),
        )
        for size in sizes
    ]


def _chosen(value: str | None) -> str | None:
    """Return the choice that the kernel puts in brackets: ``always [madvise] never``."""
    match = re.search(r"\[([\w+-]+)\]", value or "")
    return match.group(1) if match else None


def cpus_of(node: Node) -> list[int]:
    """Return the CPUs of a node."""
    return expand(node.cpus)
