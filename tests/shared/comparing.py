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


def report(
    title: str,
    unit: str,
    ours: tuple[str, Sequence[float]],
    peer: tuple[str, Sequence[float]],
    bound: float | None,
) -> None:
    """Print two series of samples taken in turn; hold the median ratio ours/peer to ``bound``."""
    ratios = [a / b for a, b in zip(ours[1], peer[1], strict=True)]
    ratio = statistics.median(ratios)
    held = "no bound" if bound is None else f"bound {bound:.2f}"
    say(f"\n{title} [{unit}, {len(ratios)} pairs]")
    for name, samples in (ours, peer):
        say(f"  {name:<44} {_spread(samples)}")
    say(f"  {'ratio':<44} {_spread(ratios)}, {held}")
    if bound is not None:
        assert ratio <= bound, f"{title}: ratio {ratio:.2f} is over the bound {bound:.2f}"


def compare(
    title: str, unit: str, ours: Side, peer: Side, bound: float | None, rounds: int = 15
) -> tuple[list[float], list[float]]:
    """Sample both in turn after a warm-up, report, and return the samples."""
    ours.sample()
    peer.sample()
    pairs = [(ours.sample(), peer.sample()) for _ in range(rounds)]
    mine, theirs = ([pair[side] for pair in pairs] for side in (0, 1))
    report(title, unit, (ours.title, mine), (peer.title, theirs), bound)
    return mine, theirs


def first_byte(command: Sequence[str], status: int) -> float:
    """Return the milliseconds from a command's start to its first byte of output.

    The command must then end by itself with ``status``; how long that takes is not counted.
    """
    begin = time.perf_counter()
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stderr
        found = os.read(process.stdout.fileno(), 1)
        spent = (time.perf_counter() - begin) * 1e3
        errors = process.stderr.read()
    assert (len(found), process.returncode) == (1, status), errors.decode()
    return spent


@dataclass(frozen=True)
class Playbook:
    """Runs ansible-playbook of this checkout and returns how long what took."""

    repository: Path
    scratch: Path

    def run(
        self, book: Path, inventory: Path, *arguments: str, prefix: Sequence[str] = ()
    ) -> tuple[float, list[dict[str, Any]]]:
        """Run a playbook; return its milliseconds and when each task began and ended on a host.

        ``prefix`` goes before the command, as that which enters a namespace.
        """
        times = self.scratch / "times"
        times.unlink(missing_ok=True)
        times.touch()
        environment = {
            **os.environ,
            "ANSIBLE_CONFIG": str(self.repository / "ansible.cfg"),
            "ANSIBLE_CALLBACK_PLUGINS": str(self.repository / "tests" / "bench" / "callback"),
            "ANSIBLE_CALLBACKS_ENABLED": "task_times",
            "TASK_TIMES": str(times),
        }
        program = str(Path(sys.executable).parent / "ansible-playbook")
        begin = time.perf_counter()
        done = subprocess.run(
            [*prefix, program, "-i", str(inventory), str(book), *arguments],
            env=environment,
            cwd=self.repository,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        spent = (time.perf_counter() - begin) * 1e3
        assert done.returncode == 0, done.stdout + done.stderr
        return spent, [json.loads(line) for line in times.read_text().splitlines()]

    def times(self, tasks: list[dict[str, Any]], inventory: Path | None = None) -> list[float]:
        """Run the tasks in order; return each one's wall time in milliseconds.

        They run on the hosts of the inventory, by default on this machine.
        """
        book = self.scratch / "bench.json"
        book.write_text(json.dumps([{"hosts": "all", "gather_facts": False, "tasks": tasks}]))
        _, found = self.run(book, inventory or self.repository / "inventory" / "local")
        return [(entry["ended"] - entry["began"]) * 1e3 for entry in found]
