# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""QEMU and libvirt as installed: package data and library names first, a process only at last."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Callable, List, Optional

from ..source import at, exists, names

Runner = Callable[[List[str]], Optional[str]]

_QEMU = ("/usr/bin/qemu-system-x86_64", "/usr/bin/qemu-kvm", "/usr/libexec/qemu-kvm")
_LIBRARIES = ("/usr/lib64", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib")
_LIBVIRT = re.compile(r"libvirt\.so\.0\.(\d+)\.(\d+)")
_DPKG = "/var/lib/dpkg"


@dataclass(eq=False, repr=False)
class Software:
    """Versions; "" is not installed, None is installed but the version is not known."""

    qemu: str | None
    qemu_path: str | None
    libvirt: str | None
    libvirt_daemon: str | None  # monolithic (libvirtd), modular (virtqemud), "" for none


def probe(root: str = "/", run: Runner | None = None) -> Software:
    """Read which versions are installed; ``run`` is called with QEMU's path where no data tells."""
    if run is None and root == "/":
        run = run_command
    path = next((path for path in _QEMU if exists(root, path)), None)
    return Software(
        qemu="" if path is None else _qemu(root, path, run),
        qemu_path=path,
        libvirt=_libvirt(root),
        libvirt_daemon=_daemon(root),
    )


def _qemu(root: str, path: str, run: Runner | None) -> str | None:
    """Search dpkg's database, which is one file; rpm's is not so simple, so there QEMU is asked."""
    version = _dpkg_version(root, "qemu-system-x86")
    if version is not None or run is None:
        return version
    match = re.search(r"version (\d+(?:\.\d+)+)", run([path, "--version"]) or "")
    return match.group(1) if match else None


def _dpkg_version(root: str, package: str) -> str | None:
    """Return the upstream version of an installed Debian package."""
    if not any(
        exists(root, f"{_DPKG}/info/{package}{suffix}") for suffix in (".list", ":amd64.list")
    ):
        return None
    try:
        with open(at(root, f"{_DPKG}/status"), "rb") as handle:
            status = handle.read()
    except OSError:
        return None
    start = status.find(b"\nPackage: " + package.encode() + b"\n")
    end = status.find(b"\n\n", start + 1)
    match = (
        re.search(rb"\nVersion: (?:\d+:)?(\d+(?:\.\d+)*)", status[start:end])
        if start >= 0
        else None
    )
    return match.group(1).decode() if match else None


def _libvirt(root: str) -> str:
    """libvirt.so.0.9000.0 is 9.0.0: the library's name holds 1000 * major + minor, and micro."""
    best: tuple[int, ...] = ()
    for folder in _LIBRARIES:
        # The link libvirt.so.0 says whether listing the (large) folder is worth while.
        if not exists(root, f"{folder}/libvirt.so.0"):
            continue
        for match in map(_LIBVIRT.fullmatch, names(root, folder) or []):
            if match:
                major, minor = divmod(int(match.group(1)), 1000)
                best = max(best, (major, minor, int(match.group(2))))
    return ".".join(map(str, best))


def _daemon(root: str) -> str:
    if exists(root, "/usr/sbin/virtqemud"):
        return "modular"
    return "monolithic" if exists(root, "/usr/sbin/libvirtd") else ""


def run_command(command: list[str]) -> str | None:
    """Run a command for at most five seconds; its output, or None if it did not end well."""
    import subprocess  # seldom needed

    try:
        done = subprocess.run(
            command,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=5,
            env={"PATH": os.defpath, "LC_ALL": "C"},
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else None
