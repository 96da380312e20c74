# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a lab consists of: one YAML file, read into dataclasses, and refused where it is wrong.

hosts:
  kvm1: {release: bookworm, image: ready}
  kvm2: {release: trixie, image: bare, boot: grub, disks: [1GiB, 1GiB], iommu: intel}
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import yaml
from ansible.module_utils.units import UnitError, parse_size

from .recipe import KINDS, RELEASES

if TYPE_CHECKING:
    from pathlib import Path

_NAME = re.compile(r"[a-z]([a-z0-9-]{0,14}[a-z0-9])?")
_MIB = 1 << 20


class DescriptionError(Exception):
    """A lab's description is wrong; the message names the file, the key and what was expected."""


@dataclass(frozen=True)
class HostSpec:
    """One host. Sizes are strings with a unit."""

    release: str = "bookworm"
    image: str = "ready"
    boot: str = "direct"  # from the kernel beside the image, or by its own GRUB
    memory: str = "3GiB"
    cpus: int = 2
    disks: tuple[str, ...] = ()  # further ones, /dev/disk/by-id/virtio-disk1 …
    iommu: str = "none"
    sriov: int = 0  # virtual functions of an NVMe drive
    sriov_nic: bool = False  # an Intel 82576 on the cable, with seven virtual functions
    usb: bool = False  # a USB drive of 8 MiB
    numa: int = 1  # nodes
    watchdog: bool = False
    svm: bool = True  # without it the machine has no hardware virtualization

    @property
    def memory_mib(self) -> int:
        """The memory in MiB."""
        return parse_size(self.memory) // _MIB

    @property
    def can_snapshot(self) -> bool:
        """Whether QEMU can save this machine while it runs: amd-iommu and nvme forbid it.

        So does the USB drive, which has nowhere to keep a snapshot; the NIC was not tried.
        """
        return self.iommu != "amd" and not (self.sriov or self.sriov_nic or self.usb)


@dataclass(frozen=True)
class Description:
    """A lab: its hosts by name, in the order of the file."""

    hosts: dict[str, HostSpec]


_CHOICES: dict[str, tuple[Any, ...]] = {
    "release": tuple(RELEASES),
    "image": KINDS,
    "boot": ("direct", "grub"),
    "iommu": ("none", "intel", "amd"),
    "numa": (1, 2),
}


def _check(where: str, key: str, value: Any) -> Any:
    known = {field.name: field for field in fields(HostSpec)}
    if key not in known:
        raise DescriptionError(f"{where}.{key}: expected one of {', '.join(known)}")
    if key in _CHOICES:
        if value not in _CHOICES[key]:
            expected = ", ".join(map(str, _CHOICES[key]))
            raise DescriptionError(f"{where}.{key}: expected one of {expected}, found {value!r}")
        return value
    if key == "disks":
        if not isinstance(value, list):
            raise DescriptionError(f"{where}.disks: expected a list of sizes, found {value!r}")
        return tuple(_size(f"{where}.disks", item) for item in value)
    if key == "memory":
        return _size(f"{where}.memory", value)
    wanted = type(known[key].default)
    if type(value) is not wanted or (isinstance(value, int) and value < 0):
        raise DescriptionError(f"{where}.{key}: expected {wanted.__name__}, found {value!r}")
    return value


def _size(where: str, value: Any) -> str:
    try:
        parse_size(value)
    except UnitError as error:
        raise DescriptionError(f"{where}: {error}") from error
    return str(value)


def parse(data: Any, source: str = "the description") -> Description:
    """Return the lab that ``data`` describes."""
    if not isinstance(data, dict) or set(data) != {"hosts"} or not isinstance(data["hosts"], dict):
        raise DescriptionError(f"{source}: expected a mapping with the one key hosts")
    if not data["hosts"]:
        raise DescriptionError(f"{source}: expected at least one host")
    hosts = {}
    for name, given in data["hosts"].items():
        where = f"{source}: hosts.{name}"
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise DescriptionError(f"{where}: expected a short lower-case host name")
        if not isinstance(given, dict):
            raise DescriptionError(f"{where}: expected a mapping, found {given!r}")
        hosts[name] = HostSpec(**{key: _check(where, key, value) for key, value in given.items()})
    return Description(hosts)


def load(path: Path) -> Description:
    """Return the lab that the YAML file describes."""
    try:
        return parse(yaml.safe_load(path.read_text()), str(path))
    except (OSError, yaml.YAMLError) as error:
        raise DescriptionError(f"{path}: {error}") from error
