# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's side of kvm_host_network: it confirms over a new connection, or says why not."""

from __future__ import annotations

import runpy
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure, AnsibleError

CHANGED = {"changed": True, "change": "c1", "actions": [1]}
LOST = AnsibleConnectionFailure("no route to host")


@pytest.fixture
def plugin(repository, monkeypatch):
    """Return the plugin, a host behind it that answers as told, and a clock of the test's own."""
    path = repository / "plugins" / "action" / "kvm_host_network.py"
    made: Any = runpy.run_path(str(path))["ActionModule"]
    clock = SimpleNamespace(now=0.0)

    def sleep(seconds):
        clock.now += seconds

    fake = SimpleNamespace(monotonic=lambda: clock.now, sleep=sleep)
    monkeypatch.setitem(made.run.__globals__, "time", fake)

    class Plugin(made):
        def __init__(self, arguments, answers):
            self._task = SimpleNamespace(args=arguments, async_val=0, check_mode=False, diff=False)
            self._connection = SimpleNamespace(
                _shell=SimpleNamespace(tmpdir="/tmp/x"), become=None, reset=self._reset
            )
            self._play_context = SimpleNamespace(remote_addr="192.0.2.5")
            self.answers = list(answers)
            self.calls = []
            self.said = []
            self._display = SimpleNamespace(display=self.said.append)
            self.resets = 0
            self.clock = clock

        def _reset(self):
            self.resets += 1

        def _execute_module(self, *, module_name, module_args, task_vars):
            assert module_name == "kvm_host_network"
            self.calls.append({k: v for k, v in module_args.items() if k in {"confirm", "final"}})
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            if isinstance(answer, Exception):
                clock.now += 10.0
                raise answer
            return dict(answer)

    def make(answers, **arguments):
        action = Plugin(arguments, answers)
        result = action.run(task_vars={"inventory_hostname": "kvm1"})
        return action, result

    return make


def state(name, **more):
    return {"changed": False, "state": name, **more}


FIRST, LAST = {"confirm": "c1", "final": False}, {"confirm": "c1", "final": True}


@pytest.mark.parametrize(
    "answer",
    [
        {"changed": False, "change": None},
        {"changed": True, "change": None, "actions": [1]},
        {"failed": True, "msg": "2 problems"},
        {"failed": True, "msg": "half way", "change": "c1"},
    ],
)
def test_what_needs_no_confirmation_gets_none(plugin, answer):
    action, result = plugin([answer])
    assert action.calls == [{}]
    assert action.resets == 0
    assert result["changed" if "changed" in answer else "msg"] == answer.get(
        "changed", answer.get("msg")
    )


def test_it_confirms_twice_each_over_a_new_connection(plugin):
    action, result = plugin([CHANGED, state("persisted"), state("confirmed")])
    assert action.calls == [{}, FIRST, LAST]
    assert action.resets == 2
    assert result["changed"] is True
    assert not result.get("failed")
    assert "state" not in result


def test_it_goes_on_asking_while_nobody_answers(plugin):
    answers = [
        CHANGED,
        state("starting"),
        LOST,
        {"unreachable": True, "msg": "gone"},
        state("persisted"),
        AnsibleError("Timeout waiting for privilege escalation prompt"),
        state("confirmed"),
    ]
    action, result = plugin(answers)
    assert action.calls == [{}, *[FIRST] * 4, *[LAST] * 2]
    assert not result.get("failed")


def test_a_change_that_was_undone_fails_the_task(plugin):
    late = state("rolled_back", reason="it was not confirmed within 20 seconds", errors=[])
    _, result = plugin([CHANGED, LOST, LOST, late], rollback_timeout="20s")
    assert result["failed"] is True
    assert result["msg"] == (
        "rolled back: the host did not answer on 192.0.2.5 within 20 s; its former network is back"
    )


def test_a_change_that_failed_says_what_failed(plugin):
    undone = state("rolled_back", reason="ip link add ended with status 2: no", errors=["ip x"])
    _, result = plugin([CHANGED, undone])
    assert result["msg"] == (
        "rolled back: ip link add ended with status 2: no; what could not be undone: ip x"
    )


def test_a_host_that_stays_away_does_not_hold_the_run_for_ever(plugin):
    action, result = plugin([CHANGED, LOST])
    assert result["failed"] is True
    assert "look at its console" in result["msg"]
    assert 150 <= action.clock.now < 200


def test_a_change_on_its_way_is_waited_for(plugin):
    busy = {"failed": True, "msg": "c0 is not confirmed", "busy": 30.0}
    answers = [busy, LOST, busy, CHANGED, state("persisted"), state("confirmed")]
    action, result = plugin(answers)
    assert action.said == ["kvm1: c0 is not confirmed"]
    assert action.clock.now >= 30
    assert action.calls == [{}, {}, {}, {}, FIRST, LAST]
    assert not result.get("failed")


def test_one_that_never_ends_is_told(plugin):
    _, result = plugin([{"failed": True, "msg": "c0 is not confirmed", "busy": 5.0}])
    assert result["failed"] is True
    assert result["msg"] == "c0 is not confirmed"


@pytest.mark.parametrize("name", ["host", "confirm", "final"])
def test_what_the_plugin_gives_cannot_be_given(plugin, name):
    with pytest.raises(AnsibleActionFail, match=f"gives {name} itself"):
        plugin([CHANGED], **{name: "x"})


def test_a_timeout_that_the_module_refuses_is_no_trouble_here(plugin):
    _, result = plugin([CHANGED, state("persisted"), state("confirmed")], rollback_timeout="soon")
    assert not result.get("failed")
