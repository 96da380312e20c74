# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The split virtqueue, seen from the device (Virtio 1.2, section 2.7).

A driver's indexes are read once, as one word each: what was checked is what is used. x86 keeps
loads and stores in order but for a load that overtakes a store; there a fence stands.
"""

from __future__ import annotations

import struct
import threading
from functools import lru_cache
from typing import TYPE_CHECKING, Callable, NamedTuple, Sequence

from ..errors import ConfigError
from ..memory import IoVector

if TYPE_CHECKING:
    from ..memory import GuestMemory, Region

MAX_SEGMENTS = 1024  # of a chain: IOV_MAX, what a vectored read or write takes
_NEXT, _WRITE, _INDIRECT = 1, 2, 4
_NO_INTERRUPT = 1
_DESCRIPTOR = 16
_MANY = 16  # descriptors in one table that are looked at all at once
_LOW = bytes(index & 0xFF for index in range(1, MAX_SEGMENTS + 1))  # of the next field, in order
_HIGH = bytes(index >> 8 for index in range(1, MAX_SEGMENTS + 1))
_unpack_descriptor = struct.Struct("<QIHH").unpack_from
_pack_used = struct.Struct("<II").pack_into
_fence_lock = threading.Lock()


def _fence() -> None:
    """Let all stores be seen before any load that follows: taking a lock is an atomic operation."""
    with _fence_lock:
        pass


class BrokenDriver(Exception):  # noqa: N818 - it is the driver that is in error
    """The driver broke a rule of the protocol; its device needs a reset."""


class Chain(NamedTuple):
    """One request: what the device may read and what it may write, in the guest's own memory."""

    head: int
    readable: Sequence[memoryview]
    writable: Sequence[memoryview]


@lru_cache(maxsize=32)
def _lanes(count: int) -> tuple[int, int, int]:
    """Return numbers that hold a value in each of ``count`` lanes of 128 bits: 1, and two masks.

    The masks are of a descriptor's address and of its length.
    """
    ones = ((1 << 128 * count) - 1) // ((1 << 128) - 1)
    return ones, ones * 0xFFFF_FFFF_FFFF_FFFF, ones * 0xFFFF_FFFF << 64


class Queue:
    """One queue of at most ``limit`` descriptors. Addresses are guest-physical."""

    def __init__(self, memory: GuestMemory, limit: int) -> None:
        self._memory = memory
        self.limit = limit
        self.interrupt: Callable[[], None] = lambda: None
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.size = self.limit
        self.enabled = False
        self.vector = 0xFFFF
        self.descriptors = self.driver = self.device = 0
        self._event_index = False
        self._next = self._used = self._signalled = 0

    def enable(self) -> None:
        """Take the addresses that the driver has set; BrokenDriver if they cannot be."""
        size = self.size
        if not 0 < size <= self.limit or size & size - 1:
            raise BrokenDriver(f"a queue of {size} descriptors")
        table = self._area(self.descriptors, _DESCRIPTOR * size, 16)
        self._table, self._table_at = table[0].map, table[1]
        driver = self._area(self.driver, 6 + 2 * size, 2)
        self._avail, self._avail_at = driver[0].words, driver[1] // 2
        device = self._area(self.device, 6 + 8 * size, 4)
        if device[0].read_only:
            raise BrokenDriver(f"a part of a queue at {self.device:#x}, which may not be written")
        self._used_words, self._used_at = device[0].words, device[1] // 2
        self._used_map, self._used_ring = device[0].map, device[1] + 4
        self._event_at = self._avail_at + 2 + size  # used_event, behind the available ring
        self._avail_event_at = self._used_at + 2 + 4 * size
        self.enabled = True

    def _area(self, address: int, length: int, alignment: int) -> tuple[Region, int]:
        if address % alignment:
            raise BrokenDriver(f"a part of a queue at {address:#x}, not aligned to {alignment}")
        try:
            return self._memory.find(address, length)
        except ConfigError as error:
            raise BrokenDriver(str(error)) from error

    def start(self, *, event_index: bool) -> None:
        """Begin; with ``event_index`` each side says from which index on it wants to be told."""
        self._event_index = event_index

    def pop(self) -> Chain | None:
        """Return the next request, None if there is none; BrokenDriver if it is malformed."""
        at = self._next
        ready = self._avail[self._avail_at + 1]
        if at == ready:
            return None
        # Those that were taken and not given back yet count: a device holds no more than fit.
        if ready - self._used & 0xFFFF > self.size:
            raise BrokenDriver(f"{ready - self._used & 0xFFFF} requests in a queue of {self.size}")
        self._next = at + 1 & 0xFFFF
        head = self._avail[self._avail_at + 2 + at % self.size]
        place = self._table_at + _DESCRIPTOR * head
        if head < self.size and self._table[place + 12] == _INDIRECT:
            return self._all_at_once(place, head) or self._walk(head)
        return self._walk(head)

    def _walk(self, head: int) -> Chain:
        """Follow a chain of descriptors, the last of which may lead to a table of more."""
        view, room = self._memory.view, self._memory.room
        readable: list[memoryview] = []
        writable: list[memoryview] = []
        table, base, count = self._table, self._table_at, self.size
        index, left = head, count
        indirect = False
        while True:
            if index >= count:
                raise BrokenDriver(f"descriptor {index} of {count}")
            if not left:
                raise BrokenDriver("a chain of descriptors in a loop, or too long")
            left -= 1
            address, length, flags, following = _unpack_descriptor(
                table, base + _DESCRIPTOR * index
            )
            try:
                if flags & _INDIRECT:
                    if indirect or flags & _NEXT or not length or length % _DESCRIPTOR:
                        raise BrokenDriver("a malformed indirect descriptor")
                    region, base = self._memory.find(address, length)
                    table, indirect, index = region.map, True, 0
                    count = min(length // _DESCRIPTOR, MAX_SEGMENTS)
                    left = min(count, MAX_SEGMENTS - len(readable) - len(writable))
                    continue
                if flags & _WRITE:
                    writable.append(room(address, length))
                elif writable:
                    raise BrokenDriver("a readable descriptor behind a writable one")
                else:
                    readable.append(view(address, length))
            except ConfigError as error:
                raise BrokenDriver(str(error)) from error
            if not flags & _NEXT:
                return Chain(head, readable, writable)
            index = following

    def _all_at_once(self, place: int, head: int) -> Chain | None:
        """Return the chain in a long table that is as drivers make it, None where there is none.

        That is in order, ending with something to be written, and all in one region. Thousands of
        bytes are looked at by a few operations on numbers as long as that, as a turn of a loop for
        each descriptor would take longer than the transfer itself.
        """
        address, length, kind, _ = _unpack_descriptor(self._table, place)
        count, odd = divmod(length, _DESCRIPTOR)
        if kind != _INDIRECT or odd or not _MANY <= count <= MAX_SEGMENTS:
            return None
        try:
            region, base = self._memory.find(address, length)
            table = region.map[base : base + length]
            region, _ = self._memory.find(int.from_bytes(table[:8], "little"), 0)
        except ConfigError:
            return None
        inner = count - 1
        flags = table[12::16]
        readable = flags.count(_NEXT)
        expected = b"\1" * readable + b"\3" * (inner - readable) + b"\2"
        in_order = table[14::16][:inner] == _LOW[:inner] and table[15::16][:inner] == _HIGH[:inner]
        plain = table[13::16].count(0) == count
        if flags != expected or not plain or not in_order or region.read_only:
            return None
        ones, address_mask, length_mask = _lanes(count)
        number = int.from_bytes(table, "little")
        addresses, lengths = number & address_mask, number & length_mask
        # The topmost bit of each lane goes when something is subtracted that is larger.
        guard = ones << 127
        ends = (guard | ones * (region.start + region.size)) - addresses - (lengths >> 64)
        starts = (guard | addresses) - ones * region.start
        if ends & starts & guard != guard:
            return None
        places = addresses + ones * (region.address - region.start) | lengths
        iovecs = places.to_bytes(len(table), "little")
        cut = _DESCRIPTOR * readable
        return Chain(head, IoVector(region, iovecs[:cut]), IoVector(region, iovecs[cut:]))

    def push(self, head: int, written: int) -> None:
        """Give a request back, into whose writable part ``written`` bytes were put."""
        at = self._used
        _pack_used(self._used_map, self._used_ring + 8 * (at % self.size), head, written)
        self._used = at + 1 & 0xFFFF
        self._used_words[self._used_at + 1] = self._used

    def push_all(self, done: Sequence[tuple[int, int]]) -> None:
        """Give requests back at once, each as ``push`` takes it: the driver sees all or none."""
        at, words = self._used, self._used_words
        for head, written in done:
            _pack_used(self._used_map, self._used_ring + 8 * (at % self.size), head, written)
            at += 1
        self._used = at & 0xFFFF
        words[self._used_at + 1] = self._used

    def rest(self) -> bool:
        """Ask to be told of the next request; return False if one has come meanwhile."""
        if self._event_index:
            self._used_words[self._avail_event_at] = self._next
            _fence()
        return self._avail[self._avail_at + 1] == self._next

    def signal(self) -> None:
        """Tell the driver of what was pushed, if it wants to know."""
        now, before = self._used, self._signalled
        if now == before:
            return
        self._signalled = now
        _fence()
        if self._event_index:
            wanted = self._avail[self._event_at]
            if now - wanted - 1 & 0xFFFF >= now - before & 0xFFFF:
                return
        elif self._avail[self._avail_at] & _NO_INTERRUPT:
            return
        self.interrupt()

    @property
    def position(self) -> int:
        """How many requests were taken, modulo 65536; to be set while nobody takes any."""
        return self._next

    @position.setter
    def position(self, taken: int) -> None:
        self._next = taken & 0xFFFF

    def host_addresses(self) -> tuple[int, int, int]:
        """Return where the three parts lie in this process: descriptors, available, used."""
        parts = (self.descriptors, self.driver, self.device)
        found = (self._memory.find(part, 1) for part in parts)
        first, second, third = (region.address + offset for region, offset in found)
        return first, second, third


def copy_in(target: Sequence[memoryview], data: bytes | memoryview) -> int:
    """Spread ``data`` over the guest's buffers; return how many bytes there was room for."""
    done = 0
    for piece in target:
        part = data[done : done + len(piece)]
        piece[: len(part)] = part
        done += len(part)
        if done == len(data):
            break
    return done


def copy_out(source: Sequence[memoryview], limit: int) -> bytes:
    """Return at most ``limit`` bytes of the guest's buffers."""
    data = bytearray()
    for piece in source:
        data += piece[: limit - len(data)]
        if len(data) >= limit:
            break
    return bytes(data)
