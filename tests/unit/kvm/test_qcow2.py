# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""qcow2 images: what QEMU's tools made is read right, what is written QEMU's tools find right."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import stat
import struct
import subprocess
import threading

import pytest
from ansible.module_utils.kvm import attach, qcow2, qcow2_image
from ansible.module_utils.kvm.disk import Raw
from ansible.module_utils.kvm.errors import ConfigError, InputFileError
from qcow2_images import COPIED, OFFSET, ZERO, Reader

SEED = 20261128
SIZE = (3 << 20) + 3 * 512  # of a disk; its last cluster is not a whole one


def qemu_img(*arguments):
    command = ["qemu-img", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def qemu_io(path, *commands):
    arguments = itertools.chain.from_iterable(("-c", one) for one in commands)
    command = ["qemu-io", "-f", "qcow2", path, *arguments]
    subprocess.run(command, check=True, capture_output=True)


def content(seed, size=SIZE):
    """Return data of which one half are zeros, some compress well and some do not at all."""
    generator = random.Random(seed)
    data = bytearray(size)
    at = 0
    while at < size:
        length = generator.randrange(512, 200_000)
        kind = generator.randrange(4)
        if kind == 0:
            piece = generator.getrandbits(8 * length).to_bytes(length, "little")
        else:
            piece = bytes([generator.randrange(1, 256)] * length if kind == 1 else length)
        data[at : at + length] = piece[: size - at]
        at += length
    return bytes(data)


def read(disk, offset=0, length=None, *, wait=True):
    """Read into several buffers; return the bytes, None if that would have to wait."""
    data = bytearray(disk.size - offset if length is None else length)
    whole = memoryview(data)
    cuts = sorted({0, len(data), *(len(data) * one // 7 for one in range(1, 7))})
    buffers = [whole[start:end] for start, end in zip(cuts, cuts[1:])]
    return bytes(data) if disk.read(buffers, offset, wait=wait) else None


def write(disk, offset, data):
    cut = len(data) // 3
    disk.write([memoryview(data)[:cut], memoryview(data)[cut:]], offset)


@pytest.fixture
def opened():
    """Open images that are closed at the end of the test."""
    disks = []

    def open_image(path, *, read_only=False, **more):
        disks.append(qcow2.Qcow2(str(path), read_only=read_only, **more))
        return disks[-1]

    yield open_image
    for disk in disks:
        disk.close()


def close(disk):
    """Close a disk that `opened` has opened, now."""
    disk.close()
    disk.close = lambda: None


def same(path, expected, folder):
    """Check an image with QEMU's tools: without errors or leaks, and with this content."""
    qemu_img("check", "-q", path)
    plain = folder / "expected"
    plain.write_bytes(expected)
    qemu_img("compare", "-q", "-f", "qcow2", "-F", "raw", path, plain)


# What QEMU's tools made.

MADE = {
    "plain": ["-o", "cluster_size=65536"],
    "version 2": ["-o", "compat=0.10"],
    "512": ["-o", "cluster_size=512"],
    "4096": ["-o", "cluster_size=4096"],
    "2 MiB": ["-o", "cluster_size=2M"],
    "compressed": ["-c"],
    "compressed 512": ["-c", "-o", "cluster_size=512"],
    "compressed 2 MiB": ["-c", "-o", "cluster_size=2M"],
    "compressed, version 2": ["-c", "-o", "compat=0.10"],
    "metadata": ["-o", "preallocation=metadata"],
    "falloc": ["-o", "preallocation=falloc"],
    "full": ["-o", "preallocation=full,cluster_size=4096"],
    "lazy refcounts": ["-o", "lazy_refcounts=on"],
}


@pytest.fixture
def made(tmp_path):
    """Make an image as QEMU does; return its path and its content."""

    def make(how, name="image"):
        plain, path = tmp_path / "plain", tmp_path / name
        plain.write_bytes(content(SEED))
        qemu_img("convert", "-f", "raw", "-O", "qcow2", *MADE[how], plain, path)
        return path, plain.read_bytes()

    return make


@pytest.mark.parametrize("how", MADE)
def test_an_image_is_read(made, opened, how):
    path, expected = made(how)
    disk = opened(path, read_only=True)
    assert disk.size == SIZE
    assert read(disk) == expected
    generator = random.Random(SEED)
    for _ in range(200):
        offset = generator.randrange(0, SIZE, 512)
        length = min(generator.choice((512, 4096, 65536, 200_704)), SIZE - offset)
        assert read(disk, offset, length) == expected[offset : offset + length]


@pytest.mark.parametrize("how", MADE)
def test_an_image_is_written(made, opened, tmp_path, how):
    path, before = made(how)
    model = bytearray(before)
    disk = opened(path)
    exercise(disk, model, random.Random(SEED), 80)
    close(disk)
    same(path, model, tmp_path)


def exercise(disk, model, generator, actions, reopen=None):
    """Do things to a disk and to a model of it, and compare them now and then."""
    size = len(model)
    for number in range(actions):
        length = generator.choice((512, 1024, 4096, 30 * 512, 65536, 300 * 512, 1 << 20))
        length = min(generator.randrange(512, length + 1) // 512 * 512, size)
        offset = generator.choice((generator.randrange(0, size - length + 1, 512), size - length))
        action = generator.random()
        if action < 0.6:
            filled = generator.getrandbits(64).to_bytes(8, "little") * (length // 8)
            write(disk, offset, filled)
            model[offset : offset + length] = filled
        elif action < 0.75:
            disk.zero(offset, length, unmap=generator.random() < 0.5)
            model[offset : offset + length] = bytes(length)
        elif action < 0.85:
            disk.discard(offset, length)
            found = read(disk, offset, length)
            for at in range(0, length, 512):  # what was there, or zeros
                if found[at : at + 512] != model[offset + at : offset + at + 512]:
                    assert not any(found[at : at + 512])
                    model[offset + at : offset + at + 512] = bytes(512)
        elif action < 0.95:
            disk.flush()
        elif reopen is not None:
            disk = reopen(disk)
        if number % 10 == 0:
            assert read(disk) == model, f"after action {number}"
        else:
            assert read(disk, offset, length) == model[offset : offset + length], number
    return disk


def test_clusters_of_zeros_are_read_and_written(tmp_path, opened):
    """Zeros over a base, with and without room set aside, as QEMU leaves them."""
    (tmp_path / "base").write_bytes(content(1))
    path = tmp_path / "image"
    qemu_img("create", "-f", "qcow2", "-b", "base", "-F", "raw", path)
    model = bytearray(content(1))
    qemu_io(
        path, "write -P 7 64k 256k", "write -z 128k 128k", "write -z -u 1M 64k", "discard 64k 64k"
    )
    model[64 << 10 : 320 << 10] = bytes([7]) * (256 << 10)
    for start, length in ((128 << 10, 128 << 10), (1 << 20, 64 << 10), (64 << 10, 64 << 10)):
        model[start : start + length] = bytes(length)
    kinds = {entry & (ZERO | COPIED) for _, entry in Reader(path.read_bytes()).entries()}
    assert kinds == {ZERO, ZERO | COPIED, COPIED}  # all that is meant is there
    disk = opened(path)
    assert read(disk) == model
    before = path.stat().st_size
    write(disk, (128 << 10) + 512, b"x" * 1024)
    model[(128 << 10) + 512 : (128 << 10) + 1536] = b"x" * 1024
    write(disk, 200 << 10, b"y" * 8192)
    model[200 << 10 : 208 << 10] = b"y" * 8192
    assert read(disk) == model
    close(disk)
    assert path.stat().st_size == before  # the room that was set aside was taken
    same(path, model, tmp_path)


# Chains.

CHAINS = {
    "raw": ["raw"],
    "raw, shorter": ["shorter"],
    "raw, longer": ["longer"],
    "compressed": ["compressed"],
    "three": ["raw", "4096", "512"],
    "version 2": ["raw", "version 2"],
    "larger clusters": ["shorter", "2 MiB"],
}


def chain(folder, kinds):
    """Make images on each other, the first one below; return the last one's name and content."""
    expected, below, form = bytearray(), None, ""
    for number, kind in enumerate(kinds):
        name = f"image{number}"
        path = folder / name
        new = bytearray(content(number))
        if kind in {"raw", "shorter", "longer"}:
            length = {"raw": SIZE, "shorter": (1 << 20) + 1234, "longer": SIZE + 70_000}[kind]
            expected = bytearray(content(number, length))
            path.write_bytes(expected)
            below, form = name, "raw"
            continue
        if below is None:
            (folder / "plain").write_bytes(new)
            qemu_img("convert", "-f", "raw", "-O", "qcow2", *MADE[kind], folder / "plain", path)
            expected = new
        else:
            qemu_img(
                "create", "-q", "-f", "qcow2", *MADE[kind], "-b", below, "-F", form, path, SIZE
            )
            expected = expected[:SIZE].ljust(SIZE, b"\0")
            for at in range(number << 16, SIZE, 300 << 10):
                qemu_io(path, f"write -P {number + 9} {at} {min(70_144, SIZE - at)}")
                length = min(70_144, SIZE - at)
                expected[at : at + length] = bytes([number + 9]) * length
        below, form = name, "qcow2"
    return below, form, bytes(expected)


@pytest.mark.parametrize("kinds", CHAINS)
def test_a_chain(tmp_path, opened, kinds):
    below, form, expected = chain(tmp_path, CHAINS[kinds])
    images = {one: one.read_bytes() for one in tmp_path.iterdir()}
    path = tmp_path / "top"
    qcow2.create(str(path), SIZE, below, form)
    disk = opened(path)
    model = bytearray(expected[:SIZE].ljust(SIZE, b"\0"))
    assert read(disk) == model
    exercise(disk, model, random.Random(SEED), 60)
    close(disk)
    same(path, model, tmp_path)
    for one, before in images.items():
        assert one.read_bytes() == before, f"{one.name} was changed"


@pytest.mark.parametrize("version", ["0.10", "1.1"])
@pytest.mark.parametrize("cluster", [512, 4096, 65536, 2 << 20])
def test_random_operations(tmp_path, opened, monkeypatch, version, cluster):
    soak_one(tmp_path, opened, monkeypatch, (version, cluster, SEED, 60))


@pytest.mark.soak
@pytest.mark.parametrize("version", ["0.10", "1.1"])
@pytest.mark.parametrize("cluster", [512, 1024, 4096, 65536, 2 << 20])
def test_very_many_random_operations(tmp_path, opened, monkeypatch, version, cluster):
    for seed in range(SEED, SEED + 25):
        folder = tmp_path / str(seed)
        folder.mkdir()
        with monkeypatch.context() as patch:
            soak_one(folder, opened, patch, (version, cluster, seed, 400))
        shutil.rmtree(folder)


def soak_one(folder, opened, monkeypatch, how):
    """Exercise an image over a chain that the seed chooses, with little memory for tables."""
    version, cluster, seed, actions = how
    generator = random.Random(seed)
    for module, name in (
        (qcow2_image, "_CACHE"),
        (qcow2_image, "_LEAST_CACHE"),
        (qcow2, "_REFCOUNT_CACHE"),
    ):
        monkeypatch.setattr(module, name, 4096)
    below, form, expected = chain(folder, generator.choice(list(CHAINS.values())))
    path = folder / "top"
    options = f"compat={version},cluster_size={cluster}"
    base = generator.choice(([], ["-b", below, "-F", form]))
    qemu_img("create", "-q", "-f", "qcow2", "-o", options, *base, path, SIZE)
    model = bytearray((expected if base else b"")[:SIZE].ljust(SIZE, b"\0"))

    def reopen(disk):
        close(disk)
        qemu_img("check", "-q", path)
        return opened(path)

    close(exercise(opened(path), model, generator, actions, reopen))
    same(path, model, folder)


def test_another_program_goes_on_where_this_one_ended(tmp_path, opened):
    path = tmp_path / "image"
    qcow2.create(str(path), 1 << 20)
    for number in range(1, 6):
        disk = opened(path)
        write(disk, number << 16, bytes([number]) * 5120)
        disk.discard((number - 1) << 16, 1 << 16)
        close(disk)
        qemu_io(path, f"write -P {number + 100} {number * 65536 + 4096} 70k")
    model = bytearray(1 << 20)
    for number in range(1, 6):
        model[number << 16 : (number << 16) + 5120] = bytes([number]) * 5120
        model[(number - 1) << 16 : number << 16] = bytes(1 << 16)
        start = (number << 16) + 4096
        model[start : start + (70 << 10)] = bytes([number + 100]) * (70 << 10)
    same(path, model, tmp_path)


# What is promised to the block device.


def test_nothing_waits_that_must_not(tmp_path, opened):
    """What lies in tables that were not read yet, or is compressed, is left to those who may."""
    plain = tmp_path / "plain"
    plain.write_bytes(content(SEED))
    path = tmp_path / "image"
    qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2", plain, path)
    disk = opened(path)
    assert read(disk, 0, 4096, wait=False) is None
    assert read(disk, 0, 4096) == content(SEED)[:4096]
    if read(disk, 0, 4096, wait=False) is not None:  # uncompressed it is in memory now
        assert read(disk, 0, 4096, wait=False) == content(SEED)[:4096]
    write(disk, 0, b"x" * 4096)
    assert read(disk, 0, 4096, wait=False) in {None, b"x" * 4096}
    with disk._tables:  # what is held by others is not waited for
        read(disk, 0, 4096, wait=False)
        empty = disk.size // 2
        disk._pieces._pieces.clear()
        assert read(disk, empty, 512, wait=False) is None


def test_a_new_image_takes_no_room(tmp_path, opened):
    path = tmp_path / "image"
    qcow2.create(str(path), 1 << 40)
    disk = opened(path)
    assert read(disk, 1 << 39, 65536, wait=False) == bytes(65536)
    write(disk, 1 << 39, b"x" * 4096)
    disk.discard(0, 1 << 39)
    disk.zero(0, 1 << 39, unmap=True)
    disk.flush()
    assert path.stat().st_blocks * 512 < 1 << 20


@pytest.mark.parametrize("how", ["discard", "zero"])
def test_what_is_forgotten_gives_its_room_back(tmp_path, opened, how):
    path = tmp_path / "image"
    qcow2.create(str(path), 64 << 20)
    disk = opened(path)
    data = os.urandom(1 << 20)
    for at in range(0, 16 << 20, 1 << 20):
        write(disk, at, data)
    disk.flush()
    full = path.stat()
    if how == "discard":
        disk.discard(0, 16 << 20)
    else:
        disk.zero(0, 16 << 20, unmap=True)
    assert read(disk, 0, 16 << 20) == bytes(16 << 20)
    disk.flush()
    assert path.stat().st_blocks * 512 < full.st_blocks * 512 - (15 << 20)
    for at in range(0, 16 << 20, 1 << 20):  # and is used again
        write(disk, at, data)
    disk.flush()
    assert path.stat().st_size <= full.st_size + (1 << 20)


def test_room_that_somebody_may_still_write_to_is_not_used_again(tmp_path, opened, monkeypatch):
    """A write that is on its way while its cluster is discarded hits nobody else's data."""
    path = tmp_path / "image"
    qcow2.create(str(path), 1 << 20)
    disk = opened(path)
    write(disk, 0, b"a" * 65536)
    disk.flush()
    (_, entry), *_ = Reader(path.read_bytes()).entries()
    place = entry & OFFSET
    arrived, go_on = threading.Event(), threading.Event()
    plain_write = Raw.write

    def slow(self, buffers, offset):
        if offset == place:
            arrived.set()
            assert go_on.wait(20)
        plain_write(self, buffers, offset)

    monkeypatch.setattr(Raw, "write", slow)
    thread = threading.Thread(target=write, args=(disk, 0, b"late" * 16384))
    thread.start()
    assert arrived.wait(20)
    disk.discard(0, 65536)
    disk.flush()
    write(disk, 1 << 17, b"b" * 65536)
    disk.flush()
    write(disk, 1 << 18, b"c" * 65536)
    go_on.set()
    thread.join()
    assert read(disk, 1 << 17, 65536) == b"b" * 65536
    assert read(disk, 1 << 18, 65536) == b"c" * 65536
    disk.flush()  # nobody is left
    write(disk, 1 << 19, b"d" * 65536)
    close(disk)
    entries = dict(Reader(path.read_bytes()).entries())
    assert entries[8] & OFFSET == place
    qemu_img("check", "-q", path)


def test_threads_share_a_disk(tmp_path, opened):
    """Eight threads read and write their own sectors of the same clusters, and flush."""
    (tmp_path / "base").write_bytes(content(1, 1 << 20))
    path = tmp_path / "image"
    qcow2.create(str(path), 1 << 20, "base", "raw")
    disk = opened(path)
    model = bytearray(content(1, 1 << 20))
    failed = []

    def run(mine):
        generator = random.Random(mine)
        try:
            for number in range(200):
                at = 512 * generator.randrange(mine, 2048, 8)
                if number % 3 == 0:
                    assert read(disk, at, 512) == model[at : at + 512]
                elif number % 50 == 1:
                    disk.flush()
                else:
                    data = generator.getrandbits(64).to_bytes(8, "little") * 64
                    disk.write([memoryview(data)], at)
                    model[at : at + 512] = data
        except BaseException as error:  # noqa: BLE001 - said by the test
            failed.append(error)

    threads = [threading.Thread(target=run, args=[mine]) for mine in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    close(disk)
    same(path, model, tmp_path)


def test_flushes_at_once_are_one(tmp_path, opened, monkeypatch):
    path = tmp_path / "image"
    qcow2.create(str(path), 1 << 20)
    disk = opened(path)
    syncs = []
    begun, go_on = threading.Event(), threading.Event()

    def flush(self):
        syncs.append(None)
        begun.set()
        assert go_on.wait(20)

    monkeypatch.setattr(Raw, "flush", flush)
    threads = [threading.Thread(target=disk.flush) for _ in range(6)]
    threads[0].start()
    assert begun.wait(20)
    for thread in threads[1:]:
        thread.start()
    while not all(thread.ident for thread in threads):
        pass
    go_on.set()
    for thread in threads:
        thread.join()
    assert 2 <= len(syncs) < 6


@pytest.mark.parametrize("read_only", [True, False])
def test_what_is_out_of_bounds_fails(tmp_path, opened, read_only):
    path = tmp_path / "image"
    qcow2.create(str(path), 1 << 20)
    disk = opened(path, read_only=read_only)
    with pytest.raises(OSError, match="behind the end"):
        read(disk, 1 << 20, 512)
    for change in (
        lambda: write(disk, 1 << 20, bytes(512)),
        lambda: disk.discard(0, (1 << 20) + 512),
        lambda: disk.zero(1 << 20, 512, unmap=True),
    ):
        with pytest.raises(OSError, match=r"behind the end|Read-only"):
            change()


def test_what_is_read_only_is_not_changed(tmp_path, opened):
    path = tmp_path / "image"
    qcow2.create(str(path), 1 << 20)
    before = path.read_bytes()
    disk = opened(path, read_only=True)
    for change in (
        lambda: write(disk, 0, bytes(512)),
        lambda: disk.discard(0, 512),
        lambda: disk.zero(0, 512, unmap=True),
    ):
        with pytest.raises(OSError, match="Read-only file system"):
            change()
    disk.flush()
    close(disk)
    assert path.read_bytes() == before


def test_many_small_buffers(tmp_path, opened):
    """More than one call of the kernel takes, with what is around them."""
    (tmp_path / "base").write_bytes(content(1, 4 << 20))
    qcow2.create(str(tmp_path / "image"), 0, "base", "raw")
    disk = opened(tmp_path / "image")
    model = bytearray(content(1, 4 << 20))
    data = os.urandom(1 << 20)
    whole = memoryview(data)
    disk.write([whole[at : at + 512] for at in range(0, len(data), 512)], 5120)
    model[5120 : 5120 + len(data)] = data
    assert read(disk) == model


# Claims.


def test_two_guests_never_share_a_writable_image(tmp_path, opened):
    (tmp_path / "base").write_bytes(bytes(1 << 20))
    for name in ("one", "two"):
        qcow2.create(str(tmp_path / name), 0, "base", "raw")
    first = opened(tmp_path / "one")
    with pytest.raises(ConfigError, match="in use"):
        opened(tmp_path / "one")
    second = opened(tmp_path / "two")  # the base is shared by all who only read it
    with pytest.raises(ConfigError, match="in use"):
        Raw(str(tmp_path / "base"), read_only=False)
    command = ["qemu-io", "-f", "raw", "-c", "write 0 512", str(tmp_path / "base")]
    found = subprocess.run(command, check=False, capture_output=True)
    assert found.returncode
    close(first)
    close(second)
    Raw(str(tmp_path / "base"), read_only=False).close()


# Making images.


def test_an_image_is_made(tmp_path):
    (tmp_path / "base").write_bytes(bytes(1_000_000))
    path = tmp_path / "image"
    qcow2.create(str(path), backing="base")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in sorted(tmp_path.iterdir())] == ["base", "image"]
    told = qemu_img("info", path)
    assert "virtual size: 977 KiB (1000448 bytes)" in told
    assert "backing file format: raw" in told
    assert "compat: 1.1" in told
    qemu_img("check", "-q", path)


@pytest.mark.parametrize("size", [512, 65536, 1 << 32, 100 << 40])
def test_images_of_all_sizes(tmp_path, opened, size):
    path = tmp_path / "image"
    qcow2.create(str(path), size)
    qemu_img("check", "-q", path)
    assert f"({size} bytes)" in qemu_img("info", path)
    disk = opened(path)
    write(disk, size - 512, b"z" * 512)
    assert read(disk, size - 512, 512) == b"z" * 512
    close(disk)
    qemu_img("check", "-q", path)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((0,), "of 0 bytes cannot be made"),
        ((1 << 60,), "cannot be made"),
        ((0, "missing"), "cannot open .*missing"),
        ((0, "base", "vmdk"), "raw or qcow2"),
        ((0, "nbd:base"), "not be taken for a path"),
        ((0, "base", "qcow2"), "is not a qcow2 image"),
        ((0, f"{'./' * 600}base"), "1023 bytes"),
    ],
)
def test_images_that_cannot_be_made(tmp_path, arguments, said):
    (tmp_path / "base").write_bytes(bytes(4096))
    with pytest.raises((InputFileError, ConfigError), match=said):
        qcow2.create(str(tmp_path / "image"), *arguments)
    assert [one.name for one in tmp_path.iterdir()] == ["base"]


def test_nothing_is_overwritten(tmp_path):
    path = tmp_path / "image"
    path.write_bytes(b"precious")
    with pytest.raises(InputFileError, match="File exists"):
        qcow2.create(str(path), 1 << 20)
    assert path.read_bytes() == b"precious"
    assert [one.name for one in tmp_path.iterdir()] == ["image"]


# What is refused.


def patched(path, offset, form, *values):
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(struct.pack(form, *values))


HEADERS = {
    "magic": (0, ">I", [1], "is not a qcow2 image"),
    "version": (4, ">I", [4], "expected qcow2 version 2 or 3, found 4"),
    "small clusters": (20, ">I", [8], r"expected clusters .* found 2\^8"),
    "large clusters": (20, ">I", [22], r"found 2\^22"),
    "no size": (24, ">Q", [0], "a disk of 0 bytes"),
    "a huge size": (24, ">Q", [(1 << 64) - 1], "convert"),
    "more than the L1 table has": (24, ">Q", [1 << 40], "too small"),
    "AES": (32, ">I", [1], "encrypted .AES"),
    "LUKS": (32, ">I", [2], "encrypted .LUKS"),
    "L1 table behind the end": (40, ">Q", [1 << 40], "damaged: the L1 table"),
    "L1 table at the header": (40, ">Q", [0], "damaged: the L1 table"),
    "L1 table not aligned": (40, ">Q", [0x30200], "damaged: the L1 table"),
    "corrupt": (72, ">Q", [2], "marked as corrupt"),
    "external data": (72, ">Q", [4], "external data file"),
    "zstd": (72, ">QQQIIB", [8, 0, 0, 4, 112, 1], "zstd"),
    "another compression": (72, ">QQQIIB", [8, 0, 0, 4, 112, 9], "type 9"),
    "extended L2": (72, ">Q", [16], "extended L2"),
    "unknown": (72, ">Q", [1 << 40], "incompatible feature 40: not supported"),
    "header length": (100, ">I", [100], "a header of 100 bytes"),
    "header length, huge": (100, ">I", [1 << 31], "a header of"),
}
WRITABLE = {
    "dirty": (72, ">Q", [1], "qemu-img check -r all"),
    "snapshots": (60, ">I", [1], "internal snapshots"),
    "refcounts of 8 bits": (96, ">I", [3], r"refcounts of 2\^3 bits"),
    "no refcount table": (56, ">I", [0], "refcount table of"),
    "a huge refcount table": (56, ">I", [1 << 30], "refcount table of"),
    "a refcount table behind the end": (48, ">Q", [1 << 40], "damaged: the refcount table"),
    "a refcount block behind the end": (1 << 16, ">Q", [1 << 40], "damaged: a refcount block"),
    "a header that is free": (2 << 16, ">H", [0], "the header counts as free"),
    "an L1 table that is free": ((2 << 16) + 6, ">H", [0], "the L1 table counts as free"),
    "no refcount block": (1 << 16, ">Q", [0], "the header counts as free"),
}


@pytest.mark.parametrize("what", HEADERS)
def test_headers_that_are_refused(tmp_path, opened, what):
    path = tmp_path / "image"
    qcow2.create(str(path), 1 << 30)
    offset, form, values, said = HEADERS[what]
    patched(path, offset, form, *values)
    with pytest.raises(InputFileError, match=said):
        opened(path, read_only=True)
    opened_files = os.listdir("/proc/self/fd")
    with pytest.raises(InputFileError, match=said):
        opened(path)
    assert os.listdir("/proc/self/fd") == opened_files


@pytest.mark.parametrize("what", WRITABLE)
def test_images_that_can_only_be_read(tmp_path, opened, what):
    path = tmp_path / "image"
    qcow2.create(str(path), 1 << 30)
    offset, form, values, said = WRITABLE[what]
    patched(path, offset, form, *values)
    with pytest.raises(InputFileError, match=said):
        opened(path)
    assert read(opened(path, read_only=True), 0, 4096) == bytes(4096)


def test_a_feature_is_refused_by_the_name_that_the_image_gives_it(tmp_path, opened):
    path = tmp_path / "image"
    qemu_img("create", "-q", "-f", "qcow2", path, "1M")  # with a table of names
    data = bytearray(path.read_bytes())
    at = data.index(b"lazy refcounts")
    data[at - 2 : at + 9] = bytes([0, 50]) + b"nonsense\0"
    path.write_bytes(data)
    patched(path, 72, ">Q", 1 << 50)
    with pytest.raises(InputFileError, match=r"feature 50 \('nonsense"):
        opened(path)


def test_auto_clear_features_are_cleared(tmp_path, opened):
    path = tmp_path / "image"
    qemu_img("create", "-q", "-f", "qcow2", path, "1M")
    qemu_img("bitmap", "--add", path, "bitmap")
    assert struct.unpack_from(">Q", path.read_bytes(), 88) == (1,)
    close(opened(path, read_only=True))
    assert struct.unpack_from(">Q", path.read_bytes(), 88) == (1,)
    disk = opened(path)
    assert struct.unpack_from(">Q", path.read_bytes(), 88) == (0,)
    write(disk, 0, b"x" * 512)
    close(disk)
    assert Reader(path.read_bytes()).check()[0] == []


ENTRIES = {
    "behind the end": COPIED | 1 << 40,
    "not aligned": COPIED | 0x50200,
    "reserved bits": COPIED | 0x50000 | 1 << 56,
    "marked, but nothing": COPIED,
    "compressed, behind the end": 1 << 62 | 1 << 40,
    "compressed, but is not": 1 << 62 | 0x30000,
    "compressed and marked": COPIED | 1 << 62 | 0x30000,
}


@pytest.mark.parametrize("what", ENTRIES)
def test_entries_that_mean_nothing_fail_their_requests(tmp_path, opened, what):
    path = tmp_path / "image"
    qcow2.create(str(path), 1 << 20)
    disk = opened(path)
    write(disk, 0, b"x" * (1 << 17))
    close(disk)
    (table,) = struct.unpack_from(">Q", path.read_bytes(), 3 << 16)
    patched(path, table & OFFSET, ">Q", ENTRIES[what])
    disk = opened(path)
    with pytest.raises(OSError, match="damaged"):
        read(disk, 0, 4096)
    assert read(disk, 1 << 16, 4096) == b"x" * 4096


# Backing files.


def named(path, backing, form="raw"):
    """Let an image name a backing file, whatever that is."""
    arguments = ["-F", form] if form else []
    qemu_img("rebase", "-u", "-b", backing, *arguments, path)


@pytest.fixture
def image(tmp_path):
    """Return the path of an image in a folder of its own, beside a file named ``base``."""
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "base").write_bytes(b"b" * (1 << 20))
    (tmp_path / "elsewhere").write_bytes(b"e" * (1 << 20))
    path = folder / "image"
    qemu_img("create", "-q", "-f", "qcow2", path, "1M")
    return path


@pytest.mark.parametrize("name", ["base", "./base", "../images/base", "{folder}/base"])
def test_what_is_beside_an_image_may_be_below_it(image, opened, name):
    named(image, name.format(folder=image.parent))
    assert read(opened(image), 0, 512) == b"b" * 512


@pytest.mark.parametrize("name", ["../elsewhere", "{folder}/../elsewhere", "link"])
def test_what_is_elsewhere_has_to_be_named(image, opened, name):
    (image.parent / "link").symlink_to("../elsewhere")
    named(image, name.format(folder=image.parent))
    elsewhere = str(image.parent.parent / "elsewhere")
    with pytest.raises(ConfigError, match="not beside it") as caught:
        opened(image)
    assert f"backing={elsewhere}" in caught.value.remedy
    with pytest.raises(ConfigError, match=r"stands on .*elsewhere', not on .*base"):
        opened(image, backing=[str(image.parent / "base")])
    assert read(opened(image, backing=[elsewhere]), 0, 512) == b"e" * 512


def test_with_names_only_they_may_be_below(image, opened):
    named(image, "base")
    with pytest.raises(ConfigError, match="stands on"):
        opened(image, backing=[str(image.parent.parent / "elsewhere")])


@pytest.mark.parametrize(
    ("name", "form", "said"),
    [
        ("base", "", "without a format"),
        ("base", "vmdk", "of the format 'vmdk'"),
        ("nbd://localhost/x", "raw", "no path"),
        ('json:{"driver":"raw"}', "raw", "no path"),
        ("missing", "raw", "cannot open .*missing"),
        (".", "raw", "cannot open|neither|not beside"),
        ("image", "qcow2", "which stands on it"),
        ("image", "raw", "which stands on it"),
        ("base", "qcow2", "is not a qcow2 image"),
    ],
)
def test_backing_files_that_are_refused(image, opened, name, form, said):
    data = bytearray(image.read_bytes())
    extension = struct.pack(">II8s", 0xE279_2ACA, len(form), form.encode()) if form else b""
    after = 112 + len(extension) + 8
    data[112:after] = extension + bytes(8)
    data[after : after + len(name)] = name.encode()
    data[8:20] = struct.pack(">QI", after, len(name))
    image.write_bytes(data)
    with pytest.raises((InputFileError, ConfigError), match=said):
        opened(image)


def test_a_loop_of_images(image, opened):
    other = image.parent / "other"
    shutil.copy(image, other)
    named(image, "other", "qcow2")
    named(other, "image", "qcow2")
    with pytest.raises(InputFileError, match="which stands on it"):
        opened(image)


def test_a_chain_without_an_end(tmp_path, opened):
    qemu_img("create", "-q", "-f", "qcow2", tmp_path / "0", "1M")
    for number in range(1, 20):
        qcow2.create(str(tmp_path / str(number)), 0, str(number - 1), "qcow2")
    disk = opened(tmp_path / "15")
    assert read(disk, 0, 512) == bytes(512)
    close(disk)
    with pytest.raises(InputFileError, match="a chain of more than 16"):
        opened(tmp_path / "19")


def test_a_name_with_a_zero_in_it(image, opened):
    data = bytearray(image.read_bytes())
    at = 2000
    data[at : at + 6] = b"ba\0se\0"
    data[8:20] = struct.pack(">QI", at, 5)
    image.write_bytes(data)
    with pytest.raises(InputFileError, match="no path"):
        opened(image)


# Where disks are opened.


def test_disks_are_opened_by_their_format(tmp_path):
    (tmp_path / "base").write_bytes(bytes(1 << 20))
    path = str(tmp_path / "image")
    qcow2.create(path, 2 << 20, "base")
    disk = attach.open_disk(path, "qcow2", read_only=False)
    assert (disk.size, disk.read_only, disk.path) == (2 << 20, False, path)
    disk.close()
    disk = attach.open_disk(path, "raw", read_only=True)
    assert isinstance(disk, Raw)
    disk.close()
    with pytest.raises(ConfigError, match="raw or qcow2, found 'vdi'"):
        attach.open_disk(path, "vdi", read_only=True)
    with pytest.raises(ConfigError, match="stands on"):
        attach.open_all({"disks": [{"file": path, "format": "qcow2", "backing": "/elsewhere"}]})
    opened = attach.open_all(
        {"disks": {"file": path, "format": "qcow2", "backing": [str(tmp_path / "base")]}}
    )
    attach.close_all(opened)


# Growing.

# How the image is made; the bytes of its disk, of the base below, and of the disk that has grown.
GROWN = {
    "plain": ("cluster_size=65536", SIZE, 0, 64 << 20),
    "by one sector": ("cluster_size=65536", SIZE, 0, SIZE + 512),
    "over a shorter base": ("cluster_size=65536", SIZE, 1 << 20, 5 << 20),
    "over a longer base": ("cluster_size=65536", SIZE, 6 << 20, 5 << 20),
    "beyond a longer base": ("cluster_size=4096", SIZE, (5 << 20) + 512, 9 << 20),
    "version 2 over a longer base": ("compat=0.10", SIZE, 6 << 20, 9 << 20),
    "512": ("cluster_size=512", 1 << 20, (1 << 20) + 4096, 2 << 20),
    "16 TiB less 1 GiB": ("cluster_size=2M", SIZE, 0, (16 << 40) - (1 << 30)),
}


def grown_image(folder, how):
    """Make an image over a base, with something in it; return its path and its content."""
    options, size, below, _ = GROWN[how]
    (folder / "base").write_bytes(content(SEED + 1, below))
    path = folder / "image"
    base = ["-b", "base", "-F", "raw"] if below else []
    qemu_img("create", "-q", "-f", "qcow2", "-o", options, *base, path, size)
    model = bytearray(content(SEED + 1, below)[:size].ljust(size, b"\0"))
    disk = qcow2.Qcow2(str(path), read_only=False)
    for at, data in ((70_000, b"x" * 9000), (size - 700, b"y" * 700)):
        write(disk, at, data)
        model[at : at + len(data)] = data
    disk.close()
    return path, bytes(model)


@pytest.mark.parametrize("how", GROWN)
def test_a_disk_grows_by_zeros(tmp_path, opened, how):
    path, before = grown_image(tmp_path, how)
    size = GROWN[how][3]
    qcow2.grow(str(path), size)
    qemu_img("check", "-q", path)
    assert f"({size} bytes)" in qemu_img("info", path)
    disk = opened(path)
    assert disk.size == size
    part = min(size, 16 << 20)
    assert read(disk, 0, part) == before.ljust(part, b"\0")[:part]
    write(disk, size - 4096, b"z" * 4096)
    close(disk)
    qemu_img("check", "-q", path)
    assert read(opened(path), size - 8192) == bytes(4096) + b"z" * 4096
    assert (tmp_path / "base").read_bytes() == content(SEED + 1, GROWN[how][2])


def test_a_disk_that_is_as_large_stays_as_it_is(tmp_path):
    path, _ = grown_image(tmp_path, "plain")
    before = path.read_bytes()
    for size in (SIZE, 1 << 20):
        qcow2.grow(str(path), size)
        assert path.read_bytes() == before


def test_a_disk_that_cannot_grow_here_stays_as_it_is(tmp_path, opened):
    path, _ = grown_image(tmp_path, "512")
    before = path.read_bytes()
    with pytest.raises(
        InputFileError, match="no room for a disk of 2097664 bytes: qemu-img resize"
    ):
        qcow2.grow(str(path), (2 << 20) + 512)
    assert path.read_bytes() == before
    opened(path)
    with pytest.raises(ConfigError, match="in use"):
        qcow2.grow(str(path), 2 << 20)
