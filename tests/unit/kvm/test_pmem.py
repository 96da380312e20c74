# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Persistent memory: an image that is memory, its place, its flush, its protection."""

from __future__ import annotations

import errno
import os
import runpy
import struct
import threading
from pathlib import Path

import pytest
from ansible.module_utils.kvm import attach, disk
from ansible.module_utils.kvm.errors import ConfigError, HostError, InputFileError
from ansible.module_utils.kvm.memory import GuestMemory
from ansible.module_utils.kvm.virtio import pmem
from ansible.module_utils.kvm.virtio.block import Block
from ansible.module_utils.kvm.virtio.pmem import Pmem, open_image

Driver = runpy.run_path(str(Path(__file__).with_name("guest_side.py")))["Driver"]
MIB, GIB = 1 << 20, 1 << 30
SIZE = 16 * MIB
FLUSH = struct.pack("<I", 0)


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image"
    path.write_bytes(b"first" + bytes(4 * MIB - 10) + b"last.")
    return str(path)


@pytest.fixture
def new():
    """Make a guest with persistent memory over ``path``, and the driver of its device."""
    made = []

    def make(path, *, read_only=False):
        region = open_image(path, read_only=read_only)
        memory = GuestMemory(SIZE, more=[region])
        driver = Driver(Pmem(region), memory)
        made.append((driver, memory, region))
        return driver

    yield make
    for driver, memory, region in made:
        driver.close()
        memory.close()
        region.close()


def answers(driver, place):
    """Return the results that a driver finds at the places of its requests."""
    return struct.unpack("<I", driver.memory.read(place, 4))[0]


def flush(driver, request=FLUSH):
    """Ask for a flush and return where its result will be."""
    place = driver.buffer(b"\xff\xff\xff\xff")
    driver.add(0, [(driver.buffer(request), len(request))], [(place, 4)])
    driver.notify(0)
    return place


def settled(driver):
    """Wait until nothing is on its way."""
    device = driver.device
    with device._idle:
        assert device._idle.wait_for(lambda: not device._flushing, 10)


def test_the_image_is_memory_of_the_guest(new, image):
    driver = new(image)
    start, size = driver.config(0, 8), driver.config(8, 8)
    assert (start, size) == (4 * GIB, 4 * MIB)
    assert start % (128 * MIB) == 0
    assert driver.memory.read(start, 5) == b"first"
    assert driver.memory.read(start + size - 5, 5) == b"last."
    driver.memory.write(start + MIB, b"written")
    with open(image, "rb") as file:
        file.seek(MIB)
        assert file.read(7) == b"written"
    with pytest.raises(ConfigError, match="outside"):
        driver.memory.read(start + size - 1, 2)
    first, behind = driver.memory.high_window()
    assert start + size <= first < behind


@pytest.mark.parametrize(
    ("memory", "starts"),
    [(16 * MIB, [4 * GIB, 4 * GIB + 128 * MIB]), (4 * GIB, [5 * GIB, 5 * GIB + 128 * MIB])],
)
def test_images_lie_behind_the_memory(tmp_path, memory, starts):
    regions = []
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(bytes(2 * MIB))
        regions.append(open_image(str(tmp_path / name), read_only=False))
    made = GuestMemory(memory, more=regions)
    assert [one.start for one in made.regions[-2:]] == starts
    made.close()
    again = GuestMemory(memory, more=regions)  # after a reset of the machine
    again.write(starts[1], b"x")
    again.close()
    assert (tmp_path / "b").read_bytes()[:1] == b"x"
    for region in regions:
        region.close()


def test_a_flush_reaches_the_file(new, image, monkeypatch):
    synced = []
    monkeypatch.setattr(pmem.os, "fdatasync", synced.append)
    driver = new(image)
    driver.begin()
    place = flush(driver)
    settled(driver)
    assert answers(driver, place) == 0
    assert driver.used(0) == [(0, 4)]
    assert driver.interrupted(0)
    assert synced == [driver.memory.regions[-1].fd]
    assert driver.device.counts == {"flushes": 1}


def test_flushes_that_come_meanwhile_share_the_next_one(new, image, monkeypatch):
    begun, go_on, count = threading.Event(), threading.Event(), []

    def slow(_):
        count.append(1)
        begun.set()
        assert go_on.wait(10)

    monkeypatch.setattr(pmem.os, "fdatasync", slow)
    driver = new(image)
    driver.begin()
    places = [flush(driver)]
    assert begun.wait(10)
    places += [flush(driver) for _ in range(5)]
    assert driver.used(0) == []
    go_on.set()
    settled(driver)
    assert [answers(driver, place) for place in places] == [0] * 6
    assert len(driver.used(0)) == 6
    assert len(count) == 2


def test_a_flush_that_fails_is_told(new, image, monkeypatch):
    def failing(_):
        raise OSError(errno.EIO, "bad disk")

    monkeypatch.setattr(pmem.os, "fdatasync", failing)
    driver = new(image)
    driver.begin()
    place = flush(driver)
    settled(driver)
    assert answers(driver, place) == 1
    assert driver.device.counts == {"failed": 1}


def test_a_reset_waits_for_the_flush(new, image, monkeypatch):
    begun, go_on = threading.Event(), threading.Event()

    def slow(_):
        begun.set()
        assert go_on.wait(10)

    monkeypatch.setattr(pmem.os, "fdatasync", slow)
    driver = new(image)
    driver.begin()
    flush(driver)
    assert begun.wait(10)
    flush(driver)
    threading.Timer(0.05, go_on.set).start()
    driver.reset()
    assert go_on.is_set()
    assert driver.device._waiting == []
    used = driver.memory.read(0x10_2002, 2)
    driver.begin()  # nothing of the time before comes back
    settled(driver)
    assert used == b"\x01\0"
    assert driver.used(0) == []


def test_an_unknown_request_fails(new, image):
    driver = new(image)
    driver.begin()
    place = flush(driver, struct.pack("<I", 7))
    assert answers(driver, place) == 1
    assert driver.used(0) == [(0, 4)]


@pytest.mark.parametrize(("request_size", "room"), [(3, 4), (0, 4), (4, 3), (4, 0)])
def test_a_driver_that_breaks_a_rule_loses_its_device(new, image, request_size, room):
    driver = new(image)
    driver.begin()
    driver.add(0, [(0x30_0000, request_size)], [(0x30_1000, room)])
    driver.notify(0)
    assert "malformed request" in driver.broken()
    driver.reset()
    driver.begin()
    settled(driver)
    assert not driver.broken()


def test_what_is_read_only_is_written_by_nobody(new, image):
    driver = new(image, read_only=True)
    start = driver.config(0, 8)
    region = driver.memory.regions[-1]
    assert region.read_only
    assert driver.memory.read(start, 5) == b"first"
    assert driver.memory.view(start, 5).readonly
    with pytest.raises(ConfigError, match="may not be written"):
        driver.memory.write(start, b"x")
    with pytest.raises(ConfigError, match="may not be written"):
        driver.memory.room(start, 5)
    protection = [
        line.split()[1]
        for line in Path("/proc/self/maps").read_text().splitlines()
        if int(line.split("-")[0], 16) == region.address
    ]
    assert protection == ["r--p"]


def test_a_devices_answer_to_read_only_memory_breaks_the_device(new, image):
    driver = new(image, read_only=True)
    start = driver.config(0, 8)
    driver.begin()
    driver.add(0, [(driver.buffer(FLUSH), 4)], [(start, 4)])
    driver.notify(0)
    assert "may not be written" in driver.broken()


def test_a_queue_in_read_only_memory_is_refused(new, image):
    driver = new(image, read_only=True)
    start, write = driver.config(0, 8), driver.transport.write
    write(24, 2, 64)
    for offset in (32, 40, 48):
        write(offset, 4, start & 0xFFFF_FFFF)
        write(offset + 4, 4, start >> 32)
    write(28, 2, 1)
    assert "may not be written" in driver.broken()


def test_other_devices_reach_the_image(new, image, tmp_path):
    """A guest without a cache of its own reads and writes disks straight from there."""
    (tmp_path / "disk").write_bytes(b"sector" + bytes(MIB - 6))
    driver = new(image)
    start = driver.config(0, 8)
    raw = disk.Raw(str(tmp_path / "disk"), read_only=False)
    block = Driver(Block(raw), driver.memory)
    block.begin()
    header = block.buffer(struct.pack("<IIQ", 0, 0, 0))
    status = block.buffer(b"\xff" * 16)
    block.add(0, [(header, 16)], [(start + MIB, 512), (status, 1)])
    block.notify(0)
    block.device.stop()
    assert block.memory.read(status, 1) == b"\0"
    assert driver.memory.read(start + MIB, 6) == b"sector"
    block.close()
    raw.close()


@pytest.mark.parametrize("size", [0, 1, 4096, 2 * MIB - 1, 3 * MIB])
def test_a_size_that_does_not_fit_is_refused(tmp_path, size):
    path = tmp_path / "odd"
    path.write_bytes(bytes(size))
    with pytest.raises(InputFileError, match="multiples of 2MiB") as caught:
        open_image(str(path), read_only=False)
    assert "truncate -s %2M" in caught.value.remedy
    disk.Raw(str(path), read_only=False).close() if size >= 512 else None  # it is free again


def test_a_missing_image_is_named(tmp_path):
    with pytest.raises(InputFileError, match=r"cannot open .*missing"):
        open_image(str(tmp_path / "missing"), read_only=False)


def test_an_image_has_one_writer_or_many_readers(image):
    first = open_image(image, read_only=False)
    for read_only in (False, True):
        with pytest.raises(ConfigError, match="in use by another"):
            open_image(image, read_only=read_only)
    first.close()
    readers = [open_image(image, read_only=True) for _ in range(3)]
    with pytest.raises(ConfigError, match="in use by another"):
        open_image(image, read_only=False)
    for one in readers:
        one.close()
    open_image(image, read_only=False).close()


def test_holes_are_filled_before_the_guest_can_fall_into_one(tmp_path):
    path = tmp_path / "holes"
    path.touch()
    os.truncate(path, 4 * MIB)
    open_image(str(path), read_only=True).close()
    assert path.stat().st_blocks == 0
    open_image(str(path), read_only=False).close()
    assert path.stat().st_blocks * 512 >= 4 * MIB


def test_a_file_system_without_room_is_the_hosts_error(image, monkeypatch):
    class Libc:
        @staticmethod
        def fallocate64(*_):
            pmem.ctypes.set_errno(errno.ENOSPC)
            return -1

    monkeypatch.setattr(pmem.ctypes, "CDLL", lambda *_, **__: Libc)
    with pytest.raises(HostError, match="has holes, and its file system no room"):
        open_image(image, read_only=False)
    monkeypatch.undo()
    open_image(image, read_only=False).close()


def test_a_definition_opens_it(image):
    opened = attach.open_all({"pmem": [{"file": image, "read_only": True}]})
    (one,) = opened
    assert [region.read_only for region in one.regions] == [True]
    assert not one.shared
    assert one.make().config == struct.pack("<QQ", 0, 4 * MIB)
    attach.close_all(opened)
