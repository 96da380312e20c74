# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks of the memory that guests will live in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..check import Check, Finding, info, levels, passed, unknown, warned

if TYPE_CHECKING:
    from ..observe import Host


def _size(value: int) -> str:
    """Return bytes for people, rounded: a machine's memory is never a round number."""
    for unit, factor in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20)):
        if value >= factor:
            return f"{value / factor:.1f} {unit}".replace(".0 ", " ")
    return f"{value // 1024} KiB"


def size(host: Host) -> Finding:
    """Say how much memory there is and how much of it is free for guests."""
    memory = host.memory
    if memory.total is None or memory.available is None:
        return unknown("/proc/meminfo cannot be read")
    return info(f"{_size(memory.total)}, {_size(memory.available)} available")


def numa(host: Host) -> Finding:
    """Look at the nodes; CPUs without memory of their own are slow for every guest on them."""
    nodes = host.memory.nodes
    if not nodes:
        return unknown("no nodes under /sys/devices/system/node (a kernel without NUMA)")
    bare = tuple(str(node.id) for node in nodes if node.cpus and not node.memory)
    if bare:
        return warned(
            f"nodes with CPUs and no memory: {', '.join(bare)}",
            "memory on every node with CPUs",
            "spread the memory modules over all sockets",
        )
    if len(nodes) == 1:
        return info("1 node")
    far = max(max(node.distances, default=10) for node in nodes)
    listed = ", ".join(
        f"{node.id}: CPUs {node.cpus or '-'}, {_size(node.memory or 0)}" for node in nodes
    )
    return info(f"{len(nodes)} nodes, largest distance {far} ({listed})")


def hugepages(host: Host) -> Finding:
    """Say which pools of huge pages are reserved."""
    pools = host.memory.hugepages
    if pools is None:
        return unknown("no /sys/kernel/mm/hugepages (a kernel without hugetlbfs)")
    reserved = [pool for pool in pools if pool.total]
    sizes = ", ".join(_size(pool.size) for pool in pools)
    if not reserved:
        return info(f"none reserved (sizes: {sizes})" if sizes else "no page size supported")
    listed = ", ".join(f"{pool.total} of {_size(pool.size)}, {pool.free} free" for pool in reserved)
    uneven = _uneven(host)
    if uneven:
        return warned(
            f"{listed}; none on node {uneven}",
            "some on every node with memory",
            "reserve them per node: /sys/devices/system/node/node*/hugepages",
        )
    return info(listed)


def _uneven(host: Host) -> str:
    """Name nodes with memory that have no page of the pools although others have."""
    nodes = [node for node in host.memory.nodes or [] if node.memory]
    without = [str(node.id) for node in nodes if not any(pool.total for pool in node.hugepages)]
    told = any(node.hugepages for node in nodes)
    return ", ".join(without) if told and len(without) < len(nodes) else ""


def thp(host: Host) -> Finding:
    """See whether guests get large pages by themselves."""
    mode = host.memory.thp
    if mode is None:
        return unknown("no /sys/kernel/mm/transparent_hugepage/enabled on this kernel")
    if mode == "never":
        return info("never", "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled")
    return passed(mode)


def ksm(host: Host) -> Finding:
    """Say whether equal pages of guests are merged, and whether across nodes."""
    memory = host.memory
    if memory.ksm is None:
        return unknown(
            "no /sys/kernel/mm/ksm on this kernel"
            if memory.ksm_supported is False
            else "/sys/kernel/mm/ksm cannot be read"
        )
    if not memory.ksm:
        return info("off")
    if memory.ksm_across_nodes and len(memory.nodes or []) > 1:
        return warned(
            "on, and pages are merged across NUMA nodes",
            "merged within a node",
            "echo 2 > /sys/kernel/mm/ksm/run; echo 0 > /sys/kernel/mm/ksm/merge_across_nodes; "
            "echo 1 > /sys/kernel/mm/ksm/run",
        )
    return info(f"on, {memory.ksm_pages_sharing or 0} pages saved")


def swap(host: Host) -> Finding:
    """Say how much swap there is and is used."""
    memory = host.memory
    if memory.swap is None:
        return unknown("/proc/swaps cannot be read")
    if not memory.swap:
        return info("none")
    return info(
        f"{_size(memory.swap)}, {_size(memory.swap_used or 0)} used, swappiness {memory.swappiness}"
    )


CHECKS = (
    Check("memory.size", "Memory", "/proc/meminfo", levels("info unknown"), size),
    Check(
        "memory.numa",
        "NUMA",
        "/sys/devices/system/node",
        levels("warn info unknown"),
        numa,
        limit="guests on some CPUs reach memory slowly",
    ),
    Check(
        "memory.hugepages",
        "Huge pages",
        "/sys/kernel/mm/hugepages, /sys/devices/system/node/node*/hugepages",
        levels("warn info unknown"),
        hugepages,
        limit="guests on huge pages do not start on every node",
    ),
    Check(
        "memory.thp",
        "Transparent huge pages",
        "/sys/kernel/mm/transparent_hugepage",
        levels("pass info unknown"),
        thp,
    ),
    Check(
        "memory.ksm",
        "Same-page merging (KSM)",
        "/sys/kernel/mm/ksm",
        levels("warn info unknown"),
        ksm,
        limit="merged memory may be on a far node",
    ),
    Check(
        "memory.swap", "Swap", "/proc/swaps, /proc/sys/vm/swappiness", levels("info unknown"), swap
    ),
)
