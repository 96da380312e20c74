# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a guest's output goes: a stream, a log that rotates, clients that are attached."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Callable

from .errors import OutputError

if TYPE_CHECKING:
    import socket

_BACKLOG_LIMIT = 256 * 1024  # bytes kept for an attached client that reads too slowly


class Stream:
    """An open descriptor, such as standard output. A failing write ends the guest."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, data: bytes) -> None:
        """Write all of ``data``; OutputError if that fails."""
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError as error:
            raise OutputError(f"cannot write the guest's output: {error.strerror}") from error


class Nowhere:
    """Takes output that only attached clients want."""

    def write(self, data: bytes) -> None:
        """Forget it."""


class Log:
    """A file that is kept below ``max_size`` bytes; ``keep`` older ones stand beside it.

    A full disk loses output, counted in ``dropped``, but never stops the guest. ``error`` says why
    the last write failed, None if it did not.
    """

    def __init__(self, path: str, max_size: int, keep: int) -> None:
        self.path = path
        self.max_size = max_size
        self.keep = keep
        self.dropped = 0
        self.error: str | None = None
        self._descriptor = -1
        self.size = 0
        self._open()

    def _open(self) -> None:
        # The folder is the guest's user's own: neither a link nor a named pipe may do harm.
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        try:
            self._descriptor = os.open(self.path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o640)
            self.size = os.fstat(self._descriptor).st_size
        except OSError as error:
            self._descriptor = -1
            self.error = error.strerror

    def _rotate(self) -> None:
        """Shift the files by one place, so that the present one starts empty."""
        self.close()
        try:
            for number in range(self.keep, 0, -1):
                older = f"{self.path}.{number}"
                newer = f"{self.path}.{number - 1}" if number > 1 else self.path
                if os.path.lexists(newer):
                    os.replace(newer, older)
            if not self.keep:
                os.unlink(self.path)
            surplus = self.keep + 1  # from when more were kept
            while os.path.lexists(f"{self.path}.{surplus}"):
                os.unlink(f"{self.path}.{surplus}")
                surplus += 1
        except OSError as error:
            self.error = error.strerror
        self._open()

    def write(self, data: bytes) -> None:
        """Append ``data``, in a new file where the present one is full."""
        if self.size + len(data) > self.max_size and self.size:
            self._rotate()
        written = 0
        if self._descriptor < 0:
            self._open()
        if self._descriptor >= 0:
            try:
                written = os.write(self._descriptor, data)
                self.error = None
            except OSError as error:
                self.error = error.strerror
        self.size += written
        self.dropped += len(data) - written

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class Client:
    """One attached client: gets output without ever holding the guest up."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.backlog = bytearray()
        self.lost = False

    def flush(self) -> None:
        """Send what is waiting, as far as the client takes it."""
        try:
            while self.backlog:
                sent = self.connection.send(self.backlog)
                del self.backlog[:sent]
        except BlockingIOError:
            pass
        except OSError:
            self.lost = True

    def write(self, data: bytes) -> None:
        """Send ``data``, or keep it; a client too far behind is given up."""
        self.backlog += data
        self.flush()
        if len(self.backlog) > _BACKLOG_LIMIT:
            self.lost = True


class Console:
    """Hands the guest's output to its stream or log and to all attached clients."""

    def __init__(self, target: Stream | Log | Nowhere) -> None:
        self.target = target
        self.began: float | None = None  # time.monotonic() of the first output
        self.on_backlog: Callable[[], None] = lambda: None  # somebody has to call `flush`
        self._clients: list[Client] = []
        self._lock = threading.Lock()

    def write(self, data: bytes) -> None:
        """Take output from the guest, on the thread of a vCPU or a device."""
        if self.began is None:
            self.began = time.monotonic()
        self.target.write(data)
        if self._clients:
            with self._lock:
                for client in self._clients:
                    client.write(data)
                behind = any(client.backlog or client.lost for client in self._clients)
            if behind:
                self.on_backlog()

    def attach(self, client: Client) -> None:
        """Let ``client`` have the output from now on."""
        with self._lock:
            self._clients.append(client)

    def detach(self, client: Client) -> None:
        """Let ``client`` go."""
        with self._lock:
            self._clients = [other for other in self._clients if other is not client]

    def flush(self) -> bool:
        """Send what clients wait for; return whether somebody still waits."""
        with self._lock:
            for client in self._clients:
                client.flush()
            return any(client.backlog for client in self._clients)


class Channel:
    """One way to talk with the guest, by its ``name``; lives as long as the process.

    ``receive`` takes what is typed and returns how many bytes there was room for; with ``waits``
    the rest is kept for later instead of being lost. ``on_presence`` is told whether somebody is
    attached.
    """

    def __init__(self, name: str, console: Console, *, waits: bool = False) -> None:
        self.name = name
        self.console = console
        self.waits = waits
        self.receive: Callable[[bytes], int] = len
        self.on_presence: Callable[[bool], None] = lambda _: None
        self.present = 0

    def attach(self, client: Client) -> None:
        """Let ``client`` have the output from now on."""
        self.console.attach(client)
        self.present += 1
        if self.present == 1:
            self.on_presence(True)

    def detach(self, client: Client) -> None:
        """Let ``client`` go."""
        self.console.detach(client)
        self.present -= 1
        if not self.present:
            self.on_presence(False)
