# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which filter a NIC on a bridge has where its declaration says nothing of one.

A guest there is among strangers: it sends from its own MAC alone, and where its declaration says
its IPv4 addresses, from those alone. A NIC that is there already keeps what it has, unless that is
one of these filters: that one follows the declaration.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Mapping, NamedTuple

from .seeding import KEY

if TYPE_CHECKING:
    from ..engine import Observed


def _bridged(nic: Mapping[str, Any], leads: Callable[[str], bool]) -> bool:
    """Return whether a NIC is on a plain bridge of the host, ``leads`` telling so of a network."""
    if "filter" in nic or nic.get("virtualport"):
        return False
    return bool(nic.get("bridge")) or bool(nic.get("network") and leads(nic["network"]))


def _addresses(stated: Mapping[str, Any], number: int) -> list[str]:
    """Return the IPv4 addresses of a NIC where these are all that it will have."""
    from ...seed.declaration import Declaration  # compiled on the host, so only where needed

    declared = stated.get(KEY)
    if not isinstance(declared, Declaration) or declared.network_config is not None:
        return []
    ip = (declared.ips or ())[number] if number < len(declared.ips or ()) else None
    if not ip or ip.get("dhcp4"):
        return []
    plain = (str(one).partition("/")[0] for one in ip.get("addresses") or ())
    return [one for one in plain if ":" not in one]


class _There(NamedTuple):
    """A NIC that a guest has, as `NICS` pairs it."""

    values: Mapping[str, Any]
    name: str | None


def _there(seen: Observed | None) -> list[_There]:
    nics = ((None if seen is None else seen.spec) or {}).get("nics") or ()
    return [_There(nic, nic.get("mac")) for nic in nics]


def guarded(
    stated: Mapping[str, Any],
    seen: Observed | None,
    leads: Callable[[str], bool],
    possible: Callable[[], bool],
) -> Mapping[str, Any]:
    """Return what was stated, with the filter that each NIC on a bridge gets or has to have."""
    nics = stated.get("nics") or ()
    numbers = [number for number, nic in enumerate(nics) if _bridged(nic, leads)]
    if not numbers or not possible():
        return stated
    # The table is compiled on the host, so only where there is a NIC to guard.
    from ...virt.nic import ANTISPOOFING, NICS

    pairs = NICS.pair(nics, _there(seen))
    whole = list(nics)
    for number in numbers:
        entry = pairs[number]
        has = None if entry is None else entry.values.get("filter")
        if entry is None or (has in ANTISPOOFING and KEY in stated):
            whole[number] = {**nics[number], **_filter(_addresses(stated, number), has)}
    return {**stated, "nics": whole}


def _filter(addresses: list[str], has: str | None) -> dict[str, Any]:
    from ...virt.nic import ANTISPOOF, ANTISPOOF_IP

    if addresses:
        several = addresses if len(addresses) > 1 else addresses[0]
        return {"filter": ANTISPOOF_IP, "filter_parameters": {"IP": several}}
    return {"filter": ANTISPOOF, **({"filter_parameters": None} if has == ANTISPOOF_IP else {})}
