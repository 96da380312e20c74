# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""libvirt's event loop, and what it brings.

Events come over connections that were opened while the process had a loop. Every call over such a
one wakes the loop twice, and a daemon ends it if its keepalives are not answered for half a minute
(keepalive_interval and keepalive_count of libvirtd.conf). So there is a loop only where something
is waited for, and then in a thread of its own: this process may do something else for minutes.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any, Collection

NAME = "libvirt's events"  # of the loop's thread


class EventLoop:
    """Runs libvirt's event loop, of which a process has one, while anybody wants it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wanted = 0
        self._known = False  # libvirt keeps a loop that was registered
        self._thread: threading.Thread | None = None
        self._timer = -1

    def join(self, libvirt: Any) -> bool:
        """Let it run for a connection that is to be opened, if there ever was one; return that."""
        if self._known:
            self.want(libvirt)
        return self._known

    def want(self, libvirt: Any) -> None:
        """Let it run, from before a connection is opened until after that is closed."""
        with self._lock:
            self._wanted += 1
            self._known = True
            if self._thread is None:
                libvirt.virEventRegisterDefaultImpl()
                self._timer = libvirt.virEventAddTimeout(-1, lambda *_: None, None)
                self._thread = threading.Thread(
                    target=self._run, name=NAME, args=(libvirt,), daemon=True
                )
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
