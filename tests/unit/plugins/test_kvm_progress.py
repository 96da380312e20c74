# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is told while a run goes on: when a line is due, and what it says."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from ansible.module_utils.converge.progress import Progress, elapsed


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.0, "0 s"),
        (59.9, "59 s"),
        (60.0, "1:00 min"),
        (3599.0, "59:59 min"),
        (3600.0, "1:00:00 h"),
        (7325.0, "2:02:05 h"),
    ],
)
def test_times_are_told_as_people_read_them(seconds: float, expected: str) -> None:
    assert elapsed(seconds) == expected


def test_a_task_that_takes_long_is_told_in_growing_distances() -> None:
    progress = Progress(10)
    for number in range(1, 8):
        progress.start(f"kvm{number}", "apply", 100.0)
    assert progress.end("kvm3", 104.0) == 4.0
    told = {}
    for second in range(100, 200):
        line = progress.line(float(second))
        if line:
            told[second] = line
    assert told == {
        110: "10 s: apply, done on 1 of 7 hosts; at work: kvm1, kvm2, kvm4, kvm5 and 2 more",
        120: "20 s: apply, done on 1 of 7 hosts; at work: kvm1, kvm2, kvm4, kvm5 and 2 more",
        140: "40 s: apply, done on 1 of 7 hosts; at work: kvm1, kvm2, kvm4, kvm5 and 2 more",
        180: "1:20 min: apply, done on 1 of 7 hosts; at work: kvm1, kvm2, kvm4, kvm5 and 2 more",
    }


def test_what_is_over_is_waited_for_no_longer() -> None:
    progress = Progress(10)
    progress.start("kvm1", "look", 0.0)
    progress.end("kvm1", 1.0)
    assert progress.line(50.0) == ""
    progress.start("kvm1", "apply", 60.0)
    assert progress.line(69.0) == ""
    assert progress.line(70.0) == "10 s: apply; at work: kvm1"
    assert progress.end("kvm2", 71.0) == 0.0, "it was never seen to begin"


@pytest.fixture
def callback(repository: Path) -> Any:
    made = runpy.run_path(str(repository / "plugins/callback/kvm_progress.py"))["CallbackModule"]()
    made.shown = []
    made._display = SimpleNamespace(display=made.shown.append)
    return made


def test_a_host_on_which_something_was_done_gets_a_line(
    callback: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(monotonic=lambda: callback._began + 65)
    monkeypatch.setitem(callback._end.__func__.__globals__, "time", clock)
    action = {"object": "guest/web", "action": "create", "when": "now", "changes": []}

    def answer(actions: list[dict[str, Any]]) -> Any:
        host = SimpleNamespace(get_name=lambda: "kvm1")
        return SimpleNamespace(host=host, task=SimpleNamespace(), result={"actions": actions})

    callback.v2_runner_on_ok(answer([action]))
    callback.v2_runner_on_ok(answer([]))
    callback.v2_runner_on_failed(answer([action, {**action, "object": "guest/db"}]))
    assert callback.shown == ["  kvm1: 1 created (0 s)", "  kvm1: 2 created (0 s)"]
    callback.v2_playbook_on_stats(None)
    assert callback.shown[-1] == "It took 1:05 min."


@pytest.mark.parametrize(("patience", "expected"), [("1", True), ("0", False), ("3600", False)])
def test_a_run_tells_what_it_waits_for(
    repository: Path, tmp_path: Path, patience: str, expected: bool
) -> None:
    book = tmp_path / "book.yml"
    task = {"name": "Take long", "ansible.builtin.command": "sleep 3", "changed_when": False}
    book.write_text(yaml.safe_dump([{"hosts": "all", "gather_facts": False, "tasks": [task]}]))
    python = f"ansible_python_interpreter={sys.executable}"
    program = str(Path(sys.executable).parent / "ansible-playbook")
    done = subprocess.run(
        [program, "-i", "slow,", "-c", "local", "-e", python, str(book)],
        env={
            **os.environ,
            "ANSIBLE_CONFIG": str(repository / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
            "KVM_PROGRESS_PATIENCE": patience,
        },
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # A busy machine tells it later.
    told = re.search("… [0-9]+ s: Take long; at work: slow", done.stdout)
    assert (told is not None) is expected, done.stdout
    assert "It took " in done.stdout
