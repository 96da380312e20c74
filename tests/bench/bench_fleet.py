# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A hundred hosts at once: network namespaces of this machine, each with an sshd of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from comparing import Playbook, report

if TYPE_CHECKING:
    from collections.abc import Iterator

HOSTS = 100
FORKS = 50
ROUNDS = 3
SSHD = "/usr/sbin/sshd"
# RFC 2544 keeps 198.18.0.0/15 for benchmarks.
HUB = "198.18.0.1/16"
ADDRESSES = [f"198.18.1.{number}" for number in range(1, HOSTS + 1)]

pytestmark = [
    pytest.mark.kvm,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(not Path(SSHD).exists(), reason=f"there is no {SSHD}"),
]

_HOLD = "echo ready && exec sleep infinity"
_SSHD_CONFIG = """\
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/key.pub
PermitRootLogin prohibit-password
PasswordAuthentication no
StrictModes no
UsePAM no
UseDNS no
PidFile none
MaxStartups 200
"""


class Namespaces:
    """The hosts on one bridge, in namespaces that end with the processes that hold them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._processes: list[subprocess.Popen[str]] = []
        for name in ("key", "host_key"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
            subprocess.run(command, check=True)
        key = (folder / "host_key.pub").read_text()
        (folder / "known_hosts").write_text("".join(f"{a} {key}" for a in ADDRESSES))
        (folder / "sshd_config").write_text(_SSHD_CONFIG.format(folder=folder))
        (folder / "ssh_config").write_text(
            "Host *\n  User root\n  BatchMode yes\n  StrictHostKeyChecking yes\n"
            f"  IdentityFile {folder}/key\n  IdentitiesOnly yes\n"
            f"  UserKnownHostsFile {folder}/known_hosts\n"
        )
        self.hub = self._hold()
        self._in(self.hub, "ip link set lo up && ip link add br0 type bridge && ip link set br0 up")
        self._in(self.hub, f"ip address add {HUB} dev br0")
        # Of the machine's files only these: where sshd parts its privileges.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        for number, address in enumerate(ADDRESSES):
            host = self._hold()
            link = f"ip link add h{number} type veth peer name up0 netns {host}"
            self._in(self.hub, f"{link} && ip link set h{number} master br0 up")
            self._in(host, f"ip address add {address}/16 dev up0 && ip link set up0 up")
            command = [SSHD, "-D", "-f", str(folder / "sshd_config")]
            self._start(["nsenter", f"--target={host}", "--net", "--", *command])
        self.reach_all()

    def _start(self, command: list[str]) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        )
        self._processes.append(process)
        return process

    def _hold(self) -> int:
        process = self._start(["unshare", "--net", "sh", "-c", _HOLD])
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process.pid

    @staticmethod
    def _in(holder: int, script: str) -> None:
        command = ["nsenter", f"--target={holder}", "--net", "--", "sh", "-ec", script]
        subprocess.run(command, check=True)

    @property
    def prefix(self) -> list[str]:
        """What makes a command run where the hosts can be reached."""
        return ["nsenter", f"--target={self.hub}", "--net", "--"]

    def reach_all(self) -> float:
        """Return the milliseconds of `ssh HOST true` on all hosts, FORKS at a time."""
        ssh = ["ssh", "-F", str(self.folder / "ssh_config"), "-o", "ConnectionAttempts=20"]
        begin = time.perf_counter()
        subprocess.run(
            [*self.prefix, "xargs", "-P", str(FORKS), "-I", "HOST", *ssh, "HOST", "true"],
            input="\n".join(ADDRESSES),
            text=True,
            check=True,
        )
        return (time.perf_counter() - begin) * 1e3

    def inventory(self) -> Path:
        """Write the hosts down for Ansible."""
        variables = {
            "ansible_user": "root",
            "ansible_become": False,
            "ansible_ssh_common_args": f"-F {self.folder / 'ssh_config'}",
            "ansible_python_interpreter": sys.executable,
        }
        hosts = {f"host{n:03}": {"ansible_host": a} for n, a in enumerate(ADDRESSES, 1)}
        path = self.folder / "hosts.json"
        path.write_text(json.dumps({"hypervisors": {"hosts": hosts, "vars": variables}}))
        return path

    def close(self) -> None:
        """End the sshds and the namespaces."""
        for process in reversed(self._processes):
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


@pytest.fixture
def namespaces(tmp_path: Path) -> Iterator[Namespaces]:
    folder = tmp_path / "fleet"
    folder.mkdir()
    made = Namespaces(folder)
    yield made
    made.close()


def test_preflight_of_a_hundred_hosts_against_reaching_them(
    namespaces: Namespaces, repository: Path, playbook: Playbook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hosts share one processor and one /dev/kvm, so none of them runs the self-test."""
    book = repository / "playbooks" / "preflight.yml"
    inventory = namespaces.inventory()
    arguments = ["--forks", str(FORKS), "-e", "kvm_preflight_selftest=false"]
    pairs = []
    for number in range(ROUNDS):
        sockets = Path(f"/tmp/fleet-{os.getpid()}-{number}")
        monkeypatch.setenv("ANSIBLE_SSH_CONTROL_PATH_DIR", str(sockets))  # every run connects anew
        monkeypatch.setenv("ANSIBLE_SSH_ARGS", "-o ControlMaster=auto -o ControlPersist=5s")
        try:
            spent, tasks = playbook.run(book, inventory, *arguments, prefix=namespaces.prefix)
        finally:
            shutil.rmtree(sockets, ignore_errors=True)
        assert len({entry["host"] for entry in tasks}) == HOSTS
        pairs.append((spent / 1e3, namespaces.reach_all() / 1e3))
    ours, peer = ([pair[side] for pair in pairs] for side in (0, 1))
    title = f"{HOSTS} hosts, {FORKS} at a time"
    report(title, "s", ("playbooks/preflight.yml", ours), ("ssh HOST true", peer), None)
