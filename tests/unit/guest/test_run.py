# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A whole run below a temporary root, from reading to the result. Processes are simulated."""

from __future__ import annotations

import json
import os

import pytest
from ansible.module_utils.converge.action import Action
from ansible.module_utils.converge.errors import ApplyError, InputError, Problem
from ansible.module_utils.converge.lock import BusyError, exclusive
from ansible.module_utils.guest.ioctl import definition, store
from ansible.module_utils.guest.ioctl import engine as engine_module


def tree(root):
    found: dict[str, object] = {}
    for folder, _, files in os.walk(root):
        found[folder] = None
        for name in files:
            path = os.path.join(folder, name)
            with open(path, "rb") as file:
                found[path] = (file.read(), os.lstat(path).st_mtime_ns)
    return found


def verbs(outcome):
    return [f"{a['action']} {a['object'].partition('/')[2]}" for a in outcome["actions"]]


def states(outcome):
    return {guest["name"]: guest["state"] for guest in outcome["guests"]}


def test_a_life(machine):
    for state, expected, after in (
        ("running", ["create a", "start a"], "running"),
        ("present", [], "running"),
        ("stopped", ["stop a"], "stopped"),
        ("present", [], "stopped"),
        ("restarted", ["start a"], "running"),
        ("restarted", ["restart a"], "running"),
        ("absent", ["stop a", "delete a"], None),
    ):
        before = tree(machine.layout.root)
        planned = machine.run({"name": "a", "state": state}, check_mode=True)
        assert tree(machine.layout.root) == before, "check mode changed something"
        done = machine.run({"name": "a", "state": state})
        assert verbs(planned) == verbs(done) == expected
        assert planned["actions"] == done["actions"]
        assert states(done).get("a") == after
        if state != "restarted":
            before = tree(machine.layout.root)
            assert machine.run({"name": "a", "state": state})["changed"] is False
            assert tree(machine.layout.root) == before


def test_a_run_with_nothing_to_do_writes_nothing_at_all(machine):
    assert machine.run()["msg"] == "nothing to do"
    assert os.listdir(machine.layout.root) == []


def test_everything_is_done_in_bulk(machine):
    names = [f"g{number}" for number in range(5)]
    machine.run(*({"name": name} for name in names))
    machine.run(*({"name": name, "state": "restarted"} for name in names))
    machine.run(*({"name": name, "state": "absent"} for name in names))
    assert machine.supervisor.calls == [
        ("start", *names),
        ("restart", *names),
        ("stop", *names),
        ("forget", *names),
    ]


def test_users_and_identities_are_kept(machine):
    machine.run({"name": "a", "state": "present"}, {"name": "b", "state": "present"})
    first = machine.definition("a")
    machine.run({"name": "a", "state": "present", "vcpus": 2, "memory": "1GiB"})
    second = machine.definition("a")
    assert second["machine"]["vcpus"] == 2
    assert second["digest"] != first["digest"]
    for value in (first, second):
        value["machine"] = value["machine"]["uid"]
    assert [second[key] for key in ("uuid", "machine")] == [
        first[key] for key in ("uuid", "machine")
    ]


def test_no_two_guests_share_a_user(machine, monkeypatch):
    monkeypatch.setattr(
        definition, "sha256", lambda _: type("", (), {"digest": lambda _: b"same"})()
    )
    machine.run(*({"name": name, "state": "present"} for name in "abc"))
    machine.run({"name": "d", "state": "present"})
    users = [machine.definition(name)["machine"]["uid"] for name in "abcd"]
    assert users == list(range(users[0], users[0] + 4))


def test_what_a_running_guest_was_started_with_is_not_forgotten(machine):
    machine.run({"name": "a"})
    for memory in ("1GiB", "2GiB"):
        outcome = machine.run({"name": "a", "memory": memory})
        assert [p["changes"] for p in outcome["pending"]] == [
            [{"path": "memory", "before": "128MiB", "after": memory}]
        ]
        assert outcome["guests"][0]["restart_required"] is True
    assert machine.run({"name": "a", "memory": "128MiB"})["pending"] == []
    machine.run({"name": "a", "memory": "3GiB"})
    assert machine.run({"name": "a", "state": "restarted"})["pending"] == []
    outcome = machine.run({"name": "a", "memory": "3GiB"})
    assert (outcome["changed"], outcome["pending"]) == (False, [])
    assert not os.path.exists(store.booted_path(machine.layout.guest("a")))


def test_a_definition_that_somebody_else_changed_is_seen(machine):
    machine.run({"name": "a"})
    machine.supervisor.write_pid("a", definition="of another time")
    outcome = machine.run({"name": "a"})
    assert outcome["changed"] is False
    assert [item["kind"] for item in outcome["pending"]] == ["restart_required"]


def test_the_console_limits_are_told_to_a_running_guest(machine, monkeypatch):
    told = []
    monkeypatch.setattr(engine_module, "request", lambda _, message, __: told.append(message))
    machine.run({"name": "a"})
    outcome = machine.run({"name": "a", "log": {"max_size": "2MiB"}})
    assert [action["when"] for action in outcome["actions"]] == ["live"]
    assert told == [{"op": "set", "log_max_size": 2 << 20, "log_keep": 3}]
    assert machine.run({"name": "a", "protected": True})["changed"] is True
    assert len(told) == 1
    machine.run({"name": "a", "state": "stopped"})
    machine.run({"name": "a", "state": "stopped", "log": {"keep": 1}})
    assert len(told) == 1


def test_a_guest_that_does_not_take_a_live_change_keeps_its_definition(machine):
    machine.run({"name": "a"})
    with pytest.raises(ApplyError, match="update guest/a: no guest answers"):
        machine.run({"name": "a", "log": {"keep": 1}})
    assert machine.definition("a")["machine"]["log_keep"] == 3


def test_autostart_is_what_the_host_really_does(supervised_machine):
    machine = supervised_machine
    machine.run({"name": "a", "autostart": True}, {"name": "b"})
    assert machine.supervisor.autostarted() == {"a"}
    assert machine.run({"name": "a", "autostart": True}, {"name": "b"})["changed"] is False
    machine.supervisor.autostart(["a"], enable=False)  # by somebody else
    outcome = machine.run({"name": "a", "autostart": True})
    assert outcome["actions"][0]["changes"] == [
        {"path": "autostart", "before": False, "after": True}
    ]
    assert machine.supervisor.autostarted() == {"a"}
    machine.run({"name": "a", "autostart": False, "state": "stopped"})
    assert machine.supervisor.autostarted() == set()
    machine.run({"name": "a", "autostart": True, "state": "absent"})
    machine.run({"name": "b", "autostart": True})
    machine.run({"name": "b", "state": "absent"})
    assert machine.supervisor.autostarted() == set()


def test_a_guest_that_does_not_start_is_told_with_what_was_done(machine):
    machine.supervisor.broken = {"b": "the kernel is no good"}
    with pytest.raises(ApplyError) as raised:
        machine.run({"name": "a"}, {"name": "b"})
    assert str(raised.value) == "start guest/b: the kernel is no good"
    data = raised.value.data
    assert verbs(data) == ["create a", "create b", "start a"]
    assert data["changed"] is True
    assert states(data) == {"a": "running", "b": "stopped"}
    machine.supervisor.broken = {}
    assert verbs(machine.run({"name": "a"}, {"name": "b"})) == ["start b"]


def test_what_did_not_stop_is_not_deleted(machine):
    machine.run({"name": "a"}, {"name": "b"})
    machine.supervisor.broken = {"a": "it is stubborn"}
    with pytest.raises(ApplyError, match="stop guest/a: it is stubborn") as raised:
        machine.run({"name": "a", "state": "absent"}, {"name": "b", "state": "absent"})
    assert verbs(raised.value.data) == ["stop b", "delete b"]
    assert os.listdir(machine.layout.guests) == ["a"]


def test_a_guest_that_was_started_meanwhile_is_not_deleted(machine, monkeypatch):
    machine.run({"name": "a", "state": "stopped"})
    monkeypatch.setattr(
        machine.supervisor, "autostarted", lambda: machine.supervisor.write_pid("a")
    )
    engine = machine.engine()
    assert engine._delete([Action(1, "guest/a", "delete", "kvm1", "now", "")]) == {
        "a": "it still runs"
    }


def test_all_that_failed_is_told(machine):
    machine.supervisor.broken = {"a": "no", "b": "not yet"}
    with pytest.raises(ApplyError) as raised:
        machine.run({"name": "a"}, {"name": "b"}, {"name": "c"})
    assert str(raised.value).splitlines() == [
        "2 actions failed, 4 were carried out:",
        "start guest/a: no",
        "start guest/b: not yet",
    ]


def test_what_failed_alike_is_told_once(machine):
    names = [f"g{number}" for number in range(8)]
    machine.supervisor.broken = dict.fromkeys(names, "no")
    with pytest.raises(ApplyError) as raised:
        machine.run(*({"name": name} for name in names))
    assert str(raised.value).splitlines() == [
        "8 actions failed, 8 were carried out:",
        "start guest/g0, guest/g1, guest/g2, guest/g3, guest/g4 and 3 more: no",
    ]


def test_problems_are_told_at_the_place_of_the_guest(machine, monkeypatch):
    problem = Problem("b.kernel", "a kernel that starts", "nothing")
    monkeypatch.setattr(engine_module, "check_kernels", lambda _, **__: [problem])
    with pytest.raises(InputError, match=r"^guests\[1\].kernel: expected a kernel"):
        machine.run({"name": "a"}, {"name": "b"})
    assert os.listdir(machine.layout.root) == []


def test_only_what_changes_is_checked(machine, monkeypatch):
    checked = []

    def check(boots, **_):
        checked.append(dict(boots))
        return []

    monkeypatch.setattr(engine_module, "check_kernels", check)
    machine.run({"name": "a"}, {"name": "b"})
    machine.run({"name": "a"}, {"name": "b"})
    machine.run({"name": "a"}, {"name": "b", "memory": "1GiB"})
    machine.run({"name": "a", "state": "absent"})
    # Each plan that is carried out is made, and checked, twice: once more under the lock.
    assert [sorted(names) for names in checked] == [
        ["a", "b"],
        ["a", "b"],
        ["b"],
        ["b"],
        [],
        [],
    ]
    assert checked[2]["b"]["memory"] == "1GiB"


def test_a_second_run_that_has_something_to_do_names_the_first(machine):
    machine.run({"name": "a"})
    with exclusive(os.path.join(machine.layout.state, "lock"), {"run": "r1", "pid": 7}):
        assert machine.run({"name": "a"})["changed"] is False
        assert machine.run({"name": "b"}, check_mode=True)["changed"] is True
        with pytest.raises(BusyError, match="run r1, pid 7"):
            machine.run({"name": "b"})


def test_what_an_interrupted_run_left_is_swept(machine):
    machine.run({"name": "a"})
    for left in (".new-b", ".gone-c"):
        os.makedirs(os.path.join(machine.layout.guests, left, "state"))
    machine.run({"name": "a"}, check_mode=True)
    assert len(os.listdir(machine.layout.guests)) == 3
    assert machine.run({"name": "a"})["changed"] is False
    assert os.listdir(machine.layout.guests) == ["a"]


def test_folders_that_are_not_ours_are_left_alone(machine):
    machine.run({"name": "a", "state": "stopped"})
    foreign = {
        "empty": None,
        "spoilt": b"{",
        "another": json.dumps(machine.definition("a")).encode(),
    }
    for name, content in foreign.items():
        os.mkdir(os.path.join(machine.layout.guests, name))
        if content is not None:
            with open(machine.layout.guest(name).definition, "wb") as file:
                file.write(content)
    with open(os.path.join(machine.layout.guests, "file"), "wb"):
        pass
    os.symlink("a", os.path.join(machine.layout.guests, "link"))
    before = tree(machine.layout.guests)
    names = [*foreign, "file", "link"]
    for state in ("running", "absent"):
        outcome = machine.run(*({"name": name, "state": state} for name in names))
        assert outcome["changed"] is False
        assert [item["object"] for item in outcome["blocked"]] == [f"guest/{n}" for n in names]
        assert all("not a guest of ours" in item["reason"] for item in outcome["blocked"])
    machine.run({"name": "a", "state": "stopped"}, prune=True)
    assert tree(machine.layout.guests) == before


def test_the_digest_of_a_plan_elsewhere_is_held(machine):
    seen = machine.run({"name": "a"})["guests"][0]["digest"]
    assert machine.run({"name": "a", "vcpus": 2}, expect={"a": seen})["changed"] is True
    outcome = machine.run({"name": "a", "vcpus": 3}, expect={"a": seen})
    assert (outcome["changed"], len(outcome["blocked"])) == (False, 1)


def test_an_update_keeps_what_was_not_stated(machine):
    machine.run({"name": "a", "state": "stopped", "cmdline": "quiet", "log": {"keep": 9}})
    machine.run({"name": "a", "state": "stopped", "log": {"max_size": "2MiB"}})
    made = machine.definition("a")
    assert made["machine"]["cmdline"] == "quiet"
    assert made["machine"]["log_keep"] == 9
    assert made["machine"]["log_max_size"] == 2 << 20


def test_a_record_of_an_earlier_end_is_gone_with_the_next_start(machine):
    machine.run({"name": "a", "state": "stopped"})
    machine.write_exit("a", {"status": 72, "reason": "triple fault"})
    outcome = machine.run({"name": "a"})
    assert outcome["actions"][0]["reason"] == "declared running, it ended: triple fault"
    assert os.listdir(machine.layout.guest("a").state) == []


def test_what_a_guest_may_have_left_does_not_stand_in_the_way(machine):
    machine.run({"name": "a", "state": "stopped"})
    paths = machine.layout.guest("a")
    os.mkdir(paths.last_exit)
    os.symlink("/", os.path.join(paths.state, "console.log"))
    deep = os.open(paths.state, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=deep)
        deeper = os.open("d", os.O_RDONLY, dir_fd=deep)
        os.close(deep)
        deep = deeper
    os.close(deep)
    machine.run({"name": "a"})
    machine.run({"name": "a", "state": "absent"})
    assert os.listdir(machine.layout.guests) == []
    assert os.listdir("/")


def test_a_disk_that_is_full_leaves_nothing_half_made(machine, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(ApplyError, match="create guest/a: No space left on device"):
            machine.run({"name": "a"})
        assert os.listdir(machine.layout.guests) == []
    machine.run({"name": "a"})
    before = tree(machine.layout.guest("a").folder)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(ApplyError, match="update guest/a"):
            machine.run({"name": "a", "vcpus": 2})
    assert tree(machine.layout.guest("a").folder) == before
