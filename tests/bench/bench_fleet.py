# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Many hosts at once: namespaces of this machine, each with an sshd of its own."""

from __future__ import annotations

import json
import os
import resource
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from comparing import Playbook, report, say
from namespaces import Namespaces, why_not

if TYPE_CHECKING:
    from collections.abc import Iterator

HOSTS = 100
FORKS = 50
ROUNDS = 3
SIZES = (10, 60, 200)

pytestmark = [
    pytest.mark.kvm,
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
]


def inventory(namespaces: Namespaces) -> Path:
    """Write the hosts down for Ansible."""
    hosts = {host.name: {"ansible_host": host.address} for host in namespaces.hosts}
    path = namespaces.folder / "hosts.json"
    group = {"hosts": hosts, "vars": namespaces.variables()}
    path.write_text(json.dumps({"hypervisors": group}))
    return path


@pytest.fixture
def namespaces(tmp_path: Path) -> Iterator[Namespaces]:
    folder = tmp_path / "fleet"
    folder.mkdir()
    made = Namespaces(folder, HOSTS)
    yield made
    made.close()


def test_preflight_of_a_hundred_hosts_against_reaching_them(
    namespaces: Namespaces, repository: Path, playbook: Playbook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hosts share one processor and one /dev/kvm, so none of them runs the self-test."""
    book = repository / "playbooks" / "preflight.yml"
    hosts = inventory(namespaces)
    arguments = ["--forks", str(FORKS), "-e", "kvm_preflight_selftest=false"]
    pairs = []
    for number in range(ROUNDS):
        sockets = Path(f"/tmp/fleet-{os.getpid()}-{number}")
        monkeypatch.setenv("ANSIBLE_SSH_CONTROL_PATH_DIR", str(sockets))  # every run connects anew
        monkeypatch.setenv("ANSIBLE_SSH_ARGS", "-o ControlMaster=auto -o ControlPersist=5s")
        try:
            spent, tasks = playbook.run(book, hosts, *arguments, prefix=namespaces.prefix)
        finally:
            shutil.rmtree(sockets, ignore_errors=True)
        assert len({entry["host"] for entry in tasks}) == HOSTS
        pairs.append((spent / 1e3, namespaces.reach_all(FORKS) / 1e3))
    ours, peer = ([pair[side] for pair in pairs] for side in (0, 1))
    title = f"{HOSTS} hosts, {FORKS} at a time"
    report(title, "s", ("playbooks/preflight.yml", ours), ("ssh HOST true", peer), None)


def fleet(namespaces: Namespaces, folder: Path, count: int) -> Path:
    """Declare so many of the hosts as a fleet with four guests for each."""
    ssh = {
        **namespaces.variables(),
        "ansible_ssh_args": "-o ControlMaster=auto -o ControlPersist=5s",
        "ansible_control_path_dir": str(folder / "ssh"),
    }
    content = {
        "plugin": "kvm_fleet",
        "fleet": "bench",
        "hypervisors": {
            host.name: {"ansible_host": host.address, **ssh} for host in namespaces.hosts[:count]
        },
        "guests": {
            f"g[1:{4 * count}]": {"engine": "ioctl", "kernel": "greeter", "memory": "16MiB"}
        },
    }
    folder.mkdir()
    (folder / "fleet.yml").write_text(yaml.safe_dump(content, sort_keys=False))
    return folder / "fleet.yml"


def test_what_a_host_more_costs_the_controller(
    repository: Path, playbook: Playbook, tmp_path: Path
) -> None:
    """Processor time of the controller and its ssh; the plan of a whole fleet is within it."""
    folder = tmp_path / "hosts"
    folder.mkdir()
    namespaces = Namespaces(folder, max(SIZES))
    spent: dict[int, list[float]] = {count: [] for count in SIZES}
    try:
        for number in range(ROUNDS):
            for count in SIZES:
                inventory = fleet(namespaces, tmp_path / f"{number} {count}", count)
                before = resource.getrusage(resource.RUSAGE_CHILDREN)
                book = repository / "playbooks" / "guests.yml"
                playbook.run(book, inventory, "--check", prefix=namespaces.prefix)
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
                user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
                spent[count].append(user + system)
    finally:
        namespaces.close()
    few, some, many = SIZES
    for count in SIZES:
        each = [f"{seconds / count:.3f}" for seconds in spent[count]]
        say(f"  {count} hosts: {', '.join(each)} s of processor time a host")
    first, then = (
        [(b - a) / (more - less) for a, b in zip(spent[less], spent[more], strict=True)]
        for less, more in ((few, some), (some, many))
    )
    title = "what a host more costs the controller, check mode"
    names = (f"from {some} to {many} hosts", f"from {few} to {some} hosts")
    report(title, "s", (names[0], then), (names[1], first), 1.3)
