# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A 16550A serial port (National Semiconductor PC16550D data sheet) on COM1.

Output is never held back: the transmitter is always empty again when the guest looks.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Callable

from .bus import Device

COM1_PORT, COM1_IRQ = 0x3F8, 4
INPUT_LIMIT = 64 * 1024  # bytes waiting for a guest that does not read them

_DATA, _IER, _IIR, _LCR, _MCR, _LSR, _MSR, _SCR = range(8)
_IER_RECEIVED, _IER_EMPTY = 0x01, 0x02
_IIR_NONE, _IIR_EMPTY, _IIR_RECEIVED = 0x01, 0x02, 0x04
_FCR_ENABLE, _FCR_CLEAR_INPUT, _IIR_FIFO = 0x01, 0x02, 0xC0
_LCR_DLAB = 0x80
_MCR_OUT2, _MCR_LOOP = 0x08, 0x10
_LSR_READY, _LSR_EMPTY = 0x01, 0x60  # transmitter and its holding register
_FIFO_SIZE = 16
_MSR_LINES = 0xB0  # carrier, data set ready, clear to send


class Serial(Device):
    """The port. ``sink`` takes what the guest sends, ``set_irq`` the level of its interrupt."""

    def __init__(self, sink: Callable[[bytes], None], set_irq: Callable[[int], None]) -> None:
        self._sink = sink
        self._set_irq = set_irq
        self._lock = threading.RLock()  # input comes from another thread than the guest's accesses
        self._input: deque[int] = deque()
        self._looped: deque[int] = deque()  # sent in loopback mode, back as input
        self._registers = bytearray(8)
        self._divisor = bytearray(b"\x0c\x00")  # 9600 baud
        self._fifo = False
        self._empty_pending = False
        self._level = 0

    def receive(self, data: bytes) -> int:
        """Give input to the guest; return how many bytes there was room for."""
        with self._lock:
            taken = data[: INPUT_LIMIT - len(self._input)]
            self._input.extend(taken)
            self._update()
            return len(taken)

    def waiting(self) -> int:
        """Return how many bytes of input the guest has not read yet."""
        return len(self._input)

    def write(self, offset: int, size: int, value: int) -> None:
        """Write a register."""
        del size
        value &= 0xFF
        registers = self._registers
        divisor = offset <= _IER and registers[_LCR] & _LCR_DLAB
        if offset == _DATA and not divisor and not registers[_MCR] & _MCR_LOOP:
            # Outside the lock: a sink that blocks must not hold up whoever brings input.
            self._sink(bytes((value,)))
        with self._lock:
            if divisor:
                self._divisor[offset] = value
            elif offset == _DATA:
                self._transmitted(value)
            elif offset == _IER:
                registers[_IER] = value & 0x0F
                # Enabling the interrupt while the transmitter is empty raises it (data sheet, 8.6).
                self._empty_pending = bool(value & _IER_EMPTY)
                self._update()
            elif offset == _IIR:  # the FIFO control register when written
                self._fifo = bool(value & _FCR_ENABLE)
                if value & _FCR_CLEAR_INPUT:
                    # What came from outside waits on the line, not in the FIFO, until it is read.
                    self._looped.clear()
                    self._update()
            elif offset in {_LCR, _MCR, _SCR}:
                registers[offset] = value
                self._update()

    def _transmitted(self, value: int) -> None:
        registers = self._registers
        if registers[_MCR] & _MCR_LOOP and len(self._looped) < _FIFO_SIZE:
            self._looped.append(value)
        if registers[_IER] & _IER_EMPTY:
            # The line goes down and up: the PIC takes the edge.
            self._empty_pending = False
            self._update()
            self._empty_pending = True
        if registers[_IER]:
            self._update()

    def read(self, offset: int, size: int) -> int:
        """Read a register."""
        del size
        registers = self._registers
        with self._lock:
            if offset <= _IER and registers[_LCR] & _LCR_DLAB:
                return self._divisor[offset]
            if offset == _DATA:
                source = self._source()
                value = source.popleft() if source else 0
                self._update()
                return value
            if offset == _IIR:
                return self._identify()
            if offset == _LSR:
                return _LSR_EMPTY | (_LSR_READY if self._source() else 0)
            if offset == _MSR:
                return self._modem_status()
            return registers[offset]

    def _source(self) -> deque[int]:
        return self._looped if self._registers[_MCR] & _MCR_LOOP else self._input

    def _identify(self) -> int:
        cause = self._cause()
        if cause == _IIR_EMPTY:
            self._empty_pending = False
            self._update()
        return cause | (_IIR_FIFO if self._fifo else 0)

    def _modem_status(self) -> int:
        control = self._registers[_MCR]
        if not control & _MCR_LOOP:
            return _MSR_LINES
        # In loopback the outputs come back as inputs: DTR→DSR, RTS→CTS, OUT1→RI, OUT2→DCD.
        return (
            (control & 0x01) << 5
            | (control & 0x02) << 3
            | (control & 0x04) << 4
            | (control & 0x08) << 4
        )

    def _cause(self) -> int:
        enabled = self._registers[_IER]
        if enabled & _IER_RECEIVED and self._source():
            return _IIR_RECEIVED
        if enabled & _IER_EMPTY and self._empty_pending:
            return _IIR_EMPTY
        return _IIR_NONE

    def _update(self) -> None:
        level = int(self._cause() != _IIR_NONE and bool(self._registers[_MCR] & _MCR_OUT2))
        if level != self._level:
            self._level = level
            self._set_irq(level)
