# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Guest memory: the gap below 4 GiB, and bounds that hold at every edge."""

from __future__ import annotations

import ctypes
import mmap

import pytest
from ansible.module_utils.kvm import memory as memory_module
from ansible.module_utils.kvm.errors import ConfigError, HostError
from ansible.module_utils.kvm.memory import GAP_END, GAP_START, PAGE, GuestMemory

MIB, GIB = 1 << 20, 1 << 30


@pytest.mark.parametrize(
    ("size", "regions"),
    [
        (PAGE, [(0, PAGE)]),
        (128 * MIB, [(0, 128 * MIB)]),
        (3 * GIB - PAGE, [(0, 3 * GIB - PAGE)]),
        (3 * GIB, [(0, 3 * GIB)]),
        (3 * GIB + PAGE, [(0, 3 * GIB), (4 * GIB, PAGE)]),
        (64 * GIB, [(0, 3 * GIB), (4 * GIB, 61 * GIB)]),
    ],
)
def test_regions_leave_the_last_gib_below_4_gib_to_devices(new_memory, size, regions):
    memory = new_memory(size)
    assert [(one.start, one.size) for one in memory.regions] == regions
    assert memory.size == size


@pytest.mark.parametrize("size", [0, -PAGE, 1, PAGE - 1, PAGE + 1, 128 * MIB + 512])
def test_a_size_that_is_no_number_of_pages_is_refused(size):
    with pytest.raises(ConfigError, match=r"positive multiple of 4096"):
        GuestMemory(size)


def test_more_than_the_address_space_is_the_hosts_error():
    with pytest.raises(HostError, match="cannot map"):
        GuestMemory(1 << 62)


SIZE = 3 * GIB + 2 * PAGE
INSIDE = [(0, 1), (0, 0), (GAP_START - 8, 8), (GAP_START, 0), (GAP_END, 8)]
INSIDE += [(GAP_END + 2 * PAGE - 1, 1), (GAP_END + 2 * PAGE, 0), (PAGE - 4, 8)]
OUTSIDE = [(-1, 1), (GAP_START - 1, 2), (GAP_START, 1), (GAP_END - 1, 1), (GAP_END - 1, 2)]
OUTSIDE += [(GAP_END + 2 * PAGE - 1, 2), (GAP_END + 2 * PAGE, 1), (1 << 64, 1), (0, 4 * GIB)]


@pytest.mark.parametrize(("address", "length"), INSIDE)
def test_what_is_written_is_read_back(new_memory, address, length):
    memory = new_memory(SIZE)
    data = bytes(range(1, length + 1))
    memory.write(address, data)
    assert memory.read(address, length) == data


@pytest.mark.parametrize(("address", "length"), OUTSIDE)
def test_an_access_outside_is_refused(new_memory, address, length):
    memory = new_memory(SIZE)
    with pytest.raises(ConfigError, match="outside the guest's"):
        memory.read(address, length)
    if length <= PAGE:
        with pytest.raises(ConfigError, match="outside the guest's"):
            memory.write(address, bytes(length))


def test_a_new_memory_is_zero_and_lies_where_it_says(new_memory):
    memory = new_memory(2 * PAGE)
    assert memory.read(0, 2 * PAGE) == bytes(2 * PAGE)
    memory.write(PAGE, b"seen")
    assert ctypes.string_at(memory.regions[0].address + PAGE, 4) == b"seen"


def test_a_closed_memory_has_given_everything_back():
    memory = GuestMemory(SIZE)
    mappings = [region.map for region in memory.regions]
    memory.close()
    memory.close()
    assert all(mapping.closed for mapping in mappings)
    with pytest.raises(ConfigError, match="outside the guest's"):
        memory.read(0, 1)


def test_a_second_region_that_cannot_be_had_gives_the_first_one_back(monkeypatch):
    """A host that is short of memory in just this moment: the second mapping is refused."""
    made = []
    mapping = mmap.mmap

    def one_only(*arguments, **settings):
        if made:
            raise OSError(12, "Cannot allocate memory")
        made.append(mapping(*arguments, **settings))
        return made[0]

    monkeypatch.setattr(memory_module.mmap, "mmap", one_only)
    with pytest.raises(HostError, match="Cannot allocate memory"):
        GuestMemory(SIZE)
    assert made[0].closed
