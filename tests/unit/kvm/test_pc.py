# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The PC's small devices: clock, memory sizes, keyboard controller, the ways to end."""

from __future__ import annotations

import calendar
import time

import pytest
from ansible.module_utils.kvm import pc
from ansible.module_utils.kvm.bus import GuestStop

MIB, GIB = 1 << 20, 1 << 30


def cmos(device, index):
    device.write(0, 1, index)
    return device.read(1, 1)


# seconds, minutes, hours, day of the week (Sunday is 1), day, month, year, century: in BCD
MOMENTS = {
    "2026-11-22 22:45:09": [0x09, 0x45, 0x22, 1, 0x22, 0x11, 0x26, 0x20],
    "2000-02-29 00:00:00": [0x00, 0x00, 0x00, 3, 0x29, 0x02, 0x00, 0x20],
    "1999-12-31 23:59:59": [0x59, 0x59, 0x23, 6, 0x31, 0x12, 0x99, 0x19],
    "2038-01-19 03:14:08": [0x08, 0x14, 0x03, 3, 0x19, 0x01, 0x38, 0x20],
    "2100-03-06 09:08:07": [0x07, 0x08, 0x09, 7, 0x06, 0x03, 0x00, 0x21],
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_clock(monkeypatch, moment):
    frozen = time.strptime(moment, "%Y-%m-%d %H:%M:%S")
    assert calendar.timegm(frozen)  # a date that exists
    monkeypatch.setattr(pc.time, "gmtime", lambda: frozen)
    device = pc.Cmos(128 * MIB)
    fields = (0x00, 0x02, 0x04, 0x06, 0x07, 0x08, 0x09, 0x32)
    assert [cmos(device, index) for index in fields] == MOMENTS[moment]


def test_a_leap_second_stays_a_time(monkeypatch):
    frozen = time.struct_time((2016, 12, 31, 23, 59, 60, 5, 366, 0))
    monkeypatch.setattr(pc.time, "gmtime", lambda: frozen)
    assert cmos(pc.Cmos(MIB), 0) == 0x59


STATUS = {0x0A: 0x26, 0x0B: 0x02, 0x0C: 0x00, 0x0D: 0x80}


@pytest.mark.parametrize("index", STATUS)
def test_clock_status_never_says_updating_and_means_24_hours(index):
    assert cmos(pc.Cmos(128 * MIB), index) == STATUS[index]


# memory → KiB below 640 KiB, KiB above 1 MiB, 64 KiB above 16 MiB, 64 KiB above 4 GiB
MEMORY = {
    512 << 10: (512, 0, 0, 0),
    1 * MIB: (640, 0, 0, 0),
    2 * MIB: (640, 1024, 0, 0),
    17 * MIB: (640, 16 * 1024, 16, 0),
    128 * MIB: (640, 0xFFFF, 112 * 16, 0),
    3 * GIB: (640, 0xFFFF, (3072 - 16) * 16, 0),
    4 * GIB: (640, 0xFFFF, (3072 - 16) * 16, 16 * 1024),
    64 * GIB: (640, 0xFFFF, (3072 - 16) * 16, 61 * 16 * 1024),
}


@pytest.mark.parametrize("size", MEMORY)
def test_memory_sizes(size):
    device = pc.Cmos(size)

    def number(index, length):
        return sum(cmos(device, index + at) << 8 * at for at in range(length))

    low, extended, above_16m, above_4g = MEMORY[size]
    assert number(0x15, 2) == low
    assert number(0x17, 2) == number(0x30, 2) == extended
    assert number(0x34, 2) == above_16m
    assert number(0x5B, 3) == above_4g


def test_the_batterys_memory_keeps_and_the_clock_does_not_take():
    device = pc.Cmos(MIB)
    for index, value in ((0x40, 0xA5), (0x0D, 0x00), (0x8E, 0x77)):
        device.write(0, 1, index)
        device.write(1, 1, value)
    assert cmos(device, 0x40) == 0xA5
    assert cmos(device, 0x0D) == 0x80
    assert cmos(device, 0x0E) == 0x77  # bit 7 of the index is the NMI mask
    assert device.read(0, 1) == 0xFF


@pytest.fixture
def keyboard():
    data = pc.I8042Data()
    return data, pc.I8042Command(data)


# Commands and data as (port offset 0x60 or 0x64, value), and what is answered.
I8042 = {
    "nothing asked": ([], None),
    "self-test": ([(0x64, 0xAA)], 0x55),
    "test of the first port": ([(0x64, 0xAB)], 0x01),
    "test of the second port": ([(0x64, 0xA9)], 0x01),
    "configuration": ([(0x64, 0x20)], 0x30),
    "configuration, changed": ([(0x64, 0x60), (0x60, 0x47), (0x64, 0x20)], 0x47),
    "the same byte without the command": ([(0x60, 0x47), (0x64, 0x20)], 0x30),
    "only one byte belongs to the command": (
        [(0x64, 0x60), (0x60, 0x01), (0x60, 0x02), (0x64, 0x20)],
        0x01,
    ),
    "unknown command": ([(0x64, 0xD1), (0x60, 0xFF)], None),
}


@pytest.mark.parametrize("case", I8042)
def test_keyboard_controller(keyboard, case):
    data, command = keyboard
    steps, answer = I8042[case]
    for port, value in steps:
        (command if port == 0x64 else data).write(0, 1, value)
    assert command.read(0, 1) == (0x04 if answer is None else 0x05)
    assert data.read(0, 1) == (answer or 0)
    assert command.read(0, 1) == 0x04  # what was read is gone


@pytest.mark.parametrize(
    ("value", "status"),
    [(0, 1), (1, 3), (21, 43), (0x7F, 0xFF), (0x80, 1), (0xFF, 0xFF), (0x12345621, 0x43)],
)
def test_debug_exit_statuses_are_odd(value, status):
    with pytest.raises(GuestStop) as stopped:
        pc.DebugExit().write(0, 4, value)
    assert stopped.value.status == status == (value << 1 | 1) & 0xFF
    assert stopped.value.reason == f"debug exit with value {value:#x}"


def test_reset_through_the_keyboard_controller(keyboard):
    with pytest.raises(GuestStop) as stopped:
        keyboard[1].write(0, 1, 0xFE)
    assert (stopped.value.status, stopped.value.reason) == (
        0,
        "reset through the keyboard controller",
    )


@pytest.mark.parametrize("value", [0x04, 0x06, 0x0E])
def test_reset_through_the_reset_register(value):
    with pytest.raises(GuestStop) as stopped:
        pc.ResetControl().write(0, 1, value)
    assert (stopped.value.status, stopped.value.reason) == (0, "reset through port 0xcf9")


@pytest.mark.parametrize("value", [0x00, 0x02, 0x08])
def test_choosing_the_kind_of_reset_is_none_yet(value):
    pc.ResetControl().write(0, 1, value)


# ACPI's fixed registers (ACPI 6.4, 4.8.3): status, enable, control.

BUTTON, SCI_ENABLED, SLEEP = 1 << 8, 1 << 0, 1 << 13


@pytest.fixture
def power():
    levels = []
    return pc.PowerManagement(levels.append), levels


def test_power_management_at_first(power):
    device, levels = power
    assert [device.read(offset, 2) for offset in (0, 2, 4)] == [0, 0, SCI_ENABLED]
    assert device.read(0, 4) == 0
    assert device.read(4, 4) == SCI_ENABLED
    assert [device.read(4, 1), device.read(5, 1), device.read(5, 4)] == [1, 0, 0]
    assert levels == []


def test_a_power_button_that_nobody_listens_to(power):
    device, levels = power
    assert not device.press()
    assert device.read(0, 2) == BUTTON
    assert levels == [0]
    # It is found as soon as somebody does.
    device.write(2, 2, BUTTON)
    assert levels[-1] == 1


@pytest.mark.parametrize("size", [1, 2])
def test_the_power_button(power, size):
    device, levels = power
    device.write(2, 2, BUTTON)
    assert device.press()
    assert levels[-1] == 1
    assert device.read(0, 4) == BUTTON << 16 | BUTTON
    device.write(0, 2, 0)  # zeros clear nothing
    assert levels[-1] == 1
    at, value = (0, BUTTON) if size == 2 else (1, BUTTON >> 8)
    device.write(at, size, value)
    assert device.read(0, 2) == 0
    assert levels[-1] == 0
    assert device.read(2, 2) == BUTTON


def test_status_and_enable_in_one_write(power):
    device, levels = power
    device.press()
    device.write(0, 4, BUTTON << 16 | BUTTON)
    assert device.read(0, 4) == BUTTON << 16
    assert levels[-1] == 0


@pytest.mark.parametrize(("offset", "size"), [(4, 2), (5, 1)])
def test_a_guest_turns_itself_off(power, offset, size):
    value = (SLEEP | 5 << 10) >> 8 * (offset - 4)
    with pytest.raises(GuestStop) as stopped:
        power[0].write(offset, size, value)
    assert (stopped.value.status, stopped.value.reason) == (0, "turned itself off")
    assert not stopped.value.reset


@pytest.mark.parametrize(
    "value", [0, SCI_ENABLED, 5 << 10, SLEEP, SLEEP | 1 << 10, SLEEP | 4 << 10, SLEEP | 7 << 10]
)
def test_other_kinds_of_sleep_are_none(power, value):
    device, _ = power
    device.write(4, 2, value)
    # The bit that starts it reads as zero, and ACPI cannot be switched off.
    assert device.read(4, 2) == value & ~SLEEP | SCI_ENABLED


def test_the_kind_of_sleep_first_and_its_start_after_that(power):
    """As Linux writes it: the value without the bit, then with it."""
    device, _ = power
    device.write(4, 2, 5 << 10 | SCI_ENABLED)
    with pytest.raises(GuestStop):
        device.write(4, 2, 5 << 10 | SLEEP | SCI_ENABLED)


@pytest.mark.parametrize(("offset", "size"), [(6, 2), (3, 4), (5, 2), (5, 4)])
def test_accesses_over_the_end(power, offset, size):
    device, _ = power
    assert device.read(offset, size) >= 0
    device.write(offset, size, 0)
