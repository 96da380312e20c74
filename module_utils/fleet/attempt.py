# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""One way to place guests: filter, weigh, place, then improve. See fleet.placement."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Callable, Iterator, Mapping, Protocol, Sequence, Tuple

from ..units import format_size
from .demand import PACK, ZONE, Answer, Demand, Host, Placement, Policy, Rule
from .room import Need, Room

NOWHERE = -1
_TRIES = 400  # guests that are tried to be moved for one that has no room
_NAMED = 4  # hosts that a reason names each

Bucket = Tuple[str, int]  # of a rule: its group, and the host or zone
# Of a free room, a need and a host: the smaller the better.
Fit = Callable[["Attempt", Need, int], float]


@dataclass(eq=False)
class Item:
    """Guests that are placed as one: a single one, or several that must be together."""

    demands: list[Demand]
    variants: list[Need]  # what it needs; one of them is enough
    shared: Need
    hosts: list[int]  # those that are not refused for what they are
    refused: Mapping[int, str]
    at: int = NOWHERE
    need: Need = ()
    takeover: int = NOWHERE
    fixed: bool = False
    why: str = ""

    @property
    def name(self) -> str:
        """The name of the first guest, which stands for all."""
        return self.demands[0].name


class Asked(Protocol):
    """What is asked for, with indices in place of names."""

    hosts: list[Host]
    policy: Policy
    resources: list[str]
    mean: list[float]  # of each resource, what a host has
    zone: list[int]  # of each host
    items: list[Item]

    def room(self) -> Room:
        """Return the room of empty hosts."""


class Attempt:
    """One way to place all that is asked for."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.room = asked.room()
        self.items = [replace(item) for item in asked.items]
        self.counts: dict[Bucket, int] = defaultdict(int)
        self.groups: dict[str, int] = defaultdict(int)
        self.weights = self._weights()
        self.exposed: list[Item] = []
        fixed = [item for item in self.items if item.fixed and item.at != NOWHERE]
        for item in fixed:
            item.need = self._fixed_need(item)
            self._settle(item, item.at, -1)
            item.why = "where it is"
        if asked.policy.n_plus_one:
            for item in sorted(fixed, key=lambda one: (-total(self, one), one.name)):
                takeover = self._takeover(item, item.need, item.at)
                if takeover == NOWHERE:
                    self.exposed.append(item)
                else:
                    self._keep(item, takeover)

    def _weights(self) -> list[float]:
        """Return how scarce each resource is: what new guests need of what is free, by host."""
        whole = [mean * len(self.asked.hosts) for mean in self.asked.mean]
        asked = [0] * len(self.asked.resources)
        for item in self.items:
            for resource, amount in item.variants[0]:
                asked[resource] += amount
        return [need / room if room else 0.0 for need, room in zip(asked, whole)]

    def _fixed_need(self, item: Item) -> Need:
        """Return the variant that fits best where a guest is already."""
        for need in item.variants:
            if self.room.lacks(need, item.at) < 0:
                return need
        return item.variants[0]

    # Rules.

    def _bucket(self, kind: str, rule: Rule, host: int) -> Bucket:
        if rule.over == ZONE:
            return f"{kind} zone {rule.group}", self.asked.zone[host]
        return f"{kind} host {rule.group}", host

    def _rules(self, item: Item, host: int) -> Iterator[Bucket]:
        for demand in item.demands:
            for kind, rules in (("spread", demand.spread), ("together", demand.together)):
                for rule in rules:
                    yield self._bucket(kind, rule, host)

    def _breaks(self, item: Item, host: int) -> str:
        """Return the rule that a host would break, empty for none."""
        own: dict[Bucket, int] = defaultdict(int)
        for demand in item.demands:
            for rule in demand.spread:
                bucket = self._bucket("spread", rule, host)
                if not rule.soft and self.counts[bucket] + own[bucket]:
                    return f"spread {rule.group}"
                own[bucket] += 1
            for rule in demand.together:
                bucket = self._bucket("together", rule, host)
                if not rule.soft and self.groups[bucket[0]] != self.counts[bucket]:
                    return f"together {rule.group}"
        return ""

    def _discord(self, item: Item, host: int) -> int:
        """Return how many guests a host would bring together, or apart, against soft rules."""
        found = 0
        for demand in item.demands:
            for rule in demand.spread:
                if rule.soft:
                    found += self.counts[self._bucket("spread", rule, host)]
            for rule in demand.together:
                if rule.soft:
                    bucket = self._bucket("together", rule, host)
                    found += self.groups[bucket[0]] - self.counts[bucket]
        return found

    # Placing.

    def _settle(self, item: Item, host: int, sign: int) -> None:
        """Let an item be on a host (-1), or take it away again (1)."""
        change = self.room.take if sign < 0 else self.room.give_back
        change(item.need, item.shared, host, len(item.demands))
        for bucket in self._rules(item, host):
            self.counts[bucket] -= sign
            self.groups[bucket[0]] -= sign

    def _keep(self, item: Item, takeover: int) -> None:
        self.room.keep(item.need, takeover, item.at)
        item.takeover = takeover

    def _takeover(self, item: Item, need: Need, at: int) -> int:
        """Return the host that best takes an item over from where it is, -1 for none."""
        best, found = None, NOWHERE
        room = self.room
        for host in item.hosts:
            if host == at or not room.can_keep(need, host, at):
                continue
            rank = (bool(self._breaks(item, host)), room.growth(need, host, at), room.load(host))
            if best is None or rank < best:
                best, found = rank, host
        return found

    def _place(self, item: Item, host: int, need: Need, why: str) -> bool:
        """Place an item, and what keeps room for it; False where nothing does."""
        item.at, item.need, item.why = host, need, why
        self._settle(item, host, -1)
        if not self.asked.policy.n_plus_one:
            return True
        takeover = self._takeover(item, need, host)
        if takeover != NOWHERE:
            self._keep(item, takeover)
            return True
        self._unplace(item)
        return False

    def _unplace(self, item: Item) -> None:
        if item.takeover != NOWHERE:
            self.room.forget(item.need, item.takeover, item.at)
        self._settle(item, item.at, 1)
        item.at = item.takeover = NOWHERE

    def _variant(self, item: Item, host: int) -> Need | None:
        for need in item.variants:
            if self.room.lacks(need, host) < 0:
                return need
        return None

    def put(
        self, item: Item, fit: Fit, without: int = NOWHERE, why: str = "", *, used: bool = False
    ) -> bool:
        """Place an item on the host that fits best, of those in use if asked; False for none."""
        if self.room.lacks_shared(item.shared) >= 0:
            return False
        ranked = []
        soft = any(rule.soft for d in item.demands for rule in (*d.spread, *d.together))
        pack = self.asked.policy.strategy == PACK
        for host in item.hosts:
            if host == without or (used and not self.room.guests[host]):
                continue
            need = self._variant(item, host)
            if need is None or self._breaks(item, host):
                continue
            discord = self._discord(item, host) if soft else 0
            empty = pack and not self.room.guests[host]
            ranked.append(((discord, empty, fit(self, need, host), host), host, need))
        ranked.sort(key=lambda one: one[0])
        why = why or ("best fit" if pack else "most room")
        return any(self._place(item, host, need, why) for _, host, need in ranked)

    def fill(self, size: Callable[[Attempt, Item], float], fit: Fit) -> None:
        """Place all that has no place, the largest and the most bound first."""
        left = self._ordered(size)
        unplaced = [item for item in left if not self.put(item, fit)]
        for item in unplaced:
            self.make_room(item, fit)
        if self.asked.policy.strategy == PACK:
            self._empty_hosts(fit)

    def _ordered(self, size: Callable[[Attempt, Item], float]) -> list[Item]:
        left = [item for item in self.items if not item.fixed]
        return sorted(left, key=lambda item: (-size(self, item), len(item.hosts), item.name))

    def fill_by_host(self, score: Callable[[Attempt, Need, int], float]) -> None:
        """Place what has no place host by host, on each what suits what is left of it best."""
        left = self._ordered(total)
        # A host that is used already first, then the largest.
        order = sorted(
            range(len(self.asked.hosts)),
            key=lambda host: (not self.room.guests[host], -sum(self.room.free[host]), host),
        )
        for host in order:
            refused: set[int] = set()
            while left:
                best, found, seen = 0.0, None, set()
                for number, item in enumerate(left):
                    # Items of the same kind are as good as each other.
                    if id(item) in refused or item.need in seen or host not in item.hosts:
                        continue
                    need = self._variant(item, host)
                    if need is None or self._breaks(item, host):
                        continue
                    seen.add(item.need)
                    value = score(self, need, host)
                    if found is None or value > best:
                        best, found = value, number
                if found is None:
                    break
                item = left[found]
                need = self._variant(item, host)
                fits = need is not None and self.room.lacks_shared(item.shared) < 0
                if need is not None and fits and self._place(item, host, need, "best fit"):
                    del left[found]
                else:
                    refused.add(id(item))
        self._empty_hosts(tightest)

    # Improving.

    def make_room(self, item: Item, fit: Fit) -> bool:
        """Place an item by moving one that was placed in the same go; False where that fails."""
        if self.room.lacks_shared(item.shared) >= 0:
            return False
        movable = [one for one in self.items if not one.fixed and one.at != NOWHERE]
        movable.sort(key=lambda one: (total(self, one), one.name))
        allowed = set(item.hosts)
        tries = 0
        for other in movable:
            if other.at not in allowed:
                continue
            tries += 1
            if tries > _TRIES:
                break
            before, need, takeover = other.at, other.need, other.takeover
            self._unplace(other)
            own = self._variant(item, before)
            why = f"{other.name} made room"
            fits = own is not None and not self._breaks(item, before)
            if own is not None and fits and self._place(item, before, own, why):
                if self.put(other, fit, before, f"makes room for {item.name}"):
                    return True
                self._unplace(item)
            self._back(other, before, need, takeover)
        return False

    def _back(self, item: Item, host: int, need: Need, takeover: int) -> None:
        """Put an item where it was."""
        item.at, item.need = host, need
        self._settle(item, host, -1)
        if takeover != NOWHERE:
            self._keep(item, takeover)

    def _empty_hosts(self, fit: Fit) -> None:
        """Move what was placed off hosts with little on them, as long as that empties them."""
        by_host: dict[int, list[Item]] = defaultdict(list)
        for item in self.items:
            if item.at != NOWHERE:
                by_host[item.at].append(item)
        for host in sorted(by_host, key=lambda one: (self.room.load(one), one)):
            own = sorted(by_host[host], key=lambda one: (-total(self, one), one.name))
            if not any(item.fixed for item in own) and self._moved_off(own, host, fit):
                for item in own:
                    by_host[item.at].append(item)

    def _moved_off(self, items: Sequence[Item], host: int, fit: Fit) -> bool:
        """Move all items of a host to others in use; False, and none moved, if one has to stay."""
        before = [(item, item.need, item.takeover) for item in items]
        for item in items:
            self._unplace(item)
        if all(self.put(item, fit, host, used=True) for item in items):
            return True
        for item in items:
            if item.at != NOWHERE:
                self._unplace(item)
        for item, need, takeover in before:
            self._back(item, host, need, takeover)
        return False

    # Answers.

    def rank(self) -> tuple[int, int]:
        """Return how many guests have no place, and how many hosts are used; less is better."""
        left = sum(len(item.demands) for item in self.items if item.at == NOWHERE)
        return left, sum(1 for guests in self.room.guests if guests)

    def placement(self) -> Placement:
        """Return the answers."""
        answers = {}
        hosts = self.asked.hosts
        for item in self.items:
            placed = hosts[item.at].name if item.at != NOWHERE else None
            takeover = hosts[item.takeover].name if item.takeover != NOWHERE else None
            reason = self.whole_reason(item)
            for demand in item.demands:
                answers[demand.name] = Answer(placed, reason, takeover)
        return Placement(answers, [d.name for item in self.exposed for d in item.demands])

    def whole_reason(self, item: Item) -> str:
        """Return why an item is where it is and nowhere else, as a line."""
        if item.fixed:
            if item.at != NOWHERE:
                return f"{self.asked.hosts[item.at].name}: {item.why}"
            return f"it is on {item.demands[0].host}, which is none of the hosts"
        parts = []
        if item.at != NOWHERE:
            parts.append(f"{self.asked.hosts[item.at].name}: {item.why}")
        lacking = self.room.lacks_shared(item.shared) if item.at == NOWHERE else -1
        if lacking >= 0:
            needed = dict(item.shared)[lacking] - self.room.shared[lacking]
            return f"{self._short(lacking, needed)} on all hosts"
        by_reason: dict[str, list[str]] = defaultdict(list)
        for number, host in enumerate(self.asked.hosts):
            if number != item.at:
                why = item.refused.get(number) or self._refusal(item, number)
                if why:
                    by_reason[why].append(host.name)
        for why, names in by_reason.items():
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            parts.append(f"{', '.join(names[:_NAMED])}{more} refused: {why}")
        return "; ".join(parts) or "there is no host"

    def _refusal(self, item: Item, host: int) -> str:
        """Return why a host has no place for an item now, empty if it has."""
        broken = self._breaks(item, host)
        if broken and item.at == NOWHERE:
            return broken
        if broken:
            # Its own place counts among what stands against another one.
            self._settle(item, item.at, 1)
            broken = self._breaks(item, host)
            self._settle(item, item.at, -1)
            if broken:
                return broken
        if self._variant(item, host) is not None:
            no_takeover = item.at == NOWHERE and self.asked.policy.n_plus_one
            return "no other host has room to take it over" if no_takeover else ""
        need = item.variants[0]
        lacking = self.room.lacks(need, host)
        missing = dict(need)[lacking] - self.room.free[host][lacking]
        if missing > 0:
            return self._short(lacking, missing)
        kept = missing + self.room.most[host][lacking]
        return f"{self._short(lacking, kept)}, as it keeps room for the loss of another host"

    def _short(self, resource: int, amount: int) -> str:
        name, at, cell = self.asked.resources[resource].partition("@")
        where = f" on NUMA node {cell}" if at else ""
        if name.startswith(("memory", "pool", "hugepages")):
            return f"{_rounded(amount)} short of {name}{where}"
        return f"{amount} short of {name}{where}"


def _rounded(amount: int) -> str:
    """Return a size in a unit in which it is read easily, rounded up."""
    for unit in (1 << 40, 1 << 30, 1 << 20, 1 << 10):
        if amount >= 4 * unit:
            return format_size(-(-amount // unit) * unit)
    return format_size(amount)


# Measures of size: the larger the earlier.


def total(attempt: Attempt, item: Item) -> float:
    """Return how large an item is in all, by how scarce what it needs is."""
    weights, mean = attempt.weights, attempt.asked.mean
    return sum(weights[r] * amount / mean[r] for r, amount in item.variants[0] if mean[r])


def largest(attempt: Attempt, item: Item) -> float:
    """Return the largest share of a host that an item needs."""
    mean = attempt.asked.mean
    return max((amount / mean[r] for r, amount in item.variants[0] if mean[r]), default=0.0)


# Measures of fit: the smaller the better.


def most_even(attempt: Attempt, need: Need, host: int) -> float:
    """Return the share of the scarcest resource that would be taken then."""
    free, whole = attempt.room.free[host], attempt.room.whole[host]
    found = 0.0
    for resource, amount in need:
        if whole[resource]:
            found = max(found, 1 - (free[resource] - amount) / whole[resource])
    return found


def tightest(attempt: Attempt, need: Need, host: int) -> float:
    """Return what would be left, by how scarce it is."""
    free, weights, mean = attempt.room.free[host], attempt.weights, attempt.asked.mean
    return sum(weights[r] * (free[r] - amount) / mean[r] for r, amount in need if mean[r])


def aligned(attempt: Attempt, need: Need, host: int) -> float:
    """Return how well the need points where much is free: the less the better."""
    return -by_product(attempt, need, host)


def in_order(attempt: Attempt, need: Need, host: int) -> float:
    """Return what lets the first host be taken that has room."""
    del attempt, need
    return host


def by_product(attempt: Attempt, need: Need, host: int) -> float:
    """Return the dot product of a need and of what is free: the more the better."""
    free, weights, mean = attempt.room.free[host], attempt.weights, attempt.asked.mean
    return sum(weights[r] * amount * free[r] / mean[r] ** 2 for r, amount in need if mean[r])


def by_distance(attempt: Attempt, need: Need, host: int) -> float:
    """Return how close a need comes to what is free, the negative square of the distance."""
    free, weights, mean = attempt.room.free[host], attempt.weights, attempt.asked.mean
    return -sum(weights[r] * ((free[r] - amount) / mean[r]) ** 2 for r, amount in need if mean[r])
