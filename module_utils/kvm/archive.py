# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The helper as one file: an executable zip archive, the same bytes from the same sources.

It runs on the controller, where the sources are: in the action plugin that installs the helper,
and as a program for `make helper`, which needs nothing but Python:

    python3 module_utils/kvm/archive.py build/kvm-helper.pyz

Nothing in the archive depends on the clock, the file system's order and modes, or a version of
zlib: entries are sorted, stored uncompressed and bear the format's oldest date.
"""

from __future__ import annotations

import hashlib
import io
import os
import sys
import zipfile

PACKAGE = "virtfleet"
_SHEBANG = b"#!/usr/bin/env python3\n"
_MAIN = f"""\
import sys

from {PACKAGE}.kvm.cli import main

sys.exit(main(sys.argv[1:]))
""".encode("ascii")
# The helper carries neither the tools that build it nor the one that installs it.
_LEFT_OUT = frozenset({"kvm/archive.py", "kvm/install.py", "kvm/programs/build.py"})
_OLDEST_DATE = (1980, 1, 1, 0, 0, 0)
_UNIX = 3
_MODE = 0o100644 << 16


def _sources(folder: str) -> list[str]:
    """Return the helper's source files relative to ``folder``, which is module_utils."""
    found = ["units.py"]
    for parent, folders, files in os.walk(os.path.join(folder, "kvm")):
        folders[:] = [name for name in folders if name != "__pycache__"]
        inside = os.path.relpath(parent, folder)
        found += [os.path.join(inside, name) for name in files if name.endswith(".py")]
    return sorted(set(found) - _LEFT_OUT)


def _entries(folder: str) -> dict[str, bytes]:
    """Return the archive's content by name."""
    entries = {"__main__.py": _MAIN, f"{PACKAGE}/__init__.py": b""}
    for name in _sources(folder):
        with open(os.path.join(folder, name), "rb") as file:
            entries[f"{PACKAGE}/{name}"] = file.read()
    return entries


def build(folder: str | None = None) -> bytes:
    """Return the archive, made from the sources in ``folder``: this module_utils by default."""
    folder = folder or os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    buffer = io.BytesIO()
    buffer.write(_SHEBANG)
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_STORED) as archive:
        for name, content in sorted(_entries(folder).items()):
            entry = zipfile.ZipInfo(name, _OLDEST_DATE)
            entry.create_system = _UNIX
            entry.external_attr = _MODE
            archive.writestr(entry, content)
    return buffer.getvalue()


def digest(archive: bytes) -> str:
    """Return the name of this version: SHA-256 of the archive, in hexadecimal."""
    return hashlib.sha256(archive).hexdigest()


def write(path: str) -> str:
    """Write the archive to ``path``, executable and whole or not at all; return its digest."""
    archive = build()
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    unfinished = f"{path}.{os.getpid()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    with open(os.open(unfinished, flags, 0o777), "wb") as file:  # less what the umask takes
        file.write(archive)
    os.replace(unfinished, path)
    return digest(archive)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} FILE")
    sys.stdout.write(f"{sys.argv[1]}: {write(sys.argv[1])}\n")
