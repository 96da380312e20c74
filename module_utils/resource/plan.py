# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""From what is declared and what is observed of one kind to what has to be done: a pure function.

Objects end, are made, changed and taken over first; then they start, or go.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Iterable, Mapping, Sequence

from ..converge.action import (
    LIVE,
    NEXT_BOOT,
    NOW,
    REPLACE,
    Action,
    Blocked,
    Change,
    Pending,
    Plan,
    differs,
    plain,
)
from ..converge.compare import leaves
from .kind import ABSENT, ACTIVE, INACTIVE, PRESENT

if TYPE_CHECKING:
    from ..converge.action import Edit
    from .kind import Kind, Seen
    from .spec import Declared

FIRST, SECOND, THIRD, LAST = 1, 2, 3, 4
RESTART_REQUIRED = "restart_required"


@dataclass(frozen=True)
class Planned:
    """The plan, and by name what was stated of each object that it concerns."""

    plan: Plan
    declared: dict[str, Declared] = field(default_factory=dict)


class _Planner:
    """Plans object by object; what it collects becomes one plan."""

    def __init__(self, kind: Kind, host: str, users: Mapping[str, Sequence[str]]) -> None:
        self.kind = kind
        self.host = host
        self.users = users
        self.actions: list[Action] = []
        self.pending: list[Pending] = []
        self.blocked: list[Blocked] = []

    def act(
        self,
        step: int,
        name: str,
        action: str,
        reason: str,
        changes: Iterable[Change] = (),
        *,
        when: str = NOW,
    ) -> None:
        """Add an action."""
        self.actions.append(
            Action(
                step=step,
                object=f"{self.kind.word}/{name}",
                action=action,
                host=self.host,
                when=when,
                changes=tuple(changes),
                reason=reason,
            )
        )

    def block(self, name: str, reason: str, remedy: str) -> None:
        """Refuse what was asked for an object."""
        self.blocked.append(Blocked(f"{self.kind.word}/{name}", self.host, reason, remedy))

    def start(self, name: str, reason: str, step: int = SECOND) -> None:
        """Plan that it becomes active."""
        self.act(step, name, "start", reason, [Change("state", INACTIVE, ACTIVE)])

    def used(self, seen: Seen, what: str) -> bool:
        """Refuse to end what running guests stand on; return whether any does."""
        users = self.users.get(seen.name, ()) if seen.active or not self.kind.starts else ()
        if users:
            reason = f"{what}, and guests run on it: {', '.join(users)}"
            self.block(seen.name, reason, "stop or move them first")
        return bool(users)

    def create(self, one: Declared) -> None:
        """Plan an object that is not there."""
        shown = dict(one.stated)
        if self.kind.starts:
            shown["autostart"] = one.asked.get("autostart", True)
        changes = [Change(path, None, value) for path, value in leaves(shown)]
        self.act(FIRST, one.name, "create", "it is not there", changes)
        if one.state == ACTIVE:
            self.start(one.name, "declared active")

    def refused(self, one: Declared, seen: Seen, fleet: str) -> bool:
        """Return whether it must not be touched, and say why."""
        if not seen.owned and not (one.asked.get("adopt") and one.state != ABSENT):
            reason = "it was not made by this toolkit for this fleet"
            remedy = "state adopt: true to take it over as it is, or choose another name"
            self.block(one.name, reason, remedy)
            return True
        if seen.owned and seen.fleet != fleet:
            self.block(one.name, f"it belongs to the fleet {seen.fleet!r}", "choose another name")
            return True
        return False

    def remove(self, seen: Seen, reason: str) -> None:
        """Plan that it goes."""
        if self.used(seen, reason):
            return
        if seen.active:
            self.act(FIRST, seen.name, "stop", reason, [Change("state", ACTIVE, INACTIVE)])
        changes = [Change(path, value, None) for path, value in leaves(seen.spec)]
        self.act(SECOND, seen.name, "delete", reason, changes)

    def renew(self, one: Declared, seen: Seen, nature: Sequence[Edit]) -> None:
        """Plan an object whose nature differs: it can only be made anew, if that is asked for."""
        reason = f"{differs(nature)}, which only a new {self.kind.word} can have"
        if not one.asked.get("replace"):
            self.block(one.name, reason, "state replace: true; what it stores is kept")
            return
        if self.used(seen, reason):
            return
        if seen.active:
            self.act(FIRST, one.name, "stop", reason, [Change("state", ACTIVE, INACTIVE)])
        self.act(SECOND, one.name, "replace", reason, plain(nature))
        if one.state == ACTIVE or (one.state == PRESENT and seen.active):
            self.start(one.name, "it was made anew", THIRD)

    def settle(self, one: Declared, seen: Seen) -> None:
        """Plan an object that is there and shall be."""
        edits = self.kind.differences(seen.inactive, one.stated)
        nature = [edit for edit in edits if edit.when == REPLACE]
        if nature:
            self.renew(one, seen, nature)
            return
        if not seen.owned:
            self.act(FIRST, one.name, "adopt", "it is not ours yet, and that is asked for")
        differing = self.kind.differences(seen.live, one.stated) if seen.live is not None else []
        self.update(one, seen, edits, [edit for edit in differing if edit.when == LIVE])
        later = [edit for edit in differing if edit.when != LIVE]
        if one.state == INACTIVE:
            if seen.active and not self.used(seen, "declared inactive"):
                change = Change("state", ACTIVE, INACTIVE)
                self.act(FIRST, one.name, "stop", "declared inactive", [change])
        elif not seen.active:
            if one.state == ACTIVE:
                self.start(one.name, "declared active")
        elif later:
            self.outstanding(one, seen, later)

    def update(self, one: Declared, seen: Seen, edits: Sequence[Edit], now: Sequence[Edit]) -> None:
        """Plan the changes, those at once apart from those that wait."""
        new = seen.new and self.kind.starts
        autostart = one.asked.get("autostart", new or seen.autostart)
        others = (
            [] if autostart == seen.autostart else [Change("autostart", seen.autostart, autostart)]
        )
        if not seen.active:
            changes = [*plain(edits), *others]
            if changes:
                self.act(FIRST, one.name, "update", differs(changes), changes)
            return
        paths = {edit.path for edit in now}
        stored = [edit for edit in edits if edit.when == LIVE and edit.path not in paths]
        live = [*plain(now), *plain(stored), *others]
        if live:
            self.act(FIRST, one.name, "update", differs(live), live, when=LIVE)
        later = plain(edit for edit in edits if edit.when == NEXT_BOOT)
        if later:
            self.act(FIRST, one.name, "update", differs(later), later, when=NEXT_BOOT)

    def plug_in(self, seen: Seen) -> None:
        """Plan that guests are plugged in again whom a run that was killed has cut off."""
        if not seen.unplugged:
            return
        verbs = {action.action for action in self.actions if action.name == seen.name}
        stays = seen.active and not verbs & {"stop", "restart"}  # the latter does it by itself
        if not (stays or "start" in verbs):
            return
        changes = [Change(f"devices.{device}", None, "plugged in") for device in seen.unplugged]
        reason = "a run that ended early has started it anew under its guests"
        when = LIVE if seen.active else NOW
        self.act(LAST, seen.name, "attach", reason, changes, when=when)

    def outstanding(self, one: Declared, seen: Seen, later: Sequence[Edit]) -> None:
        """Plan a new start where that is asked for, or tell that it is needed."""
        if one.asked.get("restart"):
            reason = f"{differs(later)}, and a new start is asked for"
            if self.kind.outlives_a_restart or not self.used(seen, reason):
                self.act(SECOND, one.name, "restart", reason, plain(later))
            return
        self.pending.append(
            Pending(
                f"{self.kind.word}/{one.name}",
                RESTART_REQUIRED,
                self.host,
                f"it is active with an older definition: {differs(later)}",
                "state restart: true, or start it anew",
                tuple(plain(later)),
            )
        )


def plan(
    declared: Sequence[Declared],
    observed: Mapping[str, Seen],
    kind: Kind,
    host: str,
    *,
    fleet: str = "local",
    prune: bool = False,
    users: Mapping[str, Sequence[str]] | None = None,
) -> Planned:
    """Return what has to be done on a host for the objects of one kind.

    ``users`` are, by object, the running guests that stand on it.
    """
    planner = _Planner(kind, host, users or {})
    for one in declared:
        seen = observed.get(one.name)
        if seen is None:
            if one.state != ABSENT:
                planner.create(one)
        elif not planner.refused(one, seen, fleet):
            if one.state == ABSENT:
                planner.remove(seen, "declared absent")
            else:
                planner.settle(one, seen)
                planner.plug_in(seen)
    if prune:
        names = {one.name for one in declared}
        for name, seen in observed.items():
            if name not in names and seen.owned and seen.fleet == fleet:
                planner.remove(seen, "nobody declares it, and prune is asked for")
    found = Plan.of(planner.actions, planner.pending, planner.blocked)
    return Planned(found, {one.name: one for one in declared})


def asked_of(declared: Mapping[str, Declared], name: str) -> Mapping[str, Any]:
    """Return what is asked of an object besides its definition."""
    return declared[name].asked if name in declared else {}
