# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who uses the disks of an iSCSI session, as sysfs and the mount table tell it."""

from __future__ import annotations

import os
from glob import escape, glob
from typing import Iterator

from ...host import source
from .mounted import mounts


def _blocks(root: str, session: str) -> Iterator[str]:
    """Yield the folders in sysfs of a session's disks and of their partitions."""
    base = escape(source.at(root, f"/sys/class/iscsi_session/session{session}"))
    for disk in sorted(glob(f"{base}/device/target*/*/block/*")):
        yield disk
        for entry in sorted(os.listdir(disk)):
            if os.path.exists(os.path.join(disk, entry, "partition")):
                yield os.path.join(disk, entry)


def holders(root: str, session: str) -> tuple[str, ...]:
    """Return why the disks of the session with this number cannot go, in words."""
    mounted = {mount.source: mount.path for mount in mounts(root)}
    found = []
    for block in _blocks(root, session):
        device = f"/dev/{os.path.basename(block)}"
        if device in mounted:
            found.append(f"{device} is mounted at {mounted[device]}")
        folder = os.path.join(block, "holders")
        names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
        found += [f"{device} is used by {name}" for name in names]
    return tuple(found)
