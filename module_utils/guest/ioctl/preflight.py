# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What has to hold before a guest is touched: a usable KVM, the helper, a kernel that starts."""

from __future__ import annotations

import os
from typing import Any, Iterator, Mapping

from ...converge.errors import Problem, shown
from ...kvm.errors import KvmError
from ...units import parse_size
from . import images
from .dialect import BOOT_FILES, image_named


def check_device(device: str) -> list[Problem]:
    """Return why no VM can be made with the KVM device."""
    from ...kvm.device import Kvm  # ctypes, which a look at guests can do without

    try:
        with Kvm(device) as kvm, kvm.create_vm():
            return []
    except KvmError as error:
        return [Problem(device, "a KVM that guests can use", str(error), error.remedy)]


def check_helper(command: str) -> list[Problem]:
    """Return why the helper cannot be called."""
    if os.access(command, os.X_OK):
        return []
    found = "nothing that can be executed"
    remedy = "install it with the module kvm_helper (role kvm_host)"
    return [Problem(command, "the installed helper", found, remedy)]


def check_kernel(boots: Mapping[str, Any], *, check_mode: bool) -> Problem | None:
    """Return why a guest could not start from its kernel, None if it can.

    In check mode the same run may bring an image.
    """
    from ...kvm.loader import check_image  # only a guest that changes needs it

    for key in BOOT_FILES:
        name = image_named(boots[key])
        if name is not None:
            return None if check_mode else Problem(key, images.IS_THERE, shown(name), images.BRING)
    memory = boots["memory"]
    try:
        check_image(boots["kernel"], parse_size(memory), boots["initrd"] or None, boots["cmdline"])
    except KvmError as error:
        expected = f"a kernel that starts with {memory} of memory"
        return Problem("kernel", expected, str(error), error.remedy)
    return None


def check_devices(specs: Mapping[str, Mapping[str, Any]], *, check_mode: bool) -> Iterator[Problem]:
    """Yield what guests' devices would stand on and is not there.

    In check mode the same run may make it: only what is there and wrong is told then.
    """
    for name, spec in sorted(specs.items()):
        yield from images.unfit(name, spec.get("disks"), check_mode=check_mode)
        for number, nic in enumerate(spec.get("nics") or ()):
            folder = f"/sys/class/net/{nic['bridge']}"
            if os.path.exists(folder) and not os.path.exists(f"{folder}/bridge"):
                found = f"{nic['bridge']}, which is none"
            elif check_mode or os.path.exists(folder):
                continue
            else:
                found = f"no interface {nic['bridge']}"
            remedy = "kvm_host_network makes it (the role kvm_network), or name another one"
            yield Problem(f"{name}.nics[{number}].bridge", "a bridge of the host", found, remedy)
        if check_mode:
            continue
        for number, share in enumerate(spec.get("shares") or ()):
            if not os.path.isdir(share["path"]):
                where = f"{name}.shares[{number}].path"
                yield Problem(where, "a folder that is there", shown(share["path"]))
        for number, one in enumerate(spec.get("pmem") or ()):
            if not os.path.isfile(one["file"]):
                where = f"{name}.pmem[{number}].file"
                yield Problem(where, "a file that is there", shown(one["file"]))


def check_kernels(boots: Mapping[str, Mapping[str, Any]], *, check_mode: bool) -> list[Problem]:
    """Return which of the guests could not start, at paths that begin with a guest's name."""
    problems: list[Problem] = []
    answers: dict[str, Problem | None] = {}
    for name, machine in sorted(boots.items()):
        key = repr(sorted(machine.items()))  # many guests may boot the same: it is read once
        if key not in answers:
            answers[key] = check_kernel(machine, check_mode=check_mode)
        found = answers[key]
        if found is not None:
            path = f"{name}.{found.path}"
            problems.append(Problem(path, found.expected, found.found, found.remedy))
    return problems
