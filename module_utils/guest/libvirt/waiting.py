# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Waiting until guests are where they shall be: running, their agent, an address, SSH."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Collection, Mapping, Sequence

from ...units import format_duration
from ...virt.connection import said
from ...virt.document import Document
from ..engine import RUNNING
from ..reaching import DEFAULT_TIMEOUT, speaks_ssh
from .observe import state_of

if TYPE_CHECKING:
    from ...virt.connection import Connection
    from ..spec import Declared

_AGENT = "org.qemu.guest_agent.0"
_UNUSABLE = ("127.", "::1", "fe80:")


def usable(interfaces: Mapping[str, Any] | None) -> list[str]:
    """Return the addresses that others can reach, of what libvirt says of a guest's interfaces."""
    found = []
    for values in (interfaces or {}).values():
        for entry in values.get("addrs") or ():
            address = str(entry.get("addr", ""))
            if address and not address.startswith(_UNUSABLE):
                found.append(address)
    return found


def has_agent(xml: str) -> bool:
    """Return whether a running domain's agent has opened its end of the channel."""
    for target in Document(xml).root.findall("devices/channel/target"):
        if target.get("name") == _AGENT and target.get("state") == "connected":
            return True
    return False


def addresses_of(libvirt: Any, domain: Any) -> list[str]:
    """Return a running guest's addresses: leases first, then its agent, then the ARP table."""
    sources = [libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE]
    if has_agent(domain.XMLDesc(0)):
        sources.append(libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT)
    sources.append(libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_ARP)
    for source in sources:
        with suppress(libvirt.libvirtError):
            found = usable(domain.interfaceAddresses(source, 0))
            if found:
                return found
    return []


class Waiter:
    """Asks one guest whether it is where it shall be."""

    def __init__(self, libvirt: Any, domain: Any) -> None:
        self.libvirt = libvirt
        self.domain = domain
        self.found: list[str] = []

    def running(self) -> bool:
        """Return whether it runs."""
        return state_of(self.libvirt, self.domain) == RUNNING

    def agent(self) -> bool:
        """Return whether its agent answers."""
        return self.running() and has_agent(self.domain.XMLDesc(0))

    def address(self) -> bool:
        """Return whether it has an address."""
        if not self.running():
            return False
        self.found = addresses_of(self.libvirt, self.domain)
        return bool(self.found)

    def ssh(self) -> bool:
        """Return whether one of its addresses answers as SSH does."""
        return self.address() and any(speaks_ssh(address) for address in self.found)


def wait_for(
    connection: Connection, guests: Sequence[Declared], addresses: dict[str, list[str]]
) -> dict[str, str]:
    """Wait for all guests side by side; return the reason for each that did not get there.

    The addresses that were seen meanwhile are noted by guest. Each has its own ``wait_timeout``;
    what was waited for is there or is not at its end.
    """
    libvirt = connection.libvirt
    begin = time.monotonic()
    failures: dict[str, str] = {}
    waiting = {guest.name: guest for guest in guests}

    def ask(guest: Declared) -> bool:
        """Return whether a guest is where it shall be, or will not get there."""
        # Asked last once its time is over.
        late = time.monotonic() - begin >= _timeout(guest)
        try:
            waiter = Waiter(libvirt, connection.handle.lookupByName(guest.name))
            if getattr(waiter, guest.asked["wait_for"])():
                addresses[guest.name] = waiter.found
                return True
        except libvirt.libvirtError as error:
            if connection.is_lost():
                raise
            failures[guest.name] = said(error)
            return True
        if late:
            failures[guest.name] = _late(guest)
        return late

    def arrived(heard: Collection[str] | None) -> bool:
        asked = [guest for name, guest in waiting.items() if heard is None or name in heard]
        for guest in [guest for guest in asked if ask(guest)]:
            del waiting[guest.name]
        return not waiting

    connection.wait(arrived, math.inf)
    return failures


def _timeout(guest: Declared) -> float:
    return float(guest.asked.get("wait_timeout", DEFAULT_TIMEOUT))


def _late(guest: Declared) -> str:
    words = {
        "running": "it does not run",
        "agent": "its agent does not answer (is qemu-guest-agent installed and running there?)",
        "address": "it has no address (does it ask for one, and is its network up?)",
        "ssh": "nothing answers as SSH does at any address of it",
    }
    return f"{words[guest.asked['wait_for']]} after {format_duration(_timeout(guest))}"
