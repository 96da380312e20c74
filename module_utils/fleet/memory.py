# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the hosts of a fleet remember of its plans together, and when that is enough. Pure.

A plan is remembered by the hosts that a run reached. A guest that was placed is known to a later
run if the two have a host in common, and any two majorities have: so guests are placed, and what
the hosts remember is replaced, only by runs that reach more than half of the hosts; of those that
the fleet has and of those that it had, as a majority of the one need not meet that of the other.

A run may end before its plan is everywhere, and of two at once each may have told some hosts. So
the newest plan that any host knows need not be the one that was carried out: what counts is all
down to the newest that more than half of its hosts took, as before that nothing is done.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Collection, Mapping, Optional, Sequence, Tuple

Taken = Tuple[int, str]  # the number of a plan, and the run that made it
Homes = Mapping[str, Optional[Taken]]


@dataclass(frozen=True)
class Memory:
    """What hosts remember: the number of the newest plan, and where each guest may be.

    ``guests`` have by host the plan that was to make them there, None where they were seen.
    ``looked_at`` are the hosts that were ever looked at: of another one nobody can say what is on
    it. ``voters`` are the hosts of the fleet, as each of the plans that count knew it.
    """

    serial: int
    guests: Mapping[str, Homes]
    looked_at: frozenset[str]
    voters: Sequence[frozenset[str]]


def taken(witness: Mapping[str, Any]) -> Taken:
    """Return which plan a host took last, of what it remembers of a fleet."""
    return int(witness.get("serial", 0)), str(witness.get("run", ""))


def may_come(plan: Taken, last: Taken) -> bool:
    """Return whether a plan can still be carried out on a host that took another one last.

    It cannot where that one is newer, or as new: a host takes a plan only in the place of one that
    the plan knew.
    """
    return plan == last or plan[0] > last[0]


def told(guests: Mapping[str, Homes]) -> dict[str, Any]:
    """Return where guests may be as hosts remember it: ``guests`` and ``coming`` of a witness."""
    coming = {
        name: {host: list(plan) for host, plan in sorted(homes.items()) if plan}
        for name, homes in sorted(guests.items())
    }
    return {
        "guests": {name: sorted(homes) for name, homes in sorted(guests.items()) if homes},
        "coming": {name: homes for name, homes in coming.items() if homes},
    }


def _homes(witness: Mapping[str, Any], name: str) -> dict[str, Taken | None]:
    coming = (witness.get("coming") or {}).get(name) or {}
    return {
        host: (int(coming[host][0]), str(coming[host][1])) if host in coming else None
        for host in witness["guests"][name]
    }


def recall(
    answers: Mapping[str, Mapping[str, Any] | None], fleet: str, fenced: Collection[str] = ()
) -> Memory:
    """Return what hosts remember of a fleet, by the answers of each; None for one without.

    What is newer is told by its number, as clocks differ.
    """
    plans: dict[Taken, dict[str, Any]] = {}
    holders: dict[Taken, set[str]] = {}
    for host, answer in answers.items():
        found = ((answer or {}).get("witness") or {}).get(fleet) or {}
        if found.get("serial"):
            plans[taken(found)] = found
            holders.setdefault(taken(found), set()).add(host)
    guests: dict[str, dict[str, Taken | None]] = {}
    voters: list[frozenset[str]] = []
    settled = 0
    for plan in sorted(plans, reverse=True):
        if plan[0] < settled:
            break
        for name in plans[plan].get("guests") or ():
            homes = guests.setdefault(name, {})
            for home, coming in _homes(plans[plan], name).items():
                homes[home] = homes.get(home) or coming
        voters.append(frozenset(plans[plan].get("hosts") or ()))
        if not missing(holders[plan], voters[-1] - set(fenced)):
            settled = plan[0]
    looked_at = frozenset.intersection(*voters) if voters else frozenset()
    return Memory(max(plans, default=(0, ""))[0], guests, looked_at, voters)


def missing(answered: Collection[str], *voters: Collection[str]) -> list[str]:
    """Return the hosts of which more have to answer, empty where more than half of each do."""
    for some in voters:
        silent = sorted(set(some) - set(answered))
        if some and 2 * len(silent) >= len(set(some)):
            return silent
    return []
