# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""systemd is asked once for all guests; a fake systemctl knows which calls may come."""

from __future__ import annotations

import os

import pytest
from ansible.module_utils.guest.ioctl import supervised
from ansible.module_utils.guest.ioctl.supervised import Supervised, is_booted, unit
from ansible.module_utils.kvm.layout import Layout


class FakeSystemctl:
    """Answers the expected calls in their order, and fails on any other, or on a missing one."""

    def __init__(self, *expected):
        self.expected = list(expected)

    def __call__(self, command):
        assert self.expected, f"an unexpected call: {command}"
        words, answer = self.expected.pop(0)
        assert command == ["systemctl", "--no-ask-password", *words.split()]
        return answer

    def close(self):
        assert self.expected == [], "calls that did not come"


OK = (0, "", "")


@pytest.fixture
def host(tmp_path):
    made = []

    def make(*expected):
        made.append(FakeSystemctl(*expected))
        return Supervised(Layout(str(tmp_path)), made[-1])

    yield make
    for fake in made:
        fake.close()


A, B = "virtfleet-guest@a.service", "virtfleet-guest@b-1.service"


def test_many_are_one_call(host):
    systemd = host(
        (f"start -- {A} {B}", OK),
        (f"stop -- {A} {B}", OK),
        (f"--quiet enable -- {A} {B}", OK),
        (f"--quiet disable -- {A} {B}", OK),
        (f"--quiet reset-failed -- {A} {B}", (1, "", "not loaded")),
    )
    names = ["a", "b-1"]
    assert systemd.start(names) == {}
    assert systemd.stop(names, 1.0, force=False) == {}
    assert systemd.autostart(names, enable=True) == {}
    assert systemd.autostart(names, enable=False) == {}
    systemd.forget(names)


def test_nobody_is_no_call(host):
    systemd = host()
    assert systemd.start([]) == {}
    assert systemd.stop([], 1.0, force=False) == {}
    assert systemd.autostart([], enable=True) == {}
    systemd.forget([])


def test_a_restart_stops_and_starts(host):
    systemd = host((f"stop -- {A}", OK), (f"start -- {A}", OK))
    assert systemd.restart(["a"], 1.0, force=False) == {}


def test_who_did_not_start_is_told_with_its_last_words(host, tmp_path, monkeypatch):
    systemd = host((f"start -- {A} {B}", (1, "", "Job failed.")))
    paths = systemd.layout.guest("a")
    os.makedirs(paths.state)
    with open(paths.last_exit, "w", encoding="ascii") as file:
        file.write('{"status": 78, "reason": "expected 1 to 8 vCPUs"}')
    assert systemd.start(["a", "b-1"]) == {"a": "expected 1 to 8 vCPUs", "b-1": "Job failed."}


def test_who_did_start_is_no_failure(host, monkeypatch):
    systemd = host((f"start -- {A} {B}", (1, "", "Job failed.")))
    monkeypatch.setattr(supervised, "running_process", lambda paths: paths.name == "b-1" or None)
    assert systemd.start(["a", "b-1"]) == {"a": "Job failed."}


def test_enabling_that_fails_is_told(host):
    systemd = host((f"--quiet enable -- {A}", (1, "", "Unit not found.\n")))
    assert systemd.autostart(["a"], enable=True) == {"a": "Unit not found."}


def test_who_is_started_at_boot_is_read_from_the_links(host, tmp_path):
    systemd = host()
    assert systemd.autostarted() == set()
    folder = tmp_path / "etc/systemd/system/multi-user.target.wants"
    folder.mkdir(parents=True)
    for name in (A, B, "ssh.service", "virtfleet-guest@.service.d"):
        (folder / name).touch()
    assert systemd.autostarted() == {"a", "b-1"}


def test_how_a_guest_ended_that_left_no_record(host):
    show = "--property=Id --property=Result show --"
    answers = [f"Id={A}\nResult=oom-kill", f"Result=success\nId={B}", "Id=x.service\nResult=signal"]
    systemd = host(
        (f"{show} {A} {B} virtfleet-guest@c.service", (0, "\n\n".join(answers) + "\n", "")),
        (f"{show} {A}", (1, "", "no")),
    )
    assert systemd.ends(["a", "b-1", "c"]) == {"a": "ended without a word, systemd says: oom-kill"}
    assert systemd.ends(["a"]) == {}
    assert systemd.ends([]) == {}


def test_a_unit_is_named_after_its_guest():
    assert unit("b-1") == B


def test_no_other_root_is_supervised():
    assert is_booted("/srv/image") is False
    assert is_booted("/") is os.path.isdir("/run/systemd/system")
