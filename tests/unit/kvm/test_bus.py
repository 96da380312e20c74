# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The bus, over a struct kvm_run made here: ports, string I/O and MMIO of every size."""

from __future__ import annotations

import struct

import pytest
from ansible.module_utils.kvm.bus import Bus, Device, GuestStop

DATA = 4096  # where the kernel puts a port exit's data: the second page


class Run:
    """A struct kvm_run as the kernel leaves it at an exit, with what the bus takes of a vCPU."""

    def __init__(self):
        self.run8 = memoryview(bytearray(2 * 4096))

    def port(self, is_out, size, port, values=(), count=1):
        struct.pack_into("<BBHIQ", self.run8, 32, is_out, size, port, count, DATA)
        for at, value in enumerate(values):
            self.run8[DATA + at * size : DATA + (at + 1) * size] = value.to_bytes(size, "little")
        return self

    def mmio(self, address, size, is_write, data=b""):
        struct.pack_into("<Q8sIB", self.run8, 32, address, data, size, is_write)
        return self

    def given(self, size, count=1):
        """Return what an IN left for the guest."""
        raw = bytes(self.run8[DATA : DATA + size * count])
        return [int.from_bytes(raw[at : at + size], "little") for at in range(0, len(raw), size)]


class Recorder(Device):
    """Remembers what is written, answers reads with numbers that count up."""

    def __init__(self, first=0):
        self.seen = []
        self.next = first

    def read(self, offset, size):
        self.seen.append(("read", offset, size))
        self.next += 1
        return self.next - 1

    def write(self, offset, size, value):
        self.seen.append(("write", offset, size, value))


@pytest.fixture
def bus():
    return Bus()


@pytest.mark.parametrize("size", [1, 2, 4])
def test_out_reaches_the_device_at_its_offset(bus, size):
    device = Recorder()
    bus.add_ports(0x3F8, 8, device)
    value = 0x87654321 & (1 << 8 * size) - 1
    bus.port_io(Run().port(1, size, 0x3FB, [value]))
    assert device.seen == [("write", 3, size, value)]


@pytest.mark.parametrize("size", [1, 2, 4])
def test_in_gives_the_devices_value_cut_to_size(bus, size):
    device = Recorder(first=0x1_2345_6789)
    bus.add_ports(0x70, 2, device)
    run = Run().port(0, size, 0x71)
    bus.port_io(run)
    assert device.seen == [("read", 1, size)]
    assert run.given(size) == [0x1_2345_6789 & (1 << 8 * size) - 1]


@pytest.mark.parametrize("size", [1, 2, 4])
def test_string_io_is_one_access_an_element_in_order(bus, size):
    device = Recorder(first=10)
    bus.add_ports(0x100, 1, device)
    bus.port_io(Run().port(1, size, 0x100, [1, 2, 3], count=3))
    assert device.seen == [("write", 0, size, value) for value in (1, 2, 3)]
    run = Run().port(0, size, 0x100, count=3)
    bus.port_io(run)
    assert run.given(size, 3) == [10, 11, 12]


@pytest.mark.parametrize(("size", "ones"), [(1, 0xFF), (2, 0xFFFF), (4, 0xFFFFFFFF)])
def test_an_empty_port_reads_as_ones_and_swallows_writes(bus, size, ones):
    run = Run().port(0, size, 0x2E8, count=2)
    bus.port_io(run)
    assert run.given(size, 2) == [ones, ones]
    bus.port_io(Run().port(1, size, 0x2E8, [7]))


def test_a_device_without_methods_is_an_empty_bus(bus):
    bus.add_ports(0x80, 1, Device())
    bus.port_io(Run().port(1, 1, 0x80, [1]))
    run = Run().port(0, 2, 0x80)
    bus.port_io(run)
    assert run.given(2) == [0xFFFF]


def test_neighbours_do_not_hear_each_other(bus):
    left, right = Recorder(), Recorder()
    bus.add_ports(0x60, 4, left)
    bus.add_ports(0x64, 1, right)
    bus.port_io(Run().port(1, 1, 0x63, [1]))
    bus.port_io(Run().port(1, 1, 0x64, [2]))
    bus.port_io(Run().port(1, 1, 0x65, [3]))
    assert (left.seen, right.seen) == ([("write", 3, 1, 1)], [("write", 0, 1, 2)])


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_mmio_of_every_size(bus, size):
    device = Recorder(first=0xF1F2_F3F4_F5F6_F7F8)
    bus.add_mmio(0xD000_0000, 0x1000, device)
    data = bytes(range(1, size + 1))
    bus.mmio(Run().mmio(0xD000_0010, size, 1, data))
    run = Run().mmio(0xD000_0FF8, size, 0)
    bus.mmio(run)
    value = int.from_bytes(data, "little")
    assert device.seen == [("write", 0x10, size, value), ("read", 0xFF8, size)]
    wanted = (0xF1F2_F3F4_F5F6_F7F8).to_bytes(8, "little")[:size]
    assert bytes(run.run8[40 : 40 + size]) == wanted


@pytest.mark.parametrize("address", [0xCFFF_FFFF, 0xD000_1000, 0, (1 << 64) - 1])
def test_mmio_where_nothing_is(bus, address):
    device = Recorder()
    bus.add_mmio(0xD000_0000, 0x1000, device)
    run = Run().mmio(address, 4, 0)
    bus.mmio(run)
    bus.mmio(Run().mmio(address, 4, 1, b"abcd"))
    assert bytes(run.run8[40:44]) == b"\xff" * 4
    assert device.seen == []


def test_a_device_that_ends_the_guest_leaves_the_bus_unlocked(bus):
    class Stopper(Device):
        def write(self, offset, size, value):
            raise GuestStop(43, "enough")

    bus.add_ports(0xF4, 1, Stopper())
    with pytest.raises(GuestStop) as stopped:
        bus.port_io(Run().port(1, 1, 0xF4, [21]))
    assert (stopped.value.status, stopped.value.reason) == (43, "enough")
    assert not bus.lock.locked()
