# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Linux kernels, made here: what each loader refuses, and what a guest finds in its memory.

The boot structures are read by the places that Documentation/arch/x86/boot.rst, zero-page.rst and
Xen's start_info.h give, not by those that the loader knows.
"""

from __future__ import annotations

import struct
from types import MappingProxyType, SimpleNamespace

import pytest
from ansible.module_utils.kvm import cpu
from ansible.module_utils.kvm.acpi import RSDP_ADDRESS, tables
from ansible.module_utils.kvm.errors import EXIT_CONFIG, EXIT_INPUT, ConfigError, InputFileError
from ansible.module_utils.kvm.linux import BzImage, Elf64, memory_map
from ansible.module_utils.kvm.loader import Image, loader_for
from ansible.module_utils.kvm.memory import PAGE

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
AT = 16 * MIB  # where the kernels of this file prefer to be
CODE = bytes(range(1, 256)) * 5
FIRST_HIGH = 4 * GIB


def load(memory, content, cmdline=b"", initrd=None):
    return loader_for(Image("kernel", content)).load(memory, cmdline, initrd)


class Params:
    """Reads a struct boot_params (zero-page.rst) as a kernel does."""

    FIELDS = MappingProxyType(
        {
            "acpi_rsdp_addr": (0x070, "Q"),
            "e820_entries": (0x1E8, "B"),
            "sentinel": (0x1EF, "B"),
            "setup_sects": (0x1F1, "B"),
            "vid_mode": (0x1FA, "H"),
            "boot_flag": (0x1FE, "H"),
            "jump": (0x200, "H"),
            "header": (0x202, "I"),
            "version": (0x206, "H"),
            "type_of_loader": (0x210, "B"),
            "loadflags": (0x211, "B"),
            "code32_start": (0x214, "I"),
            "ramdisk_image": (0x218, "I"),
            "ramdisk_size": (0x21C, "I"),
            "cmd_line_ptr": (0x228, "I"),
            "initrd_addr_max": (0x22C, "I"),
            "kernel_alignment": (0x230, "I"),
            "cmdline_size": (0x238, "I"),
            "setup_data": (0x250, "Q"),
            "pref_address": (0x258, "Q"),
            "init_size": (0x260, "I"),
        }
    )

    def __init__(self, memory, at):
        self.memory = memory
        self.page = memory.read(at, PAGE)

    def __getattr__(self, name):
        at, layout = self.FIELDS[name]
        return struct.unpack_from("<" + layout, self.page, at)[0]

    def e820(self):
        count = self.e820_entries
        assert count <= 128
        return [struct.unpack_from("<QQI", self.page, 0x2D0 + 20 * n) for n in range(count)]

    def cmdline(self):
        return self.memory.read(self.cmd_line_ptr, 4096).partition(b"\0")[0]

    def initrd(self):
        return self.memory.read(self.ramdisk_image, self.ramdisk_size)


def start_info(memory, at):
    """Read a struct hvm_start_info (include/xen/interface/hvm/start_info.h)."""
    names = "magic version flags nr_modules modlist cmdline rsdp memmap entries reserved"
    found = SimpleNamespace(
        **dict(zip(names.split(), struct.unpack("<IIIIQQQQII", memory.read(at, 56))))
    )
    found.text = memory.read(found.cmdline, 4096).partition(b"\0")[0]
    found.map = [
        struct.unpack("<QQII", memory.read(found.memmap + 24 * n, 24)) for n in range(found.entries)
    ]
    found.modules = [
        struct.unpack("<QQQQ", memory.read(found.modlist + 32 * n, 32))
        for n in range(found.nr_modules)
    ]
    return found


def sane(ranges, memory):
    """Check a memory map: in order, nothing twice, and all of the guest's memory."""
    for before, after in zip(ranges, ranges[1:]):
        assert before[0] + before[1] <= after[0]
    usable = [(start, size) for start, size, kind, *_ in ranges if kind == 1]
    hidden = sum(size for start, size, kind, *_ in ranges if kind == 2)
    assert sum(size for _, size in usable) + hidden == max(memory, MIB)
    assert all(start + size <= 3 * GIB or start >= FIRST_HIGH for start, size in usable)


# What a bzImage gets.


def test_a_bzimage(new_memory, images):
    memory = new_memory(64 * MIB)
    content = images.bzimage(CODE)
    entry = load(memory, content, b"console=ttyS0 quiet")
    assert (entry.mode, entry.rip) == ("long", AT + 0x200)
    assert memory.read(AT, len(CODE)) == CODE
    params = Params(memory, entry.rsi)
    assert params.cmdline() == b"console=ttyS0 quiet"
    assert params.type_of_loader == 0xFF  # none that is registered
    assert (params.ramdisk_image, params.ramdisk_size) == (0, 0)
    assert params.acpi_rsdp_addr == RSDP_ADDRESS
    assert params.sentinel == 0
    # The image's own header, from 0x1f1 to where its jump leads.
    assert params.boot_flag == 0xAA55
    assert params.header.to_bytes(4, "little") == b"HdrS"
    assert params.version == 0x020F
    assert params.loadflags & 1
    assert params.kernel_alignment == 0x200000
    assert params.init_size == 0x200000
    assert params.pref_address == AT
    assert params.setup_data == 0
    unchanged = bytearray(content[0x1F1:0x26C])
    found = bytearray(params.page[0x1F1:0x26C])
    for at, size in ((0x1FA, 2), (0x210, 1), (0x218, 8), (0x228, 4)):
        for field in (unchanged, found):
            field[at - 0x1F1 : at - 0x1F1 + size] = bytes(size)
    assert found == unchanged
    # What the boot loader does not set is zero (boot.rst, 64-bit boot protocol).
    assert not params.page[0x26C:0x2D0].strip(b"\0")
    assert not params.page[:0x70].strip(b"\0")


@pytest.mark.parametrize(
    ("jump_over", "end"), [(0x62, 0x264), (0x66, 0x268), (0x8E, 0x290), (0xFF, 0x290), (0, 0x202)]
)
def test_as_much_of_the_header_as_the_image_has(new_memory, images, jump_over, end):
    """Its end is where its jump leads; the fields behind the greatest header are e820's."""
    content = bytearray(images.bzimage(CODE, jump_over=jump_over))
    content[0x264:0x2D0] = b"\xaa" * (0x2D0 - 0x264)
    memory = new_memory(64 * MIB)
    page = Params(memory, load(memory, bytes(content)).rsi).page
    assert not page[end:0x2D0].strip(b"\0") or end == 0x202
    assert page[0x264:end] == b"\xaa" * max(end - 0x264, 0)


@pytest.mark.parametrize("sectors", [0, 1, 4, 27, 64, 255])
def test_setup_sectors(new_memory, images, sectors):
    """Zero means four (boot.rst, setup_sects)."""
    memory = new_memory(64 * MIB)
    load(memory, images.bzimage(CODE, setup_sectors=sectors))
    assert memory.read(AT, len(CODE)) == CODE


def test_a_kernel_that_cannot_be_moved(new_memory, images):
    """It is loaded to 1 MiB and moves itself to where it runs, which has to be memory too."""
    content = images.bzimage(CODE, relocatable_kernel=0)
    memory = new_memory(64 * MIB)
    entry = load(memory, content, b"", Image("initrd", b"i" * 100))
    assert entry.rip == MIB + 0x200
    assert memory.read(MIB, len(CODE)) == CODE
    assert Params(memory, entry.rsi).ramdisk_image >= AT + 0x200000
    with pytest.raises(ConfigError, match="kernel needs at least 18MiB of memory"):
        loader_for(Image("kernel", content)).check(17 * MIB, b"", None)
    entry = load(memory, images.bzimage(bytes(20 * MIB), relocatable_kernel=0))
    assert entry.top == 21 * MIB


@pytest.mark.parametrize("kind", ["bzimage", "elf64"])
def test_all_that_a_64_bit_entry_needs_is_mapped(new_memory, images, kind):
    """The first page tables reach to where the kernel ends (boot.rst, 64-bit boot protocol)."""
    memory = new_memory(3 * GIB)
    place = GIB + GIB // 2
    content = {
        "bzimage": images.bzimage(CODE, pref_address=place, init_size=GIB),
        "elf64": images.elf64([images.segment(place, CODE, memsz=GIB)], place),
    }[kind]
    assert load(memory, content).top == place + GIB


# A guest's memory, and the pieces in which it is told of it: start, size, kind.
LOW = [(0, 0x9FC00, 1), (0x9FC00, MIB - 0x9FC00, 2)]
MAPS = {
    32 * MIB: [*LOW, (MIB, 31 * MIB, 1)],
    3 * GIB - PAGE: [*LOW, (MIB, 3 * GIB - MIB - PAGE, 1)],
    3 * GIB: [*LOW, (MIB, 3 * GIB - MIB, 1)],
    3 * GIB + PAGE: [*LOW, (MIB, 3 * GIB - MIB, 1), (FIRST_HIGH, PAGE, 1)],
    16 * GIB: [*LOW, (MIB, 3 * GIB - MIB, 1), (FIRST_HIGH, 13 * GIB, 1)],
    1 << 40: [*LOW, (MIB, 3 * GIB - MIB, 1), (FIRST_HIGH, (1 << 40) - 3 * GIB, 1)],
}


@pytest.mark.parametrize("kind", ["bzimage", "elf64", "pvh"])
@pytest.mark.parametrize("size", MAPS)
def test_the_memory_map(new_memory, images, size, kind):
    memory = new_memory(size)
    content = getattr(images, kind)
    made = (
        content([images.segment(AT, CODE)], AT)
        if kind == "elf64"
        else content(CODE, **({"address": AT} if kind == "pvh" else {}))
    )
    entry = load(memory, made)
    if kind == "pvh":
        found = [one[:3] for one in start_info(memory, entry.rbx).map]
    else:
        found = Params(memory, entry.rsi).e820()
    assert found == MAPS[size]
    sane(found, size)


@pytest.mark.parametrize("size", [PAGE, 512 * KIB, 0x9F000, 640 * KIB, MIB, MIB + PAGE])
def test_maps_of_very_small_guests(size):
    """No kernel fits there; the map is right all the same."""
    ranges = memory_map(size)
    usable = [one for one in ranges if one.kind == 1]
    assert all(one.size > 0 and one.start + one.size <= size for one in usable)


# Where the initrd goes: memory, image, bytes of the initrd, wanted address.
@pytest.mark.parametrize(
    ("size", "fields", "length", "wanted"),
    [
        (64 * MIB, {}, 1, 64 * MIB - PAGE),
        (64 * MIB, {}, PAGE, 64 * MIB - PAGE),
        (64 * MIB, {}, PAGE + 1, 64 * MIB - 2 * PAGE),
        (64 * MIB, {}, 46 * MIB, 18 * MIB),
        (64 * MIB, {"initrd_addr_max": 32 * MIB - 1}, 5000, 32 * MIB - 2 * PAGE),
        (64 * MIB, {"initrd_addr_max": 32 * MIB}, 5000, 32 * MIB - PAGE),
        (64 * MIB, {"initrd_addr_max": 0xFFFF_FFFF}, 100, 64 * MIB - PAGE),
        (4 * GIB, {}, 100, 2 * GIB - PAGE),
        (4 * GIB, {"initrd_addr_max": 0xFFFF_FFFF}, 100, 3 * GIB - PAGE),
    ],
)
def test_the_initrd_is_as_high_as_it_may_be(new_memory, images, size, fields, length, wanted):
    memory = new_memory(size)
    data = (b"initrd" * (length // 6 + 1))[:length]
    entry = load(memory, images.bzimage(CODE, **fields), b"", Image("initrd", data))
    params = Params(memory, entry.rsi)
    if wanted == 32 * MIB - PAGE:  # 5000 bytes up to and with the byte at 32 MiB
        wanted = (32 * MIB + 1 - length) // PAGE * PAGE
    assert (params.ramdisk_image, params.ramdisk_size) == (wanted, length)
    assert params.initrd() == data


@pytest.mark.parametrize("kind", ["bzimage", "elf64", "pvh"])
def test_the_longest_command_line_fits(new_memory, images, kind):
    memory = new_memory(64 * MIB)
    text = b"x" * 4095
    if kind == "bzimage":
        entry = load(memory, images.bzimage(CODE, cmdline_size=4095), text)
        assert Params(memory, entry.rsi).cmdline() == text
    elif kind == "elf64":
        entry = load(memory, images.elf64([images.segment(AT, CODE)], AT), text)
        assert Params(memory, entry.rsi).cmdline() == text
    else:
        assert start_info(memory, load(memory, images.pvh(CODE), text).rbx).text == text


# What is wrong with a bzImage. Each row: what makes it, and the words that say so.
WRONG = {
    "a header cut off": (lambda i: i.bzimage()[:0x260], "its setup header is truncated"),
    "nothing behind the magic": (lambda i: i.bzimage()[:0x206], "its setup header is truncated"),
    "no boot flag": (lambda i: i.bzimage(boot_flag=0), "its boot flag is 0x0, not 0xaa55"),
    "another boot flag": (lambda i: i.bzimage(boot_flag=0x55AA), "boot flag is 0x55aa"),
    "protocol 2.11": (
        lambda i: i.bzimage(version=0x020B),
        r"its boot protocol 2\.11 is older than 2\.12",
    ),
    "protocol 2.00": (lambda i: i.bzimage(version=0x0200), r"protocol 2\.00 is older"),
    "protocol 1.00": (lambda i: i.bzimage(version=0x0100), r"protocol 1\.00 is older"),
    "a 32-bit kernel": (lambda i: i.bzimage(xloadflags=0), "it has no 64-bit entry"),
    "an EFI kernel of 32 bits": (lambda i: i.bzimage(xloadflags=0x3E), "no 64-bit entry"),
    "a zImage": (lambda i: i.bzimage(loadflags=0), "it is a zImage, which loads below 1 MiB"),
    "a zImage with a heap": (lambda i: i.bzimage(loadflags=0x80), "it is a zImage"),
    "no payload": (lambda i: i.bzimage(b""), "nothing follows its setup code"),
    "no entry in its payload": (lambda i: i.bzimage(b"\xf4" * 0x200), "nothing follows"),
    "setup code that is cut off": (
        lambda i: i.bzimage(setup_sects=255),
        "it is truncated: nothing follows its setup code",
    ),
    "an address below 1 MiB": (
        lambda i: i.bzimage(pref_address=MIB - PAGE),
        "it wants 2097152 bytes at 0xff000",
    ),
    "address 0": (lambda i: i.bzimage(pref_address=0), "it wants 2097152 bytes at 0x0"),
    "an address in the gap": (lambda i: i.bzimage(pref_address=3 * GIB), "at 0xc0000000"),
    "an address above 4 GiB": (lambda i: i.bzimage(pref_address=5 * GIB), "at 0x140000000"),
    "the greatest address": (lambda i: i.bzimage(pref_address=(1 << 64) - PAGE), "at 0xf"),
    "more memory than there is below 3 GiB": (
        lambda i: i.bzimage(init_size=0xFFFF_FFFF),
        "it wants 4294967295 bytes",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_bzimage_that_is_wrong(images, case):
    make, words = WRONG[case]
    with pytest.raises(InputFileError, match=words) as refused:
        loader_for(Image("/boot/vmlinuz", make(images)))
    assert refused.value.status == EXIT_INPUT
    assert str(refused.value).startswith("/boot/vmlinuz is no usable Linux kernel (bzImage): ")


def test_a_bzimage_with_an_efi_stub_is_one(images):
    content = bytearray(images.bzimage(CODE))
    content[:2] = b"MZ"
    assert isinstance(loader_for(Image("vmlinuz", bytes(content))), BzImage)


# What does not go together: memory, image, command line, initrd, and the words that say so.
UNFIT = {
    "too little memory for the kernel": (
        (17 * MIB, {}, b"", 0),
        "kernel needs at least 18MiB of memory, the guest has 17MiB",
    ),
    "too little memory to unpack": (
        (64 * MIB, {"init_size": 48 * MIB + 1}, b"", 0),
        "kernel needs at least 65MiB of memory, the guest has 64MiB",
    ),
    "a kernel longer than it says": ((17 * MIB, {"init_size": 0}, b"", 2 * MIB), "initrd and the"),
    "a kernel that reaches into the gap": (
        (8 * GIB, {"pref_address": 3 * GIB - MIB}, b"", 0),
        "kernel needs at least 3073MiB of memory",
    ),
    "an initrd larger than memory": (
        (64 * MIB, {}, b"", 65 * MIB),
        r"initrd and the kernel before it need at least 84MiB of memory, the guest has 64MiB",
    ),
    "an initrd that just does not fit": (
        (64 * MIB, {}, b"", 46 * MIB + 1),
        "initrd and the kernel before it need at least 65MiB",
    ),
    "an initrd above what the kernel can reach": (
        (64 * MIB, {"initrd_addr_max": 17 * MIB}, b"", 4096),
        "initrd and the kernel before it need",
    ),
    "a command line that is too long": (
        (64 * MIB, {}, b"x" * 2048, 0),
        "kernel takes a command line of at most 2047 bytes, found 2048",
    ),
    "a kernel that takes none": (
        (64 * MIB, {"cmdline_size": 0}, b"x", 0),
        "a command line of at most 0 bytes, found 1",
    ),
}


@pytest.mark.parametrize("case", UNFIT)
def test_what_does_not_go_together(new_memory, images, case):
    (size, fields, cmdline, length), words = UNFIT[case]
    loader = loader_for(Image("kernel", images.bzimage(CODE, **fields)))
    initrd = Image("initrd", bytes(length)) if length else None
    memory = new_memory(size)
    for attempt in (
        lambda: loader.check(size, cmdline, initrd),
        lambda: loader.load(memory, cmdline, initrd),
    ):
        with pytest.raises(ConfigError, match=words) as refused:
            attempt()
        assert refused.value.status == EXIT_CONFIG
    assert not memory.read(0, MIB).strip(b"\0")
    assert not memory.read(AT, MIB).strip(b"\0")


# ELF64.


def elf(images, *segments, entry=AT, **fields):
    return images.elf64([images.segment(*one[:2], **one[2]) for one in segments], entry, **fields)


def test_an_elf64_image(new_memory, images):
    memory = new_memory(64 * MIB)
    content = elf(
        images,
        (AT, CODE, {"memsz": 0x10000}),
        (2 * MIB, b"data", {}),
        (AT + 0x20000, b"", {"memsz": 0x1000}),
        (0x5000, b"nothing to load", {"type": 6}),
        (0, b"", {}),
    )
    entry = load(memory, content, b"quiet", Image("initrd", b"i" * 5000))
    assert (entry.mode, entry.rip) == ("long", AT)
    assert memory.read(AT, len(CODE)) == CODE
    assert not memory.read(AT + len(CODE), 0x10000 - len(CODE)).strip(b"\0")
    assert memory.read(2 * MIB, 4) == b"data"
    assert not memory.read(0x5000, 15).strip(b"\0")
    params = Params(memory, entry.rsi)
    assert params.cmdline() == b"quiet"
    assert params.initrd() == b"i" * 5000
    assert params.ramdisk_image == 64 * MIB - 2 * PAGE
    assert (params.boot_flag, params.version, params.loadflags) == (0xAA55, 0x020C, 1)
    assert params.header.to_bytes(4, "little") == b"HdrS"
    assert params.type_of_loader == 0xFF


def test_an_entry_as_a_virtual_address(new_memory, images):
    """As a vmlinux may have it: the machine starts with memory mapped to itself."""
    virtual = 0xFFFF_FFFF_8100_0000
    content = elf(images, (AT, CODE, {"vaddr": virtual}), entry=virtual + 0x40)
    assert load(new_memory(64 * MIB), content).rip == AT + 0x40


def with_notes(images, notes, **fields):
    return images.elf64([images.segment(0, notes, type=4, **fields), images.segment(AT, CODE)], AT)


def test_a_pvh_image(new_memory, images):
    memory = new_memory(64 * MIB)
    entry = load(memory, images.pvh(CODE, AT), b"quiet", Image("initrd", b"i" * 5000))
    assert (entry.mode, entry.rip) == ("protected", AT)
    assert memory.read(AT, len(CODE)) == CODE
    info = start_info(memory, entry.rbx)
    assert (info.magic, info.version, info.flags, info.reserved) == (0x336EC578, 1, 0, 0)
    assert info.text == b"quiet"
    assert info.rsdp == RSDP_ADDRESS
    assert info.modules == [(64 * MIB - 2 * PAGE, 5000, 0, 0)]
    assert memory.read(info.modules[0][0], 5000) == b"i" * 5000
    assert all(reserved == 0 for *_, reserved in info.map)


def test_a_pvh_image_without_anything(new_memory, images):
    memory = new_memory(64 * MIB)
    info = start_info(memory, load(memory, images.pvh(CODE)).rbx)
    assert (info.nr_modules, info.text) == (0, b"")


NOTES = {
    "four bytes": ([(b"Xen\0", 18, struct.pack("<I", AT + 8))], AT + 8),
    "eight bytes, as 64-bit kernels have it": (
        [(b"Xen\0", 18, struct.pack("<Q", AT + 8))],
        AT + 8,
    ),
    "behind others": (
        [
            (b"GNU\0", 1, b"\1" * 16),
            (b"Xen\0", 6, b"linux\0"),
            (b"", 18, b""),
            (b"Xen\0", 18, struct.pack("<I", AT + 4)),
        ],
        AT + 4,
    ),
    "the first of two": (
        [(b"Xen\0", 18, struct.pack("<I", AT + n)) for n in (4, 8)],
        AT + 4,
    ),
    "of another name": ([(b"Yen\0", 18, struct.pack("<I", AT + 8))], None),
    "of another kind": ([(b"Xen\0", 17, struct.pack("<I", AT + 8))], None),
    "none": ([(b"GNU\0", 3, b"\1" * 20)], None),
}


@pytest.mark.parametrize("case", NOTES)
def test_notes(new_memory, images, case):
    some, found = NOTES[case]
    raw = b"".join(images.note(*one) for one in some)
    entry = load(new_memory(64 * MIB), with_notes(images, raw))
    assert (entry.mode, entry.rip) == (("long", AT) if found is None else ("protected", found))


GOOD = struct.pack("<3I4sI", 4, 4, 18, b"Xen\0", AT)
BROKEN_NOTES = {
    "cut off in the head": GOOD[:11],
    "cut off in the name": GOOD[:14],
    "cut off in the data": GOOD[:18],
    "a name longer than all": struct.pack("<3I", 0xFFFF_FFFF, 4, 18) + GOOD[12:],
    "data longer than all": struct.pack("<3I", 4, 0xFFFF_FFFF, 18) + GOOD[12:],
    "both": struct.pack("<3I", 0xFFFF_FFFC, 0xFFFF_FFFC, 18) + GOOD[12:],
    "nothing": b"\0",
    "zeros": bytes(4096),
}


@pytest.mark.parametrize("case", BROKEN_NOTES)
def test_notes_that_are_broken_are_none(new_memory, images, case):
    entry = load(new_memory(64 * MIB), with_notes(images, BROKEN_NOTES[case]))
    assert (entry.mode, entry.rip) == ("long", AT)


def test_a_note_of_a_second_header(new_memory, images):
    content = images.elf64(
        [
            images.segment(0, images.note(b"GNU\0", 3, b"x" * 20), type=4),
            images.segment(AT, CODE),
            images.segment(0, images.note(b"Xen\0", 18, struct.pack("<I", AT + 12)), type=4),
        ],
        AT,
    )
    entry = load(new_memory(64 * MIB), content)
    assert (entry.mode, entry.rip) == ("protected", AT + 12)


WRONG_ELF = {
    "a header cut off": (lambda i: elf(i, (AT, CODE, {}))[:63], "its ELF header is truncated"),
    "a position-independent one": (
        lambda i: elf(i, (AT, CODE, {}), type=3),
        r"expected an executable \(ELF type 2\), found type 3",
    ),
    "an object file": (lambda i: elf(i, (AT, CODE, {}), type=1), "found type 1"),
    "a core dump": (lambda i: elf(i, (AT, CODE, {}), type=4), "found type 4"),
    "headers of another size": (lambda i: elf(i, (AT, CODE, {}), phentsize=32), "malformed"),
    "headers of no size": (lambda i: elf(i, (AT, CODE, {}), phentsize=0), "malformed"),
    "headers outside of the file": (
        lambda i: elf(i, (AT, CODE, {}), phoff=(1 << 64) - 1),
        "program headers are truncated",
    ),
    "more headers than the file has": (lambda i: elf(i, (AT, CODE, {}), phnum=0xFFFF), "truncated"),
    "very many headers": (
        lambda i: elf(i, (AT, CODE, {}), phnum=300) + bytes(300 * 56),
        "it has 300 program headers",
    ),
    "no headers": (lambda i: elf(i, (AT, CODE, {}), phnum=0), "it has nothing to load"),
    "nothing that is loaded": (lambda i: elf(i, (AT, CODE, {"type": 3})), "nothing to load"),
    "only a note": (
        lambda i: elf(i, (0, GOOD, {"type": 4})),
        "it has nothing to load",
    ),
    "more in the file than in memory": (
        lambda i: elf(i, (AT, CODE, {"memsz": 4})),
        "program header 0 has more bytes in the file than in memory",
    ),
    "content behind the end of the file": (
        lambda i: elf(i, (AT, CODE, {}), (2 * MIB, b"x", {"offset": 1 << 40})),
        "program header 1 reaches behind the end of the file",
    ),
    "content over the end of the file": (
        lambda i: elf(i, (AT, CODE, {"filesz": len(CODE) + 1, "memsz": 5000})),
        "program header 0 reaches behind the end",
    ),
    "content that wraps": (
        lambda i: elf(i, (AT, CODE, {"offset": (1 << 64) - 8})),
        "reaches behind the end of the file",
    ),
    "a note behind the end of the file": (
        lambda i: elf(i, (0, GOOD, {"type": 4, "offset": 1 << 40}), (AT, CODE, {})),
        "program header 0 reaches behind the end",
    ),
    "segments that overlap": (
        lambda i: elf(i, (AT, CODE, {}), (AT + len(CODE) - 1, b"x", {})),
        "two of its segments overlap at 0x10004fa",
    ),
    "segments that overlap by their zeros": (
        lambda i: elf(i, (AT, CODE, {"memsz": 2 * MIB}), (AT + MIB, b"x", {})),
        "two of its segments overlap at 0x1100000",
    ),
    "the same twice": (lambda i: elf(i, (AT, CODE, {}), (AT, CODE, {})), "overlap"),
    "a segment below 1 MiB": (
        lambda i: elf(i, (AT, CODE, {}), (0x9000, b"page tables", {})),
        "it loads to 0x9000, below 1 MiB",
    ),
    "a segment at 0": (lambda i: elf(i, (0, CODE, {}), entry=0), "it loads to 0x0, below 1 MiB"),
    "a segment just below 1 MiB": (
        lambda i: elf(i, (MIB - 1, CODE, {}), entry=MIB),
        "it loads to 0xfffff, below 1 MiB",
    ),
    "an entry before it": (lambda i: elf(i, (AT, CODE, {}), entry=AT - 1), "its entry 0xffffff"),
    "an entry behind it": (
        lambda i: elf(i, (AT, CODE, {}), entry=AT + len(CODE)),
        "lies in none of its loadable segments",
    ),
    "an entry of zero": (lambda i: elf(i, (AT, CODE, {}), entry=0), "its entry 0x0 lies in none"),
    "an entry in a note": (
        lambda i: elf(i, (4 * MIB, GOOD[:12], {"type": 4}), (AT, CODE, {}), entry=4 * MIB),
        "its entry 0x400000 lies in none",
    ),
    "a note that leads outside": (
        lambda i: i.pvh(CODE, AT, i.note(b"Xen\0", 18, struct.pack("<I", AT - 1))),
        "its entry 0xffffff lies in none",
    ),
    "a note that leads to 0": (
        lambda i: i.pvh(CODE, AT, i.note(b"Xen\0", 18, bytes(4))),
        "its entry 0x0 lies in none",
    ),
    "a note without an address": (
        lambda i: i.pvh(CODE, AT, i.note(b"Xen\0", 18, b"")),
        "its entry 0x0 lies in none",
    ),
}


@pytest.mark.parametrize("case", WRONG_ELF)
def test_an_elf64_image_that_is_wrong(images, case):
    make, words = WRONG_ELF[case]
    with pytest.raises(InputFileError, match=words) as refused:
        loader_for(Image("/boot/vmlinux", make(images)))
    assert refused.value.status == EXIT_INPUT
    assert str(refused.value).startswith("/boot/vmlinux is no usable ELF64 image: ")


UNFIT_ELF = {
    "outside of memory": ((64 * MIB, [(64 * MIB, CODE, {})], 0), "needs at least 65MiB"),
    "over the end of memory": (
        (64 * MIB, [(AT, CODE, {"memsz": 48 * MIB + 1})], 0),
        "kernel needs at least 65MiB of memory, the guest has 64MiB",
    ),
    "in the gap": ((8 * GIB, [(3 * GIB, CODE, {})], 0), "kernel needs at least 3073MiB"),
    "above 4 GiB": ((8 * GIB, [(4 * GIB, CODE, {})], 0), "kernel needs at least 4097MiB"),
    "at the end of all addresses": (
        (64 * MIB, [((1 << 64) - 4096, CODE, {})], 0),
        "kernel needs at least",
    ),
    "over the end of all addresses": (
        (64 * MIB, [(AT, CODE, {"memsz": (1 << 64) - 1})], 0),
        "kernel needs at least",
    ),
    "with an initrd": (
        (64 * MIB, [(AT, CODE, {})], 48 * MIB),
        "initrd and the kernel before it need at least 65MiB",
    ),
}


@pytest.mark.parametrize("case", UNFIT_ELF)
def test_an_elf64_image_that_does_not_fit(new_memory, images, case):
    (size, segments, length), words = UNFIT_ELF[case]
    initrd = Image("initrd", bytes(length)) if length else None
    loader = loader_for(Image("kernel", elf(images, *segments, entry=segments[0][0])))
    assert isinstance(loader, Elf64)
    memory = new_memory(size)
    with pytest.raises(ConfigError, match=words) as refused:
        loader.load(memory, b"", initrd)
    assert refused.value.status == EXIT_CONFIG
    assert not memory.read(0, MIB).strip(b"\0")


# All together in the guest's memory.


@pytest.mark.parametrize("kind", ["bzimage", "elf64", "pvh"])
def test_nothing_lies_on_anything_else(new_memory, images, kind):
    """Every structure is written into memory that holds a mark, and none touches another."""
    size = 4 * GIB
    memory = new_memory(size)
    content = {
        "bzimage": images.bzimage(CODE, cmdline_size=4095, pref_address=2 * GIB + GIB // 2),
        "elf64": images.elf64([images.segment(MIB, CODE, memsz=2 * GIB)], MIB),
        "pvh": images.pvh(CODE, MIB),
    }[kind]
    written = []
    real = memory.write

    def write(address, data):
        written.append((address, address + len(data)))
        real(address, data)

    memory.write = write
    initrd = Image("initrd", b"i" * 10000) if kind == "pvh" else None
    entry = load(memory, content, b"x" * 4095, initrd)
    memory.write(RSDP_ADDRESS, tables(255, (3 * GIB, 0xFEC0_0000), memory.high_window()))
    if entry.mode == "long":
        for address, table in cpu.long_mode_tables(entry.top):
            memory.write(address, table)
    written.append((entry.rsp - 2048, entry.rsp))
    written.sort()
    assert all(before[1] <= after[0] for before, after in zip(written, written[1:]))
    # Below 1 MiB all of it but the ACPI tables is in what the guest is told to be memory, and is
    # below the extended BIOS data area; nothing is in the real-mode vectors.
    for start, end in written:
        assert start >= 0x500
        assert end <= 0x9_FC00 or start >= RSDP_ADDRESS
