# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The small devices that a PC program expects: keyboard controller, clock, exits for tests.

Ports as on the IBM PC/AT; the debug-exit port as QEMU's isa-debug-exit has it.
"""

from __future__ import annotations

import time
from typing import Callable

from .bus import Device, GuestStop
from .memory import GAP_START

I8042_DATA, I8042_COMMAND = 0x60, 0x64
CMOS_INDEX = 0x70
RESET_CONTROL = 0xCF9
DEBUG_EXITS = (0xF4, 0x501)
POWER_MANAGEMENT = 0x600
SCI_IRQ = 9  # ACPI's interrupt


class I8042Data(Device):
    """Port 0x60: what the controller answered last. No keyboard, no mouse."""

    def __init__(self) -> None:
        self.answer: int | None = None
        self.configuration = 0x30  # both ports disabled
        self.expects_configuration = False

    def read(self, offset: int, size: int) -> int:
        """Return the answer to the last command, once."""
        del offset, size
        value, self.answer = self.answer or 0, None
        return value

    def write(self, offset: int, size: int, value: int) -> None:
        """Take the configuration byte after command 0x60; anything else meets no keyboard."""
        del offset, size
        if self.expects_configuration:
            self.configuration = value & 0xFF
            self.expects_configuration = False


class I8042Command(Device):
    """Port 0x64: status when read, command when written. 0xFE pulses the CPU's reset line."""

    def __init__(self, data: I8042Data) -> None:
        self._data = data

    def read(self, offset: int, size: int) -> int:
        """Return the status register: output full (bit 0) and self-test passed (bit 2)."""
        del offset, size
        return 0x04 | (0x01 if self._data.answer is not None else 0)

    def write(self, offset: int, size: int, value: int) -> None:
        """Carry out a command."""
        del offset, size
        if value == 0xFE:
            raise GuestStop(0, "reset through the keyboard controller", reset=True)
        if value == 0x20:
            self._data.answer = self._data.configuration
        elif value == 0x60:
            self._data.expects_configuration = True
        elif value == 0xAA:
            self._data.answer = 0x55  # self-test passed
        elif value in {0xA9, 0xAB}:
            self._data.answer = 0x01  # no such device: clock line stuck low


class ResetControl(Device):
    """Port 0xCF9, the chipset's reset register: bit 2 going up resets."""

    def write(self, offset: int, size: int, value: int) -> None:
        """Reset if asked to."""
        del offset, size
        if value & 0x04:
            raise GuestStop(0, "reset through port 0xcf9", reset=True)


class PowerManagement(Device):
    """The fixed registers of ACPI: a power button, and the way to turn itself off (ACPI 6.4, 4.8).

    Status and enable words at the offsets 0 and 2, the control word at 4. ``set_irq`` takes the
    level of the interrupt SCI.
    """

    _BUTTON = 1 << 8
    _SCI_ENABLED, _SLEEP = 1 << 0, 1 << 13
    _OFF = 5

    def __init__(self, set_irq: Callable[[int], None]) -> None:
        self._set_irq = set_irq
        self._status = self._enabled = 0
        self._control = self._SCI_ENABLED

    def press(self) -> bool:
        """Press the power button; return whether the guest listens to it."""
        self._status |= self._BUTTON
        self._update()
        return bool(self._enabled & self._BUTTON)

    def _update(self) -> None:
        self._set_irq(int(bool(self._status & self._enabled)))

    def read(self, offset: int, size: int) -> int:
        """Return what stands at the offset."""
        words = self._status | self._enabled << 16 | self._control << 32
        return words >> 8 * offset & (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        """Clear the status bits that are written as one, enable events, or go to sleep."""
        mask, value = ((1 << 8 * size) - 1) << 8 * offset, value << 8 * offset
        self._status &= ~(value & mask & 0xFFFF)
        self._enabled = (self._enabled << 16 & ~mask | value & mask) >> 16 & 0xFFFF
        control = (self._control << 32 & ~mask | value & mask) >> 32 & 0xFFFF
        self._control = control & ~self._SLEEP | self._SCI_ENABLED
        self._update()
        if control & self._SLEEP and control >> 10 & 7 == self._OFF:
            raise GuestStop(0, "turned itself off")


class DebugExit(Device):
    """A write of v ends the guest with the status ``((v << 1) | 1) & 0xff``."""

    def write(self, offset: int, size: int, value: int) -> None:
        """End the guest."""
        del offset, size
        raise GuestStop((value << 1 | 1) & 0xFF, f"debug exit with value {value:#x}")


def _bcd(value: int) -> int:
    return value // 10 << 4 | value % 10


class Cmos(Device):
    """MC146818 clock (UTC, BCD, 24 hours) and the AT's memory sizes, at index and data ports."""

    def __init__(self, memory_size: int) -> None:
        self._index = 0
        self._ram = bytearray(128)
        low = min(memory_size, GAP_START)
        self._put16(0x15, min(low, 640 << 10) >> 10)
        above_1m = min(max(low - (1 << 20), 0) >> 10, 0xFFFF)
        self._put16(0x17, above_1m)
        self._put16(0x30, above_1m)
        self._put16(0x34, max(low - (16 << 20), 0) >> 16)
        above_4g = (memory_size - low) >> 16 if memory_size > low else 0
        self._ram[0x5B:0x5E] = min(above_4g, 0xFFFFFF).to_bytes(3, "little")

    def _put16(self, index: int, value: int) -> None:
        self._ram[index : index + 2] = value.to_bytes(2, "little")

    def write(self, offset: int, size: int, value: int) -> None:
        """Set the index, or a byte of the battery-backed memory; the clock cannot be set."""
        del size
        if offset == 0:
            self._index = value & 0x7F  # bit 7 masks NMIs
        elif self._index >= 0x0E:
            self._ram[self._index] = value & 0xFF

    def read(self, offset: int, size: int) -> int:
        """Return the byte at the index."""
        del size
        if offset == 0:
            return 0xFF  # the index port is write-only
        index = self._index
        if index in {0x00, 0x02, 0x04, 0x06, 0x07, 0x08, 0x09, 0x32}:
            now = time.gmtime()
            fields = {
                0x00: min(now.tm_sec, 59),
                0x02: now.tm_min,
                0x04: now.tm_hour,
                0x06: (now.tm_wday + 1) % 7 + 1,
                0x07: now.tm_mday,
                0x08: now.tm_mon,
                0x09: now.tm_year % 100,
                0x32: now.tm_year // 100,
            }
            return _bcd(fields[index])
        # A: 32.768 kHz time base; B: 24 hours; D: the battery is good.
        return {0x0A: 0x26, 0x0B: 0x02, 0x0C: 0x00, 0x0D: 0x80}.get(index, self._ram[index])
