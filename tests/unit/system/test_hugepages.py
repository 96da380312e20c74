# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Huge pages: what a machine can have, and where its pools are counted."""

from __future__ import annotations

import pytest
from ansible.module_utils.system import hugepages
from ansible.module_utils.system.hugepages import Observed, Pool

MIB, GIB = 1 << 20, 1 << 30
HOST = Observed((2 * MIB, GIB), 8 * GIB, {0: 4 * GIB, 1: 4 * GIB})


def test_a_machine_is_read(tmp_path):
    for path, content in {
        "proc/meminfo": "MemTotal: 8388608 kB\n",
        "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages": "0",
        "sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages": "0",
        "sys/devices/system/node/node0/meminfo": "Node 0 MemTotal: 4194304 kB\n",
        "sys/devices/system/node/node1/meminfo": "Node 1 MemTotal: 4194304 kB\n",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content)
    assert hugepages.read(str(tmp_path)) == HOST


def test_a_kernel_without_huge_pages_is_no_error_here(tmp_path):
    observed = hugepages.read(str(tmp_path))
    assert observed == Observed()
    assert hugepages.check_known([Pool(GIB, 1, 3)], observed) == []


@pytest.mark.parametrize(
    ("pools", "observed", "paths"),
    [
        ([Pool(2 * MIB, 512), Pool(GIB, 2)], HOST, []),
        ([Pool(2 * MIB, 512, 0), Pool(GIB, 2, 0)], HOST, []),
        ([Pool(4 * MIB, 1)], HOST, ["hugepages[0].size"]),
        ([Pool(2 * MIB, 1), Pool(GIB, 1)], Observed((2 * MIB,), 8 * GIB), ["hugepages[1].size"]),
        ([Pool(GIB, 1, 2)], HOST, ["hugepages[0].node"]),
        ([Pool(GIB, 8)], HOST, ["hugepages"]),
        ([Pool(GIB, 2, 1), Pool(2 * MIB, 1024, 1)], HOST, ["hugepages"]),
        ([Pool(GIB, 3, 0), Pool(GIB, 3, 1)], HOST, []),
        ([Pool(GIB, 3, 0), Pool(2 * MIB, 3000)], HOST, ["hugepages"]),
        ([Pool(GIB, 100)], Observed((GIB,), None), []),
    ],
)
def test_what_the_machine_cannot_have_is_named(pools, observed, paths):
    assert [p.path for p in hugepages.check_known(pools, observed)] == paths


def test_a_missing_gigabyte_page_says_what_it_takes():
    (problem,) = hugepages.check_known([Pool(GIB, 1)], Observed((2 * MIB,), 8 * GIB))
    assert "pdpe1gb" in problem.remedy


def test_pools_stand_where_the_kernel_counts_them():
    found = hugepages.settings([Pool(2 * MIB, 8), Pool(GIB, 1, 1)])
    assert [(item.object, item.key, item.path, item.value) for item in found] == [
        (
            "hugepages/2MiB",
            "count",
            "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages",
            "8",
        ),
        (
            "hugepages/1GiB",
            "node1.count",
            "/sys/devices/system/node/node1/hugepages/hugepages-1048576kB/nr_hugepages",
            "1",
        ),
    ]
