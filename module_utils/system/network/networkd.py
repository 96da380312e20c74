# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""systemd-networkd (systemd.network(5), systemd.netdev(5)): two files an interface.

Until the change is confirmed the files lie below /run, which a boot empties.
"""

from __future__ import annotations

import fnmatch
import os
from typing import TYPE_CHECKING, Iterable, Mapping, Sequence

from ..operation import Run, Write
from .backend import ANY, MARK, NETWORKD, Backend, Foreign, require_ours
from .observe import TRUNK
from .spec import BOND, BRIDGE, ETHERNET, VLAN, Interface

if TYPE_CHECKING:
    from ..operation import Operation
    from .backend import Edits, File, Files, Telling

ETC = "/etc/systemd/network"
RUNTIME = "/run/systemd/network"
PREFIX = "10-virtfleet-"
_FIRST = "00-virtfleet-"  # until the next boot ours come before those of others
_ASIDE = ".virtfleet-aside"  # behind the name of a file that was taken over
_RELOAD = ("networkctl", "reload")


class Networkd(Backend):
    """systemd-networkd."""

    name = NETWORKD

    def paths(self, found: Files) -> list[str]:
        """Return those of the files that are ours."""
        ours = [path for path in sorted(found) if path.startswith(f"{ETC}/{PREFIX}")]
        for path in ours:
            require_ours(path, found[path])
        return ours

    def render(self, interfaces: Sequence[Interface]) -> dict[str, File]:
        """Return the files of all interfaces, of ports that nobody stated too."""
        files: dict[str, File] = {}
        stated = {interface.name for interface in interfaces}
        carried = [name for interface in interfaces for name in interface.uses]
        implied = [Interface(n, ETHERNET) for n in dict.fromkeys(carried) if n not in stated]
        for interface in [*interfaces, *implied]:
            if interface.type != ETHERNET:
                text = "\n".join(_netdev(interface)) + "\n"
                files[f"{ETC}/{PREFIX}{interface.name}.netdev"] = (MARK + text, 0o644)
            text = "\n".join(_network(interface, interfaces)) + "\n"
            files[f"{ETC}/{PREFIX}{interface.name}.network"] = (MARK + text, 0o644)
        return files

    def foreign(self, found: Files, names: Sequence[str], macs: Mapping[str, str]) -> Foreign:
        """Return the files that would win over ours: the first in the order of names does."""
        claims: dict[str, str] = {}
        edits: Edits = {}
        refused: dict[str, str] = {}
        for path, content in sorted(found.items()):
            base = os.path.basename(path)
            if base.startswith(PREFIX) or not base.endswith((".network", ".netdev")):
                continue
            for name in names:
                if not _wins(base, content, name, macs):
                    continue
                claims.setdefault(name, path)
                if not path.startswith(f"{ETC}/"):
                    refused[name] = f"{path} is generated: take {name} out of what generates it"
                elif not _alone(content, name):
                    refused[name] = f"{path} is for other interfaces too: rename it to sort later"
                else:
                    edits[path], edits[path + _ASIDE] = None, content
        return Foreign(claims, edits, refused)

    def disown(self, found: Files, names: Sequence[str], *, last: bool) -> Edits:
        """Return the edits that put the files of these interfaces back in their place."""
        del last
        edits: Edits = {}
        for path, content in found.items():
            if path.endswith(_ASIDE) and any(_alone(content, name) for name in names):
                edits[path], edits[path[: -len(_ASIDE)]] = None, content
        return edits

    def before(self, telling: Telling) -> list[Operation]:
        """Return what keeps it from holding on to what is taken away.

        Our lasting files are still there, so others stand before them until the next boot: what
        goes is left alone, and what is returned is what it was.
        """
        files = _instead(telling)
        return [*(Write(p, text) for p, text in files.items()), Run(_RELOAD)] if files else []

    def live(self, telling: Telling) -> list[Operation]:
        """Return what lets it take part until the next boot."""
        if not telling.grows:
            return []
        kept = {_runtime(path): text for path, (text, _) in telling.files.items()}
        return [*(Write(path, text) for path, text in kept.items()), Run(_RELOAD)]

    def persist(self, telling: Telling) -> list[Operation]:
        """Return what lets it read the files in their lasting place."""
        return [*_without_runtime(telling), Run(_RELOAD)]

    def forget(self, telling: Telling) -> list[Operation]:
        """Return what lets it read the files that were there."""
        return [*_without_runtime(telling), Run(_RELOAD, ANY)]


def _runtime(path: str) -> str:
    """Return where a file stands until the next boot."""
    return path.replace(f"{ETC}/{PREFIX}", f"{RUNTIME}/{_FIRST}")


def _instead(telling: Telling) -> dict[str, str]:
    """Return the files for what goes and what is returned."""
    files = {
        name: MARK + f"[Match]\nName={name}\n\n[Link]\nUnmanaged=yes\n" for name in telling.removed
    }
    for name, former in telling.returned.items():
        interface = Interface(
            name,
            ETHERNET,
            mtu=former.mtu,
            dhcp=former.dhcp,
            addresses=tuple(address.cidr for address in former.addresses),
            gateway=former.gateways,
        )
        files[name] = MARK + "\n".join(_network(interface, [interface])) + "\n"
    return {f"{RUNTIME}/{_FIRST}{name}.network": text for name, text in files.items()}


def _without_runtime(telling: Telling) -> list[Operation]:
    paths = [*(_runtime(path) for path in telling.files), *_instead(telling)]
    return [Write(path, None) for path in dict.fromkeys(paths)]


def _values(content: str, section: str, key: str) -> list[str]:
    """Return the values of a key in a section of a unit file, split at white space."""
    found: list[str] = []
    inside = False
    for raw in content.splitlines():
        line = raw.strip()
        if line.startswith("["):
            inside = line == f"[{section}]"
        elif inside and line.partition("=")[0].strip() == key:
            found += line.partition("=")[2].split()
    return found


def _wins(base: str, content: str, name: str, macs: Mapping[str, str]) -> bool:
    """Return whether networkd takes this file and not ours for the interface."""
    if base.endswith(".netdev"):
        return _values(content, "NetDev", "Name") == [name]
    if base > f"{PREFIX}{name}.network":
        return False
    wanted = [mac.lower() for mac in _values(content, "Match", "MACAddress")]
    if wanted and macs.get(name) not in wanted:
        return False
    patterns = _values(content, "Match", "Name")
    return not patterns or any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _alone(content: str, name: str) -> bool:
    return [name] in (_values(content, "Match", "Name"), _values(content, "NetDev", "Name"))


def _netdev(interface: Interface) -> Iterable[str]:
    kind = {BRIDGE: "bridge", BOND: "bond", VLAN: "vlan"}[interface.type]
    yield "[NetDev]"
    yield f"Name={interface.name}"
    yield f"Kind={kind}"
    if interface.mac:
        yield f"MACAddress={interface.mac}"
    if interface.mtu:
        yield f"MTUBytes={interface.mtu}"
    yield ""
    if interface.type == BRIDGE:
        yield "[Bridge]"
        yield f"STP={_yes(interface.stp)}"
        if interface.vlan_filtering:
            yield "VLANFiltering=yes"
    elif interface.type == BOND:
        yield "[Bond]"
        yield f"Mode={interface.mode or 'balance-rr'}"
        if interface.miimon:
            yield f"MIIMonitorSec={interface.miimon}ms"
    else:
        yield "[VLAN]"
        yield f"Id={interface.id}"


def _yes(value: bool | None) -> str:
    return "yes" if value else "no"


def _network(interface: Interface, everything: Sequence[Interface]) -> Iterable[str]:
    name = interface.name
    masters = [other for other in everything if name in (other.ports or ())]
    mtu = interface.mtu or next((other.mtu for other in masters if other.mtu), None)
    yield "[Match]"
    yield f"Name={name}"
    yield ""
    if mtu:
        yield "[Link]"
        yield f"MTUBytes={mtu}"
        yield ""
    yield "[Network]"
    for master in masters:
        yield f"{'Bridge' if master.type == BRIDGE else 'Bond'}={master.name}"
    if masters:
        yield "LinkLocalAddressing=no"
        yield "IPv6AcceptRA=no"
    elif interface.type == BRIDGE:
        # A bridge without a port has no carrier, and its addresses count all the same.
        yield "ConfigureWithoutCarrier=yes"
    yield from _addresses(interface)
    for other in everything:
        if other.link == name:
            yield f"VLAN={other.name}"
    yield from _vlans(interface, masters, everything)


def _addresses(interface: Interface) -> Iterable[str]:
    if interface.dhcp is not None:
        yield f"DHCP={'ipv4' if interface.dhcp else 'no'}"
    for address in interface.addresses or ():
        yield f"Address={address}"
    for gateway in interface.gateway or ():
        yield f"Gateway={gateway}"
    for server in interface.dns or ():
        yield f"DNS={server}"


def _vlans(
    interface: Interface, masters: Sequence[Interface], everything: Sequence[Interface]
) -> Iterable[str]:
    """Yield what a VLAN-filtering bridge lets pass at its ports and at itself."""
    if any(master.vlan_filtering for master in masters):
        yield from ("", "[BridgeVLAN]", f"VLAN={TRUNK[0]}-{TRUNK[1]}")
    if interface.vlan_filtering:
        for other in everything:
            if other.link == interface.name:
                yield from ("", "[BridgeVLAN]", f"VLAN={other.id}")
