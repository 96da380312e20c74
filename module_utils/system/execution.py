# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules that set a host have in common: commands, the lock, the diff."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Callable, Iterable, Iterator, Sequence

from ..converge import lock
from ..host.source import at
from .record import FOLDER

if TYPE_CHECKING:
    from .operation import Runner, Step

_SBIN = "/usr/sbin:/sbin"  # an unprivileged user's PATH may lack them
_NOT_FOUND = 127  # as a shell says it


def runner(run_command: Callable[..., Any]) -> Runner:
    """Return a runner on top of AnsibleModule's run_command; a command that is missing is 127."""

    def run(argv: Sequence[str]) -> tuple[int, str, str]:
        try:
            status, out, error = run_command(
                list(argv),
                path_prefix=_SBIN,
                environ_update={"LC_ALL": "C.UTF-8"},
                handle_exceptions=False,
            )
        except OSError as failure:
            return _NOT_FOUND, "", f"{argv[0]}: {failure.strerror}"
        return status, out, error

    return run


@contextmanager
def alone(root: str, name: str) -> Iterator[None]:
    """Hold the host's lock in the name of a module; BusyError if another run has it."""
    folder = at(root, FOLDER)
    os.makedirs(folder, exist_ok=True)
    with lock.exclusive(os.path.join(folder, "lock"), lock.holder(name)):
        yield


def readable(diffs: Iterable[dict[str, str]], steps: Iterable[Step]) -> list[dict[str, str]]:
    """Return the diffs with the files that are ours as a whole as the texts that they are."""
    texts = {
        step.action.object: {"before": change.before or "", "after": change.after or ""}
        for step in steps
        for change in step.action.changes
        if change.path == "content"
    }
    return [{**entry, **texts.get(entry["after_header"], {})} for entry in diffs]
