# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host has for guests, all in all: processors, memory, huge pages, NUMA nodes, pools.

https://libvirt.org/formatcaps.html has the topology, amounts in KiB.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...units import format_size
from ...virt.document import Document, Element, text_of
from .capabilities import NATIVE, read_capabilities
from .offer import read_offer

if TYPE_CHECKING:
    from ...virt.connection import Connection

_PAGE = 4096  # bytes of a page that is not huge


def _amount(element: Element | None) -> int:
    """Return the bytes of an element in KiB."""
    text = "" if element is None else text_of(element).strip()
    return int(text) << 10 if text.isdecimal() else 0


def read_topology(xml: str) -> dict[str, Any]:
    """Return the NUMA nodes and the huge pages (bytes by size) that the capabilities show."""
    cells: list[dict[str, int]] = []
    huge: dict[str, int] = {}
    root = Document(xml, "capabilities").root
    for cell in root.findall("host/topology/cells/cell"):
        cpus = cell.find("cpus")
        own: dict[str, int] = {}
        for pages in cell.findall("pages"):
            count, size = text_of(pages).strip(), int(pages.get("size", "0")) << 10
            if size > _PAGE and count.isdecimal() and int(count):
                own[format_size(size)] = int(count) * size
        for name, amount in own.items():
            huge[name] = huge.get(name, 0) + amount
        memory = _amount(cell.find("memory")) - sum(own.values())
        number = len(cpus.findall("cpu")) if cpus is not None else 0
        cells.append({"cpus": number, "memory": memory})
    return {"cells": cells, "hugepages": huge}


def _pools(connection: Connection) -> dict[str, Any]:
    """Return the active pools with the bytes that they have, have free, and have promised."""
    libvirt, found = connection.libvirt, {}
    active = libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE
    for pool in connection.handle.listAllStoragePools(active):
        try:
            _, capacity, _, available = pool.info()
            volumes = [volume.info() for volume in pool.listAllVolumes()]
        except libvirt.libvirtError:
            continue  # it ended meanwhile
        committed = sum(max(whole, taken) for _, whole, taken in volumes)
        found[pool.name()] = {
            "capacity": capacity,
            "available": available,
            "committed": committed,
        }
    return found


def _models(connection: Connection) -> list[str] | None:
    """Return the CPU models that guests of KVM can have here, None where that is not known."""
    try:
        xml = connection.handle.getDomainCapabilities(None, NATIVE, None, "kvm")
    except connection.libvirt.libvirtError:
        return None  # no KVM, which preflight tells
    models = read_offer(xml).models
    return sorted(name for name, usable in models.items() if usable) if models else None


def room(connection: Connection) -> dict[str, Any]:
    """Return what the host has, as plain values; memory and pools in bytes."""
    handle = connection.handle
    _, memory, cpus = handle.getInfo()[:3]
    capabilities = handle.getCapabilities()
    return {
        "cpus": cpus,
        "memory": memory << 20,
        "models": _models(connection),
        "pools": _pools(connection),
        "machines": read_capabilities(capabilities).versions(),
        **read_topology(capabilities),
    }
