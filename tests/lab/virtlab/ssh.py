# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""SSH into the hosts, with the keys that the lab itself put there and no other."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from . import images
from .identity import make_key
from .recipe import USER

if TYPE_CHECKING:
    from collections.abc import Callable


class Ssh:
    """The lab's side of SSH, in the lab's folder: who may log in, and which keys answer."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = images.cache() / "keys" / "id_ed25519"
        self.known_hosts = folder / "known_hosts"
        self.config = folder / "ssh_config"
        # A control socket's path is short (108 bytes), a checkout's need not be.
        digest = hashlib.sha256(str(folder).encode()).hexdigest()[:8]
        self.sockets = Path(tempfile.gettempdir()) / f"virtlab-{os.getuid()}-{digest}"

    def public_key(self) -> str:
        """Return the key that logs in, made at first use; all labs of a user share it."""
        self.key.parent.mkdir(parents=True, exist_ok=True)
        with (self.key.parent / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            return make_key(self.key, "virtlab")

    def options(self) -> dict[str, str]:
        """Return what every connection is made with."""
        return {
            "IdentityFile": str(self.key),
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": str(self.known_hosts),
            "GlobalKnownHostsFile": "/dev/null",
            "StrictHostKeyChecking": "yes",
            "UpdateHostKeys": "no",
            "BatchMode": "yes",
        }

    def control_path(self, name: str) -> Path:
        """Return the socket by which Ansible's connections to a host are shared."""
        return self.sockets / f"ansible-{name}"

    def know(self, name: str, port: int, key: str) -> None:
        """Write down a host's port and key."""
        ports = {**self.ports(), name: port}
        keys = self._keys()
        keys[f"[127.0.0.1]:{port}"] = key
        live = {f"[127.0.0.1]:{number}" for number in ports.values()}
        lines = [f"{where} {key}\n" for where, key in keys.items() if where in live]
        self.known_hosts.write_text("".join(lines))
        blocks = [
            f"Host {host}\n  HostName 127.0.0.1\n  Port {number}\n  User {USER}\n"
            for host, number in ports.items()
        ]
        common = "".join(f"  {option} {value}\n" for option, value in self.options().items())
        mux = f"  ControlMaster auto\n  ControlPersist 60\n  ControlPath {self.sockets}/%n\n"
        self.config.write_text("".join(blocks) + f"Host *\n{common}{mux}")
        self.sockets.mkdir(mode=0o700, exist_ok=True)

    def _keys(self) -> dict[str, str]:
        found = {}
        with suppress(OSError):
            for line in self.known_hosts.read_text().splitlines():
                where, _, key = line.partition(" ")
                found[where] = key
        return found

    def ports(self) -> dict[str, int]:
        """Return the port of every host that was started."""
        found: dict[str, int] = {}
        name = ""
        with suppress(OSError):
            for line in self.config.read_text().splitlines():
                word, _, value = line.strip().partition(" ")
                if word == "Host" and value != "*":
                    name = value
                elif word == "Port":
                    found[name] = int(value)
        return found

    def run(
        self, name: str, command: str, *, patience: float, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell command on a host; status 255 is SSH's own, also when it took too long."""
        line = ["ssh", "-F", str(self.config), "-o", "ConnectTimeout=15", name, command]
        try:
            return subprocess.run(
                line, capture_output=True, text=True, timeout=patience, check=False, input=stdin
            )
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(line, 255, "", f"no end after {patience:.0f} s")

    def forget_connections(self, name: str) -> None:
        """Drop the connections that lead to what the host was before: ours and Ansible's."""
        names = {name, self.control_path(name).name}
        self._forget(lambda socket: socket in names)

    def forget_all_connections(self) -> None:
        """Drop every connection into the lab."""
        self._forget(lambda _: True)

    def _forget(self, chosen: Callable[[str], bool]) -> None:
        if not self.sockets.is_dir():
            return
        for path in self.sockets.iterdir():
            if chosen(path.name):
                command = ["ssh", "-o", f"ControlPath={path}", "-O", "exit", "any"]
                subprocess.run(command, capture_output=True, check=False, timeout=10)
                path.unlink(missing_ok=True)
