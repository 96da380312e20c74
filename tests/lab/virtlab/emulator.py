# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The QEMU that runs the hosts: Debian 13's, unpacked beside the images and installed nowhere.

Debian 12's own (7.2) cannot: with a thread for each CPU it goes on with code that another CPU has
just patched, and the host panics; with one thread for all, guests of the host lose their way.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from pathlib import Path

from . import images
from .build import KEYRING, run, sources
from .log import step

RELEASE = "trixie"
PACKAGES = ("ipxe-qemu", "qemu-system-x86", "seabios")
_LIBRARIES = "usr/lib/x86_64-linux-gnu"
_FIRMWARE = ("usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu")


def _folder() -> Path:
    content = json.dumps([Path(__file__).read_text(), RELEASE, PACKAGES])
    digest = hashlib.sha256(content.encode()).hexdigest()[:16]
    return images.cache() / "images" / f"emulator-{digest}"


def ensure() -> Path:
    """Return the folder of the emulator, unpacking it where it is missing."""
    folder = _folder()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / "emulator.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():
            os.utime(folder)  # used again
        else:
            with step(f"unpacking Debian {RELEASE}'s QEMU"):
                _unpack(folder)
    return folder


def _unpack(folder: Path) -> None:
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    options = ["--mode=root", "--variant=extract", f"--include={','.join(PACKAGES)}"]
    options += ['--aptopt=Acquire::Languages "none"', '--aptopt=Acquire::Retries "5"']
    options += [f"--keyring={KEYRING}", RELEASE, str(part)]
    run("mmdebstrap", *options, *sources(RELEASE))
    part.rename(folder)
    os.utime(folder)  # apt gave it an old time


def program() -> list[str]:
    """Return the beginning of QEMU's command line: its own loader, libraries and firmware."""
    root = ensure()
    loader = [str(root / "usr/lib64/ld-linux-x86-64.so.2"), "--argv0", "qemu-system-x86_64"]
    line = [*loader, "--library-path", str(root / _LIBRARIES)]
    line.append(str(root / "usr/bin/qemu-system-x86_64"))
    for name in _FIRMWARE:
        line += ["-L", str(root / name)]
    return line
