# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How `make test` runs its steps."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(REPOSITORY / "scripts"))

import check  # noqa: E402
from check import Runner, Step  # noqa: E402


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Let what the tests begin be interrupted, which a shell forbids what it starts behind it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def shell(title: str, script: str, **more: object) -> Step:
    return Step(title, ["sh", "-c", script], **more)  # type: ignore[arg-type]


def test_steps_run_side_by_side_and_begin_in_their_order(tmp_path: Path) -> None:
    """Each of the first two waits for what the other one writes; the third for the end of one."""
    wait = "while [ ! -e {} ]; do sleep 0.01; done"
    first = f"touch {tmp_path}/a; {wait.format(tmp_path / 'b')}; touch {tmp_path}/ended"
    second = f"{wait.format(tmp_path / 'a')}; touch {tmp_path}/b; {wait.format(tmp_path / 'c')}"
    third = f"test -e {tmp_path}/ended && touch {tmp_path}/c"
    runner = Runner()
    runner.run([shell("first", first), shell("second", second), shell("third", third)], 2)
    assert runner.failed == []


def test_a_step_that_fails_is_named_with_its_output_and_stops_no_other(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    runner = Runner()
    runner.run([shell("bad", "echo why; exit 3"), shell("next", f"touch {tmp_path}/next")])
    output = capfd.readouterr().out
    assert runner.failed == ["bad"]
    assert "why\n   bad: FAILED with status 3, " in output
    assert "   next: ok, " in output
    assert (tmp_path / "next").exists()


def test_a_step_without_end_is_ended_with_all_that_it_began(tmp_path: Path) -> None:
    runner = Runner()
    script = (
        f"trap 'touch {tmp_path}/cleaned; exit 1' INT; sleep 600 & echo $! > {tmp_path}/pid; wait"
    )
    runner.run([shell("endless", script, patience=3)])
    assert runner.failed == ["endless"]
    assert (tmp_path / "cleaned").exists()
    assert ended((tmp_path / "pid").read_text().strip(), within=30)


def ended(pid: str, within: float) -> bool:
    """Say whether a process ends in time: one that was killed may need a moment to be gone."""
    deadline = time.monotonic() + within
    while True:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state in "ZX":
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)


def test_an_interrupted_run_ends_its_steps(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, 'scripts'); from check import Runner, Step\n"
        f"step = Step('long', ['sh', '-c', 'touch {tmp_path}/begun; exec sleep 600'])\n"
        "Runner().run([step, Step('never', ['true'])])\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    give_up = time.monotonic() + 30
    while not (tmp_path / "begun").exists() and time.monotonic() < give_up:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode != 0
    assert "long: FAILED with status" in output


def test_a_step_is_repeated_only_where_it_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    asked: list[str] = []

    def again() -> list[str]:
        asked.append("again")
        return ["sh", "-c", "echo repeated"]

    runner = Runner()
    runner.run([shell("good", "true", again=again), shell("lost", "exit 1", again=again)])
    assert asked == ["again"]
    assert runner.failed == []
    runner.run([shell("stands", "exit 3", again=lambda: None)])
    assert runner.failed == ["stands"]
    assert "FAILED with status 3" in capfd.readouterr().out


def test_of_the_lab_the_files_that_failed_are_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "BUILD", tmp_path)
    assert check.lab_again("test") is None
    failed = check.lab_cache("test") / "v" / "cache" / "lastfailed"
    failed.parent.mkdir(parents=True)
    failed.write_text('{"tests/lab/test_b.py::test_x[kvm1]": true, "tests/lab/test_a.py": true}')
    command = check.lab_again("test")
    assert command is not None
    assert command[2:4] == ["tests/lab/test_a.py", "tests/lab/test_b.py"]
    check.lab_step("anew", "test")
    assert check.lab_again("test") is None
