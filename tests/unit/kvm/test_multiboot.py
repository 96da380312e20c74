# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Multiboot images: every way in which one can be wrong, and what a right one finds in memory."""

from __future__ import annotations

import struct

import pytest
from ansible.module_utils.kvm.errors import EXIT_CONFIG, EXIT_INPUT, ConfigError, InputFileError
from ansible.module_utils.kvm.loader import Image, Multiboot, loader_for
from ansible.module_utils.kvm.memory import PAGE, GuestMemory

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
CODE = b"\xfa\xf4\xeb\xfd"
AT = MIB  # where the images of this file are loaded, unless they say otherwise


class Information:
    """Reads the multiboot information as a guest does (specification, section 3.3)."""

    def __init__(self, memory, at):
        self.memory = memory
        self.at = at
        self.flags = self.word(0)

    def word(self, offset):
        return struct.unpack("<I", self.memory.read(self.at + offset, 4))[0]

    def text(self, offset):
        """Return the string that the pointer at the offset points to."""
        at, text = self.word(offset), b""
        while not text.endswith(b"\0"):
            text += self.memory.read(at + len(text), 1)
        return text[:-1]

    def modules(self):
        first = self.word(24)
        raw = [self.memory.read(first + 16 * n, 16) for n in range(self.word(20))]
        return [struct.unpack("<4I", one) for one in raw]

    def memory_map(self):
        at, end = self.word(48), self.word(48) + self.word(44)
        while at < end:
            size, base, length, kind = struct.unpack("<IQQI", self.memory.read(at, 24))
            yield base, length, kind
            at += size + 4  # the size does not count itself


def load(memory, content, cmdline=b"", initrd=None):
    entry = loader_for(Image("kernel", content)).load(memory, cmdline, initrd)
    return entry, Information(memory, entry.rbx)


def test_machine_state_and_segments(new_memory, images):
    memory = new_memory(4 * MIB)
    whole = images.header() + CODE
    content = images.elf([images.segment(AT, whole, memsz=0x3000)], AT + 12)
    entry, _ = load(memory, content)
    assert entry == ("protected", AT + 12, 0, 0x2BADB002, entry.rbx, 0, 0)
    assert memory.read(AT, len(whole)) == whole
    assert not memory.read(AT + len(whole), 4 * MIB - AT - len(whole)).strip(b"\0")


def test_information_of_a_small_guest(new_memory, images):
    memory = new_memory(16 * MIB)
    entry, found = load(memory, images.multiboot(CODE), b"console=ttyS0 answer=42")
    assert found.flags == 1 << 0 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9
    assert (found.word(4), found.word(8)) == (640, 15 * KIB)
    assert found.text(16) == b"console=ttyS0 answer=42"
    assert found.text(64) == b"virtfleet"
    assert found.modules() == []
    assert list(found.memory_map()) == [(0, 640 * KIB, 1), (MIB, 15 * MIB, 1)]
    # All of it lies in one piece, below the extended BIOS data area.
    assert entry.rbx % PAGE == 0
    assert entry.rbx < 0x9F000


MAPS = {
    2 * MIB: (MIB // KIB, [(0, 640 * KIB, 1), (MIB, MIB, 1)]),
    3 * GIB: (3 * MIB - KIB, [(0, 640 * KIB, 1), (MIB, 3 * GIB - MIB, 1)]),
    3 * GIB + PAGE: (
        3 * MIB - KIB,
        [(0, 640 * KIB, 1), (MIB, 3 * GIB - MIB, 1), (4 * GIB, PAGE, 1)],
    ),
    16 * GIB: (
        3 * MIB - KIB,
        [(0, 640 * KIB, 1), (MIB, 3 * GIB - MIB, 1), (4 * GIB, 13 * GIB, 1)],
    ),
}


@pytest.mark.parametrize("size", MAPS)
def test_memory_map(new_memory, images, size):
    _, found = load(new_memory(size), images.multiboot(CODE))
    upper, ranges = MAPS[size]
    assert found.word(8) == upper
    assert list(found.memory_map()) == ranges


def test_a_guest_below_1_mib(new_memory, images):
    _, found = load(new_memory(256 * KIB), images.multiboot(CODE, 0x8000))
    assert (found.word(4), found.word(8)) == (256, 0)
    assert list(found.memory_map()) == [(0, 256 * KIB, 1)]


@pytest.mark.parametrize(
    ("address", "length", "start"),
    [
        (AT, 1, AT + PAGE),  # behind the kernel, on the next page
        (AT, 5000, AT + PAGE),
        (AT, 0, AT + PAGE),
        (0x8000, 77, MIB),  # a kernel in low memory: the module still above 1 MiB
        (3 * MIB - 20, 77, 3 * MIB),
    ],
)
def test_the_initrd_is_the_first_module(new_memory, images, address, length, start):
    memory = new_memory(4 * MIB)
    data = bytes(n % 251 for n in range(length))
    content = images.multiboot(CODE, address)
    _, found = load(memory, content, b"with a module", Image("initrd", data))
    assert found.modules() == [(start, start + length, 0, 0)]
    assert memory.read(start, length) == data
    assert found.text(16) == b"with a module"


def test_the_longest_command_line_fits(new_memory, images):
    _, found = load(new_memory(2 * MIB), images.multiboot(CODE), b"x" * 4095)
    assert found.text(16) == b"x" * 4095


@pytest.mark.parametrize(
    ("low", "wanted"),
    [
        ([(0x9E000, 0x1000)], 0x9D000),  # the usual place is taken
        ([(0x9E000, 1), (0x9C000, 0x1000)], 0x9D000),
        ([(0x2000, 0x9D000)], 0x1000),
    ],
)
def test_the_information_avoids_the_segments(new_memory, images, low, wanted):
    memory = new_memory(2 * MIB)
    head = images.segment(AT, images.header() + CODE)
    others = [images.segment(address, b"\xcc" * size) for address, size in low]
    entry, found = load(memory, images.elf([head, *others], AT + 12))
    assert entry.rbx == wanted
    assert found.text(64) == b"virtfleet"
    for address, size in low:
        assert memory.read(address, size) == b"\xcc" * size


def test_no_room_for_the_information_below_640_kib(new_memory, images):
    memory = new_memory(2 * MIB)
    low = images.segment(0x1000, b"", memsz=0x9E000)
    head = images.segment(AT, images.header() + CODE)
    with pytest.raises(ConfigError, match="no room below 640 KiB") as refused:
        load(memory, images.elf([head, low], AT + 12))
    assert refused.value.status == EXIT_CONFIG
    assert not memory.read(0, 2 * MIB).strip(b"\0")


def at_entry(images, **fields):
    """Return an image of one segment with some fields of its program header replaced."""
    return images.elf([images.segment(AT, images.header() + CODE, **fields)], AT + 12)


def with_header(images, **fields):
    return images.elf([images.segment(AT, images.header(**fields) + CODE)], AT + 12)


def with_elf(images, **fields):
    return images.multiboot(CODE, **fields)


def two(images, first, second):
    """Return an image of two segments of (address, size)."""
    head = images.segment(first[0], images.header() + CODE, memsz=first[1])
    return images.elf([head, images.segment(second[0], b"x", memsz=second[1])], first[0] + 12)


WRONG = {
    "no header": (lambda i: with_header(i, magic=0x1BADB003), "no valid multiboot header"),
    "multiboot 2": (lambda i: with_header(i, magic=0xE85250D6), "no valid multiboot header"),
    "bad checksum": (lambda i: with_header(i, checksum=1), "no valid multiboot header"),
    "header not aligned": (
        lambda i: i.elf([i.segment(AT, b"x" + i.header() + CODE)], AT + 13),
        "no valid multiboot header",
    ),
    "header behind 8 KiB": (
        lambda i: i.elf([i.segment(AT, bytes(8192) + i.header() + CODE)], AT),
        "no valid multiboot header",
    ),
    "header cut by the 8 KiB": (
        lambda i: i.elf([i.segment(AT, bytes(8192 - 84 - 8) + i.header())], AT),
        "no valid multiboot header",
    ),
    "required feature 3": (lambda i: with_header(i, flags=0x8), "features 0x8, not known"),
    "all required features": (lambda i: with_header(i, flags=0xFFFF), "features 0xfff8"),
    "ELF header cut": (lambda i: i.multiboot(CODE)[:24] + i.header(), "header is truncated"),
    "class none": (lambda i: with_elf(i, **{"class": 0}), "32-bit executable"),
    "relocatable": (lambda i: with_elf(i, type=1), "32-bit executable"),
    "shared object": (lambda i: with_elf(i, type=3), "32-bit executable"),
    "program headers of another size": (lambda i: with_elf(i, phentsize=40), "malformed"),
    "program headers of no size": (lambda i: with_elf(i, phentsize=0), "malformed"),
    "program headers outside": (lambda i: with_elf(i, phoff=0xFFFFFFF0), "truncated"),
    "more headers than file": (lambda i: with_elf(i, phnum=0xFFFF), "truncated"),
    "very many headers": (
        lambda i: with_elf(i, phnum=300) + bytes(300 * 32),
        "300 program headers",
    ),
    "no program headers": (lambda i: with_elf(i, phnum=0), "in none of its loadable"),
    "nothing to load": (lambda i: at_entry(i, type=2), "in none of its loadable"),
    "segment of no size": (lambda i: at_entry(i, filesz=0, memsz=0), "in none of its loadable"),
    "more in the file than in memory": (lambda i: at_entry(i, memsz=3), "more bytes in the file"),
    "data outside the file": (lambda i: at_entry(i, offset=200), "behind the end of the file"),
    "data far outside": (lambda i: at_entry(i, offset=0xFFFFFFFF), "behind the end of the file"),
    "data cut": (lambda i: i.multiboot(CODE)[:-1], "behind the end of the file"),
    "entry before": (lambda i: i.elf([i.segment(AT, i.header())], AT - 1), "entry 0xfffff lies"),
    "entry behind": (lambda i: i.elf([i.segment(AT, i.header())], AT + 12), "entry 0x10000c lies"),
    "overlap": (lambda i: two(i, (AT, 0x1001), (AT + 0x1000, 1)), "overlap at 0x101000"),
    "the same place": (lambda i: two(i, (AT, 0x1000), (AT, 0x1000)), "overlap at 0x100000"),
    "inside the other": (lambda i: two(i, (AT, 0x3000), (AT + 0x1000, 1)), "overlap at 0x101000"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_and_nothing_loaded(images, case):
    make, words = WRONG[case]
    with pytest.raises(InputFileError, match=words) as refused:
        loader_for(Image("/srv/kernel", make(images)))
    assert refused.value.status == EXIT_INPUT
    assert str(refused.value).startswith("/srv/kernel is no usable multiboot ELF32 image: ")


RIGHT = {
    "header at the end of the 8 KiB": lambda i: i.elf(
        [i.segment(AT, bytes(8192 - 84 - 12) + i.header() + CODE)], AT
    ),
    "a wrong header before the right one": lambda i: i.elf(
        [i.segment(AT, i.header(checksum=1) + i.header() + CODE)], AT + 24
    ),
    "optional features": lambda i: with_header(i, flags=0x7FFE0007),
    "neighbours": lambda i: two(i, (AT, 0x1000), (AT + 0x1000, 0x1000)),
    "segments in no order": lambda i: two(i, (AT + 0x8000, 0x1000), (AT, 0x1000)),
    "an empty segment inside another": lambda i: i.elf(
        [i.segment(AT, i.header() + CODE), i.segment(AT + 2, b"")], AT + 12
    ),
    "a note is not loaded": lambda i: i.elf(
        [i.segment(AT, i.header() + CODE), i.segment(AT, b"note", type=4)], AT + 12
    ),
    "200 program headers": lambda i: i.elf(
        [i.segment(AT, i.header() + CODE), *[i.segment(0, b"", type=0)] * 199], AT + 12
    ),
}


@pytest.mark.parametrize("case", RIGHT)
def test_what_is_right_is_loaded(new_memory, images, case):
    memory = new_memory(2 * MIB)
    content = RIGHT[case](images)
    entry, found = load(memory, content)
    assert memory.read(entry.rip, 1)  # in memory
    assert found.text(64) == b"virtfleet"


def test_an_entry_given_as_a_virtual_address(new_memory, images):
    high = images.segment(0xC0100000, images.header() + CODE, paddr=AT)
    entry, _ = load(new_memory(2 * MIB), images.elf([high], 0xC010000C))
    assert entry.rip == AT + 12


TOO_SMALL = {
    "the segment's end": (
        lambda i: at_entry(i, memsz=MIB + 1),
        2 * MIB,
        "kernel needs at least 3MiB",
    ),
    "an address near 4 GiB": (
        lambda i: i.multiboot(CODE, 0xFFFFF000),
        8 * GIB,
        "kernel needs at least 4096MiB",
    ),
    "a size of nearly 4 GiB": (
        lambda i: at_entry(i, memsz=0xFFFFFFFF),
        8 * GIB,
        "kernel needs at least 4097MiB",
    ),
    "the gap below 4 GiB": (
        lambda i: i.multiboot(CODE, 0xC0000000),
        8 * GIB,
        "kernel needs at least 3073MiB",
    ),
    "one page": (lambda i: i.multiboot(CODE), PAGE, "kernel needs at least 2MiB"),
}


@pytest.mark.parametrize("case", TOO_SMALL)
def test_memory_that_does_not_hold_the_image(images, case):
    make, memory, words = TOO_SMALL[case]
    with pytest.raises(ConfigError, match=words) as refused:
        loader_for(Image("kernel", make(images))).check(memory, b"", None)
    assert refused.value.status == EXIT_CONFIG


def test_memory_that_does_not_hold_the_initrd(images):
    loader = loader_for(Image("kernel", images.multiboot(CODE)))
    fits = Image("initrd", bytes(MIB - PAGE))
    loader.check(2 * MIB, b"", fits)
    with pytest.raises(ConfigError, match="initrd needs at least 3MiB of memory"):
        loader.check(2 * MIB, b"", Image("initrd", bytes(MIB - PAGE + 1)))


def test_nothing_is_written_before_everything_fits(new_memory, images):
    memory = new_memory(2 * MIB)
    with pytest.raises(ConfigError, match="initrd needs"):
        load(memory, images.multiboot(CODE), b"", Image("initrd", bytes(2 * MIB)))
    assert not memory.read(0, 2 * MIB).strip(b"\0")


def test_a_parsed_image_can_be_loaded_again(images):
    loader = Multiboot(Image("kernel", images.multiboot(CODE)))
    for size in (2 * MIB, 4 * MIB):
        memory = GuestMemory(size)
        entry = loader.load(memory, b"twice", None)
        assert Information(memory, entry.rbx).text(16) == b"twice"
        memory.close()
