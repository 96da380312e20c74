# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The watchdog: it applies, waits, and undoes whatever nobody confirmed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest
from ansible.module_utils.converge.errors import VirtfleetError
from ansible.module_utils.system.network import change, watch
from ansible.module_utils.system.network.plan import ChangePlan
from ansible.module_utils.system.operation import Put, Run, Write

GONE = {"pid": 0, "start": 1}  # a starter that has ended long ago


@pytest.fixture
def begin(tmp_path):
    """Return a function that writes a change down whose operations leave their marks in files."""

    def make(**more):
        folder = tmp_path / "changes" / "c1"
        folder.mkdir(parents=True)
        content = {
            "timeout": 0.3,
            "delay": 0.0,
            "starter": GONE,
            **{
                part: [{"write": str(tmp_path / part), "content": part, "mode": 0o640}]
                for part in ("apply", "persist", "rollback")
            },
            **more,
        }
        (folder / "change.json").write_text(json.dumps(content), encoding="utf-8")
        return watch.Watch(str(folder))

    return make


def marks(tmp_path):
    return sorted(path.name for path in tmp_path.iterdir() if path.is_file())


def test_nobody_asks_and_it_is_undone(begin, tmp_path):
    found = begin()
    found.run()
    assert found.state()["state"] == watch.ROLLED_BACK
    assert "not confirmed within 0.3 seconds" in found.state()["reason"]
    assert found.state()["errors"] == []
    assert marks(tmp_path) == ["apply", "rollback"], "no lasting file was written"
    assert (tmp_path / "apply").stat().st_mode & 0o777 == 0o640


def test_asked_once_alone_it_is_undone_as_well(begin, tmp_path):
    found = begin()
    found.request(watch.PERSIST)
    found.run()
    assert found.state()["state"] == watch.ROLLED_BACK
    assert marks(tmp_path) == ["apply", "persist", "rollback"]


def test_confirmed_it_stays(begin, tmp_path):
    found = begin()
    found.request(watch.PERSIST)
    found.request(watch.CONFIRM)
    found.run()
    assert found.state()["state"] == watch.CONFIRMED
    assert marks(tmp_path) == ["apply", "persist"]


@pytest.mark.parametrize("part", ["apply", "persist"])
def test_what_fails_is_undone_at_once(begin, tmp_path, part):
    found = begin(timeout=60, **{part: [{"run": ["sh", "-c", "echo no; exit 3"]}]})
    found.request(watch.PERSIST)
    found.run()
    state = found.state()
    assert state["state"] == watch.ROLLED_BACK
    assert state["reason"] == "sh -c echo no; exit 3 ended with status 3: no"
    assert "rollback" in marks(tmp_path)


def test_a_way_back_goes_on_after_a_failure(begin, tmp_path):
    last = {"write": str(tmp_path / "last"), "content": "x", "mode": 0o600}
    first = [{"run": ["false"]}, {"run": ["no-such-command"]}, {"run": ["false"], "ok": [1]}]
    found = begin(rollback=[*first, last])
    found.run()
    assert [error.partition(" ")[0] for error in found.state()["errors"]] == [
        "false",
        "no-such-command:",
    ]
    assert "last" in marks(tmp_path)


def test_a_full_disk_stops_no_way_back(begin, tmp_path):
    found = begin()
    os.mkdir(os.path.join(found.folder, "state.json"))  # no note can be written there
    found.run()
    assert found.state()["state"] == watch.ROLLED_BACK
    assert marks(tmp_path) == ["apply", "rollback"]


@pytest.mark.parametrize("state", [watch.APPLYING, watch.PERSISTING, watch.ROLLING_BACK])
def test_interrupted_at_work_it_undoes(begin, tmp_path, state):
    found = begin()
    found.enter(state)
    found.run()
    assert found.state()["state"] == watch.ROLLED_BACK
    assert marks(tmp_path) == ["rollback"]


def test_started_again_it_waits_for_the_rest_of_the_time(begin, tmp_path):
    found = begin(timeout=20.0)
    found.enter(watch.APPLIED)
    note = found.state()
    earlier = {**note, "since": note["since"] - 19.5}
    watch.write_file(os.path.join(found.folder, "state.json"), json.dumps(earlier))
    before = time.monotonic()
    watch.main(found.folder)
    assert time.monotonic() - before < 15
    assert marks(tmp_path) == ["rollback"]


def test_a_change_of_another_boot_is_left_alone(begin, tmp_path):
    found = begin()
    note = {"state": watch.APPLIED, "since": 0.0, "boot_id": "another"}
    watch.write_file(os.path.join(found.folder, "state.json"), json.dumps(note))
    watch.main(found.folder)
    assert found.state() == note
    assert marks(tmp_path) == []


def test_there_is_one_watchdog_a_change(begin, tmp_path):
    found = begin()
    with found.held() as mine:
        assert mine
        watch.main(found.folder)
    assert marks(tmp_path) == []


def test_it_waits_until_the_starter_has_answered(begin, tmp_path):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.5)"])
    starter = {"pid": child.pid, "start": watch.start_time(child.pid)}
    found = begin(starter=starter)
    before = time.monotonic()
    found.step()
    child.wait()
    assert time.monotonic() - before >= 0.3
    assert found.state()["state"] == watch.APPLIED


def test_a_file_of_none_is_removed_and_one_that_cannot_be_is_named(tmp_path):
    path = tmp_path / "x"
    path.write_text("x", encoding="ascii")
    for _ in range(2):
        watch.execute({"write": str(path), "content": None, "mode": 0o600})
    assert not path.exists()
    path.mkdir()
    with pytest.raises(watch.FailedError, match=r"cannot write .*/x"):
        watch.execute({"write": str(path), "content": "x", "mode": 0o600})


def test_a_file_that_is_right_is_not_written_again(tmp_path):
    path = tmp_path / "x"
    operation = {"write": str(path), "content": "text", "mode": 0o600}
    watch.execute(operation)
    before = path.stat().st_ino
    watch.execute(operation)
    assert path.stat().st_ino == before
    path.write_bytes(b"\xff")
    watch.execute(operation)
    assert path.read_text(encoding="ascii") == "text"


# What starts a watchdog, asks it, and finishes with what it left.

PLAN = ChangePlan(apply=(Run(("true",)), Write("/x", None)), rollback=(Run(("false",), (0, 1)),))


def prepared(tmp_path, timeout=60.0):
    folder = str(tmp_path / "network")
    name = change.prepare(PLAN, timeout, folder)
    return folder, name, watch.Watch(os.path.join(folder, name))


def test_a_change_is_written_down_for_root_alone(tmp_path):
    folder, name, found = prepared(tmp_path)
    assert os.stat(folder).st_mode & 0o777 == 0o700
    assert os.stat(os.path.join(folder, name, "change.json")).st_mode & 0o777 == 0o600
    assert found.change["apply"] == [
        {"run": ["true"], "ok": [0]},
        {"write": "/x", "content": None, "mode": 0o644},
    ]
    assert found.change["rollback"] == [{"run": ["false"], "ok": [0, 1]}]
    assert found.change["starter"]["pid"] == os.getpid()
    assert found.state()["state"] == watch.STARTING
    program = os.path.join(folder, name, "watch.py")
    with open(program, encoding="utf-8") as file:
        compile(file.read(), program, "exec")


def test_a_change_has_operations_of_two_kinds():
    with pytest.raises(TypeError):
        change.to_dict(Put("/proc/x", "1"))


def test_the_program_runs_by_itself(begin, tmp_path):
    found = begin()
    program = os.path.join(found.folder, "watch.py")
    watch.write_file(program, change.source())
    found.request(watch.PERSIST)
    found.request(watch.CONFIRM)
    change.starter(lambda _: (1, "", ""), systemd=False)("c1", found.folder)
    end = time.monotonic() + 20
    while found.state()["state"] != watch.CONFIRMED and time.monotonic() < end:
        time.sleep(0.05)
    assert marks(tmp_path) == ["apply", "persist"]


def test_systemd_keeps_the_watchdog_where_it_is_the_init():
    calls = []

    def run(argv):
        calls.append(list(argv))
        return (1, "", "denied") if len(calls) > 1 else (0, "", "")

    start = change.starter(run, systemd=True)
    start("c1", "/changes/c1")
    assert calls[0][:4] == ["systemd-run", "--quiet", "--collect", "--unit=virtfleet-network-c1"]
    assert calls[0][-2:] == ["/changes/c1/watch.py", "/changes/c1"]
    with pytest.raises(VirtfleetError, match="did not start: denied"):
        start("c1", "/changes/c1")


@pytest.mark.parametrize("name", ["unknown", "../c1", "."])
def test_a_change_that_there_is_not_cannot_be_confirmed(tmp_path, name):
    with pytest.raises(VirtfleetError, match="there is no network change"):
        change.confirm(name, final=False, folder=str(tmp_path))


@pytest.mark.parametrize(
    ("state", "final", "request_"),
    [
        (watch.STARTING, False, None),
        (watch.APPLYING, False, None),
        (watch.APPLIED, False, watch.PERSIST),
        (watch.APPLIED, True, None),
        (watch.PERSISTED, False, None),
        (watch.PERSISTED, True, watch.CONFIRM),
        (watch.CONFIRMED, True, None),
        (watch.ROLLED_BACK, True, None),
    ],
)
def test_only_what_is_due_is_asked_for(tmp_path, state, final, request_):
    folder, name, found = prepared(tmp_path)
    found.enter(state)
    with found.held():  # a watchdog that is alive and slow
        answer = change.confirm(name, final=final, folder=folder, timeout=0.2)
    assert answer["state"] == state
    requests = {watch.PERSIST, watch.CONFIRM} & set(os.listdir(found.folder))
    assert requests == ({request_} if request_ else set())


@pytest.mark.parametrize("state", [watch.APPLYING, watch.APPLIED, watch.PERSISTED])
def test_a_change_whose_watchdog_is_gone_is_undone_by_whoever_comes(tmp_path, state):
    folder, name, found = prepared(tmp_path)
    found.enter(state)
    answer = change.confirm(name, final=True, folder=folder)
    assert answer["state"] == watch.ROLLED_BACK
    assert answer["reason"] == "its watchdog was gone"


def test_the_next_run_waits_for_a_watchdog_at_work(tmp_path):
    folder, name, found = prepared(tmp_path)
    found.enter(watch.APPLIED)
    with found.held(), pytest.raises(change.UnconfirmedError) as caught:
        change.settle(folder)
    assert name in str(caught.value)
    assert 50 < caught.value.data["busy"] <= 60


def test_the_next_run_waits_for_one_that_is_about_to_start(tmp_path):
    folder, _, found = prepared(tmp_path)
    with pytest.raises(change.UnconfirmedError):
        change.settle(folder)
    found.enter(watch.CONFIRMED)
    change.settle(folder)


def test_the_next_run_finishes_with_what_was_left(tmp_path):
    folder, _, found = prepared(tmp_path)
    found.enter(watch.APPLIED)
    os.mkdir(os.path.join(folder, "half-written"))
    change.settle(folder)
    assert watch.Watch(found.folder).state()["state"] == watch.ROLLED_BACK
    change.settle(str(tmp_path / "nothing"))


def test_the_last_changes_are_kept(tmp_path):
    for number in range(8):
        (tmp_path / f"c{number}").mkdir()
    change.prune(str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == ["c3", "c4", "c5", "c6", "c7"]
