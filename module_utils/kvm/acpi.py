# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""ACPI tables: what a guest's kernel is told of its processors, interrupts, PCI and power button.

Source: ACPI Specification 6.4, chapters 5 (tables) and 20 (AML). The tables say what is there for a
kernel that reads them: no keyboard controller and no clock of the AT, whose probing costs hundreds
of exits, as time comes from kvm-clock and reset from a register. Both stay for older programs.
"""

from __future__ import annotations

import struct
from typing import Iterable

from .pc import POWER_MANAGEMENT, SCI_IRQ

RSDP_ADDRESS = 0xE_0000  # where a BIOS is searched for it, too
_TABLES = RSDP_ADDRESS + 64
LIMIT = 0x10_0000
PM1_EVENT, PM1_CONTROL = POWER_MANAGEMENT, POWER_MANAGEMENT + 4  # ports
SLEEP_S5 = 5  # the sleep type that a guest writes to turn itself off
_RESET_PORT, _RESET_VALUE = 0xCF9, 0x06
_LOCAL_APIC, _IO_APIC = 0xFEE0_0000, 0xFEC0_0000
_OEM = (b"VRTFLT", b"KVMGUEST")


def _table(signature: bytes, revision: int, body: bytes) -> bytes:
    """Return a system description table with its header and checksum (5.2.6)."""
    oem, name = _OEM
    fields = (signature, 36 + len(body), revision, 0, oem, name, 1, b"VF  ", 1)
    head = struct.pack("<4sIBB6s8sI4sI", *fields)
    table = bytearray(head + body)
    table[9] = -sum(table) & 0xFF
    return bytes(table)


# AML, as far as it is needed here.


def _length(body: bytes) -> bytes:
    """Return ``body`` behind its package length, which counts itself (20.2.4)."""
    for size in range(1, 5):
        total = len(body) + size
        if size == 1 and total < 1 << 6:
            return bytes([total]) + body
        if size > 1 and total < 1 << 4 + 8 * (size - 1):
            first = (size - 1) << 6 | total & 0xF
            return bytes([first]) + (total >> 4).to_bytes(size - 1, "little") + body
    raise ValueError("an AML package is too long")


def _integer(value: int) -> bytes:
    if value < 2:
        return bytes([value])
    for prefix, size in ((0x0A, 1), (0x0B, 2), (0x0C, 4)):
        if value < 1 << 8 * size:
            return bytes([prefix]) + value.to_bytes(size, "little")
    return b"\x0e" + value.to_bytes(8, "little")


def _name(name: bytes, value: bytes) -> bytes:
    return b"\x08" + name + value


def _device(name: bytes, *parts: bytes) -> bytes:
    return b"\x5b\x82" + _length(name + b"".join(parts))


def _scope(name: bytes, *parts: bytes) -> bytes:
    return b"\x10" + _length(name + b"".join(parts))


def _package(values: Iterable[bytes]) -> bytes:
    items = list(values)
    return b"\x12" + _length(bytes([len(items)]) + b"".join(items))


def _buffer(content: bytes) -> bytes:
    return b"\x11" + _length(_integer(len(content)) + content)


def eisa_id(text: str) -> bytes:
    """Return an EISA identifier such as PNP0A03 as an AML integer (20.3.4)."""
    letters = [ord(letter) - 0x40 for letter in text[:3]]
    value = letters[0] << 26 | letters[1] << 21 | letters[2] << 16 | int(text[3:], 16)
    return b"\x0c" + value.to_bytes(4, "big")


def _resources(*descriptors: bytes) -> bytes:
    return _buffer(b"".join(descriptors) + b"\x79\x00")  # end tag; a checksum of 0 is not checked


def _io(port: int, length: int) -> bytes:
    return struct.pack("<BBHHBB", 0x47, 1, port, port, 1, length)


def _irq(number: int) -> bytes:
    return struct.pack("<BH", 0x22, 1 << number)


_MEMORY, _IO, _BUS = 0, 1, 2


def _range(kind: int, first: int, last: int, flags: int) -> bytes:
    """Return an address space descriptor, in words, double words or quad words (6.4.3.5)."""
    size, tag = {_BUS: (2, 0x88), _IO: (2, 0x88), _MEMORY: (4, 0x87)}[kind]
    if last >= 1 << 8 * size:
        size, tag = 8, 0x8A
    words = (0, first, last, 0, last - first + 1)
    body = bytes([kind, 0x0C, flags]) + b"".join(word.to_bytes(size, "little") for word in words)
    return bytes([tag]) + struct.pack("<H", len(body)) + body


def _dsdt(window: tuple[int, int], high: tuple[int, int]) -> bytes:
    bridge = _device(
        b"PCI0",
        _name(b"_HID", eisa_id("PNP0A03")),
        _name(b"_UID", _integer(0)),
        _name(
            b"_CRS",
            _resources(
                _range(_BUS, 0, 0, 0),
                _io(0xCF8, 8),
                _range(_IO, 0x1000, 0xFFFF, 0x03),
                _range(_MEMORY, window[0], window[1] - 1, 0x01),
                _range(_MEMORY, high[0], high[1] - 1, 0x03),
            ),
        ),
    )
    serial = _device(
        b"COM1",
        _name(b"_HID", eisa_id("PNP0501")),
        _name(b"_UID", _integer(1)),
        _name(b"_CRS", _resources(_io(0x3F8, 8), _irq(4))),
    )
    sleep = _package([_integer(SLEEP_S5), _integer(0), _integer(0), _integer(0)])
    return _table(b"DSDT", 2, _scope(b"_SB_", bridge, serial) + _name(b"_S5_", sleep))


def _madt(vcpus: int) -> bytes:
    """Return the table of interrupt controllers (5.2.12), a local APIC for each vCPU."""
    body = struct.pack("<II", _LOCAL_APIC, 1)  # a PC's PICs are there as well
    for index in range(vcpus):
        if index < 255:
            body += struct.pack("<BBBBI", 0, 8, index, index, 1)
        else:
            body += struct.pack("<BBHIII", 9, 16, 0, index, 1, index)
    body += struct.pack("<BBBBII", 1, 12, 0, 0, _IO_APIC, 0)
    body += struct.pack("<BBBBIH", 2, 10, 0, SCI_IRQ, SCI_IRQ, 0x0D)  # level, active high
    return _table(b"APIC", 4, body + struct.pack("<BBBHB", 4, 6, 0xFF, 0, 1))  # NMI at LINT1


def _register(port: int, bits: int) -> bytes:
    """Return a Generic Address Structure of a port (5.2.3.2); all zeros for none."""
    return struct.pack("<BBBBQ", 1, bits, 0, 2 if bits > 8 else 1, port) if port else bytes(12)


def _fadt(facs: int, dsdt: int) -> bytes:
    """Return the fixed description (5.2.9): a power button, sleep and reset, no other hardware."""
    body = bytearray(276 - 36)

    def put(offset: int, layout: str, *values: int) -> None:
        struct.pack_into("<" + layout, body, offset - 36, *values)

    put(36, "II", facs, dsdt)
    put(46, "H", SCI_IRQ)
    put(56, "I", PM1_EVENT)
    put(64, "I", PM1_CONTROL)
    put(88, "BB", 4, 2)  # lengths of the two
    put(96, "HH", 0xFFF, 0xFFF)  # no C2, no C3
    put(109, "H", 0x0004 | 0x0020)  # no VGA, no clock of the AT; no keyboard controller either
    # WBINVD works; fixed sleep button is absent; the reset register is there.
    put(112, "I", 1 << 0 | 1 << 5 | 1 << 10)
    body[116 - 36 : 128 - 36] = _register(_RESET_PORT, 8)
    put(128, "B", _RESET_VALUE)
    put(140, "Q", dsdt)
    body[148 - 36 : 160 - 36] = _register(PM1_EVENT, 32)
    body[172 - 36 : 184 - 36] = _register(PM1_CONTROL, 16)
    return _table(b"FACP", 6, bytes(body))


def tables(vcpus: int, window: tuple[int, int], high: tuple[int, int]) -> bytes:
    """Return the bytes that lie from `RSDP_ADDRESS` on.

    ``window`` and ``high`` are the addresses (first, first behind) below and above 4 GiB that PCI
    devices may use.
    """
    content = bytearray(_TABLES - RSDP_ADDRESS)

    def place(table: bytes, alignment: int = 16) -> int:
        content.extend(bytes(-len(content) % alignment))
        address = RSDP_ADDRESS + len(content)
        content.extend(table)
        return address

    facs = place(struct.pack("<4sIIIIIQB31x", b"FACS", 64, 0, 0, 0, 0, 0, 2), 64)
    fadt = place(_fadt(facs, place(_dsdt(window, high))))
    madt = place(_madt(vcpus))
    xsdt = place(_table(b"XSDT", 1, struct.pack("<QQ", fadt, madt)))
    rsdp = bytearray(struct.pack("<8sB6sBIIQB3x", b"RSD PTR ", 0, _OEM[0], 2, 0, 36, xsdt, 0))
    rsdp[8] = -sum(rsdp[:20]) & 0xFF
    rsdp[32] = -sum(rsdp) & 0xFF
    content[: len(rsdp)] = rsdp
    if RSDP_ADDRESS + len(content) > LIMIT:
        raise ValueError("the ACPI tables do not fit below 1 MiB")
    return bytes(content)
