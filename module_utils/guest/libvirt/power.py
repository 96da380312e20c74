# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Guests started and stopped: all at once, and waited for by libvirt's events."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Collection, Mapping, Sequence

from ...units import format_duration
from ...virt.connection import AT_ONCE
from ..engine import PAUSED
from .observe import state_of

if TYPE_CHECKING:
    from ...virt.connection import Connection

# A guest that has not booted yet lets the power button pass: it is pressed again.
_AGAIN = 10.0  # seconds


class Power:
    """Starts and stops guests of one connection."""

    def __init__(self, connection: Connection, stop_timeout: float, *, force: bool) -> None:
        self.connection = connection
        self.libvirt = connection.libvirt
        self.stop_timeout = stop_timeout
        self.force = force

    def _domain(self, name: str) -> Any:
        return self.connection.handle.lookupByName(name)

    def start(self, names: Sequence[str], paused: Collection[str] = ()) -> dict[str, str]:
        """Start guests, some of them standing still; return why those failed that did."""

        def start(name: str) -> None:
            domain = self._domain(name)
            if not domain.isActive():
                flags = self.libvirt.VIR_DOMAIN_START_PAUSED if name in paused else 0
                domain.createWithFlags(flags)

        return self.connection.each(names, start, AT_ONCE)

    def stop(self, names: Sequence[str]) -> dict[str, str]:
        """Shut guests down and wait for it; with force, kill those that do not obey in time."""
        running: dict[str, Any] = {}

        def find(name: str) -> None:
            domain = self._domain(name)
            if state_of(self.libvirt, domain) == PAUSED:
                domain.resume()  # it could not hear of it otherwise
            running[name] = domain

        failures = self.connection.each(names, find)
        refusals: dict[str, str] = {}
        pressed = {"at": float("-inf")}

        def ended(heard: Collection[str] | None) -> bool:
            asked = [name for name in running if heard is None or name in heard]
            for name in [name for name in asked if not self._active(running[name])]:
                del running[name]
            if running and time.monotonic() - pressed["at"] >= _AGAIN:
                pressed["at"] = time.monotonic()
                refusals.update(self._press(running))
            return not running

        if not self.connection.wait(ended, self.stop_timeout):
            failures.update(self._kill(running, refusals))
        return failures

    def _press(self, running: Mapping[str, Any]) -> dict[str, str]:
        """Ask guests to shut down, by the agent or the power button as libvirt sees fit."""
        return self.connection.each(list(running), lambda name: running[name].shutdownFlags(0))

    def _kill(self, running: Mapping[str, Any], refusals: Mapping[str, str]) -> dict[str, str]:
        """End guests that did not obey where that is allowed, and say so where it is not."""
        if self.force:
            failures = self.connection.each(list(running), lambda name: running[name].destroy())
            return {n: why for n, why in failures.items() if self._active(running[n])}
        limit = format_duration(self.stop_timeout)
        return {
            name: f"it did not shut down within {limit}"
            + (f" ({refusals[name]})" if name in refusals else "")
            + ": give it a longer stop_timeout, or force: true, which is pulling its plug"
            for name in running
        }

    def restart(self, names: Sequence[str]) -> dict[str, str]:
        """Stop guests and start them anew, with the definition that they have now."""
        if not names:
            return {}
        failures = self.stop(names)
        return {**failures, **self.start([name for name in names if name not in failures])}

    def _active(self, domain: Any) -> bool:
        """Return whether a domain runs; one that is gone does not."""
        try:
            return bool(domain.isActive())
        except self.libvirt.libvirtError as error:
            if error.get_error_code() == self.libvirt.VIR_ERR_NO_DOMAIN:
                return False
            raise
