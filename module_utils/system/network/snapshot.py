# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The way back: the commands that make links what they were, whatever was done to them since.

Each can be run in any state, and one that fails does not keep the next from being tried.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Iterable, Mapping, Sequence

from ..operation import Run
from .backend import ANY
from .observe import FOREVER, TRUNK, announced, route_devices
from .order import ordered
from .spec import BOND, BRIDGE, VLAN

if TYPE_CHECKING:
    from .observe import Address, Link, Live


def ip(*argv: str) -> Run:
    """Return a command for iproute2."""
    return Run(("ip", *argv))


def onoff(value: bool | None) -> str:
    """Return a switch as ip(8) takes it."""
    return "1" if value else "0"


def add_link(link: Link) -> Run:
    """Return the command that makes a bridge, bond or VLAN of these properties."""
    mac: tuple[str, ...] = ("address", link.mac) if link.mac and link.kind != VLAN else ()
    if link.kind == BRIDGE:
        # A kernel may be without the filter: what is off is not named.
        filtering: tuple[str, ...] = ("vlan_filtering", "1") if link.vlan_filtering else ()
        stp = ("stp_state", onoff(link.stp))
        return ip("link", "add", "name", link.name, *mac, "type", BRIDGE, *filtering, *stp)
    if link.kind == BOND:
        bond = ("mode", link.mode or "balance-rr", "miimon", str(link.miimon or 0))
        return ip("link", "add", "name", link.name, *mac, "type", BOND, *bond)
    carrier = ("link", link.link or "", "name", link.name)
    return ip("link", "add", *carrier, "type", VLAN, "id", str(link.id))


def add_address(name: str, address: Address) -> Run:
    """Return the command that gives an interface an address as it was."""
    lifetimes: tuple[str, ...] = ()
    if address.valid != FOREVER:
        valid, preferred = str(address.valid), str(min(address.preferred, address.valid))
        lifetimes = ("valid_lft", valid, "preferred_lft", preferred)
    flags: tuple[str, ...] = ("noprefixroute",) if address.noprefixroute else ()
    # A host that had the address a moment ago need not ask whether somebody else has it.
    flags += ("nodad",) if address.family == 6 else ()
    return ip("address", "replace", address.cidr, "dev", name, *lifetimes, *flags)


def flush(name: str, protocols: Iterable[str]) -> list[Run]:
    """Return the commands that take an interface's addresses and routes, not the link's own.

    IPv4 routes go with the addresses, IPv6 routes of these protocols by themselves. Some may be
    gone while they are listed, which makes the command fail.
    """
    return [
        ip("address", "flush", "dev", name, "scope", "global"),
        ip("address", "flush", "dev", name, "scope", "site"),
        *(
            Run(("ip", "-6", "route", "flush", "dev", name, "proto", protocol), ANY)
            for protocol in protocols
        ),
    ]


def flush_all(name: str, live: Live) -> list[Run]:
    """Return the commands that take what the interface has now."""
    found = {str(r.get("protocol")) for r in live.routes_of(name) if r["family"] == 6}
    return flush(name, sorted(found & {"static", "boot", "ra"}))


def add_route(route: Mapping[str, Any]) -> Run:
    """Return the command that makes a route as ``ip`` showed it."""
    kind = route.get("type", "unicast")
    argv: list[str] = [f"-{route['family']}", "route", "replace"]
    argv += [kind] if kind != "unicast" else []
    argv += [str(route["dst"]), *_hop(route)]
    for key, word in (("prefsrc", "src"), ("metric", "metric"), ("scope", "scope")):
        # Linux has no scopes in IPv6: what is shown there cannot be given back.
        if key in route and not (key == "scope" and route["family"] == 6):
            argv += [word, str(route[key])]
    if "protocol" in route:
        argv += ["proto", str(route["protocol"])]
    if "expires" in route:
        argv += ["expires", str(int(route["expires"]))]
    for hop in route.get("nexthops", ()):
        argv += ["nexthop", *_hop(hop), "weight", str(hop.get("weight", 1))]
    return ip(*argv)


def _hop(hop: Mapping[str, Any]) -> list[str]:
    argv: list[str] = []
    via = hop.get("via")
    if isinstance(via, dict):  # a router of the other family
        argv += ["via", str(via["family"]), str(via["host"])]
    elif "gateway" in hop:
        argv += ["via", str(hop["gateway"])]
    if "dev" in hop:
        argv += ["dev", str(hop["dev"])]
    return [*argv, "onlink"] if "onlink" in hop.get("flags", ()) else argv


def routes(live: Live, names: Iterable[str]) -> list[Run]:
    """Return the commands that make the routes which a change of these interfaces can take away.

    Those are their own, and the default routes of others, which a new one replaces.
    """
    wanted = set(names)
    chosen = [
        route
        for route in live.routes
        if (wanted & route_devices(route) and not _automatic(route, live))
        or (route.get("dst") == "default" and not announced(route))
    ]
    found = sorted(chosen, key=lambda route: "gateway" in route or "nexthops" in route)
    return [add_route(route) for route in found]


def _automatic(route: Mapping[str, Any], live: Live) -> bool:
    """Return whether the kernel makes the route with an address; it would be there twice in IPv6.

    An address without its route (noprefixroute) has one by a daemon, which looks the same.
    """
    link = live.links.get(str(route.get("dev")))
    daemon = link is not None and any(address.noprefixroute for address in link.addresses)
    return route["family"] == 6 and route.get("protocol") == "kernel" and not daemon


def settings(link: Link) -> list[Run]:
    """Return the commands that give an existing link its properties, but for addresses."""
    name = link.name
    found = [ip("link", "set", "dev", name, "mtu", str(link.mtu))]
    if link.kind == BRIDGE:
        found.append(ip("link", "set", "dev", name, "type", BRIDGE, "stp_state", onoff(link.stp)))
        argv = ("ip", "link", "set", "dev", name, "type", BRIDGE, "vlan_filtering")
        # A kernel without the filter refuses even that it be off.
        ok = (0,) if link.vlan_filtering else ANY
        found.append(Run((*argv, onoff(link.vlan_filtering)), ok))
    if link.kind == BOND:
        miimon = str(link.miimon or 0)
        found.append(ip("link", "set", "dev", name, "type", BOND, "miimon", miimon))
    return found


def enslave(link: Link, live: Live) -> list[Run]:
    """Return the commands that make a link a port again."""
    master = live.links.get(link.master or "")
    if master is None:
        return []
    found = [ip("link", "set", "dev", link.name, "master", master.name)]
    if master.kind == BOND:  # it takes only ports that are down
        found.insert(0, ip("link", "set", "dev", link.name, "down"))
    if master.vlan_filtering and link.carries(TRUNK):
        found.append(trunk(link.name))
    return found


def trunk(name: str) -> Run:
    """Return the command that lets all VLANs pass a bridge's port, with their tags."""
    vids = f"{TRUNK[0]}-{TRUNK[1]}"
    return Run(("bridge", "vlan", "add", "dev", name, "vid", vids))


def former(
    live: Live, touched: Iterable[str], made: Sequence[str] = (), deleted: Iterable[str] = ()
) -> list[Run]:
    """Return the commands that undo a change which touched, made and deleted these links."""
    gone = set(deleted)
    names = sorted({name for name in touched if name in live.links} | gone)
    # A change that failed early has not made all of them.
    found = [Run(("ip", "link", "delete", "dev", name), ANY) for name in reversed(made)]
    order = ordered({name: _below(live, name) for name in names})
    # A manager may have made it again already; where nobody could, all that follows tells it.
    found += [Run(add_link(live.links[name]).argv, ANY) for name in order if name in gone]
    for name in order:
        link = live.links[name]
        if name in gone:
            found += [*enslave(link, live), ip("link", "set", "dev", name, "mtu", str(link.mtu))]
        else:
            found += [] if link.master else [ip("link", "set", "dev", name, "nomaster")]
            found += [*enslave(link, live), *settings(link), *flush(name, ["boot"])]
        found.append(ip("link", "set", "dev", name, "up" if link.up else "down"))
        found += [add_address(name, address) for address in link.addresses]
    return found + routes(live, names)


def _below(live: Live, name: str) -> list[str]:
    """Return what a link needs to be there: its master, and what carries it."""
    link = live.links[name]
    return [other for other in (link.master, link.link) if other]
