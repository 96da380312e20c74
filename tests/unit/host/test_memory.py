# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""NUMA, huge pages, KSM, THP and swap from made trees."""

from __future__ import annotations

from ansible.module_utils.host.probes import memory

MIB = 1 << 20
NODES = "/sys/devices/system/node"


def node(number, cpus, total, distances, pages):
    folder = f"{NODES}/node{number}"
    pool = f"{folder}/hugepages/hugepages-2048kB"
    return {
        f"{folder}/cpulist": f"{cpus}\n",
        f"{folder}/meminfo": f"Node {number} MemTotal: {total} kB\nNode {number} MemFree: 1024 kB",
        f"{folder}/distance": f"{distances}\n",
        f"{pool}/nr_hugepages": f"{pages}\n",
        f"{pool}/free_hugepages": f"{pages}\n",
    }


def test_two_nodes(tree):
    files = {**node(0, "0-3", 2048, "10 21", 4), **node(1, "4-7", 4096, "21 10", 0)}
    found = memory.probe(tree({**files, f"{NODES}/has_cpu": "0-1", f"{NODES}/node10/cpulist": ""}))
    first, second, tenth = found.nodes
    assert (first.id, first.cpus, first.memory, first.free) == (0, "0-3", 2 * MIB, MIB)
    assert first.distances == [10, 21]
    assert [(pool.size, pool.total) for pool in first.hugepages] == [(2 * MIB, 4)]
    assert (second.id, second.memory) == (1, 4 * MIB)
    assert (tenth.id, tenth.cpus, tenth.memory, tenth.distances) == (10, "", None, [])
    assert memory.cpus_of(second) == [4, 5, 6, 7]


def test_pools_in_order_of_size(tree):
    pools = "/sys/kernel/mm/hugepages"
    files = {
        f"{pools}/hugepages-1048576kB/nr_hugepages": "2\n",
        f"{pools}/hugepages-1048576kB/free_hugepages": "1\n",
        f"{pools}/hugepages-2048kB/nr_hugepages": "0\n",
        f"{pools}/other": None,
    }
    found = memory.probe(tree(files)).hugepages
    assert [(pool.size, pool.total, pool.free) for pool in found] == [
        (2 * MIB, 0, None),
        (1024 * MIB, 2, 1),
    ]


def test_settings(tree):
    mm = "/sys/kernel/mm"
    swaps = (
        "Filename Type Size Used Priority\n"
        "/dev/dm-1 partition 1024 512 -2\n"
        "/swap\\040file file 1024 0 -3\n"
    )
    files = {
        "/proc/meminfo": "MemTotal: 2048 kB\nMemAvailable: 1024 kB\nHugePages_Total: 0\n",
        "/proc/swaps": swaps,
        "/proc/sys/vm/swappiness": "60\n",
        f"{mm}/ksm/run": "1\n",
        f"{mm}/ksm/merge_across_nodes": "0\n",
        f"{mm}/ksm/pages_sharing": "77\n",
        f"{mm}/transparent_hugepage/enabled": "always [madvise] never\n",
        f"{mm}/transparent_hugepage/defrag": "always defer [defer+madvise] madvise never\n",
    }
    found = memory.probe(tree(files))
    assert (found.total, found.available) == (2 * MIB, MIB)
    assert (found.swap, found.swap_used, found.swappiness) == (2 * MIB, MIB // 2, 60)
    assert (found.ksm, found.ksm_across_nodes, found.ksm_pages_sharing) == (True, False, 77)
    assert (found.thp, found.thp_defrag, found.ksm_supported) == ("madvise", "defer+madvise", True)


def test_nothing_is_there(tmp_path):
    found = memory.probe(str(tmp_path))
    assert all(getattr(found, name) is None for name in found.__dataclass_fields__)
