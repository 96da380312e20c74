# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where guests of the helper are reached, and waiting until they are there.

A guest's addresses are those that its seed gives it, and those that the host has heard from its
MACs (/proc/net/arp, proc(5)).
"""

from __future__ import annotations

import time
from typing import Any, Callable, Mapping, Sequence

from ...units import format_duration
from ..reaching import DEFAULT_TIMEOUT, speaks_ssh

_FIRST, _LONGEST = 0.25, 2.0  # seconds between two looks
_COMPLETE = 0x2  # ATF_COM of an ARP entry


def heard(macs: Sequence[str], path: str = "/proc/net/arp") -> list[str]:
    """Return the IPv4 addresses that the host knows for the MACs."""
    try:
        with open(path, encoding="ascii") as table:
            rows = [line.split() for line in table][1:]
    except OSError:
        return []
    return [
        row[0]
        for row in rows
        if len(row) >= 4 and row[3].lower() in macs and int(row[2], 16) & _COMPLETE
    ]


def stated(spec: Mapping[str, Any]) -> list[str]:
    """Return the addresses that a guest's seed gives to its NICs."""
    network = (spec.get("cloud_init") or {}).get("network_config") or {}
    return [
        str(address).partition("/")[0]
        for nic in (network.get("ethernets") or {}).values()
        for address in nic.get("addresses") or ()
    ]


def addresses(spec: Mapping[str, Any]) -> list[str]:
    """Return where a guest may be reached, what was stated first."""
    macs = [nic["mac"] for nic in spec.get("nics") or () if nic.get("mac")]
    return list(dict.fromkeys([*stated(spec), *heard(macs)]))


def wait_for(
    asked: Mapping[str, Mapping[str, Any]],
    specs: Callable[[str], Mapping[str, Any]],
    runs: Callable[[str], bool],
) -> dict[str, str]:
    """Wait for guests side by side; return the reason for each that did not get there.

    ``asked`` has what is waited for and how long (seconds) by name, ``specs`` gives a guest's spec
    with the documents of its seed, ``runs`` whether it runs.
    """
    begin = time.monotonic()
    waiting, failures = dict(asked), {}
    pause = _FIRST
    while waiting:
        for name, wanted in list(waiting.items()):
            timeout = float(wanted.get("wait_timeout", DEFAULT_TIMEOUT))
            late = time.monotonic() - begin >= timeout  # asked last once its time is over
            what = wanted["wait_for"]
            if not runs(name):
                failures[name] = "it has ended while it was waited for"
            elif what == "running" or _reached(what, specs(name)):
                pass
            elif late:
                failures[name] = f"{_LATE[what]} after {format_duration(timeout)}"
            else:
                continue
            del waiting[name]
        if waiting:
            time.sleep(pause)
            pause = min(pause * 1.5, _LONGEST)
    return failures


_LATE = {
    "address": "the host has heard of no address of it (does it ask for one?)",
    "ssh": "nothing answers as SSH does at any address of it",
}


def _reached(what: str, spec: Mapping[str, Any]) -> bool:
    found = addresses(spec)
    return bool(found) if what == "address" else any(speaks_ssh(address) for address in found)
