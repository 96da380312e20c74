# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The addresses that a network of libvirt keeps for guests, from what is declared of them."""

from __future__ import annotations

from typing import Any, Iterator, Mapping, Sequence

from ..converge.errors import VirtfleetError, shown
from ..virt.identity import LOCAL, macs_for
from .spec import ABSENT, WAS


def _nics(spec: Mapping[str, Any], fleet: str) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Yield the NICs of a guest with the MACs that they state, or get when the guest is made.

    They follow from the name that it was made with.
    """
    nics = [nic for nic in spec.get("nics") or () if isinstance(nic, Mapping)]
    known = [str(nic["mac"]).lower() if nic.get("mac") else None for nic in nics]
    yield from zip(nics, macs_for(str(spec.get(WAS) or spec.get("name")), known, fleet))


def leases(specs: Sequence[Any], network: object, fleet: object = LOCAL) -> list[dict[str, str]]:
    """Return the hosts of a network's DHCP: mac, name and ip of each NIC that states a lease.

    VirtfleetError for an address that two of them state.
    """
    if not isinstance(network, str) or not network:
        raise VirtfleetError(f"expected the name of a network, found {shown(network)}")
    found: list[dict[str, str]] = []
    holders: dict[str, str] = {}
    for spec in specs:
        if not isinstance(spec, Mapping) or spec.get("state") == ABSENT:
            continue
        for nic, mac in _nics(spec, str(fleet)):
            if nic.get("network") != network or not nic.get("lease"):
                continue
            name, address = str(spec.get("name")), str(nic["lease"])
            if address in holders:
                raise VirtfleetError(
                    f"expected a lease for each guest, found {address} of {holders[address]} and"
                    f" {name}"
                )
            holders[address] = name
            found.append({"mac": mac, "name": name, "ip": address})
    return found
