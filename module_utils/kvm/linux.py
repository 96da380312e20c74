# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Linux kernels: a bzImage by its 64-bit entry, an ELF64 image by PVH or by its 64-bit entry.

Sources: Documentation/arch/x86/boot.rst (the boot protocol), zero-page.rst (struct boot_params),
include/xen/interface/hvm/start_info.h and arch/x86/include/uapi/asm/bootparam.h. Both kinds are
told where their memory is, where the ACPI tables are, the command line and the initrd.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from ..units import format_size
from .acpi import RSDP_ADDRESS
from .errors import ConfigError, InputFileError
from .loader import Entry, Image, Segment, check_overlap, fits
from .memory import GAP_END, GAP_START, PAGE, GuestMemory

# Below 640 KiB, clear of the real-mode vectors and of the extended BIOS data area.
_START_INFO = 0x6000
_BOOT_PARAMS = 0x7000
_STACK = 0x8FF0
_CMDLINE = 0x2_0000
LOW_TOP = 0x9_FC00  # bytes of memory that e820 offers below 1 MiB
_HIGH = 1 << 20
_E820_RAM, _E820_RESERVED = 1, 2
_INITRD_TOP = 0x7FFF_FFFF  # initrd_addr_max of kernels that state none


class Range(NamedTuple):
    """A piece of the guest's physical addresses: ``kind`` as e820 numbers it, 1 is memory."""

    start: int
    size: int
    kind: int


def memory_map(memory: int) -> list[Range]:
    """Return what lies where in a guest with ``memory`` bytes: memory, firmware tables, memory."""
    ranges = [
        Range(0, min(memory, LOW_TOP), _E820_RAM),
        Range(LOW_TOP, _HIGH - LOW_TOP, _E820_RESERVED),
    ]
    low = min(memory, GAP_START)
    if low > _HIGH:
        ranges.append(Range(_HIGH, low - _HIGH, _E820_RAM))
    if memory > GAP_START:
        ranges.append(Range(GAP_END, memory - GAP_START, _E820_RAM))
    return ranges


def _initrd_address(initrd: Image, memory: int, floor: int, highest: int) -> int:
    """Return the highest page-aligned address for the initrd that is above the kernel."""
    top = min(memory, GAP_START, highest + 1)
    address = (top - len(initrd.content)) // PAGE * PAGE
    if address < floor:
        needed = -(-(floor + len(initrd.content) + PAGE) // (1 << 20))
        raise ConfigError(
            f"{initrd.name} and the kernel before it need at least {needed}MiB of memory, "
            f"the guest has {format_size(memory)}"
        )
    return address


def _boot_params(header: bytes, memory: int, initrd: tuple[int, int]) -> bytearray:
    """Return a struct boot_params around a setup ``header``, which stands from 0x1f1 on.

    ``initrd`` is its address and size.
    """
    page = bytearray(PAGE)
    page[0x1F1 : 0x1F1 + len(header)] = header
    struct.pack_into("<Q", page, 0x070, RSDP_ADDRESS)  # acpi_rsdp_addr
    struct.pack_into("<H", page, 0x1FA, 0xFFFF)  # vid_mode: as it is
    page[0x210] = 0xFF  # type_of_loader: none that is registered
    struct.pack_into("<II", page, 0x218, *initrd)
    struct.pack_into("<I", page, 0x228, _CMDLINE)  # cmd_line_ptr
    ranges = memory_map(memory)
    page[0x1E8] = len(ranges)
    for index, one in enumerate(ranges):
        struct.pack_into("<QQI", page, 0x2D0 + 20 * index, *one)
    return page


def _long_entry(rip: int, end: int) -> Entry:
    return Entry("long", rip=rip, rsp=_STACK, rsi=_BOOT_PARAMS, top=end)


class BzImage:
    """A compressed kernel as distributions ship it; it unpacks itself in the guest."""

    wants_native = True

    _OLDEST = 0x020C  # the protocol that has xloadflags
    _KERNEL_64, _LOADED_HIGH = 0x01, 0x01
    _HEADER = 0x1F1

    def __init__(self, image: Image) -> None:
        self.image = image
        content = image.content
        if len(content) < 0x268:
            raise self._bad("its setup header is truncated")
        setup_sectors = content[0x1F1] or 4
        version = self._field("<H", 0x206)
        boot_flag = self._field("<H", 0x1FE)
        flags = self._field("<H", 0x236)
        if boot_flag != 0xAA55:
            raise self._bad(f"its boot flag is {boot_flag:#x}, not 0xaa55")
        if version < self._OLDEST:
            raise self._bad(
                f"its boot protocol {version >> 8}.{version & 0xFF:02d} is older than 2.12"
            )
        if not flags & self._KERNEL_64:
            raise self._bad("it has no 64-bit entry (a kernel for i386?)")
        if not content[0x211] & self._LOADED_HIGH:
            raise self._bad("it is a zImage, which loads below 1 MiB")
        self.offset = (setup_sectors + 1) * 512
        self.cmdline_limit = self._field("<I", 0x238)
        self.highest = self._field("<I", 0x22C)
        relocatable = content[0x234]
        preferred = self._field("<Q", 0x258)
        self.needs = self._field("<I", 0x260)
        self.address = preferred if relocatable else _HIGH
        self._runs_at = preferred  # where the one that cannot be relocated moves itself to
        if len(content) <= self.offset + 0x200:
            raise self._bad("it is truncated: nothing follows its setup code")
        if not _HIGH <= preferred < GAP_START or self.needs > GAP_START:
            raise self._bad(f"it wants {self.needs} bytes at {preferred:#x}")
        # The header ends where the jump over it leads.
        self.header = bytes(content[self._HEADER : min(0x202 + content[0x201], 0x290)])

    def _field(self, layout: str, offset: int) -> int:
        return int(struct.unpack_from(layout, self.image.content, offset)[0])

    def _bad(self, what: str) -> InputFileError:
        return InputFileError(f"{self.image.name} is no usable Linux kernel (bzImage): {what}")

    @property
    def end(self) -> int:
        """The first address that the kernel does not need until it is unpacked."""
        loaded = len(self.image.content) - self.offset
        return max(self._runs_at + self.needs, self.address + loaded)

    def check(self, memory: int, cmdline: bytes, initrd: Image | None) -> None:
        """Raise ConfigError if a guest with ``memory`` bytes cannot take the image."""
        fits(self.image.name, self.end, memory)
        if len(cmdline) > self.cmdline_limit:
            raise ConfigError(
                f"{self.image.name} takes a command line of at most {self.cmdline_limit} bytes, "
                f"found {len(cmdline)}"
            )
        if initrd is not None:
            _initrd_address(initrd, memory, self.end, self.highest)

    def load(self, memory: GuestMemory, cmdline: bytes, initrd: Image | None) -> Entry:
        """Load the image and return its entry."""
        self.check(memory.size, cmdline, initrd)
        place = (0, 0)
        if initrd is not None:
            at = _initrd_address(initrd, memory.size, self.end, self.highest)
            memory.write(at, initrd.content)
            place = (at, len(initrd.content))
        memory.write(self.address, memoryview(self.image.content)[self.offset :])
        memory.write(_CMDLINE, cmdline + b"\0")
        memory.write(_BOOT_PARAMS, _boot_params(self.header, memory.size, place))
        return _long_entry(self.address + 0x200, self.end)


class Elf64:
    """An ELF64 executable for x86-64: entered by its PVH note if it has one, else in 64-bit mode.

    A PVH kernel gets a struct hvm_start_info, another one a struct boot_params (vmlinux, or any
    program that is content with 64-bit mode, identity-mapped, and the boot protocol's registers).
    """

    wants_native = False  # it may be a small program; a kernel is told by its own format
    _HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
    _PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
    _ET_EXEC, _PT_LOAD, _PT_NOTE = 2, 1, 4
    _MAX_PROGRAM_HEADERS = 256
    _MAX_NOTES = 1 << 20  # bytes of notes that are looked at
    _PHYS32_ENTRY = 18  # XEN_ELFNOTE_PHYS32_ENTRY
    _START_MAGIC = 0x336E_C578

    def __init__(self, image: Image) -> None:
        self.image = image
        self.segments, self.entry, self.pvh = self._parse()

    def _bad(self, what: str) -> InputFileError:
        return InputFileError(f"{self.image.name} is no usable ELF64 image: {what}")

    def _parse(self) -> tuple[list[Segment], int, bool]:
        """Return the segments by address, the entry, and whether it is the one of PVH."""
        entry, pieces = self._pieces()
        segments = [piece for kind, _, piece in pieces if kind == self._PT_LOAD]
        check_overlap(segments, self._bad)
        if not segments:
            raise self._bad("it has nothing to load")
        if segments[0].address < _HIGH:
            raise self._bad(f"it loads to {segments[0].address:#x}, below 1 MiB")
        notes = [piece.data for kind, _, piece in pieces if kind == self._PT_NOTE]
        entries = (self._phys32_entry(data) for data in notes)
        note = next((found for found in entries if found is not None), None)
        found = self._physical(entry, pieces) if note is None else note
        if not any(s.address <= found < s.end for s in segments):
            raise self._bad(f"its entry {found:#x} lies in none of its loadable segments")
        return segments, found, note is not None

    def _pieces(self) -> tuple[int, list[tuple[int, int, Segment]]]:
        """Return the entry, and kind, virtual address and content of what a header describes."""
        content = self.image.content
        if len(content) < self._HEADER.size:
            raise self._bad("its ELF header is truncated")
        fields = self._HEADER.unpack_from(content)
        kind, entry, table, entry_size, count = (fields[i] for i in (1, 4, 5, 9, 10))
        if kind != self._ET_EXEC:
            raise self._bad(f"expected an executable (ELF type 2), found type {kind}")
        if entry_size != self._PROGRAM_HEADER.size or table + entry_size * count > len(content):
            raise self._bad("its program headers are truncated or malformed")
        if count > self._MAX_PROGRAM_HEADERS:
            raise self._bad(f"it has {count} program headers: expected a few")
        pieces = []
        for index in range(count):
            header = self._PROGRAM_HEADER.unpack_from(content, table + index * entry_size)
            kind, _, offset, virtual, physical, in_file, size = header[:7]
            if kind not in {self._PT_LOAD, self._PT_NOTE} or not size:
                continue
            if in_file > size:
                raise self._bad(f"program header {index} has more bytes in the file than in memory")
            if offset + in_file > len(content):
                raise self._bad(f"program header {index} reaches behind the end of the file")
            data = memoryview(content)[offset : offset + in_file]
            pieces.append((kind, virtual, Segment(physical, size, data)))
        return entry, pieces

    def _physical(self, entry: int, pieces: list[tuple[int, int, Segment]]) -> int:
        """Return where the entry lies, which may be given as a virtual address."""
        for kind, virtual, piece in pieces:
            for begin in (piece.address, virtual):
                if kind == self._PT_LOAD and begin <= entry < begin + piece.size:
                    return entry - begin + piece.address
        return entry

    def _phys32_entry(self, notes: bytes | memoryview) -> int | None:
        """Return the address in a note of the name Xen and the type PHYS32_ENTRY."""
        at, end = 0, min(len(notes), self._MAX_NOTES)
        while at + 12 <= end:
            name_size, size, kind = struct.unpack_from("<III", notes, at)
            name_at = at + 12
            data_at = name_at + (name_size + 3 & ~3)
            at = data_at + (size + 3 & ~3)
            if at > end:
                return None
            if kind == self._PHYS32_ENTRY and bytes(notes[name_at : name_at + 4]) == b"Xen\0":
                return int.from_bytes(notes[data_at : data_at + min(size, 8)], "little")
        return None

    @property
    def end(self) -> int:
        """The first address behind the last segment."""
        return self.segments[-1].end

    def check(self, memory: int, cmdline: bytes, initrd: Image | None) -> None:
        """Raise ConfigError if a guest with ``memory`` bytes cannot take the image."""
        del cmdline
        fits(self.image.name, self.end, memory)
        if initrd is not None:
            _initrd_address(initrd, memory, self.end, _INITRD_TOP)

    def load(self, memory: GuestMemory, cmdline: bytes, initrd: Image | None) -> Entry:
        """Load the image and return its entry."""
        self.check(memory.size, cmdline, initrd)
        for segment in self.segments:
            memory.write(segment.address, segment.data)
        place = (0, 0)
        if initrd is not None:
            at = _initrd_address(initrd, memory.size, self.end, _INITRD_TOP)
            memory.write(at, initrd.content)
            place = (at, len(initrd.content))
        memory.write(_CMDLINE, cmdline + b"\0")
        if self.pvh:
            memory.write(_START_INFO, self._start_info(memory.size, place))
            return Entry("protected", rip=self.entry, rsp=_STACK, rbx=_START_INFO)
        # A setup header of protocol 2.12 without a boot sector around it.
        header = bytearray(0x268 - 0x1F1)
        struct.pack_into("<H", header, 0x1FE - 0x1F1, 0xAA55)
        header[0x202 - 0x1F1 : 0x206 - 0x1F1] = b"HdrS"
        struct.pack_into("<H", header, 0x206 - 0x1F1, 0x020C)
        header[0x211 - 0x1F1] = 0x01  # loadflags: LOADED_HIGH
        memory.write(_BOOT_PARAMS, _boot_params(bytes(header), memory.size, place))
        return _long_entry(self.entry, self.end)

    def _start_info(self, memory: int, initrd: tuple[int, int]) -> bytes:
        """Return a struct hvm_start_info of version 1 with its modules and memory map."""
        fixed, module = 56, 32
        modules_at = _START_INFO + fixed
        map_at = modules_at + module
        ranges = memory_map(memory)
        head = struct.pack(
            "<IIIIQQQQII",
            self._START_MAGIC,
            1,
            0,
            int(bool(initrd[1])),
            modules_at,
            _CMDLINE,
            RSDP_ADDRESS,
            map_at,
            len(ranges),
            0,
        )
        entries = b"".join(struct.pack("<QQII", *one, 0) for one in ranges)
        return head + struct.pack("<QQQQ", *initrd, 0, 0) + entries
