# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where guests are placed: by tables, and by a checker that knows nothing of the search."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any, Mapping, Sequence

import pytest
from ansible.module_utils.fleet.demand import Demand, Host, Placement, Policy, Rule
from ansible.module_utils.fleet.placement import further, place

GIB = 1 << 30
EVEN, TIGHT = Policy(), Policy("pack")
SAFE = Policy(n_plus_one=True)


def host(name: str, memory: int = 8, vcpus: int = 16, **more: Any) -> Host:
    return Host(name, {"memory": memory * GIB, "vcpus": vcpus}, **more)


def guest(name: str, memory: int = 2, vcpus: int = 1, **more: Any) -> Demand:
    return Demand(name, {"memory": memory * GIB, "vcpus": vcpus}, **more)


def rule(group: str, **more: Any) -> tuple[Rule, ...]:
    return (Rule(group, **more),)


def where(placement: Placement) -> dict[str, str | None]:
    return {name: answer.host for name, answer in placement.answers.items()}


# The checker.


def broken(
    hosts: Sequence[Host],
    demands: Sequence[Demand],
    placement: Placement,
    policy: Policy,
    shared: Mapping[str, int],
) -> list[str]:
    """Return every hard constraint that a placement breaks."""
    by_name = {one.name: one for one in hosts}
    on: dict[str, list[Demand]] = defaultdict(list)
    for demand in demands:
        at = placement.answers[demand.name].host
        if at is not None:
            on[at].append(demand)
    found = [one for demand in demands for one in _misplaced(by_name, demand, placement)]
    for name, guests in on.items():
        new = [one for one in guests if one.host is None]
        found += _overfull(by_name[name], [one for one in guests if one not in new], new)
    found += _rules(by_name, demands, placement)
    found += _overdrawn([one for guests in on.values() for one in guests], shared)
    if policy.n_plus_one:
        found += _losses(by_name, on, placement)
    return found


def _misplaced(hosts: Mapping[str, Host], demand: Demand, placement: Placement) -> list[str]:
    at = placement.answers[demand.name].host
    if demand.host is not None:
        return [] if at == demand.host else [f"{demand.name} was moved"]
    return [] if at is None else _unsuited(hosts[at], demand)


def _overdrawn(placed: Sequence[Demand], shared: Mapping[str, int]) -> list[str]:
    found = []
    for name, amount in shared.items():
        takers = [one for one in placed if one.needs.get(name)]
        is_new = any(one.host is None for one in takers)
        if is_new and sum(one.needs[name] for one in takers) > amount:
            found.append(f"too much of {name}")
    return found


def _unsuited(place: Host, demand: Demand) -> list[str]:
    found = [f"{demand.name} on the closed {place.name}"] if place.closed else []
    if demand.hosts is not None and not any(fnmatchcase(place.name, p) for p in demand.hosts):
        found.append(f"{demand.name} on {place.name}, not among its hosts")
    if any(fnmatchcase(place.name, p) for p in demand.avoid):
        found.append(f"{demand.name} on {place.name}, which it avoids")
    return found + [f"{demand.name} has no {one}" for one in demand.wants - place.offers]


def _overfull(place: Host, there: Sequence[Demand], more: Sequence[Demand]) -> list[str]:
    """Return of what a host has too little for ``more`` beside what is ``there``."""
    asked = {name for one in more for name, amount in one.needs.items() if amount}
    return [
        f"{place.name} has too little {name}"
        for name in sorted(asked & set(place.room))
        if sum(one.needs.get(name, 0) for one in (*there, *more)) > place.room[name]
    ]


def _rules(hosts: Mapping[str, Host], demands: Sequence[Demand], placement: Placement) -> list[str]:
    members: dict[tuple[str, Rule], list[tuple[str, bool]]] = defaultdict(list)
    for demand in demands:
        at = placement.answers[demand.name].host
        for kind, rules in (("spread", demand.spread), ("together", demand.together)):
            for one in rules:
                if at is not None and not one.soft:
                    spot = at if one.over == "host" else f"zone {hosts[at].zone}"
                    members[kind, one].append((spot, demand.host is None))
    found = []
    for (kind, one), spots in members.items():
        places = [spot for spot, _ in spots]
        new = {spot for spot, is_new in spots if is_new}
        if kind == "spread" and any(places.count(spot) > 1 for spot in new):
            found.append(f"spread {one.group}")
        if kind == "together" and new and len(set(places)) > 1:
            found.append(f"together {one.group}")
    return found


def _losses(
    hosts: Mapping[str, Host], on: Mapping[str, list[Demand]], placement: Placement
) -> list[str]:
    """Return what would have no place if a host were lost, by the second hosts that are named."""
    found = []
    for lost, guests in on.items():
        heirs: dict[str | None, list[Demand]] = defaultdict(list)
        for demand in guests:
            heirs[placement.answers[demand.name].takeover].append(demand)
        unprovided = [one.name for one in heirs.pop(None, []) if one.host is None]
        found += [f"nothing takes {name} over" for name in unprovided]
        for name, more in heirs.items():
            there = on.get(str(name), [])
            full = _overfull(hosts[str(name)], there, more)
            found += [f"without {lost}: {one}" for one in full]
            if name == lost:
                found.append(f"{lost} takes over from itself")
    return found


# Tables.


def test_a_guest_goes_where_most_is_free_and_its_answer_says_why() -> None:
    hosts = [
        host("kvm1", memory=4),
        host("kvm2", memory=16),
        host("kvm3", memory=16, closed="in maintenance"),
    ]
    answer = place(hosts, [guest("db", memory=6)], EVEN).answers["db"]
    assert answer.host == "kvm2"
    assert answer.reason == (
        "kvm2: most room; kvm1 refused: 2GiB short of memory; kvm3 refused: in maintenance"
    )


def test_packing_fills_a_host_before_it_opens_another() -> None:
    hosts = [host("kvm1"), host("kvm2"), host("kvm3", memory=6)]
    guests = [guest(f"web{number}") for number in range(7)]
    assert place(hosts, guests, TIGHT).hosts_used == 2
    assert place(hosts, guests, EVEN).hosts_used == 3


def test_what_fits_nowhere_is_told_for_every_host() -> None:
    hosts = [host("kvm1"), host("kvm2", vcpus=1), host("kvm3", offers=frozenset({"network lan"}))]
    there = [guest("old", memory=7, host="kvm3"), guest("web02", host="kvm1", spread=rule("web"))]
    demand = guest("web01", memory=4, vcpus=2, spread=rule("web"))
    placement = place(hosts, [*there, demand], EVEN)
    assert placement.answers["web01"].host is None
    assert placement.answers["web01"].reason == (
        "kvm1 refused: spread web; kvm2 refused: 1 short of vcpus; "
        "kvm3 refused: 3GiB short of memory"
    )
    lan = guest("lan", wants=frozenset({"network lan"}), avoid=("kvm3",))
    assert place(hosts, [lan], EVEN).answers["lan"].reason == (
        "kvm1, kvm2 refused: no network lan; kvm3 refused: avoided"
    )


def test_a_guest_stays_where_it_is_even_where_it_would_not_go() -> None:
    hosts = [host("kvm1", closed="in maintenance"), host("kvm2")]
    there = guest("web", memory=20, host="kvm1")
    placement = place(hosts, [there], EVEN)
    assert placement.answers["web"].host == "kvm1"
    gone = place(hosts, [replace(there, host="kvm9")], EVEN).answers["web"]
    assert (gone.host, gone.reason) == (None, "it is on kvm9, which is none of the hosts")


def test_hosts_are_chosen_by_patterns() -> None:
    hosts = [host(f"kvm{number}") for number in range(1, 5)]
    demand = guest("web", hosts=("kvm[12]", "kvm4"), avoid=("kvm1", "kvm2"))
    assert where(place(hosts, [demand], EVEN)) == {"web": "kvm4"}
    none = guest("web", hosts=())
    assert place(hosts, [none], EVEN).answers["web"].reason.endswith("refused: not among its hosts")


@pytest.mark.parametrize("soft", [False, True])
def test_a_soft_rule_gives_way_to_room_and_a_hard_one_does_not(soft: bool) -> None:
    hosts = [host("kvm1", memory=32), host("kvm2", memory=2)]
    web = [guest(f"web{number}", spread=rule("web", soft=soft)) for number in range(3)]
    placed = sorted(map(str, where(place(hosts, web, EVEN)).values()))
    assert placed == (["kvm1", "kvm1", "kvm2"] if soft else ["None", "kvm1", "kvm2"])
    pair = [guest(f"db{number}", memory=3, together=rule("db", soft=soft)) for number in range(2)]
    apart = [host("kvm1", memory=4), host("kvm2", memory=4)]
    assert len([at for at in where(place(apart, pair, EVEN)).values() if at]) == (2 if soft else 0)


def test_guests_that_must_be_together_are_placed_as_one() -> None:
    hosts = [host("kvm1", memory=5), host("kvm2", memory=6)]
    pair = [guest("app", memory=4, together=rule("app")), guest("cache", together=rule("app"))]
    assert where(place(hosts, pair, EVEN)) == {"app": "kvm2", "cache": "kvm2"}
    third = guest("log", together=rule("app"), memory=0)
    there = [replace(pair[0], host="kvm1"), third]
    assert where(place(hosts, there, EVEN))["log"] == "kvm1"


def test_zones_are_spread_over_and_kept_together() -> None:
    hosts = [host(f"kvm{n}", zone="a" if n < 3 else "b") for n in range(1, 5)]
    web = [guest(f"web{number}", spread=rule("web", over="zone")) for number in range(3)]
    placed = [at for at in where(place(hosts, web, EVEN)).values() if at]
    zones = {one.name: one.zone for one in hosts}
    assert sorted(zones[at] for at in placed) == ["a", "b"]
    near = [guest(f"db{number}", together=rule("db", over="zone")) for number in range(6)]
    assert len({zones[str(at)] for at in where(place(hosts, near, EVEN)).values()}) == 1


def test_a_shared_pool_has_room_for_all_hosts_once() -> None:
    hosts = [host("kvm1", memory=64), host("kvm2", memory=64)]
    needs = {"memory": GIB, "pool shared": 40 * GIB}
    demands = [Demand(f"web{number}", needs) for number in range(3)]
    placement = place(hosts, demands, EVEN, {"pool shared": 100 * GIB})
    (reason,) = [a.reason for a in placement.answers.values() if a.host is None]
    assert reason == "20GiB short of pool shared on all hosts"


def test_a_guest_of_one_numa_node_needs_a_node_with_room() -> None:
    node = {"memory": 4 * GIB, "vcpus": 8}
    hosts = [replace(host("kvm1", memory=8), cells=(node, node))]
    demands = [guest(f"db{number}", memory=3, cell=True) for number in range(3)]
    placed = where(place(hosts, demands, EVEN))
    assert len([at for at in placed.values() if at]) == 2
    reason = next(a.reason for a in place(hosts, demands, EVEN).answers.values() if not a.host)
    assert reason == "kvm1 refused: 1GiB short of memory"
    too_large = guest("big", memory=5, cell=True)
    assert place(hosts, [too_large], EVEN).answers["big"].reason == (
        "kvm1 refused: 1GiB short of memory on NUMA node 0"
    )


def test_room_is_made_by_moving_what_is_placed_in_the_same_go() -> None:
    hosts = [
        host("kvm1", memory=8, offers=frozenset({"gpu"})),
        host("kvm2", memory=8),
    ]
    # The large one has no wish and would take the only host with a GPU.
    demands = [
        guest("large", memory=5),
        guest("second", memory=3),
        guest("gpu", memory=4, wants=frozenset({"gpu"})),
    ]
    placement = place(hosts, demands, EVEN)
    assert None not in where(placement).values()
    assert where(placement)["gpu"] == "kvm1"


def test_the_loss_of_a_host_is_provided_for() -> None:
    hosts = [host(f"kvm{number}", memory=8) for number in range(1, 4)]
    demands = [guest(f"web{number:02}", memory=1) for number in range(24)]
    placement = place(hosts, demands, SAFE)
    left = [name for name, at in where(placement).items() if at is None]
    # Two hosts have room for 16, whichever is lost.
    assert len(left) == 8
    reason = placement.answers[left[0]].reason
    assert "as it keeps room for the loss of another host" in reason
    assert broken(hosts, demands, placement, SAFE, {}) == []


def test_what_runs_already_and_has_no_second_host_is_told() -> None:
    hosts = [host("kvm1"), host("kvm2", memory=4)]
    there = [guest("big", memory=6, host="kvm1"), guest("small", memory=2, host="kvm1")]
    placement = place(hosts, there, SAFE)
    assert placement.exposed == ["big"]
    assert placement.answers["small"].takeover == "kvm2"


@pytest.mark.parametrize(
    ("policy", "expected"), [(EVEN, 12), (SAFE, 8)], ids=["all there is", "with a host to spare"]
)
def test_capacity_counts_how_many_more_there_is_room_for(policy: Policy, expected: int) -> None:
    hosts = [host(f"kvm{number}", memory=8) for number in range(1, 4)]
    count, reason = further(hosts, [], guest("small"), policy)
    assert count == expected
    assert "short of memory" in reason
    used = [guest("old", memory=4, host="kvm1")]
    assert further(hosts, used, guest("small"), EVEN)[0] == 10


def test_without_hosts_there_is_no_place() -> None:
    assert place([], [guest("web")], EVEN).answers["web"].reason == "there is no host"


# Properties.


def fleet(seed: int) -> tuple[list[Host], list[Demand], Policy, dict[str, int]]:
    rng = random.Random(seed)
    hosts = [
        Host(
            f"kvm{number}",
            {"memory": rng.randint(4, 64), "vcpus": rng.randint(4, 64), "pool local": 100},
            zone=rng.choice("abc"),
            offers=frozenset(rng.sample(["lan", "dmz", "gpu"], rng.randint(1, 3))),
            closed="in maintenance" if rng.random() < 0.1 else "",
        )
        for number in range(rng.randint(1, 7))
    ]
    demands = []
    for number in range(rng.randint(0, 40)):
        rules = {
            kind: tuple(
                Rule(
                    f"{kind[0]}{rng.randint(0, 3)}",
                    rng.choice(("host", "zone")),
                    rng.random() < 0.3,
                )
                for _ in range(rng.choice((0, 0, 0, 1)))
            )
            for kind in ("spread", "together")
        }
        needs = {"memory": rng.randint(1, 9), "vcpus": rng.randint(1, 9)}
        needs[rng.choice(("pool local", "pool shared"))] = rng.randint(0, 30)
        demands.append(
            Demand(
                f"guest{number:02}",
                needs,
                wants=frozenset(rng.sample(["lan", "dmz", "gpu"], rng.choice((0, 0, 1)))),
                hosts=("kvm[0-3]",) if rng.random() < 0.1 else None,
                avoid=("kvm2",) if rng.random() < 0.1 else (),
                host=rng.choice(hosts).name if rng.random() < 0.2 else None,
                spread=rules["spread"],
                together=rules["together"],
            )
        )
    policy = Policy(rng.choice(("balance", "pack")), rng.random() < 0.5)
    return hosts, demands, policy, {"pool shared": rng.randint(50, 500)}


@pytest.mark.parametrize("seed", range(150))
def test_no_hard_constraint_is_ever_broken(seed: int) -> None:
    hosts, demands, policy, shared = fleet(seed)
    placement = place(hosts, demands, policy, shared)
    assert set(placement.answers) == {demand.name for demand in demands}
    assert broken(hosts, demands, placement, policy, shared) == []
    assert all(answer.reason for answer in placement.answers.values())


@pytest.mark.parametrize("seed", range(0, 150, 5))
def test_the_order_of_the_input_never_changes_the_result(seed: int) -> None:
    hosts, demands, policy, shared = fleet(seed)
    placement = place(hosts, demands, policy, shared)
    random.Random(seed).shuffle(hosts)
    random.Random(seed + 1).shuffle(demands)
    assert place(hosts, demands, policy, shared) == placement


@pytest.mark.parametrize("seed", range(0, 150, 5))
def test_what_was_placed_stays_there_in_the_next_run(seed: int) -> None:
    hosts, demands, policy, shared = fleet(seed)
    first = where(place(hosts, demands, policy, shared))
    again = [replace(demand, host=first[demand.name]) for demand in demands]
    second = where(place(hosts, again, policy, shared))
    assert {name: second[name] for name, at in first.items() if at} == {
        name: at for name, at in first.items() if at
    }
