# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The block device over a disk in memory: requests of every kind, at once and by its threads."""

from __future__ import annotations

import errno
import os
import struct
import threading
import time

import pytest
from ansible.module_utils.kvm.disk import Raw
from ansible.module_utils.kvm.virtio.block import THREADS, Block
from ansible.module_utils.kvm.virtio.queue import Queue
from driving import EVERYTHING

SECTOR = 512
SECTORS = 2048
SIZE = SECTORS * SECTOR
IN, OUT, FLUSH, GET_ID, DISCARD, WRITE_ZEROES = 0, 1, 4, 8, 11, 13
OK, IO_ERROR, UNSUPPORTED = 0, 1, 2
UNTOUCHED = 0xEE
READ_ONLY, CAN_FLUSH, MULTI_QUEUE, CAN_DISCARD, CAN_ZERO = 1 << 5, 1 << 9, 1 << 12, 1 << 13, 1 << 14
SOON = 5.0  # seconds in which everything here must have come about


class MemoryDisk:
    """A disk of bytes. ``slow`` ones never read at once; ``hold`` makes all that waits wait."""

    def __init__(self, *, read_only=False, slow=False):
        self.path = "memory"
        self.size = SIZE
        self.read_only = read_only
        self.content = bytearray(os.urandom(SECTOR) * SECTORS)
        for sector in range(SECTORS):
            struct.pack_into("<I", self.content, sector * SECTOR, sector)
        self.slow = slow
        self.calls = []
        self.go = threading.Event()
        self.go.set()
        self.running = self.most = 0
        self.fails = None
        self.lock = threading.Lock()

    def wait(self):
        with self.lock:
            self.running += 1
            self.most = max(self.most, self.running)
        assert self.go.wait(SOON)
        with self.lock:
            self.running -= 1
        if self.fails is not None:
            raise self.fails

    def read(self, buffers, offset, *, wait):
        if not wait and self.fails is not None and not self.slow:
            raise self.fails
        if not wait and self.slow:
            return False
        if wait:
            self.wait()
        self.calls.append(("read", offset, sum(map(len, buffers))))
        for piece in buffers:
            piece[:] = self.content[offset : offset + len(piece)]
            offset += len(piece)
        return True

    def write(self, buffers, offset):
        self.wait()
        self.calls.append(("write", offset, sum(map(len, buffers))))
        data = b"".join(buffers)
        self.content[offset : offset + len(data)] = data

    def flush(self):
        self.wait()
        self.calls.append(("flush",))

    def discard(self, offset, length):
        self.wait()
        self.calls.append(("discard", offset, length))

    def zero(self, offset, length, *, unmap):
        self.wait()
        self.calls.append(("zero", offset, length, unmap))
        self.content[offset : offset + length] = bytes(length)

    def close(self):
        pass


@pytest.fixture
def made(drive):
    """Make a device that is started, over a disk of these settings."""

    def make(*, features=EVERYTHING, queues=1, worker=None, **settings):
        disk = MemoryDisk(**settings)
        driver = drive(Block(disk, "serial-0815", queues), worker=worker)
        driver.start(features)
        return driver, disk

    return make


@pytest.fixture
def block(made):
    return made()


class Request:
    """A request on its way: header, data and status in buffers of their own."""

    def __init__(self, driver, kind, sector=0, out=(), into=(), index=0, indirect=False):
        self.driver = driver
        header = driver.buffer(struct.pack("<IIQ", kind, 0, sector & (1 << 64) - 1))
        self.status_at = driver.buffer(bytes([UNTOUCHED]))
        self.into = [driver.buffer(length=length) for length in into]
        readable = [header, *(driver.buffer(data) for data in out)]
        writable = [*self.into, self.status_at]
        self.index = index
        self.head = driver.ask(index, readable, writable, indirect=indirect)

    @property
    def status(self):
        return self.driver.content(self.status_at)[0]

    @property
    def data(self):
        return b"".join(map(self.driver.content, self.into))

    def done(self):
        """Wait until it came back; return its status and the bytes that the device says it wrote.

        What else came back meanwhile is kept for the others.
        """
        back = self.driver.__dict__.setdefault("back", {})
        deadline = time.monotonic() + SOON
        while (self.index, self.head) not in back:
            assert time.monotonic() < deadline, "the request does not come back"
            for used in self.driver.rings[self.index].collect():
                back[self.index, used.head] = used.length
            time.sleep(0.0005)
        return self.status, back.pop((self.index, self.head))


def test_long_requests_over_a_file(drive, monkeypatch, tmp_path):
    """As drivers make them, scattered over memory: what is there is what the file has."""
    path = tmp_path / "disk"
    content = bytearray(os.urandom(64 * SECTOR))
    path.write_bytes(content)
    disk = Raw(str(path), read_only=False)
    driver = drive(Block(disk))
    driver.start(EVERYTHING)
    at_once = Queue._all_at_once
    found = []
    monkeypatch.setattr(
        Queue, "_all_at_once", lambda *place: found.append(at_once(*place)) or found[-1]
    )
    try:
        for first, count in ((0, 40), (3, 61), (24, 40)):
            reading = Request(driver, IN, first, into=[SECTOR] * count, indirect=True)
            assert reading.done() == (OK, count * SECTOR + 1)
            assert reading.data == content[first * SECTOR : (first + count) * SECTOR]
            data = [os.urandom(SECTOR) for _ in range(count)]
            writing = Request(driver, OUT, first, out=data, indirect=True)
            assert writing.done() == (OK, 1)
            content[first * SECTOR : (first + count) * SECTOR] = b"".join(data)
            assert path.read_bytes() == content
        beyond = Request(driver, IN, 40, into=[SECTOR] * 30, indirect=True)
        assert beyond.done() == (IO_ERROR, 1)
        assert all(found)
    finally:
        driver.close()
        disk.close()


# What the device says of itself.


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("queues", [1, 4])
def test_features(made, read_only, queues):
    driver, _ = made(read_only=read_only, queues=queues)
    found = driver.offered()
    assert bool(found & READ_ONLY) == read_only
    assert bool(found & CAN_DISCARD) == bool(found & CAN_ZERO) == (not read_only)
    assert bool(found & MULTI_QUEUE) == (queues > 1)
    assert found & CAN_FLUSH
    assert driver.read(18, 2) == queues


def test_configuration(made):
    """By the places of struct virtio_blk_config (5.2.4)."""
    driver, _ = made(queues=3)
    fields = {
        "capacity": (0, 8, SECTORS),
        "size_max": (8, 4, 0),
        "seg_max": (12, 4, 510),
        "geometry": (16, 4, 0),
        "blk_size": (20, 4, 512),
        "physical_block_exp": (24, 1, 3),
        "alignment_offset": (25, 1, 0),
        "min_io_size": (26, 2, 1),
        "opt_io_size": (28, 4, 0),
        "writeback": (32, 1, 1),
        "num_queues": (34, 2, 3),
        "max_discard_sectors": (36, 4, 1 << 22),
        "max_discard_seg": (40, 4, 16),
        "discard_sector_alignment": (44, 4, 8),
        "max_write_zeroes_sectors": (48, 4, 1 << 22),
        "max_write_zeroes_seg": (52, 4, 16),
        "write_zeroes_may_unmap": (56, 1, 1),
    }
    assert {name: driver.device_config(at, size) for name, (at, size, _) in fields.items()} == {
        name: value for name, (_, _, value) in fields.items()
    }


@pytest.mark.parametrize(
    ("serial", "length", "found"),
    [
        ("disk-1", 20, b"disk-1".ljust(20, b"\0")),
        ("x" * 30, 20, b"x" * 20),
        ("", 20, bytes(20)),
        ("disk-1", 4, b"disk"),
        ("disk-1", 64, b"disk-1".ljust(20, b"\0")),
        ("Größe", 20, "Größe".encode().ljust(20, b"\0")),
    ],
)
def test_identity(drive, serial, length, found):
    driver = drive(Block(MemoryDisk(), serial))
    driver.start()
    request = Request(driver, GET_ID, into=[length])
    assert request.done() == (OK, min(length, 20) + 1)
    assert request.data[:20] == found


# Reading and writing, at once and by a thread.


@pytest.mark.parametrize("indirect", [False, True])
@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize(
    ("sector", "into"),
    [
        (0, [512]),
        (7, [4096]),
        (100, [512] * 8),
        (5, [256, 256]),
        (5, [1, 510, 1]),
        (SECTORS - 1, [512]),
        (0, [SIZE // 2, SIZE // 2]),
        (SECTORS, []),
        (3, []),
    ],
)
def test_reading(made, sector, into, slow, indirect):
    driver, disk = made(slow=slow)
    request = Request(driver, IN, sector, into=into, indirect=indirect)
    assert request.done() == (OK, sum(into) + 1)
    start = sector * SECTOR
    assert request.data == bytes(disk.content[start : start + sum(into)])
    assert driver.interrupts(0)
    assert driver.device.counts["reads"] == 1
    assert driver.device.counts["read_bytes"] == sum(into)
    assert not driver.device.counts["failed"]


@pytest.mark.parametrize("indirect", [False, True])
@pytest.mark.parametrize(
    ("sector", "lengths"),
    [
        (0, [512]),
        (9, [4096, 512]),
        (3, [100, 412]),
        (SECTORS - 8, [4096]),
        (0, [SIZE // 2]),
        (3, []),
    ],
)
def test_writing(block, sector, lengths, indirect):
    driver, disk = block
    before = bytes(disk.content)
    pieces = [os.urandom(length) for length in lengths]
    request = Request(driver, OUT, sector, out=pieces, indirect=indirect)
    assert request.done() == (OK, 1)
    data, at = b"".join(pieces), sector * SECTOR
    assert disk.content == before[:at] + data + before[at + len(data) :]
    assert driver.device.counts["writes"] == 1
    assert driver.device.counts["written_bytes"] == len(data)


def test_what_was_written_is_read(block):
    driver, _ = block
    Request(driver, OUT, 10, out=[b"\x5a" * 1024]).done()
    request = Request(driver, IN, 9, into=[2048])
    request.done()
    assert request.data[512:1536] == b"\x5a" * 1024


OUTSIDE = {
    "behind the end": (SECTORS, 512),
    "over the end": (SECTORS - 1, 1024),
    "a little over the end": (SECTORS - 1, 513),
    "no byte behind the end": (SECTORS + 1, 0),
    "far away": (1 << 40, 512),
    "where bytes wrap": ((1 << 55), 512),
    "the last sector of all": ((1 << 64) - 1, 512),
    "over the last sector of all": ((1 << 64) - 1, 1024),
    "no whole sector": (0, 511),
    "one byte": (0, 1),
    "a sector and one byte": (0, 513),
}


@pytest.mark.parametrize("kind", [IN, OUT])
@pytest.mark.parametrize("case", OUTSIDE)
def test_a_request_outside_of_the_disk(block, case, kind):
    driver, disk = block
    before = bytes(disk.content)
    sector, length = OUTSIDE[case]
    data = {"into": [length] if length else []} if kind == IN else {"out": [bytes(length)]}
    request = Request(driver, kind, sector, **data)
    assert request.done() == (IO_ERROR, 1)
    assert disk.content == before
    assert disk.calls == []
    assert not request.data.strip(b"\0")
    assert driver.device.counts["failed"] == 1
    assert not driver.broken


def test_a_read_only_disk(made):
    driver, disk = made(read_only=True)
    assert Request(driver, IN, 0, into=[512]).done() == (OK, 513)
    assert Request(driver, OUT, 0, out=[bytes(512)]).done() == (IO_ERROR, 1)
    one = struct.pack("<QII", 0, 8, 0)
    assert Request(driver, DISCARD, out=[one]).done() == (UNSUPPORTED, 1)
    assert Request(driver, WRITE_ZEROES, out=[one]).done() == (UNSUPPORTED, 1)
    assert Request(driver, FLUSH).done() == (OK, 1)
    assert {call[0] for call in disk.calls} == {"read", "flush"}


@pytest.mark.parametrize("kind", [2, 3, 5, 7, 9, 10, 12, 14, 15, 99, 0x8000_0000, 0xFFFF_FFFF])
def test_a_kind_that_is_none(block, kind):
    driver, disk = block
    request = Request(driver, kind, 0, out=[b"x" * 64], into=[64])
    assert request.done() == (UNSUPPORTED, 1)
    assert request.data == bytes(64)
    assert disk.calls == []


def test_flush(block):
    driver, disk = block
    assert Request(driver, FLUSH).done() == (OK, 1)
    assert disk.calls == [("flush",)]
    assert driver.device.counts["flushes"] == 1


def ranges(*some):
    return b"".join(struct.pack("<QII", *one) for one in some)


@pytest.mark.parametrize(
    ("kind", "some", "calls"),
    [
        (DISCARD, [(8, 8, 0)], [("discard", 4096, 4096)]),
        (DISCARD, [(0, SECTORS, 0)], [("discard", 0, SIZE)]),
        (DISCARD, [(n, 1, 0) for n in range(16)], [("discard", n * 512, 512) for n in range(16)]),
        (WRITE_ZEROES, [(8, 8, 0)], [("zero", 4096, 4096, False)]),
        (WRITE_ZEROES, [(8, 8, 1)], [("zero", 4096, 4096, True)]),
        (WRITE_ZEROES, [(SECTORS - 1, 1, 1)], [("zero", SIZE - 512, 512, True)]),
        (
            WRITE_ZEROES,
            [(0, 1, 0), (5, 2, 1)],
            [("zero", 0, 512, False), ("zero", 2560, 1024, True)],
        ),
    ],
)
def test_discarding_and_zeroing(block, kind, some, calls):
    driver, disk = block
    assert Request(driver, kind, out=[ranges(*some)]).done() == (OK, 1)
    assert disk.calls == calls
    assert driver.device.counts["discards" if kind == DISCARD else "zeroes"] == 1


def test_ranges_over_several_buffers(block):
    driver, disk = block
    raw = ranges((0, 1, 0), (2, 1, 0))
    assert Request(driver, DISCARD, out=[raw[:10], raw[10:17], raw[17:]]).done() == (OK, 1)
    assert disk.calls == [("discard", 0, 512), ("discard", 1024, 512)]


MALFORMED = {
    "none": (b"", IO_ERROR),
    "a part of one": (ranges((0, 1, 0))[:15], IO_ERROR),
    "one and a part": (ranges((0, 1, 0)) + b"\0", IO_ERROR),
    "too many": (ranges(*[(0, 1, 0)] * 17), IO_ERROR),
    "very many": (ranges(*[(0, 1, 0)] * 1000), IO_ERROR),
    "behind the end": (ranges((SECTORS, 1, 0)), IO_ERROR),
    "over the end": (ranges((SECTORS - 1, 2, 0)), IO_ERROR),
    "where sectors wrap": (ranges(((1 << 64) - 1, 1, 0)), IO_ERROR),
    "where bytes wrap": (ranges((1 << 55, 1, 0)), IO_ERROR),
    "as many sectors as can be": (ranges((0, 0xFFFF_FFFF, 0)), IO_ERROR),
    "a flag that is none": (ranges((0, 1, 2)), UNSUPPORTED),
    "all flags": (ranges((0, 1, 0xFFFF_FFFF)), UNSUPPORTED),
}


@pytest.mark.parametrize("kind", [DISCARD, WRITE_ZEROES])
@pytest.mark.parametrize("case", MALFORMED)
def test_ranges_that_are_wrong(block, case, kind):
    driver, disk = block
    raw, status = MALFORMED[case]
    assert Request(driver, kind, out=[raw] if raw else []).done() == (status, 1)
    assert disk.calls == []


def test_a_discard_may_not_ask_for_unmapping(block):
    driver, disk = block
    assert Request(driver, DISCARD, out=[ranges((0, 1, 1))]).done() == (UNSUPPORTED, 1)
    assert disk.calls == []


def test_more_sectors_than_one_request_may_have(block):
    driver, disk = block
    disk.size = 1 << 40
    most = 1 << 22
    assert Request(driver, WRITE_ZEROES, out=[ranges((0, most + 1, 0))]).done() == (UNSUPPORTED, 1)
    assert Request(driver, DISCARD, out=[ranges((0, most, 0))]).done() == (OK, 1)
    assert disk.calls == [("discard", 0, most * SECTOR)]


# Layouts: where header, data and status lie is the driver's business (2.7.4.2).


def lay_out(driver, readable, writable):
    """Make a request of these pieces, given as bytes and lengths; return its writable buffers."""
    out = [driver.buffer(piece) for piece in readable]
    into = [driver.buffer(b"\xee" * length) for length in writable]
    driver.ask(0, out, into)
    deadline = time.monotonic() + SOON
    while not driver.broken:
        back = driver.rings[0].collect()
        if back:
            return b"".join(map(driver.content, into)), back[0].length
        assert time.monotonic() < deadline
        time.sleep(0.0005)
    return b"", 0


READ_7 = struct.pack("<IIQ", IN, 0, 7)
WRITE_7 = struct.pack("<IIQ", OUT, 0, 7)


@pytest.mark.parametrize("cuts", [[16], [8, 8], [1] * 16, [15, 1], [4, 4, 8], [1, 15]], ids=str)
@pytest.mark.parametrize("writable", [[512, 1], [513], [1, 511, 1], [512, 0, 1], [100, 413]])
def test_layouts_of_a_read(block, cuts, writable):
    driver, disk = block
    pieces, at = [], 0
    for cut in cuts:
        pieces.append(READ_7[at : at + cut])
        at += cut
    data, length = lay_out(driver, pieces, writable)
    assert length == 513
    assert data == bytes(disk.content[7 * 512 : 8 * 512]) + bytes([OK])


@pytest.mark.parametrize("cuts", [[16], [8], [16 + 512], [16 + 100], [3, 16 + 200], [0, 16]])
def test_layouts_of_a_write(block, cuts):
    driver, disk = block
    whole = WRITE_7 + os.urandom(512)
    pieces, at = [], 0
    for cut in cuts:
        pieces.append(whole[at : at + cut])
        at += cut
    pieces.append(whole[at:])
    readable = [piece for piece in pieces if piece] if 0 not in cuts else pieces
    data, length = lay_out(driver, readable, [1])
    assert (data, length) == (bytes([OK]), 1)
    assert disk.content[7 * 512 : 8 * 512] == whole[16:]


def test_readable_bytes_behind_the_header_of_a_read(block):
    """They mean nothing."""
    driver, disk = block
    data, length = lay_out(driver, [READ_7, b"what is this?"], [512, 1])
    assert (data[:512], length) == (bytes(disk.content[7 * 512 : 8 * 512]), 513)


def test_writable_bytes_of_a_write(block):
    """They are left alone, but for the status."""
    driver, _ = block
    data, length = lay_out(driver, [WRITE_7, bytes(512)], [64, 1])
    assert (data, length) == (b"\xee" * 64 + bytes([OK]), 1)


BROKEN = {
    "no status": ([READ_7], [], "without room for its status"),
    "a status of no length": ([READ_7], [512, 0], "without room for its status"),
    "no header": ([], [512, 1], "without a whole header"),
    "a header of no length": ([b""], [512, 1], "without a whole header"),
    "a part of a header": ([READ_7[:15]], [512, 1], "without a whole header"),
    "a part of a header, in pieces": ([READ_7[:8], READ_7[8:15]], [1], "without a whole header"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_request_that_is_none(block, case):
    driver, disk = block
    readable, writable, words = BROKEN[case]
    lay_out(driver, readable, writable)
    assert words in driver.broken
    assert disk.calls == []


# Errors, threads and the end.


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize("kind", [IN, OUT, FLUSH, DISCARD, WRITE_ZEROES])
def test_a_disk_that_fails(made, kind, slow):
    """An error of the host is one of the request, whichever way it goes."""
    driver, disk = made(slow=slow)
    disk.fails = OSError(errno.EIO, "Input/output error")
    settings = {
        IN: {"into": [512]},
        OUT: {"out": [bytes(512)]},
        DISCARD: {"out": [ranges((0, 1, 0))]},
        WRITE_ZEROES: {"out": [ranges((0, 1, 0))]},
    }
    assert Request(driver, kind, **settings.get(kind, {})).done() == (IO_ERROR, 1)
    assert driver.device.counts["failed"] == 1
    disk.fails = None
    assert Request(driver, kind, **settings.get(kind, {})).done()[0] == OK


def test_a_mistake_of_ours_on_a_thread_is_told(block):
    """It ends the run, as one on any other thread, and keeps nobody waiting."""
    driver, disk = block
    disk.fails = ZeroDivisionError("oh")
    assert Request(driver, FLUSH).done() == (IO_ERROR, 1)
    driver.reset()
    assert [type(error) for error in driver.worker.failures] == [ZeroDivisionError]


def test_requests_that_wait_do_not_hold_up_the_others(made):
    driver, disk = made(slow=True)
    disk.go.clear()
    waiting = [Request(driver, IN, sector, into=[512]) for sector in range(20)]
    disk.slow = False
    assert Request(driver, IN, 99, into=[512]).done() == (OK, 513)
    deadline = time.monotonic() + SOON
    while disk.running < THREADS:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert {request.status for request in waiting} == {UNTOUCHED}
    disk.go.set()
    for sector, request in enumerate(waiting):
        assert request.done() == (OK, 513)
        assert request.data[:4] == struct.pack("<I", sector)
    assert disk.most == THREADS


def test_one_request_at_a_time_takes_one_thread(made):
    driver, _ = made(slow=True)
    before = threading.active_count()
    for _ in range(20):
        Request(driver, IN, 0, into=[512]).done()
    # A request counts as waiting for a moment after the driver has seen its end.
    assert threading.active_count() <= before + 2


def test_requests_of_several_queues(made):
    driver, _ = made(queues=3, slow=True)
    requests = [Request(driver, IN, sector, into=[512], index=sector % 3) for sector in range(30)]
    for sector, request in enumerate(requests):
        assert request.done() == (OK, 513)
        assert request.data[:4] == struct.pack("<I", sector)
    for index in range(3):
        assert driver.interrupts(index)


def in_background(call):
    done = threading.Event()
    thread = threading.Thread(target=lambda: (call(), done.set()), daemon=True)
    thread.start()
    return done, thread


def test_a_reset_waits_for_what_is_on_its_way(made):
    driver, disk = made(slow=True)
    disk.go.clear()
    requests = [Request(driver, IN, sector, into=[512]) for sector in range(12)]
    ring = driver.rings[0]
    done, thread = in_background(driver.reset)
    assert not done.wait(0.1)
    disk.go.set()
    assert done.wait(SOON)
    thread.join()
    # Whatever comes after the reset finds memory that is the driver's own again.
    index, data = ring.device_index(), [request.data for request in requests]
    assert index == 12
    time.sleep(0.02)
    assert (ring.device_index(), [request.data for request in requests]) == (index, data)
    driver.start()
    assert Request(driver, IN, 5, into=[512]).done() == (OK, 513)


def test_a_broken_driver_waits_for_what_is_on_its_way(made):
    driver, disk = made(slow=True)
    disk.go.clear()
    Request(driver, IN, 0, into=[512])
    done, thread = in_background(lambda: lay_out(driver, [READ_7], []))
    assert not done.wait(0.1)
    disk.go.set()
    assert done.wait(SOON)
    thread.join()
    assert "status" in driver.broken
    driver.start()
    assert Request(driver, IN, 5, into=[512]).done() == (OK, 513)


def test_a_reset_while_a_broken_driver_is_waited_for(made):
    """Both wait; the driver that comes after that has a device that works."""
    driver, disk = made(slow=True)
    disk.go.clear()
    Request(driver, IN, 0, into=[512])
    breaking = in_background(lambda: lay_out(driver, [READ_7], []))
    assert not breaking[0].wait(0.1)
    resetting = in_background(lambda: driver.transport.write(20, 1, 0))
    assert not resetting[0].wait(0.1)
    disk.go.set()
    for done, thread in (resetting, breaking):
        assert done.wait(SOON)
        thread.join()
    for _ in range(3):
        driver.start()
        assert driver.broken == ""
        assert Request(driver, IN, 5, into=[512]).done() == (OK, 513)


def test_a_machine_that_ends_waits_for_what_is_on_its_way(made):
    before = threading.active_count()
    driver, disk = made(slow=True)
    disk.go.clear()
    request = Request(driver, OUT, 3, out=[b"\x77" * 512])
    done, thread = in_background(driver.close)
    assert not done.wait(0.1)
    disk.go.set()
    assert done.wait(SOON)
    thread.join()
    assert request.status == OK
    assert disk.content[3 * 512 : 4 * 512] == b"\x77" * 512
    assert threading.active_count() == before


def test_a_full_queue_of_requests_that_wait(made):
    driver, _ = made(slow=True)
    for _ in range(3):
        requests = [Request(driver, IN, n, into=[512], indirect=True) for n in range(200)]
        for sector, request in enumerate(requests):
            assert request.done() == (OK, 513)
            assert request.data[:4] == struct.pack("<I", sector)


def test_without_flushes_what_is_written_is_safe_when_it_is_done(made):
    driver, disk = made(features=EVERYTHING & ~(1 << 9))
    assert Request(driver, OUT, 1, out=[bytes(512)]).done() == (OK, 1)
    assert [call[0] for call in disk.calls] == ["write", "flush"]
    driver, disk = made()
    assert Request(driver, OUT, 1, out=[bytes(512)]).done() == (OK, 1)
    assert [call[0] for call in disk.calls] == ["write"]
