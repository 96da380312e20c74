# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The state in which a vCPU starts, and what its CPUID says.

Sources: Intel SDM volume 3, chapters 3 (segments) and 9 (modes); AMD APM volume 3, appendix E
(CPUID).
"""

from __future__ import annotations

import struct
from typing import Sequence

from . import abi

RFLAGS_RESERVED = 0x2  # bit 1 is always set
CR0_PE, CR0_ET = 1 << 0, 1 << 4
_CODE, _DATA = 0b1011, 0b0011  # accessed; code is readable, data is writable
_CPUID_HYPERVISOR = 1 << 31  # leaf 1, ECX
_CPUID_HTT = 1 << 28  # leaf 1, EDX


def _flat(segment: abi.kvm_segment, selector: int, kind: int) -> None:
    """Make ``segment`` cover all 4 GiB with 32-bit defaults at ring 0."""
    segment.base, segment.limit, segment.selector = 0, 0xFFFF_FFFF, selector
    segment.type, segment.present, segment.dpl = kind, 1, 0
    segment.db, segment.s, segment.l, segment.g = 1, 1, 0, 1


def enter_protected_mode(sregs: abi.kvm_sregs) -> None:
    """Set 32-bit protected mode with flat segments and no paging."""
    _flat(sregs.cs, 0x08, _CODE)
    for segment in (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss):
        _flat(segment, 0x10, _DATA)
    sregs.cr0 = CR0_PE | CR0_ET


def enter_real_mode(sregs: abi.kvm_sregs) -> None:
    """Set real mode with every segment at 0, as a BIOS leaves it for a boot sector."""
    for segment in (sregs.cs, sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss):
        segment.base, segment.selector = 0, 0


def host_brand() -> bytes:
    """Return the host CPU's brand string as CPUID has it: 48 bytes, padded with zeros."""
    with open("/proc/cpuinfo", "rb") as file:
        head = file.read(4096)
    _, _, found = head.partition(b"model name\t: ")
    return found.partition(b"\n")[0][:47].ljust(48, b"\0")


def cpuid_for(
    supported: Sequence[abi.kvm_cpuid_entry2], index: int, count: int, brand: bytes
) -> list[abi.kvm_cpuid_entry2]:
    """Return the CPUID of vCPU ``index`` of ``count``: what KVM supports, with ids and topology.

    The vCPUs are ``count`` cores of one package, their APIC ids are 0 … count - 1. Where KVM leaves
    the brand string empty, it is ``brand``.
    """
    entries = []
    for source in supported:
        entry = abi.kvm_cpuid_entry2.from_buffer_copy(source)
        if entry.function == 0x1:
            entry.ebx = entry.ebx & 0xFFFF | min(count, 255) << 16 | index << 24
            entry.ecx |= _CPUID_HYPERVISOR
            entry.edx = entry.edx | _CPUID_HTT if count > 1 else entry.edx & ~_CPUID_HTT
        elif entry.function in {0xB, 0x1F}:
            _set_topology_level(entry, index, count)
        elif 0x8000_0002 <= entry.function <= 0x8000_0004 and not entry.eax:
            words = struct.unpack_from("<4I", brand, (entry.function - 0x8000_0002) * 16)
            entry.eax, entry.ebx, entry.ecx, entry.edx = words
        elif entry.function == 0x8000_0008:
            entry.ecx = entry.ecx & ~0xF0FF | (count - 1) & 0xFF
        elif entry.function == 0x8000_001E:
            entry.eax, entry.ebx = index, index & 0xFF
        entries.append(entry)
    return entries


def _set_topology_level(entry: abi.kvm_cpuid_entry2, index: int, count: int) -> None:
    """Fill one level of the extended topology leaf: one thread a core, ``count`` cores."""
    threads, cores = 0, 1
    levels = {threads: (0, 1, 1), cores: ((count - 1).bit_length(), count, 2)}
    shift, processors, kind = levels.get(entry.index, (0, 0, 0))
    entry.eax, entry.ebx, entry.ecx = shift, processors, kind << 8 | entry.index
    entry.edx = index
