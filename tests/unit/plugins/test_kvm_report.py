# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The report at the end of a run: what it collects, and when it shows something."""

from __future__ import annotations

import json
import runpy
from types import SimpleNamespace

import pytest
from ansible.module_utils.converge.tally import Tally

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
def callback(plugin, tmp_path):
    """Return the callback with a display that notes what is shown."""
    made = plugin["CallbackModule"]()
    made.shown = []
    made._display = SimpleNamespace(display=made.shown.append)
    made.get_option = {"json_file": tmp_path / "report.json"}.get
    return made


def answer(action, name="localhost", /, *, once=False, **values):
    return SimpleNamespace(
        task=SimpleNamespace(action=action, get_name=lambda: "a task", run_once=once),
        host=SimpleNamespace(get_name=lambda: name),
        result=values,
    )


class Stats:
    """Counts as Ansible keeps them, by host."""

    def __init__(self, **hosts):
        self.processed = dict.fromkeys(hosts, 1)
        self._hosts = hosts

    def summarize(self, host):
        return {"failures": 0, "unreachable": 0, "changed": 0, **self._hosts[host]}


def shown(callback, **hosts):
    callback.v2_playbook_on_stats(Stats(**hosts))
    return "\n".join(callback.shown)


def begin(callback, name, pattern="hypervisors"):
    callback.v2_playbook_on_play_start(SimpleNamespace(hosts=pattern, get_name=lambda: name))


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
    assert lines[-4:] == [
        "pending  hello: memory differs; state: restarted",
        "blocked  db: it is protected; protected: false",
        "",
        "done: nothing to do; 1 blocked",
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
    text = plugin["render"](callback._findings, [], 100, colour=colour)
    assert ("\x1b[" in text) == colour


def reboot(reason="iommu=pt is not in effect"):
    return {"object": "cmdline", "kind": "reboot_required", "reason": reason}


def test_every_host_of_a_fleet_is_named(callback):
    begin(callback, "hosts")
    for name in ("kvm1", "kvm2", "kvm3", "kvm4"):
        callback.v2_runner_on_ok(answer("ansible.builtin.debug", name))
    callback.v2_runner_on_ok(answer("kvm_host_config", "kvm2", pending=[reboot()]))
    callback.v2_runner_on_failed(answer("kvm_helper", "kvm3", msg="no space left\nmore"))
    callback.v2_runner_on_unreachable(answer("kvm_helper", "kvm4", msg="no route"))
    text = shown(
        callback, kvm1={"changed": 2}, kvm2={}, kvm3={"failures": 1}, kvm4={"unreachable": 1}
    )
    assert text.splitlines() == [
        "hosts",
        "kvm1  changed",
        "kvm2  unchanged    needs a reboot: iommu=pt is not in effect",
        "kvm3  failed       no space left",
        "kvm4  unreachable  no route",
    ]


@pytest.mark.parametrize(
    ("hosts", "line"),
    [
        ({"localhost": {"changed": 1}}, ""),
        ({"localhost": {}}, ""),
        ({"localhost": {"failures": 1}}, "localhost  failed       it broke"),
    ],
)
def test_a_single_host_that_ended_well_has_no_line(callback, hosts, line):
    begin(callback, "hosts")
    callback.v2_runner_on_failed(answer("kvm_helper", msg="it broke"))
    assert shown(callback, **hosts) == (f"hosts\n{line}\n" if line else "")


def test_a_failure_that_is_ignored_is_no_reason(callback):
    begin(callback, "hosts")
    callback.v2_runner_on_failed(answer("command", msg="it broke"))
    callback.v2_runner_on_failed(answer("command", msg="never mind"), ignore_errors=True)
    assert "it broke" in shown(callback, localhost={"failures": 1})


@pytest.mark.parametrize("values", [{"stderr": "it broke"}, {"reason": "it broke"}])
def test_a_failure_without_a_message_says_what_it_has(callback, values):
    callback.v2_runner_on_failed(answer("command", **values))
    assert "it broke" in shown(callback, localhost={"failures": 1})


def test_the_newest_word_on_a_reboot_counts(callback):
    callback.v2_runner_on_ok(answer("kvm_host_config", "kvm1", pending=[reboot()]))
    callback.v2_runner_on_ok(answer("kvm_host_config", "kvm1", pending=[]))
    callback.v2_runner_on_ok(answer("kvm_host_config", "kvm2", pending=[], reboot_required=True))
    callback.v2_runner_on_ok(answer("kvm_host_config", "kvm3", pending=[reboot()]))
    callback.v2_runner_on_ok(answer("kvm_host_storage", "kvm3", pending=[{"kind": "other"}]))
    lines = shown(callback, kvm1={}, kvm2={}, kvm3={}).splitlines()
    assert lines[1:] == [
        "kvm1  unchanged",
        "kvm2  unchanged    needs a reboot",
        "kvm3  unchanged    needs a reboot: iommu=pt is not in effect",
    ]


def test_hosts_of_batches_that_never_came_are_told(callback):
    begin(callback, "preflight")
    for name in ("kvm1", "kvm2", "kvm3"):
        callback.v2_runner_on_skipped(answer("debug", name))
    begin(callback, "hosts")
    callback.v2_runner_on_ok(answer("debug", "kvm1"))
    begin(callback, "hosts")
    callback.v2_runner_on_failed(answer("debug", "kvm2", msg="it broke"))
    lines = shown(callback, kvm1={}, kvm2={"failures": 1}, kvm3={}).splitlines()
    assert lines[1:] == [
        "kvm1  unchanged",
        "kvm2  failed       it broke",
        "kvm3  stopped      it went no further, as others failed",
    ]


def test_a_play_that_ends_for_everybody_stops_the_others(callback):
    begin(callback, "hosts")
    callback.v2_runner_on_ok(answer("debug", "kvm1"))
    callback.v2_runner_on_failed(answer("debug", "kvm2", msg="it broke"))
    callback.v2_playbook_on_no_hosts_remaining()
    assert "kvm1  stopped" in shown(callback, kvm1={"changed": 1}, kvm2={"failures": 1})


@pytest.mark.parametrize("pattern", ["hypervisors", "localhost"])
def test_a_play_for_nobody_or_for_others_stops_nobody(callback, pattern):
    begin(callback, "hosts")
    for name in ("kvm1", "kvm2"):
        callback.v2_runner_on_ok(answer("debug", name))
    begin(callback, "later", pattern)
    if pattern == "localhost":
        callback.v2_runner_on_ok(answer("debug", "localhost"))
    assert "stopped" not in shown(callback, kvm1={}, kvm2={}, localhost={})


def test_what_is_done_once_for_all_stops_nobody(callback):
    begin(callback, "guests")
    for name in ("kvm1", "kvm2"):
        callback.v2_runner_on_ok(answer("debug", name))
    callback.v2_runner_on_ok(answer("assert", "kvm1", once=True))
    begin(callback, "later")
    callback.v2_runner_on_skipped(answer("assert", "kvm1", once=True))
    assert "stopped" not in shown(callback, kvm1={}, kvm2={})


def test_what_guests_stand_on_is_outstanding_too_without_any_guest(callback):
    waits = {"object": "network/lan", "reason": "mtu differs", "remedy": "restart: true"}
    callback.v2_runner_on_ok(answer("kvm_networks", "kvm1", pending=[waits], blocked=[]))
    callback.v2_runner_on_ok(answer("kvm_pools", "kvm2", pending=[], blocked=[]))
    text = shown(callback)
    assert "Outstanding on kvm1" in text
    assert "pending  network/lan: mtu differs; restart: true" in text
    assert "Outstanding on kvm2" not in text


def action(verb, name="web", when="now", *, host="kvm1", changes=(), **more):
    paths = [{"path": path, "before": old, "after": new} for path, old, new in changes]
    found = {"object": f"guest/{name}", "action": verb, "when": when, "host": host}
    return {**found, "changes": paths, "reason": "", **more}


ACTIONS = [
    action("create"),
    action("start"),
    action("update", "db", "live", changes=[("memory", "2GiB", "4GiB")]),
    action("update", "db", "next_boot", changes=[("machine", None, "q35" * 20)]),
    action("update", "log", "next_boot", changes=[("vcpus", 1, 2)]),
    action("stop", "old"),
    action("delete", "old"),
    action("replace", "new"),
    action("restart", "app"),
]


def test_what_was_done_is_grouped_by_what_it_means(callback, tmp_path):
    restart = {
        "object": "guest/log",
        "kind": "restart_required",
        "reason": "vcpus differs",
        "remedy": "r",
    }
    callback.v2_runner_on_ok(
        answer("kvm_guests", "kvm1", actions=ACTIONS, changed=True, pending=[restart], blocked=[])
    )
    callback.v2_runner_on_ok(answer("ansible.builtin.apt", "kvm1", changed=True))
    callback.v2_runner_on_ok(answer("ansible.builtin.apt", "kvm2", changed=True))
    lines = shown(callback, kvm1={}, kvm2={}).splitlines()
    begin = lines.index("done")
    assert lines[begin : lines.index("hosts") - 1] == [
        "done",
        "create (1)",
        "  + guest/web on kvm1: create, start",
        "change live (1)",
        "  ~ guest/db on kvm1: update",
        "      memory: 2GiB → 4GiB",
        "      machine: nothing → q35q35q35q35q35q35q35q35q35q35q35q35q35…",
        "change at next boot (1)",
        "  ~ guest/log on kvm1: update",
        "      vcpus: 1 → 2",
        "start or stop (1)",
        "  * guest/app on kvm1: restart",
        "replace (1)",
        "  ± guest/new on kvm1",
        "remove (1)",
        "  - guest/old on kvm1: stop, delete",
        "other changes (2)",
        "  ~ a task on kvm1, kvm2",
        (
            "done: 1 created, 1 changed live, 1 changed at next boot, 1 started or stopped,"
            " 1 replaced, 1 removed, 2 other changes; 1 restart required"
        ),
    ]
    told = json.loads((tmp_path / "report.json").read_text())
    assert told["check"] is False
    assert told["actions"] == ACTIONS
    assert told["counts"]["remove"] == 1
    assert told["other_changes"] == {"a task": ["kvm1", "kvm2"]}


def test_a_placed_guest_is_shown_with_the_reason_and_what_the_plan_refused_once(callback):
    def refused(name):
        return {"object": f"guest/{name}", "reason": "it may be on kvm9", "remedy": "look there"}

    callback.v2_runner_on_ok(
        answer(
            "kvm_fleet_plan",
            "kvm1",
            hosts={"web": "kvm2"},
            new=["web"],
            reasons={"web": "kvm2: most room; kvm1 refused: spread web"},
            pending=[],
            blocked=[refused(name) for name in ("a", "b", "c", "d", "e", "f")],
        )
    )
    callback.v2_runner_on_ok(
        answer("kvm_guests", "kvm2", actions=[action("create", host="kvm2")], changed=True)
    )
    lines = shown(callback, kvm1={}, kvm2={}).splitlines()
    assert "  + guest/web on kvm2: most room; kvm1 refused: spread web" in lines
    assert "blocked  a, b, c, d and 2 more: it may be on kvm9; look there" in lines
    assert "done: 1 created; 6 blocked" in lines


def test_a_plan_without_changes_says_so(callback):
    callback._tally.check = True
    callback.v2_runner_on_ok(answer("kvm_guests", actions=[], changed=False, guests=[GUEST]))
    assert shown(callback).splitlines()[-1] == "plan: nothing to do"


def test_what_waits_and_was_refused_is_counted_where_nothing_changes(callback):
    item = {"host": "kvm1", "reason": "older", "remedy": "look there"}
    waits = {**item, "object": "guest/web", "kind": "restart_required"}
    more = {"pending": [waits], "blocked": [{**item, "object": "guest/db"}]}
    callback.v2_runner_on_ok(answer("kvm_guests", actions=[], changed=False, **more))
    last = shown(callback).splitlines()[-1]
    assert last == "done: nothing to do; 1 restart required, 1 blocked"


def test_a_value_is_shown_in_the_colours_of_what_goes_and_comes():
    tally = Tally(check=True)
    done = action("update", when="live", changes=[("memory", "1GiB", "2GiB")])
    tally.add("kvm1", "kvm_guests", "Guests", {"actions": [done]})
    assert "      memory: \x1b[31m1GiB\x1b[0m → \x1b[32m2GiB\x1b[0m" in tally.render(colour=True)
    assert "      memory: 1GiB → 2GiB" in tally.render()
    narrow = tally.render(20, colour=True)
    assert "memory" in narrow
    assert "\x1b[31m1GiB" not in narrow


def test_a_run_without_changes_shows_none_of_it(callback):
    callback.v2_runner_on_ok(answer("kvm_guests", actions=[], changed=False, guests=[GUEST]))
    assert "done" not in shown(callback)
