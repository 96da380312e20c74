# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ports and MMIO addresses, and the devices behind them."""

from __future__ import annotations

import struct
import threading
from typing import TYPE_CHECKING, Callable

if TYPE_CHECKING:
    from .device import Vcpu

Read = Callable[[int, int], int]  # (offset, size in bytes) → value
Write = Callable[[int, int, int], None]  # (offset, size in bytes, value)


# kvm_run.io and kvm_run.mmio, at offset 32 of struct kvm_run. One call is faster than five indexes.
_unpack_io = struct.Struct("<BBHIQ").unpack_from  # direction, size, port, count, data_offset
_unpack_mmio = struct.Struct("<Q8xIB").unpack_from  # phys_addr, (data), len, is_write


class GuestStop(Exception):  # noqa: N818 - an end, not an error
    """The guest ended itself: ``status`` is the exit status, ``reason`` says how for people.

    ``reset`` is True where a machine would begin again instead of turning itself off.
    """

    def __init__(self, status: int, reason: str, *, reset: bool = False) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.reset = reset


class Device:
    """What stands on the bus. Offsets count from the address that the device was added at."""

    def read(self, offset: int, size: int) -> int:
        """Return what the guest reads; all ones, as from an empty bus, unless overridden."""
        del offset
        return (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        """Take what the guest writes; ignored unless overridden."""


class Bus:
    """Finds the device for an exit and moves the data between it and ``struct kvm_run``.

    One lock serialises the devices, which therefore need none of their own towards the vCPUs.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.port_exits: dict[int, int] = {}  # by port
        self.mmio_exits: dict[int, int] = {}  # by the address of the device, -1 where there is none
        self._ports: dict[int, tuple[Read, Write, int]] = {}
        self._ranges: list[tuple[int, int, Read, Write]] = []

    def add_ports(self, base: int, count: int, device: Device) -> None:
        """Put ``device`` at the ports ``base`` … ``base + count - 1``."""
        for offset in range(count):
            self._ports[base + offset] = (device.read, device.write, offset)

    def add_mmio(self, base: int, size: int, device: Device) -> None:
        """Put ``device`` at ``size`` bytes of guest-physical addresses from ``base``."""
        self._ranges.append((base, base + size, device.read, device.write))

    def remove_mmio(self, base: int, device: Device) -> None:
        """Take ``device`` away from ``base``, where a guest may have put another one as well."""
        gone = (base, device.read)
        self._ranges = [found for found in self._ranges if (found[0], found[2]) != gone]

    def port_io(self, vcpu: Vcpu) -> None:
        """Carry out a KVM_EXIT_IO: ``kvm_run.io`` (api.rst, section 5)."""
        run8 = vcpu.run8
        is_out, size, port, repeat, offset = _unpack_io(run8, 32)
        found = self._ports.get(port)
        self.port_exits[port] = self.port_exits.get(port, 0) + 1
        if is_out:
            if found is None:
                return
            _, write, register = found
            with self.lock:
                if repeat == 1 and size == 1:
                    write(register, 1, run8[offset])
                    return
                for at in range(offset, offset + repeat * size, size):
                    write(register, size, int.from_bytes(run8[at : at + size], "little"))
            return
        with self.lock:
            for at in range(offset, offset + repeat * size, size):
                value = found[0](found[2], size) if found else -1
                run8[at : at + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")

    def mmio(self, vcpu: Vcpu) -> None:
        """Carry out a KVM_EXIT_MMIO: ``kvm_run.mmio`` (api.rst, section 5)."""
        run8 = vcpu.run8
        address, size, is_write = _unpack_mmio(run8, 32)
        for start, end, read, write in self._ranges:
            if start <= address < end:
                self.mmio_exits[start] = self.mmio_exits.get(start, 0) + 1
                with self.lock:
                    if is_write:
                        data = int.from_bytes(run8[40 : 40 + size], "little")
                        write(address - start, size, data)
                    else:
                        value = read(address - start, size) & (1 << 8 * size) - 1
                        run8[40 : 40 + size] = value.to_bytes(size, "little")
                return
        self.mmio_exits[-1] = self.mmio_exits.get(-1, 0) + 1
        if not is_write:
            run8[40 : 40 + size] = b"\xff" * size
