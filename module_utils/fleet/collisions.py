# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What two guests of a fleet would have that only one of them can: a MAC, an address of a network.

A guest that has no host yet may come to any. Where a network leads to the hosts' own, one of its
addresses is taken on all of them; behind NAT, or inside of a host, on that host alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Iterator, Mapping, NamedTuple, Sequence

if TYPE_CHECKING:
    from .declare import Guest

_INSIDE = ("nat", "route", "open", "isolated")  # modes in which each host has a bridge of its own


class Taken(NamedTuple):
    """A value that a guest states at a path of its spec, and where in the fleet it is taken."""

    guest: Guest
    path: tuple[Any, ...]
    what: str
    value: str
    host: str | None  # on which alone it is taken, None where that is all of them


def _plain(address: Any) -> str:
    return str(address).partition("/")[0]


def _addresses(nic: Mapping[str, Any]) -> Iterator[tuple[tuple[Any, ...], str]]:
    stated = nic.get("ip")
    addresses = stated.get("addresses") if isinstance(stated, Mapping) else None
    for number, one in enumerate(addresses if isinstance(addresses, (list, tuple)) else ()):
        yield ("ip", "addresses", number), _plain(one)
    if isinstance(nic.get("lease"), str):
        yield ("lease",), nic["lease"]


def taken(guest: Guest, networks: Mapping[str, Any]) -> Iterator[Taken]:
    """Yield what a guest states that no other may have; ``networks`` are those of the fleet."""
    nics = guest.spec.get("nics") if guest.spec.get("state") != "absent" else ()
    for number, nic in enumerate(nics if isinstance(nics, (list, tuple)) else ()):
        if not isinstance(nic, Mapping):
            continue
        if isinstance(nic.get("mac"), str):
            mac = nic["mac"].lower()
            yield Taken(guest, ("nics", number, "mac"), "a MAC of its own", mac, None)
        place = nic.get("network") or nic.get("bridge")
        network = networks.get(str(nic.get("network"))) or {}
        host = guest.host if network.get("mode") in _INSIDE else None
        for path, address in _addresses(nic) if isinstance(place, str) else ():
            where = ("nics", number, *path)
            yield Taken(guest, where, "an address of its own", f"{address} on {place}", host)


def collisions(
    guests: Sequence[Guest], networks: Mapping[str, Any]
) -> Iterator[tuple[Taken, Taken]]:
    """Yield what is taken twice: the later guest's, and the one that it meets."""
    known: dict[tuple[str, str], list[Taken]] = {}
    for guest in guests:
        for one in taken(guest, networks):
            others = known.setdefault((one.what, one.value), [])
            met = next((other for other in others if _meet(one, other)), None)
            if met is not None:
                yield one, met
            others.append(one)


def _meet(one: Taken, other: Taken) -> bool:
    return one.host is None or other.host is None or one.host == other.host
