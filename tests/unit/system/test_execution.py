# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules that set a host have in common: commands, the lock, the diff."""

from __future__ import annotations

import pytest
from ansible.module_utils.converge.action import NOW, Action, Change
from ansible.module_utils.converge.lock import BusyError
from ansible.module_utils.system.execution import alone, readable, runner
from ansible.module_utils.system.operation import Step


def test_a_command_is_a_list_in_a_known_language():
    seen = []

    def run_command(argv, **options):
        seen.append((argv, options["environ_update"], options["handle_exceptions"]))
        return 3, "out", "error"

    assert runner(run_command)(("systemctl", "show")) == (3, "out", "error")
    assert seen == [(["systemctl", "show"], {"LC_ALL": "C.UTF-8"}, False)]


def test_a_command_that_is_missing_is_told_by_its_status():
    def run_command(argv, **_):
        raise FileNotFoundError(2, "No such file or directory", argv[0])

    status, _, error = runner(run_command)(("systemctl",))
    assert (status, error) == (127, "systemctl: No such file or directory")


def test_the_second_run_is_told_who_holds_the_lock(tmp_path):
    second = alone(str(tmp_path), "second")
    with alone(str(tmp_path), "first"), pytest.raises(BusyError, match="run first"), second:
        pytest.fail("two runs at once")
    with alone(str(tmp_path), "third"):
        assert (tmp_path / "var/lib/virtfleet/lock").exists()


def test_files_are_shown_as_texts_and_settings_as_lines():
    def step(name, *changes):
        return Step(Action(1, name, "update", "kvm1", NOW, "it differs", changes))

    steps = [step("file/a", Change("content", None, "one\n")), step("file/b", Change("x", 1, 2))]
    diffs = [
        {"after_header": "file/a", "before": "", "after": 'content: "one\\n"\n'},
        {"after_header": "file/b", "before": "x: 1\n", "after": "x: 2\n"},
    ]
    shown = readable(diffs, steps)
    assert [(entry["before"], entry["after"]) for entry in shown] == [
        ("", "one\n"),
        ("x: 1\n", "x: 2\n"),
    ]
