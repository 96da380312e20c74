# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Addresses, gateways and name servers: what can be wrong in them."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Iterable, Iterator, Mapping, Union

from ...converge.errors import Problem, shown

_Interface = Union[ipaddress.IPv4Interface, ipaddress.IPv6Interface]
_Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]


@dataclass(frozen=True)
class Addresses:
    """What one interface states about addresses."""

    addresses: tuple[str, ...] | None
    gateway: tuple[str, ...] | None
    dns: tuple[str, ...] | None
    dhcp: bool


def canonical(address: str) -> str:
    """Return an address with its prefix as the kernel writes it."""
    return str(ipaddress.ip_interface(address))


def _interface(text: str) -> _Interface | None:
    if "/" not in text:
        return None
    try:
        return ipaddress.ip_interface(text)
    except ValueError:
        return None


def _address(text: str) -> _Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _unusable(found: _Interface) -> str | None:
    """Return why no host can have the address."""
    if found.ip.is_multicast or found.ip.is_loopback or found.ip.is_unspecified:
        return "it is multicast, loopback or unspecified"
    network = found.network
    if network.version == 4 and network.prefixlen < 31:
        if found.ip == network.network_address:
            return "it is the network's own address"
        if found.ip == network.broadcast_address:
            return "it is the broadcast address"
    return None


def address_problems(stated: Addresses, where: str) -> Iterator[Problem]:
    """Yield what is wrong in one interface's addresses."""
    networks = []
    for number, text in enumerate(stated.addresses or ()):
        here = f"{where}.addresses[{number}]"
        found = _interface(text)
        if found is None:
            yield Problem(here, "an address with its prefix such as 192.0.2.10/24", shown(text))
            continue
        networks.append(found)
        why = _unusable(found)
        if why:
            yield Problem(here, "an address that a host can have", f"{text}: {why}")
    yield from _gateway_problems(stated, networks, where)
    for number, text in enumerate(stated.dns or ()):
        if _address(text) is None:
            yield Problem(f"{where}.dns[{number}]", "the address of a name server", shown(text))


def _gateway_problems(
    stated: Addresses, networks: list[_Interface], where: str
) -> Iterator[Problem]:
    families: set[int] = set()
    for number, text in enumerate(stated.gateway or ()):
        here = f"{where}.gateway[{number}]"
        found = _address(text)
        if found is None:
            yield Problem(here, "the address of a router", shown(text))
            continue
        if found.version in families:
            yield Problem(here, "one gateway a family", shown(text))
        families.add(found.version)
        if found in {network.ip for network in networks}:
            yield Problem(here, "another address than the interface's own", text)
        if found.is_link_local or any(found in network.network for network in networks):
            continue
        subnets = ", ".join(str(network.network) for network in networks) or "none is stated"
        yield Problem(here, "a gateway inside a subnet of the interface", f"{text} ({subnets})")


def overlaps(stated: Mapping[str, Addresses]) -> Iterable[Problem]:
    """Yield addresses stated twice, subnets on two interfaces, and gateways of one family twice."""
    seen: list[tuple[str, _Interface]] = []
    gateways: dict[int, str] = {}
    for where, item in stated.items():
        for number, text in enumerate(item.addresses or ()):
            found = _interface(text)
            if found is None:
                continue
            here = f"{where}.addresses[{number}]"
            for place, other in seen:
                if other.ip == found.ip:
                    yield Problem(here, "each address once", f"{text} ({place} has it too)")
                elif place.rpartition(".")[0] != where and _overlap(other, found):
                    expected = "a subnet that no other interface has"
                    yield Problem(here, expected, f"{text} overlaps {other} of {place}")
            seen.append((here, found))
        for text in item.gateway or ():
            router = _address(text)
            if router is None:
                continue
            first = gateways.setdefault(router.version, where)
            if first != where:
                expected = "one default gateway a family"
                yield Problem(f"{where}.gateway", expected, f"{text} ({first} has one too)")


def _overlap(one: _Interface, two: _Interface) -> bool:
    if isinstance(one, ipaddress.IPv4Interface) and isinstance(two, ipaddress.IPv4Interface):
        return one.network.overlaps(two.network)
    if isinstance(one, ipaddress.IPv6Interface) and isinstance(two, ipaddress.IPv6Interface):
        return one.network.overlaps(two.network)
    return False
