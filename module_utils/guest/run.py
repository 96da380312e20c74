# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""One call for all guests of a host, in five steps: read, desire, plan, apply, result.

Check mode leaves out the fourth. The plan is made without the host's lock, so that a run with
nothing to do waits for nobody; with something to do it is made again under the lock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Mapping, NamedTuple, Sequence

from ..converge.errors import InputError, VirtfleetError
from ..converge.result import accept, result, summary
from . import spec
from .engine import brief
from .plan import Planned, plan

if TYPE_CHECKING:
    from ..converge.action import Action
    from .engine import Failure, Host, Observed
    from .engines import Engines
    from .spec import Declared


class Wish(NamedTuple):
    """What a run is asked for; see the options of the module kvm_guests.

    ``remember`` writes down what a fleet's plan says, before anything of it is carried out. A plan
    that ``claims`` makes guests that another run could make elsewhere, and is held against others.
    """

    guests: Sequence[object]
    fleet: str = "local"
    prune: bool = False
    expect: Mapping[str, str] = {}
    remember: Callable[[], None] = lambda: None
    claims: bool = False


class _Round(NamedTuple):
    """What was read, desired and planned in one go."""

    observed: Mapping[str, Observed]
    declared: Sequence[Declared]
    planned: Planned


def _names(guests: Sequence[object]) -> list[str]:
    """Return the names that a list speaks of, former ones too, before it is read."""
    mappings = [guest for guest in guests if isinstance(guest, Mapping)]
    names = (guest.get(key) for guest in mappings for key in spec.CALLED)
    return [name for name in names if isinstance(name, str)]


def _plan(engines: Engines, wish: Wish, host: Host, *, check_mode: bool) -> _Round:
    """Read, desire and plan; InputError with all that is wrong or could not work."""
    observed = engines.observe(None if wish.prune else _names(wish.guests))
    dialects = engines.dialects()
    declared = spec.read(wish.guests, dialects, existing=_defined(observed))
    planned = plan(
        declared,
        observed,
        host,
        dialects,
        fleet=wish.fleet,
        prune=wish.prune,
        expect=wish.expect,
    )
    problems = engines.preflight(planned.plan.actions, planned.specs, check_mode=check_mode)
    if problems:
        places = {name: guest.path for guest in declared for name in _called(guest)}
        raise InputError([p._replace(path=_place(p.path, places)) for p in problems])
    return _Round(observed, declared, planned)


def _called(guest: Declared) -> list[str]:
    """Return the names that a guest may have."""
    return [guest.name, *([guest.was] if guest.was else [])]


def _defined(observed: Mapping[str, Observed]) -> set[str]:
    return {name for name, seen in observed.items() if seen.spec is not None or seen.problem}


def _place(path: str, places: Mapping[str, str]) -> str:
    """Return where in the input a path stands that begins with a guest's name."""
    name, dot, key = path.partition(".")
    return f"{places[name]}{dot}{key}" if name in places else path


def _is_waited_for(guest: Declared) -> bool:
    return bool(guest.asked.get("wait_for")) and guest.state in (spec.RUNNING, spec.RESTARTED)


def _apply(engines: Engines, planned: Planned) -> tuple[list[Action], list[Failure]]:
    """Carry out the plan step by step; what failed is not followed up for that guest."""
    done: list[Action] = []
    failures: list[Failure] = []
    former = {guest.name: guest.was for guest in planned.guests}
    for step in planned.plan.steps():
        given_up = {failure.action.name for failure in failures}
        actions = [a for a in step if not given_up & {a.name, former.get(a.name)}]
        failed = engines.apply(actions, planned.specs)
        failures += failed
        unsuccessful = {failure.action.id for failure in failed}
        done += [action for action in actions if action.id not in unsuccessful]
    return done, failures


def run(engines: Engines, wish: Wish, host: Host, *, check_mode: bool) -> dict[str, Any]:
    """Make the guests of this host the declared ones and return the module's result.

    Raises InputError with nothing changed, BusyError while another run changes this host, and
    ApplyError where actions failed or guests did not get where they were waited for.
    """
    last = _plan(engines, wish, host, check_mode=check_mode)
    observed = last.observed
    done: Sequence[Action] = last.planned.plan.actions
    failures: list[Failure] = []
    late: Mapping[str, str] = {}
    waited: set[str] = set()
    if not check_mode:
        acts = bool(done) or engines.unfinished()
        if acts or wish.claims:
            with engines.session():
                wish.remember()
                last = _plan(engines, wish, host, check_mode=False)
                done, failures = _apply(engines, last.planned)
        else:
            wish.remember()
        missed = {failure.action.name for failure in failures}
        missed.update(item.object.partition("/")[2] for item in last.planned.plan.blocked)
        waiting = [
            guest
            for guest in last.planned.guests
            if _is_waited_for(guest) and not missed.intersection(_called(guest))
        ]
        waited = {guest.name for guest in waiting}
        try:
            late = engines.settle(waiting)
            if acts or waited:
                observed = engines.observe(_names(wish.guests))
        except VirtfleetError:
            if not failures:  # which tell more
                raise
    found = ([name for name in _called(guest) if name in observed] for guest in last.declared)
    names = [called[0] for called in found if called]
    outcome = result(
        done,
        last.planned.plan.pending,
        last.planned.plan.blocked,
        msg=summary(done),
        warnings=engines.warnings(),
        guests=[
            {**brief(observed[name]), "addresses": engines.addresses(name)}
            if name in waited
            else brief(observed[name])
            for name in names
        ],
    )
    return accept(
        outcome,
        [(failure.action, failure.message) for failure in failures],
        {f"guest/{name}": why for name, why in late.items()},
    )
