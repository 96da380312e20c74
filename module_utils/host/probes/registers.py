# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the processor itself says: CPUID and model-specific registers, past the kernel's filter.

/proc/cpuinfo shows what the kernel uses; a feature that the firmware locked away is missing there
and present here. The devices are /dev/cpu/N/cpuid (module cpuid) and /dev/cpu/N/msr (module msr,
root only), see linux: arch/x86/kernel/cpuid.c and msr.c. Nothing is loaded and nothing is written.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, field
from typing import Callable, Dict, Iterable, Mapping, Optional, Tuple

from ..source import at, names

FEATURE_CONTROL = 0x3A  # Intel SDM vol. 4, IA32_FEATURE_CONTROL
VM_CR = 0xC0010114  # AMD APM vol. 2, 15.30.1
SVM_DISABLED = 1 << 4
LOCKED = 1 << 0
VMX_OUTSIDE_SMX = 1 << 2

# IA32_VMX_… capability registers (Intel SDM vol. 3D, appendix A); vmxcap.py decodes them in full.
BASIC, PIN, PRIMARY, EXIT, ENTRY, MISC = range(0x480, 0x486)
CR0_FIXED0, CR0_FIXED1, CR4_FIXED0, CR4_FIXED1, VMCS_ENUM = range(0x486, 0x48B)
SECONDARY, EPT_VPID = 0x48B, 0x48C
TRUE_PIN, TRUE_PRIMARY, TRUE_EXIT, TRUE_ENTRY = range(0x48D, 0x491)
VMFUNC, TERTIARY = 0x491, 0x492
CAPABILITY_MSRS = range(BASIC, TERTIARY + 1)

_EVERY_CPU = (0x1, 0x80000001)
_FIRST_CPU = (0x0, 0x1, 0x7, 0x40000000, 0x80000000, 0x80000001, 0x8000000A, 0x8000001F)

Leaf = Tuple[int, int, int, int]  # eax, ebx, ecx, edx
Reader = Callable[[str, Iterable[int], int], Tuple[Dict[int, bytes], Optional[str]]]


@dataclass(eq=False, repr=False)
class Registers:
    """CPUID leaves and registers; what could not be read is missing, and ``…_problem`` says why."""

    cpuid: dict[int, Leaf] = field(default_factory=dict)  # of the first CPU
    cpuid_problem: str | None = None
    msr: dict[int, int] = field(default_factory=dict)  # of the first CPU
    msr_problem: str | None = None
    vmx: dict[int, bool] = field(default_factory=dict)  # CPU → leaf 1 ECX[5]
    svm: dict[int, bool] = field(default_factory=dict)  # CPU → leaf 0x80000001 ECX[2]
    feature_control: dict[int, int] = field(default_factory=dict)  # CPU → MSR 0x3A
    vm_cr: dict[int, int] = field(default_factory=dict)  # CPU → MSR 0xC0010114

    @property
    def vendor(self) -> str | None:
        """The twelve letters of leaf 0."""
        leaf = self.cpuid.get(0)
        return leaf and _letters(leaf[1], leaf[3], leaf[2])

    @property
    def hypervisor(self) -> str | None:
        """The signature of the hypervisor underneath (leaf 0x40000000), "" where there is none."""
        first, signature = self.cpuid.get(1), self.cpuid.get(0x40000000)
        if first is None or signature is None:
            return None
        # Without the hypervisor bit an Intel CPU answers this leaf with its highest basic one.
        return _letters(*signature[1:]) if first[2] >> 31 else ""


def read_device(
    path: str, offsets: Iterable[int], size: int
) -> tuple[dict[int, bytes], str | None]:
    """Read ``size`` bytes at each offset; registers that the CPU does not have are left out.

    The second value says why the device could not be opened, None if it could.
    """
    values: dict[int, bytes] = {}
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        return values, f"{path}: {error.strerror}"
    try:
        for offset in offsets:
            try:
                value = os.pread(descriptor, size, offset)
            except OSError:
                continue
            if len(value) == size:
                values[offset] = value
    finally:
        os.close(descriptor)
    return values, None


def probe(root: str = "/", read: Reader = read_device) -> Registers:
    """Read the first CPU in full, of the others what the firmware may have set differently."""
    registers = Registers()
    cpus = sorted(int(name) for name in names(root, "/dev/cpu") or [] if name.isdigit())
    if not cpus:
        registers.cpuid_problem = "no /dev/cpu/0/cpuid: load the module cpuid"
        registers.msr_problem = "no /dev/cpu/0/msr: load the module msr"
        return registers
    _read_cpuid(registers, root, cpus, read)
    _read_msr(registers, root, cpus, read)
    return registers


def _read_cpuid(registers: Registers, root: str, cpus: list[int], read: Reader) -> None:
    for cpu in cpus:
        leaves = _FIRST_CPU if cpu == cpus[0] else _EVERY_CPU
        values, problem = read(at(root, f"/dev/cpu/{cpu}/cpuid"), leaves, 16)
        if problem:
            registers.cpuid_problem = registers.cpuid_problem or problem
            break
        decoded: dict[int, Leaf] = {
            leaf: struct.unpack("<4I", value) for leaf, value in values.items()
        }
        if cpu == cpus[0]:
            registers.cpuid = decoded
        if 0x1 in decoded:
            registers.vmx[cpu] = bool(decoded[0x1][2] >> 5 & 1)
        if 0x80000001 in decoded:
            registers.svm[cpu] = bool(decoded[0x80000001][2] >> 2 & 1)


def _read_msr(registers: Registers, root: str, cpus: list[int], read: Reader) -> None:
    each: dict[int, dict[int, int]] = {
        FEATURE_CONTROL: registers.feature_control,
        VM_CR: registers.vm_cr,
    }
    for cpu in cpus:
        indexes = tuple(each) + (tuple(CAPABILITY_MSRS) if cpu == cpus[0] else ())
        values, problem = read(at(root, f"/dev/cpu/{cpu}/msr"), indexes, 8)
        if problem:
            registers.msr_problem = registers.msr_problem or problem
            break
        decoded = {index: int.from_bytes(value, "little") for index, value in values.items()}
        if cpu == cpus[0]:
            registers.msr = decoded
        for index, found in each.items():
            if index in decoded:
                found[cpu] = decoded[index]


def _letters(*parts: int) -> str:
    return struct.pack(f"<{len(parts)}I", *parts).rstrip(b"\0").decode("latin-1")


def allows(msr: Mapping[int, int], index: int, bit: int) -> bool | None:
    """Say whether a control (or a bit of a plain register) can be 1; None if it was not read.

    A control register that the CPU does not have (no secondary controls) reads as not allowed once
    any capability register is there.
    """
    if index not in msr:
        return False if BASIC in msr else None
    if index in (EPT_VPID, TERTIARY, VMFUNC, MISC, BASIC):
        return bool(msr[index] >> bit & 1)
    return bool(msr[index] >> 32 >> bit & 1)
