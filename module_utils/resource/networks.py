# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Virtual networks: kept under a mark in their metadata, and changed while guests are on them."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any, Iterable, Iterator, Mapping

from ..converge.errors import Problem, VirtfleetError, shown
from .kind import Kind, Seen, Specs, Status

if TYPE_CHECKING:
    from ..virt.connection import Connection
    from .ledger import Ledger
    from .network_definitions import NetworkDefinitions

_CLASS = "/sys/class/net"
_UNPLUGGED = "unplugged network"  # in the ledger, with the devices of its guests


class Networks(Kind):
    """The networks of one host; ``run`` runs a command there and returns its status and output."""

    word = "network"
    plural = "networks"
    marked = True
    listed = "NETWORKS"
    outlives_a_restart = True

    def __init__(
        self,
        connection: Connection,
        fleet: str,
        ledger: Ledger,
        run: Any = None,
        *,
        local: bool = True,
    ) -> None:
        super().__init__(connection, fleet, ledger)
        self.run = run
        self.local = local

    @property
    def definitions(self) -> NetworkDefinitions:
        """What definitions say."""
        from .network_definitions import NetworkDefinitions

        return NetworkDefinitions()

    def clashes(
        self, stated: Specs, seen: Mapping[str, Seen], *, check_mode: bool
    ) -> Iterator[Problem]:
        """Yield subnets and bridges that others have, and devices that are not there."""
        whole = {
            name: {**seen[name].spec, **keys} if name in seen else keys
            for name, keys in stated.items()
        }
        others = {name: one.spec for name, one in seen.items() if name not in whole}
        yield from _taken(whole, others)
        if self.local and not check_mode:
            for name, spec in whole.items():
                yield from _host(name, spec, stated[name])

    def objects(self, flag: int = 0) -> list[Any]:
        """Return libvirt's networks, those that have a flag or all."""
        return list(self.connection.handle.listAllNetworks(flag))

    def look(self, one: Any, status: Status) -> Seen:
        """Return what a network is now."""
        live = one.XMLDesc(0) if status.active else None
        inactive = self._stored(one) if status.persistent else str(live)
        found = self.meaning(inactive)
        return Seen(
            one.name(),
            one.UUIDString(),
            inactive,
            live,
            autostart=status.autostart,
            persistent=status.persistent,
            owned=found["fleet"] is not None,
            fleet=found["fleet"] or "",
            new=self.is_new(one.name()),
            unplugged=self._unplugged(one.name(), found),
            spec=found["spec"],
            more={"bridge": found["bridge"]},
        )

    def _stored(self, one: Any) -> str:
        return self.stored(one, self.libvirt.VIR_NETWORK_XML_INACTIVE)

    def _unplugged(self, name: str, found: Mapping[str, Any]) -> list[str] | None:
        """Return what a new start has cut off that is still there, None where nothing is noted."""
        noted = self.ledger.noted(_UNPLUGGED, name) if self.local else None
        if noted is None:
            return None
        bridge = _losing(found)
        if bridge is None:
            return []
        from .network_live import plugs

        there = {device for _, device in plugs(self.connection, name)}
        return [one for one in noted.split() if one in there and _master(one) != bridge]

    def users(self, seen: Seen) -> list[str]:
        """Return the running guests that have a NIC on it."""
        from .network_live import plugs

        return sorted({guest for guest, _ in plugs(self.connection, seen.name)})

    def lookup(self, name: str) -> Any:
        """Return libvirt's object."""
        return self.connection.handle.networkLookupByName(name)

    def define(self, xml: str) -> Any:
        """Make the definition the persistent one, and return libvirt's object."""
        flag = self.libvirt.VIR_NETWORK_DEFINE_VALIDATE
        return self.connection.handle.networkDefineXMLFlags(xml, flag)

    def start(self, name: str, asked: Mapping[str, Any]) -> None:
        """Make it active."""
        del asked
        one = self.lookup(name)
        if not one.isActive():
            one.create()

    def update_live(self, name: str) -> None:
        """Bring what libvirt can change at once from the stored definition to the active one."""
        from .network_live import updates

        one = self.lookup(name)
        wanted = self._stored(one)
        live = self.libvirt.VIR_NETWORK_UPDATE_AFFECT_LIVE
        for command, section, index, xml in updates(self.libvirt, one.XMLDesc(0), wanted):
            one.update(command, section, index, xml, live)

    def restart(self, name: str, asked: Mapping[str, Any]) -> None:
        """Start it anew, and plug the guests in again that were on it."""
        from .network_live import plugs

        devices = [device for _, device in plugs(self.connection, name) if device]
        if devices and self.local:
            self.ledger.note(_UNPLUGGED, name, " ".join(devices))
        self.lookup(name).destroy()
        self.start(name, asked)
        self._plug(devices, self._live(name))
        self._plugged(name)

    def plug_in(self, name: str) -> None:
        """Plug in what a run has cut off that was killed before it did so itself."""
        found = self._live(name)
        self._plug(self._unplugged(name, found) or (), found)
        self._plugged(name)

    def tidy(self, seen: Seen) -> None:
        """Let go of what a run that was killed left noted of it."""
        super().tidy(seen)
        if not seen.unplugged:
            self._plugged(seen.name)

    def gone(self, seen: Seen) -> None:
        """Let go of what was noted of it."""
        super().gone(seen)
        self._plugged(seen.name)

    def _live(self, name: str) -> dict[str, Any]:
        return self.meaning(self.lookup(name).XMLDesc(0))

    def _plugged(self, name: str) -> None:
        if self.local:
            self.ledger.note(_UNPLUGGED, name, None)

    def _plug(self, devices: Iterable[str], found: Mapping[str, Any]) -> None:
        """Give taps their bridge back, which they lost when it went."""
        bridge = _losing(found)
        if bridge is None:
            return
        failed = []
        for device in devices:
            if self.run is None or not self.local:
                failed.append(device)
                continue
            status, _, error = self.run(["ip", "link", "set", "dev", device, "master", bridge])
            if status and os.path.exists(os.path.join(_CLASS, device)):
                failed.append(f"{device} ({error.strip()})")
        if failed:
            raise VirtfleetError(
                f"it was started anew, and these of its guests' devices are not on {bridge}:"
                f" {', '.join(failed)}",
                remedy=f"plug them in (ip link set DEVICE master {bridge}), or restart the guests",
            )

    def adopt(self, seen: Seen) -> None:
        """Give it our mark; nothing else of it changes."""
        from ..virt.mark import Mark
        from ..virt.marking import write_mark

        mark = Mark(self.fleet, seen.name, kind=self.word)
        self.define(write_mark(seen.inactive, mark))

    def warnings(self, seen: Mapping[str, Seen]) -> list[str]:
        """Return the bridges of the host that lead nowhere."""
        found = []
        for name, one in seen.items():
            bridge = one.spec.get("bridge")
            joins = self.local and one.spec.get("mode") == "bridge"
            if joins and bridge and _carrier(bridge) is False:
                found.append(f"network/{name}: the bridge {bridge} has no carrier")
        return found


def _losing(found: Mapping[str, Any]) -> str | None:
    """Return the bridge that guests lose as their network ends, None where they lose none."""
    port = (found["spec"].get("virtualport") or {}).get("type")
    bridge: str | None = found["bridge"]
    return None if port == "openvswitch" else bridge  # a switch of its own keeps its ports


def _master(device: str) -> str:
    """Return the bridge that a device is plugged into, empty for none."""
    try:
        return os.path.basename(os.readlink(os.path.join(_CLASS, device, "master")))
    except OSError:
        return ""


def _carrier(device: str) -> bool | None:
    """Return whether a device has a carrier, None where that cannot be said."""
    try:
        with open(os.path.join(_CLASS, device, "carrier"), encoding="ascii") as file:
            return file.read().strip() == "1"
    except OSError as error:
        return False if error.errno == errno.EINVAL else None  # it is there, and down


def _taken(whole: Specs, others: Specs) -> Iterator[Problem]:
    """Yield subnets and bridges that two networks would have."""
    from ..virt import network_rules
    from ..virt.network import ISOLATED, ROUTED

    nets = {name: network_rules.subnets(spec) for name, spec in others.items()}
    bridges = {
        spec["bridge"]: name
        for name, spec in others.items()
        if spec.get("bridge") and spec.get("mode", "nat") in ROUTED
    }
    for name, spec in whole.items():
        mine = network_rules.subnets(spec)
        for other, theirs in nets.items():
            for one in mine:
                met = next((net for net in theirs if network_rules.meets(one, net)), None)
                if met is not None:
                    found = f"{one}, which meets {met} of the network {other}"
                    yield Problem(f"{name}/ips", "a subnet of its own", found)
        nets[name] = mine
        bridge = spec.get("bridge")
        if bridge and spec.get("mode", ISOLATED) in ROUTED:
            if bridge in bridges:
                found = f"{shown(bridge)}, which the network {bridges[bridge]} has"
                yield Problem(f"{name}/bridge", "a bridge of its own", found)
            bridges.setdefault(bridge, name)


def _host(name: str, spec: Mapping[str, Any], stated: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield the devices that a network states and the host does not have."""
    devices = [("bridge", stated.get("bridge"))] if spec.get("mode") == "bridge" else []
    port = (spec.get("virtualport") or {}).get("type")
    if port == "openvswitch":
        devices = []  # its bridges need not be devices of the host
    devices += [("dev", stated.get("dev")), ("pf", stated.get("pf"))]
    devices += [(f"interfaces[{n}]", one) for n, one in enumerate(stated.get("interfaces") or ())]
    for key, device in devices:
        if device and not os.path.exists(os.path.join(_CLASS, device)):
            yield Problem(f"{name}/{key}", "a network device that is there", shown(device))
