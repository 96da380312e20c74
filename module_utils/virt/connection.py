# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""libvirt's binding, imported late, and one connection to a hypervisor.

The binding is the distribution's own (python3-libvirt); what only reads and plans does without it.
"""

from __future__ import annotations

import errno
import sys
import threading
import time
from collections import deque
from contextlib import contextmanager, suppress
from typing import Any, Callable, Collection, Iterable, Iterator, Sequence

from ..converge.errors import VirtfleetError, system_says
from .events import LOOP, Heard

LOCAL_URI = "qemu:///system"
LOST = "libvirt went away in the middle; run again, once it is back"
# Not all that is waited for has an event: after how many seconds it is looked for, which is a share
# of the time that it takes already. Each look costs libvirt a call for each guest.
_SOONEST, _SHARE, _LATEST = 0.5, 0.1, 5.0
# Of what takes libvirt long (it validates a definition, starts QEMU): so many at once. Its daemons
# take five calls of one connection at a time (max_client_requests).
AT_ONCE = 4
_MANY = 16  # questions, from where on they are worth threads


class ConnectError(VirtfleetError):
    """libvirt cannot be used here; ``missing`` is whether there is none at all."""

    def __init__(self, message: str, *, remedy: str | None = None, missing: bool = False) -> None:
        super().__init__(message, remedy=remedy)
        self.missing = missing


def binding() -> Any:
    """Return libvirt's Python module, which is made to print nothing by itself."""
    try:
        import libvirt
    except ImportError:
        raise ConnectError(
            f"{sys.executable} cannot import libvirt",
            remedy="install the distribution's python3-libvirt, as the role kvm_host does, and let"
            " ansible_python_interpreter be the distribution's python3",
            missing=True,
        ) from None
    libvirt.registerErrorHandler(lambda _context, _error: None, None)
    return libvirt


def said(error: Any) -> str:
    """Return what libvirt says of an error, in one line."""
    text = str(error.get_error_message() or error)
    return " ".join(text.split())


class Connection:
    """One connection, and another for events as soon as something is waited for."""

    def __init__(self, uri: str = LOCAL_URI) -> None:
        """Open it; ConnectError where that fails."""
        self.libvirt = binding()
        self._uri = uri
        self._closed = False
        self._lock = threading.Lock()
        looped = LOOP.join(self.libvirt)
        try:
            self.handle = self.libvirt.open(uri)
        except self.libvirt.libvirtError as error:
            if looped:
                LOOP.leave(self.libvirt)
            # A daemon that is there but refuses, or is stopped, may keep guests: that is not none.
            system = error.get_error_code() == self.libvirt.VIR_ERR_SYSTEM_ERROR
            raise ConnectError(
                f"no connection to {uri} ({said(error)})",
                remedy="see that libvirt runs there (systemctl status libvirtd or virtqemud) and"
                " that this user may use it",
                missing=system and error.get_int1() == errno.ENOENT,
            ) from None
        self._hears = self.handle if looped else None

    def is_lost(self) -> bool:
        """Return whether the other end is gone."""
        try:
            return not self.handle.isAlive()
        except self.libvirt.libvirtError:
            return True

    @contextmanager
    def passing(self) -> Iterator[None]:
        """Pass over what another process has removed since it was listed; all else is an error."""
        libvirt = self.libvirt
        try:
            yield
        except libvirt.libvirtError as error:
            if error.get_error_code() not in (
                libvirt.VIR_ERR_NO_DOMAIN,
                libvirt.VIR_ERR_NO_NETWORK,
                libvirt.VIR_ERR_NO_NWFILTER,
                libvirt.VIR_ERR_NO_STORAGE_POOL,
                libvirt.VIR_ERR_NO_STORAGE_VOL,
            ):
                raise

    def ask(self, questions: Sequence[Callable[[], Any]]) -> list[Any]:
        """Return what libvirt answers to each, None of what is gone; many are asked side by side.

        The first error is raised.
        """
        answers: list[Any] = [None] * len(questions)
        left = deque(enumerate(questions))
        errors: list[Exception] = []

        def work() -> None:
            while left and not errors:
                with suppress(IndexError):  # another took the last one
                    number, question = left.popleft()
                    try:
                        with self.passing():
                            answers[number] = question()
                    except self.libvirt.libvirtError as error:
                        errors.append(error)

        others = AT_ONCE - 1 if len(questions) >= _MANY else 0
        threads = [threading.Thread(target=work, daemon=True) for _ in range(others)]
        for thread in threads:
            thread.start()
        work()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        return answers

    def each(
        self, names: Iterable[str], work: Callable[[str], Any], at_once: int = 1
    ) -> dict[str, str]:
        """Do it for each, so many ``at_once``, and return why it failed for those where it did."""
        names = list(names)
        found: Iterable[str | None]
        if min(at_once, len(names)) > 1:
            from concurrent.futures import ThreadPoolExecutor  # imports much

            with ThreadPoolExecutor(at_once) as pool:
                found = list(pool.map(lambda name: self._attempt(work, name), names))
        else:
            found = [self._attempt(work, name) for name in names]
        return {name: why for name, why in zip(names, found) if why is not None}

    def _attempt(self, work: Callable[[str], Any], name: str) -> str | None:
        try:
            work(name)
        except self.libvirt.libvirtError as error:
            return LOST if self.is_lost() else said(error)
        except VirtfleetError as error:
            return str(error)
        except OSError as error:
            return system_says(error)
        return None

    def close(self) -> None:
        """End the connection."""
        if self._closed:
            return
        self._closed = True
        with suppress(self.libvirt.libvirtError):
            self.handle.close()
        if self._hears is None:
            return
        if self._hears is not self.handle:
            with suppress(self.libvirt.libvirtError):
                self._hears.close()
        LOOP.leave(self.libvirt)

    def _hearing(self) -> Any:
        """Return what events come over, None where there is nothing: libvirt is away."""
        with self._lock:
            if self._hears is None:
                LOOP.want(self.libvirt)
                try:
                    # What the test driver keeps is one connection's own, and it needs no loop.
                    test = self._uri.startswith("test:")
                    self._hears = self.handle if test else self.libvirt.open(self._uri)
                except self.libvirt.libvirtError:
                    LOOP.leave(self.libvirt)
            return self._hears

    def wait(self, done: Callable[[Collection[str] | None], bool], timeout: float) -> bool:
        """Wait until ``done``; False if it never was.

        It is asked of the domains that an event came from, by name, and now and then of all of them
        (None): at first, at the end, and in between the less often the longer it has taken already.
        """
        begin = time.monotonic()
        look = begin  # when all of them are asked again
        heard, hears = Heard(), self._hearing()
        events = self._listen(hears, heard)
        try:
            while True:
                now = time.monotonic()
                waited, everyone = now - begin, now >= look
                if everyone:
                    look = now + min(max(_SOONEST, waited * _SHARE), _LATEST)
                names = heard.take()
                if (everyone or names) and done(None if everyone else names):
                    return True
                if everyone and waited >= timeout:
                    return False
                look = min(look, begin + timeout)
                heard.wait(max(look - time.monotonic(), 0))
        finally:
            for event in events:
                with suppress(self.libvirt.libvirtError):
                    hears.domainEventDeregisterAny(event)

    def _listen(self, hears: Any, heard: Heard) -> list[int]:
        """Have the names of the domains collected whose state, or whose agent's, changes."""
        libvirt = self.libvirt
        found: list[int] = []
        if hears is None:
            return found
        for kind in (
            libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE,
            libvirt.VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE,
        ):

            def hear(_connection: Any, domain: Any, *_: Any) -> None:
                heard.add(domain.name())

            # A driver without events is asked by the clock alone.
            with suppress(libvirt.libvirtError):
                found.append(hears.domainEventRegisterAny(None, kind, hear, None))
        return found
