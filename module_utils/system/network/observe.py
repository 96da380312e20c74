# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the host's network is now: links, addresses, routes, who manages them.

Sources: ``ip -json -details address``, ``ip -json route``, ``bridge -json vlan`` (iproute2).
"""

from __future__ import annotations

import ipaddress
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Mapping, Sequence

from ...converge.errors import VirtfleetError
from .spec import MODES

if TYPE_CHECKING:
    from ..operation import Runner

FOREVER = 4294967295  # the lifetime of an address that does not end
TRUNK = (2, 4094)  # the VLANs that a port of a VLAN-filtering bridge carries with their tags


@dataclass(frozen=True)
class Address:
    """One address of global scope; lifetimes in seconds, FOREVER without an end."""

    cidr: str
    dynamic: bool = False
    valid: int = FOREVER
    preferred: int = FOREVER
    noprefixroute: bool = False
    generated: bool = False  # by the kernel, from a router's advertisement

    @property
    def family(self) -> int:
        """4 or 6."""
        return 6 if ":" in self.cidr else 4


@dataclass(frozen=True)
class Link:
    """One interface. ``max_mtu`` 0 is without a limit."""

    name: str
    kind: str  # bridge, bond, vlan, another of the kernel's, or "" for a device
    index: int = 0
    up: bool = False
    mac: str = ""
    mtu: int = 1500
    max_mtu: int = 0
    master: str | None = None
    link: str | None = None
    id: int | None = None
    vlan_filtering: bool | None = None
    stp: bool | None = None
    mode: str | None = None
    miimon: int | None = None
    addresses: tuple[Address, ...] = ()
    vlans: tuple[tuple[int, int], ...] = ()

    def carries(self, vlan: tuple[int, int]) -> bool:
        """Return whether all of these VLANs may pass here, by a bridge's filter."""
        return any(low <= vlan[0] and vlan[1] <= high for low, high in self.vlans)


@dataclass(frozen=True)
class Live:
    """The kernel's view; routes are those of the main table, as ``ip`` shows them."""

    links: Mapping[str, Link] = field(default_factory=dict)
    routes: tuple[Mapping[str, Any], ...] = ()

    def ports(self, name: str) -> list[str]:
        """Return the ports of a bridge or bond."""
        return sorted(link.name for link in self.links.values() if link.master == name)

    def routes_of(self, name: str) -> list[Mapping[str, Any]]:
        """Return the routes that leave through an interface."""
        return [route for route in self.routes if name in route_devices(route)]

    def gateways(self, name: str) -> list[str]:
        """Return the routers that default routes through this interface name.

        Those that announced themselves come and go, and nobody states them.
        """
        return [
            route["gateway"]
            for route in self.routes_of(name)
            if route.get("dst") == "default" and "gateway" in route and not announced(route)
        ]


def announced(route: Mapping[str, Any]) -> bool:
    """Return whether the route comes from a router's advertisement."""
    return route.get("protocol") == "ra"


def route_devices(route: Mapping[str, Any]) -> set[str]:
    """Return the interfaces that a route names."""
    hops = [route, *route.get("nexthops", [])]
    return {hop["dev"] for hop in hops if "dev" in hop}


def _json(run: Runner, argv: Sequence[str]) -> list[dict[str, Any]]:
    status, out, error = run(argv)
    if status != 0:
        command = " ".join(argv)
        raise VirtfleetError(
            f"{command} ended with status {status}: {error.strip() or 'no message'}",
            remedy="expected iproute2 4.20 or newer and its privileges",
        )
    found = json.loads(out or "[]")
    return [entry for entry in found if entry]


def read(run: Runner) -> Live:
    """Return the kernel's view."""
    routes = [
        {**route, "family": family}
        for family in (4, 6)
        for route in _json(run, ("ip", "-json", "-details", f"-{family}", "route", "show"))
    ]
    links = {}
    entries = _json(run, ("ip", "-json", "-details", "address", "show"))
    filters = any(_info(entry).get("vlan_filtering") for entry in entries)
    vlans = _vlans(_json(run, ("bridge", "-json", "vlan", "show"))) if filters else {}
    for entry in entries:
        link = _link(entry, vlans)
        links[link.name] = link
    return Live(links, tuple(routes))


def _info(entry: Mapping[str, Any]) -> dict[str, Any]:
    found = entry.get("linkinfo", {}).get("info_data", {})
    return found if isinstance(found, dict) else {}


def _vlans(entries: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[int, int]]]:
    return {
        entry["ifname"]: _joined((v["vlan"], v.get("vlanEnd", v["vlan"])) for v in entry["vlans"])
        for entry in entries
    }


def _joined(ranges: Any) -> list[tuple[int, int]]:
    """Return ranges with those joined that follow on each other."""
    found: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if found and low <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(high, found[-1][1]))
        else:
            found.append((low, high))
    return found


def _link(entry: Mapping[str, Any], vlans: Mapping[str, list[tuple[int, int]]]) -> Link:
    kind = entry.get("linkinfo", {}).get("info_kind", "")
    info = _info(entry)
    return Link(
        name=entry["ifname"],
        kind=kind,
        index=entry.get("ifindex", 0),
        up="UP" in entry.get("flags", ()),
        mac=entry.get("address", ""),
        mtu=entry.get("mtu", 1500),
        max_mtu=entry.get("max_mtu", 0),
        master=entry.get("master"),
        link=entry.get("link"),
        id=info.get("id") if kind == "vlan" else None,
        vlan_filtering=_switch(info.get("vlan_filtering")) if kind == "bridge" else None,
        stp=_switch(info.get("stp_state")) if kind == "bridge" else None,
        mode=_mode(info.get("mode")) if kind == "bond" else None,
        miimon=info.get("miimon") if kind == "bond" else None,
        addresses=tuple(
            _address(found)
            for found in entry.get("addr_info", ())
            if found.get("scope") in {"global", "site"}
        ),
        vlans=tuple(vlans.get(entry["ifname"], ())),
    )


def _switch(value: Any) -> bool | None:
    """Return a switch that ip(8) shows as a number: a bridge that runs STP in user space has 2."""
    return bool(value) if isinstance(value, int) else None


def _mode(value: Any) -> str | None:
    """Return a bond's mode by its name; bonding.rst numbers them in this order."""
    if isinstance(value, int) and value < len(MODES):
        return MODES[value]
    return value if isinstance(value, str) else None


def _address(entry: Mapping[str, Any]) -> Address:
    # Not only the canonical form: a host's own address keeps its host bits.
    local = ipaddress.ip_address(entry["local"])
    dynamic = bool(entry.get("dynamic"))
    return Address(
        cidr=f"{local}/{entry['prefixlen']}",
        dynamic=dynamic,
        valid=entry.get("valid_life_time", FOREVER),
        preferred=entry.get("preferred_life_time", FOREVER),
        noprefixroute=bool(entry.get("noprefixroute")),
        generated=local.version == 6 and bool(entry.get("mngtmpaddr") or entry.get("temporary")),
    )
