# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files that are ours as a whole: their content is exactly what was stated.

Each begins with a mark, so that what somebody else wrote under the name is never overwritten.
"""

from __future__ import annotations

from typing import Iterable, Mapping

from ..converge.action import LIVE, NEXT_BOOT, Action, Change
from ..converge.errors import VirtfleetError
from ..host.source import exists, text
from .operation import Step, Write
from .outcome import FILES

MARK = "# Made by virtfleet; what is changed here is overwritten.\n"


def read(root: str, paths: Iterable[str]) -> dict[str, str | None]:
    """Return the content of our files; VirtfleetError where one is somebody else's."""
    found = {path: text(root, path) for path in paths}
    for path, content in found.items():
        if content is None and exists(root, path):
            raise VirtfleetError(
                f"{path} cannot be read", remedy="is it a file, and this user root?"
            )
        if content is not None and not content.startswith(MARK):
            raise VirtfleetError(
                f"{path} is not virtfleet's: its first line says otherwise", remedy="move it away"
            )
    return found


def content(lines: Iterable[str]) -> str | None:
    """Return the text of a file with these lines; no lines are no file."""
    body = "".join(f"{line}\n" for line in lines)
    return MARK + body if body else None


def lines(found: str | None) -> list[str]:
    """Return what a file of ours states."""
    return [line for line in (found or "").splitlines() if line and not line.startswith("#")]


def plan(
    observed: Mapping[str, str | None],
    desired: Mapping[str, str | None],
    host: str,
    later: Iterable[str] = (),
) -> list[Step]:
    """Return a step for each file that differs; what later names counts at the next boot."""
    waiting = set(later)
    return [
        _step(path, observed.get(path), after, host, live=path not in waiting)
        for path, after in desired.items()
        if observed.get(path) != after
    ]


def _step(path: str, before: str | None, after: str | None, host: str, *, live: bool) -> Step:
    shrinks = before is not None and set(lines(after)) < set(lines(before))
    if before is None:
        action, reason = "create", "it is missing"
    elif after is None:
        action, reason = "delete", "nothing is stated for it any more"
    else:
        action, reason = "update", "its content differs"
    return Step(
        Action(
            step=FILES,
            object=f"file{path}",
            action=action,
            host=host,
            when=LIVE if live and not shrinks else NEXT_BOOT,
            reason=reason,
            changes=(Change("content", before, after),),
        ),
        (Write(path, after),),
    )
