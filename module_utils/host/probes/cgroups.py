# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Control groups v1, v2 and both at once (linux: Documentation/admin-guide/cgroup-v{1,2}).

As libvirt counts them: a v1 controller is there when it is mounted; in v2 it is listed at the root
of the hierarchy, ``cpuacct`` is part of every v2, and ``devices`` is a BPF program type.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, field
from typing import Callable

from ..source import at, text, word

CONTROLLERS = ("cpu", "cpuacct", "cpuset", "memory", "devices", "blkio")
_V2_NAMES = {"blkio": "io"}
_BPF_SYSCALL = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "s390x": 351}
_BPF_PROG_QUERY, _BPF_CGROUP_DEVICE = 16, 6  # include/uapi/linux/bpf.h


@dataclass(eq=False, repr=False)
class Cgroups:
    """``controllers`` says where each one is: "v1", "v2", "" for nowhere, None if not known."""

    version: str | None  # v1, v2, hybrid, none
    controllers: dict[str, str | None] = field(default_factory=dict)
    unified_mount: str | None = None


def probe(root: str = "/", device_programs: Callable[[str], bool | None] | None = None) -> Cgroups:
    """Read the hierarchies of the machine under ``root``.

    ``device_programs`` says whether the v2 hierarchy at a path takes device programs.
    """
    if device_programs is None:
        device_programs = takes_device_programs if root == "/" else _unasked
    mounts = text(root, "/proc/mounts")
    if mounts is None:
        return Cgroups(version=None, controllers=dict.fromkeys(CONTROLLERS))
    rows = [row for row in map(str.split, mounts.splitlines()) if len(row) > 3]
    v1 = {option for row in rows if row[2] == "cgroup" for option in row[3].split(",")}
    unified = [row[1] for row in rows if row[2] == "cgroup2"]
    cgroups = Cgroups(version=_version(bool(v1), bool(unified)))
    listed: list[str] = []
    if unified:
        cgroups.unified_mount = unified[0]
        listed = (word(root, f"{unified[0]}/cgroup.controllers") or "").split()
    for name in CONTROLLERS:
        if name in v1:
            cgroups.controllers[name] = "v1"
        elif _V2_NAMES.get(name, name) in listed or (name == "cpuacct" and listed):
            cgroups.controllers[name] = "v2"
        elif name == "devices" and listed:
            able = device_programs(at(root, unified[0]))
            cgroups.controllers[name] = None if able is None else "v2" if able else ""
        else:
            cgroups.controllers[name] = ""
    return cgroups


def _version(v1: bool, v2: bool) -> str:
    if v1 and v2:
        return "hybrid"
    return "v1" if v1 else "v2" if v2 else "none"


def _unasked(_path: str) -> None:
    """Answer for a kernel that cannot be asked: the root is not the running system's."""


def takes_device_programs(path: str) -> bool | None:
    """Ask the kernel for the device programs of a cgroup (it may have none, but must know them)."""
    import ctypes  # of use on pure v2 hosts alone
    import errno

    machine = os.uname().machine
    if machine not in _BPF_SYSCALL:
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        attributes = struct.pack("<IIII", descriptor, _BPF_CGROUP_DEVICE, 0, 0).ljust(128, b"\0")
        syscall = ctypes.CDLL(None, use_errno=True).syscall
        buffer = ctypes.create_string_buffer(attributes, len(attributes))
        status = syscall(_BPF_SYSCALL[machine], _BPF_PROG_QUERY, buffer, len(attributes))
        if status == 0:
            return True
        # EPERM is not an answer; EINVAL and ENOSYS say that the kernel was built without.
        return False if ctypes.get_errno() in (errno.EINVAL, errno.ENOSYS) else None
    finally:
        os.close(descriptor)
