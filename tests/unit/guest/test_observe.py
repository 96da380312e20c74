# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Observing: cheap, and believing nothing that a guest's own user may have written."""

from __future__ import annotations

import json
import os

import pytest
from ansible.module_utils.guest.ioctl.observe import observe, read_console, read_exit
from ansible.module_utils.kvm.process import Identity, identity


def me():
    found = identity(os.getpid())
    assert found is not None
    return found


def see(machine, name="a"):
    return observe(machine.layout)[name]


def exit_record(**more):
    return {
        "status": 72,
        "reason": "triple fault",
        "detail": "rip=0",
        "started": 1,
        "ended": 2,
        **more,
    }


@pytest.fixture
def ended(machine):
    """Make a guest that ran, and whose process is gone."""
    machine.run({"name": "a"})
    machine.supervisor.write_pid("a", Identity(me().pid, me().start + 1, me().boot_id))
    return machine


def test_a_host_without_guests(machine):
    assert observe(machine.layout) == {}


def test_a_running_guest(machine):
    machine.run({"name": "a"})
    seen = see(machine)
    assert (seen.state, seen.pid, seen.exit) == ("running", os.getpid(), None)
    assert seen.uptime >= 0
    assert seen.booted == seen.machine


def test_how_it_ended(ended):
    ended.write_exit("a", exit_record())
    seen = see(ended)
    assert seen.state == "failed"
    assert seen.exit == exit_record()
    assert (seen.pid, seen.uptime, seen.booted, seen.helper) == (None, None, None, None)
    ended.write_exit("a", exit_record(status=0, reason="shut down"))
    assert see(ended).state == "stopped"


def test_an_end_without_a_record(ended):
    seen = see(ended)
    assert (seen.state, seen.exit["status"]) == ("failed", None)
    assert "without a word" in seen.exit["reason"]


def test_a_record_of_an_earlier_run_says_nothing_of_this_one(ended):
    ended.write_exit("a", exit_record(), later=-60)
    assert "without a word" in see(ended).exit["reason"]


def test_a_host_that_was_restarted_let_nobody_fail(ended):
    ended.supervisor.write_pid("a", Identity(me().pid, me().start, "another boot"))
    assert (see(ended).state, see(ended).exit) == ("stopped", None)
    os.unlink(ended.layout.guest("a").pid)
    assert (see(ended).state, see(ended).exit) == ("stopped", None)


def test_the_supervisor_is_asked_for_the_end_of_who_left_no_word(machine):
    machine.run(*({"name": name, "state": "stopped"} for name in "ab"), {"name": "c"})
    machine.supervisor.ended = dict.fromkeys("abc", "systemd says: oom-kill")
    machine.write_exit("b", exit_record(status=0, reason="shut down"))
    found = machine.engine().observe()
    assert {name: seen.state for name, seen in found.items()} == {
        "a": "failed",
        "b": "stopped",
        "c": "running",
    }
    assert found["a"].exit == {"status": None, "reason": "systemd says: oom-kill"}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 60000,
        b"9" * 60000,
        b" " * 70000,
        b'{"status": "0"}',
        b'{"status": true}',
        b'{"status": 256}',
        b'{"status": -1}',
        b'{"status": NaN}',
        b'{"reason": "no status"}',
    ],
)
def test_a_record_that_makes_no_sense_is_none(ended, content):
    ended.write_exit("a", content)
    assert read_exit(ended.layout.guest("a")) is None
    assert see(ended).state == "failed"


def test_hostile_values_are_made_harmless(ended):
    record = exit_record(
        reason="\x1b[2Jowned\x07" + "x" * 9999, detail=["no", "text"], started=1e308, ended="soon"
    )
    ended.write_exit("a", json.dumps(record).replace("1e+308", "Infinity").encode())
    found = see(ended).exit
    assert found["reason"].startswith("owned^Gxxx")
    assert len(found["reason"]) < 400
    assert (found["detail"], found["started"], found["ended"]) == (None, None, None)
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("kind", ["link", "fifo", "folder"])
def test_what_is_no_plain_file_is_not_read(ended, kind):
    paths = ended.layout.guest("a")
    for path in (paths.last_exit, paths.log):
        if kind == "link":
            os.symlink("/proc/self/environ", path)
        elif kind == "fifo":
            os.mkfifo(path)
        else:
            os.mkdir(path)
    assert read_exit(paths) is None
    assert read_console(paths, 100) == b""


def test_the_console_from_before_its_rotation_too(machine):
    machine.run({"name": "a", "state": "stopped"})
    paths = machine.layout.guest("a")
    for path, content in (
        (paths.log, b"new\n"),
        (paths.log + ".1", b"old\n"),
        (paths.log + ".2", b"?"),
    ):
        with open(path, "wb") as file:
            file.write(content)
    assert read_console(paths, 100) == b"old\nnew\n"
    assert read_console(paths, 6) == b"d\nnew\n"
    assert read_console(paths, 3) == b"ew\n"
    assert read_console(paths, 0) == b""


def test_a_process_whose_definition_is_gone_is_seen(machine):
    machine.run({"name": "a"}, {"name": "b"})
    os.rename(machine.layout.guest("a").folder, os.path.join(machine.layout.root, "elsewhere"))
    seen = see(machine)
    assert (seen.state, seen.spec, seen.pid) == ("running", None, os.getpid())
    outcome = machine.run({"name": "a"})
    assert [item["object"] for item in outcome["blocked"]] == ["guest/a"]
    machine.run({"name": "a", "state": "absent"})
    os.makedirs(os.path.join(machine.layout.run, "NOT_A_NAME"))
    assert list(observe(machine.layout)) == ["b"]


def test_observing_opens_a_few_small_files_a_guest(machine, monkeypatch):
    """What a run costs with many guests: the definition, the pid file, the process and no more."""
    machine.run(*({"name": f"g{number}"} for number in range(20)))
    opened = []

    def counted(call):
        def wrapper(path, *arguments, **more):
            opened.append(path)
            return call(path, *arguments, **more)

        return wrapper

    monkeypatch.setattr(os, "open", counted(os.open))
    monkeypatch.setattr("builtins.open", counted(open))
    observe(machine.layout)
    assert len(opened) <= 20 * 5
    assert not [path for path in opened if "sock" in path or "state" in path]
