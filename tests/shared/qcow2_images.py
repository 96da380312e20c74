# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""qcow2 images as their specification has them, read without the code that is tested.

Source: QEMU, docs/interop/qcow2.rst.
"""

from __future__ import annotations

import struct
from collections import Counter
from typing import Iterator

COPIED, COMPRESSED, ZERO = 1 << 63, 1 << 62, 1
OFFSET = 0x00FF_FFFF_FFFF_FE00


class Reader:
    """The bytes of an image without snapshots and bitmaps."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        head = struct.unpack_from(">4sIQIIQIIQQI", data)
        assert head[0] == b"QFI\xfb"
        self.version, self.bits, self.size = head[1], head[4], head[5]
        self.cluster = 1 << self.bits
        self.l1_size, self.l1_at, self.table_at, self.table_clusters = head[7:11]

    def _numbers(self, offset: int, count: int) -> tuple[int, ...]:
        """Return 64-bit numbers; behind the end of the file are zeros."""
        data = self.data[offset : offset + 8 * count].ljust(8 * count, b"\0")
        return struct.unpack(f">{count}Q", data)

    def counts(self) -> Counter[int]:
        """Return how often each cluster counts as used."""
        counts: Counter[int] = Counter()
        each = self.cluster // 2
        table = self._numbers(self.table_at, self.table_clusters * self.cluster // 8)
        for index, block in enumerate(table):
            if block:
                data = self.data[block : block + self.cluster].ljust(self.cluster, b"\0")
                found = struct.unpack(f">{each}H", data)
                counts.update({index * each + at: one for at, one in enumerate(found) if one})
        return counts

    def entries(self) -> Iterator[tuple[int, int]]:
        """Yield every cluster of the disk that has an entry."""
        each = self.cluster // 8
        for index, table in enumerate(self._numbers(self.l1_at, self.l1_size)):
            if table:
                for at, entry in enumerate(self._numbers(table & OFFSET, each)):
                    if entry:
                        yield index * each + at, entry

    def _packed(self, entry: int) -> tuple[int, int]:
        shift = 62 - (self.bits - 8)
        place = entry & (1 << shift) - 1
        return place, (((entry & COMPRESSED - 1) >> shift) + 1) * 512 - place % 512

    def check(self) -> tuple[list[str], int]:
        """Return what is wrong, and how many clusters are used by nothing (leaks)."""
        wrong: list[str] = []
        used: Counter[int] = Counter()
        counts = self.counts()
        for what, offset, length, entry in self._used():
            if offset >= len(self.data):
                wrong.append(f"{what} at {offset:#x} of {len(self.data):#x}")
            used.update(range(offset >> self.bits, (offset + length - 1 >> self.bits) + 1))
            if entry is not None and not entry & COPIED:
                wrong.append(f"{what} is not marked as used once")
            if entry is not None and counts[offset >> self.bits] != 1:
                wrong.append(f"{what} is counted {counts[offset >> self.bits]} times")
        wrong += [
            f"cluster {one} is used {used[one]} times and counted {counts[one]} times"
            for one in used
            if used[one] > counts[one]
        ]
        return wrong, sum(counts[one] > used[one] for one in counts)

    def _used(self) -> Iterator[tuple[str, int, int, int | None]]:
        """Yield what takes room: its name, offset, length, and the entry that leads to it alone."""
        yield "the header", 0, 1, None
        yield "the L1 table", self.l1_at, 8 * self.l1_size, None
        yield "the refcount table", self.table_at, self.table_clusters << self.bits, None
        for block in self._numbers(self.table_at, self.table_clusters * self.cluster // 8):
            if block:
                yield "a refcount block", block, self.cluster, None
        for table in self._numbers(self.l1_at, self.l1_size):
            if table:
                yield "an L2 table", table & OFFSET, self.cluster, table
        for cluster, entry in self.entries():
            if entry & COMPRESSED:
                yield (f"compressed cluster {cluster}", *self._packed(entry), None)
            elif entry & OFFSET:
                yield f"cluster {cluster}", entry & OFFSET, self.cluster, entry

    def content(self, below: bytes = b"") -> bytes:
        """Return the disk's bytes over those of the disk below; no cluster is compressed."""
        disk = bytearray(below[: self.size].ljust(self.size, b"\0"))
        for cluster, entry in self.entries():
            assert not entry & COMPRESSED
            at = cluster << self.bits
            length = min(self.cluster, self.size - at)
            place = entry & OFFSET
            data = b"" if entry & ZERO else self.data[place : place + length]
            disk[at : at + length] = data.ljust(length, b"\0")
        return bytes(disk)
