# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a plan is made of: actions that change something, and what is only to be told.

An action is data, and its shape is relied on from outside (docs/design.md). What is pending is
known to be outstanding, what is blocked was refused: neither ever counts as a change.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Iterable, NamedTuple

ACTIONS = (
    "create",
    "update",
    "replace",
    "delete",
    "start",
    "stop",
    "restart",
    "pause",
    "resume",
    "save",
    "migrate",
    "attach",
    "detach",
    "grow",
    "adopt",
)
LIVE = "live"  # applied to what runs, and made persistent
NEXT_BOOT = "next_boot"  # the persistent definition alone
NOW = "now"  # nothing runs
WHENS = (LIVE, NEXT_BOOT, NOW)
REPLACE = "replace"  # no action: what differs is what the object is, so it can only be made anew


class Change(NamedTuple):
    """One value that differs: where it stands, what it is, what it shall be; None is nothing."""

    path: str
    before: Any
    after: Any

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {"path": self.path, "before": self.before, "after": self.after}


class Edit(NamedTuple):
    """A difference of something that may run, and when it can take effect there.

    ``when`` is live, next_boot or replace.
    """

    path: str
    before: Any
    after: Any
    when: str = NEXT_BOOT


def plain(edits: Iterable[Edit]) -> list[Change]:
    """Return differences as the changes of an action."""
    return [Change(edit.path, edit.before, edit.after) for edit in edits]


def differs(changes: Iterable[Change | Edit]) -> str:
    """Return the reason for an update in words: "memory and vcpus differ"."""
    names = [change.path for change in changes]
    if len(names) == 1:
        return f"{names[0]} differs"
    return f"{', '.join(names[:-1])} and {names[-1]} differ"


@dataclass(frozen=True)
class Action:
    """One thing to do to one object.

    All actions of a ``step`` are independent of each other; a step begins when the one before is
    done. ``host`` carries it out, ``target`` is the other host of a move. The plan gives the id.
    """

    step: int
    object: str
    action: str
    host: str
    when: str
    reason: str
    changes: tuple[Change, ...] = ()
    destructive: bool = False
    target: str | None = None
    id: str = ""

    def __post_init__(self) -> None:
        if self.action not in ACTIONS or self.when not in WHENS:
            raise ValueError(f"no such action: {self.action!r} {self.when!r}")

    @property
    def name(self) -> str:
        """The object without its kind: web01 of guest/web01."""
        return self.object.partition("/")[2]

    def to_dict(self) -> dict[str, Any]:
        """Return the fixed shape, as plain values."""
        return {
            "id": self.id,
            "step": self.step,
            "object": self.object,
            "action": self.action,
            "host": self.host,
            "target": self.target,
            "when": self.when,
            "changes": [change.to_dict() for change in self.changes],
            "reason": self.reason,
            "destructive": self.destructive,
        }


class Pending(NamedTuple):
    """Something known to be outstanding that nobody asked to be done now.

    ``kind`` is a fixed word (restart_required, older_helper, …); ``remedy`` says how it goes away.
    """

    object: str
    kind: str
    host: str
    reason: str
    remedy: str
    changes: tuple[Change, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "object": self.object,
            "kind": self.kind,
            "host": self.host,
            "changes": [change.to_dict() for change in self.changes],
            "reason": self.reason,
            "remedy": self.remedy,
        }


class Blocked(NamedTuple):
    """Something that was asked for and refused; ``remedy`` says what would unblock it."""

    object: str
    host: str
    reason: str
    remedy: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "object": self.object,
            "host": self.host,
            "reason": self.reason,
            "remedy": self.remedy,
        }


class Plan(NamedTuple):
    """The outcome of planning, the same in check mode and in a real run."""

    actions: tuple[Action, ...] = ()
    pending: tuple[Pending, ...] = ()
    blocked: tuple[Blocked, ...] = ()

    @classmethod
    def of(
        cls,
        actions: Iterable[Action],
        pending: Iterable[Pending] = (),
        blocked: Iterable[Blocked] = (),
    ) -> Plan:
        """Return a plan whose actions are numbered a1, a2, … in the order of their steps."""
        ordered = sorted(actions, key=lambda action: action.step)
        numbered = (replace(action, id=f"a{n}") for n, action in enumerate(ordered, start=1))
        return cls(tuple(numbered), tuple(pending), tuple(blocked))

    def steps(self) -> list[tuple[Action, ...]]:
        """Return the actions of each step, in order."""
        numbers = sorted({action.step for action in self.actions})
        return [tuple(a for a in self.actions if a.step == number) for number in numbers]
