# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A hundred hosts at once: network namespaces of this machine, each with an sshd of its own."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from comparing import Playbook, report
from namespaces import Namespaces, why_not

if TYPE_CHECKING:
    from collections.abc import Iterator

HOSTS = 100
FORKS = 50
ROUNDS = 3

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
