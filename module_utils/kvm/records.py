# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The small files that tell about a guest: who runs it, and how it ended."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

from .layout import read_untrusted
from .process import Identity, alive, boot_id

if TYPE_CHECKING:
    from .layout import GuestPaths
    from .runner import Outcome

_LIMIT = 64 * 1024  # bytes of a record
_DETAIL_LIMIT = 4096  # characters


def write_atomically(path: str, data: dict[str, Any], mode: int = 0o644) -> None:
    """Write ``data`` as JSON to ``path`` so that a reader sees the old or the new, never a part."""
    temporary = f"{path}.{os.getpid()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, mode)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(data, file, sort_keys=True)
            file.write("\n")
            file.flush()
            os.fsync(descriptor)
        os.replace(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise


def read_record(path: str) -> dict[str, Any] | None:
    """Return the record at ``path``, or None where there is none that makes sense."""
    try:
        data = json.loads(read_untrusted(path, _LIMIT).decode())
    except (OSError, ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None


def running(paths: GuestPaths) -> Identity | None:
    """Return the process that runs the guest now, or None."""
    who = Identity.from_dict(read_record(paths.pid))
    return who if who is not None and alive(who) else None


def last_exit(paths: GuestPaths) -> dict[str, Any] | None:
    """Return how the guest's last run ended; None if there was none since the host came up.

    A record older than the pid file is of a run before: the last one left none, as when killed.
    """
    record, started = read_record(paths.last_exit), Identity.from_dict(read_record(paths.pid))
    if started is None:
        return record  # pid files do not outlive a boot
    if record is not None:
        try:
            if os.lstat(paths.last_exit).st_mtime_ns >= os.lstat(paths.pid).st_mtime_ns:
                return record
        except FileNotFoundError:
            return None  # taken away in this moment
    if started.boot_id != boot_id():
        return None
    return {"status": None, "reason": "ended without a word (killed, or out of memory)"}


def write_exit(paths: GuestPaths, outcome: Outcome, started: float, helper: str | None) -> None:
    """Keep how a run ended. A full disk must not hide the exit status: it is passed over."""
    record = {
        "status": outcome.status,
        "reason": outcome.reason,
        "detail": outcome.detail[:_DETAIL_LIMIT],
        "started": started,
        "ended": time.time(),
        "helper": helper,
    }
    try:
        write_atomically(paths.last_exit, record)
    except OSError:
        return
