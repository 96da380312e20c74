# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The table of mounts (/proc/self/mountinfo, proc_pid_mountinfo(5)) and fstab(5), both parsed."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ...host import source

_ESCAPE = re.compile(r"\\([0-7]{3})")
_SPECIAL = re.compile(r"[\\ \t\n#]")


@dataclass(frozen=True)
class Mount:
    """One mount, or one line of fstab with its ``options`` and its place in the file."""

    path: str
    source: str
    type: str
    options: str = ""
    line: int = -1


def unescaped(text: str) -> str:
    r"""Return a field of either table with its octal escapes (``\040``) resolved."""
    return _ESCAPE.sub(lambda match: chr(int(match.group(1), 8)), text)


def escaped(text: str) -> str:
    r"""Return a field as fstab takes it: white space, the backslash and ``#`` in octal."""
    return _SPECIAL.sub(lambda match: f"\\{ord(match.group()):03o}", text)


def mounts(root: str) -> list[Mount]:
    """Return what is mounted, the topmost of a path last."""
    found = []
    for line in (source.text(root, "/proc/self/mountinfo") or "").splitlines():
        left, mark, right = line.partition(" - ")
        fields, rest = left.split(" "), right.split(" ")
        if mark and len(fields) >= 6 and len(rest) >= 2:
            found.append(Mount(unescaped(fields[4]), unescaped(rest[1]), rest[0]))
    return found


def fstab(text: str) -> list[Mount]:
    """Return the mounts that fstab's text lists."""
    found = []
    for number, line in enumerate(text.splitlines()):
        fields = line.split()
        if len(fields) >= 3 and not fields[0].startswith("#"):
            options = fields[3] if len(fields) > 3 else "defaults"
            path = unescaped(fields[1])
            path = path.rstrip("/") or path
            found.append(Mount(path, unescaped(fields[0]), fields[2], unescaped(options), number))
    return found
