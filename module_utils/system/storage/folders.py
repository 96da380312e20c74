# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Folders for images: owner, group and mode; on the way back only empty ones go."""

from __future__ import annotations

import grp
import os
import pwd
import re
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Mapping, Sequence

from ...converge.action import Change
from ...host import source
from ..operation import Run, Step
from ..outcome import Outcome
from .facet import FOLDER, Checker, Context, System

if TYPE_CHECKING:
    from ...converge.action import Blocked, Pending

_MODE = re.compile(r"0?[0-7]{3,4}", re.ASCII)
_ACCOUNT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}\$?", re.ASCII)


@dataclass(frozen=True)
class Wish:
    """A folder; None is not stated. ``mode`` is octal in four digits: 0750."""

    path: str
    owner: str | None = None
    group: str | None = None
    mode: str | None = None


@dataclass(frozen=True)
class Found:
    """What stands at the path, in the words of a wish."""

    folder: bool
    owner: str
    group: str
    mode: str
    empty: bool = False


def _octal(text: str) -> str:
    return f"{int(text or '0', 8):04o}"


def parse(items: Sequence[Mapping[str, Any]], path: str, check: Checker) -> tuple[Wish, ...]:
    """Return the folders that are declared."""
    wishes = []
    for index, item in enumerate(items):
        here = f"{path}[{index}]"
        mode = item.get("mode")
        if mode is not None:
            text = 'three or four octal digits as text: "0750"'
            mode = _octal(check.matches(f"{here}.mode", mode, _MODE, text))
        names = {}
        for key in ("owner", "group"):
            if item.get(key) is not None:
                names[key] = check.matches(
                    f"{here}.{key}", item[key], _ACCOUNT, "the name of an account"
                )
        wishes.append(Wish(check.absolute(f"{here}.path", item["path"]), mode=mode, **names))
    check.unique(path, [wish.path for wish in wishes])
    return tuple(wishes)


def _name(lookup: Callable[[int], Any], number: int) -> str:
    try:
        return str(lookup(number)[0])
    except KeyError:
        return str(number)


def look(root: str, path: str) -> Found | None:
    """Return what stands at ``path``, None where nothing does."""
    full = source.at(root, path)
    try:
        status = os.stat(full)
    except FileNotFoundError:
        return None
    folder = stat.S_ISDIR(status.st_mode)
    return Found(
        folder,
        _name(pwd.getpwuid, status.st_uid),
        _name(grp.getgrgid, status.st_gid),
        f"{stat.S_IMODE(status.st_mode):04o}",
        folder and not os.listdir(full) and not os.path.ismount(full),
    )


def observe(system: System, wishes: Sequence[Wish]) -> dict[str, Found]:
    """Return what stands at each declared path."""
    found = {wish.path: look(system.root, wish.path) for wish in wishes}
    return {path: state for path, state in found.items() if state is not None}


def _make(wish: Wish, state: Found | None, context: Context) -> Step | None:
    stated = {"owner": wish.owner, "group": wish.group, "mode": wish.mode}
    changes = [
        Change(key, getattr(state, key, None), value)
        for key, value in stated.items()
        if value is not None and getattr(state, key, None) != value
    ]
    if state is not None and not changes:
        return None
    argv = ["install", "--directory"]
    # install(1) sets 0755 where no mode is given, and that was not asked for.
    mode = wish.mode or (state.mode if state else "0755")
    argv += ["--mode", mode]
    argv += ["--owner", wish.owner] if wish.owner else []
    argv += ["--group", wish.group] if wish.group else []
    action = context.action(
        FOLDER,
        f"directory{wish.path}",
        "update" if state else "create",
        "its rights differ" if state else "it is missing",
        changes or [Change("path", None, wish.path)],
    )
    return Step(action, (Run((*argv, wish.path)),))


def plan(wishes: Sequence[Wish], found: Mapping[str, Found], context: Context) -> Outcome:
    """Return what makes the folders as declared, or takes the empty ones away."""
    steps: list[Step] = []
    pending: list[Pending] = []
    blocked: list[Blocked] = []
    for wish in sorted(wishes, key=lambda wish: wish.path, reverse=context.absent):
        state, name = found.get(wish.path), f"directory{wish.path}"
        if state and not state.folder:
            remedy = "move it away, or declare another path"
            blocked.append(context.blocked(name, "what stands there is no folder", remedy))
        elif not context.absent:
            step = _make(wish, state, context)
            steps += [step] if step else []
        elif state and state.empty:
            action = context.action(
                FOLDER, name, "delete", "it is empty", [Change("path", wish.path, None)]
            )
            steps.append(Step(action, (Run(("rmdir", wish.path)),)))
        elif state:
            remedy = "remove it by hand when nothing needs it"
            pending.append(context.pending(name, "data_kept", "it is not empty", remedy))
    return Outcome(tuple(steps), tuple(pending), tuple(blocked))
