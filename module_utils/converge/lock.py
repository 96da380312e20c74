# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""One run at a time on a host.

The lock is the kernel's (flock(2)): it ends with its holder, however that ends, so it needs neither
renewal nor expiry. The file only says who holds it, for the message of the run that comes second.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from contextlib import contextmanager, suppress
from typing import Any, Iterator

from .errors import VirtfleetError

_LIMIT = 4096  # bytes of the holder's note


class BusyError(VirtfleetError):
    """Another run holds the lock; ``data["holder"]`` says who."""


def holder(run: str) -> dict[str, Any]:
    """Return who this process is, for the lock's file."""
    return {
        "run": run,
        "pid": os.getpid(),
        "user": os.environ.get("SUDO_USER") or str(os.getuid()),
        "since": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _read(descriptor: int) -> dict[str, Any]:
    try:
        note = json.loads(os.pread(descriptor, _LIMIT, 0).decode())
    except ValueError:
        return {}
    return note if isinstance(note, dict) else {}


@contextmanager
def exclusive(path: str, who: dict[str, Any]) -> Iterator[None]:
    """Hold the lock at ``path`` in the name of ``who``; BusyError if another run holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            note = _read(descriptor)
            name = ", ".join(f"{key} {value}" for key, value in note.items()) or "unknown"
            raise BusyError(
                f"another run is changing this host ({name})",
                remedy="wait until it is done, then run again",
                holder=note,
            ) from None
        os.ftruncate(descriptor, 0)
        with suppress(OSError):  # on a full disk it is held all the same
            os.pwrite(descriptor, json.dumps(who).encode(), 0)
        yield
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)
