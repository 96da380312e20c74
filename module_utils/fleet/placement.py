# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where guests run, and why. Pure, and the same for the same input in any order.

Guests that are somewhere stay there. The others are placed on hosts that offer what they want, keep
their rules and have room, the largest first; guests that must be together are placed as one. What
does not fit then is helped by moving what was placed in the same go, never what runs already.

With ``n_plus_one`` each guest has a second host as well that would take it over: room is kept for
the loss of any one host, so that nothing but its own guests has to move. A loss may bring guests
together that are spread; every other rule holds then too.

Placing is vector bin packing with items in decreasing order, see R. Panigrahy et al., "Heuristics
for Vector Bin Packing" (2011), for its measures of size and fit.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from fnmatch import fnmatchcase
from math import ceil
from typing import Iterator, Mapping, Sequence

from .attempt import (
    NOWHERE,
    Attempt,
    Item,
    aligned,
    by_distance,
    by_product,
    in_order,
    largest,
    most_even,
    tightest,
    total,
)
from .demand import BALANCE, PACK, ZONE, Demand, Host, Placement, Policy
from .room import Need, Room

_BY_HOST = 2000  # items; filling host by host looks at each of them again for every one it places


class Search:
    """What is asked for, with indices in place of names."""

    def __init__(
        self,
        hosts: Sequence[Host],
        demands: Sequence[Demand],
        policy: Policy,
        shared: Mapping[str, int],
    ) -> None:
        self.hosts = sorted(hosts, key=lambda host: host.name)
        self.policy = policy
        self.index = {host.name: number for number, host in enumerate(self.hosts)}
        zones = {zone: number for number, zone in enumerate(sorted({h.zone for h in self.hosts}))}
        self.zone = [zones[host.zone] for host in self.hosts]
        ordered = sorted(demands, key=lambda demand: demand.name)
        names = {name for demand in ordered for name in demand.needs}
        names.update(*(host.room for host in self.hosts), shared)
        cells = max((len(host.cells) for host in self.hosts), default=0)
        of_cells = sorted({name for host in self.hosts for cell in host.cells for name in cell})
        self.resources = sorted(names)
        for number in range(cells):
            self.resources += [f"{name}@{number}" for name in of_cells]
        self.number = {name: number for number, name in enumerate(self.resources)}
        self.cells, self.of_cells = cells, of_cells
        self.shared = shared
        rows = self.room().whole or [[0] * len(self.resources)]
        self.mean = [sum(column) / len(rows) for column in zip(*rows)]
        self._static: dict[object, tuple[list[int], dict[int, str]]] = {}
        self.items = [self._item([demand]) for demand in ordered if demand.host is not None]
        self.items += [self._item(group) for group in _as_one(ordered)]

    def room(self) -> Room:
        """Return the room of empty hosts."""
        amounts = []
        for host in self.hosts:
            row = [host.room.get(name, 0) for name in self.resources]
            for number, cell in enumerate(host.cells):
                for name, amount in cell.items():
                    row[self.number[f"{name}@{number}"]] = amount
            amounts.append(row)
        return Room(amounts, [self.shared.get(name, 0) for name in self.resources])

    def _item(self, demands: list[Demand]) -> Item:
        needs: dict[str, int] = defaultdict(int)
        for demand in demands:
            for name, amount in demand.needs.items():
                needs[name] += amount
        own = {name: amount for name, amount in needs.items() if amount and name not in self.shared}
        variants = [self._need(own)]
        if any(demand.cell for demand in demands):
            inside = {name: own[name] for name in own if name in self.of_cells}
            variants = [
                self._need({**own, **{f"{name}@{cell}": n for name, n in inside.items()}})
                for cell in range(max(self.cells, 1))
                if self.cells
            ] or variants
        common = {name: amount for name, amount in needs.items() if amount and name in self.shared}
        hosts, refused = self._statically(demands)
        item = Item(demands, variants, self._need(common), hosts, refused, need=variants[0])
        stated = demands[0].host
        if stated is not None:
            item.at, item.fixed = self.index.get(stated, NOWHERE), True
        return item

    def _need(self, amounts: Mapping[str, int]) -> Need:
        return tuple(sorted((self.number[name], amount) for name, amount in amounts.items()))

    def _statically(self, demands: Sequence[Demand]) -> tuple[list[int], dict[int, str]]:
        """Return the hosts that may be had for what they are, and why the others may not."""
        key = tuple((one.wants, one.hosts, one.avoid) for one in demands)
        if key not in self._static:
            refused = {}
            for number, host in enumerate(self.hosts):
                why = next(filter(None, (_unfit(host, demand) for demand in demands)), "")
                if why:
                    refused[number] = why
            allowed = [number for number in range(len(self.hosts)) if number not in refused]
            self._static[key] = allowed, refused
        return self._static[key]

    def best(self) -> Placement:
        """Return the best of what several orders and measures of fit lead to."""
        best: Attempt | None = None
        for attempt in self._attempts():
            if best is None or attempt.rank() < best.rank():
                best = attempt
            left, used = best.rank()
            if not left and (self.policy.strategy == BALANCE or used <= self._fewest(best)):
                break
        return best.placement() if best is not None else Placement()

    def _fewest(self, attempt: Attempt) -> int:
        """Return a number of hosts that all guests need at least."""
        room = attempt.room
        least = 1
        for resource in range(len(self.resources)):
            largest = max((row[resource] for row in room.whole), default=0)
            taken = sum(row[resource] - free[resource] for row, free in zip(room.whole, room.free))
            if largest:
                least = max(least, ceil(taken / largest))
        return least

    def _attempts(self) -> Iterator[Attempt]:
        fits = [most_even] if self.policy.strategy == BALANCE else []
        fits += [tightest, aligned, in_order]
        for fit in fits:
            for size in (total, largest):
                attempt = Attempt(self)
                attempt.fill(size, fit)
                yield attempt
        small = len(self.items) <= _BY_HOST and not self.policy.n_plus_one
        if self.policy.strategy == PACK and small:
            for score in (by_product, by_distance):
                attempt = Attempt(self)
                attempt.fill_by_host(score)
                yield attempt

    def further(self, size: Demand) -> tuple[int, str]:
        """Return how many more guests like ``size`` have room, and what limits them."""
        attempt = Attempt(self)
        attempt.fill(total, most_even)
        count = 0
        while True:
            item = self._item([replace(size, name=f"{size.name} {count + 1}", host=None)])
            if not attempt.put(item, most_even) and not attempt.make_room(item, most_even):
                return count, attempt.whole_reason(item)
            attempt.items.append(item)
            count += 1


def _as_one(demands: Sequence[Demand]) -> list[list[Demand]]:
    """Return those that have no host yet, the ones that must be on the same together."""
    above: dict[str, str] = {}

    def root(name: str) -> str:
        while above.setdefault(name, name) != name:
            name = above[name]
        return name

    new = [demand for demand in demands if demand.host is None]
    for demand in new:
        groups = [r.group for r in demand.together if not r.soft and r.over != ZONE]
        for group in groups:
            above[root(f"group {group}")] = root(f"guest {demand.name}")
    found: dict[str, list[Demand]] = defaultdict(list)
    for demand in new:
        found[root(f"guest {demand.name}")].append(demand)
    return list(found.values())


def _unfit(host: Host, demand: Demand) -> str:
    """Return why a host is none for a guest, whatever is on it; empty if it may be one."""
    if host.closed:
        return host.closed
    if demand.hosts is not None and not any(fnmatchcase(host.name, p) for p in demand.hosts):
        return "not among its hosts"
    if any(fnmatchcase(host.name, pattern) for pattern in demand.avoid):
        return "avoided"
    missing = sorted(demand.wants - host.offers)
    return f"no {missing[0]}" if missing else ""


def place(
    hosts: Sequence[Host],
    demands: Sequence[Demand],
    policy: Policy,
    shared: Mapping[str, int] | None = None,
) -> Placement:
    """Return where every guest is to run.

    ``shared`` is the room of resources that belong to no host, such as pools on a network.
    """
    return Search(hosts, demands, policy, shared or {}).best()


def further(
    hosts: Sequence[Host],
    demands: Sequence[Demand],
    size: Demand,
    policy: Policy,
    shared: Mapping[str, int] | None = None,
) -> tuple[int, str]:
    """Return how many more guests like ``size`` have room, and what limits them."""
    return Search(hosts, demands, policy, shared or {}).further(size)
