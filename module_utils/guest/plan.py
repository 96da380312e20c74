# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""From what is declared and what is observed to what has to be done: a pure function.

Within a step nothing depends on anything: guests are stopped, made and updated first, and deleted
and started then.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Iterable, Mapping, Sequence

from ..converge.action import LIVE, NEXT_BOOT, NOW, Action, Blocked, Change, Pending, Plan
from ..converge.compare import compare, leaves
from .engine import BOOT_KEYS, FAILED, RUNNING, STOPPED, Host, Observed
from .spec import ABSENT, RESTARTED, Declared, complete
from .spec import RUNNING as WANT_RUNNING
from .spec import STOPPED as WANT_STOPPED

FIRST, SECOND = 1, 2

RESTART_REQUIRED = "restart_required"
OLDER_HELPER = "older_helper"
NOT_AUTOSTARTED = "not_autostarted"


@dataclass(frozen=True)
class Planned:
    """The plan, and the whole spec of each guest that it creates, updates or starts."""

    plan: Plan
    specs: dict[str, dict[str, Any]] = field(default_factory=dict)


def machine(spec: Mapping[str, Any], host: Host) -> dict[str, Any]:
    """Return what a spec boots on this host: `BOOT_KEYS`, the kernel as the file that is meant."""
    found = {key: spec.get(key) for key in BOOT_KEYS}
    if found["kernel"] == "host":
        found["kernel"] = host.kernel
    return found


def _top(change: Change) -> str:
    return change.path.partition(".")[0]


def _differs(changes: Iterable[Change]) -> str:
    """Return the reason for an update in words: "memory and vcpus differ"."""
    names = [change.path for change in changes]
    if len(names) == 1:
        return f"{names[0]} differs"
    return f"{', '.join(names[:-1])} and {names[-1]} differ"


def changes_of(guest: Declared, seen: Observed, host: Host) -> list[Change]:
    """Return what differs between what was stated and the guest's definition.

    A spec that says ``kernel: host`` follows the host's kernel to another file.
    """
    changes = compare(guest.stated, seen.spec)
    after = machine(complete(guest.stated, seen.spec), host)["kernel"]
    before = (seen.machine or {}).get("kernel", after)
    if before != after and "kernel" not in {change.path for change in changes}:
        changes.append(Change("kernel", before, after))
    return changes


class _Planner:
    """Plans guest by guest; what it collects becomes one plan."""

    def __init__(self, host: Host, fleet: str) -> None:
        self.host = host
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

    def start(self, name: str, reason: str, before: str | None) -> None:
        """Plan a start."""
        self.act(SECOND, name, "start", reason, [Change("state", before, RUNNING)])

    def create(self, guest: Declared) -> None:
        """Plan a guest that is not there."""
        spec = complete(guest.stated)
        changes = [Change(path, None, value) for path, value in leaves(spec) if path != "name"]
        self.specs[guest.name] = spec
        self.act(FIRST, guest.name, "create", "it is not there", changes)
        if guest.state in (WANT_RUNNING, RESTARTED):
            self.start(guest.name, f"declared {guest.state}", None)

    def remove(self, seen: Observed, reason: str, protected: bool) -> None:
        """Plan the removal of a guest that is there."""
        if protected:
            self.block(
                seen.name,
                f"{reason}, but it is protected",
                "state protected: false for it, if it shall really go",
            )
            return
        if seen.state == RUNNING:
            self.stop(seen.name, reason)
        if seen.spec is not None:
            changes = [Change(path, old, None) for path, old in leaves(seen.spec) if path != "name"]
            self.act(SECOND, seen.name, "delete", reason, changes, destructive=True)

    def update(self, guest: Declared, seen: Observed, stops: bool, restarts: bool) -> None:
        """Plan what differs in a guest's definition, apart for what can be done live."""
        changes = changes_of(guest, seen, self.host)
        if not changes:
            return
        if seen.state != RUNNING or stops:
            step = SECOND if stops else FIRST
            self.act(step, guest.name, "update", _differs(changes), changes)
            return
        later = [change for change in changes if _top(change) in BOOT_KEYS]
        at_once = [change for change in changes if _top(change) not in BOOT_KEYS]
        if at_once:
            self.act(FIRST, guest.name, "update", _differs(at_once), at_once, when=LIVE)
        if later:
            reason = _differs(later)
            if not restarts:
                reason += ", which takes effect when it is started anew"
            self.act(FIRST, guest.name, "update", reason, later, when=NEXT_BOOT)

    def activated(self, guest: Declared, seen: Observed) -> list[Change]:
        """Return what a running guest would take over by being started anew."""
        if seen.booted is None:
            return []
        return compare(machine(complete(guest.stated, seen.spec), self.host), seen.booted)

    def outstanding(self, guest: Declared, seen: Observed) -> None:
        """Tell what a guest that goes on running has not taken over yet."""
        name = guest.name
        changes = self.activated(guest, seen)
        if changes:
            reason = f"it runs with an older definition: {_differs(changes)}"
            self.wait(name, RESTART_REQUIRED, reason, "ask for state: restarted", changes)
        if None not in (seen.helper, self.host.helper) and seen.helper != self.host.helper:
            self.wait(
                name,
                OLDER_HELPER,
                "it runs with another helper than the installed one",
                "ask for state: restarted",
                [Change("helper", seen.helper, self.host.helper)],
            )

    def settle(self, guest: Declared, seen: Observed) -> None:
        """Plan a guest that is there and shall be."""
        self.specs[guest.name] = complete(guest.stated, seen.spec)
        running = seen.state == RUNNING
        stops = running and guest.state == WANT_STOPPED
        restarts = running and guest.state == RESTARTED
        if stops:
            self.stop(guest.name, "declared stopped")
        self.update(guest, seen, stops, restarts)
        if restarts:
            changes = self.activated(guest, seen)
            self.act(SECOND, guest.name, "restart", "a restart was asked for", changes)
        elif not running and guest.state in (WANT_RUNNING, RESTARTED):
            self.start(guest.name, _why_start(guest, seen), seen.state)
        elif running and not stops:
            self.outstanding(guest, seen)

    def refused(self, guest: Declared, seen: Observed, expect: Mapping[str, str]) -> bool:
        """Return whether the guest must not be touched, and say why."""
        name = guest.name
        if seen.problem is not None:
            self.block(name, seen.problem, seen.remedy or "look at it and move it away")
        elif seen.spec is None and guest.state != ABSENT:
            self.block(
                name,
                "a process of that name runs without a definition",
                "ask for state: absent, which stops it, and declare it again",
            )
        elif seen.spec is not None and seen.fleet != self.fleet:
            self.block(
                name,
                f"it belongs to the fleet {seen.fleet!r}, this is {self.fleet!r}",
                "choose another name, or remove it with the fleet that it belongs to",
            )
        elif name in expect and expect[name] != seen.digest:
            self.block(
                name,
                f"it changed since it was planned (expected {expect[name] or 'no such guest'},"
                f" found {seen.digest or 'no definition'})",
                "plan again",
            )
        else:
            return False
        return True

    def guest(self, guest: Declared, seen: Observed | None, expect: Mapping[str, str]) -> None:
        """Plan one declared guest."""
        if seen is None:
            if guest.state == ABSENT:
                return
            if expect.get(guest.name):
                self.block(guest.name, "it is gone since it was planned", "plan again")
                return
            self.create(guest)
        elif self.refused(guest, seen, expect):
            return
        elif guest.state == ABSENT:
            stored = (seen.spec or {}).get("protected", False)
            self.remove(seen, "declared absent", guest.stated.get("protected", stored))
            return
        else:
            self.settle(guest, seen)
        autostart = complete(guest.stated, seen.spec if seen else None)["autostart"]
        if autostart and not self.host.supervised:
            self.wait(
                guest.name,
                NOT_AUTOSTARTED,
                "nothing starts it when the host boots: there is no systemd",
                "start it by running this again, or state autostart: false",
            )


def _why_start(guest: Declared, seen: Observed) -> str:
    if seen.state == FAILED and seen.exit:
        return f"declared {guest.state}, it ended: {seen.exit.get('reason')}"
    return f"declared {guest.state}, it is {seen.state}"


def plan(
    declared: Sequence[Declared],
    observed: Mapping[str, Observed],
    host: Host,
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
    planner = _Planner(host, fleet)
    for guest in declared:
        planner.guest(guest, observed.get(guest.name), expect or {})
    if prune:
        names = {guest.name for guest in declared}
        for name, seen in observed.items():
            ours = seen.problem is None and seen.spec is not None and seen.fleet == fleet
            if ours and name not in names:
                protected = bool((seen.spec or {}).get("protected", False))
                planner.remove(seen, "it is not declared", protected)
    acted = {action.name for action in planner.actions}
    specs = {name: spec for name, spec in planner.specs.items() if name in acted}
    return Planned(Plan.of(planner.actions, planner.pending, planner.blocked), specs)
