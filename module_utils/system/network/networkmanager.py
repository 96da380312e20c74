# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""NetworkManager (nm-settings-keyfile(5)): one keyfile an interface, which root alone can read.

Until the change is confirmed the files lie below /run, which a boot empties. Profiles of others
stay: ours have the higher priority.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Iterable, Mapping, Sequence

from ..operation import Run, Write
from .backend import ANY, MARK, NETWORKMANAGER, Backend, require_ours
from .observe import TRUNK
from .spec import BOND, BRIDGE, ETHERNET, VLAN, Interface

if TYPE_CHECKING:
    from ..operation import Operation
    from .backend import File, Files, Telling

ETC = "/etc/NetworkManager/system-connections"
RUNTIME = "/run/NetworkManager/system-connections"
PREFIX = "virtfleet-"
SUFFIX = ".nmconnection"
_MODE = 0o600  # others are ignored (nm-settings-keyfile(5))
_PRIORITY = 100
_RELOAD = ("nmcli", "connection", "reload")
_WAIT = "20"  # seconds


class NetworkManager(Backend):
    """NetworkManager."""

    name = NETWORKMANAGER

    def paths(self, found: Files) -> list[str]:
        """Return those of the files that are ours."""
        ours = [path for path in sorted(found) if path.startswith(f"{ETC}/{PREFIX}")]
        for path in ours:
            require_ours(path, found[path])
        return ours

    def render(self, interfaces: Sequence[Interface]) -> dict[str, File]:
        """Return the keyfiles of all interfaces, of ports that nobody stated too."""
        stated = {interface.name for interface in interfaces}
        ports = [name for interface in interfaces for name in interface.ports or ()]
        implied = [Interface(n, ETHERNET) for n in dict.fromkeys(ports) if n not in stated]
        return {
            f"{ETC}/{PREFIX}{interface.name}{SUFFIX}": (
                MARK + "\n".join(_keyfile(interface, interfaces)) + "\n",
                _MODE,
            )
            for interface in [*interfaces, *implied]
        }

    def before(self, telling: Telling) -> list[Operation]:
        """Return what keeps it from making again what is taken away."""
        modify = ("nmcli", "connection", "modify", "--temporary")
        still = [
            Run((*modify, f"{PREFIX}{name}", "connection.autoconnect", "no"), ANY)
            for name in telling.removed
        ]
        return [*still, *_managed([*telling.removed, *telling.returned], "no")]

    def live(self, telling: Telling) -> list[Operation]:
        """Return what lets it take part until the next boot, masters before their ports."""
        if not telling.grows:
            return []
        up = [_up(path) for path in telling.files]
        return [*_runtime(telling.files, telling.files), Run(_RELOAD), *up]

    def persist(self, telling: Telling) -> list[Operation]:
        """Return what lets it read the files in their lasting place."""
        returned = _managed(telling.returned, "yes")
        return [*_runtime(telling.files, ()), Run(_RELOAD), *returned]

    def forget(self, telling: Telling) -> list[Operation]:
        """Return what lets it read the files that were there."""
        return [*_runtime(telling.files, ()), Run(_RELOAD, ANY)]

    def resume(self, telling: Telling) -> list[Operation]:
        """Return what lets it take its own profiles again."""
        connect = ("nmcli", "--wait", _WAIT, "device", "connect")
        again = [Run((*connect, name), ANY) for name in telling.touched]
        return [*_managed(telling.touched, "yes"), *again]


def _managed(names: Iterable[str], value: str) -> list[Run]:
    return [Run(("nmcli", "device", "set", name, "managed", value), ANY) for name in names]


def _up(path: str) -> Run:
    name = path[len(ETC) + 1 : -len(SUFFIX)]
    return Run(("nmcli", "--wait", _WAIT, "connection", "up", "id", name))


def _runtime(files: Mapping[str, File], kept: Iterable[str]) -> list[Operation]:
    return [
        Write(path.replace(ETC, RUNTIME), content if path in kept else None, mode)
        for path, (content, mode) in files.items()
    ]


def _keyfile(interface: Interface, everything: Sequence[Interface]) -> Iterable[str]:
    name = interface.name
    identity = uuid.uuid5(uuid.NAMESPACE_URL, f"virtfleet:local/interface/{name}")
    masters = [other for other in everything if name in (other.ports or ())]
    yield "[connection]"
    yield f"id={PREFIX}{name}"
    yield f"uuid={identity}"
    yield f"type={interface.type}"
    yield f"interface-name={name}"
    yield f"autoconnect-priority={_PRIORITY}"
    for master in masters:
        yield f"master={master.name}"
        yield f"slave-type={master.type}"
    if interface.type in {BRIDGE, BOND} and interface.ports:
        yield "autoconnect-slaves=1"
    yield from _kind(interface, everything)
    mtu = interface.mtu or next((other.mtu for other in masters if other.mtu), None)
    yield from ("", "[ethernet]")
    if interface.type == BOND and interface.mac:
        yield f"cloned-mac-address={interface.mac}"
    if mtu:
        yield f"mtu={mtu}"
    if any(master.vlan_filtering for master in masters):
        yield from ("", "[bridge-port]", f"vlans={TRUNK[0]}-{TRUNK[1]}")
    if not masters:
        yield from _family(interface, 4)
        yield from _family(interface, 6)


def _kind(interface: Interface, everything: Sequence[Interface]) -> Iterable[str]:
    if interface.type == BRIDGE:
        yield from ("", "[bridge]", f"stp={str(bool(interface.stp)).lower()}")
        if interface.mac:
            yield f"mac-address={interface.mac}"
        if interface.vlan_filtering:
            yield "vlan-filtering=true"
            vids = [str(other.id) for other in everything if other.link == interface.name]
            if vids:
                yield f"vlans={','.join(vids)}"
    elif interface.type == BOND:
        yield from ("", "[bond]", f"mode={interface.mode or 'balance-rr'}")
        yield f"miimon={interface.miimon or 0}"
    elif interface.type == VLAN:
        yield from ("", "[vlan]", f"id={interface.id}", f"parent={interface.link}")


def _family(interface: Interface, family: int) -> Iterable[str]:
    """Yield the section of an address family (4 or 6)."""

    def own(texts: Sequence[str] | None) -> list[str]:
        return [text for text in texts or () if (":" in text) == (family == 6)]

    addresses = own(interface.addresses)
    yield from ("", f"[ipv{family}]")
    if family == 4 and interface.dhcp:
        yield "method=auto"
    elif addresses:
        yield "method=manual"
    else:
        yield "method=disabled" if family == 4 else "method=auto"
    for number, address in enumerate(addresses, start=1):
        yield f"address{number}={address}"
    for gateway in own(interface.gateway):
        yield f"gateway={gateway}"
    servers = own(interface.dns)
    if servers:
        yield f"dns={';'.join(servers)};"
