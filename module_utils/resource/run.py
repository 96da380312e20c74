# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""One call for all objects of one kind on a host: read, desire, plan, apply, result.

Check mode leaves out the fourth. The plan is made without the host's lock, so that a run with
nothing to do waits for nobody; with something to do it is made again under the lock.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Iterator, Mapping, Sequence

from ..converge.errors import InputError, VirtfleetError
from ..converge.lock import exclusive, holder
from ..converge.result import accept, result, summary
from ..kvm.layout import make_folder
from ..virt.connection import LOST, said
from .kind import ABSENT, INACTIVE, Kind, Seen
from .plan import Planned, asked_of, plan
from .spec import read

if TYPE_CHECKING:
    from ..converge.action import Action
    from ..kvm.layout import Layout
    from ..virt.connection import Connection
    from .spec import Declared


@dataclass(frozen=True, eq=False, repr=False)
class Wish:
    """What a run is asked for; see the options of the modules."""

    entries: Sequence[object]
    host: str
    fleet: str = "local"
    prune: bool = False


@dataclass(frozen=True, eq=False, repr=False)
class _Round:
    """What was read, desired and planned in one go."""

    observed: Mapping[str, Seen]
    declared: Sequence[Declared]
    planned: Planned


def _ends(
    kind: Kind, declared: Sequence[Declared], observed: Mapping[str, Seen], wish: Wish
) -> Iterator[Seen]:
    """Yield the objects in use that a plan may end."""
    wanted = {one.name: one for one in declared}
    for name, seen in observed.items():
        one = wanted.get(name)
        asked = one is not None and (
            one.state in (ABSENT, INACTIVE) or one.asked.get("replace") or one.asked.get("restart")
        )
        in_use = seen.active or not kind.starts
        if in_use and (asked or (one is None and wish.prune and seen.owned)):
            yield seen


def _plan(kind: Kind, wish: Wish, *, check_mode: bool) -> _Round:
    """Read, desire and plan; InputError with all that is wrong or could not work."""
    observed = kind.observe()
    declared = read(wish.entries, kind, observed)
    users = {seen.name: kind.users(seen) for seen in _ends(kind, declared, observed, wish)}
    planned = plan(
        declared, observed, kind, wish.host, fleet=wish.fleet, prune=wish.prune, users=users
    )
    going = {action.name for action in planned.plan.actions if action.action == "delete"}
    touched = {action.name for action in planned.plan.actions} - going
    stated = {one.name: one.stated for one in declared if one.name in touched}
    staying = {name: seen for name, seen in observed.items() if name not in going}
    places = {one.name: one.path for one in declared}
    problems = [
        problem._replace(path=_placed(problem.path, places))
        for problem in (kind.clashes(stated, staying, check_mode=check_mode) if stated else ())
    ]
    if problems:
        raise InputError(problems)
    return _Round(observed, declared, planned)


def _placed(path: str, places: Mapping[str, str]) -> str:
    """Return where in the input a path stands that begins with an object's name and a slash."""
    name, slash, key = path.partition("/")
    if not slash or name not in places:
        return path
    return f"{places[name]}.{key}" if key else places[name]


class _Applier:
    """Carries out a plan for one kind."""

    def __init__(self, kind: Kind, last: _Round) -> None:
        self.kind = kind
        self.last = last
        self.failures: list[tuple[Action, str]] = []
        self.done: list[Action] = []

    def apply(self) -> None:
        """Carry out the plan step by step; what failed is not followed up for that object."""
        for step in self.last.planned.plan.steps():
            given_up = {action.object for action, _ in self.failures}
            parts: dict[str, list[Action]] = {}
            for action in step:
                if action.object not in given_up:
                    parts.setdefault(action.name, []).append(action)
            self._step(parts)

    def _step(self, parts: Mapping[str, Sequence[Action]]) -> None:
        failed = self.kind.connection.each(parts, lambda name: self._object(name, parts[name]))
        for name, actions in parts.items():
            if name in failed:
                self.failures += [(action, failed[name]) for action in actions]
            else:
                self.done += actions

    def _object(self, name: str, actions: Sequence[Action]) -> None:
        """Carry out the actions of a step that concern one object."""
        verbs = {action.action for action in actions}
        seen = self.last.observed.get(name)
        one = self.last.planned.declared.get(name)
        asked = asked_of(self.last.planned.declared, name)
        if "create" in verbs and one is not None:
            self._create(one)
        if "adopt" in verbs and seen is not None:
            self.kind.adopt(self._unchanged(seen))
        if "update" in verbs and one is not None and seen is not None:
            self._update(one, seen, actions)
        if "stop" in verbs:
            self.kind.lookup(name).destroy()
        if "start" in verbs:
            self.kind.start(name, asked)
        if "restart" in verbs:
            self.kind.restart(name, asked)
        if "attach" in verbs:
            self.kind.plug_in(name)
        if "replace" in verbs and one is not None and seen is not None:
            self._replace(one, self._unchanged(seen))
        if "delete" in verbs and seen is not None:
            self._delete(seen)

    def _create(self, one: Declared) -> None:
        kind = self.kind
        kind.begin(one.name)
        kind.claim(one.name, one.stated.get("uuid"))
        made = kind.define(kind.definitions.write(one.name, kind.fleet, one.stated))
        if kind.starts:
            made.setAutostart(int(one.asked.get("autostart", True)))
        kind.finish(one.name)

    def _update(self, one: Declared, seen: Seen, actions: Sequence[Action]) -> None:
        current = self._unchanged(seen)
        wanted = self.kind.definitions.patched(current.inactive, one.stated)
        if wanted != current.inactive:
            self.kind.define(wanted)
        changed = {change.path for action in actions for change in action.changes}
        if "autostart" in changed:
            self.kind.lookup(one.name).setAutostart(int(one.asked.get("autostart", True)))
        if seen.active:
            self.kind.update_live(one.name)

    def _replace(self, one: Declared, seen: Seen) -> None:
        """Make it anew; the former one is put back if that fails."""
        xml = self.kind.definitions.patched(seen.inactive, one.stated)
        self.kind.claim(one.name, one.stated.get("uuid"))
        self.kind.lookup(one.name).undefine()
        try:
            made = self.kind.define(xml)
        except self.kind.libvirt.libvirtError:
            self.kind.define(seen.inactive)
            raise
        if made.UUIDString() != seen.uuid:
            self.kind.ledger.note(self.kind.word, seen.uuid, None)
        if self.kind.starts:
            made.setAutostart(int(one.asked.get("autostart", seen.autostart)))

    def _delete(self, seen: Seen) -> None:
        if seen.persistent:
            self.kind.lookup(seen.name).undefine()
        self.kind.gone(seen)

    def _unchanged(self, seen: Seen) -> Seen:
        """Return what is there now; VirtfleetError where somebody else changed it meanwhile."""
        now = self.kind.again(seen.name)
        adopted = now is not None and now.owned and not seen.owned
        if now is None or (now.inactive != seen.inactive and not adopted):
            raise VirtfleetError(
                "somebody else changed it since it was looked at",
                remedy="run again, to plan from what it is now",
            )
        return now


@contextmanager
def told(connection: Connection) -> Iterator[None]:
    """Turn what libvirt says into an error of ours; a lost connection is said to be one."""
    try:
        yield
    except connection.libvirt.libvirtError as error:
        if connection.is_lost():
            raise VirtfleetError(f"{LOST} ({said(error)})") from error
        raise VirtfleetError(f"libvirt: {said(error)}") from error


def converge(kind: Kind, layout: Layout, wish: Wish, *, check_mode: bool) -> dict[str, Any]:
    """Make the objects of one kind the declared ones, and return the module's result.

    Raises InputError with nothing changed, BusyError while another run changes this host, and
    ApplyError where actions failed.
    """
    with told(kind.connection):
        last = _plan(kind, wish, check_mode=check_mode)
        done: Sequence[Action] = last.planned.plan.actions
        failures: list[tuple[Action, str]] = []
        observed = last.observed
        acts = not check_mode and bool(done or _left_over(last))
        if acts:
            make_folder(layout.state)
            with exclusive(os.path.join(layout.state, "lock"), holder(f"kvm_{kind.plural}")):
                last = _plan(kind, wish, check_mode=False)
                applier = _Applier(kind, last)
                applier.apply()
                done, failures = applier.done, applier.failures
                lost = {action.name for action, _ in failures}
                for seen in _left_over(last):
                    if seen.name not in lost:
                        kind.tidy(seen)
        anew = [] if check_mode else _refreshed(last)
        late = kind.connection.each(anew, kind.refresh) if anew else {}
        if acts or anew:
            observed = _look_again(kind, last.observed, failed=bool(failures or late))
    return _outcome(kind, last, observed, done, (failures, late))


def _left_over(last: _Round) -> list[Seen]:
    """Return the declared objects of which a run that was killed left a note."""
    there = (last.observed.get(one.name) for one in last.declared)
    return [seen for seen in there if seen is not None and seen.left_over]


def _refreshed(last: _Round) -> list[str]:
    """Return the objects that libvirt is to look at anew, but for those that are refused."""
    refused = {item.object.partition("/")[2] for item in last.planned.plan.blocked}
    asked = [one for one in last.declared if one.asked.get("refresh") and one.state != ABSENT]
    return [one.name for one in asked if one.name not in refused]


def _look_again(kind: Kind, former: Mapping[str, Seen], *, failed: bool) -> Mapping[str, Seen]:
    """Return what there is now; what failed tells more than that this cannot be seen."""
    look: Callable[[], Mapping[str, Seen]] = kind.observe
    try:
        return look()
    except kind.libvirt.libvirtError:
        if not failed:
            raise
        return former


def _outcome(
    kind: Kind,
    last: _Round,
    observed: Mapping[str, Seen],
    done: Sequence[Action],
    failed: tuple[Sequence[tuple[Action, str]], Mapping[str, str]],
) -> dict[str, Any]:
    """Return the result; what failed are actions, and what could not be looked at anew."""
    mine = {one.name: observed[one.name] for one in last.declared if one.name in observed}
    outcome = result(
        done,
        last.planned.plan.pending,
        last.planned.plan.blocked,
        msg=summary(done),
        warnings=kind.warnings(mine),
        **{kind.plural: [seen.to_dict(starts=kind.starts) for seen in mine.values()]},
    )
    failures, late = failed
    refused = {f"refresh {kind.word}/{name}": why for name, why in late.items()}
    return accept(outcome, failures, refused)
