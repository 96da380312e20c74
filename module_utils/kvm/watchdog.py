# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A watchdog that stock kernels have a driver for: the one of Intel's 6300ESB I/O controller.

Source: Intel 6300ESB I/O Controller Hub, data sheet 300641, "Watchdog Timer"; the driver is
drivers/watchdog/i6300esb.c of the kernel. Two counters run one after the other: the end of the
first may interrupt the guest, which nothing here does; at the end of the second the machine is
reset.
"""

from __future__ import annotations

import struct
import time
from typing import TYPE_CHECKING, Callable

from .pci import Function, Mapping

if TYPE_CHECKING:
    from .bus import Bus
    from .runner import Runner

_VENDOR, _DEVICE, _CLASS = 0x8086, 0x25AB, 0x08_80_00
# In the configuration space: a word, and a byte
_CONFIG, _LOCK = 0x60, 0x68
_OUTPUT_OFF, _FAST = 1 << 5, 1 << 2
_LOCKED, _ENABLED, _FREE_RUNNING = 1, 2, 4
# At the BAR
_FIRST, _SECOND, _STATUS, _RELOAD = 0x0, 0x4, 0x8, 0xC
_RELOAD_NOW, _TIMED_OUT = 1 << 8, 1 << 9
_KEYS = (0x80, 0x86)  # written one after the other before a register is
_COUNTER = 0xF_FFFF
_PCI_CLOCK = 33e6  # Hz
_SLOW_SHIFT, _FAST_SHIFT = 15, 5  # a count is so many doublings of a clock's period
_TICKS = _PCI_CLOCK / (1 << _SLOW_SHIFT)  # counts a second


class Watchdog:
    """The watchdog of a guest, over all its machines.

    ``on_fire`` is called on the main thread when the guest has not been heard of in time. From each
    start on the guest has ``from_start`` seconds until its driver takes over; 0 means for ever.
    """

    def __init__(self, from_start: float, on_fire: Callable[[], None]) -> None:
        self._from_start = from_start
        self._on_fire = on_fire
        self._runner: Runner | None = None
        self._function: I6300Esb | None = None
        self.fired = 0
        self.timed_out = False  # what the next start of the guest is told

    def make(self, bar: int) -> Function:
        """Return the function for a new machine."""
        self._function = I6300Esb(self, bar)
        if self._from_start:
            self._function.arm(self._from_start)
        return self._function

    def watch(self, runner: Runner) -> None:
        """Have the time looked at on the runner's main thread."""
        self._runner = runner
        runner.each_turn(self._tick)

    def now(self) -> float:
        """Return the time in seconds, which stands still while the guest does."""
        return self._runner.guest_time() if self._runner else time.monotonic()

    def changed(self) -> None:
        """Follow a change of the time at which it fires."""
        if self._runner:
            self._runner.wake()

    def _tick(self) -> float | None:
        runner = self._runner
        if runner is None or runner.paused:
            return None
        left = self._advance(runner)
        if left is None or left > 0:
            return left
        self._function = None  # its machine is over
        self.fired += 1
        self.timed_out = True
        self._on_fire()
        return None

    def _advance(self, runner: Runner) -> float | None:
        with runner.machine.bus.lock:
            return self._function.advance() if self._function else None

    def state(self) -> dict[str, object]:
        """Return how often it fired, and the seconds left of its present stage, None for none."""
        left = self._advance(self._runner) if self._runner else None
        return {"fired": self.fired, "left": left}


class I6300Esb(Function):
    """The PCI function. All of it is used under the bus's lock."""

    name = "watchdog"

    def __init__(self, owner: Watchdog, bar: int) -> None:
        super().__init__(_VENDOR, _DEVICE, _CLASS, bar)
        self._owner = owner
        self._preload = [_COUNTER, _COUNTER]
        self._key = 0  # how many of the keys have been written
        self._reason = 0
        self._mapping: Mapping | None = None
        self._running: tuple[int, float] | None = None  # the stage, and the moment of its end
        struct.pack_into("<H", self._writable, _CONFIG, _OUTPUT_OFF | _FAST | 3)

    def place(self, bus: Bus) -> None:
        """Appear on the bus, where the BAR is."""
        self._mapping = Mapping(self, bus, self)
        self._mapping.update()

    @property
    def address(self) -> int | None:
        """Where on the bus it stands, None where it does not."""
        return self._mapping.address if self._mapping else None

    def arm(self, seconds: float) -> None:
        """Start it as firmware would, for that many seconds in the two stages together."""
        self._preload = [min(int(seconds / 2 * _TICKS), _COUNTER)] * 2
        self.config[_LOCK] = _ENABLED
        self._start(0)

    def _start(self, stage: int) -> None:
        fast = self.config[_CONFIG] & _FAST
        shift = _FAST_SHIFT if fast else _SLOW_SHIFT
        length = (self._preload[stage] << shift) / _PCI_CLOCK
        before, self._running = self._running, (stage, self._owner.now() + length)
        # The main thread looks again when it would have ended before; if that is too late, wake it.
        if before is None or before[1] > self._running[1]:
            self._owner.changed()

    def advance(self) -> float | None:
        """Go on to the second stage where it is due.

        Return the seconds left of a stage, 0 where both are over, None where it does not run.
        """
        running = self._running
        while running is not None:
            stage, end = running
            left = end - self._owner.now()
            if left > 0:
                return left
            self._reason |= 1
            if stage == 0:
                self._start(1)
            elif self.config[_CONFIG] & _OUTPUT_OFF:
                self._running = None
                if self.config[_LOCK] & _FREE_RUNNING:
                    self._start(0)
            else:
                return 0.0  # and so whoever else asks: it is due until it has fired
            running = self._running
        return None

    def write_config(self, offset: int, size: int, value: int) -> None:
        """Take what the guest writes to the configuration space."""
        super().write_config(offset, size, value)
        at = _LOCK - offset
        if 0 <= at < size and not self.config[_LOCK] & _LOCKED:
            before = self.config[_LOCK]
            now = value >> 8 * at & (_LOCKED | _ENABLED | _FREE_RUNNING)
            self.config[_LOCK] = now
            if now & ~before & _ENABLED:
                self._start(0)
            elif not now & _ENABLED:
                self._running = None

    def changed(self, offset: int, size: int) -> None:
        """Follow a write to the configuration space."""
        del offset, size
        if self._mapping:
            self._mapping.update()

    def read(self, offset: int, size: int) -> int:
        """Read a register at the BAR; the counters' values cannot be read."""
        if offset == _STATUS:
            return self._reason
        if offset == _RELOAD:
            return _TIMED_OUT if self._owner.timed_out else 0
        if offset == _RELOAD + 1 and size == 1:
            return _TIMED_OUT >> 8 if self._owner.timed_out else 0
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Write a register at the BAR, which takes the keys first."""
        if offset == _STATUS:
            self._reason &= ~(value & 1)
            return
        opened = self._key == len(_KEYS)
        if offset == _RELOAD and not opened and value & 0xFFFF == _KEYS[self._key]:
            self._key += 1
            return
        self._key = 0
        if not opened:
            return
        if offset in {_FIRST, _SECOND} and size == 4:
            self._preload[offset // 4] = value & _COUNTER
        elif offset == _RELOAD:
            if value & _RELOAD_NOW and self.config[_LOCK] & _ENABLED:
                self._start(0)
            if value & _TIMED_OUT:
                self._owner.timed_out = False
