# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a fleet's file says of hosts and guests that are there already."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("jsonschema", reason="a fleet is read on the controller alone")

from ansible.module_utils.fleet.imported import imported, is_connection


def guest(name: str, **more: Any) -> dict[str, Any]:
    spec = {"name": name, "engine": "libvirt", "memory": "1GiB", "autostart": True}
    base = {"name": name, "engine": "libvirt", "state": "running", "spec": spec, "owned": False}
    return {**base, "fleet": "", "problem": None, **more}


def test_guests_are_declared_as_they_are_where_they_are() -> None:
    hosts: dict[str, Any] = {
        "kvm1": {"variables": {"ansible_host": "192.0.2.1"}, "guests": [guest("web")]},
        "kvm2": {"variables": {}, "guests": [guest("db", state="stopped", owned=True, fleet="f")]},
    }
    data, notes = imported("f", hosts, adopted=False)
    assert data == {
        "plugin": "kvm_fleet",
        "fleet": "f",
        "hypervisors": {"kvm1": {"ansible_host": "192.0.2.1"}, "kvm2": None},
        "guests": {
            "web": {"host": "kvm1", "adopt": True, "memory": "1GiB", "autostart": True},
            "db": {"host": "kvm2", "state": "stopped", "memory": "1GiB", "autostart": True},
        },
    }
    assert notes == []
    assert "adopt" not in imported("f", hosts, adopted=True)[0]["guests"]["web"]


def test_what_cannot_be_declared_is_told() -> None:
    strange = [
        guest("Web_01"),
        guest("twin"),
        guest("theirs", owned=True, fleet="other"),
        guest("odd", problem="it is a link"),
        guest("lost", spec=None),
    ]
    hosts: dict[str, Any] = {
        "kvm1": {"variables": {}, "guests": strange},
        "kvm2": {"variables": {}, "guests": [guest("twin")]},
    }
    data, notes = imported("f", hosts, adopted=False)
    assert list(data["guests"]) == ["twin"]
    assert notes == [
        "Web_01 on kvm1: its name is none that a fleet can have",
        "theirs on kvm1: it belongs to the fleet other",
        "odd on kvm1: it is a link",
        "lost on kvm1: it has no definition",
        "twin on kvm2: kvm1 has a guest of that name",
    ]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ansible_host", True),
        ("ansible_ssh_private_key_file", True),
        ("ansible_ssh_pass", False),
        ("ansible_become_password", False),
        ("ansible_facts", False),
        ("kvm_guest_specs", False),
    ],
)
def test_of_a_connection_all_is_written_but_secrets(name: str, expected: bool) -> None:
    assert is_connection(name) is expected
