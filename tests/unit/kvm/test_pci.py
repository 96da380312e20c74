# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The PCI bus as Linux probes it: configuration space, BARs that move, MSI-X."""

from __future__ import annotations

import struct

import pytest
from ansible.module_utils.kvm.bus import Bus, Device
from ansible.module_utils.kvm.errors import ConfigError
from ansible.module_utils.kvm.events import Interrupts
from ansible.module_utils.kvm.pci import (
    BAR_SIZE,
    CONFIG_PORTS,
    MAX_FUNCTIONS,
    Function,
    Mapping,
    Msix,
    PciBus,
)
from ansible.module_utils.kvm.virtio.entropy import Entropy
from driving import BAR, FakeVm

ENABLE = 1 << 31
MASKED, MESSAGES_ON, ALL_MASKED = 1, 1 << 15, 1 << 14
COUNT = 3
TABLE, PENDING = 0x1000, 0x1800


class Ports:
    """The configuration ports, as a kernel uses them (configuration mechanism 1)."""

    def __init__(self, pci):
        self.pci = pci

    def out(self, port, size, value):
        self.pci.write(port - CONFIG_PORTS, size, value)

    def into(self, port, size):
        return self.pci.read(port - CONFIG_PORTS, size) & (1 << 8 * size) - 1

    def select(self, place, bus=0, device=0, function=0, enable=ENABLE):
        self.out(0xCF8, 4, enable | bus << 16 | device << 11 | function << 8 | place & 0xFC)

    def read(self, place, size, **where):
        self.select(place, **where)
        return self.into(0xCFC + place % 4, size)

    def write(self, place, size, value, **where):
        self.select(place, **where)
        self.out(0xCFC + place % 4, size, value)


class Registers(Device):
    """What stands at a BAR: answers with its own number."""

    def __init__(self, number):
        self.number = number

    def read(self, offset, size):
        return self.number


@pytest.fixture
def ports():
    pci = PciBus()
    pci.add(Function(0x1AF4, 0x1044, 0xFF_00_00, BAR, revision=1))
    return Ports(pci)


def test_the_mechanism_is_found(ports):
    """As pci_check_type1 of the kernel looks for it, and pci_sanity_check after that."""
    ports.out(0xCFB, 1, 0x01)
    before = ports.into(0xCF8, 4)
    ports.out(0xCF8, 4, 0x8000_0000)
    assert ports.into(0xCF8, 4) == 0x8000_0000
    ports.out(0xCF8, 4, before)
    assert ports.read(0x0A, 2) == 0x0600  # a host bridge


def test_what_a_function_says_of_itself(ports):
    assert ports.read(0x00, 4, device=1) == 0x1044_1AF4
    assert ports.read(0x00, 2, device=1) == 0x1AF4
    assert ports.read(0x02, 2, device=1) == 0x1044
    assert ports.read(0x08, 4, device=1) == 0xFF00_0001
    assert ports.read(0x08, 1, device=1) == 1
    assert ports.read(0x0A, 2, device=1) == 0xFF00
    assert ports.read(0x0E, 1, device=1) == 0  # one function, no bridge
    assert ports.read(0x2C, 4, device=1) == 0x1044_1AF4
    assert ports.read(0x3D, 1, device=1) == 0  # no interrupt pin
    assert ports.read(0x06, 2, device=1) == 0  # no capabilities
    assert ports.read(0x04, 2, device=1) == 2  # memory is on, as firmware leaves it


ABSENT = {
    "a device": {"device": 2},
    "the last device": {"device": 31},
    "another function": {"device": 1, "function": 1},
    "the last function": {"device": 0, "function": 7},
    "another bus": {"bus": 1},
    "the last bus": {"bus": 255, "device": 1},
    "the mechanism switched off": {"enable": 0, "device": 1},
}


@pytest.mark.parametrize("case", ABSENT)
def test_what_is_not_there_reads_as_ones_and_takes_nothing(ports, case):
    before = [bytes(function.config) for function in ports.pci.functions]
    for size in (1, 2, 4):
        assert ports.read(0, size, **ABSENT[case]) == (1 << 8 * size) - 1
    ports.write(0x10, 4, 0xFFFF_FFFF, **ABSENT[case])
    ports.write(0x04, 2, 0, **ABSENT[case])
    assert [bytes(function.config) for function in ports.pci.functions] == before


@pytest.mark.parametrize(
    ("port", "size"), [(0xCF8, 1), (0xCF8, 2), (0xCFA, 2), (0xCFB, 1), (0xCF9, 4), (0xCFA, 4)]
)
def test_parts_of_the_address_are_no_address(ports, port, size):
    ports.select(0, device=1)
    ports.out(port, size, 0)
    assert ports.into(0xCFC, 4) == 0x1044_1AF4
    assert ports.into(port, size) == (1 << 8 * size) - 1


@pytest.mark.parametrize(("port", "size"), [(0xCFD, 4), (0xCFE, 4), (0xCFF, 2), (0xCFF, 4)])
def test_data_that_reaches_behind_the_ports(ports, port, size):
    ports.select(0x10, device=1)
    assert ports.into(port, size) == (1 << 8 * size) - 1
    ports.out(port, size, 0)
    assert ports.read(0x10, 4, device=1) == BAR


@pytest.mark.parametrize("place", range(0, 256, 4))
def test_every_place_in_every_size(ports, place):
    config = bytes(ports.pci.functions[1].config)
    for size in (1, 2, 4):
        for at in range(place, place + 5 - size):
            wanted = int.from_bytes(config[at : at + size], "little")
            assert ports.read(at, size, device=1) == wanted


def test_only_what_may_be_written_is(ports):
    before = bytes(ports.pci.functions[1].config)
    for place in range(0, 256, 4):
        ports.write(place, 4, 0xFFFF_FFFF, device=1)
    after = bytearray(ports.pci.functions[1].config)
    assert struct.unpack_from("<I", after, 0x10) == (0xFFFF_FFFF & -BAR_SIZE,)
    assert struct.unpack_from("<H", after, 0x04) == (0x0406,)
    after[0x10:0x14], after[0x04:0x06] = before[0x10:0x14], before[0x04:0x06]
    assert bytes(after) == before
    for place in range(256):
        ports.write(place, 1, 0, device=1)
    assert ports.read(0x04, 2, device=1) == 0
    assert ports.read(0x00, 4, device=1) == 0x1044_1AF4


def sized(ports, place):
    """Measure a BAR as pci_read_bases does; return its size."""
    command = ports.read(0x04, 2, device=1)
    ports.write(0x04, 2, command & ~3, device=1)
    before = ports.read(place, 4, device=1)
    ports.write(place, 4, 0xFFFF_FFFF, device=1)
    mask = ports.read(place, 4, device=1)
    ports.write(place, 4, before, device=1)
    ports.write(0x04, 2, command, device=1)
    return -(mask & ~0xF) & 0xFFFF_FFFF if mask else 0


def test_bars_are_measured(ports):
    assert sized(ports, 0x10) == BAR_SIZE
    assert ports.read(0x10, 4, device=1) == BAR
    assert [sized(ports, place) for place in (0x14, 0x18, 0x1C, 0x20, 0x24, 0x30)] == [0] * 6


def test_the_host_bridge_has_no_bar(ports):
    ports.write(0x10, 4, 0xFFFF_FFFF)
    assert ports.read(0x10, 4) == 0
    assert ports.pci.functions[0].bar is None


def test_a_bus_has_room_for_so_many():
    pci = PciBus()
    numbers = [pci.add(Function(1, 2, 3)) for _ in range(MAX_FUNCTIONS - 1)]
    assert numbers == list(range(1, 32))
    with pytest.raises(ConfigError, match="31 devices at most"):
        pci.add(Function(1, 2, 3))


def test_capabilities_are_a_list():
    function = Function(1, 2, 3)
    places = [
        function.add_capability(0x09, bytes(14), b"\xff"),
        function.add_capability(0x11, bytes(10)),
        function.add_capability(0x05, b"ab"),
    ]
    assert places == [0x40, 0x50, 0x5C]
    assert function.config[0x06] == 0x10
    at, found = function.config[0x34], []
    while at:
        found.append((at, function.config[at]))
        at = function.config[at + 1]
    assert found == [(0x40, 0x09), (0x50, 0x11), (0x5C, 0x05)]
    function.write_config(0x42, 2, 0xFFFF)
    assert function.config[0x42:0x44] == b"\xff\0"
    with pytest.raises(ValueError, match="more capabilities than fit"):
        function.add_capability(0x09, bytes(0xA0))


# BARs on the bus.


class Run:
    """A struct kvm_run of an access to memory."""

    def __init__(self, address):
        self.run8 = memoryview(bytearray(4096))
        struct.pack_into("<Q8xIB", self.run8, 32, address, 4, 0)

    def read_from(self, bus):
        bus.mmio(self)
        return struct.unpack_from("<I", self.run8, 40)[0]


@pytest.fixture
def pair():
    """Two functions with their BARs next to each other, on one bus."""
    bus = Bus()
    functions = [Function(1, 2, 3, BAR + number * BAR_SIZE) for number in range(2)]
    mappings = [Mapping(one, bus, Registers(7 + number)) for number, one in enumerate(functions)]
    for mapping in mappings:
        assert mapping.update()
    return bus, functions, mappings


def answers(bus, *addresses):
    return [Run(address).read_from(bus) for address in addresses]


NOTHING = 0xFFFF_FFFF


def test_bars_are_where_firmware_left_them(pair):
    bus, _, mappings = pair
    wanted = [NOTHING, 7, 7, 8, 8, NOTHING]
    edges = [BAR - 4, BAR, BAR + BAR_SIZE - 4, BAR + BAR_SIZE, BAR + 2 * BAR_SIZE - 4]
    assert answers(bus, *edges, BAR + 2 * BAR_SIZE) == wanted
    assert not mappings[0].update()


def test_a_bar_moves(pair):
    bus, functions, mappings = pair
    functions[0].write_config(0x10, 4, 0xD000_0000)
    assert mappings[0].update()
    assert answers(bus, BAR, 0xD000_0000, BAR + BAR_SIZE) == [NOTHING, 7, 8]


def test_a_bar_that_is_off_stays_until_it_is_on_elsewhere(pair):
    bus, functions, mappings = pair
    functions[0].write_config(0x04, 2, 0)
    functions[0].write_config(0x10, 4, 0xD000_0000)
    assert not mappings[0].update()
    assert answers(bus, BAR, 0xD000_0000) == [7, NOTHING]
    functions[0].write_config(0x04, 2, 2)
    assert mappings[0].update()
    assert answers(bus, BAR, 0xD000_0000) == [NOTHING, 7]


def test_a_bar_over_another_one_takes_nothing_away_when_it_leaves(pair):
    bus, functions, mappings = pair
    functions[0].write_config(0x10, 4, BAR + BAR_SIZE)
    assert mappings[0].update()
    assert answers(bus, BAR, BAR + BAR_SIZE) == [NOTHING, 8]
    functions[0].write_config(0x10, 4, BAR)
    assert mappings[0].update()
    assert answers(bus, BAR, BAR + BAR_SIZE) == [7, 8]


def test_a_device_that_moves_is_notified_where_it_is(drive):
    driver = drive(Entropy())
    (kick,) = driver.transport.kicks
    assert driver.vm.notified == {BAR + 0x2000: kick.fd}
    driver.config_write(0x04, 2, 0)
    driver.config_write(0x10, 4, 0xFFFF_FFFF)
    driver.config_write(0x10, 4, 0xC800_0000)
    assert driver.vm.notified == {BAR + 0x2000: kick.fd}
    driver.config_write(0x04, 2, 6)
    assert driver.vm.notified == {0xC800_2000: kick.fd}


def test_a_device_that_is_measured_while_it_is_on(drive):
    driver = drive(Entropy())
    (kick,) = driver.transport.kicks
    driver.config_write(0x10, 4, 0xFFFF_FFFF)
    assert driver.config_read(0x10, 4) == 0xFFFF_C000
    assert driver.vm.notified == {0xFFFF_E000: kick.fd}
    driver.config_write(0x10, 4, BAR)
    assert driver.vm.notified == {BAR + 0x2000: kick.fd}


def test_an_address_that_kvm_does_not_take_is_notified_by_exits(drive):
    driver = drive(Entropy())
    (kick,) = driver.transport.kicks
    driver.vm.notified[0xC800_2000] = -1  # somebody else's
    driver.config_write(0x10, 4, 0xC800_0000)
    assert driver.vm.notified == {0xC800_2000: -1}
    driver.notify(0)
    assert kick.take()
    driver.config_write(0x10, 4, BAR)
    assert driver.vm.notified == {0xC800_2000: -1, BAR + 0x2000: kick.fd}


# MSI-X (6.8.2).


class Messages:
    """A function with MSI-X, seen from the guest."""

    def __init__(self):
        self.vm = FakeVm()
        self.function = Function(1, 2, 3)
        self.msix = Msix(self.function, Interrupts(self.vm), COUNT, TABLE, PENDING)
        self.at = self.function.config[0x34]

    def control(self, value=None):
        if value is None:
            return self.function.read_config(self.at + 2, 2)
        self.function.write_config(self.at + 2, 2, value)
        self.msix.changed(self.at + 2, 2)
        return value

    def write(self, vector, field, value, size=4):
        self.msix.write_table(16 * vector + field, size, value)

    def fill(self, vector, address=0xFEE0_1000, data=0x41, control=0):
        for field, value in ((0, address), (4, 0), (8, data), (12, control)):
            self.write(vector, field, value)

    def pending(self):
        return self.msix.read_pending(0, 8)

    def arrives(self, vector):
        """Return the message by which a signal of the vector reaches the guest, None for none."""
        event = self.msix.vectors[vector].event
        gsi = self.vm.irqfds.get(event.fd)
        return self.vm.message(gsi) if gsi is not None and event.take() else None


@pytest.fixture
def messages():
    messages = Messages()
    yield messages
    messages.msix.close()


def test_the_capability(messages):
    function, at = messages.function, messages.at
    assert function.read_config(at, 1) == 0x11
    assert function.read_config(at + 2, 2) == COUNT - 1
    assert function.read_config(at + 4, 4) == TABLE
    assert function.read_config(at + 8, 4) == PENDING
    messages.control(0xFFFF)
    assert messages.control() == MESSAGES_ON | ALL_MASKED | COUNT - 1
    messages.control(0)
    assert messages.control() == COUNT - 1


def test_all_are_masked_at_first(messages):
    for vector in range(COUNT):
        assert messages.msix.read_table(16 * vector, 8) == 0
        assert messages.msix.read_table(16 * vector + 8, 8) == MASKED << 32
    messages.control(MESSAGES_ON)
    messages.msix.signal(0)
    assert messages.arrives(0) is None
    assert messages.pending() == 1
    assert messages.vm.routings == 0


def test_a_message_arrives(messages):
    messages.control(MESSAGES_ON)
    messages.fill(1, 0xFEE0_3000, 0x42)
    messages.msix.signal(1)
    assert messages.arrives(1) == (0xFEE0_3000, 0x42)
    assert messages.arrives(1) is None
    assert messages.pending() == 0
    messages.msix.signal(0)
    assert messages.arrives(0) is None


@pytest.mark.parametrize("how", ["vector", "function", "off"])
def test_what_is_masked_waits(messages, how):
    """It is due once, however often it was raised, and comes when the mask is taken away."""
    messages.control(MESSAGES_ON)
    messages.fill(2)

    def mask(on):
        if how == "vector":
            messages.write(2, 12, MASKED if on else 0)
        else:
            off = MESSAGES_ON | ALL_MASKED if how == "function" else 0
            messages.control(off if on else MESSAGES_ON)

    mask(True)
    for _ in range(3):
        messages.msix.signal(2)
    assert messages.arrives(2) is None
    assert messages.pending() == 1 << 2
    mask(False)
    assert messages.pending() == 0
    assert messages.arrives(2) == (0xFEE0_1000, 0x41)
    assert messages.arrives(2) is None


def test_a_message_that_is_changed_under_its_mask(messages):
    messages.control(MESSAGES_ON)
    messages.fill(0)
    messages.write(0, 12, MASKED)
    messages.write(0, 0, 0xFEE0_7000)
    messages.write(0, 8, 0x77)
    assert messages.vm.message(24) == (0xFEE0_1000, 0x41)
    messages.write(0, 12, 0)
    messages.msix.signal(0)
    assert messages.arrives(0) == (0xFEE0_7000, 0x77)


def test_a_message_that_is_changed_without_a_mask(messages):
    """The specification leaves open what happens: here it counts from the next unmasking on."""
    messages.control(MESSAGES_ON)
    messages.fill(0)
    messages.write(0, 8, 0x77)
    messages.msix.signal(0)
    assert messages.arrives(0) == (0xFEE0_1000, 0x41)
    messages.write(0, 12, 0)
    messages.msix.signal(0)
    assert messages.arrives(0) == (0xFEE0_1000, 0x77)


def test_masking_and_unmasking_routes_no_interrupt_anew(messages):
    messages.control(MESSAGES_ON)
    messages.fill(0)
    for _ in range(5):
        messages.write(0, 12, MASKED)
        messages.write(0, 12, 0)
    assert messages.vm.routings == 1


def test_each_vector_has_an_interrupt_of_its_own(messages):
    messages.control(MESSAGES_ON)
    for vector in (2, 0, 1):
        messages.fill(vector, data=0x50 + vector)
    assert sorted(messages.vm.irqfds.values()) == [24, 25, 26]
    for vector in range(COUNT):
        messages.msix.signal(vector)
        assert messages.arrives(vector) == (0xFEE0_1000, 0x50 + vector)


@pytest.mark.parametrize("number", [COUNT, 0xFFFF])
def test_a_vector_that_is_none(messages, number):
    messages.control(MESSAGES_ON)
    messages.msix.signal(number)
    assert messages.pending() == 0
    messages.fill(number)
    assert messages.msix.read_table(16 * number, 4) == 0
    assert messages.vm.irqfds == {}


@pytest.mark.parametrize(
    ("field", "size", "value", "wanted"),
    [
        (0, 8, 0x1_FEE0_1000, (0x1_FEE0_1000, 0)),
        (0, 4, 0xFEE0_1000, (0xFEE0_1000, 0)),
        (4, 4, 0x1, (0x1_0000_0000, 0)),
        (8, 8, 0x41, (0, 0x41)),
        (8, 2, 0x4141, (0, 0x4141)),
        (11, 1, 0x80, (0, 0x8000_0000)),
        (4, 8, 0x41_0000_0001, (0x1_0000_0000, 0x41)),
        (14, 4, 0xFFFF_FFFF, (0, 0)),
        (12, 8, 0xFFFF_FFFF_FFFF_FFFF, (0, 0)),
    ],
)
def test_entries_are_written_in_every_size(messages, field, size, value, wanted):
    """What reaches over the end of an entry is ignored."""
    messages.control(MESSAGES_ON)
    messages.write(0, field, value, size)
    messages.write(0, 12, 0, 1)
    assert messages.vm.message(24) == wanted


@pytest.mark.parametrize(
    ("offset", "size", "wanted"),
    [(0, 1, 5), (0, 2, 5), (0, 4, 5), (0, 8, 5), (1, 1, 0), (8, 8, 0), (0x7F8, 8, 0)],
)
def test_pending_bits_in_every_size(messages, offset, size, wanted):
    messages.msix.signal(0)
    messages.msix.signal(2)
    assert messages.msix.read_pending(offset, size) == wanted
