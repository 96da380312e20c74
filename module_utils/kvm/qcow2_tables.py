# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The tables of a qcow2 image in memory (QEMU, docs/interop/qcow2.rst, "Host cluster management").

Tables are held in pieces, as many as the limit allows. What was changed stays until it is written,
and it is written when what it refers to survives a loss of power: `qcow2` says when that is.
"""

from __future__ import annotations

import errno
import os
import sys
from array import array
from typing import TYPE_CHECKING, NamedTuple

from .errors import InputFileError
from .qcow2_header import MOST_TABLE, TABLE_PLACE, TABLE_PLACE_AT, Header

if TYPE_CHECKING:
    from .disk import Raw

PIECE = 4096  # bytes of a table that are held and written together, at most
_RESERVED = 0x1FF  # of an entry of the refcount table
_SWAP = sys.byteorder == "little"


def decode(code: str, data: bytes | bytearray) -> array[int]:
    """Return numbers that a file holds in big endian."""
    numbers = array(code, bytes(data))
    if _SWAP:
        numbers.byteswap()
    return numbers


def encode(numbers: array[int]) -> bytes:
    """Return numbers as a file holds them."""
    return decode(numbers.typecode, numbers.tobytes()).tobytes()


def read_table(file: Raw, offset: int, entries: int) -> array[int]:
    """Return a table of 64-bit entries; InputFileError if it cannot be read."""
    data = bytearray(8 * entries)
    try:
        file.read([memoryview(data)], offset, wait=True)
    except OSError as error:
        raise InputFileError(f"cannot read {file.path}: {error.strerror}") from error
    return decode("Q", data)


class Piece:
    """A part of a table: ``place`` is its offset in the file."""

    __slots__ = ("entries", "place", "used")

    def __init__(self, entries: array[int], place: int) -> None:
        self.entries = entries
        self.place = place
        self.used = True


class Pieces:
    """The pieces of tables of one kind by their numbers, at most ``limit`` bytes and what is dirty.

    ``code`` is the type of an entry, as in the module array. `get` may be called by any thread,
    everything else by one at a time.
    """

    def __init__(self, file: Raw, code: str, size: int, limit: int) -> None:
        self._file = file
        self._code = code
        self.size = size  # bytes of a piece
        self._most = max(limit // size, 8)
        self._pieces: dict[int, Piece] = {}
        self.get = self._pieces.get
        self.dirty: set[int] = set()
        self.pinned: set[int] = set()  # being written, which takes more than a moment

    def load(self, number: int, place: int) -> Piece:
        """Return a piece, read from ``place`` if it is not held. Raises OSError."""
        piece = self._pieces.get(number)
        if piece is None:
            data = bytearray(self.size)
            self._file.read([memoryview(data)], place, wait=True)
            piece = self.add(number, Piece(decode(self._code, data), place))
        piece.used = True
        return piece

    def empty(self, number: int, place: int) -> None:
        """Hold a piece of nothing but zeros, which are what the file has there."""
        self.add(number, Piece(decode(self._code, bytes(self.size)), place))

    def add(self, number: int, piece: Piece) -> Piece:
        """Hold a piece; others that were not used lately make room."""
        pieces = self._pieces
        for _ in range(len(pieces)):
            if len(pieces) < self._most:
                break
            oldest = next(iter(pieces))
            candidate = pieces.pop(oldest)
            if candidate.used or oldest in self.dirty or oldest in self.pinned:
                candidate.used = False
                pieces[oldest] = candidate
        pieces[number] = piece
        return piece

    def crowded(self) -> bool:
        """Return whether so much is dirty that it should be written."""
        return 2 * (len(self.dirty) + len(self.pinned)) > self._most

    def changes(self) -> list[tuple[int, bytes]]:
        """Return where what is dirty is to be written."""
        pieces = (self._pieces[number] for number in self.dirty)
        return [(piece.place, encode(piece.entries)) for piece in pieces]


class Changes(NamedTuple):
    """What is to be written of the refcount table, once blocks and counts are in the file for good.

    ``blocks`` are the entries that are new, ``old`` the places (cluster, number of clusters) of
    tables that no longer are one after that.
    """

    writes: list[tuple[int, bytes]]
    blocks: list[int]
    old: list[tuple[int, int]]


class Refcounts:
    """How often each cluster of a writable image is used; finds free ones.

    A method is called by one thread at a time. Clusters are numbered by their place in the file.
    """

    def __init__(self, file: Raw, header: Header, end: int, limit: int) -> None:
        self._file = file
        bits = self._bits = header.cluster_bits
        self._block_bits = bits - 1  # counts have two bytes
        self._place, self._clusters = header.table_offset, header.table_clusters
        self._table = read_table(file, self._place, self._clusters << bits - 3)
        for entry in self._table:
            if entry & _RESERVED or entry & (1 << bits) - 1 or entry >= end:
                raise InputFileError(
                    f"{file.path} is damaged: a refcount block at {entry:#x} of {end:#x}; "
                    "qemu-img check -r all may repair it"
                )
        size = min(PIECE, 1 << bits)
        self.pieces = Pieces(file, "H", size, limit)
        self._mask = size // 2 - 1
        self._piece_bits = (size // 2).bit_length() - 1
        self.end = end  # bytes that the file has or that were given away; behind that is nothing
        self._next = 0  # below it all is in use
        self._blocks: list[int] = []  # entries of the table that are not in the file yet
        self._old: list[tuple[int, int]] = []
        self._moved = False

    def _piece_place(self, cluster: int) -> int:
        inside = cluster & (1 << self._block_bits) - 1
        return self._table[cluster >> self._block_bits] + 2 * (inside & ~self._mask)

    def _piece(self, cluster: int) -> Piece:
        """Return the piece with the count of a cluster that has a block."""
        return self.pieces.load(cluster >> self._piece_bits, self._piece_place(cluster))

    def count(self, cluster: int) -> int:
        """Return how often a cluster is used."""
        block = cluster >> self._block_bits
        if block >= len(self._table) or not self._table[block]:
            return 0
        return self._piece(cluster).entries[cluster & self._mask]

    def drop(self, cluster: int, times: int = 1) -> None:
        """Count a cluster as used less often; what is not used any more is free."""
        count = self.count(cluster)
        if count:
            left = max(count - times, 0)
            self._piece(cluster).entries[cluster & self._mask] = left
            self.pieces.dirty.add(cluster >> self._piece_bits)
            if not left:
                self._next = min(self._next, cluster)

    def allocate(self, wanted: int) -> tuple[int, int, bool]:
        """Take up to ``wanted`` free clusters in a row; raises OSError if there are none.

        Returns the first, how many, and whether they are behind all that was ever written, where
        zeros are.
        """
        while True:
            first = self._next
            block = first >> self._block_bits
            if block >= len(self._table):
                self._grow()
                continue
            if not self._table[block]:
                self._extend(0)
                continue
            piece = self._piece(first)
            at, behind = first & self._mask, -(-self.end >> self._bits)
            if first < behind:
                at = _free(piece.entries, at)
                if at < 0:
                    self._next = (first | self._mask) + 1
                    continue
                first = first & ~self._mask | at
            break
        entries, number = piece.entries, 0
        # Nobody's data are behind the end, whatever is counted there.
        while number < wanted and at <= self._mask:
            if entries[at] and first + number < behind:
                break
            entries[at] = 1
            at += 1
            number += 1
        self.pieces.dirty.add(first >> self._piece_bits)
        self._next = first + number
        self.end = max(self.end, self._next << self._bits)
        return first, number, first >= behind

    def _extend(self, wanted: int) -> int:
        """Take ``wanted`` clusters in a row at the first place that has no refcount block.

        The blocks that are missing from there on come first. Returns the first of the clusters.
        """
        start, bits = self._next, self._block_bits
        missing: list[int] = []
        while True:
            stop = start + max(len(missing) + wanted, 1)
            needed = range(start >> bits, (stop - 1 >> bits) + 1)
            found = [block for block in needed if not self._table[block]]
            if found == missing:
                break
            missing = found
        zeros = memoryview(bytes(1 << self._bits))
        for number in range(len(missing)):
            self._file.write([zeros], start + number << self._bits)
        for place, block in enumerate(missing, start):
            self._table[block] = place << self._bits
        self._blocks += missing
        # All of it is described by the new blocks, so that nothing has to be read, which can fail.
        for number in range(start >> self._piece_bits, (stop - 1 >> self._piece_bits) + 1):
            self.pieces.empty(number, self._piece_place(number << self._piece_bits))
            self.pieces.dirty.add(number)
        for one in range(start, stop):
            self._piece(one).entries[one & self._mask] = 1
        self._next = stop
        self.end = max(self.end, stop << self._bits)
        return start + len(missing)

    def _grow(self) -> None:
        """Make room for twice as many blocks, in a table at another place."""
        before, clusters = len(self._table), 2 * self._clusters
        if clusters << self._bits > MOST_TABLE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._table.extend(array("Q", bytes(8 * before)))
        try:
            first = self._extend(clusters)
        except OSError:
            del self._table[before:]
            raise
        self._old.append((self._place >> self._bits, self._clusters))
        self._place, self._clusters, self._moved = first << self._bits, clusters, True

    def write(self) -> Changes:
        """Write all counts and, if it has a new place, the table; return what is to follow."""
        for place, data in self.pieces.changes():
            self._file.write([memoryview(data)], place)
        if self._moved:
            self._file.write([memoryview(encode(self._table))], self._place)
            writes = [(TABLE_PLACE_AT, TABLE_PLACE.pack(self._place, self._clusters))]
        else:
            writes = [
                (self._place + 8 * block, encode(self._table[block : block + 1]))
                for block in self._blocks
            ]
        changes = Changes(writes, self._blocks, self._old)
        self.pieces.dirty.clear()
        self._blocks, self._old, self._moved = [], [], False
        return changes

    def undo(self, changes: Changes) -> None:
        """Take back what could not be written, for the next time."""
        self._blocks += changes.blocks
        self._old += changes.old
        self._moved = self._moved or bool(changes.old)


def _free(entries: array[int], start: int) -> int:
    """Return the index of the first count of zero from ``start`` on, -1 if there is none."""
    data = entries.tobytes()
    at = data.find(b"\0\0", 2 * start)
    while at & 1 and at > 0:
        at = data.find(b"\0\0", at + 1)
    return at >> 1
