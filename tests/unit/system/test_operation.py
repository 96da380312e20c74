# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Operations as data: carried out whole, again without harm, and named when they fail."""

from __future__ import annotations

import os
import stat

import pytest
from ansible.module_utils.converge.action import NOW, Action
from ansible.module_utils.system.operation import (
    Executor,
    OperationError,
    Put,
    Run,
    Step,
    Write,
    write_file,
)


def never(argv):
    raise AssertionError(f"nothing may be run below another root: {argv}")


@pytest.fixture
def below(tmp_path):
    return Executor(str(tmp_path), never)


def test_a_file_is_written_with_its_mode_and_folder(below, tmp_path):
    old = os.umask(0o077)
    try:
        below.execute(Write("/etc/modules-load.d/x.conf", "kvm\n", 0o640))
    finally:
        os.umask(old)
    path = tmp_path / "etc/modules-load.d/x.conf"
    assert path.read_text() == "kvm\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.listdir(path.parent) == ["x.conf"]


def test_a_file_is_removed_and_removed_again(below, tmp_path):
    (tmp_path / "gone").write_text("x")
    for _ in range(2):
        below.execute(Write("/gone", None))
        assert not (tmp_path / "gone").exists()


def test_a_link_in_the_place_of_the_file_is_replaced_not_followed(below, tmp_path):
    (tmp_path / "precious").write_text("keep")
    (tmp_path / "link").symlink_to(tmp_path / "precious")
    below.execute(Write("/link", "new"))
    assert (tmp_path / "precious").read_text() == "keep"
    assert (tmp_path / "link").read_text() == "new"
    assert not (tmp_path / "link").is_symlink()


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_text("old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_file(str(path), "new", 0o644)
    assert (os.listdir(tmp_path), path.read_text()) == (["file"], "old")


def test_a_value_is_put_into_a_file_that_must_be_there(below, tmp_path):
    (tmp_path / "run").write_text("0")
    below.execute(Put("/run", "1"))
    assert (tmp_path / "run").read_text() == "1"
    with pytest.raises(OperationError, match=r"cannot write /none: No such file") as failed:
        below.execute(Put("/none", "1"))
    assert failed.value.data == {"path": "/none"}
    assert not (tmp_path / "none").exists()


def test_commands_run_on_the_real_root_alone(below):
    below.execute(Run(("reboot",)))
    seen = []

    def run(argv):
        seen.append(argv)
        return 0, "", ""

    Executor("/", run).execute(Run(("sysctl", "-q")))
    assert seen == [("sysctl", "-q")]


@pytest.mark.parametrize(
    ("status", "out", "error", "message"),
    [
        (1, "", "modprobe: not found\n", "modprobe kvm ended with status 1: modprobe: not found"),
        (2, "said on stdout", "", "modprobe kvm ended with status 2: said on stdout"),
        (3, "", "", "modprobe kvm ended with status 3: no message"),
    ],
)
def test_a_failed_command_is_named_with_what_it_said(status, out, error, message):
    executor = Executor("/", lambda _: (status, out, error))
    with pytest.raises(OperationError) as failed:
        executor.execute(Run(("modprobe", "kvm")))
    assert str(failed.value) == message
    assert failed.value.data == {"argv": ["modprobe", "kvm"], "status": status}


def test_an_accepted_status_is_no_failure():
    Executor("/", lambda _: (1, "", "")).execute(Run(("grep", "x"), ok=(0, 1)))


def test_steps_are_done_in_order_until_one_fails(below, tmp_path):
    action = Action(1, "file/a", "create", "h", NOW, "missing")
    steps = [
        Step(action, (Write("/a", "1"), Write("/b", "2"))),
        Step(action, (Put("/missing", "x"),)),
        Step(action, (Write("/c", "3"),)),
    ]
    with pytest.raises(OperationError):
        below.apply(steps)
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]
