# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Waiting until guests are where they shall be: running, their agent, an address, SSH."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Callable, Mapping, Sequence

from ...units import format_duration
from ...virt.connection import said
from ...virt.document import Document
from ..engine import RUNNING
from .observe import state_of

if TYPE_CHECKING:
    from ...virt.connection import Connection
    from ..spec import Declared

DEFAULT_TIMEOUT = 300.0  # seconds
_AGENT = "org.qemu.guest_agent.0"
_SSH_PORT = 22
_PATIENCE = 1.0  # seconds for one attempt at a port
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


def speaks_ssh(address: str, port: int = _SSH_PORT) -> bool:
    """Return whether an SSH server greets at the address."""
    with suppress(OSError), socket.create_connection((address, port), _PATIENCE) as connection:
        connection.settimeout(_PATIENCE)
        return connection.recv(4) == b"SSH-"
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


def wait_for(connection: Connection, guests: Sequence[Declared]) -> dict[str, str]:
    """Wait for all guests side by side; return the reason for each that did not get there.

    Each has its own ``wait_timeout``; what was waited for is there or is not at its end.
    """
    libvirt = connection.libvirt
    failures: dict[str, str] = {}
    for timeout in sorted({_timeout(guest) for guest in guests}):
        # Shorter ones first: the longer ones go on waiting while these are asked.
        waiting: dict[str, tuple[Declared, Callable[[], bool]]] = {}
        for guest in guests:
            if _timeout(guest) == timeout:
                try:
                    waiter = Waiter(libvirt, connection.handle.lookupByName(guest.name))
                except libvirt.libvirtError as error:
                    failures[guest.name] = said(error)
                else:
                    waiting[guest.name] = (guest, getattr(waiter, guest.asked["wait_for"]))

        def arrived(waiting: dict[str, tuple[Declared, Callable[[], bool]]] = waiting) -> bool:
            for name in [name for name, (_, is_there) in waiting.items() if is_there()]:
                del waiting[name]
            return not waiting

        if not connection.wait(arrived, timeout):
            for name, (guest, _) in waiting.items():
                failures[name] = _late(guest, timeout)
    return failures


def _timeout(guest: Declared) -> float:
    return float(guest.asked.get("wait_timeout", DEFAULT_TIMEOUT))


def _late(guest: Declared, timeout: float) -> str:
    words = {
        "running": "it does not run",
        "agent": "its agent does not answer (is qemu-guest-agent installed and running there?)",
        "address": "it has no address (does it ask for one, and is its network up?)",
        "ssh": "nothing answers as SSH does at any address of it",
    }
    return f"{words[guest.asked['wait_for']]} after {format_duration(timeout)}"
