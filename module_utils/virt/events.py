# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""libvirt's event loop, and what it brings.

A daemon ends a connection whose client has not answered its keepalives for half a minute
(keepalive_interval and keepalive_count of libvirtd.conf). They are answered by the event loop,
which therefore has a thread of its own: this process may wait for something else for minutes.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any, Collection


class EventLoop:
    """Runs libvirt's event loop, of which a process has one, while anybody wants it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wanted = 0
        self._thread: threading.Thread | None = None
        self._timer = -1

    def want(self, libvirt: Any) -> None:
        """Let it run, from before a connection is opened until after that is closed."""
        with self._lock:
            self._wanted += 1
            if self._thread is None:
                libvirt.virEventRegisterDefaultImpl()
                self._timer = libvirt.virEventAddTimeout(-1, lambda *_: None, None)
                self._thread = threading.Thread(target=self._run, args=(libvirt,), daemon=True)
                self._thread.start()

    def leave(self, libvirt: Any) -> None:
        """Let it end, if nobody else wants it."""
        with self._lock:
            self._wanted -= 1
            if self._wanted or self._thread is None:
                return
            libvirt.virEventUpdateTimeout(self._timer, 0)  # it wakes up
            self._thread.join()
            libvirt.virEventRemoveTimeout(self._timer)
            self._thread = None

    def _run(self, libvirt: Any) -> None:
        with suppress(libvirt.libvirtError):
            while self._wanted:
                libvirt.virEventRunDefaultImpl()


LOOP = EventLoop()


class Heard:
    """The names of the domains that events came from; filled on the loop's thread."""

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._news = threading.Condition()

    def add(self, name: str) -> None:
        """Note that there was an event of a domain."""
        with self._news:
            self._names.add(name)
            self._news.notify()

    def take(self) -> Collection[str]:
        """Return the names since the last time."""
        with self._news:
            names, self._names = frozenset(self._names), set()
            return names

    def wait(self, seconds: float) -> None:
        """Wait until there is a name, and no longer than so many seconds."""
        with self._news:
            self._news.wait_for(lambda: bool(self._names), seconds)
