# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A PCI bus with a host bridge: configuration space through ports, one memory BAR, MSI-X.

Sources: PCI Local Bus Specification 3.0 (chapter 6; configuration mechanism 3.2.2.3.2) and
drivers/pci of the kernel. The BARs have their addresses from the start, as firmware would leave
them; a guest may move them. There are no interrupt pins: messages alone, which take no exits.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from .bus import Device
from .errors import ConfigError
from .events import Event

if TYPE_CHECKING:
    from .bus import Bus
    from .events import Interrupts

CONFIG_PORTS = 0xCF8  # address at 0xcf8, data at 0xcfc
WINDOW = (0xC000_0000, 0xFEC0_0000)  # below the IOAPIC
MAX_FUNCTIONS = 32
BAR_SIZE = 0x4000
_CONFIG_SIZE = 256
_COMMAND, _STATUS, _BAR0, _CAPABILITIES = 0x04, 0x06, 0x10, 0x34
_MEMORY_ENABLED, _BUS_MASTER, _INTERRUPTS_OFF = 1 << 1, 1 << 2, 1 << 10
_HAS_CAPABILITIES = 1 << 4
_CAP_MSIX = 0x11
_MSIX_ENABLED, _MSIX_MASKED = 1 << 15, 1 << 14
_ENTRY_MASKED = 1


class Function(Device):
    """One function: its configuration space, and a memory BAR where ``bar`` is its address."""

    name = "function"  # by which its exits are counted

    def __init__(
        self, vendor: int, device: int, class_code: int, bar: int | None = None, revision: int = 0
    ) -> None:
        self.config = bytearray(_CONFIG_SIZE)
        self._writable = bytearray(_CONFIG_SIZE)  # a mask of the bits that a guest may write
        struct.pack_into("<HHHHI", self.config, 0, vendor, device, 0, 0, class_code << 8 | revision)
        struct.pack_into("<HH", self.config, 0x2C, vendor, device)  # the subsystem's
        self._capability_at = 0x40
        self._link_at = _CAPABILITIES
        if bar is not None:
            struct.pack_into("<I", self.config, _BAR0, bar)
            struct.pack_into("<I", self._writable, _BAR0, -BAR_SIZE & 0xFFFF_FFFF)
            command = _MEMORY_ENABLED | _BUS_MASTER | _INTERRUPTS_OFF
            struct.pack_into("<H", self._writable, _COMMAND, command)
            struct.pack_into("<H", self.config, _COMMAND, _MEMORY_ENABLED)

    def add_capability(self, kind: int, body: bytes, writable: bytes = b"") -> int:
        """Append a capability (6.7) and return where it stands."""
        at = self._capability_at
        if at + 2 + len(body) > _CONFIG_SIZE:
            raise ValueError("a function has more capabilities than fit")
        self.config[_STATUS] |= _HAS_CAPABILITIES
        self.config[self._link_at] = at
        self.config[at], self.config[at + 1] = kind, 0
        self.config[at + 2 : at + 2 + len(body)] = body
        self._writable[at + 2 : at + 2 + len(writable)] = writable
        self._link_at = at + 1
        self._capability_at = at + 2 + len(body) + 3 & ~3
        return at

    def read_config(self, offset: int, size: int) -> int:
        """Return ``size`` bytes of the configuration space."""
        return int.from_bytes(self.config[offset : offset + size], "little")

    def write_config(self, offset: int, size: int, value: int) -> None:
        """Take what the guest writes to the configuration space."""
        for at, byte in enumerate(value.to_bytes(size, "little"), offset):
            mask = self._writable[at]
            self.config[at] = self.config[at] & ~mask | byte & mask
        self.changed(offset, size)

    def changed(self, offset: int, size: int) -> None:
        """Follow a write to the configuration space."""

    def place(self, bus: Bus) -> None:
        """Appear on the bus, where the BAR is; a function without one does not."""

    @property
    def address(self) -> int | None:
        """Where on the bus it stands, None where it does not."""
        return None

    @property
    def bar(self) -> int | None:
        """Where the memory BAR lies now, None while the guest has it switched off."""
        if not self.config[_COMMAND] & _MEMORY_ENABLED:
            return None
        return int(struct.unpack_from("<I", self.config, _BAR0)[0]) & -BAR_SIZE


class PciBus(Device):
    """The bus behind the ports 0xcf8 to 0xcff; functions stand at 00:00.0, 00:01.0 and so on."""

    def __init__(self) -> None:
        self._address = 0
        # What a kernel looks for to believe that there is a bus: a host bridge.
        self.functions = [Function(0x1B36, 0x0008, 0x06_00_00)]

    def add(self, function: Function) -> int:
        """Put a function at the next place and return its number."""
        if len(self.functions) >= MAX_FUNCTIONS:
            raise ConfigError(f"a guest may have {MAX_FUNCTIONS - 1} devices at most")
        self.functions.append(function)
        return len(self.functions) - 1

    def _target(self, offset: int, size: int) -> tuple[Function | None, int]:
        """Return the function that the address names, and the byte in its configuration space."""
        address = self._address
        number, place = address >> 11 & 0x1F, (address & 0xFC) + offset - 4
        known = address >> 31 and not address & 0x00FF_0700 and number < len(self.functions)
        if not known or place + size > _CONFIG_SIZE or offset - 4 + size > 4:
            return None, 0
        return self.functions[number], place

    def read(self, offset: int, size: int) -> int:
        """Read the address, or the data at the address."""
        if offset < 4:
            return self._address if offset == 0 and size == 4 else -1
        function, place = self._target(offset, size)
        return -1 if function is None else function.read_config(place, size)

    def write(self, offset: int, size: int, value: int) -> None:
        """Set the address, or the data at the address."""
        if offset < 4:
            if offset == 0 and size == 4:
                self._address = value
            return
        function, place = self._target(offset, size)
        if function is not None:
            function.write_config(place, size, value)


class Vector:
    """One message interrupt of a function; signalling ``event`` raises it, masked or not."""

    def __init__(self, interrupts: Interrupts) -> None:
        self._interrupts = interrupts
        self.event = Event()
        self._gsi: int | None = None
        self._connected = False
        self.entry = bytearray(16)
        self.entry[12] = _ENTRY_MASKED

    def update(self, enabled: bool) -> None:
        """Follow a change of the entry, or of ``enabled``: whether the function has messages on."""
        address, data, control = struct.unpack("<QII", self.entry)
        active = enabled and not control & _ENTRY_MASKED
        if active:
            if self._gsi is None:
                self._gsi = self._interrupts.allocate()
            self._interrupts.route(self._gsi, address, data)
        if active != self._connected and self._gsi is not None:
            change = self._interrupts.connect if active else self._interrupts.disconnect
            change(self.event, self._gsi)
            self._connected = active

    def close(self) -> None:
        """Close the event."""
        self.event.close()


class Msix:
    """The MSI-X capability of ``function`` with its table and pending bits (6.8.2)."""

    def __init__(
        self, function: Function, interrupts: Interrupts, count: int, table: int, pending: int
    ) -> None:
        self.vectors = [Vector(interrupts) for _ in range(count)]
        self._function = function
        body = struct.pack("<HII", count - 1, table, pending)  # both offsets count from BAR 0
        writable = struct.pack("<H", _MSIX_ENABLED | _MSIX_MASKED)
        self._at = function.add_capability(_CAP_MSIX, body, writable)

    def _enabled(self) -> bool:
        (control,) = struct.unpack_from("<H", self._function.config, self._at + 2)
        return bool(control & _MSIX_ENABLED) and not control & _MSIX_MASKED

    def changed(self, offset: int, size: int) -> None:
        """Follow a write to the configuration space."""
        if offset < self._at + 4 and offset + size > self._at + 2:
            for vector in self.vectors:
                vector.update(self._enabled())

    def read_table(self, offset: int, size: int) -> int:
        """Read the table of vectors."""
        index, at = divmod(offset, 16)
        if index >= len(self.vectors) or at + size > 16:
            return 0
        return int.from_bytes(self.vectors[index].entry[at : at + size], "little")

    def write_table(self, offset: int, size: int, value: int) -> None:
        """Write the table of vectors."""
        index, at = divmod(offset, 16)
        if index < len(self.vectors) and at + size <= 16:
            vector = self.vectors[index]
            vector.entry[at : at + size] = value.to_bytes(size, "little")
            # A message may be changed while it is masked only (6.8.3.5): the mask comes last.
            if at + size > 12:
                vector.update(self._enabled())

    def read_pending(self, offset: int, size: int) -> int:
        """Read the bits of the interrupts that are due but masked."""
        bits = 0
        for index, vector in enumerate(self.vectors):
            if not vector._connected and vector.event.pending():  # noqa: SLF001 - of one piece
                bits |= 1 << index
        return bits >> 8 * offset & (1 << 8 * size) - 1

    def signal(self, number: int) -> None:
        """Raise the interrupt of that number; no such number, no interrupt."""
        if number < len(self.vectors):
            self.vectors[number].event.signal()

    def close(self) -> None:
        """Close the vectors' events."""
        for vector in self.vectors:
            vector.close()


class Mapping:
    """Keeps a function's device at its BAR on the bus, wherever the guest puts that.

    A BAR that is switched off stays mapped until it is switched on elsewhere: guests switch it off
    to measure it, and every change of notify addresses takes KVM milliseconds.
    """

    def __init__(self, function: Function, bus: Bus, device: Device) -> None:
        self._function, self._bus, self._device = function, bus, device
        self.address: int | None = None

    def update(self) -> bool:
        """Follow the BAR; return whether it has moved."""
        wanted = self._function.bar
        if wanted is None or wanted == self.address:
            return False
        if self.address is not None:
            self._bus.remove_mmio(self.address, self._device)
        self._bus.add_mmio(wanted, BAR_SIZE, self._device)
        self.address = wanted
        return True
