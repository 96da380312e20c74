# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the benchmarks measure: ours and a named peer in alternation, ratios pair by pair.

A machine's speed drifts; a ratio of neighbours does not. Every comparison prints its medians and
spreads and fails only when the median of the ratios is beyond the bound that the project promises.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def say(text: str) -> None:
    """Print a line of the report."""
    sys.stdout.write(f"{text}\n")


@dataclass(frozen=True)
class Side:
    """One of two things compared: a title, and a call that returns one sample."""

    title: str
    sample: Callable[[], float]


def _spread(samples: Sequence[float]) -> str:
    return f"{statistics.median(samples):10.2f}  ({min(samples):.2f} to {max(samples):.2f})"


def compare(
    title: str, unit: str, ours: Side, peer: Side, bound: float | None, rounds: int = 15
) -> tuple[float, list[float], list[float]]:
    """Sample both in turn, print, and hold the median ratio ours/peer to ``bound``."""
    ours.sample()
    peer.sample()
    pairs = [(ours.sample(), peer.sample()) for _ in range(rounds)]
    mine, theirs = ([pair[side] for pair in pairs] for side in (0, 1))
    ratio = statistics.median(a / b for a, b in pairs)
    ratios = sorted(a / b for a, b in pairs)
    say(f"\n{title} [{unit}, {rounds} pairs]")
    say(f"  {ours.title:<44} {_spread(mine)}")
    say(f"  {peer.title:<44} {_spread(theirs)}")
    held = "no bound" if bound is None else f"bound {bound}"
    say(f"  {'ratio':<44} {ratio:10.2f}  ({ratios[0]:.2f} to {ratios[-1]:.2f}), {held}")
    if bound is not None:
        assert ratio <= bound, f"{title}: ratio {ratio:.2f} is over the bound {bound}"
    return ratio, mine, theirs


def wall(command: Sequence[str], status: int | None = None) -> float:
    """Return the milliseconds that a command takes as a whole; its exit status is checked."""
    begin = time.perf_counter()
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    spent = (time.perf_counter() - begin) * 1e3
    assert status is None or done.returncode == status, (
        f"{command[0]} ended with {done.returncode}: {done.stderr.decode()}"
    )
    return spent


@dataclass(frozen=True)
class Playbook:
    """Runs plays of ansible and returns how long each task took."""

    repository: Path
    scratch: Path

    def times(self, tasks: list[dict[str, Any]]) -> list[float]:
        """Run the tasks in order on this machine; return each one's wall time in milliseconds."""
        book, times = self.scratch / "bench.json", self.scratch / "times"
        play = {"hosts": "all", "gather_facts": False, "tasks": tasks}
        book.write_text(json.dumps([play]))
        times.unlink(missing_ok=True)
        environment = {
            **os.environ,
            "ANSIBLE_CONFIG": str(self.repository / "ansible.cfg"),
            "ANSIBLE_CALLBACK_PLUGINS": str(Path(__file__).parent / "callback"),
            "ANSIBLE_CALLBACKS_ENABLED": "task_times",
            "TASK_TIMES": str(times),
        }
        inventory = str(self.repository / "inventory" / "local")
        command = [
            str(Path(sys.executable).parent / "ansible-playbook"),
            "-i",
            inventory,
            str(book),
        ]
        done = subprocess.run(
            command,
            env=environment,
            cwd=self.repository,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return [float(line) * 1e3 for line in times.read_text().split()]
