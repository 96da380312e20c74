# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The state in which a vCPU starts, and what its CPUID says.

Sources: Intel SDM volume 3, chapters 3 (segments) and 9 (modes); AMD APM volume 3, appendix E
(CPUID).
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import abi

RFLAGS_RESERVED = 0x2  # bit 1 is always set
CR0_PE, CR0_ET = 1 << 0, 1 << 4
_CR0_CACHE_OFF = 0x6000_0000
_CODE, _DATA = 0b1011, 0b0011  # accessed; code is readable, data is writable
_CPUID_HYPERVISOR = 1 << 31  # leaf 1, ECX
_CPUID_TSC_DEADLINE = 1 << 24  # leaf 1, ECX; KVM leaves it to its user (api.rst, 4.46)
_CPUID_HTT = 1 << 28  # leaf 1, EDX
_BRAND = (0x8000_0002, 0x8000_0003, 0x8000_0004)
_HEAD = 256  # bytes of /proc/cpuinfo that hold the first CPU's name; the kernel makes no more then


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


# Entering 64-bit mode takes tables in memory: a GDT with the selectors that the Linux boot protocol
# wants (0x10 code, 0x18 data), and page tables that map addresses to themselves in 2 MiB pages.
_GDT, _PML4 = 0x500, 0x9000
_LONG_CODE, _FLAT_DATA = 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF
_PRESENT_WRITABLE, _LARGE = 0x3, 0x80
_CR0_PG, _CR4_PAE, _EFER_LME_LMA = 1 << 31, 1 << 5, 0x500


def long_mode_tables(top: int = 0) -> list[tuple[int, bytes]]:
    """Return the tables that `enter_long_mode` stands on: each with its address.

    They map what is below ``top``, in whole GiB, and one at least.
    """
    count = max(-(-top // (1 << 30)), 1)
    first = _PML4 + 0x2000
    directories = (first + 0x1000 * number | _PRESENT_WRITABLE for number in range(count))
    large = (address | _PRESENT_WRITABLE | _LARGE for address in range(0, count << 30, 2 << 20))
    return [
        (_GDT, struct.pack("<4Q", 0, 0, _LONG_CODE, _FLAT_DATA)),
        (_PML4, struct.pack("<Q", _PML4 + 0x1000 | _PRESENT_WRITABLE)),
        (_PML4 + 0x1000, struct.pack(f"<{count}Q", *directories)),
        (first, struct.pack(f"<{512 * count}Q", *large)),
    ]


def enter_long_mode(sregs: abi.kvm_sregs) -> None:
    """Set 64-bit mode over `long_mode_tables`, as the 64-bit boot protocol wants it."""
    _flat(sregs.cs, 0x10, _CODE)
    sregs.cs.l, sregs.cs.db = 1, 0
    for segment in (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss):
        _flat(segment, 0x18, _DATA)
    sregs.gdt.base, sregs.gdt.limit = _GDT, 31
    sregs.cr3, sregs.cr4 = _PML4, sregs.cr4 | _CR4_PAE
    sregs.cr0 = sregs.cr0 & ~_CR0_CACHE_OFF | CR0_PE | CR0_ET | _CR0_PG
    sregs.efer = _EFER_LME_LMA


# What firmware leaves behind: fast strings on (MISC_ENABLE), memory is write-back (MTRRdefType).
FIRMWARE_MSRS = ((0x1A0, 0x1), (0x2FF, 0x806))


def enter_real_mode(sregs: abi.kvm_sregs) -> None:
    """Set real mode with every segment at 0, as a BIOS leaves it for a boot sector."""
    for segment in (sregs.cs, sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss):
        segment.base, segment.selector = 0, 0


def host_brand() -> bytes:
    """Return the host CPU's brand string as CPUID has it: 48 bytes, padded with zeros."""
    descriptor = os.open("/proc/cpuinfo", os.O_RDONLY | os.O_CLOEXEC)
    try:
        head = os.read(descriptor, _HEAD)
    finally:
        os.close(descriptor)
    _, _, found = head.partition(b"model name\t: ")
    return found.partition(b"\n")[0][:47].ljust(48, b"\0")


def cpuid_for(supported: bytearray, index: int, count: int, brand: bytes = b"") -> bytearray:
    """Return the CPUID of vCPU ``index`` of ``count``: what KVM supports, with ids and topology.

    ``supported`` and the result are a struct kvm_cpuid2, patched in place of its words, since a
    hundred ctypes objects would cost a tenth of the machine's start. The vCPUs are ``count`` cores
    of one package with the APIC ids 0 … count - 1. ``brand``, 48 bytes, is put where KVM leaves the
    brand string empty.
    """
    cpuid = bytearray(supported)
    words = memoryview(cpuid).cast("I")
    # An entry is ten words: function, index, flags, EAX … EDX at 3 … 6, padding.
    functions = words[2::10].tolist()
    if 0x1 in functions:
        at = 2 + 10 * functions.index(0x1)
        words[at + 4] = words[at + 4] & 0xFFFF | min(count, 255) << 16 | index % 256 << 24
        words[at + 5] |= _CPUID_HYPERVISOR
        words[at + 6] = words[at + 6] | _CPUID_HTT if count > 1 else words[at + 6] & ~_CPUID_HTT
    for function in (0xB, 0x1F):
        if function in functions:
            first = functions.index(function)
            for entry in range(first, first + functions.count(function)):
                _put_level(words[2 + 10 * entry : 9 + 10 * entry], index, count)
    if 0x8000_0008 in functions:
        at = 2 + 10 * functions.index(0x8000_0008)
        words[at + 5] = words[at + 5] & ~0xF0FF | count - 1 & 0xFF
    if 0x8000_001E in functions:
        at = 2 + 10 * functions.index(0x8000_001E)
        words[at + 3], words[at + 4] = index, index & 0xFF
    if brand and _BRAND[0] in functions and not words[5 + 10 * functions.index(_BRAND[0])]:
        name = memoryview(brand).cast("I")
        for part, function in enumerate(_BRAND):
            if function in functions:
                at = 5 + 10 * functions.index(function)
                words[at : at + 4] = name[4 * part : 4 * part + 4]
    return cpuid


def add_tsc_deadline(cpuid: bytearray) -> None:
    """Let the guest's timer be told a moment instead of counting down: one exit less a tick."""
    words = memoryview(cpuid).cast("I")
    functions = words[2::10].tolist()
    if 0x1 in functions:
        words[2 + 10 * functions.index(0x1) + 5] |= _CPUID_TSC_DEADLINE


def _put_level(entry: memoryview, index: int, count: int) -> None:
    """Say one level of the extended topology: one thread a core, then all the cores."""
    level = entry[1]
    shift, processors = ((0, 1), ((count - 1).bit_length(), count), (0, 0))[min(level, 2)]
    entry[3], entry[4], entry[6] = shift, processors, index
    entry[5] = level & 0xFF | (level + 1 if level < 2 else 0) << 8
