# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a domain uses, from counters as libvirt gives them (virsh domstats of a running guest)."""

from __future__ import annotations

from ansible.module_utils.guest.libvirt.usage import usage

STATS = {
    "state.state": 1,
    "cpu.time": 12_500_000_000,
    "balloon.current": 262144,
    "balloon.maximum": 524288,
    "balloon.rss": 101376,
    "vcpu.current": 1,
    "vcpu.maximum": 3,
    "net.count": 1,
    "net.0.name": "vnet0",
    "net.0.rx.bytes": 7,
    "net.0.tx.bytes": 9,
    "block.count": 2,
    "block.0.name": "vda",
    "block.0.rd.bytes": 4096,
    "block.0.capacity": 67108864,
    "block.1.name": "sda",
}


def test_counters_become_amounts_of_things():
    found = usage(STATS)
    assert found["cpu_seconds"] == 12.5
    assert found["vcpus"] == {"current": 1, "maximum": 3}
    assert found["memory"] == {"current": 256 << 20, "maximum": 512 << 20, "resident": 99 << 20}
    assert found["disks"] == [
        {"target": "vda", "read_bytes": 4096, "capacity": 64 << 20},
        {"target": "sda"},
    ]
    assert found["nics"] == [{"target": "vnet0", "received_bytes": 7, "sent_bytes": 9}]


def test_a_driver_that_counts_nothing_says_nothing():
    found = usage({"state.state": 1})
    assert found["cpu_seconds"] is None
    assert (found["memory"], found["disks"], found["nics"]) == ({}, [], [])
