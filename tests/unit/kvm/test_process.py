# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Processes told apart: by start time and boot, not by pid alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from ansible.module_utils.kvm import process
from ansible.module_utils.kvm.process import Identity

SLEEP = [sys.executable, "-c", "import sys; sys.stdin.read()"]


@pytest.fixture
def child():
    """Return a process that waits, and whose identity is known."""
    started = subprocess.Popen(SLEEP, stdin=subprocess.PIPE)
    yield started
    started.kill()
    started.communicate()


def test_identity_is_the_same_each_time_and_survives_json(child):
    who = process.identity(child.pid)
    assert who is not None
    assert who == process.identity(child.pid) == Identity.from_dict(who.to_dict())
    assert who.pid == child.pid
    assert who.start > 0
    assert process.alive(who)


def test_two_processes_are_two(child):
    mine = process.identity(os.getpid())
    assert mine is not None
    assert mine != process.identity(child.pid)
    assert mine.boot_id == process.boot_id()


def test_a_pid_that_was_given_to_another_is_not_it(child):
    """A pid cannot be had again at will: a start time that is another's stands for it."""
    who = process.identity(child.pid)
    reused = who._replace(start=who.start - 1)
    assert not process.alive(reused)
    assert not process.signal(reused, signal.SIGKILL)
    assert child.poll() is None


def test_the_same_pid_and_start_of_another_boot_is_not_it(child):
    before = process.identity(child.pid)._replace(boot_id="00000000-0000-0000-0000-000000000000")
    assert not process.alive(before)
    assert not process.signal(before, signal.SIGKILL)
    assert child.poll() is None


def test_a_zombie_is_not_alive(child):
    who = process.identity(child.pid)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, but not taken away
    assert os.path.exists(f"/proc/{child.pid}/stat")
    assert process.identity(child.pid) is None
    assert not process.alive(who)
    assert not process.signal(who)


def test_one_that_has_gone_is_not_alive(child):
    who = process.identity(child.pid)
    child.kill()
    child.communicate()
    assert process.identity(child.pid) is None
    assert not process.alive(who)
    assert not process.signal(who)


@pytest.fixture(params=["pidfd", "kill"])
def way(request, monkeypatch):
    """Signal through a pidfd where there is one, and as on Python 3.8."""
    if request.param == "kill":
        monkeypatch.delattr(os, "pidfd_open", raising=False)
    elif not hasattr(os, "pidfd_open"):
        pytest.skip("this Python has no os.pidfd_open")
    return request.param


def test_signal_reaches_the_process(child, way):
    assert process.signal(process.identity(child.pid), signal.SIGTERM)
    assert child.wait() == -signal.SIGTERM


def test_signal_to_one_that_ends_meanwhile(child, way, monkeypatch):
    """It ends between the look at it and the signal: the look is replaced to make it so."""
    who = process.identity(child.pid)

    def ends(_):
        child.kill()
        child.wait()
        return True

    monkeypatch.setattr(process, "alive", ends)
    before = set(os.listdir("/proc/self/fd"))
    assert not process.signal(who, signal.SIGTERM)
    assert set(os.listdir("/proc/self/fd")) == before


# What a command may be named, so that its stat line cannot mislead.
@pytest.mark.parametrize("name", ["plain", "two words", "a) R 1 2 3", ")", "((", "x\ny"])
def test_a_misleading_name_of_a_command(tmp_path, name):
    rename = f"open('/proc/self/comm', 'w').write({name!r})"
    script = f"import sys; {rename}; print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as renamed:
        renamed.stdout.readline()
        with subprocess.Popen(SLEEP, stdin=subprocess.PIPE) as plain:
            first, second = process.identity(renamed.pid), process.identity(plain.pid)
            assert 0 <= second.start - first.start < 10_000  # both started just now
            plain.communicate()
        renamed.communicate()


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        "text",
        {},
        {"pid": 1, "start": 2},
        {"pid": "1", "start": 2, "boot_id": "b"},
        {"pid": 1, "start": None, "boot_id": "b"},
        {"pid": 1, "start": 2, "boot_id": 3},
        {"pid": True, "start": 2, "boot_id": "b"},
        {"pid": 1.0, "start": 2, "boot_id": "b"},
        {"pid": 0, "start": 2, "boot_id": "b"},
        {"pid": -1, "start": 2, "boot_id": "b"},
    ],
)
def test_what_is_no_identity(data):
    assert Identity.from_dict(data) is None


def test_an_identity_with_more_beside_it():
    data = {"pid": 1, "start": 2, "boot_id": "b", "helper": None}
    assert Identity.from_dict(data) == Identity(1, 2, "b")


def test_a_pid_beyond_all_pids():
    assert process.identity(1 << 40) is None
