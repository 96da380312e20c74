# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What all facets of storage share: how they read the host and the input, and speak of it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Sequence, TypeVar

from ...converge.action import LIVE, Action, Blocked, Change, Pending
from ...converge.errors import Problem, VirtfleetError, shown

if TYPE_CHECKING:
    from ..operation import Runner

T = TypeVar("T")
HIDDEN = "(hidden)"  # stands for a secret in changes and messages
NOT_FOUND = 127  # what a runner answers for a command that is not installed
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class System:
    """A host to read: files below ``root``, and commands through ``run``."""

    root: str
    run: Runner


@dataclass(frozen=True)
class Context:
    """What a plan must know beside its own facet.

    ``expecting`` says that an earlier facet of this very run may still bring disks, or free them.
    """

    host: str
    absent: bool = False
    remove_data: bool = False
    expecting: bool = False

    def action(
        self,
        order: int,
        name: str,
        verb: str,
        reason: str,
        changes: Sequence[Change] = (),
        *,
        when: str = LIVE,
        destructive: bool = False,
    ) -> Action:
        """Return an action of this host; on the way back the order is turned around."""
        step = LAST + 1 - order if self.absent else order
        return Action(
            step=step,
            object=name,
            action=verb,
            host=self.host,
            when=when,
            reason=reason,
            changes=tuple(changes),
            destructive=destructive,
        )

    def blocked(self, name: str, reason: str, remedy: str) -> Blocked:
        """Return a refusal on this host."""
        return Blocked(object=name, host=self.host, reason=reason, remedy=remedy)

    def pending(self, name: str, kind: str, reason: str, remedy: str) -> Pending:
        """Return something outstanding on this host."""
        return Pending(object=name, kind=kind, host=self.host, reason=reason, remedy=remedy)


# The order of what is done: a session brings disks, disks carry groups, groups pools, and folders
# are made in what is mounted by then.
INITIATOR, RECORD, SESSION, MULTIPATH, GROUP, POOL, MOUNT, FOLDER = range(1, 9)
LAST = FOLDER


def report(system: System, argv: Sequence[str], ok: Sequence[int] = (0,)) -> Any:
    """Return what a command reports as JSON; None where it is not installed or says nothing."""
    status, out, error = system.run(argv)
    if status == NOT_FOUND:
        return None
    if status not in ok:
        raise VirtfleetError(
            f"{' '.join(argv)} ended with status {status}: {error.strip() or 'no message'}",
            argv=list(argv),
        )
    if not out.strip():
        return None
    try:
        return json.loads(out)
    except ValueError as error:
        raise VirtfleetError(f"{' '.join(argv)} did not answer in JSON: {shown(out)}") from error


class Checker:
    """Collects what is wrong in the input, so that all of it is told at once."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def say(self, path: str, expected: str, found: Any) -> None:
        """Note a problem."""
        self.problems.append(Problem(path, expected, shown(found)))

    def matches(self, path: str, value: Any, pattern: re.Pattern[str], expected: str) -> str:
        """Return ``value`` as text; note a problem where the whole of it is not the pattern's."""
        if not isinstance(value, str) or not pattern.fullmatch(value):
            self.say(path, expected, value)
            return ""
        return value

    def parsed(self, path: str, value: Any, parse: Callable[[Any], T], empty: T) -> T:
        """Return what ``parse`` makes of the value; its ValueError is a problem."""
        try:
            return parse(value)
        except ValueError as error:
            self.say(path, str(error).partition(", found")[0].replace("expected ", ""), value)
            return empty

    def absolute(self, path: str, value: Any) -> str:
        """Return an absolute path in its plain form: no dots, no control characters."""
        parts = value.split("/") if isinstance(value, str) else [".."]
        if parts[0] or {".", ".."} & set(parts) or _CONTROL.search(value) or len(parts) < 2:
            self.say(path, "an absolute path without . or ..", value)
            return ""
        return "/" + "/".join(part for part in parts if part)

    def secret(self, path: str, value: Any, lengths: tuple[int, int] = (1, 512)) -> str:
        """Return a secret of one line; a problem never shows it."""
        text = value if isinstance(value, str) else ""
        low, high = lengths
        if _CONTROL.search(text) or not low <= len(text) <= high:
            self.problems.append(
                Problem(path, f"{low} to {high} characters in one line", "something else")
            )
        return text

    def unique(self, path: str, values: Sequence[Any]) -> None:
        """Note each value that was there before."""
        for index, value in enumerate(values):
            if value in values[:index]:
                self.say(f"{path}[{index}]", "no second one of the same", value)
