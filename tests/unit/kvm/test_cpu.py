# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A vCPU's first state, and its CPUID: struct kvm_cpuid2 in, the same with topology out."""

from __future__ import annotations

import struct

import pytest
from ansible.module_utils.kvm import abi, cpu

HYPERVISOR, HTT = 1 << 31, 1 << 28
ALL = 0xFFFFFFFF


def cpuid2(*entries):
    """Return a struct kvm_cpuid2 of (function, index, eax, ebx, ecx, edx)."""
    body = b"".join(struct.pack("<7I12x", f, i, 0, a, b, c, d) for f, i, a, b, c, d in entries)
    return bytearray(struct.pack("<II", len(entries), 0) + body)


def decode(buffer):
    """Return (eax, ebx, ecx, edx) by (function, index)."""
    (count,) = struct.unpack_from("<I", buffer)
    assert len(buffer) == 8 + 40 * count
    found = {}
    for function, index, _, *values in struct.iter_unpack("<7I12x", bytes(buffer[8:])):
        found[function, index] = tuple(values)
    return found


def answer(entry, index=0, count=1):
    """Return what a vCPU sees of one entry."""
    found = decode(cpu.cpuid_for(cpuid2(entry), index, count))
    return found[entry[0], entry[1]]


@pytest.mark.parametrize(
    ("index", "count", "ebx", "htt"),
    [
        (0, 1, 0x0001_5678, 0),
        (0, 2, 0x0002_5678, HTT),
        (1, 2, 0x0102_5678, HTT),
        (255, 256, 0xFFFF_5678, HTT),  # the count has 8 bits
        (256, 300, 0x00FF_5678, HTT),  # and so has the initial APIC id
    ],
)
def test_leaf_1_carries_id_count_and_hypervisor(index, count, ebx, htt):
    leaf = answer((1, 0, 0x800F12, 0xAB99_5678, 0x200, HTT | 0x1), index, count)
    assert leaf == (0x800F12, ebx, HYPERVISOR | 0x200, htt | 0x1)


@pytest.mark.parametrize("function", [0xB, 0x1F])
@pytest.mark.parametrize(
    ("level", "count", "shift", "processors", "kind"),
    [
        (0, 6, 0, 1, 1),
        (1, 6, 3, 6, 2),
        (1, 1, 0, 1, 2),
        (1, 8, 3, 8, 2),
        (1, 9, 4, 9, 2),
        (2, 6, 0, 0, 0),
        (5, 6, 0, 0, 0),
    ],
)
def test_extended_topology(function, level, count, shift, processors, kind):
    leaf = answer((function, level, ALL, ALL, ALL, ALL), 5, count)
    assert leaf == (shift, processors, kind << 8 | level, 5)


def test_amd_topology():
    assert answer((0x8000_0008, 0, 0x3030, 7, 0xFFFF, 9), 3, 4) == (0x3030, 7, 0x0F03, 9)
    assert answer((0x8000_001E, 0, ALL, ALL, 0x700, 1), 3, 4) == (3, 3, 0x700, 1)


def test_other_leaves_stay_as_kvm_gave_them_and_so_does_the_source():
    entries = [(0, 0, 16, 1, 2, 3), (7, 0, 0, 0x29, 0, 0), (0xD, 1, 15, 0, 0, 0)]
    supported = cpuid2(*entries, (1, 0, 0, 0, 0, 0))
    before = bytes(supported)
    found = decode(cpu.cpuid_for(supported, 1, 2))
    assert [found[entry[:2]] for entry in entries] == [entry[2:] for entry in entries]
    assert bytes(supported) == before


BRAND_LEAVES = (0x8000_0002, 0x8000_0003, 0x8000_0004)


def brand_of(found):
    return b"".join(struct.pack("<4I", *found[leaf, 0]) for leaf in BRAND_LEAVES)


def test_an_empty_brand_is_filled():
    brand = b"A CPU of the tests @ 3.00GHz".ljust(48, b"\0")
    empty = cpuid2(*[(leaf, 0, 0, 0, 0, 0) for leaf in BRAND_LEAVES])
    assert brand_of(decode(cpu.cpuid_for(empty, 0, 1, brand))) == brand
    assert brand_of(decode(cpu.cpuid_for(empty, 0, 1))) == bytes(48)


def test_a_brand_that_kvm_gives_is_kept():
    given = b"What KVM says".ljust(48, b"\0")
    words = [struct.unpack_from("<4I", given, at) for at in (0, 16, 32)]
    entries = [(leaf, 0, *four) for leaf, four in zip(BRAND_LEAVES, words)]
    assert brand_of(decode(cpu.cpuid_for(cpuid2(*entries), 0, 1, b"x" * 48))) == given


def test_a_cpuid_without_the_later_brand_leaves_is_no_matter():
    first = cpuid2((BRAND_LEAVES[0], 0, 0, 0, 0, 0))
    found = decode(cpu.cpuid_for(first, 0, 1, b"ABCD" * 12))
    assert struct.pack("<4I", *found[BRAND_LEAVES[0], 0]) == b"ABCD" * 4


def test_the_hosts_brand_has_48_bytes_and_an_end():
    brand = cpu.host_brand()
    assert len(brand) == 48
    assert brand.endswith(b"\0")


def filled_sregs():
    """Return special registers that are all ones, so that what is not set shows."""
    return abi.kvm_sregs.from_buffer_copy(b"\xff" * 312)


def test_real_mode_is_that_of_a_boot_sector():
    sregs = filled_sregs()
    cpu.enter_real_mode(sregs)
    for name in ("cs", "ds", "es", "fs", "gs", "ss"):
        assert (getattr(sregs, name).base, getattr(sregs, name).selector) == (0, 0)


def test_protected_mode_is_flat_without_paging():
    sregs = filled_sregs()
    cpu.enter_protected_mode(sregs)
    assert sregs.cr0 == 0x11
    for name in ("cs", "ds", "es", "fs", "gs", "ss"):
        one = getattr(sregs, name)
        assert (one.base, one.limit, one.dpl, one.present) == (0, 0xFFFFFFFF, 0, 1)
        assert (one.db, one.s, one.l, one.g) == (1, 1, 0, 1)
        # SDM volume 3, table 3-1: accessed code that can be read, accessed data for writing.
        assert (one.selector, one.type) == ((0x08, 11) if name == "cs" else (0x10, 3))


def walk(tables, address):
    """Translate an address as the CPU does in 64-bit mode, None where it faults (SDM 3, 4.5)."""
    memory = {}
    for at, content in tables:
        for number, (word,) in enumerate(struct.iter_unpack("<Q", content)):
            memory[at + 8 * number] = word
    table = 0x9000
    for shift in (39, 30, 21):
        entry = memory.get(table + 8 * (address >> shift & 0x1FF), 0)
        if entry & 0x3 != 0x3:
            return None
        table = entry & 0x000F_FFFF_FFFF_F000
        if shift == 21:
            assert entry & 0x80
            return table + (address & 0x1F_FFFF)
    raise AssertionError("no page")


@pytest.mark.parametrize(
    ("top", "mapped"), [(0, 1), (1, 1), (1 << 30, 1), ((1 << 30) + 1, 2), (3 << 30, 3)]
)
def test_long_mode_maps_addresses_to_themselves(top, mapped):
    tables = cpu.long_mode_tables(top)
    for gib in range(5):
        for offset in (0, 0x1F_FFFF, 0x20_0000, 0x1234_5678, (1 << 30) - 1):
            address = (gib << 30) + offset
            assert walk(tables, address) == (address if gib < mapped else None)
    assert walk(tables, 1 << 39) is None
    assert walk(tables, (1 << 48) - 1) is None
    spans = sorted((at, at + len(content)) for at, content in tables)
    assert all(before[1] <= after[0] for before, after in zip(spans, spans[1:]))
    assert spans[-1][1] <= 0x1_0000


def test_long_mode_segments():
    """The selectors 0x10 and 0x18 of the boot protocol, the same in the table and in the CPU."""
    sregs = abi.kvm_sregs(cr0=0x6000_0010, cr4=0, efer=0)
    cpu.enter_long_mode(sregs)
    gdt = dict(cpu.long_mode_tables())[sregs.gdt.base]
    assert sregs.gdt.limit == len(gdt) - 1
    for name in ("cs", "ds", "es", "fs", "gs", "ss"):
        segment = getattr(sregs, name)
        assert segment.selector == (0x10 if name == "cs" else 0x18)
        (entry,) = struct.unpack_from("<Q", gdt, segment.selector)
        assert entry >> 40 & 0xF == segment.type
        found = [entry >> bit & 1 for bit in (44, 47, 53, 54, 55)]
        assert found == [segment.s, segment.present, segment.l, segment.db, segment.g]
        assert entry >> 45 & 3 == segment.dpl == 0
        limit = entry & 0xFFFF | entry >> 32 & 0xF_0000
        assert (limit << 12 | 0xFFF, segment.base) == (segment.limit, 0)
    assert (sregs.cs.l, sregs.cs.db) == (1, 0)
    assert sregs.cr3 == 0x9000
    assert sregs.cr0 & 1 << 31
    assert sregs.cr0 & 1
    assert not sregs.cr0 & 0x6000_0000  # caches are on
    assert sregs.cr4 & 1 << 5
    assert sregs.efer == 0x500


def test_the_deadline_timer_is_said_to_be_there():
    raw = bytearray(struct.pack("<II", 2, 0))
    for function in (0, 1):
        raw += struct.pack("<10I", function, 0, 0, 7, 0, 0, 0, 0, 0, 0)
    cpu.add_tsc_deadline(raw)
    leaves = list(struct.iter_unpack("<10I", raw[8:]))
    assert leaves[1][5] == 1 << 24
    assert leaves[0] == (0, 0, 0, 7, 0, 0, 0, 0, 0, 0)
    empty = bytearray(struct.pack("<II", 0, 0))
    cpu.add_tsc_deadline(empty)
    assert len(empty) == 8
