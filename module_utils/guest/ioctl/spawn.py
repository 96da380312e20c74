# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Starting a process that outlives this one, and learning whether its start went well."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Sequence

_NOTIFY = 3  # the descriptor that a started process reports on
_HIGH = 10  # descriptors from here on are in nobody's way
_LINE_LIMIT = 4096
# What this process may ignore or catch (Python ignores the first two) is not for the next one.
_SIGNALS = (
    signal.SIGPIPE,
    signal.SIGXFSZ,
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGCHLD,
)
_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}


@dataclass
class Starting:
    """A process that has been started and has not reported yet."""

    pid: int
    descriptor: int
    line: bytes = b""


def _inheritable() -> list[int]:
    """Return the descriptors that a new process would get without being asked."""
    found = []
    for entry in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            if int(entry) > 2 and os.get_inheritable(int(entry)):
                found.append(int(entry))
    return found


def launch(command: Sequence[str]) -> Starting:
    """Start ``command --notify-fd N`` in a session of its own, with none of our descriptors.

    Raises OSError if it cannot be executed at all.
    """
    reading, writing = os.pipe()
    try:
        # dup2 of a descriptor onto itself would leave it closed on exec: keep out of its way.
        high = fcntl.fcntl(writing, fcntl.F_DUPFD_CLOEXEC, _HIGH)
        os.close(writing)
        writing = high
        actions = [(os.POSIX_SPAWN_CLOSE, number) for number in _inheritable()]
        pid = os.posix_spawn(
            command[0],
            [*command, "--notify-fd", str(_NOTIFY)],
            _ENVIRONMENT,
            file_actions=[
                *actions,
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDWR, 0),
                (os.POSIX_SPAWN_DUP2, 0, 1),
                (os.POSIX_SPAWN_DUP2, 0, 2),
                (os.POSIX_SPAWN_DUP2, writing, _NOTIFY),
            ],
            setsid=True,
            setsigmask=(),
            setsigdef=_SIGNALS,
        )
    except OSError:
        os.close(reading)
        raise
    finally:
        os.close(writing)
    return Starting(pid, reading)


def _finish(process: Starting) -> str:
    """Return what the process said, and let go of it."""
    os.close(process.descriptor)
    # Who failed is about to end: nobody else reaps it while this process lives.
    with suppress(ChildProcessError):
        os.waitpid(process.pid, os.WNOHANG)
    return process.line.decode("utf-8", "replace").strip()


def wait(processes: dict[str, Starting], timeout: float) -> dict[str, str | None]:
    """Return what each process reported in one line, by its key.

    Empty is one that ended in silence, None one that said nothing in time: that one is killed.
    """
    said: dict[str, str | None] = {}
    keys = {process.descriptor: key for key, process in processes.items()}
    poll = select.poll()
    for descriptor in keys:
        poll.register(descriptor, select.POLLIN | select.POLLHUP)
    end = time.monotonic() + timeout
    while keys:
        left = end - time.monotonic()
        if left <= 0:
            break
        for descriptor, _ in poll.poll(left * 1000):
            process = processes[keys[descriptor]]
            piece = os.read(descriptor, _LINE_LIMIT)
            process.line += piece
            if not piece or b"\n" in process.line or len(process.line) >= _LINE_LIMIT:
                poll.unregister(descriptor)
                said[keys.pop(descriptor)] = _finish(process)
    for key in keys.values():
        # Our own child, not reaped yet: its pid cannot be anybody else's.
        with suppress(ProcessLookupError):
            os.kill(processes[key].pid, signal.SIGKILL)
        _finish(processes[key])
        said[key] = None
    return said
