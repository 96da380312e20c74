# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whole tasks of ansible, from the start on a host to the result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from comparing import Playbook, report

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ROUNDS = 12
MANY = 100

pytestmark = pytest.mark.kvm


def _in_turn(
    playbook: Playbook, ours: dict[str, Any], peer: dict[str, Any]
) -> tuple[list[float], list[float]]:
    """Run both tasks in turn within one play; the first pair warms up."""
    times = playbook.times([peer, ours] * (ROUNDS + 1))
    return times[3::2], times[2::2]


def test_host_info_against_ping(playbook: Playbook) -> None:
    ours, peer = _in_turn(playbook, {"kvm_host_info": {}}, {"ansible.builtin.ping": {}})
    report(
        "one task on one host", "ms", ("kvm_host_info", ours), ("ansible.builtin.ping", peer), 1.5
    )


def _guests(root: Path, count: int, state: str) -> dict[str, Any]:
    guests = [
        {
            "name": f"g{number}",
            "engine": "ioctl",
            "memory": "2MiB",
            "kernel": "greeter",
            "state": state,
        }
        for number in range(count)
    ]
    return {"kvm_guests": {"root": str(root), "guests": guests}, "become": True}


@pytest.fixture
def hosts(playbook: Playbook, tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """Give two places with running guests, one and many, and take the guests away at the end."""
    few, many = tmp_path / "few", tmp_path / "many"
    counts = {few: 1, many: MANY}
    for root in counts:
        root.mkdir()
    try:
        for root, count in counts.items():
            helper = {"kvm_helper": {"root": str(root)}, "become": True}
            playbook.times([helper, _guests(root, count, "running")])
        yield few, many
    finally:
        playbook.times([_guests(root, count, "absent") for root, count in counts.items()])


def test_many_unchanged_guests_against_one(playbook: Playbook, hosts: tuple[Path, Path]) -> None:
    few, many = hosts
    ours, peer = _in_turn(playbook, _guests(many, MANY, "running"), _guests(few, 1, "running"))
    title = "kvm_guests, running and unchanged"
    report(title, "ms", (f"{MANY} guests", ours), ("1 guest", peer), 2.0)
