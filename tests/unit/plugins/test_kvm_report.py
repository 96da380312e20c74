# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The report at the end of a run: what it collects, and when it shows something."""

from __future__ import annotations

import runpy
from types import SimpleNamespace

import pytest

GUEST = {
    "name": "hello",
    "state": "running",
    "spec": {"vcpus": 1, "memory": "16MiB"},
    "uptime": 3.0,
    "console": ["Hello from inside", "> "],
}

CHECK = {
    "id": "cpu.arch",
    "level": "pass",
    "title": "Architecture",
    "found": "x86_64",
    "expected": "x86_64",
    "remedy": "",
    "source": "uname",
}
SLOW = {**CHECK, "id": "selftest.pio_exit", "level": "fail", "title": "Port exit", "found": "9 s"}
READY = {"state": "ready", "limits": [], "remedies": [], "summary": "ready: nothing in the way"}
INFO = {"host": {}, "checks": [CHECK], "verdict": READY}
BROKEN = {"state": "not_ready", "limits": [], "remedies": ["wait"], "summary": "not ready: slow"}
SELFTEST = {"measurements": [], "facts": {}, "checks": [SLOW], "verdict": BROKEN}


@pytest.fixture
def plugin(repository):
    return runpy.run_path(str(repository / "plugins" / "callback" / "kvm_report.py"))


@pytest.fixture
def callback(plugin):
    """Return the callback with a display that notes what is shown."""
    made = plugin["CallbackModule"]()
    made.shown = []
    made._display = SimpleNamespace(display=made.shown.append)
    return made


def answer(action, name="localhost", /, **values):
    return SimpleNamespace(
        task=SimpleNamespace(action=action),
        host=SimpleNamespace(get_name=lambda: name),
        result=values,
    )


def shown(callback):
    callback.v2_playbook_on_stats(None)
    return "\n".join(callback.shown)


def test_a_run_without_our_modules_shows_nothing(callback):
    callback.v2_runner_on_ok(answer("ansible.builtin.debug", msg="hello", guests=[GUEST]))
    assert shown(callback) == ""


@pytest.mark.parametrize("action", ["kvm_guests_info", "ansible.legacy.kvm_guests_info"])
def test_guests_and_consoles_are_shown(callback, action):
    callback.v2_runner_on_ok(answer(action, guests=[GUEST]))
    text = shown(callback)
    for word in ("hello", "running", "16MiB", "console of hello", "Hello from inside"):
        assert word in text
    assert "Guests of" not in text


def test_what_is_outstanding_or_refused_is_shown_after_the_guests(callback):
    restart = {"object": "guest/hello", "reason": "memory differs", "remedy": "state: restarted"}
    refused = {"object": "guest/db", "reason": "it is protected", "remedy": "protected: false"}
    callback.v2_runner_on_ok(
        answer("kvm_guests", guests=[GUEST], pending=[restart], blocked=[refused])
    )
    callback.v2_runner_on_ok(answer("kvm_guests_info", guests=[GUEST]))
    lines = shown(callback).splitlines()
    assert lines[-2:] == [
        "pending  hello: memory differs; state: restarted",
        "blocked  db: it is protected; protected: false",
    ]


def test_the_newest_answer_counts(callback):
    callback.v2_runner_on_ok(answer("kvm_guests", guests=[{**GUEST, "state": "stopped"}]))
    callback.v2_runner_on_ok(answer("kvm_guests_info", guests=[GUEST]))
    assert "stopped" not in shown(callback)


def test_several_hosts_are_told_apart(callback):
    callback.v2_runner_on_ok(answer("kvm_guests_info", "kvm2", guests=[{**GUEST, "name": "web"}]))
    callback.v2_runner_on_ok(answer("kvm_guests_info", "kvm1", guests=[GUEST]))
    text = shown(callback)
    order = [text.index(word) for word in ("Guests of kvm1", "hello", "Guests of kvm2", "web")]
    assert order == sorted(order)


@pytest.mark.parametrize(
    "module", ["kvm_guests", "kvm_guests_info", "kvm_host_info", "kvm_selftest"]
)
def test_a_module_that_failed_without_an_answer_is_left_out(callback, module):
    callback.v2_runner_on_failed(answer(module, msg="it failed", failed=True))
    assert shown(callback) == ""


def test_what_a_failed_module_did_answer_is_shown(callback):
    callback.v2_runner_on_failed(answer("kvm_guests", msg="an action failed", guests=[GUEST]))
    assert "hello" in shown(callback)


def test_readiness_comes_before_the_guests(callback):
    callback.v2_runner_on_ok(answer("kvm_guests_info", guests=[GUEST]))
    callback.v2_runner_on_ok(answer("kvm_host_info", **INFO))
    text = shown(callback)
    assert text.index("readiness of localhost") < text.index("Architecture") < text.index("hello")


def test_the_self_test_counts_for_the_verdict(callback):
    callback.v2_runner_on_ok(answer("kvm_host_info", **INFO))
    callback.v2_runner_on_ok(answer("kvm_selftest", **SELFTEST))
    text = shown(callback)
    assert "Port exit" in text
    assert "not ready" in text.lower()


def test_a_self_test_alone_is_no_verdict(callback):
    callback.v2_runner_on_ok(answer("kvm_selftest", **SELFTEST))
    assert shown(callback) == ""


def test_several_hosts_become_a_matrix(callback):
    for name in ("kvm2", "kvm1"):
        callback.v2_runner_on_ok(answer("kvm_host_info", name, **INFO))
    text = shown(callback)
    assert "readiness of 2 hosts" in text
    assert text.index("kvm1") < text.index("kvm2")


@pytest.mark.parametrize("colour", [True, False])
def test_colour_is_ansibles_choice(plugin, callback, colour):
    callback.v2_runner_on_ok(answer("kvm_guests_info", guests=[GUEST]))
    text = plugin["render"](callback._findings, 100, colour=colour)
    assert ("\x1b[" in text) == colour
