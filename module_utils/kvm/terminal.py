# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A person's terminal joined to a guest's serial port."""

from __future__ import annotations

import os
import select
import signal
import termios
import tty
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Callable, Iterator

if TYPE_CHECKING:
    import socket

    from .runner import Runner
    from .serial import Serial

STDIN, STDOUT = 0, 1
ESCAPE = b"\x1d"  # Ctrl-]
_PIECE = 4096
_FEED_BELOW = 1024  # bytes of input waiting in the guest above which no more is read
_FEED_INTERVAL = 0.02  # seconds
_SILENCE = 1.0  # seconds without output after which a console whose input has ended is left


@contextmanager
def raw_terminal(descriptor: int) -> Iterator[bool]:
    """Set the terminal raw, so that every key reaches the guest, and restore it at the end.

    Yields whether the descriptor is a terminal at all.
    """
    if not os.isatty(descriptor):
        yield False
        return
    before = termios.tcgetattr(descriptor)
    tty.setraw(descriptor)
    try:
        yield True
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


class Feeder:
    """Gives standard input to a guest, no faster than the guest reads.

    From a terminal, Ctrl-] calls ``on_escape``; the end of the input just ends the feeding.
    """

    def __init__(self, runner: Runner, serial: Serial, on_escape: Callable[[], None]) -> None:
        self._runner = runner
        self._serial = serial
        self._on_escape = on_escape
        self._terminal = os.isatty(STDIN)
        self._open = True
        runner.each_turn(self._feed)

    def _feed(self) -> float | None:
        """Take a turn on the main loop. Polled, because a regular file cannot be waited for."""
        while self._open and self._serial.waiting() < _FEED_BELOW:
            try:
                ready, _, _ = select.select([STDIN], [], [], 0)
                if not ready:
                    break
                data = os.read(STDIN, _FEED_BELOW)
            except OSError:  # closed, or a terminal that hung up
                data = b""
            if not data:
                self._open = False
            elif self._terminal and ESCAPE in data:
                self._open = False
                self._on_escape()
            else:
                self._serial.receive(data)
        return _FEED_INTERVAL if self._open else None


@contextmanager
def _resizes(wanted: bool) -> Iterator[int]:
    """Yield a descriptor that can be read whenever the terminal has got another size, or -1."""
    if not wanted:
        yield -1
        return
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def tell(*_: object) -> None:
        with suppress(BlockingIOError):  # it can be read already
            os.write(writer, b"\0")

    before = signal.signal(signal.SIGWINCH, tell)
    tell()  # the size that it has now is news as well
    try:
        yield reader
    finally:
        signal.signal(signal.SIGWINCH, before)
        os.close(reader)
        os.close(writer)


def _show(connection: socket.socket) -> bool:
    """Write what came to standard output; return whether the guest is still there."""
    try:
        data = connection.recv(_PIECE)
    except ConnectionResetError:  # it ended before it had read all that was typed
        return False
    there = bool(data)
    while data:
        data = data[os.write(STDOUT, data) :]
    return there


def converse(connection: socket.socket, on_resize: Callable[[int, int], None] | None = None) -> str:
    """Join standard input and output to an attached console; return who ended it.

    "guest" when the guest closed it, "user" after Ctrl-], or when the input has ended and the guest
    has been silent for a moment since. ``on_resize`` is told the columns and rows of the terminal,
    at first and when they change.
    """
    connection.setblocking(True)
    wanted = on_resize is not None and os.isatty(STDIN)
    with raw_terminal(STDIN) as is_terminal, _resizes(wanted) as resized:
        sources = [STDIN, connection.fileno()] + [resized] * wanted
        while True:
            ready, _, _ = select.select(sources, [], [], None if STDIN in sources else _SILENCE)
            if not ready:
                return "user"
            if resized in ready and on_resize:
                os.read(resized, _PIECE)
                with suppress(OSError):  # a terminal that hung up
                    on_resize(*os.get_terminal_size(STDIN))
            if connection.fileno() in ready and not _show(connection):
                return "guest"
            if STDIN in ready:
                data = os.read(STDIN, _PIECE)
                if is_terminal and (not data or ESCAPE in data):
                    return "user"
                if data:
                    with suppress(BrokenPipeError):  # the next turn finds that the guest has ended
                        connection.sendall(data)
                else:
                    sources.remove(STDIN)
