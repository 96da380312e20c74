# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A fleet of two hosts, to be changed by the tests."""

from __future__ import annotations

import json
from typing import Any

BASE: dict[str, Any] = {
    "plugin": "kvm_fleet",
    "fleet": "test",
    "hypervisors": {"kvm1": None, "kvm2": {"groups": ["rack_b"], "ansible_host": "192.0.2.2"}},
    "networks": {"lan": {"mode": "bridge", "bridge": "br0"}, "inner": {"mode": "nat"}},
    "pools": {"local": {"type": "dir", "path": "/srv/images/"}},
    "images": {"debian-12": None},
    "sizes": {"small": {"vcpus": 1, "memory": "1GiB", "disk": "10GiB"}},
    "guests": {},
}


def written(**sections: Any) -> list[tuple[str, bytes]]:
    """Return a fleet's file, with sections that take the place of the base's."""
    return [("fleet.yml", json.dumps({**BASE, **sections}, indent=1).encode())]
