# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""IOMMU, PCI devices with virtual functions, and the queues of network interfaces.

linux: Documentation/ABI/testing/sysfs-kernel-iommu_groups, sysfs-bus-pci, sysfs-class-net-queues;
VT-d specification 11.4.2 and 11.4.3 (cap, ecap); include/uapi/linux/ethtool.h.
"""

from __future__ import annotations

import os
import re
import struct
from dataclasses import dataclass, field
from typing import Callable, Dict, Optional

from ..source import at, exists, names, number, target, word

_ADDRESS = re.compile(r"[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
_GROUPS = "/sys/kernel/iommu_groups"
_ECAP_INTERRUPT_REMAPPING = 1 << 3
_CAP_POSTED_INTERRUPTS = 1 << 59
_SIOCETHTOOL = 0x8946
_ETHTOOL_GCHANNELS = 0x3C

Channels = Callable[[str], Optional[Dict[str, int]]]


@dataclass(eq=False, repr=False)
class Iommu:
    """The firmware's table, the kernel's groups and the remapping units it drives."""

    tables: list[str] | None  # of DMAR, IVRS, IORT; None where ACPI's tables cannot be listed
    groups: int | None  # None where the kernel has no such folder
    devices: int = 0
    largest_group: int = 0
    units: list[str] = field(default_factory=list)
    interrupt_remapping: bool | None = None
    posted_interrupts: bool | None = None


@dataclass(eq=False, repr=False)
class PciDevice:
    """A PCI device with virtual functions, or one that carries network interfaces."""

    address: str
    vendor: str | None
    device: str | None
    driver: str | None
    numa_node: int | None
    total_vfs: int | None
    active_vfs: int | None
    iommu_group: str | None


@dataclass(eq=False, repr=False)
class NetDevice:
    """A network interface with hardware behind it.

    ``channels`` is what the driver says by ethtool (max_combined …), None if not told. ``vmdq`` is
    None always: no driver tells its VMDq pools in a uniform way.
    """

    name: str
    pci: str | None
    driver: str | None
    rx_queues: int | None
    tx_queues: int | None
    channels: dict[str, int] | None = None
    vmdq: int | None = None


@dataclass(eq=False, repr=False)
class Pci:
    """The bus; ``devices`` is None on a machine without PCI."""

    iommu: Iommu
    count: int | None
    devices: list[PciDevice] | None
    nets: list[NetDevice] | None


def probe(root: str = "/", channels: Channels | None = None) -> Pci:
    """Read the PCI side of the machine under ``root``; ``channels`` asks a driver about queues."""
    if channels is None:
        channels = ethtool_channels if root == "/" else _unasked
    addresses = names(root, "/sys/bus/pci/devices")
    nets = _nets(root, channels)
    carriers = {net.pci for net in nets or []}
    devices = None
    if addresses is not None:
        found = (_device(root, address, address in carriers) for address in addresses)
        devices = [device for device in found if device is not None]
    return Pci(
        iommu=_iommu(root),
        count=None if addresses is None else len(addresses),
        devices=devices,
        nets=nets,
    )


def _iommu(root: str) -> Iommu:
    tables = names(root, "/sys/firmware/acpi/tables")
    groups = names(root, _GROUPS)
    iommu = Iommu(
        tables=None
        if tables is None
        else [name for name in ("DMAR", "IVRS", "IORT") if name in tables],
        groups=None if groups is None else len(groups),
        units=names(root, "/sys/class/iommu") or [],
    )
    sizes = [len(names(root, f"{_GROUPS}/{group}/devices") or []) for group in groups or []]
    iommu.devices, iommu.largest_group = sum(sizes), max(sizes, default=0)
    intel = [unit for unit in iommu.units if exists(root, f"/sys/class/iommu/{unit}/intel-iommu")]
    if intel:
        iommu.interrupt_remapping = _every(root, intel, "ecap", _ECAP_INTERRUPT_REMAPPING)
        iommu.posted_interrupts = _every(root, intel, "cap", _CAP_POSTED_INTERRUPTS)
    elif any(exists(root, f"/sys/class/iommu/{unit}/amd-iommu") for unit in iommu.units):
        iommu.interrupt_remapping = True  # part of every AMD-Vi (AMD IOMMU specification, 2.2.5)
    return iommu


def _every(root: str, units: list[str], register: str, mask: int) -> bool | None:
    values = [number(root, f"/sys/class/iommu/{unit}/intel-iommu/{register}", 16) for unit in units]
    known = [value for value in values if value is not None]
    return all(value & mask for value in known) if len(known) == len(values) else None


def _device(root: str, address: str, wanted: bool) -> PciDevice | None:
    folder = f"/sys/bus/pci/devices/{address}"
    total = number(root, f"{folder}/sriov_totalvfs")
    if total is None and not wanted:
        return None
    node = number(root, f"{folder}/numa_node")
    return PciDevice(
        address=address,
        vendor=word(root, f"{folder}/vendor"),
        device=word(root, f"{folder}/device"),
        driver=target(root, f"{folder}/driver"),
        numa_node=None if node is None or node < 0 else node,  # -1: the firmware does not say
        total_vfs=total,
        active_vfs=number(root, f"{folder}/sriov_numvfs"),
        iommu_group=target(root, f"{folder}/iommu_group"),
    )


def _nets(root: str, channels: Channels) -> list[NetDevice] | None:
    found = names(root, "/sys/class/net")
    if found is None:
        return None
    nets = []
    for name in found:
        folder = f"/sys/class/net/{name}"
        if not exists(root, f"{folder}/device"):
            continue  # lo, bridges, bonds: nothing behind them
        queues = names(root, f"{folder}/queues")
        parts = _ADDRESS.findall(os.path.realpath(at(root, f"{folder}/device")))
        nets.append(
            NetDevice(
                name=name,
                pci=parts[-1] if parts else None,
                driver=target(root, f"{folder}/device/driver"),
                rx_queues=_starting(queues, "rx-"),
                tx_queues=_starting(queues, "tx-"),
                channels=channels(name),
            )
        )
    return nets


def _starting(found: list[str] | None, prefix: str) -> int | None:
    return None if found is None else sum(name.startswith(prefix) for name in found)


def _unasked(_name: str) -> None:
    """Answer for a driver that cannot be asked: the root is not the running system's."""


def ethtool_channels(name: str) -> dict[str, int] | None:
    """Ask the driver how many queues it has and could have (struct ethtool_channels)."""
    import array  # only machines with network hardware pay for these
    import fcntl
    import socket

    answer = array.array("I", [_ETHTOOL_GCHANNELS] + [0] * 8)
    request = struct.pack("16sP", name.encode()[:15], answer.buffer_info()[0]).ljust(40, b"\0")
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
            fcntl.ioctl(handle, _SIOCETHTOOL, request)
    except OSError:
        return None
    keys = ("max_rx", "max_tx", "max_other", "max_combined", "rx", "tx", "other", "combined")
    return dict(zip(keys, answer[1:]))
