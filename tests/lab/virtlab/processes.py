# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Processes that belong to a folder: recorded with their start time, ended by nothing but that.

A pid alone says nothing: the number may be somebody else's by now. The record is written by the
process itself before it becomes what it shall run, so that no kill of the lab comes in between.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ansible.module_utils.kvm import process

if TYPE_CHECKING:
    from pathlib import Path

_RECORD = "process"
_PATIENCE = 30.0  # seconds for a process to write its record
_BECOME = (
    f"cat /proc/sys/kernel/random/boot_id /proc/$$/stat > {_RECORD}.new"
    f' && mv {_RECORD}.new {_RECORD} && exec "$@"'
)


def start(folder: Path, command: Sequence[str], output: Path) -> None:
    """Start a command in ``folder``, in a session of its own; what it prints goes to ``output``.

    It is nobody's child but init's, and outlives whoever started it.
    """
    (folder / _RECORD).unlink(missing_ok=True)
    with output.open("ab") as file:
        subprocess.run(
            ["/usr/bin/setsid", "--fork", "/bin/sh", "-c", _BECOME, "sh", *command],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            check=True,
        )
    give_up = time.monotonic() + _PATIENCE
    while recorded(folder) is None and time.monotonic() < give_up:
        time.sleep(0.005)


def recorded(folder: Path) -> process.Identity | None:
    """Return the process that the folder's record names, whether it runs or not."""
    try:
        boot, _, stat = (folder / _RECORD).read_text().partition("\n")
    except OSError:
        return None
    # proc(5): the pid, the command in parentheses, then the state as field 3.
    fields = stat.rpartition(")")[2].split()
    pid = stat.partition(" ")[0]
    if not pid.isdigit() or len(fields) < 20:
        return None
    return process.Identity(int(pid), int(fields[19]), boot)


def running(folder: Path) -> int | None:
    """Return the pid of the folder's process, None if it does not run."""
    who = recorded(folder)
    return who.pid if who is not None and process.alive(who) else None


def _gone(folder: Path, patience: float) -> bool:
    give_up = time.monotonic() + patience
    while running(folder) is not None:
        if time.monotonic() > give_up:
            return False
        time.sleep(0.01)
    return True


def end(folder: Path, grace: float = 5.0) -> None:
    """End the folder's process, if it runs: asked first, killed after ``grace`` seconds."""
    who = recorded(folder)
    if who is None:
        return
    for number, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, 10.0)):
        if process.signal(who, number) and not _gone(folder, patience):
            continue
        break
    (folder / _RECORD).unlink(missing_ok=True)
