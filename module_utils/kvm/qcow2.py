# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""qcow2 images as disks: a private image that grows, over others that are only read.

What is written goes to the file at once; what says where it lies is kept until a flush, which
writes things in this order and waits for the file after each step:

1. data, refcounts, empty tables and blocks;
2. entries of the refcount table;
3. entries of the L1 and L2 tables.

What these no longer refer to is used for something else only after that. So a process that is
killed, or a loss of power, leaves an image that is consistent and has everything that was flushed;
clusters that were allocated after the last flush may be lost to the file (leaks, which
``qemu-img check -r leaks`` gives back).

Locks are taken in this order: ``_writing`` by who changes where clusters lie, ``_commits`` by who
writes tables, ``_tables`` by who looks at or changes what is in memory of them.
"""

from __future__ import annotations

import errno
import os
import struct
import threading
from contextlib import suppress
from typing import Sequence

from .disk import SECTOR
from .errors import ConfigError, InputFileError
from .memory import total
from .qcow2_header import (
    AUTOCLEAR_AT,
    MOST_L1,
    SIZE,
    SIZE_AT,
    Header,
    check_writable,
    l1_entries,
    new_image,
    read_header,
)
from .qcow2_image import (
    COMPRESSED,
    COPIED,
    DATA,
    NOTHING,
    OFFSET,
    ZERO,
    ZEROS,
    Cursor,
    Image,
    damaged,
    open_file,
)
from .qcow2_tables import Piece, Refcounts

_REFCOUNT_CACHE = 1 << 20
_MOST_FREED = 8192  # clusters that wait for the next flush to be free
_MOST_PARTS = 1024  # IOV_MAX


class Qcow2(Image):
    """A qcow2 image with the images below it, as a `disk.Disk`; those below are only read."""

    def __init__(self, path: str, *, read_only: bool, backing: Sequence[str] | None = None) -> None:
        super().__init__(path, read_only=read_only, backing=backing)
        if self._header.autoclear and not read_only:
            try:
                # Nobody here keeps up what these features stand for, such as bitmaps.
                self._file.write([memoryview(bytes(8))], AUTOCLEAR_AT)
                self._file.flush()
            except OSError as error:
                self._close_files()
                raise InputFileError(f"cannot write to {path}: {error.strerror}") from error

    def _set_up(self, header: Header, end: int, level: int) -> None:
        super()._set_up(header, end, level)
        if self.read_only:
            return
        path, bits = self.path, self._bits
        check_writable(path, header, end)
        self._refcounts = Refcounts(self._file, header, end, _REFCOUNT_CACHE)
        for what, offset, length in (
            ("the header", 0, 1),
            ("the L1 table", header.l1_offset, 8 * len(self._l1)),
            ("the refcount table", header.table_offset, header.table_clusters << bits),
        ):
            # What counts as free would be overwritten.
            for cluster in range(offset >> bits, -(-(offset + length) >> bits)):
                if not self._refcounts.count(cluster):
                    raise InputFileError(
                        f"{path} is damaged: {what} counts as free; qemu-img check -r all may help"
                    )
        if any(entry and not entry & COPIED for entry in self._l1):
            raise InputFileError(
                f"{path} has L2 tables that are shared: qemu-img check -r all may repair it"
            )
        self._writing, self._commits = threading.Lock(), threading.Lock()
        self._changed: set[int] = set()  # entries of the L1 table
        # Clusters that nothing refers to any more, how often they were dropped; and those of which
        # that is in the file, with the calls that may have seen what referred to them.
        self._freed: dict[int, int] = {}
        self._leaving: list[tuple[set[object], dict[int, int]]] = []
        self._calls: set[object] = set()
        self._begun = self._good = 0  # commits, and the last one that succeeded
        self._lost = False  # the file did not take what was written: no order can be relied upon

    def read(self, buffers: Sequence[memoryview], offset: int, *, wait: bool) -> bool:
        """Fill the buffers; without ``wait`` only with what is in memory, tables included."""
        if self.read_only:
            return super().read(buffers, offset, wait=wait)
        call = object()
        self._calls.add(call)
        try:
            return super().read(buffers, offset, wait=wait)
        finally:
            self._calls.discard(call)

    # Writing.

    def write(self, buffers: Sequence[memoryview], offset: int) -> None:
        """Write the buffers."""
        left = total(buffers)
        self._check_writable(offset, left)
        cursor = Cursor(buffers)
        while left:
            done = self._overwrite(cursor, offset, left) or self._fill(cursor, offset, left)
            offset += done
            left -= done

    def _check_writable(self, offset: int, length: int) -> None:
        if self.read_only:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        if offset + length > self.size:
            raise OSError(errno.EINVAL, "behind the end of the disk")

    def _find(self, offset: int, length: int) -> tuple[int, int, int]:
        """Say what lies somewhere, however long that takes. Raises OSError."""
        found = self._extent(offset, length, wait=True)
        assert found is not None  # noqa: S101 - it waits
        return found

    def _overwrite(self, cursor: Cursor, offset: int, left: int) -> int:
        """Write where this image has clusters of its own; return how many bytes that were."""
        call = object()
        self._calls.add(call)
        try:
            kind, place, count = self._find(offset, left)
            if kind != DATA:
                return 0
            self._file.write(cursor.take(count), place)
            return count
        finally:
            self._calls.discard(call)

    def _fill(self, cursor: Cursor, offset: int, left: int) -> int:
        """Write to clusters that have to be allocated, as many as there are in a row.

        What is in them beside the new data is written too. Returns how many bytes were taken.
        """
        self._relieve()
        with self._writing:
            if self._find(offset, 1)[0] == DATA:  # another thread was faster
                return self._overwrite(cursor, offset, left)
            first, inside = offset >> self._bits, offset & self._mask
            wanted = -(-(inside + left) >> self._bits)
            with self._tables:
                place, clusters, fresh, taken = self._take(first, wanted)
            count = min(left, (clusters << self._bits) - inside)
            try:
                head = self._kept(offset - inside, inside, fresh=fresh)
                behind = offset + count
                tail = self._kept(behind, -behind & self._mask, fresh=fresh)
                start = place if head else place + inside
                parts = [*head, *cursor.take(count), *tail]
                for at in range(0, len(parts), _MOST_PARTS):
                    some = parts[at : at + _MOST_PARTS]
                    self._file.write(some, start)
                    start += sum(map(len, some))
            except OSError:
                with self._tables:
                    self._give_back(place, taken)
                raise
            with self._tables:
                self._link(first, place, clusters)
            return count

    def _kept(self, offset: int, length: int, *, fresh: bool) -> list[memoryview]:
        """Return what stays of a cluster that gets a new place, nothing where zeros are already."""
        if not length or (fresh and self._find(offset, length) == (ZEROS, 0, length)):
            return []
        data = memoryview(bytearray(length))
        self._read([data], offset, length, wait=True)
        return [data]

    # Allocation; ``_tables`` is held, and ``_writing``.

    def _own(self, cluster: int) -> Piece:
        """Return the piece with a cluster's entry, of an L2 table that is made if there is none."""
        if self._lost:
            raise OSError(errno.EIO, "the file has lost what was written to it")
        table = cluster >> self._table_bits
        if not self._l1[table]:
            place = self._allocate(1)[0]
            try:
                self._file.write([memoryview(bytes(self._cluster))], place)
            except OSError:
                self._give_back(place, 1)
                raise
            self._l1[table] = place | COPIED
            self._changed.add(table)
        return self._load(cluster >> self._piece_bits)

    def _allocate(self, wanted: int) -> tuple[int, int, bool]:
        """Take clusters as `Refcounts.allocate` does; return the offset of the first."""
        first, number, fresh = self._refcounts.allocate(wanted)
        self._end = self._refcounts.end
        return first << self._bits, number, fresh

    def _give_back(self, place: int, clusters: int) -> None:
        """Count clusters that were just allocated as free again."""
        for cluster in range(place >> self._bits, (place >> self._bits) + clusters):
            self._refcounts.drop(cluster)

    def _take(self, cluster: int, wanted: int) -> tuple[int, int, bool, int]:
        """Find a place for up to ``wanted`` clusters from ``cluster`` on that have none.

        Returns the place, for how many clusters it is, whether nothing but zeros is there, and how
        many clusters were allocated: none where the image has set some aside for this.
        """
        piece = self._own(cluster)
        entries, index = piece.entries, cluster & self._piece_mask
        entry, most = entries[index], min(wanted, self._piece_mask + 1 - index)
        number = 1
        if self._is_zero(entry) and entry & COPIED and entry & OFFSET:
            while number < most and entries[index + number] == entry + (number << self._bits):
                number += 1
            if (entry & self._place) + (number - 1 << self._bits) >= self._end:
                raise damaged("a cluster behind the file's end")
            return entry & self._place, number, False, 0
        while number < most and not entries[index + number] & COPIED:
            number += 1
        place, number, fresh = self._allocate(number)
        return place, number, fresh, number

    def _link(self, cluster: int, place: int, clusters: int) -> None:
        """Let the entries of clusters lead to their new place."""
        piece = self._own(cluster)
        index = cluster & self._piece_mask
        for at in range(index, index + clusters):
            self._replace(piece, at, place | COPIED)
            place += self._cluster
        self._pieces.dirty.add(cluster >> self._piece_bits)

    def _replace(self, piece: Piece, index: int, entry: int) -> None:
        """Change an entry; what only the old one referred to is free after the next flush."""
        old = piece.entries[index]
        piece.entries[index] = entry
        if old & COMPRESSED:
            place, length = self._packed_place(old)
        elif old & self._place and (old ^ entry) & self._place:
            place, length = old & self._place, 1
        else:
            return
        for cluster in range(place >> self._bits, (place + length - 1 >> self._bits) + 1):
            self._freed[cluster] = self._freed.get(cluster, 0) + 1

    # Forgetting.

    def discard(self, offset: int, length: int) -> None:
        """Give whole clusters back; zeros are read there, where this image can say so."""
        self._check_writable(offset, length)
        self._forget(*self._whole(offset, length), zero=False, unmap=True)

    def zero(self, offset: int, length: int, *, unmap: bool) -> None:
        """Let zeros be read there; ``unmap`` gives whole clusters back."""
        self._check_writable(offset, length)
        first, last = self._whole(offset, length)
        below = 0 if self._base is None else self._base.size
        if first >= last or (self._header.version < 3 and first << self._bits < below):
            self._write_zeros(offset, length)  # version 2 has no other way to hide what is below
            return
        self._write_zeros(offset, (first << self._bits) - offset)
        end = min(last << self._bits, offset + length)
        self._write_zeros(end, offset + length - end)
        if self._header.version < 3 and not unmap:
            self._write_zeros(first << self._bits, end - (first << self._bits))
        else:
            self._forget(first, last, zero=True, unmap=unmap)

    def _whole(self, offset: int, length: int) -> tuple[int, int]:
        """Return the clusters that lie in a range as a whole: the first, the first behind."""
        end = offset + length
        last = -(-end >> self._bits) if end == self.size else end >> self._bits
        return -(-offset >> self._bits), last

    def _write_zeros(self, offset: int, length: int) -> None:
        """Write zeros where something else is."""
        while length > 0:
            kind, _, count = self._find(offset, length)
            if kind != ZEROS:
                count = min(count, len(NOTHING))
                self.write([NOTHING[:count]], offset)
            offset += count
            length -= count

    def _forget(self, cluster: int, last: int, *, zero: bool, unmap: bool) -> None:
        """Drop the clusters from ``cluster`` to before ``last``; with ``zero`` zeros are there."""
        below = 0 if self._base is None else -(-self._base.size >> self._bits)
        while cluster < last:
            empty = not self._l1[cluster >> self._table_bits] and not (zero and cluster < below)
            size = 1 << self._table_bits if empty else self._piece_mask + 1
            stop = min(last, (cluster & -size) + size)
            if not empty:
                self._relieve()
                with self._writing, self._tables:
                    self._forget_some(cluster, stop, below, zero=zero, unmap=unmap)
            cluster = stop

    def _forget_some(self, cluster: int, stop: int, below: int, *, zero: bool, unmap: bool) -> None:
        """Drop clusters whose entries are in one piece."""
        piece = self._own(cluster)
        zeros = self._header.version >= 3
        for one in range(cluster, stop):
            index = one & self._piece_mask
            entry = piece.entries[index]
            covered = one < below
            if (not entry and not (zero and covered)) or (covered and not zeros):
                continue
            new = ZERO if covered else 0
            if not unmap and not entry & COMPRESSED and entry & self._place:
                new = entry | ZERO
            if new != entry:
                self._replace(piece, index, new)
                self._pieces.dirty.add(one >> self._piece_bits)

    # Growing.

    def grow(self, size: int) -> None:
        """Let the disk have ``size`` bytes; what is new of it is zeros. Nobody else may use it.

        The new size is written last, at once and after all else. The L1 table grows where it is,
        within its last cluster. Raises InputFileError where it cannot, OSError.
        """
        header, before = self._header, self.size
        entries = l1_entries(size, self._bits)
        whole = -(-8 * header.l1_size >> self._bits) << self._bits
        if 8 * entries > min(whole, MOST_L1):
            raise InputFileError(
                f"{self.path}: its L1 table has no room for a disk of {size} bytes: "
                "qemu-img resize moves it"
            )
        if size <= before:
            return
        # What the image below has there, or a shorter disk had before, must not be seen.
        added = 8 * (entries - len(self._l1))
        if added:
            self._file.write([memoryview(bytes(added))], header.l1_offset + 8 * len(self._l1))
            self._l1.extend([0] * (added // 8))
        self.size = size
        below = 0 if self._base is None else min(self._base.size, size)
        end = max(below, min(before | self._mask, size - 1) + 1)
        self.zero(before, end - before, unmap=True)
        self.flush()
        text = SIZE.pack(size, 0, max(entries, header.l1_size))
        self._file.write([memoryview(text)], SIZE_AT)
        self._sync()
        self._header = header._replace(size=size, l1_size=max(entries, header.l1_size))

    # Making it last.

    def flush(self) -> None:
        """Let everything that was written survive a loss of power."""
        if self.read_only:
            return
        before = self._begun
        with self._commits:
            # One that began after this call has made all of it last already.
            if self._good <= before:
                self._commit()

    def _relieve(self) -> None:
        """Write tables if there is too much in memory that waits for that."""
        crowded = self._pieces.crowded() or self._refcounts.pieces.crowded()
        if crowded or len(self._freed) > _MOST_FREED:
            self.flush()

    def _sync(self) -> None:
        try:
            self._file.flush()
        except OSError:
            # The kernel reports a failure once, and what was not written may be gone (fsync(2)).
            self._lost = True
            raise

    def _commit(self) -> None:
        """Write what has changed in the tables, in the order that is safe; ``_commits`` is held."""
        if self._lost:
            raise OSError(errno.EIO, "the file has lost what was written to it")
        self._begun += 1
        number, pieces = self._begun, self._pieces
        with self._tables:
            counts = self._refcounts.write()
            tables = pieces.changes()
            place = self._header.l1_offset
            tables += [(place + 8 * one, struct.pack(">Q", self._l1[one])) for one in self._changed]
            pieces.pinned, pieces.dirty = pieces.dirty, set()
            changed, self._changed = self._changed, set()
            freed, self._freed = self._freed, {}
            calls = set(self._calls)
        try:
            self._sync()
            for writes in filter(None, (counts.writes, tables)):
                for place, data in writes:
                    self._file.write([memoryview(data)], place)
                self._sync()
        except BaseException:  # all of it is still to be done
            with self._tables:
                self._refcounts.undo(counts)
                pieces.dirty |= pieces.pinned
                pieces.pinned = set()
                self._changed |= changed
                for cluster, times in freed.items():
                    self._freed[cluster] = self._freed.get(cluster, 0) + times
            raise
        pieces.pinned = set()
        for first, clusters in counts.old:
            freed.update(dict.fromkeys(range(first, first + clusters), 1))
        self._good = number
        self._leaving.append((calls, freed))
        self._release()

    def _release(self) -> None:
        """Let clusters be used again that nobody can be reading from or writing to any more."""
        waiting, self._leaving = self._leaving, []
        for calls, freed in waiting:
            if calls & self._calls:
                self._leaving.append((calls & self._calls, freed))
                continue
            with suppress(OSError):  # what could not be counted is lost to the file, no more
                with self._tables:
                    count = self._refcounts.count
                    gone = [one for one, times in freed.items() if 0 < count(one) <= times]
                self._punch(sorted(gone))
                with self._tables:
                    for one, times in freed.items():
                        self._refcounts.drop(one, times)

    def _punch(self, clusters: list[int]) -> None:
        """Give the space of clusters back to the host, as far as it takes it."""
        start = 0
        for at in range(1, len(clusters) + 1):
            if at == len(clusters) or clusters[at] != clusters[at - 1] + 1:
                with suppress(OSError):
                    place, length = clusters[start] << self._bits, at - start << self._bits
                    self._file.discard(place, length)
                start = at

    def close(self) -> None:
        """Write what is in memory, as far as that is possible, and close the images."""
        if not self.read_only:
            with suppress(OSError):  # a guest that had to know has flushed
                self.flush()
                with self._tables:
                    self._refcounts.write()  # of what the flush made free
        self._close_files()

    def _close_files(self) -> None:
        if self._base is not None:
            self._base.close()
        self._file.close()


def create(path: str, size: int = 0, backing: str = "", backing_format: str = "raw") -> None:
    """Make an image of ``size`` bytes at ``path``, where nothing may be: whole, or not at all.

    It stands on ``backing`` (relative to its own folder, or absolute) of the format ``raw`` or
    ``qcow2``; its size is taken if none is given. Version 3, clusters of 64 KiB, mode 0600. Who
    opens it has to name a backing file that is not beside it. Raises InputFileError, ConfigError.
    """
    folder = os.path.dirname(path) or "."
    if backing:
        if backing_format not in {"raw", "qcow2"}:
            raise ConfigError(f"expected a backing file in raw or qcow2, not {backing_format!r}")
        if "\0" in backing or ":" in backing.split("/", 1)[0]:
            raise ConfigError(f"the backing file {backing!r} would not be taken for a path")
        below = open_file(os.path.realpath(os.path.join(folder, backing)), read_only=True)
        try:
            if backing_format == "qcow2":
                below.size = read_header(below, below.size).size
        finally:
            below.close()
        size = size or below.size
    size = -(-size // SECTOR) * SECTOR
    writes, length = new_image(size, backing, backing_format)
    unfinished = f"{path}.{os.getpid()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(unfinished, flags, 0o600)
        try:
            try:
                for place, data in writes:
                    os.pwrite(descriptor, data, place)
                os.ftruncate(descriptor, length)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.link(unfinished, path)  # a rename that takes nothing away
        finally:
            os.unlink(unfinished)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise InputFileError(f"cannot make {path}: {error.strerror}") from error


def grow(path: str, size: int, backing: Sequence[str] | None = None) -> None:
    """Let the image at ``path`` be a disk of ``size`` bytes, what is new of it zeros.

    ``backing`` names the files that may lie below, as for a `Qcow2`. An image that is killed over
    has its former size, and at most leaks. Raises InputFileError, ConfigError (it is in use).
    """
    image = Qcow2(path, read_only=False, backing=backing)
    try:
        image.grow(-(-size // SECTOR) * SECTOR)
    except OSError as error:
        raise InputFileError(f"cannot grow {path}: {error.strerror}") from error
    finally:
        image.close()
