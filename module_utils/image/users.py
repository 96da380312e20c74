# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What stands on images: disks of guests, whether they run or not, and volumes of pools."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from itertools import chain
from typing import Any, Iterator, Mapping, Sequence

from ..kvm.layout import Layout
from ..virt.connection import ConnectError, Connection
from ..virt.document import tree
from .store import below


def _of_domains(connection: Connection) -> Iterator[tuple[str, str]]:
    """Yield each file that a domain has or would have, with the domain."""
    libvirt = connection.libvirt
    for domain in connection.handle.listAllDomains():
        with connection.passing():
            texts = [domain.XMLDesc(0)]
            if domain.isPersistent():
                texts.append(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
            for text in texts:
                # A running domain tells what is below its disks, too.
                for source in tree(text).iter("source"):
                    if source.get("file"):
                        yield f"guest/{domain.name()}", str(source.get("file"))


def _of_pools(connection: Connection) -> Iterator[tuple[str, str]]:
    """Yield each file that is a volume, with its name."""
    libvirt = connection.libvirt
    active = libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE
    for pool in connection.handle.listAllStoragePools(active):
        with connection.passing():
            for volume in pool.listAllVolumes():
                yield f"volume/{pool.name()}/{volume.name()}", volume.path()


def _of_helper(layout: Layout) -> Iterator[tuple[str, str]]:
    """Yield each file that a guest of the helper boots or has as a disk, with the guest."""
    for name in layout.names():
        with suppress(OSError, ValueError, TypeError, KeyError):
            with open(layout.guest(name).definition, "rb") as file:
                machine = json.loads(file.read().decode())["machine"]
            files = [machine["kernel"], machine.get("initrd")]
            files += [disk["file"] for disk in machine.get("disks") or ()]
            yield from ((f"guest/{name}", str(file)) for file in files if file)


def standing_on(files: Sequence[str], holders: Iterator[tuple[str, str]]) -> dict[str, list[str]]:
    """Return what stands on each of the files, or has it itself."""
    wanted = {os.path.realpath(file): file for file in files}
    found: dict[str, set[str]] = {}
    for holder, path in holders:
        real = os.path.realpath(path)
        for one in (real, *below(real)):
            if one in wanted and not (one == real and holder.startswith("volume/")):
                found.setdefault(wanted[one], set()).add(holder)
    return {file: sorted(holders) for file, holders in found.items()}


def users_by(uri: str) -> Any:
    """Return what tells the users of files by libvirt; it tells None where it cannot be known."""

    def users(files: Sequence[str]) -> Mapping[str, Sequence[str]] | None:
        try:
            connection = Connection(uri)
        except ConnectError:
            return None
        try:
            holders = (_of_domains(connection), _of_pools(connection), _of_helper(Layout()))
            return standing_on(files, chain(*holders))
        except connection.libvirt.libvirtError:
            return None
        finally:
            connection.close()

    return users
