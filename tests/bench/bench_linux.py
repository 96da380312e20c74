# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Linux in the helper against Linux in QEMU, on a lab host: its own kernel in both."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from comparing import report, say

if TYPE_CHECKING:
    from virtlab.lab import Lab

FOLDER = "/opt/bench"
HERE = Path(__file__).parent
LARGEST = 16.0  # MiB of PSS beyond the guest's own memory
PATIENCE = 900.0

Sample = Callable[[str, str], list[float]]

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="the lab's images are built as root"),
]


@pytest.fixture(scope="module")
def sample(lab: Lab, repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """Return what measures on the host: a side and what is measured make a figure."""
    host = lab["kvm2"]
    folder = tmp_path_factory.mktemp("bench")
    compiler = shutil.which("gcc")
    assert compiler, "the benchmarks need gcc"
    warnings = ["-Wall", "-Wextra", "-Werror"]
    source, program = HERE / "guest.c", folder / "guest"
    subprocess.run([compiler, "-static", "-O2", *warnings, "-o", program, source], check=True)
    archive = folder / "helper.pyz"
    builder = [sys.executable, str(repository / "module_utils/kvm/archive.py"), str(archive)]
    subprocess.run(builder, check=True, stdout=subprocess.DEVNULL)
    files = [program, archive, HERE / "on_host.py"]
    copy = ["scp", "-q", "-F", str(host.ssh.config), *map(str, files)]
    subprocess.run([*copy, f"{host.name}:"], check=True)
    host.run(
        f"sudo mkdir {FOLDER} && sudo mv guest on_host.py {FOLDER}"
        f" && sudo python3 -m zipfile -e helper.pyz {FOLDER}/helper"
        f" && sudo python3 -m compileall -q {FOLDER}/helper"
        f" && sudo python3 {FOLDER}/on_host.py prepare"
    )

    def ask(side: str, what: str) -> list[float]:
        command = f"sudo python3 {FOLDER}/on_host.py {side} {what}"
        return [float(figure) for figure in host.out(command, patience=PATIENCE).split()]

    return ask


def pairs(sample: Sample, what: str, rounds: int) -> tuple[list[list[float]], list[list[float]]]:
    """Return the figures of both, measured in turn: a list of samples for each figure."""
    taken = [(sample("helper", what), sample("qemu", what)) for _ in range(rounds)]
    mine, theirs = (
        [list(one) for one in zip(*side, strict=True)] for side in zip(*taken, strict=True)
    )
    return mine, theirs


def test_from_power_on_to_the_first_process(sample: Sample) -> None:
    sample("helper", "boot"), sample("qemu", "boot")  # with their files in memory
    (mine,), (theirs,) = pairs(sample, "boot", 3)
    ours, peer = ("helper", mine), ("QEMU microvm", theirs)
    report("power-on to the guest's first process", "ms", ours, peer, 1.0)


def test_exits_until_the_first_process(sample: Sample, lab: Lab) -> None:
    """Show what docs/helper.md accounts for, port by port; these are counted, and no times."""
    del sample  # it has put the files there
    counted = json.loads(lab["kvm2"].out(f"sudo python3 {FOLDER}/on_host.py exits"))
    say("\nexits to the helper until the guest's first process")
    for kind, exits in counted.items():
        for name, count in sorted(exits.items(), key=lambda pair: -pair[1]):
            say(f"  {kind:<8}{name:<16}{count:8}")
    ports = sum(counted["port"].values())
    assert 0 < ports - 1 <= counted["reason"]["io"]  # the one under way is not yet counted


def test_memory_beyond_the_guests_own(sample: Sample) -> None:
    (mine,), (theirs,) = pairs(sample, "memory", 1)
    ours, peer = ("helper", mine), ("QEMU microvm with PCI", theirs)
    report("PSS beyond the guest's memory, with a disk", "MiB", ours, peer, 1.0)
    assert max(mine) <= LARGEST


def at_least(
    title: str, unit: str, mine: list[float], theirs: list[float], least: float | None
) -> None:
    """Hold what is the better the more it is: the ratio that is shown is the peer's over ours."""
    ours, peer = ("helper", mine), ("QEMU microvm with PCI", theirs)
    report(f"{title}; QEMU's over ours", unit, peer, ours, 1 / least if least else None)


def test_a_disk(sample: Sample) -> None:
    mine, theirs = pairs(sample, "random=5 whole=5", 3)
    title = "4 KiB random reads, queue depth 32, direct"
    at_least(title, "reads/s", mine[0], theirs[0], 0.5)
    at_least("1 MiB sequential reads, direct", "MiB/s", mine[1], theirs[1], 0.9)


def test_a_network(sample: Sample) -> None:
    mine, theirs = pairs(sample, "send=10 receive=10", 5)
    at_least("TCP from the guest, vhost-net in both", "MiB/s", mine[0], theirs[0], 0.95)
    at_least("TCP to the guest, vhost-net in both", "MiB/s", mine[1], theirs[1], 0.95)
    mine, theirs = pairs(sample, "slowly_send=5 slowly_receive=5", 3)
    at_least("TCP from the guest, vhost-net in neither", "MiB/s", mine[0], theirs[0], None)
    at_least("TCP to the guest, vhost-net in neither", "MiB/s", mine[1], theirs[1], None)
