# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What placing guests is about: hosts as places, guests as what they need, and a policy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Mapping, Sequence

BALANCE = "balance"  # the least loaded host
PACK = "pack"  # as few hosts as possible
STRATEGIES = BALANCE, PACK
HOST, ZONE = "host", "zone"


@dataclass(frozen=True)
class Host:
    """A host as a place for guests.

    ``room`` is how much guests may have of each resource, all of them together, ``offers`` what
    there is without measure, such as networks. ``closed`` says why it takes no further guests.
    ``cells`` has the room of each NUMA node.
    """

    name: str
    room: Mapping[str, int]
    zone: str = ""
    offers: frozenset[str] = frozenset()
    closed: str = ""
    cells: Sequence[Mapping[str, int]] = ()


@dataclass(frozen=True)
class Rule:
    """A rule for the guests of a group, over hosts or zones; a soft one gives way to room."""

    group: str
    over: str = HOST
    soft: bool = False


@dataclass(frozen=True)
class Demand:
    """A guest as what it needs and wants.

    ``hosts`` are the only ones that it may be on and ``avoid`` those that it may not, as patterns
    of their names. ``cell`` asks that one NUMA node has room for all of it. ``host`` is where it
    already is.
    """

    name: str
    needs: Mapping[str, int]
    wants: frozenset[str] = frozenset()
    hosts: tuple[str, ...] | None = None
    avoid: tuple[str, ...] = ()
    spread: tuple[Rule, ...] = ()
    together: tuple[Rule, ...] = ()
    cell: bool = False
    host: str | None = None


@dataclass(frozen=True)
class Policy:
    """How to place: the strategy, and whether room is kept for the loss of a host."""

    strategy: str = BALANCE
    n_plus_one: bool = False


@dataclass(frozen=True)
class Answer:
    """Where a guest is to run, None where it has no place, and why."""

    host: str | None
    reason: str
    takeover: str | None = None  # the host that has room for it if its own is lost


@dataclass(frozen=True)
class Placement:
    """The answers by guest, and the guests that would have no place if their host were lost."""

    answers: Mapping[str, Answer] = field(default_factory=dict)
    exposed: Sequence[str] = ()

    @property
    def hosts_used(self) -> int:
        """The number of hosts that guests are on."""
        return len({answer.host for answer in self.answers.values() if answer.host is not None})
