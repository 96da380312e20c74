# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""From what is declared and what is observed to what has to be done: a pure function.

Within a step nothing depends on anything: guests are stopped, made and updated first, and deleted
and started then. A guest that was renamed in its declaration is planned under the name that it has
until it gets the other one, which it can while it does not run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Iterable, Mapping, NamedTuple, Sequence

from ..converge.action import (
    LIVE,
    NEXT_BOOT,
    NOW,
    REPLACE,
    Action,
    Blocked,
    Change,
    Edit,
    Pending,
    Plan,
    differs,
    plain,
)
from ..converge.compare import leaves
from .engine import ACTIVE, FAILED, NAME, PAUSED, RUNNING, SAVED, STOPPED, Host, Observed
from .spec import ABSENT, KEPT, PRESENT, RESTARTED, Declared
from .spec import PAUSED as WANT_PAUSED
from .spec import SAVED as WANT_SAVED
from .spec import STOPPED as WANT_STOPPED

if TYPE_CHECKING:
    from .engine import Dialect

FIRST, SECOND, THIRD = 1, 2, 3

RESTART_REQUIRED = "restart_required"
OLDER_HELPER = "older_helper"
NOT_AUTOSTARTED = "not_autostarted"
RENAME_WAITS = "rename_waits"


class Planned(NamedTuple):
    """The plan, and the whole spec of each guest that it creates, updates or starts.

    ``guests`` are the declared ones under the names that they have when it is carried out.
    """

    plan: Plan
    specs: Mapping[str, Mapping[str, Any]]
    guests: Sequence[Declared]


def _kept(guest: Declared, seen: Observed | None, key: str) -> Any:
    """Return what the guest will have for a key of every guest."""
    stored = ((None if seen is None else seen.spec) or {}).get(key, KEPT[key])
    return guest.stated.get(key, stored)


class _Planner:
    """Plans guest by guest; what it collects becomes one plan."""

    def __init__(self, host: Host, dialects: Mapping[str, Dialect], fleet: str) -> None:
        self.host = host
        self.dialects = dialects
        self.fleet = fleet
        self.actions: list[Action] = []
        self.pending: list[Pending] = []
        self.blocked: list[Blocked] = []
        self.specs: dict[str, dict[str, Any]] = {}

    def act(
        self,
        step: int,
        name: str,
        action: str,
        reason: str,
        changes: Iterable[Change] = (),
        *,
        when: str = NOW,
        destructive: bool = False,
    ) -> None:
        """Add an action."""
        self.actions.append(
            Action(
                step=step,
                object=f"guest/{name}",
                action=action,
                host=self.host.name,
                when=when,
                changes=tuple(changes),
                reason=reason,
                destructive=destructive,
            )
        )

    def block(self, name: str, reason: str, remedy: str) -> None:
        """Refuse what was asked for a guest."""
        self.blocked.append(Blocked(f"guest/{name}", self.host.name, reason, remedy))

    def wait(
        self, name: str, kind: str, reason: str, remedy: str, changes: Iterable[Change] = ()
    ) -> None:
        """Tell what is outstanding."""
        self.pending.append(
            Pending(f"guest/{name}", kind, self.host.name, reason, remedy, tuple(changes))
        )

    def stop(self, name: str, reason: str) -> None:
        """Plan a stop."""
        self.act(FIRST, name, "stop", reason, [Change("state", RUNNING, STOPPED)])

    def start(
        self, guest: Declared, reason: str, before: str | None, *, step: int = SECOND
    ) -> None:
        """Plan a start."""
        after = PAUSED if guest.state == WANT_PAUSED else RUNNING
        self.act(step, guest.name, "start", reason, [Change("state", before, after)])

    def lines(self, engine: str, spec: Mapping[str, Any]) -> list[tuple[str, Any]]:
        """Return the values of a spec as they may be shown."""
        dialect = self.dialects.get(engine)
        shown = spec if dialect is None else dialect.masked(spec)
        return [(path, value) for path, value in leaves(shown) if path != NAME]

    def create(self, guest: Declared) -> None:
        """Plan a guest that is not there."""
        engine = str(guest.engine)
        spec = self.dialects[engine].complete(guest.stated, None)
        changes = [Change(path, None, value) for path, value in self.lines(engine, spec)]
        self.specs[guest.name] = spec
        self.act(FIRST, guest.name, "create", "it is not there", changes)
        if guest.state not in (PRESENT, WANT_STOPPED, WANT_SAVED):
            self.start(guest, f"declared {guest.state}", None)

    def remove(self, seen: Observed, reason: str, protected: bool, files: bool = False) -> None:
        """Plan the removal of a guest that is there, with its own ``files`` if asked for."""
        if protected:
            self.block(
                seen.name,
                f"{reason}, but it is protected",
                "state protected: false for it, if it shall really go",
            )
            return
        if seen.state in ACTIVE:
            self.stop(seen.name, reason)
        if seen.spec is not None:
            changes = [Change(path, old, None) for path, old in self.lines(seen.engine, seen.spec)]
            if files and seen.files:
                changes.append(Change("files", list(seen.files), None))
            self.act(SECOND, seen.name, "delete", reason, changes, destructive=True)

    def update(
        self, guest: Declared, seen: Observed, edits: Sequence[Edit], *, stops: bool, restarts: bool
    ) -> None:
        """Plan what differs in a guest's definition, apart for what can be done live.

        A guest ``stops`` before it is changed, or ``restarts`` and does not go on as it runs now.
        """
        if seen.name != guest.name:
            edits = [Edit(NAME, seen.name, guest.name), *edits]
        if not edits:
            return
        if seen.state not in (*ACTIVE, SAVED) or stops:
            step = SECOND if stops else FIRST
            self.act(step, guest.name, "update", differs(edits), plain(edits))
            return
        at_once = [edit for edit in edits if edit.when == LIVE and seen.state in ACTIVE]
        later = [edit for edit in edits if edit not in at_once]
        if at_once:
            self.act(FIRST, guest.name, "update", differs(at_once), plain(at_once), when=LIVE)
        if later:
            reason = differs(later)
            if not restarts:
                reason += ", which takes effect when it is started anew"
            self.act(FIRST, guest.name, "update", reason, plain(later), when=NEXT_BOOT)

    def outstanding(self, guest: Declared, seen: Observed, changes: Sequence[Change]) -> None:
        """Tell what a guest that goes on running has not taken over yet."""
        name = guest.name
        if changes:
            reason = f"it runs with an older definition: {differs(changes)}"
            self.wait(name, RESTART_REQUIRED, reason, "ask for state: restarted", changes)
        if None not in (seen.helper, self.host.helper) and seen.helper != self.host.helper:
            self.wait(
                name,
                OLDER_HELPER,
                "it runs with another helper than the installed one",
                "ask for state: restarted",
                [Change("helper", seen.helper, self.host.helper)],
            )

    def renew(self, guest: Declared, seen: Observed, edits: Sequence[Edit]) -> None:
        """Plan a guest whose nature differs: it can only be made anew, if that is asked for."""
        nature = [edit for edit in edits if edit.when == REPLACE]
        reason = f"{differs(nature)}, which only a new guest can have"
        if _kept(guest, seen, "protected"):
            self.block(guest.name, f"{reason}, and it is protected", "state protected: false")
            return
        if not guest.asked.get("replace"):
            self.block(guest.name, reason, "state replace: true; its disks are kept")
            return
        if seen.name != guest.name:
            self.block(
                guest.name,
                f"{reason}, and it is {seen.name} still",
                "have it renamed first, as it is, and made anew then",
            )
            return
        if seen.state in ACTIVE:
            self.stop(guest.name, reason)
        self.specs[guest.name] = self.dialects[seen.engine].complete(
            {**(seen.spec or {}), **guest.called(guest.name).stated}, None
        )
        self.act(SECOND, guest.name, "replace", reason, plain(edits), destructive=True)
        wanted = guest.state not in (PRESENT, WANT_STOPPED, WANT_SAVED)
        if wanted or (guest.state == PRESENT and seen.state in ACTIVE):
            self.start(guest, "it was made anew", seen.state, step=THIRD)

    def settle(self, guest: Declared, seen: Observed) -> None:
        """Plan a guest that is there and shall be."""
        dialect = self.dialects[seen.engine]
        found = dialect.differences(guest.stated, seen)
        if found.refused:
            for reason, remedy in found.refused:
                self.block(guest.name, reason, remedy)
            return
        if not seen.owned:
            self.act(FIRST, seen.name, "adopt", "it is not ours yet, and that is asked for")
        if any(edit.when == REPLACE for edit in found.edits):
            self.renew(guest, seen, found.edits)
            return
        self.specs[guest.name] = dialect.complete(guest.stated, seen)
        active = seen.state in ACTIVE
        stops = active and (guest.state == WANT_STOPPED or seen.name != guest.name)
        restarts = active and guest.state == RESTARTED
        if stops:
            self.stop(seen.name, f"declared {guest.state}")
        self.update(guest, seen, found.edits, stops=stops, restarts=restarts)
        if restarts:
            self.restart(guest, seen, found.restart)
        elif active and guest.state == WANT_SAVED:
            change = Change("state", seen.state, SAVED)
            self.act(SECOND, guest.name, "save", "declared saved", [change])
        elif not stops:
            self.run(guest, seen)
            if active:
                self.outstanding(guest, seen, found.restart)

    def restart(self, guest: Declared, seen: Observed, changes: Sequence[Change]) -> None:
        """Plan that a guest starts anew; one that gets another name was stopped for that."""
        reason = "a restart was asked for"
        if seen.name == guest.name:
            self.act(SECOND, guest.name, "restart", reason, changes)
        else:
            self.start(guest, reason, seen.state, step=THIRD)

    def run(self, guest: Declared, seen: Observed) -> None:
        """Plan that a guest runs, or stands still, as it was declared."""
        if guest.state in (PRESENT, WANT_STOPPED, WANT_SAVED):
            return
        wanted = PAUSED if guest.state == WANT_PAUSED else RUNNING
        if seen.state not in ACTIVE:
            self.start(guest, _why_start(guest, seen), seen.state)
        elif seen.state != wanted:
            kind = "pause" if wanted == PAUSED else "resume"
            change = Change("state", seen.state, wanted)
            self.act(SECOND, guest.name, kind, f"declared {guest.state}", [change])

    def refused(self, guest: Declared, seen: Observed, expect: Mapping[str, str]) -> bool:
        """Return whether the guest must not be touched, and say why."""

        def block(reason: str, remedy: str) -> None:
            if seen.name != guest.name:
                reason = f"it was {seen.name}, and of that one: {reason}"
                remedy = f"{remedy}; leave was out where that is another guest"
            self.block(guest.name, reason, remedy)

        expected = expect.get(seen.name, "")
        if guest.engine not in (None, seen.engine):
            block(
                f"it is a guest of the engine {seen.engine}, declared for {guest.engine}",
                "state the engine that it has, or remove it first",
            )
        elif seen.problem is not None:
            block(seen.problem, seen.remedy or "look at it and move it away")
        elif seen.spec is None and guest.state != ABSENT:
            block(
                "a process of that name runs without a definition",
                "ask for state: absent, which stops it, and declare it again",
            )
        elif not seen.owned and not (guest.asked.get("adopt") and guest.state != ABSENT):
            block(
                "it was not made by this toolkit",
                "state adopt: true to take it over as it is, or choose another name",
            )
        elif seen.owned and seen.spec is not None and seen.fleet != self.fleet:
            block(
                f"it belongs to the fleet {seen.fleet!r}, this is {self.fleet!r}",
                "choose another name, or remove it with the fleet that it belongs to",
            )
        elif guest.name in expect and expected != seen.digest:
            block(
                f"it changed since it was planned (expected {expected or 'no such guest'},"
                f" found {seen.digest or 'no definition'})",
                "plan again",
            )
        else:
            return False
        return True

    def waits(self, guest: Declared, seen: Observed) -> bool:
        """Return whether a guest keeps its former name for now, and say so."""
        ends = seen.state in ACTIVE and guest.state in (WANT_STOPPED, RESTARTED)
        if seen.state not in (*ACTIVE, SAVED) or ends:
            return False
        if seen.state == SAVED:
            why, remedy = "its memory is saved", "ask for state: running, and then for a restart"
        else:
            why, remedy = "it runs", "ask for state: restarted, or stop it"
        reason = f"it is {seen.name} still, and is not renamed while {why}"
        self.wait(guest.name, RENAME_WAITS, reason, remedy, [Change(NAME, seen.name, guest.name)])
        return True

    def guest(
        self, guest: Declared, observed: Mapping[str, Observed], expect: Mapping[str, str]
    ) -> Declared:
        """Plan one declared guest; return it under the name that it will have."""
        seen = observed.get(guest.name)
        former = None if guest.was is None else observed.get(guest.was)
        if former is not None and not self.ours(former) and guest.state == ABSENT:
            former = None
        if seen is not None and former is not None and self.ours(former):
            self.block(
                guest.name,
                f"{former.name} is there too, which it was",
                "leave was out where that is another guest, or remove one of them",
            )
            return guest
        seen = seen or former
        if seen is None:
            if guest.state == ABSENT:
                return guest
            if expect.get(guest.name) or expect.get(guest.was or ""):
                self.block(guest.name, "it is gone since it was planned", "plan again")
                return guest
            self.create(guest)
        elif self.refused(guest, seen, expect):
            return guest
        else:
            renamed = seen.name != guest.name
            if renamed and (guest.state == ABSENT or self.waits(guest, seen)):
                guest = guest.called(seen.name)
            if guest.state == ABSENT:
                files = bool(guest.asked.get("remove_disks"))
                protected = bool(_kept(guest, seen, "protected"))
                self.remove(seen, "declared absent", protected, files)
                return guest
            self.settle(guest, seen)
        dialect = self.dialects[str(seen.engine if seen else guest.engine)]
        if _kept(guest, seen, "autostart") and not dialect.autostarts:
            self.wait(
                guest.name,
                NOT_AUTOSTARTED,
                "nothing starts it when the host boots: there is no systemd",
                "start it by running this again, or state autostart: false",
            )
        return guest

    def ours(self, seen: Observed) -> bool:
        """Return whether a guest is this fleet's."""
        known = seen.problem is None and seen.spec is not None
        return known and seen.owned and seen.fleet == self.fleet

    def prune(self, observed: Mapping[str, Observed], declared: Sequence[Declared]) -> None:
        """Plan that the fleet's guests go that are declared neither now nor by a former name."""
        names = {name for guest in declared for name in (guest.name, guest.was)}
        for name, seen in observed.items():
            if name not in names and self.ours(seen):
                protected = bool((seen.spec or {}).get("protected", False))
                self.remove(seen, "it is not declared", protected)


def _why_start(guest: Declared, seen: Observed) -> str:
    if seen.state == FAILED and seen.exit:
        return f"declared {guest.state}, it ended: {seen.exit.get('reason')}"
    return f"declared {guest.state}, it is {seen.state}"


def plan(
    declared: Sequence[Declared],
    observed: Mapping[str, Observed],
    host: Host,
    dialects: Mapping[str, Dialect],
    *,
    fleet: str = "local",
    prune: bool = False,
    expect: Mapping[str, str] | None = None,
) -> Planned:
    """Return what makes the observed guests the declared ones.

    ``prune`` removes the fleet's own guests that are not declared. ``expect`` gives, by name, the
    digest that a guest had when it was planned elsewhere (empty: it was not there); one that has
    another by now is blocked.
    """
    planner = _Planner(host, dialects, fleet)
    guests = [planner.guest(guest, observed, expect or {}) for guest in declared]
    if prune:
        planner.prune(observed, declared)
    acted = {action.name for action in planner.actions}
    specs = {name: spec for name, spec in planner.specs.items() if name in acted}
    return Planned(Plan.of(planner.actions, planner.pending, planner.blocked), specs, guests)
