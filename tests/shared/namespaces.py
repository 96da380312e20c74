# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Many hosts at once: namespaces of this machine, each with an sshd of its own.

They share its processors, its kernel and /dev/kvm. Those that stand apart have mounts and processes
of their own, so that what is set up on one is on no other, nor on this machine.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SSHD = "/usr/sbin/sshd"
# RFC 2544 keeps 198.18.0.0/15 for benchmarks.
HUB = "198.18.0.1/16"

_HOLD = "echo ready && exec sleep infinity"
# What is written to these folders stays in the namespace.
_APART = """
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /mnt
for folder in usr etc var root; do
    mkdir -p "/mnt/$folder/upper" "/mnt/$folder/work"
    lower="lowerdir=/$folder,upperdir=/mnt/$folder/upper,workdir=/mnt/$folder/work"
    mount -t overlay overlay -o "$lower" "/$folder"
done
mount -t tmpfs tmpfs /run
mkdir -m 755 /run/sshd
rm -rf /var/lib/virtfleet /usr/lib/virtfleet /usr/local/bin/kvm-helper
"""
_SPACES_APART = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
# Bash reads the ~/.bashrc of whoever runs the tests where it finds itself the first shell of an SSH
# session, which is not what a host's would say.
_SSHD_CONFIG = """\
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/key.pub
PermitRootLogin prohibit-password
PasswordAuthentication no
StrictModes no
UsePAM no
UseDNS no
PidFile none
MaxStartups 400
SetEnv SHLVL=1
"""


def why_not(*, apart: bool = False) -> str:
    """Say why this machine cannot have such hosts, or nothing if it can."""
    if os.geteuid() != 0:
        return "namespaces need root"
    missing = [name for name in ("ip", "unshare", "nsenter", SSHD) if not shutil.which(name)]
    if missing or not apart:
        return f"not installed: {', '.join(missing)}" if missing else ""
    command = ["unshare", *_SPACES_APART, "sh", "-c", _APART]
    tried = subprocess.run(command, capture_output=True, text=True, check=False)
    return f"refused here: {tried.stderr.strip()}" if tried.returncode else ""


@dataclass
class Host:
    """One host, and the process that holds its namespaces."""

    name: str
    address: str
    holder: int
    sshd: tuple[str, ...]
    apart: bool

    def _enter(self, *words: str) -> list[str]:
        spaces = ["--net", "--mount", "--pid"] if self.apart else ["--net"]
        return ["nsenter", f"--target={self.holder}", *spaces, "--", *words]

    def out(self, script: str) -> str:
        """Return what a shell script prints on the host; AssertionError if it fails."""
        done = subprocess.run(
            self._enter("sh", "-ec", script), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{self.name}: {script}: {done.stdout}{done.stderr}"
        return done.stdout

    def appear(self) -> None:
        """Answer over SSH."""
        command = self._enter(*self.sshd)
        subprocess.run(command, stdin=subprocess.DEVNULL, check=True)

    def vanish(self) -> None:
        """Answer no longer; what runs on the host goes on."""
        self.out("pkill -KILL -x sshd || true")


class Namespaces:
    """Hosts on one bridge, in namespaces that end with the processes that hold them."""

    def __init__(self, folder: Path, count: int, *, apart: bool = False) -> None:
        self.folder = folder
        self._apart = apart
        self._processes: list[subprocess.Popen[str]] = []
        self.hosts: list[Host] = []
        addresses = [f"198.18.{1 + n // 200}.{1 + n % 200}" for n in range(count)]
        for name in ("key", "host_key"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
            subprocess.run(command, check=True)
        key = (folder / "host_key.pub").read_text()
        (folder / "known_hosts").write_text("".join(f"{a} {key}" for a in addresses))
        (folder / "sshd_config").write_text(_SSHD_CONFIG.format(folder=folder))
        (folder / "ssh_config").write_text(
            "Host *\n  User root\n  BatchMode yes\n  StrictHostKeyChecking yes\n"
            f"  IdentityFile {folder}/key\n  IdentitiesOnly yes\n"
            f"  UserKnownHostsFile {folder}/known_hosts\n"
        )
        try:
            self._raise(addresses)
        except BaseException:
            self.close()
            raise

    def _raise(self, addresses: list[str]) -> None:
        self.hub = self._hold(["--net"], _HOLD)
        self._in_hub("ip link set lo up; ip link add br0 type bridge; ip link set br0 up")
        self._in_hub(f"ip address add {HUB} dev br0")
        # Of the machine's files only these: where sshd parts its privileges.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        sshd: tuple[str, ...] = (SSHD, "-f", str(self.folder / "sshd_config"))
        spaces = _SPACES_APART if self._apart else ["--net"]
        if not self._apart:
            sshd = (*sshd, "-D")
        for number, address in enumerate(addresses):
            holder = self._hold(spaces, (_APART if self._apart else "") + _HOLD)
            host = Host(f"host{number + 1:03}", address, holder, sshd, self._apart)
            self._in_hub(
                f"ip link add h{number} type veth peer name up0 netns {holder};"
                f"ip link set h{number} master br0 up"
            )
            host.out(f"ip link set lo up; ip address add {address}/16 dev up0; ip link set up0 up")
            if self._apart:
                host.appear()
            else:  # what is in no namespace of processes is ended one by one
                self._start(host._enter(*sshd))
            self.hosts.append(host)
        self.reach_all()

    def _start(self, command: list[str]) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        )
        self._processes.append(process)
        return process

    def _hold(self, spaces: list[str], script: str) -> int:
        """Return the process that holds new namespaces, by its number here."""
        process = self._start(["unshare", *spaces, "sh", "-c", script])
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", "the namespaces could not be set up"
        if "--fork" not in spaces:
            return process.pid
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        return int(children.split()[0])

    def _in_hub(self, script: str) -> None:
        command = ["nsenter", f"--target={self.hub}", "--net", "--", "sh", "-ec", script]
        subprocess.run(command, check=True)

    @property
    def prefix(self) -> tuple[str, ...]:
        """What makes a command run where the hosts can be reached."""
        return ("nsenter", f"--target={self.hub}", "--net", "--")

    def reach_all(self, at_once: int = 50) -> float:
        """Return the milliseconds of `ssh HOST true` on all hosts, so many at a time."""
        ssh = ["ssh", "-F", str(self.folder / "ssh_config"), "-o", "ConnectionAttempts=20"]
        begin = time.perf_counter()
        subprocess.run(
            [*self.prefix, "xargs", "-P", str(at_once), "-I", "HOST", *ssh, "HOST", "true"],
            input="\n".join(host.address for host in self.hosts),
            text=True,
            check=True,
        )
        return (time.perf_counter() - begin) * 1e3

    def variables(self) -> dict[str, Any]:
        """Return how Ansible reaches the hosts."""
        return {
            "ansible_user": "root",
            "ansible_become": False,
            "ansible_ssh_common_args": f"-F {self.folder / 'ssh_config'}",
            "ansible_python_interpreter": sys.executable,
        }

    def close(self) -> None:
        """End the hosts and all that runs on those that stand apart."""
        for process in reversed(self._processes):
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
