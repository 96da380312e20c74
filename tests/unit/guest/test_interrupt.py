# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A run that ends at any call which changes something: the next one completes it.

Not at random moments, but at each of them (every third, the others in the soak): the process that
runs the module ends itself, without any cleaning up, just before its nth call that changes the file
system. Guests' processes are simulated.
"""

from __future__ import annotations

import builtins
import json
import os
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.seed.store import tool

SOAK = pytest.mark.soak

CALLS = (
    "mkdir",
    "rename",
    "fsync",
    "chmod",
    "fchmod",
    "unlink",
    "rmdir",
    "symlink",
    "open",
    "utime",
)


def end_at(number):
    """End this process just before its nth call that changes something."""
    left = [number]

    def counted(call, changes=lambda *_: True):
        def wrapper(*arguments, **more):
            if changes(*arguments):
                if left[0] == 0:
                    os._exit(99)
                left[0] -= 1
            return call(*arguments, **more)

        return wrapper

    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))
    os.open = counted(os.open, lambda _, flags, *__: flags & (os.O_WRONLY | os.O_RDWR))
    builtins.open = counted(open, lambda _, mode="r", *__: "w" in mode)


def interrupted(machine, wish, number):
    """Run in a process of its own that ends at its nth change; return whether it came so far."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            end_at(number)
            machine.run(*wish)
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    code = os.WEXITSTATUS(status)
    assert code in (0, 99), "the run failed by itself"
    return code == 99


def guests(**more):
    return [{"name": name, **more} for name in ("a", "b")]


MOVES = {
    "create": ([], guests(state="stopped")),
    "create and start": ([], guests()),
    "create with autostart": ([], guests(autostart=True)),
    "update": (guests(state="stopped"), guests(state="stopped", memory="1GiB")),
    "update while running": (guests(), guests(memory="1GiB", protected=True)),
    "restart with changes": (guests(), guests(memory="1GiB", state="restarted")),
    "autostart on": (guests(), guests(autostart=True)),
    "autostart off": (guests(autostart=True), guests(autostart=False)),
    "stop and update": (guests(), guests(state="stopped", vcpus=2)),
    "delete": (guests(state="stopped", autostart=True), guests(state="absent")),
    "stop and delete": (guests(), guests(state="absent")),
    "rename": (
        guests(state="stopped"),
        [{"name": name, "was": was, "state": "stopped"} for name, was in ("ca", "db")],
    ),
    "rename, with autostart, changes and a start": (
        guests(state="stopped", autostart=True),
        [
            {"name": "c", "was": "a", "vcpus": 2, "autostart": True},
            {"name": "b", "autostart": True},
        ],
    ),
    "stop and rename, autostart off": (
        guests(autostart=True),
        [
            {"name": "c", "was": "a", "state": "stopped", "autostart": False},
            {"name": "d", "was": "b", "state": "restarted", "autostart": True},
        ],
    ),
    "everything": (
        [{"name": "a"}, {"name": "b", "state": "stopped"}, {"name": "c"}],
        [
            {"name": "a", "state": "absent"},
            {"name": "b", "vcpus": 2},
            {"name": "c", "memory": "1GiB"},
            {"name": "d", "autostart": True},
        ],
    ),
}


def settle(wish):
    return [
        {**guest, "state": "running"} if guest.get("state") == "restarted" else guest
        for guest in wish
    ]


@pytest.mark.parametrize("first", [0, *(pytest.param(n, marks=SOAK) for n in (1, 2))])
@pytest.mark.parametrize(("before", "wish"), MOVES.values(), ids=MOVES.keys())
def test_the_next_run_completes_what_was_interrupted(quick_machine, before, wish, first):
    for _ in at_moments(quick_machine, before, wish, first):
        quick_machine.run(*wish)
        check(quick_machine, wish)


def test_a_restart_that_is_outstanding_is_not_forgotten(quick_machine):
    wish = guests(memory="1GiB", protected=True)
    for _ in at_moments(quick_machine, guests(), wish, 0):
        outcome = quick_machine.run(*wish)
        assert [item["changes"] for item in outcome["pending"]] == [
            [{"path": "memory", "before": "128MiB", "after": "1GiB"}]
        ] * 2


@pytest.fixture
def quick_machine(supervised_machine, monkeypatch):
    """Wait for no disk: what fsync is good for cannot be seen without pulling the plug."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    return supervised_machine


def at_moments(machine, before, wish, first):
    """Interrupt the run at one moment after the other, each time from the same beginning."""
    for number in range(first, 1000, 3):
        clean(machine, [*before, *wish])
        machine.run(*before)
        came_so_far = interrupted(machine, wish, number)
        yield number
        if not came_so_far:
            break
    assert 5 < number < 900


@pytest.mark.skipif(tool() is None, reason="no program here makes ISOs")
@pytest.mark.parametrize("begin", [0, *(pytest.param(n, marks=SOAK) for n in range(1, 9))])
def test_a_guest_with_another_name_keeps_its_seed_and_its_images(quick_machine, begin):
    machine, root = quick_machine, Path(quick_machine.layout.root)
    stopped: dict[str, Any] = {"state": "stopped", "cloud_init": {}}
    disks = [
        {"target": target, "file": str(root / f"{target}.qcow2"), "size": "1MiB"}
        for target in ("vda", "vdb")
    ]
    first = {"instance_id": "first"}
    before = [{**stopped, "name": "a", "disks": disks[:1], "cloud_init": first}]
    other = {**stopped, "name": "b"}
    wish = {**stopped, "name": "c", "was": "a", "disks": disks}
    for number in range(begin, 1000, 9):
        clean(machine, [*before, other, wish])
        for file in (*root.glob("*.qcow2"), *root.glob(".*.qcow2*")):
            file.unlink()
        machine.run(*before, other)
        came_so_far = interrupted(machine, [wish], number)
        # One that is about others clears up first.
        machine.run({**other, "vcpus": 2})
        machine.run(wish)
        assert machine.run(wish)["changed"] is False
        assert sorted(os.listdir(machine.layout.guests)) == ["b", "c"]
        seeds = Path(machine.layout.state, "seeds-ioctl")
        assert sorted(os.listdir(seeds)) == ["b", "c"]
        made = machine.definition("c")
        assert set(made["files"]) == {disk["file"] for disk in disks}, "they are nobody's"
        kept = Path(made["spec"]["seed"]).with_suffix(".json").read_text(encoding="utf-8")
        assert json.loads(kept)["meta_data"] == {"instance-id": "first", "local-hostname": "c"}
        if not came_so_far:
            break
    assert 20 < number < 900


def clean(machine, known):
    names = sorted({guest["name"] for guest in known})
    machine.run(*({"name": name, "state": "absent", "protected": False} for name in names))


def check(machine, wish):
    """All is as it was wished, nothing else is there, and nothing is left to do."""
    outcome = machine.run(*settle(wish))
    assert outcome["changed"] is False
    there = {guest["name"] for guest in wish if guest.get("state") != "absent"}
    entries = set(os.listdir(machine.layout.guests))
    assert entries == there, "something was left"
    for name in there:
        inside = set(os.listdir(machine.layout.guest(name).folder))
        assert inside <= {"definition.json", "state", "booted.json"}
    wanted = {g["name"] for g in wish if g.get("autostart") and g.get("state") != "absent"}
    assert machine.supervisor.autostarted() == wanted
