# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Guests as detached processes, on hosts where systemd does not supervise.

A process is known by the pid file that it wrote as root, and only together with its start time:
a stale file, or a pid that somebody else has by now, is nobody's process.
"""

from __future__ import annotations

import os
import select
import signal as signals
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Callable, Mapping, Sequence

from ...kvm.process import Identity, alive, signal
from .observe import read_exit, read_process, running_process
from .spawn import Starting, launch, wait
from .store import clean_run

if TYPE_CHECKING:
    from ...kvm.layout import Layout

START_TIMEOUT = 60.0  # seconds until a guest must have reported
ANSWER_TIMEOUT = 5.0  # seconds until a control socket must have answered
_KILL_TIMEOUT = 10.0
_PID_FILE_TIMEOUT = 1.0
_INTERVAL = 0.02

Failures = Mapping[str, str]


def wait_for_end(processes: Mapping[str, Identity], timeout: float) -> set[str]:
    """Return the names of those that still run after ``timeout`` seconds at most."""
    end = time.monotonic() + timeout
    left = {name: who for name, who in processes.items() if alive(who)}
    while left and time.monotonic() < end:
        _wait_for_one(next(iter(left.values())), end)
        left = {name: who for name, who in left.items() if alive(who)}
    return set(left)


def _wait_for_one(who: Identity, end: float) -> None:
    """Wait until this process has ended, or the time has come."""
    if not hasattr(os, "pidfd_open"):  # Python 3.8
        time.sleep(_INTERVAL)
        return
    try:
        descriptor = os.pidfd_open(who.pid)
    except OSError:
        time.sleep(_INTERVAL)
        return
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        # Whoever got the pid meanwhile may never end: the look at the start time comes again.
        poll.poll(max(0.0, min(1.0, end - time.monotonic())) * 1000)
    finally:
        os.close(descriptor)


class Detached:
    """Starts and stops guests by itself; nothing starts them when the host boots."""

    supervised = False

    def __init__(
        self,
        layout: Layout,
        start: Callable[[Sequence[str]], Starting] = launch,
        start_timeout: float = START_TIMEOUT,
    ) -> None:
        self.layout = layout
        self._launch = start
        self._start_timeout = start_timeout

    def autostarted(self) -> None:
        """Return None: nothing is started at boot here."""

    def autostart(self, names: Sequence[str], *, enable: bool) -> Failures:
        """Do nothing: that nothing starts a guest here is told by the plan as pending."""
        del names, enable
        return {}

    def forget(self, names: Sequence[str]) -> None:
        """Do nothing: there is no supervisor that remembers a guest."""

    def _command(self, name: str) -> list[str]:
        where = [] if self.layout.root == "/" else ["--root", self.layout.root]
        return [self.layout.command, "serve", name, *where]

    def start(self, names: Sequence[str]) -> Failures:
        """Start the guests, several at a time, and return why some of them did not start."""
        failures: dict[str, str] = {}
        at_once = 4 * (os.cpu_count() or 1)
        for first in range(0, len(names), at_once):
            starting: dict[str, Starting] = {}
            for name in names[first : first + at_once]:
                self._begin(name, starting, failures)
            for name, said in wait(starting, self._start_timeout).items():
                why = self._why_not(name, starting[name].pid, said)
                if why is not None:
                    failures[name] = why
        return failures

    def _begin(self, name: str, starting: dict[str, Starting], failures: dict[str, str]) -> None:
        """Start one guest's process, or note why that cannot be."""
        self._clean(name)
        try:
            starting[name] = self._launch(self._command(name))
        except OSError as error:
            failures[name] = f"{self.layout.command}: {error.strerror}"

    def _why_not(self, name: str, pid: int, said: str | None) -> str | None:
        """Return why the guest did not start, None if it did."""
        if said == "ready":
            return None
        if said is None:
            return f"it was not ready after {self._start_timeout:.0f} seconds and was ended"
        if self._runs_elsewhere(name, pid, patient="already running" in said):
            return None  # somebody else started it in the meantime, which is as good
        if said.startswith("error:"):
            return said.partition(":")[2].strip()
        return said or self.last_words(name) or "it ended before it was ready, without a word"

    def _runs_elsewhere(self, name: str, pid: int, *, patient: bool) -> bool:
        """Return whether another process than ``pid`` runs the guest.

        One that holds the guest's lock is just about to write its pid file.
        """
        end = time.monotonic() + (_PID_FILE_TIMEOUT if patient else 0.0)
        while True:
            process = running_process(self.layout.guest(name))
            if process is not None and process.who.pid != pid:
                return True
            if time.monotonic() >= end:
                return False
            time.sleep(_INTERVAL)

    def ends(self, names: Sequence[str]) -> Failures:
        """Return nothing: who watches no process knows no more than the guests' own records."""
        del names
        return {}

    def last_words(self, name: str) -> str | None:
        """Return the reason of the guest's last exit, if it left one."""
        record = read_exit(self.layout.guest(name))
        return None if record is None else str(record[0]["reason"])

    def stop(self, names: Sequence[str], timeout: float, *, force: bool) -> Failures:
        """Stop the guests and return those that did not stop in time.

        Each is asked by SIGTERM, and with ``force`` killed in the end.
        """
        running: dict[str, Identity] = {}
        for name in names:
            process = running_process(self.layout.guest(name))
            if process is not None:
                running[name] = process.who
                # Its helper presses the power button first, where the guest listens to that.
                signal(process.who, signals.SIGTERM)
        left = wait_for_end(running, timeout)
        if force and left:
            killed = {name: running[name] for name in left}
            for who in killed.values():
                signal(who, signals.SIGKILL)
            left = wait_for_end(killed, _KILL_TIMEOUT)
            for name in killed:
                # An older record would pass for the reason of this end.
                with suppress(OSError):
                    os.unlink(self.layout.guest(name).last_exit)
        for name in names:
            if name not in left:
                self._clean(name)
        why = f"it did not stop within {timeout:g} seconds; force: true kills it"
        return dict.fromkeys(left, why)

    def _clean(self, name: str) -> None:
        """Remove the traces of a process that is gone; a pid file of a new one stays."""
        paths = self.layout.guest(name)
        process = read_process(paths)
        if process is None or not alive(process.who):
            clean_run(paths)

    def restart(self, names: Sequence[str], timeout: float, *, force: bool) -> Failures:
        """Stop and start the guests; one that does not stop is not started."""
        failures = dict(self.stop(names, timeout, force=force))
        failures.update(self.start([name for name in names if name not in failures]))
        return failures
