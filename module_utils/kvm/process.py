# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Processes told apart for certain: a pid alone may long belong to somebody else.

A process is identified by pid, start time (field 22 of /proc/PID/stat, clock ticks since boot;
proc(5)) and the boot it lived in (/proc/sys/kernel/random/boot_id).
"""

from __future__ import annotations

import os
import signal as signals
from contextlib import suppress
from functools import lru_cache
from typing import Any, NamedTuple


class Identity(NamedTuple):
    """One process of one boot."""

    pid: int
    start: int
    boot_id: str

    def to_dict(self) -> dict[str, Any]:
        """Return the plain values that `from_dict` reads."""
        return self._asdict()

    @classmethod
    def from_dict(cls, data: object) -> Identity | None:
        """Return the identity in ``data``, or None where it is not one."""
        if not isinstance(data, dict):
            return None
        pid, start, boot_id = data.get("pid"), data.get("start"), data.get("boot_id")
        if type(pid) is int and type(start) is int and isinstance(boot_id, str) and pid > 0:
            return cls(pid, start, boot_id)
        return None


@lru_cache(maxsize=None)
def boot_id() -> str:
    """Return this boot's identity."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def _start_time(pid: int) -> int | None:
    """Return the start time in clock ticks, None where there is no such process or a zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    # The text after the command's closing parenthesis begins with field 3, the state.
    if len(fields) < 20 or fields[0] in (b"Z", b"X"):
        return None
    return int(fields[19])


def identity(pid: int) -> Identity | None:
    """Return who ``pid`` is now, or None where nobody is."""
    start = _start_time(pid)
    return None if start is None else Identity(pid, start, boot_id())


def alive(who: Identity) -> bool:
    """Return whether that very process still runs."""
    return _start_time(who.pid) == who.start and boot_id() == who.boot_id


def signal(who: Identity, signum: int = signals.SIGTERM) -> bool:
    """Send the signal to that very process; False where it is gone.

    A pidfd (Linux 5.3, Python 3.9) holds the process while it is checked, so that the pid cannot be
    given to another in between.
    """
    if not hasattr(os, "pidfd_open") or not hasattr(signals, "pidfd_send_signal"):
        if alive(who):
            with suppress(ProcessLookupError):
                os.kill(who.pid, signum)
                return True
        return False
    with suppress(ProcessLookupError):
        descriptor = os.pidfd_open(who.pid)
        try:
            if alive(who):
                signals.pidfd_send_signal(descriptor, signum)
                return True
        finally:
            os.close(descriptor)
    return False
