# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where things live on a host, and how files that a guest's user wrote are read.

Everything that decides something (definition, pid) is owned by root. Only ``state/`` belongs to the
guest's own unprivileged user, who may have been taken over by the guest: what lies there is opened
without following links, must be a regular file, and is read up to a limit.
"""

from __future__ import annotations

import os
import re
import stat
from contextlib import suppress

# Guests' users: numbers without an entry in passwd, in a range that no distribution allocates from
# (systemd, docs/UIDS-GIDS.md: unused above 1879048191).
FIRST_UID = 0x7000_0000
UID_MASK = 0x07FF_FFFF

OPEN_FOLDER = 0o755

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)


def valid_name(name: object) -> bool:
    """Return whether ``name`` is a lower-case RFC 1123 label of at most 63 characters."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def make_folder(path: str) -> None:
    """Make a folder and those above it, for everybody to read whatever the umask says."""
    if not os.path.isdir(path):
        make_folder(os.path.dirname(path))
        with suppress(FileExistsError):
            os.mkdir(path)
        os.chmod(path, OPEN_FOLDER)


class GuestPaths:
    """The places of one guest."""

    def __init__(self, guests: str, run: str, name: str) -> None:
        if not valid_name(name):
            raise ValueError(f"expected an RFC 1123 label as a guest's name, found {name!r}")
        self.name = name
        self.folder = os.path.join(guests, name)
        self.definition = os.path.join(self.folder, "definition.json")
        self.state = os.path.join(self.folder, "state")
        self.log = os.path.join(self.state, "console.log")
        self.last_exit = os.path.join(self.state, "last-exit.json")
        self.run = os.path.join(run, name)
        self.control = os.path.join(self.run, "control.sock")
        self.pid = os.path.join(self.run, "pid.json")


class Layout:
    """The helper's places below ``root``."""

    def __init__(self, root: str = "/") -> None:
        self.root = root
        self.state = os.path.join(root, "var/lib/virtfleet")
        self.guests = os.path.join(self.state, "guests")
        self.cache = os.path.join(root, "var/cache/virtfleet")
        self.run = os.path.join(root, "run/virtfleet")
        self.helpers = os.path.join(root, "usr/lib/virtfleet/helper")
        self.command = os.path.join(root, "usr/local/bin/kvm-helper")

    def guest(self, name: str) -> GuestPaths:
        """Return the places of the guest ``name``; ValueError if that is no name."""
        return GuestPaths(self.guests, self.run, name)

    def names(self) -> list[str]:
        """Return the names of all guests that have a folder here, sorted."""
        try:
            entries = os.listdir(self.guests)
        except FileNotFoundError:
            return []
        return sorted(entry for entry in entries if valid_name(entry))


def _open_untrusted(path: str) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path} is not a regular file")
    return descriptor


def read_untrusted(path: str, limit: int) -> bytes:
    """Return the file's content; an OSError if it is over ``limit`` bytes or no plain file."""
    descriptor = _open_untrusted(path)
    try:
        content = os.read(descriptor, limit + 1)
    finally:
        os.close(descriptor)
    if len(content) > limit:
        raise OSError(f"{path} is longer than {limit} bytes")
    return content


def tail_untrusted(path: str, limit: int) -> bytes:
    """Return the last ``limit`` bytes of the file at most; an OSError if it is no plain file."""
    descriptor = _open_untrusted(path)
    try:
        size = os.fstat(descriptor).st_size
        return os.pread(descriptor, limit, max(0, size - limit))
    finally:
        os.close(descriptor)
