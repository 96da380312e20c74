# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The split queue: what a right driver gets, and every layout by which a wrong one shows itself."""

from __future__ import annotations

import ctypes
import random
import struct

import pytest
from ansible.module_utils.kvm.memory import GAP_END, GAP_START, GuestMemory, IoVector, total
from ansible.module_utils.kvm.virtio.queue import (
    MAX_SEGMENTS,
    BrokenDriver,
    Queue,
    copy_in,
    copy_out,
)
from driving import INDIRECT_TABLE, NEXT, WRITE, Ring

MIB, GIB = 1 << 20, 1 << 30
LOW, HIGH = GAP_START, GAP_END + 16 * MIB  # first addresses behind the two regions
TABLE, AVAIL, USED, DATA, MORE = 0x1_0000, 0x2_0000, 0x3_0000, 0x4_0000, 0x8_0000
SIZE = 8
TOP = 1 << 64


@pytest.fixture(scope="module")
def memory():
    """Make memory below 3 GiB and above 4 GiB; of most of it nothing is ever touched."""
    memory = GuestMemory(GAP_START + 16 * MIB)
    yield memory
    memory.close()


def pair(memory, size=SIZE, places=(TABLE, AVAIL, USED), limit=256, event_index=False):
    """Return the two sides of a queue that is in use, empty."""
    for place, length in zip(places, Ring.lengths(size)):
        memory.write(place, bytes(length))
    queue = Queue(memory, limit)
    queue.size = size
    queue.descriptors, queue.driver, queue.device = places
    queue.enable()
    queue.start(event_index=event_index)
    ring = Ring(memory, size, places)
    ring.event_index = event_index
    return queue, ring


@pytest.fixture
def sides(memory):
    return pair(memory)


def lengths(pieces):
    return [len(piece) for piece in pieces]


# What a right driver gets.


@pytest.mark.parametrize("indirect", [0, MORE])
@pytest.mark.parametrize(
    ("out", "into"),
    [
        ([16], []),
        ([], [1]),
        ([16, 512], [1]),
        ([16], [4096, 4096, 1]),
        ([1] * 4, [2] * 4),
        ([0], [0]),
    ],
)
def test_a_request(sides, memory, out, into, indirect):
    queue, ring = sides
    readable = [(DATA + 0x1000 * number, length) for number, length in enumerate(out)]
    writable = [(MORE + 0x1000 * (number + 1), length) for number, length in enumerate(into)]
    for number, (address, length) in enumerate(readable):
        memory.write(address, bytes([number + 1]) * length)
    head = ring.add(readable, writable, indirect=indirect)
    chain = queue.pop()
    assert chain.head == head
    assert (lengths(chain.readable), lengths(chain.writable)) == (out, into)
    assert [bytes(piece) for piece in chain.readable] == [memory.read(*one) for one in readable]
    for number, piece in enumerate(chain.writable):
        piece[:] = bytes([0x80 + number]) * len(piece)
    for number, one in enumerate(writable):
        assert memory.read(*one) == bytes([0x80 + number]) * one[1]
    assert queue.pop() is None
    queue.push(head, sum(into))
    assert ring.collect() == [(head, sum(into))]


def test_descriptors_and_then_an_indirect_one(sides, memory):
    """A chain may end in a table (2.7.5.3.1); whether it can be written is the table's business."""
    queue, ring = sides
    ring.describe(5, DATA, 16, NEXT, 2)
    ring.describe(2, MORE, 32, INDIRECT_TABLE | WRITE)
    memory.write(MORE, struct.pack("<QIHH", DATA + 64, 8, NEXT, 1))
    memory.write(MORE + 16, struct.pack("<QIHH", DATA + 128, 4, WRITE, 0))
    ring.offer(5)
    chain = queue.pop()
    assert (chain.head, lengths(chain.readable), lengths(chain.writable)) == (5, [16, 8], [4])


def places(pieces):
    """Return where pieces of the guest's memory lie in this process, and their bytes."""
    return [
        (ctypes.addressof(ctypes.c_char.from_buffer(piece)) if len(piece) else 0, len(piece))
        for piece in pieces
    ]


def long_table(chance, start, end, count, readable):
    """Return a table as drivers make it, of pieces that lie between the two addresses."""
    entries = []
    for index in range(count):
        length = chance.choice([1, 16, 512, 4096])
        address = chance.choice([start, end - length, chance.randrange(start, end - length)])
        flags = NEXT * (index < count - 1) | WRITE * (index >= readable)
        entries.append(struct.pack("<QIHH", address, length, flags, (index + 1) % count))
    return b"".join(entries)


def both_ways(queue, ring, memory, data):
    """Return the chain as it is found at once, and as it is walked: None, or what was wrong."""
    memory.write(MORE, data)
    ring.describe(0, MORE, len(data), INDIRECT_TABLE)
    at_once = queue._all_at_once(TABLE, 0)
    try:
        return at_once, queue._walk(0)
    except BrokenDriver as error:
        return at_once, error


@pytest.mark.parametrize("bounds", [(0x20_0000, LOW), (GAP_END, HIGH)])
@pytest.mark.parametrize("count", [16, 17, 256, 258, MAX_SEGMENTS])
def test_a_long_table_is_looked_at_as_a_whole(sides, memory, bounds, count):
    queue, ring = sides
    chance = random.Random(count)
    for readable in {0, 1, count // 2, count - 1}:
        data = long_table(chance, *bounds, count, readable)
        at_once, walked = both_ways(queue, ring, memory, data)
        assert isinstance(at_once.writable, IoVector)
        for mine, theirs in zip(at_once[1:], walked[1:]):
            assert (len(mine), total(mine)) == (len(theirs), total(theirs))
            assert places(mine) == places(theirs)
            assert places(mine[1:]) == places(theirs)[1:]
            assert [len(mine[-1])] == lengths(theirs[-1:]) if theirs else True


def test_what_is_wrong_with_a_long_table_is_found_all_the_same(sides, memory):
    """Whatever is found at once is what a walk finds, and nothing else is ever found at once."""
    queue, ring = sides
    chance = random.Random(7)
    odd = 0
    for _ in range(3000):
        count = chance.choice([16, 20, 64])
        bounds = chance.choice([(0x20_0000, LOW), (GAP_END, HIGH)])
        data = bytearray(long_table(chance, *bounds, count, chance.randrange(count)))
        for _ in range(chance.randrange(1, 3)):
            where = 16 * chance.randrange(count)
            kind = chance.randrange(4)
            if kind == 0:
                data[where + chance.randrange(16)] ^= 1 << chance.randrange(8)
            elif kind == 1:
                edge = chance.choice([0, GAP_START, LOW, GAP_END, HIGH, TOP])
                address = edge + chance.choice([-4096, -1, 0, 1]) & TOP - 1
                struct.pack_into("<Q", data, where, address)
            elif kind == 2:
                struct.pack_into("<I", data, where + 8, chance.choice([0, 2**31, 2**32 - 1]))
            else:
                data = data[: -16 * chance.randrange(1, 4)]
                count = len(data) // 16
        at_once, walked = both_ways(queue, ring, memory, bytes(data))
        if at_once is None:
            odd += 1
            continue
        assert not isinstance(walked, BrokenDriver), walked
        for mine, theirs in zip(at_once[1:], walked[1:]):
            assert places(mine) == places(theirs)
    assert 1000 < odd < 2900


def test_pieces_are_a_sequence(sides, memory):
    queue, ring = sides
    at_once, _ = both_ways(queue, ring, memory, long_table(random.Random(1), 0, LOW, 16, 1))
    pieces = at_once.writable
    assert len(pieces) == 15
    assert places([pieces[0], pieces[-1]]) == [places(pieces)[0], places(pieces)[14]]
    assert len(pieces[3:5]) == 2
    for wrong in (15, -16):
        with pytest.raises(IndexError):
            pieces[wrong]
    with pytest.raises(IndexError):
        pieces[::2]


def test_an_indirect_table_need_not_be_in_order(sides, memory):
    queue, ring = sides
    entries = [(DATA, 3, NEXT, 3), (DATA, 1, 0, 0), (DATA, 9, 0, 0), (DATA, 2, NEXT, 1)]
    memory.write(MORE, b"".join(struct.pack("<QIHH", *entry) for entry in entries))
    ring.describe(0, MORE, 64, INDIRECT_TABLE)
    ring.offer(0)
    assert lengths(queue.pop().readable) == [3, 2, 1]


@pytest.mark.parametrize("count", [1, SIZE])
def test_a_chain_of_every_descriptor(sides, count):
    queue, ring = sides
    ring.add([(DATA + number, 1) for number in range(count)])
    assert lengths(queue.pop().readable) == [1] * count


def test_a_table_of_as_many_as_one_call_takes(sides, memory):
    queue, ring = sides
    entries = [
        struct.pack("<QIHH", DATA, 1, NEXT if number + 1 < MAX_SEGMENTS else 0, number + 1)
        for number in range(MAX_SEGMENTS)
    ]
    memory.write(MORE, b"".join(entries))
    ring.describe(0, MORE, 16 * MAX_SEGMENTS, INDIRECT_TABLE)
    ring.offer(0)
    assert len(queue.pop().readable) == MAX_SEGMENTS


@pytest.mark.parametrize(
    ("address", "length"),
    [
        (0, 1),
        (0, 4096),
        (LOW - 1, 1),
        (LOW - 4096, 4096),
        (GAP_END, 1),
        (HIGH - 1, 1),
        (HIGH - 16 * MIB, 16 * MIB),
        (LOW, 0),
        (HIGH, 0),
    ],
)
def test_buffers_at_the_edges_of_memory(sides, address, length):
    queue, ring = sides
    ring.add([], [(address, length)])
    assert lengths(queue.pop().writable) == [length]


@pytest.mark.parametrize(("size", "begin"), [(1, 0xFFF0), (2, 0xFFFF), (8, 0xFFFC), (256, 0)])
@pytest.mark.parametrize("event_index", [False, True])
def test_indexes_wrap_at_65536(memory, size, begin, event_index):
    """More requests than the indexes count, each of another length."""
    queue, ring = pair(memory, size, event_index=event_index)
    ring.begin_at(begin)
    queue._next = queue._used = queue._signalled = begin
    total = 65536 - begin + 3 * size
    done = 0
    while done < total:
        count = min(size, total - done)
        heads = [ring.add([(DATA, (done + number) % 97)]) for number in range(count)]
        for number, head in enumerate(heads):
            chain = queue.pop()
            assert (chain.head, len(chain.readable[0])) == (head, (done + number) % 97)
            queue.push(head, done + number)
        assert queue.pop() is None
        assert queue.rest()
        assert ring.collect() == [(head, done + number) for number, head in enumerate(heads)]
        done += count
    assert ring.device_index() == 3 * size


@pytest.mark.parametrize(
    "places",
    [
        (LOW - 16 * SIZE, AVAIL, USED),
        (TABLE, LOW - 6 - 2 * SIZE, USED),
        (TABLE, AVAIL, LOW - 8 - 8 * SIZE),
        (GAP_END, GAP_END + 16 * SIZE, GAP_END + 0x1000),
        (TABLE, HIGH - 6 - 2 * SIZE, USED),
        (0, 0x100, 0x200),
    ],
)
def test_parts_at_the_edges_of_memory(memory, places):
    queue, ring = pair(memory, places=places)
    head = ring.add([(DATA, 5)])
    assert lengths(queue.pop().readable) == [5]
    queue.push(head, 0)
    assert ring.collect() == [(head, 0)]
    found = [memory.find(place, 1) for place in places]
    addresses = [region.address + offset for region, offset in found]
    assert list(queue.host_addresses()) == addresses


# What a wrong one does.


def chain(ring, *entries, head=0):
    """Write descriptors from 0 on: address, length, flags, next."""
    for number, entry in enumerate(entries):
        ring.describe(number, *entry)
    ring.offer(head)


def table(ring, *entries, length=None, flags=INDIRECT_TABLE, at=MORE):
    """Write a table and a descriptor that leads to it."""
    raw = b"".join(struct.pack("<QIHH", *entry) for entry in entries)
    ring.memory.write(at, raw)
    ring.describe(0, at, len(raw) if length is None else length, flags, 1)
    ring.offer(0)


ONE = (DATA, 4, 0, 0)
BROKEN = {
    "a head that is none": (lambda r: r.offer(SIZE), "descriptor 8 of 8"),
    "the greatest head": (lambda r: r.offer(0xFFFF), "descriptor 65535 of 8"),
    "a next that is none": (lambda r: chain(r, (DATA, 4, NEXT, SIZE)), "descriptor 8 of 8"),
    "the greatest next": (lambda r: chain(r, (DATA, 4, NEXT, 0xFFFF)), "descriptor 65535 of 8"),
    "a descriptor that follows itself": (lambda r: chain(r, (DATA, 4, NEXT, 0)), "in a loop"),
    "two that follow each other": (
        lambda r: chain(r, (DATA, 4, NEXT, 1), (DATA, 4, NEXT, 0)),
        "in a loop",
    ),
    "a loop without its head": (
        lambda r: chain(r, (DATA, 4, NEXT, 1), (DATA, 4, NEXT, 2), (DATA, 4, NEXT, 1)),
        "in a loop",
    ),
    "a loop of all": (
        lambda r: chain(r, *((DATA, 4, NEXT, (n + 1) % SIZE) for n in range(SIZE))),
        "in a loop",
    ),
    "a loop of buffers of no length": (lambda r: chain(r, (0, 0, NEXT, 0)), "in a loop"),
    "behind the low region": (lambda r: chain(r, (LOW, 1, 0, 0)), "lie outside"),
    "out of the low region": (lambda r: chain(r, (LOW - 1, 2, 0, 0)), "lie outside"),
    "from one region to the other": (
        lambda r: chain(r, (LOW - 8, GIB + 16, 0, 0)),
        "lie outside",
    ),
    "all of the gap": (lambda r: chain(r, (LOW, GIB, 0, 0)), "lie outside"),
    "in the gap": (lambda r: chain(r, (0xFEE0_0000, 4, WRITE, 0)), "lie outside"),
    "into the high region": (lambda r: chain(r, (GAP_END - 1, 2, 0, 0)), "lie outside"),
    "behind the high region": (lambda r: chain(r, (HIGH, 1, 0, 0)), "lie outside"),
    "out of the high region": (lambda r: chain(r, (HIGH - 1, 2, 0, 0)), "lie outside"),
    "the greatest length": (lambda r: chain(r, (GAP_END, 0xFFFF_FFFF, 0, 0)), "lie outside"),
    "an address that wraps": (lambda r: chain(r, (TOP - 1, 2, 0, 0)), "lie outside"),
    "an address that wraps to memory": (
        lambda r: chain(r, (TOP - 0x1000, 0x2000, WRITE, 0)),
        "lie outside",
    ),
    "the last byte of all": (lambda r: chain(r, (TOP - 1, 1, 0, 0)), "lie outside"),
    "no byte at the end of all": (lambda r: chain(r, (TOP - 1, 0, 0, 0)), "lie outside"),
    "an address that is negative in 32 bits": (
        lambda r: chain(r, (0xFFFF_FFFF_8000_0000, 1, 0, 0)),
        "lie outside",
    ),
    "a second buffer outside": (
        lambda r: chain(r, (DATA, 4, NEXT, 1), (LOW, 4, WRITE, 0)),
        "lie outside",
    ),
    "readable behind writable": (
        lambda r: chain(r, (DATA, 4, WRITE | NEXT, 1), ONE),
        "a readable descriptor behind a writable one",
    ),
    "readable behind writable, of no length": (
        lambda r: chain(r, (DATA, 4, WRITE | NEXT, 1), (DATA, 0, 0, 0)),
        "a readable descriptor behind a writable one",
    ),
    "readable in a table behind writable outside of it": (
        lambda r: (
            table(r, ONE),
            r.describe(1, MORE, 16, INDIRECT_TABLE),
            chain(r, (DATA, 4, WRITE | NEXT, 1)),
            r.publish(1),
        ),
        "a readable descriptor behind a writable one",
    ),
    "a table in a table": (
        lambda r: table(r, (DATA, 16, INDIRECT_TABLE, 0)),
        "malformed indirect",
    ),
    "a table in itself": (lambda r: table(r, (MORE, 16, INDIRECT_TABLE, 0)), "malformed indirect"),
    "a table and a next": (
        lambda r: table(r, ONE, flags=INDIRECT_TABLE | NEXT),
        "malformed indirect",
    ),
    "a table of no length": (lambda r: table(r, ONE, length=0), "malformed indirect"),
    "a table of less than one": (lambda r: table(r, ONE, length=15), "malformed indirect"),
    "a table of one and a bit": (lambda r: table(r, ONE, length=17), "malformed indirect"),
    "a table of an odd length": (
        lambda r: table(r, ONE, length=0xFFFF_FFFF),
        "malformed indirect",
    ),
    "a table as long as can be": (lambda r: table(r, ONE, length=0xFFFF_FFF0), "lie outside"),
    "a table behind memory": (
        lambda r: chain(r, (LOW, 16, INDIRECT_TABLE, 0)),
        "lie outside",
    ),
    "a table out of memory": (
        lambda r: chain(r, (LOW - 16, 32, INDIRECT_TABLE, 0)),
        "lie outside",
    ),
    "a table that wraps": (
        lambda r: chain(r, (TOP - 16, 32, INDIRECT_TABLE, 0)),
        "lie outside",
    ),
    "behind the end of a table": (
        lambda r: table(r, (DATA, 4, NEXT, 1), ONE, length=16),
        "descriptor 1 of 1",
    ),
    "a loop in a table": (lambda r: table(r, (DATA, 4, NEXT, 0)), "in a loop"),
    "a table with a buffer outside": (lambda r: table(r, (HIGH, 4, 0, 0)), "lie outside"),
    "one request too many": (lambda r: r.publish(SIZE + 1), "9 requests in a queue of 8"),
    "an index that goes back": (lambda r: r.publish(0xFFFF), "65535 requests in a queue of 8"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_layout_that_is_broken(sides, case):
    queue, ring = sides
    spoil, words = BROKEN[case]
    spoil(ring)
    with pytest.raises(BrokenDriver, match=words):
        queue.pop()


def test_more_segments_than_one_call_takes(memory):
    """Of descriptors and those of a table together: a vectored read takes no more."""
    queue, ring = pair(memory, 256)
    entries = [
        struct.pack("<QIHH", DATA, 1, NEXT if number < MAX_SEGMENTS - 1 else 0, number + 1)
        for number in range(MAX_SEGMENTS)
    ]
    memory.write(MORE, b"".join(entries))
    ring.describe(0, DATA, 1, NEXT, 1)
    ring.describe(1, MORE, 16 * MAX_SEGMENTS, INDIRECT_TABLE)
    ring.offer(0)
    with pytest.raises(BrokenDriver, match="too long"):
        queue.pop()


@pytest.mark.parametrize("begin", [0, 5, 0xFFF8, 0xFFFF])
def test_a_full_queue_is_none_that_is_broken(memory, begin):
    queue, ring = pair(memory)
    ring.begin_at(begin)
    queue._next = queue._used = queue._signalled = begin
    for _ in range(SIZE):
        ring.add([(DATA, 1)])
    assert [queue.pop().head for _ in range(SIZE)] == list(range(SIZE))
    assert queue.pop() is None
    queue.push(0, 0)
    ring.publish(begin + SIZE + 2)
    with pytest.raises(BrokenDriver, match="9 requests in a queue of 8"):
        queue.pop()


def test_more_requests_than_fit_while_the_device_has_some(sides):
    """A driver that gives further ones would let a slow device hold without end."""
    queue, ring = sides
    for _ in range(SIZE):
        ring.add([(DATA, 1)])
        queue.pop()
    ring.offer(0)
    with pytest.raises(BrokenDriver, match="9 requests in a queue of 8"):
        queue.pop()


@pytest.mark.parametrize("size", [0, 3, 5, 255, 257, 512, 0x8000, 0xFFFF])
def test_a_size_that_cannot_be(memory, size):
    queue = Queue(memory, 256)
    queue.size = size
    queue.descriptors, queue.driver, queue.device = TABLE, AVAIL, USED
    with pytest.raises(BrokenDriver, match=f"a queue of {size} descriptors"):
        queue.enable()
    assert not queue.enabled


AREAS = {
    "descriptors": (16, 16 * SIZE),
    "driver": (2, 6 + 2 * SIZE),
    "device": (4, 6 + 8 * SIZE),
}


@pytest.mark.parametrize("part", AREAS)
@pytest.mark.parametrize("case", ["odd", "half", "behind", "out of", "gap", "high", "wraps"])
def test_a_part_of_a_queue_that_is_misplaced(memory, part, case):
    alignment, length = AREAS[part]
    address = {
        "odd": TABLE + 1,
        "half": TABLE + alignment // 2,
        "behind": LOW,
        "out of": (LOW - length) // alignment * alignment + alignment,
        "gap": 0xF000_0000,
        "high": HIGH - alignment,
        "wraps": TOP - alignment,
    }[case]
    queue = Queue(memory, 256)
    queue.size = SIZE
    queue.descriptors, queue.driver, queue.device = TABLE, AVAIL, USED
    setattr(queue, part, address)
    with pytest.raises(BrokenDriver, match="not aligned" if case in {"odd", "half"} else "outside"):
        queue.enable()
    assert not queue.enabled


# Who wants to be told of what.


def need_event(event, new, old):
    """Tell what vring_need_event of the specification does (2.7.10.1), in 16 bits."""
    return (new - event - 1) & 0xFFFF < (new - old) & 0xFFFF


@pytest.mark.parametrize("before", [0, 1, 7, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF])
@pytest.mark.parametrize("pushed", [1, 2, 8])
def test_interrupts_by_event_index(memory, before, pushed):
    """The driver names the index behind which it wants one; all that lie around are tried."""
    seen = []
    for wanted in {(before + step) & 0xFFFF for step in range(-10, 18)} | {0, 0x7FFF, 0xFFFF}:
        queue, ring = pair(memory, event_index=True)
        ring.begin_at(before)
        queue._next = queue._used = queue._signalled = before
        interrupts = []
        queue.interrupt = lambda came=interrupts: came.append(1)
        ring.ask_at(wanted)
        for _ in range(pushed):
            queue.push(0, 0)
        queue.signal()
        expected = need_event(wanted, before + pushed, before)
        assert bool(interrupts) == expected, (wanted, before, pushed)
        seen.append(expected)
        queue.signal()  # nothing more was pushed
        assert len(interrupts) == int(expected)
    assert set(seen) == {True, False}


@pytest.mark.parametrize("suppressed", [False, True])
def test_interrupts_by_flag(sides, suppressed):
    queue, ring = sides
    interrupts = []
    queue.interrupt = lambda: interrupts.append(1)
    ring.suppress(suppressed)
    queue.signal()
    assert not interrupts
    queue.push(0, 0)
    queue.signal()
    assert len(interrupts) == int(not suppressed)
    queue.signal()
    assert len(interrupts) == int(not suppressed)


def test_the_flag_means_nothing_where_event_indexes_are_used(memory):
    queue, ring = pair(memory, event_index=True)
    interrupts = []
    queue.interrupt = lambda: interrupts.append(1)
    ring.suppress(True)
    queue.push(0, 0)
    queue.signal()
    assert interrupts


def test_what_was_pushed_in_the_meantime_counts(memory):
    """A driver that wants to be told at the third: not at the second, and then at the fourth."""
    queue, ring = pair(memory, event_index=True)
    interrupts = []
    queue.interrupt = lambda: interrupts.append(queue._used)
    ring.ask_at(2)
    for count in (2, 2, 1):
        for _ in range(count):
            queue.push(0, 0)
        queue.signal()
    assert interrupts == [4]


@pytest.mark.parametrize("event_index", [False, True])
def test_notifications(memory, event_index):
    queue, ring = pair(memory, event_index=event_index)
    ring.add([(DATA, 1)])
    assert ring.wants_notification()
    assert not queue.rest()  # it came before the device rested
    queue.pop()
    ring.add([(DATA, 1)])
    queue.pop()
    assert queue.rest()
    ring.add([(DATA, 1)])
    assert ring.wants_notification()
    ring.add([(DATA, 1)])
    # With the index the device wants to know of the first alone.
    assert ring.wants_notification() == (not event_index)


def test_a_reset_forgets_everything(memory, sides):
    queue, ring = sides
    for _ in range(3):
        queue.push(ring.add([(DATA, 1)]), 0)
        queue.pop()
    queue.vector = 1
    queue.reset()
    fresh = Queue(memory, 256)
    for name in ("size", "enabled", "vector", "descriptors", "driver", "device"):
        assert getattr(queue, name) == getattr(fresh, name)
    queue.size = SIZE
    queue.descriptors, queue.driver, queue.device = TABLE, AVAIL, USED
    memory.write(AVAIL, bytes(6 + 2 * SIZE))
    memory.write(USED, bytes(6 + 8 * SIZE))
    queue.enable()
    queue.start(event_index=False)
    assert queue.pop() is None


def pieces(*sizes):
    return [memoryview(bytearray(size)) for size in sizes]


@pytest.mark.parametrize(
    ("sizes", "data", "done"),
    [
        ([], b"abc", 0),
        ([0], b"abc", 0),
        ([2], b"abc", 2),
        ([2, 1], b"abc", 3),
        ([1, 0, 5], b"abc", 3),
        ([3, 3], b"abc", 3),
        ([4], b"", 0),
    ],
)
def test_copy_in(sizes, data, done):
    target = pieces(*sizes)
    assert copy_in(target, data) == done
    assert b"".join(target) == data[:done].ljust(sum(sizes), b"\0")
    assert copy_in(pieces(*sizes), memoryview(data)) == done


@pytest.mark.parametrize(("limit", "found"), [(0, b""), (1, b"a"), (3, b"abc"), (9, b"abcde")])
def test_copy_out(limit, found):
    source = [memoryview(b"ab"), memoryview(b""), memoryview(b"cde")]
    assert copy_out(source, limit) == found
    assert copy_out([], limit) == b""
