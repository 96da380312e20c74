# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab against QEMU by hand, and a whole run on its hosts against a ping of them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from comparing import Playbook, report, say

LAB_TOOLS = Path(__file__).resolve().parents[1] / "lab"
sys.path.insert(0, str(LAB_TOOLS))

from virtlab import emulator, images, qemu  # noqa: E402
from virtlab.lab import DESCRIPTIONS, Lab  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

    from virtlab.host import Host

ROUNDS = 3
FROM_SNAPSHOT = 15.0  # seconds until two hosts are back
ROUND_TRIPS = 13  # of a whole unchanged run, on each host
STANDARD = DESCRIPTIONS / "lab.yml"

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="the lab's images are built as root"),
]


@pytest.fixture(scope="module")
def cold_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Have a cache of the same images and keys in which no host was saved yet."""
    images.ensure(host.recipe for host in Lab("bench", STANDARD).hosts.values())
    Lab("bench", STANDARD).ssh.public_key()
    folder = tmp_path_factory.mktemp("cache")
    for name in ("images", "keys"):
        (folder / name).symlink_to(images.cache() / name)
    patch = pytest.MonkeyPatch()
    patch.setenv("VIRTLAB_CACHE", str(folder))
    yield
    patch.undo()


def _by_hand(host: Host) -> None:
    """Do what one would type: start QEMU, then ask over SSH until the host is up."""
    line = qemu.arguments(host.spec, host.identity, host.image, restore=False)
    command = [*emulator.program(), *line]
    with (host.folder / "qemu.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=host.folder, stdout=log, stderr=log)
    try:
        time.sleep(0.5)
        host.ssh.know(host.name, host.port(), host.host_key())
        ssh = [
            "ssh",
            "-F",
            str(host.ssh.config),
            "-o",
            "ControlPath=none",
            "-o",
            "ConnectTimeout=5",
        ]
        ask = [*ssh, host.name, "systemctl is-system-running --wait"]
        while b"ing" not in subprocess.run(ask, capture_output=True, check=False).stdout:
            assert process.poll() is None, (host.folder / "qemu.log").read_text()
            time.sleep(0.5)
    finally:
        process.terminate()
        process.wait()


def test_two_hosts_from_their_images_against_qemu_by_hand(cold_cache: None) -> None:
    hand = Lab("bench-hand", STANDARD)
    hand.down()
    lab = Lab("bench", STANDARD)
    lab.down()
    try:
        hand.lay_cable()
        for host in hand.hosts.values():
            host.lay_out()
        begin = time.perf_counter()
        with ThreadPoolExecutor() as pool:
            list(pool.map(_by_hand, hand.hosts.values()))
        peer = time.perf_counter() - begin
        hand.down()
        begin = time.perf_counter()
        lab.up()
        ours = time.perf_counter() - begin
        lab.down()
        begin = time.perf_counter()
        lab.up()
        again = time.perf_counter() - begin
    finally:
        hand.down()
        lab.down()
    title = "two hosts raised from their images"
    report(title, "s", ("lab up, and saved", [ours]), ("QEMU by hand", [peer]), 1.5)
    say(f"  {'lab up from what was saved':<44} {again:10.2f}, bound {FROM_SNAPSHOT:.2f}")
    assert again <= FROM_SNAPSHOT


@pytest.fixture
def lab() -> Iterator[Lab]:
    raised = Lab("bench", STANDARD)
    raised.down()
    try:
        raised.up()
        yield raised
    finally:
        raised.down()


def _ping(lab: Lab, repository: Path) -> float:
    """Return the milliseconds of `ansible -m ping` on the lab's hosts."""
    program = str(Path(sys.executable).parent / "ansible")
    begin = time.perf_counter()
    subprocess.run(
        [program, "-i", str(lab.inventory), "hypervisors", "-m", "ping"],
        env={**os.environ, "ANSIBLE_CONFIG": str(repository / "ansible.cfg")},
        cwd=repository,
        capture_output=True,
        check=True,
    )
    return (time.perf_counter() - begin) * 1e3


def _round_trips(lab: Lab, repository: Path) -> dict[str, int]:
    """Return how many commands a whole run sends to each host over SSH."""
    program = str(Path(sys.executable).parent / "ansible-playbook")
    done = subprocess.run(
        [program, "-vvv", "-i", str(lab.inventory), "playbooks/site.yml"],
        env={**os.environ, "ANSIBLE_CONFIG": str(repository / "ansible.cfg")},
        cwd=repository,
        capture_output=True,
        text=True,
        check=True,
    )
    ports = {str(host.port()): host.name for host in lab.hosts.values()}
    sent = re.findall(r"SSH: EXEC .* -o Port=(\d+) ", done.stdout)
    return {name: sent.count(port) for port, name in ports.items()}


def test_an_unchanged_run_against_a_ping(lab: Lab, repository: Path, playbook: Playbook) -> None:
    site = repository / "playbooks" / "site.yml"
    first, _ = playbook.run(site, lab.inventory)
    pairs = []
    for _ in range(ROUNDS):
        spent, tasks = playbook.run(site, lab.inventory)
        pairs.append((spent / 1e3, _ping(lab, repository) / 1e3))
    trips = _round_trips(lab, repository)
    title = "a whole run on two hosts, changing nothing"
    ours, peer = ([pair[side] for pair in pairs] for side in (0, 1))
    report(title, "s", ("playbooks/site.yml", ours), ("ansible -m ping", peer), None)
    say(f"  {'the first run, which makes them hosts':<44} {first / 1e3:10.2f}")
    say(f"  {'commands sent to each host':<44} {max(trips.values()):10}, bound {ROUND_TRIPS}")
    _table(tasks, ours[-1])
    assert set(trips) == set(lab.hosts)
    assert min(trips.values()) > 0
    assert max(trips.values()) <= ROUND_TRIPS


def _table(tasks: list[dict[str, float]], whole: float) -> None:
    """Print where the time of a run goes: each task from its first start to its last result."""
    spans: dict[str, tuple[float, float]] = {}
    for entry in tasks:
        name = str(entry["task"])
        began, ended = spans.get(name, (entry["began"], entry["ended"]))
        spans[name] = min(began, entry["began"]), max(ended, entry["ended"])
    say(f"  where its {whole:.2f} s go")
    for name, (began, ended) in spans.items():
        say(f"    {name:<58} {ended - began:6.2f} {(ended - began) / whole:6.0%}")
    rest = whole - sum(ended - began for began, ended in spans.values())
    say(f"    {'between the tasks, start and end':<58} {rest:6.2f} {rest / whole:6.0%}")
