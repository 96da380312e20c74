# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Guest images: what a file is, whether it can be loaded, and how it is.

Every loader parses first (``__init__``, from the file alone), then says whether the image fits
(``check``), then loads (``load``). What is wrong with the file raises InputFileError, what is wrong
with the guest around it ConfigError; nothing is written before all of it is known to fit.
"""

from __future__ import annotations

import mmap
import os
import stat
import struct
from typing import TYPE_CHECKING, Callable, NamedTuple

from ..units import format_size
from .errors import ConfigError, InputFileError
from .memory import GAP_START, PAGE, GuestMemory
from .programs import PROGRAMS

if TYPE_CHECKING:
    from .linux import BzImage, Elf64

FLAT_ADDRESS = 0x7C00
FLAT_LIMIT = 512 << 10
CMDLINE_LIMIT = 4096  # bytes
IMAGE_LIMIT = 1 << 30  # bytes of a kernel or an initrd that are read at all


class Image(NamedTuple):
    """A file's name, for messages, and its content; of a file it is mapped, not copied."""

    name: str
    content: bytes | mmap.mmap

    def check_whole(self) -> None:
        """Raise InputFileError where the file was cut short after it was opened.

        What is mapped behind a file's end cannot be read: that is SIGBUS (mmap(2)).
        """
        if isinstance(self.content, mmap.mmap) and self.content.size() < len(self.content):
            raise InputFileError(
                f"{self.name} was cut short while its guest ran: expected {len(self.content)}"
                f" bytes, found {self.content.size()}"
            )

    def forget(self) -> None:
        """Let the pages go that were read; they come back from the file when they are needed."""
        if isinstance(self.content, mmap.mmap):
            self.content.madvise(mmap.MADV_DONTNEED)


class Entry(NamedTuple):
    """How the boot CPU enters the guest: ``mode`` is "real", "protected" or "long".

    In long mode the addresses below ``top`` are mapped, the first GiB in any case.
    """

    mode: str
    rip: int
    rsp: int = 0
    rax: int = 0
    rbx: int = 0
    rsi: int = 0
    top: int = 0


class Segment(NamedTuple):
    """``data`` that goes to ``address``, followed by zeros up to ``size`` bytes."""

    address: int
    size: int
    data: bytes | memoryview

    @property
    def end(self) -> int:
        """The first address behind the segment."""
        return self.address + self.size


def read_image(path: str) -> Image:
    """Return the file at ``path``; InputFileError if it cannot be read or is no regular file."""
    try:
        # Without O_NONBLOCK a named pipe would hold the open up for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise InputFileError(f"cannot open {path}: {error.strerror}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise InputFileError(f"{path} is not a regular file")
        if status.st_size > IMAGE_LIMIT:
            size, limit = status.st_size, format_size(IMAGE_LIMIT)
            raise InputFileError(f"{path} has {size} bytes: expected an image of at most {limit}")
        if not status.st_size:
            return Image(path, b"")
        return Image(path, mmap.mmap(descriptor, status.st_size, prot=mmap.PROT_READ))
    except OSError as error:
        raise InputFileError(f"cannot read {path}: {error.strerror}") from error
    finally:
        os.close(descriptor)


def check_overlap(segments: list[Segment], bad: Callable[[str], InputFileError]) -> None:
    """Sort the segments by address; raise what ``bad`` makes of it where two overlap."""
    segments.sort(key=lambda segment: segment.address)
    for before, after in zip(segments, segments[1:]):
        if before.end > after.address:
            raise bad(f"two of its segments overlap at {after.address:#x}")


def fits(name: str, end: int, memory: int) -> None:
    """Raise ConfigError unless addresses below ``end`` are memory of a guest of that size."""
    if end > min(memory, GAP_START):
        needed = -(-end // (1 << 20))
        raise ConfigError(
            f"{name} needs at least {needed}MiB of memory, the guest has {format_size(memory)}"
        )


class Flat:
    """A real-mode image without a header, entered at 0000:7c00 like a boot sector."""

    wants_native = False  # whether it needs a KVM that runs privileged code on the CPU

    def __init__(self, image: Image) -> None:
        self.image = image
        if len(image.content) > FLAT_LIMIT:
            raise InputFileError(
                f"{image.name} has no header of a known format, and as a flat real-mode image its "
                f"{len(image.content)} bytes are over the {format_size(FLAT_LIMIT)} that fit"
            )

    def check(self, memory: int, cmdline: bytes, initrd: Image | None) -> None:
        """Raise ConfigError if a guest with ``memory`` bytes cannot take the image."""
        if cmdline or initrd is not None:
            what = "a command line" if cmdline else "an initrd"
            raise ConfigError(f"{self.image.name} is a flat real-mode image: it cannot take {what}")
        fits(self.image.name, FLAT_ADDRESS + len(self.image.content), memory)

    def load(self, memory: GuestMemory, cmdline: bytes, initrd: Image | None) -> Entry:
        """Load the image and return its entry."""
        self.check(memory.size, cmdline, initrd)
        memory.write(FLAT_ADDRESS, self.image.content)
        return Entry("real", rip=FLAT_ADDRESS, rsp=FLAT_ADDRESS)


class Multiboot:
    """An ELF32 image with a multiboot header (Multiboot Specification 0.6.96).

    The initrd becomes its first module.
    """

    wants_native = False
    HEADER_MAGIC, LOADER_MAGIC = 0x1BADB002, 0x2BADB002
    _SEARCHED = 8192  # bytes from the start in which the header must lie, aligned to 4
    _KNOWN_FLAGS = 0x0007  # page-aligned modules, memory information, video mode (a wish)
    _ELF = struct.Struct("<16sHHIIIIIHHHHHH")
    _PROGRAM_HEADER = struct.Struct("<8I")
    _EM_386, _ET_EXEC, _PT_LOAD = 3, 2, 1
    _LOW_TOP = 0x9F000  # below the extended BIOS data area
    _MAX_PROGRAM_HEADERS = 256
    _LOADER_NAME = b"virtfleet\0"

    def __init__(self, image: Image) -> None:
        self.image = image
        self._check_header()
        self.segments, self.entry = self._parse_elf()

    def _bad(self, what: str) -> InputFileError:
        return InputFileError(f"{self.image.name} is no usable multiboot ELF32 image: {what}")

    def _check_header(self) -> None:
        searched = self.image.content[: self._SEARCHED]
        for offset in range(0, len(searched) - 11, 4):
            magic, flags, checksum = struct.unpack_from("<3I", searched, offset)
            if magic == self.HEADER_MAGIC and (magic + flags + checksum) & 0xFFFFFFFF == 0:
                unknown = flags & 0xFFFF & ~self._KNOWN_FLAGS
                if unknown:
                    raise self._bad(f"it requires multiboot features {unknown:#x}, not known here")
                return
        raise self._bad("no valid multiboot header in its first 8 KiB")

    def _parse_elf(self) -> tuple[list[Segment], int]:
        content = self.image.content
        if len(content) < self._ELF.size:
            raise self._bad("its ELF header is truncated")
        fields = self._ELF.unpack_from(content)
        kind, entry, table, entry_size, count = (fields[i] for i in (1, 4, 5, 9, 10))
        if fields[0][4:6] != b"\x01\x01" or kind != self._ET_EXEC:
            raise self._bad("expected a little-endian 32-bit executable (ELF type 2)")
        if entry_size != self._PROGRAM_HEADER.size or table + entry_size * count > len(content):
            raise self._bad("its program headers are truncated or malformed")
        if count > self._MAX_PROGRAM_HEADERS:
            raise self._bad(f"it has {count} program headers: expected a few")
        segments = []
        physical_entry = None
        for index in range(count):
            header = self._PROGRAM_HEADER.unpack_from(content, table + index * entry_size)
            kind, _, virtual, physical, _, size = header[:6]
            if kind != self._PT_LOAD or size == 0:
                continue
            segments.append(self._segment(index, header))
            # The entry may be given as a virtual address; the machine starts without paging.
            for start in (virtual, physical):
                if physical_entry is None and start <= entry < start + size:
                    physical_entry = entry - start + physical
        check_overlap(segments, self._bad)
        if physical_entry is None:
            raise self._bad(f"its entry {entry:#x} lies in none of its loadable segments")
        return segments, physical_entry

    def _segment(self, index: int, header: tuple[int, ...]) -> Segment:
        _, offset, _, physical, file_size, size = header[:6]
        if file_size > size:
            raise self._bad(f"program header {index} has more bytes in the file than in memory")
        if offset + file_size > len(self.image.content):
            raise self._bad(f"program header {index} reaches behind the end of the file")
        return Segment(physical, size, self.image.content[offset : offset + file_size])

    def _initrd_address(self) -> int:
        end = max(self.segments[-1].end, 1 << 20)
        return -(-end // PAGE) * PAGE

    def _information_address(self, memory: int, length: int) -> int:
        """Return the highest page below 640 KiB from which ``length`` bytes hit no segment."""
        length = -(-length // PAGE) * PAGE
        for address in range(min(self._LOW_TOP, memory) // PAGE * PAGE - length, 0, -PAGE):
            clear = (s.end <= address or s.address >= address + length for s in self.segments)
            if all(clear):
                return address
        raise ConfigError(
            f"{self.image.name} leaves no room below 640 KiB for the multiboot information"
        )

    def check(self, memory: int, cmdline: bytes, initrd: Image | None) -> None:
        """Raise ConfigError if a guest with ``memory`` bytes cannot take the image."""
        fits(self.image.name, self.segments[-1].end, memory)
        if initrd is not None:
            fits(initrd.name, self._initrd_address() + len(initrd.content), memory)
        self._information_address(memory, len(self._information(0, memory, cmdline, initrd)))

    def _information(self, at: int, memory: int, cmdline: bytes, initrd: Image | None) -> bytes:
        """Return the multiboot information that lies at ``at`` (specification, section 3.3)."""
        low, high = min(memory, 640 << 10), min(memory, GAP_START)
        ranges = [(0, low)]
        if high > 1 << 20:
            ranges.append((1 << 20, high - (1 << 20)))
        if memory > GAP_START:
            ranges.append((4 << 30, memory - GAP_START))
        memory_map = b"".join(struct.pack("<IQQI", 20, *range_, 1) for range_ in ranges)
        fixed = 120
        map_at = at + fixed
        name_at = map_at + len(memory_map)
        module_at = name_at + len(self._LOADER_NAME) + 6 & ~3
        module = b""
        if initrd is not None:
            start = self._initrd_address()
            module = struct.pack("<4I", start, start + len(initrd.content), 0, 0)
        cmdline_at = module_at + len(module)
        flags = 1 << 0 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9
        head = struct.pack("<3I", flags, low >> 10, max(high - (1 << 20), 0) >> 10)
        head += struct.pack("<IIII", 0, cmdline_at, bool(module), module_at)
        head += bytes(16) + struct.pack("<II", len(memory_map), map_at)
        head += bytes(12) + struct.pack("<I", name_at)
        body = head.ljust(fixed, b"\0") + memory_map + self._LOADER_NAME
        return body.ljust(module_at - at, b"\0") + module + cmdline + b"\0"

    def load(self, memory: GuestMemory, cmdline: bytes, initrd: Image | None) -> Entry:
        """Load the image and return its entry."""
        self.check(memory.size, cmdline, initrd)
        for segment in self.segments:
            memory.write(segment.address, segment.data)
        if initrd is not None:
            memory.write(self._initrd_address(), initrd.content)
        length = len(self._information(0, memory.size, cmdline, initrd))
        at = self._information_address(memory.size, length)
        memory.write(at, self._information(at, memory.size, cmdline, initrd))
        return Entry("protected", rip=self.entry, rax=self.LOADER_MAGIC, rbx=at)


# Formats that are no guest image for this helper: (offset, magic, name).
_FOREIGN = (
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"\xfd7zXZ\0", "an xz archive"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (0, b"\x02\x21\x4c\x18", "an lz4 archive"),
    (0, b"\x04\x22\x4d\x18", "an lz4 archive"),
    (0, b"BZh", "a bzip2 archive"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"070701", "a cpio archive, which is what an initrd is"),
    (0, b"QFI\xfb", "a qcow2 disk image"),
    (0, b"KDMV", "a VMDK disk image"),
    (0, b"conectix", "a VHD disk image"),
    (0, b"vhdxfile", "a VHDX disk image"),
    (0, b"<<< ", "a VDI disk image"),
    (0, b"hsqs", "a squashfs image"),
    (0, b"#!", "a script"),
    (0, b"!<arch>", "an ar archive or a Debian package"),
    (0x38, b"ARM\x64", "a Linux kernel for arm64"),
    (257, b"ustar", "a tar archive"),
    (0x8001, b"CD001", "an ISO 9660 image"),
    (0, b"MZ", "an EFI or DOS program"),
)

_MACHINES = {
    2: "SPARC",
    3: "i386",
    8: "MIPS",
    20: "PowerPC",
    21: "PowerPC 64",
    22: "s390",
    40: "ARM",
    62: "x86-64",
    183: "AArch64",
    243: "RISC-V",
    258: "LoongArch",
}


def _elf(image: Image) -> Multiboot | Elf64:
    """Return the loader of an ELF file; InputFileError unless it is one for a PC."""
    content = image.content
    if len(content) < 20:
        raise InputFileError(f"{image.name} is a truncated ELF file of {len(content)} bytes")
    wide = content[4] == 2
    (machine,) = struct.unpack_from(">H" if content[5] == 2 else "<H", content, 18)
    name = _MACHINES.get(machine, f"machine {machine}")
    if machine not in {3, 62}:
        raise InputFileError(f"{image.name} is an ELF image for {name}, not for a PC")
    if wide != (machine == 62) or content[5] != 1:
        raise InputFileError(
            f"{image.name} is an ELF{64 if wide else 32} image for {name}: expected a multiboot "
            "ELF32 image for i386 or an ELF64 image for x86-64"
        )
    if not wide:
        return Multiboot(image)
    from .linux import Elf64  # costs a bare program's start a millisecond

    return Elf64(image)


def loader_for(image: Image) -> Flat | Multiboot | BzImage | Elf64:
    """Return the loader that the image's magic calls for.

    Raises InputFileError for an empty or malformed file and, by name, for a foreign format.
    """
    content = image.content
    if not content:
        raise InputFileError(f"{image.name} is empty")
    if content[:4] == b"\x7fELF":
        return _elf(image)
    if content[0x202:0x206] == b"HdrS":
        from .linux import BzImage

        return BzImage(image)
    for offset, magic, name in _FOREIGN:
        if content[offset : offset + len(magic)] == magic:
            raise InputFileError(f"{image.name} is {name}, not a guest image")
    return Flat(image)


def encode_cmdline(cmdline: str) -> bytes:
    """Return the kernel command line's bytes; ConfigError if it is too long or holds controls."""
    if any(ord(character) < 0x20 or ord(character) == 0x7F for character in cmdline):
        raise ConfigError("the kernel command line may not hold newlines or control characters")
    try:
        encoded = cmdline.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise ConfigError(f"the kernel command line is no text: {error.reason}") from error
    if len(encoded) >= CMDLINE_LIMIT:
        raise ConfigError(
            f"the kernel command line may have at most {CMDLINE_LIMIT - 1} bytes, "
            f"found {len(encoded)}"
        )
    return encoded


def open_kernel(source: str) -> Image:
    """Return the image that ``kernel:`` names: a shipped program's name or the path of a file."""
    if source in PROGRAMS:
        return Image(source, PROGRAMS[source])
    return read_image(source)


def check_image(kernel: str, memory: int, initrd: str | None = None, cmdline: str = "") -> None:
    """Raise InputFileError or ConfigError if a guest of ``memory`` bytes cannot start this."""
    image = None if initrd is None else read_image(initrd)
    loader_for(open_kernel(kernel)).check(memory, encode_cmdline(cmdline), image)
