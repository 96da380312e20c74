# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan: a table of what is there and what is wanted, and what holds for all of them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.guest.engine import Host, Observed
from ansible.module_utils.guest.ioctl.dialect import (
    DEFAULTS,
    KEYS,
    IoctlDialect,
    Limits,
    complete,
    machine,
)
from ansible.module_utils.guest.plan import plan as plan_with
from ansible.module_utils.guest.spec import digest, read

CASES = Path(__file__).resolve().parents[2] / "cases" / "guest"
PLANS = json.loads((CASES / "plan.json").read_text(encoding="utf-8"))
HOST = Host(name="kvm1", kernel="/boot/vmlinuz-2", helper="new", supervised=True)
LIMITS = Limits(programs=("greeter", "host"))


def dialects(host=HOST):
    return {"ioctl": IoctlDialect(LIMITS, host)}


def plan(declared, observed, host, **more):
    return plan_with(declared, observed, host, dialects(host), **more)


def observed_from(name, case):
    """Return a guest from a case's short form: keys of a spec beside those of an observation."""
    if "problem" in case:
        return Observed(name, "ioctl", problem=case["problem"])
    if case.get("spec", True) is None:
        return Observed(name, "ioctl", state=case["state"])
    keys = {key: value for key, value in case.items() if key in KEYS and key != "state"}
    spec = complete({"name": name, "engine": "ioctl", "kernel": "greeter", **keys})
    boots = {**machine(spec, HOST), **case.get("machine", {})}
    booted = {**boots, **case.get("booted", {})} if case["state"] == "running" else None
    return Observed(
        name,
        "ioctl",
        state=case["state"],
        spec=spec,
        digest=f"digest of {name}",
        fleet=case.get("fleet", "local"),
        machine=boots,
        booted=booted,
        helper=case.get("helper", "new") if booted else None,
        exit=case.get("exit"),
    )


def declared_from(entries, observed=()):
    return read([{"engine": "ioctl", **entry} for entry in entries], dialects(), observed)


def short(changes):
    return {change.path: [change.before, change.after] for change in changes}


def verb(action):
    return action.action + ("!" if action.destructive else "")


def words(action):
    when = "" if action.when == "now" else f" {action.when}"
    return f"{action.step} {verb(action)} {action.name}{when}"


@pytest.mark.parametrize("case", PLANS.values(), ids=PLANS.keys())
def test_plan(case):
    observed = {name: observed_from(name, seen) for name, seen in case.get("observed", {}).items()}
    made = plan(
        declared_from(case.get("declared", []), observed),
        observed,
        HOST._replace(**case.get("host", {})),
        prune=case.get("prune", False),
        expect=case.get("expect"),
    ).plan
    if "verbs" in case:
        assert [words(action) for action in made.actions] == case["verbs"]
    else:
        assert [
            [a.id, a.step, verb(a), a.object, a.when, a.reason, short(a.changes)]
            for a in made.actions
        ] == case.get("actions", [])
    assert [[p.object, p.kind, short(p.changes)] for p in made.pending] == case.get("pending", [])
    assert [[b.object, b.reason] for b in made.blocked] == case.get("blocked", [])
    told: list[Any] = [*made.pending, *made.blocked]
    assert all(item.host == "kvm1" for item in [*told, *made.actions])
    assert all(item.remedy and item.reason for item in told)


def test_the_specs_of_what_is_made_travel_with_the_plan():
    observed = {
        "b": observed_from("b", {"state": "running"}),
        "c": observed_from("c", {"state": "stopped"}),
    }
    entries = [{"name": "a", "kernel": "greeter"}, {"name": "b"}, {"name": "c", "vcpus": 2}]
    specs = plan(declared_from(entries, observed), observed, HOST).specs
    assert set(specs) == {"a", "c"}
    assert specs["c"] == {**observed["c"].spec, "vcpus": 2}


# What holds for every plan.

VALUES = {
    "memory": ["64MiB", "128MiB", "1GiB"],
    "vcpus": [1, 2],
    "kernel": ["greeter", "host", "/srv/kernel"],
    "initrd": ["", "/srv/initrd"],
    "cmdline": ["", "quiet"],
    "autostart": [True, False],
    "log": [{"keep": 3}, {"keep": 5, "max_size": "2MiB"}, {}],
    "protected": [True, False],
}


def some_keys(chance):
    return {key: chance.choice(values) for key, values in VALUES.items() if chance.random() < 0.5}


def random_observed(chance, name):
    kernel = chance.choice(VALUES["kernel"])
    case = {"kernel": kernel, **some_keys(chance), "state": chance.choice(["running", "stopped"])}
    if chance.random() < 0.2:
        case["state"], case["exit"] = "failed", {"status": 72, "reason": "triple fault"}
    if chance.random() < 0.3:
        case["booted"] = {"memory": "2GiB"}
    if case["kernel"] == "host" and chance.random() < 0.5:
        case["machine"] = {"kernel": "/boot/vmlinuz-1"}
    if chance.random() < 0.2:
        case["helper"] = "old"
    if chance.random() < 0.1:
        case["fleet"] = "other"
    if chance.random() < 0.05:
        case = {"problem": "not ours"}
    elif chance.random() < 0.05:
        case = {"spec": None, "state": "running"}
    return observed_from(name, case)


def random_world(chance):
    names = [*"abcd", "old-c", "old-d"]
    observed = {name: random_observed(chance, name) for name in names if chance.random() < 0.6}
    states = ["present", "running", "stopped", "absent", "restarted"]
    entries = [
        {"name": name, "kernel": "greeter", **some_keys(chance), "state": chance.choice(states)}
        for name in "abcde"
        if chance.random() < 0.7
    ]
    for entry in entries:
        if entry["name"] in "cde" and chance.random() < 0.7:
            entry["was"] = f"old-{entry['name']}"
    host = HOST._replace(supervised=chance.random() < 0.5)
    return declared_from(entries), observed, host, chance.random() < 0.3


def applied(observed, planned, host):
    """Return what is observed after a plan was carried out to the letter."""
    after = dict(observed)
    for action in planned.plan.actions:
        name = action.name
        seen: Any = after.get(name)
        if action.action in ("create", "update"):
            spec = planned.specs[name]
            values = {"name": name, "spec": spec, "digest": digest(spec)}
            values["machine"] = machine(spec, host)
            if action.changes[0].path == "name":
                assert seen is None, "a guest got the name of another"
                seen = after.pop(action.changes[0].before)
                assert seen.state != "running", "a running guest was renamed"
            seen = seen or Observed(name, "ioctl", fleet="local")
            after[name] = seen._replace(**values)
        elif action.action == "delete":
            assert seen.state != "running", "a running guest was removed"
            del after[name]
        elif action.action == "stop":
            after[name] = seen._replace(state="stopped", booted=None, helper=None)
            if seen.spec is None:
                del after[name]
        else:
            assert action.action in ("start", "restart")
            assert (seen.state == "running") == (action.action == "restart")
            after[name] = seen._replace(
                state="running", booted=seen.machine, helper=host.helper, exit=None
            )
    return after


@pytest.mark.parametrize("seed", range(40))
def test_what_was_carried_out_needs_nothing_more(seed):
    chance = random.Random(seed)
    for _ in range(50):
        declared, observed, host, prune = random_world(chance)
        first = plan(declared, observed, host, prune=prune)
        after = applied(observed, first, host)
        second = plan(declared, after, host, prune=prune)
        again = [name for g in declared if g.state == "restarted" for name in (g.name, g.was)]
        assert [a for a in second.plan.actions if a.name not in again] == []
        assert {a.action for a in second.plan.actions} <= {"restart"}
        assert second.plan.pending == first.plan.pending
        assert second.plan.blocked == first.plan.blocked
        check_result(declared, after, first)


def check_result(declared, after, planned):
    """Every guest that was not refused is what was declared."""
    blocked = {item.object for item in planned.plan.blocked}
    for guest in declared:
        if blocked & {f"guest/{guest.name}", f"guest/{guest.was}"}:
            continue
        seen, former = after.get(guest.name), after.get(guest.was)
        if seen is None and former is not None and former.fleet == "local":
            seen = former
        assert (seen is None) == (guest.state == "absent")
        if seen is None:
            continue
        if guest.state in ("running", "restarted", "stopped"):
            assert (seen.state == "running") == (guest.state != "stopped")
        for key, value in guest.stated.items():
            if key not in ("log", "name", "was"):
                assert seen.spec[key] == value
        if seen.name != guest.name:
            (waits,) = [p for p in planned.plan.pending if p.object == f"guest/{guest.name}"]
            assert (waits.kind, seen.state) == ("rename_waits", "running")
        assert {**seen.spec["log"], **guest.stated.get("log", {})} == seen.spec["log"]


@pytest.mark.parametrize("seed", range(10))
def test_nothing_is_touched_that_must_not_be(seed):
    chance = random.Random(1000 + seed)
    for _ in range(200):
        declared, observed, host, prune = random_world(chance)
        made = plan(declared, observed, host, prune=prune).plan
        by_name = {name: guest for guest in declared for name in (guest.name, guest.was)}
        for action in made.actions:
            seen, guest = observed.get(action.name), by_name.get(action.name)
            if seen is None:
                continue
            assert seen.problem is None
            assert seen.spec is None or seen.fleet == "local"
            assert guest is not None or prune
            assert action.destructive == (action.action == "delete")
            if action.action == "delete":
                stated = guest.stated.get("protected") if guest else None
                assert not (seen.spec["protected"] if stated is None else stated)
            if action.action in ("restart", "stop") and guest is not None:
                assert guest.state in ("restarted", "stopped", "absent"), "nobody asked for it"


def test_the_order_of_what_is_observed_changes_nothing():
    chance = random.Random(7)
    for _ in range(200):
        declared, observed, host, _ = random_world(chance)
        turned = dict(reversed(list(observed.items())))
        assert plan(declared, observed, host) == plan(declared, turned, host)


def test_planning_changes_neither_what_is_declared_nor_what_is_observed():
    chance = random.Random(8)
    for _ in range(200):
        declared, observed, host, prune = random_world(chance)
        before = repr((declared, observed, DEFAULTS))
        plan(declared, observed, host, prune=prune)
        assert repr((declared, observed, DEFAULTS)) == before
