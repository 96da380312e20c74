# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan of a whole fleet: which guest is whose part, and which may not be touched. Pure.

It is fed with what kvm_guests_info says of every host, None for one that was not observed, and
says for each host which declared guests are its part and which undeclared ones go. What differs in
a guest is found by its host's own plan (guest.plan), which is held to what was seen here by the
digests: there is no second planner.

Where a guest runs is observed and no difference. A guest that could be running on a host that was
not observed is never made a second time: see docs/design.md, rule 4. One that had another name
before (``was``) is looked for under both, and is the same guest under either.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from math import ceil
from typing import Any, Iterable, Mapping, Sequence

from ..converge.action import Blocked, Pending
from ..converge.errors import InputError, Problem, VirtfleetError, shown
from ..guest.engine import ACTIVE
from ..guest.spec import ABSENT
from ..units import UnitError, parse_size
from ..virt.identity import uuid_for
from .demand import Demand, Host, Placement, Policy
from .memory import Taken, may_come, missing, recall, taken, told
from .needs import demand, host_room, is_local, overcommit
from .placement import further, place

_OR_FENCED = "or declare one that is off for sure as fenced: true"
_NAMED = 8  # names that a message shows


@dataclass(frozen=True)
class Wish:
    """A fleet as it was declared, and how far its plan may go.

    ``guests`` have name, was, state, host (None: to be placed), protected, adopt and asked; see
    fleet.needs for the last. ``hypervisors`` say by name what each is as a place, ``pools`` of
    which type each is. ``most_removals`` is a share such as "20%". ``left_out`` are hosts that the
    run is not for: what is theirs is not looked after, and nothing is amiss in that. ``run`` tells
    this plan from those of other runs.
    """

    fleet: str
    guests: Sequence[Mapping[str, Any]]
    hypervisors: Mapping[str, Mapping[str, Any]]
    pools: Mapping[str, str] = field(default_factory=dict)
    placement: Mapping[str, Any] = field(default_factory=dict)
    prune: bool = False
    most_removals: str = "20%"
    allow_removals: bool = False
    left_out: frozenset[str] = frozenset()
    run: str = ""


@dataclass
class Part:
    """What a host does: the declared guests that are its, those that go, and what was seen."""

    guests: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    expect: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {"guests": self.guests, "gone": self.gone, "expect": self.expect}


@dataclass(frozen=True)
class FleetPlan:
    """The parts of the hosts, where every guest is to be and why, and what was refused.

    ``new`` are guests that no host has yet. ``witness`` is what every host is to remember, empty
    where too few hosts were looked at to replace what is remembered. ``seen`` is by host what the
    plan stands on, see guest.witness.
    """

    parts: Mapping[str, Part]
    hosts: Mapping[str, str]
    reasons: Mapping[str, str]
    new: Sequence[str]
    blocked: Sequence[Blocked]
    pending: Sequence[Pending]
    witness: Mapping[str, Any]
    seen: Mapping[str, Mapping[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "parts": {name: part.to_dict() for name, part in self.parts.items()},
            "hosts": dict(self.hosts),
            "reasons": dict(self.reasons),
            "new": list(self.new),
            "blocked": [item.to_dict() for item in self.blocked],
            "pending": [item.to_dict() for item in self.pending],
            "witness": dict(self.witness),
            "seen": {host: dict(one) for host, one in self.seen.items()},
        }


class _Planner:
    """Plans guest by guest."""

    def __init__(self, wish: Wish, observed: Mapping[str, Mapping[str, Any] | None]) -> None:
        self.wish = wish
        self.was = _former_names(wish.guests)
        names = {former: name for name, former in self.was.items()}
        self.observed = {host: _renamed(observed.get(host), names) for host in wish.hypervisors}
        self.parts = {host: Part() for host, seen in self.observed.items() if seen is not None}
        self.hosts: dict[str, str] = {}
        self.reasons: dict[str, str] = {}
        self.blocked: list[Blocked] = []
        self.new: list[str] = []
        self.exposed: Sequence[str] = ()
        self.seen: dict[str, list[tuple[str, Mapping[str, Any]]]] = defaultdict(list)
        for host, answer in self.observed.items():
            for guest in (answer or {}).get("guests", ()):
                self.seen[guest["name"]].append((host, guest))
        self.identities = {
            str(seen["uuid"]): (host, _called(seen))
            for name in self.seen
            for host, seen in self._ours(name)
            if seen.get("uuid")
        }
        self.waiting: list[Pending] = []
        self.fenced = {name for name, place in wish.hypervisors.items() if place.get("fenced")}
        self.memory = recall(self.observed, wish.fleet, self.fenced)
        self.unreached = [
            host for host, seen in self.observed.items() if seen is None and host not in self.fenced
        ]
        # Without these what is remembered may not be the newest that there is.
        self.missing = self.unreached
        if self.memory.serial:
            voters = [frozenset(wish.hypervisors), *self.memory.voters]
            self.missing = missing(self.parts, *(some - self.fenced for some in voters))

    def plan(self) -> FleetPlan:
        """Return the plan; InputError, or VirtfleetError where it would remove too much."""
        floating: list[Mapping[str, Any]] = []
        for guest in self.wish.guests:
            settled = self._settled(guest)
            if settled is not None:
                self._give(settled, guest)
            elif self._may_be_made(guest):
                floating.append(guest)
        self._place(floating)
        if self.wish.prune:
            self._prune()
        self._held_back()
        return FleetPlan(
            self.parts,
            self.hosts,
            self.reasons,
            self.new,
            self.blocked,
            [*self.waiting, *self._exposed()],
            self._remembered(),
            self._looked_at(),
        )

    def capacity(self, sizes: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        """Return how many more guests of each size there is room for."""
        self.plan()
        problems: list[Problem] = []
        wanted = {name: demand(name, asked, None, problems) for name, asked in sizes.items()}
        if problems:
            raise InputError(problems)
        there = self._demands({})
        rooms, shared = self._rooms(there), self._shared(there)
        found = {}
        for name, one in wanted.items():
            count, limit = further(rooms, there, one, self._policy(), shared)
            found[name] = {"count": count, "limit": limit}
        return found

    def _policy(self) -> Policy:
        stated = self.wish.placement
        strategy = stated.get("strategy", Policy().strategy)
        return Policy(strategy, bool(stated.get("n_plus_one", False)))

    def block(self, name: str, host: str, reason: str, remedy: str) -> None:
        """Refuse what was asked for a guest."""
        self.blocked.append(Blocked(f"guest/{name}", host, reason, remedy))

    def _give(self, host: str, guest: Mapping[str, Any]) -> None:
        """Make a declared guest a host's part."""
        name = str(guest["name"])
        part = self.parts[host]
        part.guests.append(name)
        part.expect[name] = ""
        for at, seen in self.seen.get(name, ()):
            if at == host:
                part.expect[_called(seen)] = seen["digest"]
        self.hosts[name] = host

    def _ours(self, name: str) -> list[tuple[str, Mapping[str, Any]]]:
        return [
            (host, seen)
            for host, seen in self.seen.get(name, ())
            if seen.get("owned") and seen.get("fleet") == self.wish.fleet
        ]

    def _settled(self, guest: Mapping[str, Any]) -> str | None:
        """Return the host on which a guest is that this fleet may look after, None for none."""
        name, pin = str(guest["name"]), guest.get("host")
        ours = [host for host, _ in self._ours(name)]
        if len(ours) == 1 and (pin in (None, ours[0]) or guest.get("state") == ABSENT):
            return ours[0]
        # Of a guest that is there and not ours its host's own plan says what may be done to it.
        others = [host for host, _ in self.seen.get(name, ()) if host not in ours]
        if not ours and pin in others:
            return str(pin)
        asks = guest.get("adopt") or guest.get("state") == ABSENT
        if not ours and pin is None and len(others) == 1 and asks:
            return others[0]
        return None

    def _may_be_made(self, guest: Mapping[str, Any]) -> bool:
        """Return whether a guest is on no host and shall be; what keeps it from that is told."""
        name, pin = str(guest["name"]), guest.get("host")
        found = self.seen.get(name)
        may_be = self._may_be_on(name)
        homes = self._homes(name)
        if homes is None:
            homes = set() if pin is None else {pin}
        if found:
            self._elsewhere(name, pin, found)
        elif self.wish.left_out.intersection(homes):
            return False
        elif pin is not None and pin in self.unreached:
            self.block(name, pin, "its host was not reached", f"reach {pin}, {_OR_FENCED}")
        elif may_be:
            where = ", ".join(may_be[:_NAMED])
            reason = f"it may be on {where}, not looked at in this run"
            self.block(name, may_be[0], reason, f"look at all hosts, {_OR_FENCED}")
        elif pin is None and self.missing:
            self._too_few(guest)
        elif guest.get("state") == ABSENT:
            return False
        elif pin is not None and self.observed.get(pin) is None:
            self.block(name, pin, "its host is fenced", "state another host, or none")
        else:
            return not self._is_taken(name)
        return False

    def _is_taken(self, name: str) -> bool:
        """Return whether a guest that was renamed has the identity of a new one, and say so."""
        host, other = self.identities.get(
            uuid_for(self.was.get(name, name), self.wish.fleet), ("", "")
        )
        if other:
            self.block(
                name,
                host,
                f"{other} on {host} was made under this name, and has the UUID and MACs that it"
                " would get",
                f"choose another name, or state was: {name} for {other} if that is this guest",
            )
        return bool(other)

    def _elsewhere(
        self, name: str, pin: str | None, found: Sequence[tuple[str, Mapping[str, Any]]]
    ) -> None:
        """Refuse a guest that is on other hosts than it may be."""
        ours = self._ours(name)
        if len(ours) > 1:
            self._twice(name, ours)
        elif ours:
            ((host, _),) = ours
            remedy = "move it there yourself, or state the host on which it is"
            self.block(name, host, f"it is on {host}, declared for {pin}", remedy)
        else:
            where = ", ".join(_seen_as(name, host, seen) for host, seen in found)
            remedy = "choose another name, or state adopt: true and the host on which it is"
            self.block(name, found[0][0], f"a guest of that name is on {where}, not ours", remedy)

    def _twice(self, name: str, found: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        states = " and ".join(
            f"{_seen_as(name, host, seen)} ({seen.get('state')})" for host, seen in found
        )
        running = [host for host, seen in found if seen.get("state") in ACTIVE]
        reason = f"it is on several hosts at once: {states}"
        if len(running) > 1:
            reason = f"it RUNS on several hosts at once, which may destroy its disks: {states}"
        remedy = "find out which one is right, and remove the other on its host by hand"
        if len({_called(seen) for _, seen in found}) > 1:
            reason = f"it is there under both of its names: {states}"
            remedy = f"{remedy}; leave was out where they are two guests"
        for host in dict.fromkeys(host for host, _ in found):
            self.block(name, host, reason, remedy)

    def _too_few(self, guest: Mapping[str, Any]) -> None:
        """Leave a guest alone that may have been placed by a run that these hosts do not know."""
        name, absent = str(guest["name"]), guest.get("state") == ABSENT
        if absent and (self.wish.left_out or not self.unreached):
            return
        names = ", ".join(self.missing[:_NAMED])
        reason = (
            f"more than half of the hosts have to be looked at to place it: {names} not reached"
        )
        remedy = f"look at all hosts, {_OR_FENCED}"
        if self.wish.left_out:
            self.waiting.append(Pending(f"guest/{name}", "not_placed", "", reason, remedy))
        else:
            self.block(name, "", reason, remedy)

    def _may_be_on(self, name: str) -> list[str]:
        """Return the hosts on which a guest may be without anybody having seen it now."""
        homes = self._homes(name)
        if homes is None:
            # Never made, as far as the hosts go that were ever looked at.
            return [host for host in self.unreached if host not in self.memory.looked_at]
        return [*(home for home in sorted(homes) if self._is_gone(home)), *self.unreached]

    def _homes(self, name: str) -> set[str] | None:
        """Return the hosts that are remembered to have a guest, None where it is not known."""
        known = [self.memory.guests.get(one) for one in (name, self.was.get(name, name))]
        found = [set(homes) for homes in known if homes is not None]
        return set().union(*found) if found else None

    def _is_gone(self, host: str | None) -> bool:
        """Return whether a host is no longer in the fleet."""
        return host is not None and host not in self.wish.hypervisors

    # Placing.

    def _place(self, floating: Sequence[Mapping[str, Any]]) -> None:
        """Find a place for guests that have none, among all the others."""
        pins = {str(guest["name"]): guest.get("host") for guest in floating}
        policy = self._policy()
        placement = Placement()
        if None in pins.values() or policy.n_plus_one:
            asked = self._demands(pins)
            placement = place(self._rooms(asked), asked, policy, self._shared(asked))
        self.exposed = placement.exposed
        for guest in floating:
            name = str(guest["name"])
            at = pins[name]
            if at is None:
                answer = placement.answers[name]
                at, self.reasons[name] = answer.host, answer.reason
            if at is None:
                remedy = "make room, loosen its rules, or add a host"
                self.block(name, "", f"it fits on no host: {self.reasons[name]}", remedy)
                continue
            self.new.append(name)
            self._give(at, guest)

    def _demands(self, pins: Mapping[str, str | None]) -> list[Demand]:
        """Return what all guests need that are there, or shall be, on the hosts that they have."""
        problems: list[Problem] = []
        found = []
        for guest in self.wish.guests:
            name = str(guest["name"])
            if guest.get("state") != ABSENT and (name in self.hosts or name in pins):
                host = self.hosts.get(name) or pins.get(name)
                found.append(demand(name, guest.get("asked") or {}, host, problems))
        if problems:
            raise InputError(problems)
        return found

    def _rooms(self, demands: Sequence[Demand]) -> list[Host]:
        """Return the hosts as places, with what is not the fleet's taken off."""
        claims: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        for one in demands:
            for key, amount in one.needs.items():
                if one.host is not None:
                    claims[one.host][key] += amount
        cpus = {want for one in demands for want in one.wants if want.startswith("cpu ")}
        found = []
        for host, place_ in self.wish.hypervisors.items():
            answer = self.observed[host]
            closed = "in maintenance" if place_.get("maintenance") else ""
            closed = "not reached" if answer is None else closed
            seen = dict((answer or {}).get("room") or {})
            # What volumes take is known of all of them: those of the fleet are counted by guest.
            seen["pools"] = {
                pool: {
                    "capacity": values["capacity"],
                    "strange": max(0, values["committed"] - claims[host][f"pool {pool}"]),
                }
                for pool, values in (seen.get("pools") or {}).items()
                if is_local(self.wish.pools.get(pool))
            }
            strangers = self._strangers(host, (answer or {}).get("guests", ()))
            found.append(
                host_room(host, place_, seen, self.wish.placement, strangers, cpus, closed)
            )
        return found

    def _strangers(self, host: str, guests: Iterable[Mapping[str, Any]]) -> Mapping[str, int]:
        """Return what guests have of a host that are not its part: those that run, or are ours."""
        taken = {"vcpus": 0, "memory": 0}
        for guest in guests:
            ours = guest.get("owned") and guest.get("fleet") == self.wish.fleet
            if self.hosts.get(guest["name"]) != host and (ours or guest.get("state") in ACTIVE):
                taken["vcpus"] += int(guest.get("vcpus") or 0)
                taken["memory"] += _bytes(guest.get("max_memory") or guest.get("memory"))
        return taken

    def _shared(self, demands: Sequence[Demand]) -> dict[str, int]:
        """Return the room of the pools that hosts share, as any of them sees it."""
        often = overcommit(self.wish.placement)["disk"]
        claims: dict[str, int] = defaultdict(int)
        for one in demands:
            for key, amount in one.needs.items():
                if one.host is not None:
                    claims[key] += amount
        found: dict[str, int] = {}
        for answer in self.observed.values():
            for pool, values in ((answer or {}).get("room") or {}).get("pools", {}).items():
                key = f"pool {pool}"
                if pool in self.wish.pools and not is_local(self.wish.pools[pool]):
                    strange = max(0, values["committed"] - claims[key])
                    room = max(0, int(values["capacity"] * often) - strange)
                    found[key] = min(found.get(key, room), room)
        return found

    # Removals.

    def _prune(self) -> None:
        names = {str(guest["name"]) for guest in self.wish.guests}
        for name in sorted(set(self.seen) - names):
            for host, seen in self._ours(name):
                self.parts[host].gone.append(name)
                self.parts[host].expect[name] = seen["digest"]

    def _held_back(self) -> None:
        """Refuse a plan that would remove more than was agreed."""
        absent = self._absent()
        going = [
            name
            for part in self.parts.values()
            for name in (*part.gone, *(one for one in part.guests if one in absent))
            if self.seen.get(name)
        ]
        ours = sum(1 for name in self.seen if self._ours(name))
        most = ceil(int(self.wish.most_removals.rstrip("%")) * ours / 100)
        if len(going) <= most or self.wish.allow_removals:
            return
        more = f" and {len(going) - _NAMED} more" if len(going) > _NAMED else ""
        raise VirtfleetError(
            f"the plan would remove {len(going)} of {ours} guests, more than"
            f" {self.wish.most_removals}: {', '.join(sorted(going)[:_NAMED])}{more}",
            remedy="look at what it says, and allow it with -e allow_removals=true",
        )

    # The witness.

    def _remembered(self) -> dict[str, Any]:
        """Return what hosts are to remember: where each guest of the fleet was last seen.

        And the hosts that were ever looked at. Empty where too few were, as what others remember
        may be newer. A guest that goes is remembered until it was seen that it is gone.
        """
        if self.missing:
            return {}
        plan = (self.memory.serial + 1, self.wish.run)
        known: dict[str, dict[str, Taken | None]] = defaultdict(dict)
        for name, homes in self.memory.guests.items():
            for host, coming in homes.items():
                if self._may_hold(host, coming):
                    known[name][host] = coming
        for name in self.new:
            known[name][self.hosts[name]] = plan
        for name in self.seen:
            for host, seen in self._ours(name):
                # Until it has its new name it is remembered by both: who declares it by the former
                # must not make it again.
                known[name][host] = known[_called(seen)][host] = None
        hosts = {*self.parts, *self.memory.looked_at} - (self.fenced - set(self.parts))
        return {
            "serial": plan[0],
            "run": plan[1],
            "hosts": sorted(hosts & set(self.wish.hypervisors)),
            **told(known),
            "new": sorted(self.new),
        }

    def _may_hold(self, host: str, coming: Taken | None) -> bool:
        """Return whether a guest may be on a host where it was not seen now."""
        if host in self.parts:
            return coming is not None and may_come(coming, taken(self._last_plan(host)))
        return host in self.unreached or self._is_gone(host)

    def _last_plan(self, host: str) -> Mapping[str, Any]:
        """Return what a host remembers of this fleet itself."""
        remembered = (self.observed.get(host) or {}).get("witness") or {}
        return remembered.get(self.wish.fleet) or {}

    def _looked_at(self) -> dict[str, dict[str, Any]]:
        """Return by host what a plan stands on: it holds while the host has taken no other since.

        And where guests are made that could be made twice, while just the same ones are there.
        """
        found: dict[str, dict[str, Any]] = {}
        there: dict[str, list[str]] = defaultdict(list)
        for name in self.seen:
            for host, seen in self._ours(name):
                there[host].append(_called(seen))
        for host in self.parts:
            found[host] = {"run": str(self._last_plan(host).get("run", ""))}
            if self.new:
                found[host]["guests"] = sorted(there[host])
        return found

    def _exposed(self) -> list[Pending]:
        """Tell which guests would have no place if their host were lost."""
        remedy = "add room, or move guests by hand; without n_plus_one nothing is kept free"
        return [
            Pending(
                f"guest/{name}",
                "no_room_on_loss",
                self.hosts[name],
                f"if {self.hosts[name]} is lost, no other host has room for it",
                remedy,
            )
            for name in self.exposed
        ]

    def _absent(self) -> set[str]:
        return {str(guest["name"]) for guest in self.wish.guests if guest.get("state") == ABSENT}


def _former_names(guests: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return by name which guests had another one; InputError where that is somebody else's.

    It was looked at when the fleet was read, where no template stood there.
    """
    found = {str(guest["name"]): str(guest["was"]) for guest in guests if guest.get("was")}
    taken = Counter([*(str(guest["name"]) for guest in guests), *found.values()])
    wrong = [
        Problem(f"guests.{name}.was", "a name that no other guest has or had", shown(former))
        for name, former in found.items()
        if taken[former] > 1
    ]
    if wrong:
        raise InputError(wrong)
    return found


def _renamed(
    answer: Mapping[str, Any] | None, names: Mapping[str, str]
) -> Mapping[str, Any] | None:
    """Return what a host answered with guests under the ``names`` that they get, by former ones."""
    if answer is None or not names:
        return answer
    guests = [
        {**guest, "name": names[guest["name"]], "former": guest["name"]}
        if guest["name"] in names
        else guest
        for guest in answer.get("guests", ())
    ]
    return {**answer, "guests": guests}


def _called(seen: Mapping[str, Any]) -> str:
    """Return the name that a guest has where it was seen."""
    return str(seen.get("former", seen["name"]))


def _seen_as(name: str, host: str, seen: Mapping[str, Any]) -> str:
    """Return where a guest was seen, and as what if that is not its name."""
    return host if _called(seen) == name else f"{host} as {_called(seen)}"


def _bytes(value: Any) -> int:
    try:
        return parse_size(value)
    except UnitError:
        return 0


def capacity(
    wish: Wish,
    observed: Mapping[str, Mapping[str, Any] | None],
    sizes: Mapping[str, Mapping[str, Any]],
) -> dict[str, dict[str, Any]]:
    """Return by size how many more guests of it there is room for, and what limits them.

    Each for itself, when all that is declared is there. ``sizes`` say what one asks for, as
    fleet.needs has it.
    """
    return _Planner(wish, observed).capacity(sizes)


def plan(wish: Wish, observed: Mapping[str, Mapping[str, Any] | None]) -> FleetPlan:
    """Return the plan of a fleet; ``observed`` is by host, None for one that was not.

    Raises InputError for amounts that are none, and VirtfleetError for a plan that would remove
    more guests than was agreed.
    """
    return _Planner(wish, observed).plan()
