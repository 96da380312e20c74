# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run is waiting for, told now and then: on the controller, fed by a callback. No I/O."""

from __future__ import annotations

from typing import Collection

_NAMED = 4  # hosts that a line names


def elapsed(seconds: float) -> str:
    """Return a time as people read it: 7 s, 1:05 min, 2:00:09 h."""
    whole = int(seconds)
    minutes, rest = divmod(whole, 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} h" if hours else f"{minutes}:{rest:02} min"


class Progress:
    """A task's way over its hosts.

    Times are seconds of one clock. Of a task that is under way for ``patience`` seconds a line is
    due, and the next one when twice as much has passed: a long wait is told and no noise.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._task = ""
        self._begun: dict[str, float] = {}
        self._since = 0.0
        self._done = 0
        self._due = 0.0

    def start(self, host: str, task: str, now: float) -> None:
        """Note that a task begins on a host."""
        if task != self._task or not self._begun:
            self._task, self._since, self._done = task, now, 0
            self._begun = {}
            self._due = now + self._patience
        self._begun[host] = now

    def end(self, host: str, now: float) -> float:
        """Note that it ended there; return how long it took."""
        begun = self._begun.pop(host, now)
        self._done += 1
        return now - begun

    def line(self, now: float) -> str:
        """Return what is waited for, empty where nothing is to be told yet."""
        if not self._begun or now < self._due:
            return ""
        self._due = now + (now - self._since)
        total = self._done + len(self._begun)
        done = f", done on {self._done} of {total} hosts" if total > 1 else ""
        return f"{elapsed(now - self._since)}: {self._task}{done}; at work: {_names(self._begun)}"


def _names(hosts: Collection[str]) -> str:
    names = sorted(hosts)
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
