# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""UUIDs and MACs that follow from names: the same in every run, different in every fleet."""

from __future__ import annotations

import uuid
from hashlib import sha256
from typing import Collection, Sequence

LOCAL = "local"  # the fleet of what belongs to none


def uuid_for(name: str, fleet: str = LOCAL, kind: str = "guest") -> str:
    """Return the UUID (RFC 4122, version 5) of an object that is made."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"virtfleet:{fleet}/{kind}/{name}"))


def mac_for(name: str, nic: int, fleet: str = LOCAL, taken: Collection[str] = ()) -> str:
    """Return the MAC of a guest's NIC: locally administered, unicast, none of the taken ones."""
    text = f"virtfleet:{fleet}/guest/{name}/nic/{nic}"
    attempt = 0
    while True:
        again = f"/{attempt}" if attempt else ""
        octets = sha256(f"{text}{again}".encode()).digest()[:5]
        found = ":".join(f"{octet:02x}" for octet in (2, *octets))
        if found not in taken:
            return found
        attempt += 1


def macs_for(
    name: str, known: Sequence[str | None], fleet: str = LOCAL, taken: Collection[str] = ()
) -> list[str]:
    """Return the MACs of a guest's NICs in order: those that are ``known``, and new ones."""
    used = {*taken, *(mac for mac in known if mac)}
    found = []
    for number, mac in enumerate(known):
        found.append(mac or mac_for(name, number, fleet, used))
        used.add(found[-1])
    return found
