# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Guests that are declared below a root of a test's own, and the processes that serve them."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible.module_utils.kvm import control, layout
from ansible.module_utils.kvm.layout import GuestPaths, Layout

if TYPE_CHECKING:
    import socket

UID = layout.FIRST_UID | 0x1234
MIB = 1 << 20
MACHINE: dict[str, Any] = {
    "kernel": "greeter",
    "initrd": None,
    "cmdline": "console=ttyS0",
    "memory": 4 * MIB,
    "vcpus": 1,
    "uid": UID,
    "log_max_size": 64 * 1024,
    "log_keep": 1,
}


class Guest:
    """A declared guest, and the processes that serve it."""

    def __init__(self, host: Host, name: str, **machine: Any) -> None:
        self.host = host
        self.name = name
        self.paths: GuestPaths = host.layout.guest(name)
        os.makedirs(self.paths.state)
        os.chown(self.paths.state, UID, UID)
        os.chmod(self.paths.state, 0o700)
        self.define(**machine)

    def define(self, **machine: Any) -> None:
        definition = {
            "schema": 1,
            "name": self.name,
            "digest": "d1",
            "spec": {},
            "machine": {**MACHINE, **machine},
        }
        Path(self.paths.definition).write_text(json.dumps(definition))

    def start(self, *arguments: str, **settings: Any) -> Served:
        return Served(self, *arguments, **settings)

    def ask(self, **message: Any) -> dict[str, Any]:
        return control.request(self.paths.control, message)

    def log(self) -> bytes:
        try:
            return Path(self.paths.log).read_bytes()
        except FileNotFoundError:
            return b""

    def last_exit(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(Path(self.paths.last_exit).read_text())
        return found

    def connect(self) -> socket.socket:
        return control.connect(self.paths.control, 10.0)


class Served:
    """One process that serves a guest, and the line that it said about its start."""

    def __init__(self, guest: Guest, *arguments: str, **settings: Any) -> None:
        reader, writer = os.pipe()
        self.process = guest.host.helper.start(
            "serve",
            guest.name,
            "--root",
            guest.host.root,
            "--notify-fd",
            str(writer),
            *arguments,
            pass_fds=(writer,),
            stdin=subprocess.DEVNULL,
            **settings,
        )
        os.close(writer)
        with os.fdopen(reader, encoding="utf-8") as file:
            self.line = file.read()
        self.pid = self.process.pid

    def end(self) -> tuple[int, str]:
        """Wait for the end and return the exit status and the complaint."""
        _, complaint = self.process.communicate(timeout=20)
        return self.process.returncode, complaint.decode()


class Host:
    """A root with guests, and the helper that runs them."""

    def __init__(self, root: str, helper: Any) -> None:
        self.root = root
        self.helper = helper
        self.layout = Layout(root)
        self.guests: list[Guest] = []

    def guest(self, name: str = "web", **machine: Any) -> Guest:
        self.guests.append(Guest(self, name, **machine))
        return self.guests[-1]

    def command(self, *arguments: str, stdin: bytes = b"") -> Any:
        return self.helper.run(*arguments, "--root", self.root, stdin=stdin)

    def tree(self) -> dict[str, tuple[Any, ...]]:
        """Return all that lies below the root but what belongs to the guests' users."""
        found: dict[str, tuple[Any, ...]] = {}
        for folder, folders, files in os.walk(self.root):
            for name in [*folders, *files]:
                path = os.path.join(folder, name)
                status = os.lstat(path)
                content = ""
                if stat.S_ISREG(status.st_mode) and status.st_uid == 0:
                    content = hashlib.sha256(Path(path).read_bytes()).hexdigest()
                owner = (status.st_uid, status.st_gid)
                found[os.path.relpath(path, self.root)] = (oct(status.st_mode), owner, content)
        return found
