# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a running guest can be asked for, over a run that is none."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
from ansible.module_utils.kvm.operations import RESET, Operations

ABOUT = {"name": "web", "helper": None, "definition": "d1", "jail": {"root": "own"}}


class Run:
    """Stands in for a runner."""

    def __init__(self):
        self.machine = SimpleNamespace(
            config=SimpleNamespace(vcpus=2, memory=4 << 20),
            devices=[
                SimpleNamespace(name="net", note="vhost"),
                SimpleNamespace(name="rng", note=""),
            ],
        )
        self.started = 0.0
        self.boots = 3
        self.paused = False
        self.comes_out = self.listens = True
        self.ended = []

    def counts(self):
        return {"io": 7}

    def finish(self, outcome, for_good=False):
        assert for_good != outcome.reset
        self.ended.append(outcome)

    def press(self):
        return self.listens

    def pause(self):
        self.paused = self.comes_out
        return self.paused

    def resume(self):
        self.paused = False


@pytest.fixture
def control():
    """Return the control operations, and the log and the run that they work on."""
    run = Run()
    log = SimpleNamespace(size=10, dropped=2, error=None, max_size=4096, keep=1)
    return Operations(run, log, ABOUT).all(), log, run


def test_status(control):
    handlers, _, _ = control
    found = handlers["status"]({})
    assert found.pop("uptime") > 0
    assert found == {
        **ABOUT,
        "state": "running",
        "pid": os.getpid(),
        "boots": 3,
        "vcpus": 2,
        "memory": 4 << 20,
        "exits": {"io": 7},
        "log": {"size": 10, "dropped": 2, "error": None},
        "devices": {"net0": "vhost"},
    }


def test_stop_and_reset(control):
    handlers, _, run = control
    assert handlers["stop"]({}) == handlers["reset"]({}) == {}
    assert run.ended == [(0, "stopped on request", "", False), RESET]
    assert RESET.reset


def test_pause_and_resume(control):
    handlers, _, run = control
    assert handlers["pause"]({}) == {}
    assert handlers["status"]({})["state"] == "paused"
    assert handlers["resume"]({}) == {}
    assert handlers["status"]({})["state"] == "running"
    run.comes_out = False
    with pytest.raises(ValueError, match="a vCPU does not come out"):
        handlers["pause"]({})


@pytest.mark.parametrize("listens", [True, False])
def test_shutdown_says_whether_the_guest_listens(control, listens):
    handlers, _, run = control
    run.listens = listens
    assert handlers["shutdown"]({}) == {"listens": listens}
    assert run.ended == []


def test_a_watchdog_is_part_of_the_status(control):
    _, log, run = control
    operations = Operations(run, log, ABOUT)
    operations.watchdog = SimpleNamespace(state=lambda: {"fired": 1, "left": None})
    assert operations.status({})["watchdog"] == {"fired": 1, "left": None}


def test_resize(control):
    handlers, log, run = control
    assert handlers["resize"]({"columns": 80, "rows": 25}) == {"resized": False}
    sizes = []
    operations = Operations(run, log, ABOUT)
    operations.ports = SimpleNamespace(resize=lambda *size: sizes.append(size))
    assert operations.resize({"columns": 132, "rows": 43}) == {"resized": True}
    for wrong in ({}, {"columns": 0, "rows": 1}, {"columns": 80}, {"columns": 65536, "rows": 1}):
        with pytest.raises((ValueError, KeyError)):
            operations.resize(wrong)
    assert sizes == [(132, 43)]


def test_a_balloon_is_blown_up(control):
    handlers, _, run = control
    with pytest.raises(ValueError, match="the guest has no balloon"):
        handlers["balloon"]({"target": None})
    targets = []
    run.machine.devices.append(SimpleNamespace(name="balloon", actual=5, target=targets.append))
    assert handlers["balloon"]({"target": 1 << 20}) == {"actual": 5}
    assert handlers["balloon"]({"target": None}) == {"actual": 5}
    assert targets == [1 << 20, None]
    for wrong in ({}, {"target": -1}, {"target": "1MiB"}):
        with pytest.raises((ValueError, KeyError)):
            handlers["balloon"](wrong)
    assert len(targets) == 2


def test_metrics_in_an_unknown_form(control):
    with pytest.raises(ValueError, match="format must be one of json, prometheus, found 'xml'"):
        control[0]["metrics"]({"format": "xml"})


def test_set(control):
    handlers, log, _ = control
    assert handlers["set"]({"log_max_size": 8192, "log_keep": 0}) == {}
    assert (log.max_size, log.keep) == (8192, 0)


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"log_max_size": 8192},
        {"log_keep": 1},
        {"log_max_size": 4095, "log_keep": 1},
        {"log_max_size": "8192", "log_keep": 1},
        {"log_max_size": True, "log_keep": 1},
        {"log_max_size": 8192, "log_keep": -1},
        {"log_max_size": 8192, "log_keep": None},
        {"log_max_size": 8192.0, "log_keep": 1},
    ],
)
def test_set_changes_all_or_nothing(control, message):
    handlers, log, _ = control
    with pytest.raises((ValueError, KeyError), match="log_"):
        handlers["set"](message)
    assert (log.max_size, log.keep) == (4096, 1)
