# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What differs between an interface as stated and as it is, and the commands that make it so."""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Collection, Mapping, Sequence

from ...converge.action import Change
from ...converge.compare import compare
from ..operation import Run
from . import removal
from .addressing import canonical
from .backend import ANY
from .observe import TRUNK, Link, Live
from .part import Part
from .snapshot import add_link, flush_all, ip, onoff, trunk
from .spec import BOND, BRIDGE, VLAN, Interface

if TYPE_CHECKING:
    from .ledger import Ledger

_KINDS = {BRIDGE: "bridge", BOND: "bond", VLAN: "vlan"}


def _sorted(addresses: Sequence[str]) -> list[str]:
    return sorted(canonical(address) for address in addresses)


def _static(link: Link) -> list[str]:
    return sorted(a.cidr for a in link.addresses if not a.dynamic and not a.generated)


def leased(link: Link) -> bool:
    """Return whether DHCP gave the interface an address."""
    return any(a.dynamic and a.family == 4 for a in link.addresses)


def stated(interface: Interface) -> dict[str, Any]:
    """Return the values that can be compared with what is live, in one form."""
    found: dict[str, Any] = {
        key: getattr(interface, key)
        for key in ("vlan_filtering", "stp", "mode", "miimon", "mtu", "link", "id", "dhcp")
    }
    found["ports"] = None if interface.ports is None else sorted(interface.ports)
    if interface.addresses is not None:
        found["addresses"] = _sorted(interface.addresses)
    if interface.gateway is not None:
        found["gateway"] = sorted(str(ipaddress.ip_address(g)) for g in interface.gateway)
    return {key: value for key, value in found.items() if value is not None}


def observed(interface: Interface, live: Live, earlier: Interface | None) -> dict[str, Any]:
    """Return the live values; ports of others, such as those of guests, are none of ours."""
    link = live.links[interface.name]
    ours = {*(interface.ports or ()), *((earlier.ports or ()) if earlier else ())}
    found: dict[str, Any] = {
        key: getattr(link, key)
        for key in ("vlan_filtering", "stp", "mode", "miimon", "mtu", "link", "id")
    }
    found["ports"] = [port for port in live.ports(link.name) if port in ours]
    found["addresses"] = _static(link)
    found["gateway"] = sorted(live.gateways(link.name))
    found["dhcp"] = leased(link)
    return found


def _port_changes(interface: Interface, live: Live) -> list[Change]:
    """Return what differs at the ports themselves: addresses, size, VLANs."""
    found = []
    for port in interface.ports or ():
        link = live.links.get(port)
        if link is None:
            continue
        addresses = [a.cidr for a in link.addresses if not a.generated]
        if addresses:
            found.append(Change(f"ports.{port}.addresses", addresses, []))
        if interface.mtu is not None and link.mtu < interface.mtu:
            found.append(Change(f"ports.{port}.mtu", link.mtu, interface.mtu))
        if interface.vlan_filtering and not link.carries(TRUNK):
            low, high = TRUNK
            found.append(Change(f"ports.{port}.vlans", None, f"{low}-{high}"))
    return found


def _carried(interface: Interface, live: Live) -> bool:
    """Return whether a VLAN may pass at the bridge that carries it."""
    carrier = live.links.get(interface.link or "")
    vid = interface.id or 0
    return carrier is not None and carrier.carries((vid, vid))


def plan(
    interface: Interface, live: Live, ledger: Ledger, filtering: Collection[str] = ()
) -> Part | None:
    """Return what is to be done for an interface that shall be there; None if nothing is.

    ``filtering`` names the bridges that will filter by VLAN.
    """
    earlier = ledger.get(interface.name)
    link = live.links.get(interface.name)
    values = stated(interface)
    before = {} if link is None else observed(interface, live, earlier)
    changes = compare(values, before)
    if link is None:
        # What nobody has is no change: a new interface has neither addresses nor DHCP.
        changes = [change for change in changes if change.after not in ([], False)]
    changes += _port_changes(interface, live)
    vid = interface.id or 0
    if interface.link in filtering and not _carried(interface, live):
        changes.append(Change("vlans", None, vid))
    if link is not None and not changes:
        return None
    paths = {change.path for change in changes}
    released = _released(interface, before)
    operations = [] if link is not None else [_create(interface)]
    operations += _settings(interface, paths) if link is not None else []
    for port in released:
        operations += [ip("link", "set", "dev", port, "nomaster")]
        operations += removal.give_back(port, ledger.former.get(port))
    operations += _ports(interface, live, paths, before)
    operations += _addresses(interface, link, before, paths)
    if "vlans" in paths:
        argv = ("bridge", "vlan", "add", "dev", interface.link or "", "vid", str(vid), "self")
        operations.append(Run(argv))
    names = sorted(path for path in paths if path.count(".") == 0)
    reason = "it is missing" if link is None else f"{', '.join(names) or 'its ports'} differs"
    return Part(
        name=interface.name,
        action="create" if link is None else "update",
        reason=reason,
        changes=tuple(changes),
        operations=tuple(operations),
        touched=(interface.name, *interface.uses, *released),
        starts_dhcp=bool(interface.dhcp) and "dhcp" in paths,
        made=link is None,
    )


def _released(interface: Interface, before: Mapping[str, Any]) -> list[str]:
    wanted = interface.ports
    return [] if wanted is None else [p for p in before.get("ports", ()) if p not in wanted]


def _create(interface: Interface) -> Run:
    return add_link(
        Link(
            name=interface.name,
            kind=_KINDS[interface.type],
            mac=interface.mac or "",
            link=interface.link,
            id=interface.id,
            vlan_filtering=interface.vlan_filtering,
            stp=interface.stp,
            mode=interface.mode,
            miimon=interface.miimon,
        )
    )


def _settings(interface: Interface, paths: set[str]) -> list[Run]:
    """Return the commands for what can be changed while the link is there."""
    values = {
        "vlan_filtering": ("vlan_filtering", onoff(interface.vlan_filtering)),
        "stp": ("stp_state", onoff(interface.stp)),
        "miimon": ("miimon", str(interface.miimon)),
    }
    return [
        ip("link", "set", "dev", interface.name, "type", interface.type, *argv)
        for key, argv in values.items()
        if key in paths
    ]


def _ports(
    interface: Interface, live: Live, paths: set[str], before: Mapping[str, Any]
) -> list[Run]:
    found: list[Run] = []
    for port in interface.ports or ():
        link = live.links.get(port)
        missing = port not in before.get("ports", ())
        if f"ports.{port}.addresses" in paths or (missing and link is not None):
            found += flush_all(port, live)
        if missing:
            if interface.type == BOND:  # it takes only ports that are down
                found.append(ip("link", "set", "dev", port, "down"))
            found.append(ip("link", "set", "dev", port, "master", interface.name))
        if interface.mtu and (link is None or f"ports.{port}.mtu" in paths):
            found.append(ip("link", "set", "dev", port, "mtu", str(interface.mtu)))
        if interface.vlan_filtering and (missing or f"ports.{port}.vlans" in paths):
            found.append(trunk(port))
        if missing:
            found.append(ip("link", "set", "dev", port, "up"))
    return found


def _addresses(
    interface: Interface, link: Link | None, before: Mapping[str, Any], paths: set[str]
) -> list[Run]:
    name = interface.name
    found: list[Run] = []
    if "mtu" in paths:
        found.append(ip("link", "set", "dev", name, "mtu", str(interface.mtu)))
    if link is None or not link.up:
        found.append(ip("link", "set", "dev", name, "up"))
    if "dhcp" in paths and link is not None and not interface.dhcp:
        leases = [a.cidr for a in link.addresses if a.dynamic and a.family == 4]
        found += [ip("address", "delete", lease, "dev", name) for lease in leases]
    if "addresses" in paths:
        wanted, had = _sorted(interface.addresses or ()), before.get("addresses", [])
        # First the new ones: a route may need an address at any moment. Once more afterwards, since
        # an address that goes takes the others of its subnet along (promote_secondaries is 0).
        gone = [a for a in had if a not in wanted]
        found += [ip("address", "replace", a, "dev", name) for a in wanted if a not in had]
        found += [ip("address", "delete", a, "dev", name) for a in gone]
        found += [ip("address", "replace", a, "dev", name) for a in wanted if gone]
    if paths & {"gateway", "addresses", "dhcp"} and interface.gateway is not None:
        found += _gateways(interface, before.get("gateway", []))
    return found


def _gateways(interface: Interface, had: Sequence[str]) -> list[Run]:
    """Return the commands for the default routes: changed addresses may have taken them along."""
    wanted = stated(interface)["gateway"]
    argv = ("dev", interface.name)
    gone = [
        Run(("ip", _family(g), "route", "delete", "default", "via", g, *argv), ANY)
        for g in had
        if g not in wanted
    ]
    return [
        *(ip(_family(g), "route", "replace", "default", "via", g, *argv) for g in wanted),
        *gone,
    ]


def _family(address: str) -> str:
    return "-6" if ":" in address else "-4"


def without(live: Live, names: set[str]) -> Live:
    """Return what is live as if these links were deleted, and with them the VLANs on them."""
    gone = set(names)
    while True:
        more = {
            link.name for link in live.links.values() if link.kind == VLAN and link.link in gone
        }
        if more <= gone:
            break
        gone |= more
    links = {
        name: replace(link, master=None) if link.master in gone else link
        for name, link in live.links.items()
        if name not in gone
    }
    routes = tuple(r for r in live.routes if r.get("dev") not in gone)
    return Live(links, routes)


def replaced(interface: Interface, live: Live) -> list[Change]:
    """Return what differs and can be changed only by making the link anew."""
    link = live.links.get(interface.name)
    if link is None:
        return []
    fixed = {key: v for key, v in stated(interface).items() if key in {"mode", "link", "id"}}
    return compare(fixed, {"mode": link.mode, "link": link.link, "id": link.id})
