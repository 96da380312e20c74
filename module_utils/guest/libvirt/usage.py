# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a running domain uses, from libvirt's counters (virConnectGetAllDomainStats)."""

from __future__ import annotations

from typing import Any, Mapping

_KIB = 1024
# Ours, and libvirt's; what a driver does not count is left out.
_MEMORY = {
    "current": "current",  # what the balloon leaves it
    "maximum": "maximum",
    "resident": "rss",  # what it takes of the host
    "available": "available",  # the rest is told by its own balloon driver
    "unused": "unused",
    "usable": "usable",
}
_DISK = {
    "read_bytes": "rd.bytes",
    "written_bytes": "wr.bytes",
    "reads": "rd.reqs",
    "writes": "wr.reqs",
    "capacity": "capacity",
    "allocated": "allocation",
    "physical": "physical",
}
_NIC = {
    "received_bytes": "rx.bytes",
    "sent_bytes": "tx.bytes",
    "received_packets": "rx.pkts",
    "sent_packets": "tx.pkts",
    "received_drops": "rx.drop",
    "sent_drops": "tx.drop",
}


def usage(stats: Mapping[str, Any]) -> dict[str, Any]:
    """Return seconds of CPU, bytes of memory, and what went through disks and NICs."""
    cpu = stats.get("cpu.time")
    return {
        "cpu_seconds": None if cpu is None else cpu / 1e9,
        "vcpus": {key: stats.get(f"vcpu.{key}") for key in ("current", "maximum")},
        "memory": {
            key: stats[f"balloon.{theirs}"] * _KIB
            for key, theirs in _MEMORY.items()
            if f"balloon.{theirs}" in stats
        },
        "disks": [
            {"target": stats.get(f"block.{n}.name"), **_counted(stats, f"block.{n}", _DISK)}
            for n in range(stats.get("block.count", 0))
        ],
        "nics": [
            {"target": stats.get(f"net.{n}.name"), **_counted(stats, f"net.{n}", _NIC)}
            for n in range(stats.get("net.count", 0))
        ],
    }


def _counted(stats: Mapping[str, Any], prefix: str, keys: Mapping[str, str]) -> dict[str, Any]:
    found = {key: stats.get(f"{prefix}.{theirs}") for key, theirs in keys.items()}
    return {key: value for key, value in found.items() if value is not None}
