# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Mutated qcow2 images: each is refused, or its requests succeed or fail, and no more than that.

The seed is fixed: a failure names the round, and the same round gives the same image.
"""

from __future__ import annotations

import random
import struct
import subprocess
import time

import pytest
from ansible.module_utils.kvm import qcow2
from ansible.module_utils.kvm.disk import Raw
from ansible.module_utils.kvm.errors import KvmError
from qcow2_images import OFFSET, Reader

SEED = 20261128
ROUNDS, SOAK_ROUNDS = 2000, 150_000
LONGEST = 5.0  # seconds for one image, by far: the machine may be busy
MOST_GROWTH = 64 << 20
EXTREMES = (
    0,
    1,
    2,
    511,
    512,
    0x1000,
    0x10000,
    0x50000,
    1 << 21,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 40,
    (1 << 56) - 512,
    1 << 61,
    1 << 62,
    1 << 63,
    (1 << 63) | 0x10000,
    (1 << 63) | 1,
    (1 << 62) | 0x30123,
    (1 << 64) - 1,
)
HEADER = (
    *((at, "I") for at in (4, 16, 20, 32, 36, 56, 60, 96, 100)),
    *((at, "Q") for at in (8, 24, 40, 48, 64, 72, 80, 88)),
)


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """Return small images of all kinds, which stand on the file ``base`` or on nothing."""
    folder = tmp_path_factory.mktemp("originals")
    (folder / "base").write_bytes(b"base" * (40 << 10))
    generator = random.Random(SEED)
    half = generator.getrandbits(8 * (64 << 10)).to_bytes(64 << 10, "little")
    (folder / "plain").write_bytes(half + b"x" * (64 << 10) + bytes(64 << 10) + half)
    found = []
    for cluster in (512, 4096, 65536):
        for more in ([], ["-c"], ["-o", "compat=0.10"]):
            path = folder / "image"
            options = ["-o", f"cluster_size={cluster}", *more]
            command = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", *options]
            subprocess.run([*command, str(folder / "plain"), str(path)], check=True)
            found.append(path.read_bytes())
    for version in ("0.10", "1.1"):
        options = ["-o", f"cluster_size=4096,compat={version}", "-b", "base", "-F", "raw"]
        command = ["qemu-img", "create", "-q", "-f", "qcow2", *options, str(folder / "image"), "1M"]
        subprocess.run(command, check=True)
        writes = ["-c", "write 3k 50k", "-c", "write -z 100k 50k", "-c", "write 900k 20k"]
        command = ["qemu-io", "-f", "qcow2", *writes, str(folder / "image")]
        subprocess.run(command, check=True, capture_output=True)
        found.append((folder / "image").read_bytes())
    return found


def places(image):
    """Return where tables lie: L1, L2, refcount table, refcount blocks, as (offset, bytes)."""
    reader = Reader(image)
    found = [(reader.l1_at, 8 * reader.l1_size), (reader.table_at, 64)]
    found += [
        (table & OFFSET, 512) for table in reader._numbers(reader.l1_at, reader.l1_size) if table
    ]
    found += [(block, 512) for block in reader._numbers(reader.table_at, 8) if block]
    return found


def flip(generator, image, tables):
    for _ in range(generator.choice((1, 2, 8))):
        start, length = generator.choice([(0, 160), *tables])
        image[start + generator.randrange(length)] ^= 1 << generator.randrange(8)


def header_field(generator, image, tables):
    at, form = generator.choice(HEADER)
    value = generator.choice(EXTREMES) & ((1 << 32) - 1 if form == "I" else (1 << 64) - 1)
    struct.pack_into(f">{form}", image, at, value)


def nearby_field(generator, image, tables):
    at, form = generator.choice(HEADER)
    (value,) = struct.unpack_from(f">{form}", image, at)
    step = generator.choice((-65536, -512, -8, -1, 1, 8, 512, 65536))
    struct.pack_into(
        f">{form}", image, at, value + step & ((1 << 32) - 1 if form == "I" else (1 << 64) - 1)
    )


def table_entry(generator, image, tables):
    """Replace entries of a table: by extremes, by each other, by what leads to tables."""
    for _ in range(generator.choice((1, 1, 3, 10))):
        start, length = generator.choice(tables)
        at = start + 8 * generator.randrange(max(min(length, len(image) - start) // 8, 1))
        other = generator.choice(tables)[0]
        values = (
            generator.choice(EXTREMES),
            other | generator.choice((0, 1, 1 << 63, 1 << 63 | 1, 1 << 62)),
            1 << 62 | generator.getrandbits(62),
            1 << 63 | generator.randrange(0, len(image) + 4096, 512),
        )
        struct.pack_into(">Q", image, at, generator.choice(values))


def truncate(generator, image, tables):
    del image[generator.randrange(len(image)) :]


def extension(generator, image, tables):
    at = generator.choice((72, 104, 112))
    kind = generator.choice((0xE2792ACA, 0x6803F857, 0x12345678))
    struct.pack_into(">II", image, at, kind, generator.choice(EXTREMES) & 0xFFFFFFFF)


MUTATIONS = (flip, header_field, nearby_field, table_entry, table_entry, table_entry, extension)


def mutated(generator, originals):
    original = generator.choice(originals)
    image = bytearray(original)
    tables = places(original)
    for _ in range(generator.choice((1, 1, 2, 4))):
        generator.choice(MUTATIONS)(generator, image, tables)
    if generator.randrange(16) == 0:
        truncate(generator, image, tables)
    return bytes(image)


def use(disk, generator):
    """Do a bit of everything; return how much of it succeeded."""
    done = 0
    size = min(disk.size, 4 << 20)
    for _ in range(12):
        length = min(generator.choice((512, 4096, 65536, 1 << 18)), size) // 512 * 512
        offset = generator.choice(
            (0, generator.randrange(0, size - length + 1, 512), disk.size - length)
        )
        action = generator.randrange(7)
        try:
            if action < 3:
                disk.read([memoryview(bytearray(length))], offset, wait=generator.random() < 0.8)
            elif action == 3:
                disk.write([memoryview(bytes([7]) * length)], offset)
            elif action == 4:
                disk.discard(offset, length)
            elif action == 5:
                disk.zero(offset, length, unmap=generator.random() < 0.5)
            else:
                disk.flush()
        except OSError:
            continue
        done += 1
    return done


def fuzz(folder, originals, rounds):
    """Open and use that many images; return how many could be opened, and how much succeeded."""
    (folder / "base").write_bytes(b"base" * (40 << 10))
    path = folder / "image"
    opened = done = 0
    for number in range(rounds):
        generator = random.Random(SEED + number)
        image = mutated(generator, originals)
        path.write_bytes(image)
        begin = time.monotonic()
        try:
            disk = qcow2.Qcow2(str(path), read_only=generator.randrange(4) == 0)
        except KvmError:
            pass
        except Exception as error:
            raise AssertionError(f"round {number}: {error!r}") from error
        else:
            opened += 1
            try:
                done += use(disk, generator)
                disk.close()
            except Exception as error:
                raise AssertionError(f"round {number}: {error!r}") from error
        assert time.monotonic() - begin < LONGEST, f"round {number}"
        assert path.stat().st_size <= len(image) + MOST_GROWTH, f"round {number}"
    assert (folder / "base").read_bytes() == b"base" * (40 << 10)
    return opened, done


def test_mutated_images(tmp_path, originals, monkeypatch):
    monkeypatch.setattr(Raw, "flush", lambda _: None)
    opened, done = fuzz(tmp_path, originals, ROUNDS)
    assert ROUNDS // 5 < opened < ROUNDS * 9 // 10  # both ways are well trodden
    assert 12 * opened // 4 < done


@pytest.mark.soak
def test_very_many_mutated_images(tmp_path, originals, monkeypatch):
    monkeypatch.setattr(Raw, "flush", lambda _: None)
    fuzz(tmp_path, originals, SOAK_ROUNDS)
