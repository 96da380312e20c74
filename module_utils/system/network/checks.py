# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be wrong on this host alone: ports, sizes, kinds, and who has claimed what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Iterator, Mapping, Sequence

from ...converge.errors import Problem, nearest
from .backend import NETWORKD
from .spec import BOND, BRIDGE, ETHERNET, PRESENT, VLAN

if TYPE_CHECKING:
    from .backend import Foreign
    from .ledger import Ledger
    from .observe import Link, Live
    from .spec import Interface

_MADE = {BRIDGE, BOND, VLAN}
_STP_SECONDS = 45.0  # 802.1D: twice the forward delay of 15 s, and some for the first packets


@dataclass(frozen=True)
class Facts:
    """What the checks look at; ``declared`` are by the path of their entry."""

    declared: Mapping[str, Interface]
    live: Live
    ledger: Ledger
    foreign: Foreign
    manager: str
    adopt: bool
    timeout: float

    def present(self) -> Iterator[tuple[str, Interface]]:
        """Yield the interfaces that shall be there, with their paths."""
        for path, interface in self.declared.items():
            if interface.state == PRESENT:
                yield path, interface

    @property
    def names(self) -> set[str]:
        """What shall be there, stated now or earlier."""
        gone = {i.name for i in self.declared.values() if i.state != PRESENT}
        return {i.name for _, i in self.present()} | {i.name for i in self.ledger.interfaces} - gone


def problems(facts: Facts) -> list[Problem]:
    """Return all that is wrong."""
    found: list[Problem] = []
    for path, interface in facts.present():
        found += _kind(path, interface, facts)
        found += _below(path, interface, facts)
        found += _mtu(path, interface, facts)
        found += _lost(path, interface, facts)
        found += _manager(path, interface, facts)
    return [*found, *foreign_problems(facts)]


def _kind(path: str, interface: Interface, facts: Facts) -> Iterator[Problem]:
    link = facts.live.links.get(interface.name)
    if interface.type == ETHERNET:
        if link is None:
            yield _unknown(f"{path}.name", interface.name, facts.live)
        elif link.kind in _MADE:
            yield Problem(f"{path}.type", f"{link.kind}, what {link.name} is", ETHERNET)
    elif link is not None and link.kind != interface.type:
        found = f"{link.name} is {_a(link.kind)}"
        yield Problem(f"{path}.name", f"no other thing of the name of a {interface.type}", found)


def _a(kind: str) -> str:
    return f"a {kind}" if kind else "a network device"


def _unknown(path: str, name: str, live: Live) -> Problem:
    others = sorted(set(live.links) - {"lo"})
    guess = nearest(name, others)
    remedy = f"did you mean {guess}?" if guess else None
    return Problem(path, f"an interface of this host ({', '.join(others)})", name, remedy)


def _uses(path: str, interface: Interface) -> Iterator[tuple[str, str]]:
    for number, port in enumerate(interface.ports or ()):
        yield f"{path}.ports[{number}]", port
    if interface.link is not None:
        yield f"{path}.link", interface.link


def _below(path: str, interface: Interface, facts: Facts) -> Iterator[Problem]:
    """Yield where a port or carrier is unknown or belongs to somebody else."""
    for where, name in _uses(path, interface):
        link = facts.live.links.get(name)
        if link is None:
            if name not in facts.names:
                yield _unknown(where, name, facts.live)
            continue
        if interface.type == BOND and link.kind in _MADE:
            yield Problem(where, "a network device as the port of a bond", f"a {link.kind}")
        if interface.type != VLAN and link.master not in {None, interface.name}:
            ours = facts.ledger.get(link.master or "") is not None or link.master in facts.names
            if not ours:
                yield Problem(where, "an interface that is free", f"{name} is in {link.master}")


def _limit(link: Link | None) -> int:
    return link.max_mtu if link is not None and link.max_mtu else 1 << 16


def _mtu(path: str, interface: Interface, facts: Facts) -> Iterator[Problem]:
    if interface.mtu is None:
        return
    stated = {i.name: i for _, i in facts.present()}
    names = [interface.name, *interface.uses] if interface.type == ETHERNET else interface.uses
    for name in names:
        link = facts.live.links.get(name)
        if interface.mtu > _limit(link):
            found = f"{interface.mtu}, and {name} takes at most {_limit(link)}"
            yield Problem(f"{path}.mtu", "what the devices can do", found)
    carrier = facts.live.links.get(interface.link or "")
    carrier_stated = stated.get(interface.link or "")
    if carrier is None or (carrier_stated and carrier_stated.mtu):
        return
    if interface.mtu > carrier.mtu:
        found = f"{interface.mtu}, and {carrier.name} has {carrier.mtu}"
        yield Problem(f"{path}.mtu", "at most what the carrier has", found, f"state {carrier.name}")


def _lost(path: str, interface: Interface, facts: Facts) -> Iterator[Problem]:
    """Yield what a new port has and would lose without anybody having said so."""
    if interface.type not in {BRIDGE, BOND}:
        return
    for port in interface.ports or ():
        link = facts.live.links.get(port)
        if link is None or link.master == interface.name:
            continue
        addresses = [a.cidr for a in link.addresses if not a.generated]
        if addresses and interface.addresses is None and interface.dhcp is None:
            found = f"nothing, and {port} has {', '.join(addresses)}"
            remedy = "state them, or [] to give them up"
            yield Problem(f"{path}.addresses", f"{interface.name}'s addresses", found, remedy)
        routers = facts.live.gateways(port)
        if routers and interface.gateway is None and not interface.dhcp:
            found = f"nothing, and {port} has the default route by {', '.join(routers)}"
            remedy = "state it, or [] to give it up"
            yield Problem(f"{path}.gateway", f"{interface.name}'s gateway", found, remedy)


def _manager(path: str, interface: Interface, facts: Facts) -> Iterator[Problem]:
    carrier = interface.link
    if facts.manager == NETWORKD and carrier is not None and carrier not in facts.names:
        remedy = f"state {carrier} as well, with its addresses"
        expected = f"{carrier} among the interfaces: systemd-networkd makes a VLAN by its file"
        yield Problem(f"{path}.link", expected, "it is not stated", remedy)
    if interface.stp and facts.timeout < _STP_SECONDS:
        expected = f"a rollback_timeout of {_STP_SECONDS:g}s at least: STP forwards after 30 s"
        yield Problem(f"{path}.stp", expected, f"{facts.timeout:g}s")


def foreign_problems(facts: Facts) -> list[Problem]:
    """Return where somebody else configures what shall be ours."""
    return list(_foreign(facts))


def _foreign(facts: Facts) -> Iterator[Problem]:
    for name, path in sorted(facts.foreign.claims.items()):
        where = _where(name, facts.declared)
        if name in facts.foreign.refused:
            yield Problem(where, "nobody else to configure it", facts.foreign.refused[name])
        elif not facts.adopt:
            remedy = (
                f"adopt: true takes it over, so that state: absent gives it back; or edit {path}"
            )
            what = (
                f"a line in {path} that is missing" if " " in name else f"{path} configures {name}"
            )
            yield Problem(where, "nobody else to configure it", what, remedy)


def _where(name: str, declared: Mapping[str, Interface]) -> str:
    for path, interface in declared.items():
        if interface.name == name:
            return f"{path}.name"
        for where, used in _uses(path, interface):
            if used == name:
                return where
    return "interfaces"


def claimed(interfaces: Sequence[Interface]) -> list[str]:
    """Return the names that must not be configured by others: ours, and their ports."""
    names = [i.name for i in interfaces]
    ports = [port for i in interfaces for port in i.ports or ()]
    return list(dict.fromkeys([*names, *ports]))
