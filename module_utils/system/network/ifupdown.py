# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""ifupdown (interfaces(5)): one file of ours, made of ip commands, which need no other package.

ifupdown reads files at boot and when it is called, so nothing has to be told to it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Iterable, Iterator, Mapping, Sequence

from ..operation import Run
from . import stanzas
from .backend import ANY, IFUPDOWN, MARK, Backend, Foreign, require_ours
from .observe import TRUNK
from .spec import BOND, BRIDGE, ETHERNET, VLAN

if TYPE_CHECKING:
    from ..operation import Operation
    from .backend import Edits, File, Files, Telling
    from .spec import Interface

MAIN = "/etc/network/interfaces"
FOLDER = "/etc/network/interfaces.d"
OURS = f"{FOLDER}/virtfleet"
_SOURCE = re.compile(
    rf"^\s*(source\s+{FOLDER}/(\*|virtfleet)|source-directory\s+{FOLDER}/?"
    r"|source\s+interfaces\.d/\*|source-directory\s+interfaces\.d/?)\s*$",
    re.MULTILINE,
)


class Ifupdown(Backend):
    """ifupdown, with the DHCP client that the host has: dhclient, dhcpcd or None."""

    name = IFUPDOWN

    def __init__(self, client: str | None) -> None:
        self._client = client

    def paths(self, found: Files) -> list[str]:
        """Return those of the files that are ours."""
        if OURS in found:
            require_ours(OURS, found[OURS])
        return [OURS] if OURS in found else []

    def render(self, interfaces: Sequence[Interface]) -> dict[str, File]:
        """Return our file, or none for no interfaces."""
        if not interfaces:
            return {}
        parts = ["\n".join(_stanza(interface, interfaces)) for interface in interfaces]
        return {OURS: (MARK + "\n" + "\n\n".join(parts) + "\n", 0o644)}

    def foreign(self, found: Files, names: Sequence[str], macs: Mapping[str, str]) -> Foreign:
        """Return the stanzas of other files for these interfaces."""
        del macs
        claims: dict[str, str] = {}
        edits: Edits = {}
        for path, content in _others(found):
            claimed = [name for name in names if stanzas.claims(content, name)]
            claims.update({name: path for name in claimed if name not in claims})
            if claimed:
                edits[path] = stanzas.take(content, claimed)
        if not _SOURCE.search(found.get(MAIN, "")):
            # Without this line ifupdown would never see our file.
            claims.setdefault(f"source {OURS}", MAIN)
            edits[MAIN] = stanzas.take_source(edits.get(MAIN) or found.get(MAIN, ""), OURS)
        return Foreign(claims, edits)

    def disown(self, found: Files, names: Sequence[str], *, last: bool) -> Edits:
        """Return the edits that give the stanzas of these interfaces back."""
        edits: Edits = {
            path: stanzas.give_back(content, names, source=last) for path, content in _others(found)
        }
        return {path: text for path, text in edits.items() if text != found[path]}

    def before(self, telling: Telling) -> list[Operation]:
        """Return the commands that end the DHCP clients of these interfaces, keeping the lease."""
        if self._client == "dhclient":
            return [Run(("dhclient", "-x", *_dhclient(name)), ANY) for name in telling.leased]
        if self._client == "dhcpcd":
            return [Run(("dhcpcd", "-x", name), ANY) for name in telling.leased]
        return []

    def _start(self, name: str) -> Run:
        if self._client == "dhcpcd":
            return Run(("dhcpcd", "--waitip=4", "--timeout", "20", name))
        return Run(("dhclient", "-1", "-4", *_dhclient(name)))

    def live(self, telling: Telling) -> list[Operation]:
        """Return the commands that ask for addresses."""
        return [self._start(name) for name in telling.started]

    def resume(self, telling: Telling) -> list[Operation]:
        """Return the commands that start the DHCP clients again."""
        return [Run(self._start(name).argv, ANY) for name in telling.leased]


def _dhclient(name: str) -> tuple[str, ...]:
    """Return the arguments with which ifupdown starts dhclient, so that it can end it as well."""
    lease = f"/var/lib/dhcp/dhclient.{name}.leases"
    return ("-pf", f"/run/dhclient.{name}.pid", "-lf", lease, name)


def _others(found: Files) -> Iterator[tuple[str, str]]:
    for path in sorted(found):
        if path == MAIN or (path.startswith(f"{FOLDER}/") and path != OURS):
            yield path, found[path]


def _stanza(interface: Interface, everything: Sequence[Interface]) -> Iterator[str]:
    """Yield the lines of one interface: first how it is made, then its addresses."""
    name = interface.name
    yield f"auto {name}"
    yield f"iface {name} inet manual"
    for command in _make(interface, everything):
        yield f"    pre-up {command}"
    yield f"    up ip link set dev {name} up"
    for gateway in _bare_gateways(interface):
        yield f"    up ip route replace default via {gateway} dev {name}"
    if interface.dns:
        yield f"    dns-nameservers {' '.join(interface.dns)}"
    if interface.type != ETHERNET:
        # ifupdown takes VLANs away by itself if they are named like one.
        yield f"    post-down ip link delete dev {name} 2>/dev/null || true"
    if interface.dhcp:
        yield f"iface {name} inet dhcp"
    gateways = [g for g in interface.gateway or () if g not in _bare_gateways(interface)]
    for address in interface.addresses or ():
        family = "inet6" if ":" in address else "inet"
        yield f"iface {name} {family} static"
        yield f"    address {address}"
        for gateway in [g for g in gateways if (":" in g) == (":" in address)]:
            gateways.remove(gateway)
            yield f"    gateway {gateway}"


def _bare_gateways(interface: Interface) -> list[str]:
    """Return the routers of a family in which no address is stated: link-local ones."""
    families = {":" in address for address in interface.addresses or ()}
    return [gateway for gateway in interface.gateway or () if (":" in gateway) not in families]


def _make(interface: Interface, everything: Sequence[Interface]) -> Iterable[str]:
    name = interface.name
    mac = f" address {interface.mac}" if interface.mac else ""
    # ifupdown has made a VLAN already that is named like one (eth0.5).
    unless = f"test -e /sys/class/net/{name} || "
    if interface.type == BRIDGE:
        filtering = " vlan_filtering 1" if interface.vlan_filtering else ""
        stp = f" stp_state {int(bool(interface.stp))}"
        yield f"{unless}ip link add name {name}{mac} type bridge{filtering}{stp}"
    elif interface.type == BOND:
        more = f" mode {interface.mode or 'balance-rr'} miimon {interface.miimon or 0}"
        yield f"{unless}ip link add name {name}{mac} type bond{more}"
    elif interface.type == VLAN:
        yield f"ip link set dev {interface.link} up"
        made = f"ip link add link {interface.link} name {name} type vlan id {interface.id}"
        yield f"{unless}{made}"
    stated = {other.name: other for other in everything}
    for port in interface.ports or ():
        yield from _port(interface, port, stated.get(port))
    if interface.mtu:
        yield f"ip link set dev {name} mtu {interface.mtu}"
    for other in everything:
        if interface.vlan_filtering and other.link == name:
            yield f"bridge vlan add dev {name} vid {other.id} self"


def _port(interface: Interface, port: str, stated: Interface | None) -> Iterable[str]:
    if interface.type == BOND:
        yield f"ip link set dev {port} down"
    yield f"ip link set dev {port} master {interface.name}"
    if interface.mtu and not (stated and stated.mtu):
        yield f"ip link set dev {port} mtu {interface.mtu}"
    if interface.vlan_filtering:
        yield f"bridge vlan add dev {port} vid {TRUNK[0]}-{TRUNK[1]}"
    yield f"ip link set dev {port} up"
