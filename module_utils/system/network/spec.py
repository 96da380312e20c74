# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What was asked for: interfaces as data, and every mistake that can be seen without a host.

Names follow dev_valid_name() of Linux, without what a file name or a shell could misread.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace
from typing import Any, Iterable, Mapping, Sequence

from ...converge.errors import InputError, Problem, shown
from .addressing import Addresses, address_problems, overlaps
from .order import cycle

BRIDGE, BOND, VLAN, ETHERNET = "bridge", "bond", "vlan", "ethernet"
TYPES = (BRIDGE, BOND, VLAN, ETHERNET)
PRESENT, ABSENT = "present", "absent"
# bonding.rst, the mode option.
MODES = (
    *("balance-rr", "active-backup", "balance-xor", "broadcast", "802.3ad"),
    *("balance-tlb", "balance-alb"),
)
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}", re.ASCII)
_RESERVED = {"lo", "all", "default"}  # the last two are folders of /proc/sys/net/ipv4/conf
_MTU = (68, 65535)  # RFC 791; what a link takes in fact is its own affair
_MTU6 = 1280  # RFC 8200
# Which options belong to which types; the others belong to all.
_ONLY = {
    "ports": (BRIDGE, BOND),
    "vlan_filtering": (BRIDGE,),
    "stp": (BRIDGE,),
    "mode": (BOND,),
    "miimon": (BOND,),
    "link": (VLAN,),
    "id": (VLAN,),
}


@dataclass(frozen=True)
class Interface:
    """One interface as it was stated; None is what nobody stated.

    ``addresses`` are in CIDR form, ``gateway`` holds at most one address a family, ``miimon`` is in
    milliseconds, ``mtu`` in bytes, ``mac`` what a bridge or a bond was created with.
    """

    name: str
    type: str
    state: str = PRESENT
    ports: tuple[str, ...] | None = None
    vlan_filtering: bool | None = None
    stp: bool | None = None
    mode: str | None = None
    miimon: int | None = None
    link: str | None = None
    id: int | None = None
    mtu: int | None = None
    addresses: tuple[str, ...] | None = None
    gateway: tuple[str, ...] | None = None
    dhcp: bool | None = None
    dns: tuple[str, ...] | None = None
    mac: str | None = None

    @property
    def uses(self) -> tuple[str, ...]:
        """The interfaces that must be there before this one."""
        return (*(self.ports or ()), *((self.link,) if self.link else ()))

    def to_dict(self) -> dict[str, Any]:
        """Return what was stated, as plain values."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in found.items()
            if value is not None
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Interface:
        """Return the interface of plain values; keys that are unknown or None are passed over."""
        known = {field.name for field in fields(cls)}
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in data.items()
            if key in known and value is not None
        }
        return cls(**values)

    def over(self, earlier: Interface | None) -> Interface:
        """Return this over what was stated earlier: what is not stated any more is kept."""
        if earlier is None or earlier.type != self.type:
            return self
        kept = {
            field.name: getattr(earlier, field.name)
            for field in fields(self)
            if getattr(self, field.name) is None
        }
        return replace(self, **kept)


def parse(declared: Sequence[Mapping[str, Any]], path: str = "interfaces") -> list[Interface]:
    """Return the interfaces; InputError with all that is wrong in them."""
    problems: list[Problem] = []
    found: list[Interface] = []
    for number, data in enumerate(declared):
        where = f"{path}[{number}]"
        interface = Interface.from_dict(data)
        own = list(_own_problems(interface, where))
        problems += own
        problems += address_problems(_addresses(interface), where)
        found.append(interface)
    problems += _problems_between(found, path)
    if problems:
        raise InputError(problems)
    return found


def _addresses(interface: Interface) -> Addresses:
    return Addresses(
        addresses=interface.addresses,
        gateway=interface.gateway,
        dns=interface.dns,
        dhcp=bool(interface.dhcp),
    )


def name_problem(name: str, where: str) -> Problem | None:
    """Return what is wrong with an interface's name."""
    if name in _RESERVED:
        return Problem(where, "an interface that may be changed", shown(name))
    if _NAME.fullmatch(name):
        return None
    rule = "a name of at most 15 letters, digits, dots, dashes and underscores"
    return Problem(where, rule, shown(name))


def _own_problems(interface: Interface, where: str) -> Iterable[Problem]:
    """Yield what is wrong in one interface, taken alone."""
    names = [
        ("name", interface.name),
        *((f"ports[{n}]", p) for n, p in enumerate(interface.ports or ())),
    ]
    if interface.link is not None:
        names.append(("link", interface.link))
    for key, name in names:
        problem = name_problem(name, f"{where}.{key}")
        if problem:
            yield problem
    if interface.state == ABSENT:
        return
    for key, types in _ONLY.items():
        if getattr(interface, key) is not None and interface.type not in types:
            kinds = " or ".join(types)
            yield Problem(f"{where}.{key}", f"this for a {kinds} only", f"type {interface.type}")
    yield from _type_problems(interface, where)
    yield from _mtu_problems(interface, where)


def _type_problems(interface: Interface, where: str) -> Iterable[Problem]:
    if interface.type == VLAN:
        if interface.link is None:
            yield Problem(f"{where}.link", "the interface that carries the VLAN", "nothing")
        if interface.id is None or not 1 <= interface.id <= 4094:
            yield Problem(f"{where}.id", "a VLAN id from 1 to 4094", shown(interface.id))
    if interface.type == BOND and not interface.ports:
        yield Problem(f"{where}.ports", "the interfaces of the bond", shown(interface.ports))
    if interface.mode is not None and interface.mode not in MODES:
        yield Problem(f"{where}.mode", f"one of {', '.join(MODES)}", shown(interface.mode))
    if interface.miimon is not None and not 0 <= interface.miimon <= 60000:
        yield Problem(f"{where}.miimon", "0 to 60000 milliseconds", shown(interface.miimon))
    if interface.ports is not None and len(set(interface.ports)) < len(interface.ports):
        yield Problem(f"{where}.ports", "each port once", ", ".join(interface.ports))


def _mtu_problems(interface: Interface, where: str) -> Iterable[Problem]:
    if interface.mtu is None:
        return
    low, high = _MTU
    if any(":" in address for address in interface.addresses or ()):
        low = _MTU6
    if not low <= interface.mtu <= high:
        yield Problem(f"{where}.mtu", f"{low} to {high} bytes", shown(interface.mtu))


def _problems_between(found: Sequence[Interface], path: str) -> list[Problem]:
    """Return what is wrong between interfaces."""
    problems = []
    where: dict[str, str] = {}
    for number, interface in enumerate(found):
        here = f"{path}[{number}]"
        if interface.name in where:
            first = where[interface.name]
            problems.append(Problem(f"{here}.name", "each interface once", f"{first} has it too"))
        where.setdefault(interface.name, here)
    present = {i.name: i for i in found if i.state == PRESENT}
    gone = {i.name for i in found if i.state == ABSENT}
    problems += _master_problems(present, gone, where)
    problems += _mtu_between(present, where)
    stated = {where[name]: _addresses(interface) for name, interface in present.items()}
    problems += overlaps(stated)
    ring = cycle({name: interface.uses for name, interface in present.items()})
    if ring:
        problems.append(Problem(where[ring[0]], "no interface below itself", " → ".join(ring)))
    return problems


def _master_problems(
    present: Mapping[str, Interface], gone: set[str], where: Mapping[str, str]
) -> Iterable[Problem]:
    masters: dict[str, str] = {}
    for name, interface in present.items():
        for number, port in enumerate(interface.ports or ()):
            here = f"{where[name]}.ports[{number}]"
            other = masters.setdefault(port, name)
            if other != name:
                yield Problem(here, "a port of one interface only", f"{port} of {other} and {name}")
            if port in present:
                yield from _port_problems(interface, present[port], here)
        for user in interface.uses:
            if user in gone:
                yield Problem(where[name], f"{user}, which it uses, to be present", "state absent")


def _port_problems(master: Interface, port: Interface, here: str) -> Iterable[Problem]:
    if master.type == BOND and port.type != ETHERNET:
        yield Problem(here, "a port of a bond to be an ethernet interface", f"type {port.type}")
    if port.addresses or port.gateway or port.dhcp:
        what = f"{port.name} states addresses, gateway or dhcp"
        yield Problem(here, f"addresses on {master.name} and not on its port", what)


def _mtu_between(present: Mapping[str, Interface], where: Mapping[str, str]) -> Iterable[Problem]:
    """Yield where something is larger than what carries it."""
    for name, interface in present.items():
        for below in interface.uses:
            carrier = present.get(below)
            carried, carries = interface.mtu, carrier.mtu if carrier else None
            if carried and carries and carried > carries:
                expected = f"at most the {carries} bytes of {below}"
                yield Problem(f"{where[name]}.mtu", expected, str(carried))
