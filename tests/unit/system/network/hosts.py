# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hosts of the tests' own making: links, routes and files as data."""

from __future__ import annotations

from ansible.module_utils.system.network.ifupdown import Ifupdown
from ansible.module_utils.system.network.ledger import Ledger
from ansible.module_utils.system.network.observe import Address, Link, Live
from ansible.module_utils.system.network.plan import Observed, Request
from ansible.module_utils.system.network.spec import Interface

INTERFACES = "auto lo\niface lo inet loopback\n\nsource /etc/network/interfaces.d/*\n"


def link(name, **more):
    addresses = tuple(Address(a) if isinstance(a, str) else a for a in more.pop("addresses", ()))
    values = {"kind": "", "up": True, "mac": f"02:00:00:00:00:{len(name):02x}", **more}
    return Link(name=name, addresses=addresses, **values)


def route(dst, dev, gateway=None, **more):
    found = {"family": 6 if ":" in f"{dst}{gateway}" else 4, "dst": dst, "dev": dev, **more}
    return {**found, "gateway": gateway} if gateway else found


def live(*links, routes=()):
    return Live({item.name: item for item in links}, tuple(routes))


def host(*links, routes=(), ledger=None, files=None, backend=None, resolver=True):
    found = {"/etc/network/interfaces": INTERFACES} if files is None else files
    return Observed(
        backend=backend or Ifupdown("dhclient"),
        live=live(*links, routes=routes),
        ledger=ledger or Ledger(),
        files=found,
        resolver=resolver,
    )


def request(*interfaces, **more):
    made = tuple(Interface.from_dict(interface) for interface in interfaces)
    return Request(interfaces=made, host="kvm1", **more)


def with_eth0(**more):
    """Return a host whose one device has an address and the default route."""
    routes = [
        route("default", "eth0", "192.0.2.1", protocol="boot"),
        route("192.0.2.0/24", "eth0", protocol="kernel", scope="link"),
    ]
    return host(link("eth0", addresses=["192.0.2.5/24"]), routes=routes, **more)


BR0 = {
    "name": "br0",
    "type": "bridge",
    "ports": ["eth0"],
    "addresses": ["192.0.2.5/24"],
    "gateway": ["192.0.2.1"],
}


def commands(operations):
    return [" ".join(o.argv) for o in operations if hasattr(o, "argv")]


def writes(operations):
    return {o.path: o.content for o in operations if hasattr(o, "path")}
