# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The small files about a guest: whole or not there, and never believed blindly."""

from __future__ import annotations

import json
import os
import time

import pytest
from ansible.module_utils.kvm import process, records
from ansible.module_utils.kvm.layout import Layout
from ansible.module_utils.kvm.runner import Outcome


@pytest.fixture
def paths(tmp_path):
    guest = Layout(str(tmp_path)).guest("web")
    os.makedirs(guest.state)
    os.makedirs(guest.run)
    return guest


def test_a_record_is_written_and_read(paths):
    records.write_atomically(paths.pid, {"b": 1, "a": ["ü"]})
    assert records.read_record(paths.pid) == {"b": 1, "a": ["ü"]}
    assert os.listdir(paths.run) == ["pid.json"]
    assert os.stat(paths.pid).st_mode & 0o777 == 0o644


def test_a_record_replaces_the_one_before(paths):
    for number in range(3):
        records.write_atomically(paths.pid, {"number": number})
    assert records.read_record(paths.pid) == {"number": 2}
    assert os.listdir(paths.run) == ["pid.json"]


def test_a_link_in_its_place_is_replaced_not_followed(paths, tmp_path):
    target = tmp_path / "precious"
    target.write_text("untouched")
    os.symlink(str(target), paths.last_exit)
    records.write_atomically(paths.last_exit, {"status": 0})
    assert target.read_text() == "untouched"
    assert not os.path.islink(paths.last_exit)


def test_a_failed_write_leaves_the_one_before_and_nothing_else(paths, monkeypatch):
    """A disk that is full when the record is synced: fsync is replaced."""
    records.write_atomically(paths.pid, {"number": 1})

    def fail(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(records.os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        records.write_atomically(paths.pid, {"number": 2})
    assert records.read_record(paths.pid) == {"number": 1}
    assert os.listdir(paths.run) == ["pid.json"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"7",
        b"\xff\xfe",
        b"[" * 60_000,
        b'{"a": "%s"}' % (b"x" * 70_000),
    ],
)
def test_what_is_no_record(paths, content):
    with open(paths.pid, "wb") as file:
        file.write(content)
    assert records.read_record(paths.pid) is None
    assert records.running(paths) is None


def test_no_record(paths):
    assert records.read_record(paths.pid) is None
    assert records.running(paths) is None
    assert records.last_exit(paths) is None


def test_running_means_that_very_process(paths):
    me = process.identity(os.getpid())
    records.write_atomically(paths.pid, {**me.to_dict(), "helper": None})
    assert records.running(paths) == me
    records.write_atomically(paths.pid, {**me.to_dict(), "start": me.start + 1})
    assert records.running(paths) is None


def test_an_exit(paths):
    before = time.time()
    records.write_exit(paths, Outcome(72, "triple fault", "rax=0x0"), 1000.5, "d1")
    found = records.last_exit(paths)
    assert before <= found.pop("ended") <= time.time()
    assert found == {
        "status": 72,
        "reason": "triple fault",
        "detail": "rax=0x0",
        "started": 1000.5,
        "helper": "d1",
    }


def test_a_detail_is_cut_so_that_it_can_be_read_again(paths):
    records.write_exit(paths, Outcome(70, "r", "x" * 1_000_000), 0.0, None)
    assert len(records.last_exit(paths)["detail"]) == 4096


def test_an_exit_that_cannot_be_written_is_passed_over(paths):
    os.rmdir(paths.state)
    records.write_exit(paths, Outcome(0, "r"), 0.0, None)
    assert records.last_exit(paths) is None


KILLED = {"status": None, "reason": "ended without a word (killed, or out of memory)"}


@pytest.mark.parametrize("has_record", [True, False])
def test_an_exit_older_than_the_last_start_is_of_another_run(paths, has_record):
    started = process.identity(os.getpid())._replace(start=1)
    records.write_atomically(paths.pid, started.to_dict())
    if has_record:
        records.write_exit(paths, Outcome(0, "stopped on request"), 0.0, None)
        assert records.last_exit(paths)["reason"] == "stopped on request"
        os.utime(paths.last_exit, ns=(0, os.stat(paths.pid).st_mtime_ns - 1))
    assert records.last_exit(paths) == KILLED


def test_what_went_down_with_the_host_was_not_killed(paths):
    before = process.identity(os.getpid())._replace(boot_id="another boot")
    records.write_exit(paths, Outcome(0, "stopped on request"), 0.0, None)
    os.utime(paths.last_exit, (1, 1))
    records.write_atomically(paths.pid, before.to_dict())
    assert records.last_exit(paths) is None
    os.unlink(paths.pid)  # pid files are gone after a boot
    assert records.last_exit(paths)["reason"] == "stopped on request"


def test_a_record_is_one_line_of_json(paths):
    records.write_atomically(paths.pid, {"b": 1, "a": 2})
    with open(paths.pid, encoding="utf-8") as file:
        text = file.read()
    assert text == json.dumps({"a": 2, "b": 1}) + "\n"
