# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a disk holds and who uses it: the ground on which a disk is taken or refused.

Signatures are probed on the disk itself by wipefs(8), since udev's memory of them may be old;
partitions and what is stacked on them are lsblk(8)'s tree; and the kernel has the last word:
a block device opened with O_EXCL is refused while anything has claimed it (open(2)).
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Iterator

from ...host import source
from .facet import report

if TYPE_CHECKING:
    from .facet import System

LVM_MEMBER = "LVM2_member"  # libblkid's name of a physical volume


@dataclass(frozen=True)
class Disk:
    """A disk by the path it was declared with; ``device`` is the kernel's, None if not there.

    ``uses`` forbid to take it whatever was asked, ``contents`` unless it was forced. Sizes are
    bytes; ``partitions`` are device paths.
    """

    path: str
    device: str | None = None
    size: int = 0
    uses: tuple[str, ...] = ()
    contents: tuple[str, ...] = ()
    partitions: tuple[str, ...] = ()


def device_of(root: str, path: str) -> str | None:
    """Return the kernel's path of what a (link to a) device names, None if it is not there."""
    prefix = "" if root == "/" else root.rstrip("/")
    full = os.path.realpath(source.at(root, path))
    return full[len(prefix) :] if os.path.exists(full) else None


def claimed(root: str, device: str) -> bool:
    """Say whether the kernel has given the block device to somebody."""
    try:
        descriptor = os.open(source.at(root, device), os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC)
    except OSError as error:
        return error.errno == errno.EBUSY
    os.close(descriptor)
    return False


def _below(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for child in node.get("children") or []:
        yield child
        yield from _below(child)


def uses(node: dict[str, Any]) -> Iterator[str]:
    """Yield why a device of lsblk's tree is in use."""
    if node.get("ro"):
        yield "it is read-only"
    if node.get("type") == "rom":
        yield "it is an optical drive"
    for part in [node, *_below(node)]:
        if part.get("mountpoint"):
            yield f"{part['path']} is in use as {part['mountpoint']}"
        if part is not node and part.get("type") != "part":
            yield f"{part['path']} ({part.get('type')}) is made of it"


def contents(signatures: list[dict[str, Any]], partitions: list[str]) -> Iterator[str]:
    """Yield what a disk holds, in words."""
    for signature in signatures:
        label = f" {signature['label']}" if signature.get("label") else ""
        yield f"{signature['type']}{label}"
    for partition in partitions:
        yield f"partition {partition}"


def look(system: System, path: str) -> Disk:
    """Return what there is about one disk; it is only read."""
    device = device_of(system.root, path)
    if device is None:
        return Disk(path)
    columns = "PATH,TYPE,SIZE,RO,MOUNTPOINT"
    listing = report(system, ["lsblk", "--json", "--bytes", "--output", columns, device], (0, 32))
    nodes = (listing or {}).get("blockdevices") or []
    if not nodes:
        return Disk(path, device, uses=("it is no block device",))
    node = nodes[0]
    probed = report(system, ["wipefs", "--no-act", "--json", device]) or {}
    partitions = [part["path"] for part in _below(node) if part.get("type") == "part"]
    found = list(uses(node))
    if not found and claimed(system.root, device):
        found.append("the kernel has it in use")
    return Disk(
        path,
        device,
        int(node.get("size") or 0),
        tuple(found),
        tuple(dict.fromkeys(contents(probed.get("signatures") or [], partitions))),
        tuple(dict.fromkeys(partitions)),
    )
