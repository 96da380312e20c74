# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Guests as units of systemd: one call of systemctl for all of them, whatever is asked.

The template virtfleet-guest@.service is installed together with the helper.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Callable, Sequence, Tuple

from .detached import Detached, Failures
from .observe import running_process

if TYPE_CHECKING:
    from ...kvm.layout import Layout

Run = Callable[[Sequence[str]], Tuple[int, str, str]]  # a command → its status, stdout and stderr

_PREFIX, _SUFFIX = "virtfleet-guest@", ".service"
_WANTS = "etc/systemd/system/multi-user.target.wants"


def unit(name: str) -> str:
    """Return the unit of a guest; its name, an RFC 1123 label, needs no escaping (systemd.unit(5)).

    A hyphen stays one in an instance's name: %i is used, which does not unescape.
    """
    return f"{_PREFIX}{name}{_SUFFIX}"


def guest_of(name: str) -> str:
    """Return the guest of a unit, empty for a unit of something else."""
    ours = name.startswith(_PREFIX) and name.endswith(_SUFFIX)
    return name[len(_PREFIX) : -len(_SUFFIX)] if ours else ""


def is_booted(root: str) -> bool:
    """Return whether systemd supervises this host (sd_booted(3)), which no other root is."""
    return root == "/" and os.path.isdir("/run/systemd/system")


class Supervised:
    """Starts, stops and enables guests through systemctl."""

    supervised = True

    def __init__(self, layout: Layout, run: Run) -> None:
        self.layout = layout
        self._run = run
        self._processes = Detached(layout)

    def _systemctl(self, verb: str, names: Sequence[str], *options: str) -> tuple[int, str]:
        command = ["systemctl", "--no-ask-password", *options, verb, "--", *map(unit, names)]
        status, _, error = self._run(command)
        return status, error.strip()

    def autostarted(self) -> set[str]:
        """Return the names of the guests that are started at boot."""
        try:
            entries = os.listdir(os.path.join(self.layout.root, _WANTS))
        except OSError:
            return set()
        return {guest_of(entry) for entry in entries} - {""}

    def autostart(self, names: Sequence[str], *, enable: bool) -> Failures:
        """Have the guests started at boot, or not."""
        if not names:
            return {}
        status, error = self._systemctl("enable" if enable else "disable", names, "--quiet")
        return dict.fromkeys(names, error or f"systemctl: status {status}") if status else {}

    def forget(self, names: Sequence[str]) -> None:
        """Let systemd forget that units of removed guests failed once."""
        if names:
            self._systemctl("reset-failed", names, "--quiet")  # fails for those that never did

    def ends(self, names: Sequence[str]) -> Failures:
        """Return how guests ended that left no record themselves: killed, or out of memory."""
        if not names:
            return {}
        options = ("--property=Id", "--property=Result")
        status, output, _ = self._run(
            ["systemctl", "--no-ask-password", *options, "show", "--", *map(unit, names)]
        )
        found: dict[str, str] = {}
        for block in output.split("\n\n") if status == 0 else ():
            values = dict(line.partition("=")[::2] for line in block.splitlines())
            result, name = values.get("Result", ""), guest_of(values.get("Id", ""))
            if name in names and result not in ("", "success"):
                found[name] = f"ended without a word, systemd says: {result}"
        return found

    def _started(self, names: Sequence[str], verb: str) -> Failures:
        """Start or restart the units; being of Type=notify, they are ready when this returns."""
        if not names:
            return {}
        status, error = self._systemctl(verb, names)
        if status == 0:
            return {}
        return {
            name: self._processes.last_words(name) or error or f"systemctl: status {status}"
            for name in names
            if running_process(self.layout.guest(name)) is None
        }

    def start(self, names: Sequence[str]) -> Failures:
        """Start the guests and return why some of them did not start."""
        return self._started(names, "start")

    def stop(self, names: Sequence[str], timeout: float, *, force: bool) -> Failures:
        """Stop the guests; the unit's own TimeoutStopSec ends those that do not stop by themselves.

        What still runs afterwards was not started by systemd, and is stopped without it.
        """
        if not names:
            return {}
        self._systemctl("stop", names)
        return self._processes.stop(names, timeout, force=force)

    def restart(self, names: Sequence[str], timeout: float, *, force: bool) -> Failures:
        """Stop and start the guests."""
        failures = dict(self.stop(names, timeout, force=force))
        failures.update(self.start([name for name in names if name not in failures]))
        return failures
