# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Mutated images: each ends in a KvmError or in a load that lies entirely in the guest's memory.

The memory stands between two guard areas of its own mapping, so that a write beside it shows. The
seed is fixed: a failure names the round, and the same round gives the same image.
"""

from __future__ import annotations

import hashlib
import random
import signal
import struct
import time
from contextlib import contextmanager

import pytest
from ansible.module_utils.kvm.errors import KvmError
from ansible.module_utils.kvm.loader import Image, loader_for
from ansible.module_utils.kvm.programs import PROGRAMS

SEED = 20261122
ROUNDS, SOAK_ROUNDS = 10_000, 500_000
LONGEST = 2.0  # seconds for one image, by far: the machine may be busy
SIZE = 2 << 20
GUARD = 1 << 16
EXTREMES = (
    0,
    1,
    2,
    3,
    0x7C00,
    0x100000,
    0x7FFFFFFF,
    0x80000000,
    0xC0000000,
    0xFFFFFFF0,
    0xFFFFFFFF,
    0x1_0000_0000,
    1 << 63,
    (1 << 64) - 4096,
    (1 << 64) - 1,
)
# The headers: those of an ELF32 and of an ELF64 file with four program headers, and a setup header.
HEADERS = ((0, 52 + 4 * 32), (0, 64 + 4 * 56), (0x1F1, 0x290))


class GuardedMemory:
    """Stands in for GuestMemory: over a buffer with a guard on both sides, and even less forgiving.

    Only what was written is taken back between two images, so that many of them take little time.
    """

    def __init__(self):
        self.size = SIZE
        self.buffer = bytearray(GUARD + SIZE + GUARD)
        self.buffer[:GUARD] = self.buffer[-GUARD:] = b"\xa5" * GUARD
        self.written = []

    def write(self, address, data):
        assert 0 <= address <= SIZE - len(data), f"{len(data)} bytes at {address:#x} are outside"
        self.buffer[GUARD + address : GUARD + address + len(data)] = data
        self.written.append((address, len(data)))

    def forget(self):
        for address, length in self.written:
            self.buffer[GUARD + address : GUARD + address + length] = bytes(length)
        self.written = []

    def guards(self):
        return hashlib.sha256(self.buffer[:GUARD] + self.buffer[-GUARD:]).digest()


def seeds(images):
    """Return the images that are mutated."""
    code = images.header() + b"\xfa\xf4\xeb\xfd" * 16
    several = [
        images.segment(0x100000, code, memsz=0x2000),
        images.segment(0x103000, b"data" * 32),
        images.segment(0x8000, b"low" * 32, memsz=0x1000),
        images.segment(0x100000, b"note", type=4),
    ]
    notes = images.note(b"GNU\0", 3, b"id" * 8) + images.note(b"Xen\0", 18, b"\0\0\x10\0")
    wide = [
        images.segment(0x100000, b"\xf4" * 64, memsz=0x2000, vaddr=0xFFFF_FFFF_8010_0000),
        images.segment(0x110000, b"data" * 32),
        images.segment(0, notes, type=4),
    ]
    return [
        PROGRAMS["greeter"],
        images.multiboot(b"\xf4" * 8),
        images.elf(several, 0x10000C),
        b"\xeb\xfe".ljust(510, b"\0") + b"\x55\xaa",
        images.bzimage(b"\xf4" * 1024, 1, pref_address=0x100000, init_size=0x80000),
        images.bzimage(
            b"\xf4" * 1024, 1, relocatable_kernel=0, pref_address=0x110000, init_size=4096
        ),
        images.pvh(b"\xf4" * 64),
        images.elf64(wide, 0x100000),
    ]


def place(generator, content, step):
    """Return a place in one of the headers, with eight bytes behind it."""
    first, end = generator.choice(HEADERS)
    end = min(len(content) - 8, end)
    first = min(first, end - 1)
    return generator.randrange(first, end) // step * step


def flip(generator, content):
    for _ in range(generator.choice((1, 1, 2, 8, 32))):
        content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)


def extreme_field(generator, content):
    """Replace a field of a header by an extreme value."""
    for _ in range(generator.choice((1, 1, 2, 4))):
        kind = generator.choice("BHIQ")
        at = place(generator, content, 2)
        value = generator.choice(EXTREMES) & (1 << 8 * struct.calcsize(kind)) - 1
        struct.pack_into(f"<{kind}", content, at, value)


def nearby_field(generator, content):
    """Move a field of a header by a little: what is off by one."""
    at = place(generator, content, 4)
    (value,) = struct.unpack_from("<I", content, at)
    step = generator.choice((-0x1000, -4, -1, 1, 4, 0x1000))
    struct.pack_into("<I", content, at, value + step & 0xFFFFFFFF)


def truncate(generator, content):
    del content[generator.randrange(len(content)) :]


def insert(generator, content):
    at = generator.randrange(len(content))
    content[at:at] = generator.getrandbits(8 * 16).to_bytes(16, "little")


def duplicate_header(generator, content):
    """Put one program header over another."""
    first, size = generator.choice(((52, 32), (64, 56)))
    if len(content) >= first + 4 * size:
        source, target = (first + size * generator.randrange(4) for _ in range(2))
        content[target : target + size] = content[source : source + size]


MUTATIONS = (flip, extreme_field, extreme_field, nearby_field, truncate, insert, duplicate_header)


MAGICS = (
    b"",
    b"\x7fELF",
    b"\x7fELF\x01\x01\x01",
    b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + b"\x02\0\x3e\0",
    b"MZ",
    b"MZ".ljust(0x202, b"\0") + b"HdrS",
)


def mutated(generator, originals):
    """Return one image; one in sixteen is nothing but random bytes."""
    if generator.randrange(16) == 0:
        length = generator.choice((0, 1, 4, 19, 20, 51, 52, 600, 9000))
        magic = generator.choice(MAGICS)
        return magic + bytes(generator.getrandbits(8) for _ in range(length))
    content = bytearray(generator.choice(originals))
    for _ in range(generator.choice((1, 1, 2, 3))):
        if len(content) > 64:
            generator.choice(MUTATIONS)(generator, content)
    return bytes(content)


@contextmanager
def at_most(seconds):
    """Break off what hangs."""

    def hung(*_):
        raise AssertionError(f"not done after {seconds} seconds")

    before = signal.signal(signal.SIGALRM, hung)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def fuzz(images, rounds):
    """Load that many images and return how many of them could be loaded."""
    originals = seeds(images)
    memory = GuardedMemory()
    guards = memory.guards()
    initrd = Image("initrd", b"\x55" * 5000)
    loaded = 0
    for number in range(rounds):
        generator = random.Random(SEED + number)
        content = mutated(generator, originals)
        extra = generator.randrange(4) == 0
        begin = time.monotonic()
        try:
            loader = loader_for(Image("fuzz", content))
            entry = loader.load(memory, b"quiet" * extra, initrd if extra else None)
        except KvmError:
            entry = None
        except Exception as error:
            raise AssertionError(f"round {number}: {error!r}") from error
        assert time.monotonic() - begin < LONGEST, f"round {number}"
        if entry is None:
            assert not memory.written, f"round {number}: written before it was known to fit"
        else:
            loaded += 1
            assert 0 <= entry.rip < SIZE, f"round {number}"
            assert entry.mode != "long" or entry.rip < max(entry.top, 1 << 30), f"round {number}"
        memory.forget()
    assert memory.guards() == guards
    assert not memory.buffer[GUARD:-GUARD].strip(b"\0")
    return loaded


def test_the_unchanged_images(images):
    memory = GuardedMemory()
    for content in seeds(images):
        loader_for(Image("good", content)).load(memory, b"", None)


def test_mutated_images(images):
    with at_most(60):
        loaded = fuzz(images, ROUNDS)
    assert ROUNDS // 20 < loaded < ROUNDS * 19 // 20  # both ways are well trodden


@pytest.mark.soak
def test_very_many_mutated_images(images):
    with at_most(1800):
        fuzz(images, SOAK_ROUNDS)
