# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""ACPI's tables, read by a parser of this file's own and by the ACPI project's disassembler.

Offsets are those of the ACPI Specification 6.4, chapter 5 (tables) and 6.4 (resources).
"""

from __future__ import annotations

import shutil
import struct
import subprocess

import pytest
from ansible.module_utils.kvm import acpi, pc
from ansible.module_utils.kvm.memory import GuestMemory
from ansible.module_utils.kvm.pci import WINDOW

BASE = 0xE_0000
MIB, GIB = 1 << 20, 1 << 30
HIGH = (32 * GIB, 64 * GIB)
COUNTS = [1, 2, 4, 255, 256, 1024, 4096]


class Tables:
    """What a kernel finds in memory from BASE on."""

    def __init__(self, vcpus, high=HIGH):
        self.raw = acpi.tables(vcpus, WINDOW, high)
        assert self.raw[:8] == b"RSD PTR "
        revision, rsdt, length, xsdt = struct.unpack_from("<BIIQ", self.raw, 15)
        assert (revision, rsdt, length) == (2, 0, 36)
        assert sum(self.raw[:20]) & 0xFF == sum(self.raw[:36]) & 0xFF == 0
        self.places = {}
        self.found = {}
        self._table(xsdt)
        for (address,) in struct.iter_unpack("<Q", self.found["XSDT"][36:]):
            self._table(address)
        fadt = self.found["FACP"]
        self._table(struct.unpack_from("<Q", fadt, 140)[0])
        self._facs(struct.unpack_from("<I", fadt, 36)[0])

    def _table(self, address):
        at = address - BASE
        signature, length = struct.unpack_from("<4sI", self.raw, at)
        content = self.raw[at : at + length]
        assert len(content) == length >= 36
        assert sum(content) & 0xFF == 0, signature
        assert content[10:24] == b"VRTFLTKVMGUEST"
        self._keep(signature, address, content)

    def _facs(self, address):
        at = address - BASE
        signature, length = struct.unpack_from("<4sI", self.raw, at)
        assert address % 64 == 0
        self._keep(signature, address, self.raw[at : at + length])

    def _keep(self, signature, address, content):
        assert signature.decode() not in self.found
        self.found[signature.decode()] = content
        self.places[signature.decode()] = (address, address + len(content))

    def __getitem__(self, name):
        return self.found[name]


@pytest.fixture(scope="module")
def tables():
    return Tables(4)


@pytest.mark.parametrize("vcpus", COUNTS)
def test_checksums_lengths_and_places(vcpus):
    tables = Tables(vcpus)
    assert set(tables.found) == {"XSDT", "FACP", "DSDT", "FACS", "APIC"}
    spans = sorted([(BASE, BASE + 36), *tables.places.values()])
    assert all(before[1] <= after[0] for before, after in zip(spans, spans[1:]))
    assert spans[-1][1] <= MIB
    assert BASE + len(tables.raw) <= MIB


def test_more_vcpus_than_there_is_room_for():
    with pytest.raises(ValueError, match="do not fit below 1 MiB"):
        acpi.tables(10_000, WINDOW, HIGH)


def test_the_facs(tables):
    signature, length, _, vector, lock, flags = struct.unpack_from("<4sIIIII", tables["FACS"])
    assert (signature, length, vector, lock, flags) == (b"FACS", 64, 0, 0, 0)
    assert tables["FACS"][32] == 2


# Table 5.33 of the specification: what stands where, and what has to.
FADT = {
    "FIRMWARE_CTRL": (36, "I", None),
    "DSDT": (40, "I", None),
    "Preferred_PM_Profile": (45, "B", 0),
    "SCI_INT": (46, "H", pc.SCI_IRQ),
    "SMI_CMD": (48, "I", 0),  # ACPI is always on
    "ACPI_ENABLE": (52, "B", 0),
    "ACPI_DISABLE": (53, "B", 0),
    "PM1a_EVT_BLK": (56, "I", pc.POWER_MANAGEMENT),
    "PM1b_EVT_BLK": (60, "I", 0),
    "PM1a_CNT_BLK": (64, "I", pc.POWER_MANAGEMENT + 4),
    "PM1b_CNT_BLK": (68, "I", 0),
    "PM2_CNT_BLK": (72, "I", 0),
    "PM_TMR_BLK": (76, "I", 0),
    "GPE0_BLK": (80, "I", 0),
    "GPE1_BLK": (84, "I", 0),
    "PM1_EVT_LEN": (88, "B", 4),
    "PM1_CNT_LEN": (89, "B", 2),
    "PM2_CNT_LEN": (90, "B", 0),
    "PM_TMR_LEN": (91, "B", 0),
    "P_LVL2_LAT": (96, "H", 0xFFF),  # over 100 us: not there
    "P_LVL3_LAT": (98, "H", 0xFFF),  # over 1000 us: not there
    "IAPC_BOOT_ARCH": (109, "H", 1 << 2 | 1 << 5),  # no VGA, no clock; no keyboard controller
    "Flags": (112, "I", 1 << 0 | 1 << 5 | 1 << 10),  # WBINVD, no sleep button, reset register
    "RESET_VALUE": (128, "B", 0x06),
    "X_FIRMWARE_CTRL": (132, "Q", 0),
    "X_DSDT": (140, "Q", None),
}
# Generic Address Structures (table 5.1): space 1 is ports; width in bits, access size in its code.
REGISTERS = {
    "RESET_REG": (116, 8, 1, pc.RESET_CONTROL),
    "X_PM1a_EVT_BLK": (148, 32, 2, pc.POWER_MANAGEMENT),
    "X_PM1a_CNT_BLK": (172, 16, 2, pc.POWER_MANAGEMENT + 4),
}


def test_the_fixed_description(tables):
    fadt = tables["FACP"]
    assert (len(fadt), fadt[8]) == (276, 6)
    found = {
        name: struct.unpack_from("<" + kind, fadt, at)[0] for name, (at, kind, _) in FADT.items()
    }
    wanted = {name: value for name, (_, _, value) in FADT.items() if value is not None}
    assert {name: found[name] for name in wanted} == wanted
    assert found["DSDT"] == found["X_DSDT"] == tables.places["DSDT"][0]
    assert found["FIRMWARE_CTRL"] == tables.places["FACS"][0]
    rest = bytearray(fadt)
    for name, (at, width, access, port) in REGISTERS.items():
        assert struct.unpack_from("<BBBBQ", fadt, at) == (1, width, 0, access, port), name
        rest[at : at + 12] = bytes(12)
    # No other register is there, and nothing else is said.
    for at, kind, _ in FADT.values():
        rest[at : at + struct.calcsize(kind)] = bytes(struct.calcsize(kind))
    assert not rest[36:].strip(b"\0")


def structures(madt):
    """Return the interrupt controller structures of 5.2.12: kind and body."""
    at, found = 44, []
    while at < len(madt):
        kind, length = madt[at], madt[at + 1]
        assert length >= 2
        assert at + length <= len(madt)
        found.append((kind, madt[at + 2 : at + length]))
        at += length
    return found


@pytest.mark.parametrize("vcpus", COUNTS)
def test_interrupt_controllers(vcpus):
    madt = Tables(vcpus)["APIC"]
    assert struct.unpack_from("<II", madt, 36) == (0xFEE0_0000, 1)  # with PICs
    found = structures(madt)
    local = [struct.unpack("<BBI", body) for kind, body in found if kind == 0]
    wide = [struct.unpack("<HIII", body) for kind, body in found if kind == 9]
    assert local == [(index, index, 1) for index in range(min(vcpus, 255))]
    assert wide == [(0, index, 1, index) for index in range(255, vcpus)]
    rest = {kind: body for kind, body in found if kind not in {0, 9}}
    assert struct.unpack("<BBII", rest.pop(1)) == (0, 0, 0xFEC0_0000, 0)
    bus, source, gsi, flags = struct.unpack("<BBIH", rest.pop(2))
    assert (bus, source, gsi) == (0, pc.SCI_IRQ, pc.SCI_IRQ)
    assert (flags & 3, flags >> 2 & 3) == (1, 3)  # active high, level triggered
    assert struct.unpack("<BHB", rest.pop(4)) == (0xFF, 0, 1)  # NMI of every processor at LINT1
    assert rest == {}


# AML, as far as it is needed to look behind names.


def resources(raw):
    """Return the descriptors of a resource template (6.4): tag and body."""
    at, found = 0, []
    while True:
        tag = raw[at]
        if tag & 0x80:
            (length,) = struct.unpack_from("<H", raw, at + 1)
            head = 3
        else:
            length, head = tag & 7, 1
            tag &= 0x78
        found.append((tag, raw[at + head : at + head + length]))
        at += head + length
        if tag == 0x78:  # the end tag
            assert at == len(raw)
            return found


def template(dsdt, device):
    """Return the resources behind the _CRS of a device."""
    at = dsdt.index(b"\x08_CRS\x11", dsdt.index(device)) + 6
    more = dsdt[at] >> 6
    length = dsdt[at] & 0x3F
    if more:
        length = dsdt[at] & 0xF | int.from_bytes(dsdt[at + 1 : at + 1 + more], "little") << 4
    end = at + length
    at += 1 + more
    assert dsdt[at] in {0x0A, 0x0B}
    size = dsdt[at] - 0x09
    count = int.from_bytes(dsdt[at + 1 : at + 1 + size], "little")
    content = dsdt[at + 1 + size : end]
    assert len(content) == count
    return resources(content)


def test_what_pci_devices_may_use(tables):
    found = template(tables["DSDT"], b"PCI0")
    spaces = {}
    ports = []
    for tag, body in found:
        if tag in {0x87, 0x88, 0x8A}:
            size = {0x87: 4, 0x88: 2, 0x8A: 8}[tag]
            layout = {2: "<5H", 4: "<5I", 8: "<5Q"}[size]
            granularity, first, last, translation, length = struct.unpack_from(layout, body, 3)
            assert (granularity, translation, length) == (0, 0, last - first + 1)
            assert body[1] & 0xC == 0xC  # both ends are fixed
            spaces[body[0], tag] = (first, last)
        if tag == 0x40:
            ports.append(struct.unpack("<BHHBB", body))
    assert ports == [(1, 0xCF8, 0xCF8, 1, 8)]
    assert spaces == {
        (2, 0x88): (0, 0),
        (1, 0x88): (0x1000, 0xFFFF),
        (0, 0x87): (WINDOW[0], WINDOW[1] - 1),
        (0, 0x8A): (HIGH[0], HIGH[1] - 1),
    }


def test_the_serial_port(tables):
    found = dict(template(tables["DSDT"], b"COM1"))
    assert struct.unpack("<BHHBB", found[0x40]) == (1, 0x3F8, 0x3F8, 1, 8)
    assert struct.unpack("<H", found[0x20]) == (1 << 4,)


def test_how_a_guest_turns_itself_off(tables):
    """The package _S5 has the value that pc.PowerManagement waits for (7.4.2)."""
    dsdt = tables["DSDT"]
    at = dsdt.index(b"\x08_S5_\x12") + 6
    assert dsdt[at + 1] == 4
    assert dsdt[at + 2 : at + 4] == bytes([0x0A, pc.PowerManagement._OFF])


@pytest.mark.parametrize(
    ("text", "encoded"),
    [("PNP0A03", "0c41d00a03"), ("PNP0501", "0c41d00501"), ("ACP0004", "0c04700004")],
)
def test_identifiers(text, encoded):
    """Three letters of five bits each, the first on top, then the number (20.3.4)."""
    assert acpi.eisa_id(text).hex() == encoded


@pytest.mark.parametrize("length", [0, 1, 62, 63, 64, 4000, 4093, 4094, 4095, 70_000, 1 << 20])
def test_package_lengths(length):
    """As 20.2.4 counts: the length with its own bytes, six or four bits in the first of them."""
    raw = acpi._length(bytes(length))
    more = raw[0] >> 6
    total = raw[0] & 0x3F
    if more:
        assert raw[0] & 0x30 == 0
        total = raw[0] & 0xF | int.from_bytes(raw[1 : 1 + more], "little") << 4
    assert total == len(raw) == length + 1 + more


def test_a_package_that_is_too_long():
    with pytest.raises(ValueError, match="too long"):
        acpi._length(bytes(1 << 28))


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (0, "00"),
        (1, "01"),
        (2, "0a02"),
        (0xFF, "0aff"),
        (0x100, "0b0001"),
        (0xFFFF, "0bffff"),
        (0x1_0000, "0c00000100"),
        (0xFFFF_FFFF, "0cffffffff"),
        (1 << 32, "0e0000000001000000"),
    ],
)
def test_integers(value, encoded):
    assert acpi._integer(value).hex() == encoded


@pytest.mark.parametrize(
    ("size", "wanted"),
    [(64 * MIB, 32 * GIB), (3 * GIB, 32 * GIB), (31 * GIB, 32 * GIB), (31 * GIB + 4096, 64 * GIB)],
)
def test_the_high_window_is_behind_all_memory(size, wanted):
    memory = GuestMemory(size)
    first, end = memory.high_window()
    assert (first, end) == (wanted, wanted + 32 * GIB)
    assert all(region.start + region.size <= first for region in memory.regions)
    memory.close()


# The ACPI project's own tool as a judge.


def run(folder, *command):
    done = subprocess.run(
        [str(part) for part in command],
        cwd=str(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert not any(word in done.stdout for word in ("Error  ", "Warning  ", "Invalid", "hecksum"))
    return done.stdout


@pytest.mark.skipif(shutil.which("iasl") is None, reason="acpica-tools are not installed")
@pytest.mark.parametrize("vcpus", [1, 300])
def test_the_disassembler_takes_all_of_it(tmp_path, vcpus):
    tables = Tables(vcpus)
    iasl = shutil.which("iasl")
    for name, content in tables.found.items():
        (tmp_path / f"{name}.dat").write_bytes(content)
        run(tmp_path, iasl, "-d", f"{name}.dat")
    source = (tmp_path / "DSDT.dsl").read_text()
    for words in (
        'EisaId ("PNP0A03") /* PCI Bus */',
        'EisaId ("PNP0501") /* 16550A-compatible COM Serial Port */',
        "Name (_S5, Package (0x04)",
    ):
        assert words in source
    # What it makes of that again is the same, but for who compiled it and the sum over that.
    run(tmp_path, iasl, "-p", "again", "DSDT.dsl")
    again = (tmp_path / "again.aml").read_bytes()
    assert again[36:] == tables["DSDT"][36:]
    assert again[:9] + again[10:28] == tables["DSDT"][:9] + tables["DSDT"][10:28]
