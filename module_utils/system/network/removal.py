# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How interfaces of ours are taken away, and their ports get back what they had."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...converge.action import Change
from ..operation import Run
from .backend import ANY
from .part import Part
from .snapshot import add_address, add_route, flush_all, ip
from .spec import ETHERNET

if TYPE_CHECKING:
    from .ledger import Former, Ledger
    from .observe import Live
    from .spec import Interface


def give_back(name: str, former: Former | None) -> list[Run]:
    """Return the commands that make a former port what it was, but for what DHCP gave it."""
    if former is None:
        return []
    found = [
        ip("link", "set", "dev", name, "mtu", str(former.mtu)),
        ip("link", "set", "dev", name, "up" if former.up else "down"),
        *(add_address(name, address) for address in former.addresses),
    ]
    # A router may be out of reach by now, which is no reason to stop here.
    return [*found, *(Run(add_route(route).argv, ANY) for route in former.routes)]


def remove(interface: Interface, live: Live, ledger: Ledger) -> Part | None:
    """Return what takes an interface of ours away and gives its ports back; None if it is gone."""
    name = interface.name
    if name not in live.links:
        return None
    made = interface.type != ETHERNET
    operations: list[Run] = [ip("link", "delete", "dev", name)] if made else flush_all(name, live)
    returned = [name] if not made else [p for p in interface.ports or () if p in live.links]
    for port in returned:
        former = ledger.former.get(port)
        operations += give_back(port, former)
        operations += _leases(name, port, live) if made and former and former.dhcp else []
    changes = [Change("type", interface.type, None)] if made else []
    for port in returned:
        former = ledger.former.get(port)
        back = [address.cidr for address in former.addresses] if former else []
        if back:
            changes.append(Change(f"ports.{port}.addresses" if made else "addresses", [], back))
    return Part(
        name=name,
        action="delete" if made else "update",
        reason="it shall be absent" if made else "it goes back to what it was",
        changes=tuple(changes),
        operations=tuple(operations),
        touched=tuple(dict.fromkeys((name, *returned))),
        starts_dhcp=False,
        destructive=made,
    )


def _leases(name: str, port: str, live: Live) -> list[Run]:
    """Return the commands that give a lease to the port that it will be renewed on."""
    leases = [a for a in live.links[name].addresses if a.dynamic and a.family == 4]
    routes = [
        add_route({**route, "dev": port})
        for route in live.routes_of(name)
        if route["family"] == 4 and "nexthops" not in route
    ]
    return [
        *(add_address(port, lease) for lease in leases),
        *(Run(route.argv, ANY) for route in sorted(routes, key=lambda run: "via" in run.argv)),
    ]
