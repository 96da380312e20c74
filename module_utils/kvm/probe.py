# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What this host's KVM can do, as the helper itself sees it: it asks the device and makes a VM."""

from __future__ import annotations

import os
import struct
from typing import Any

from . import abi, cpu
from .device import DEVICE, Kvm, Vm
from .errors import KvmError
from .memory import PAGE, GuestMemory

# popcnt eax, eax; out 0xf4, al: KVM's own instruction emulator knows the second but not the first.
_POPCNT = b"\xf3\x0f\xb8\xc0\xe6\xf4"


def probe(device: str = DEVICE) -> dict[str, Any]:
    """Return plain values about ``device``; what is not known is None, and ``error`` says why.

    ``ring0`` is "native" where the guest's privileged code runs on the CPU, "emulated" where KVM
    interprets it instruction by instruction (no stock kernel boots there).
    """
    found: dict[str, Any] = {
        "device": device,
        "machine": os.uname().machine,
        "present": os.path.exists(device),
        "permitted": None,
        "error": None,
        "api_version": None,
        "capabilities": {"system": {}, "vm": {}},
        "vm_created": False,
        "vcpu_mmap_size": None,
        "cpuid": [],
        "feature_msrs": {},
        "ring0": "unknown",
    }
    if found["present"]:
        found["permitted"] = os.access(device, os.R_OK | os.W_OK)
    try:
        with Kvm(device) as kvm:
            found["api_version"] = abi.API_VERSION
            found["vcpu_mmap_size"] = kvm.vcpu_mmap_size()
            found["capabilities"]["system"] = _capabilities(kvm)
            with kvm.create_vm() as vm:
                found["vm_created"] = True
                found["capabilities"]["vm"] = _capabilities(vm)
                if found["machine"] == "x86_64":
                    found["cpuid"] = _leaves(kvm.supported_cpuid())
                    msrs = kvm.feature_msrs()
                    found["feature_msrs"] = {hex(index): value for index, value in msrs.items()}
                    found["ring0"] = ring0(kvm)
    except KvmError as error:
        found["error"] = str(error)
        if isinstance(error.__cause__, PermissionError):  # a device cgroup denies root too
            found["permitted"] = False
    return found


def _capabilities(source: Kvm | Vm) -> dict[str, int]:
    return {name: source.check_extension(number) for name, number in abi.CAPABILITIES.items()}


def _leaves(cpuid: bytearray) -> list[dict[str, int]]:
    names = ("leaf", "subleaf", "flags", "eax", "ebx", "ecx", "edx")
    leaves = [dict(zip(names, entry)) for entry in struct.iter_unpack("<7I12x", cpuid[8:])]
    for leaf in leaves:
        del leaf["flags"]
    return leaves


def ring0(kvm: Kvm) -> str:
    """Run one instruction at ring 0 that only a CPU can carry out: "native" or "emulated".

    "unknown" where it ends in another way, as on a CPU without POPCNT.
    """
    memory = GuestMemory(PAGE)
    try:
        memory.write(0, _POPCNT)
        with kvm.create_vm() as vm:
            vm.add_memory(memory)
            # Without interrupt controllers, which take KVM 20 ms to tear down again.
            vm.reserve_pages()
            return _first_exit(kvm, vm)
    finally:
        memory.close()


def _first_exit(kvm: Kvm, vm: Vm) -> str:
    with vm.create_vcpu(0) as vcpu:
        vcpu.set_cpuid(kvm.supported_cpuid())
        sregs = vcpu.sregs()
        cpu.enter_protected_mode(sregs)
        vcpu.set_sregs(sregs)
        vcpu.set_regs(abi.kvm_regs(rip=0, rflags=cpu.RFLAGS_RESERVED))
        verdicts = {abi.EXIT_IO: "native", abi.EXIT_INTERNAL_ERROR: "emulated"}
        return verdicts.get(vcpu.run(), "unknown")
