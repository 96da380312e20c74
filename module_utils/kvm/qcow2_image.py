# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""qcow2 images that are read, with the images below them (QEMU, docs/interop/qcow2.rst).

Versions 2 and 3, clusters of 512 bytes to 2 MiB, some of which may be compressed with zlib or be
zeros. Nothing in an image is believed: what lies outside of the file or means nothing fails the
request that comes upon it. Entries of L2 tables that are in memory are read without a lock; what is
not is loaded with ``_tables`` held, which nobody holds while data are on their way.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING, Iterable, Sequence

from .disk import SECTOR, Raw
from .errors import ConfigError, InputFileError
from .memory import total
from .qcow2_header import Header, read_header
from .qcow2_tables import PIECE, Piece, Pieces, read_table

if TYPE_CHECKING:
    from .disk import Disk

COPIED, COMPRESSED, ZERO = 1 << 63, 1 << 62, 1
OFFSET = 0x00FF_FFFF_FFFF_FE00
# What lies somewhere: data of this image alone, data that others may use too, zeros, what the
# image below has, a compressed cluster.
DATA, SHARED, ZEROS, BELOW, PACKED = range(5)

_ALL = (1 << 64) - 1
_LONGEST_CHAIN = 16
_CACHE = 2 << 20  # bytes of L2 tables in memory; half of it for the image below, and so on
_LEAST_CACHE = 128 << 10
_INFLATED = 1 << 20  # bytes of clusters that are kept uncompressed, but one at least
NOTHING = memoryview(bytes(64 << 10))


def damaged(what: str) -> OSError:
    """Return the error of a request that comes upon something wrong."""
    return OSError(errno.EIO, f"the image is damaged: {what}")


class Cursor:
    """Takes buffers off a list, byte by byte."""

    def __init__(self, buffers: Sequence[memoryview]) -> None:
        self._rest = list(reversed(buffers))

    def take(self, count: int) -> list[memoryview]:
        """Return the next ``count`` bytes."""
        rest, taken = self._rest, []
        while count:
            piece = rest.pop()
            if len(piece) > count:
                rest.append(piece[count:])
                piece = piece[:count]
            taken.append(piece)
            count -= len(piece)
        return taken


def _clear(buffers: Iterable[memoryview]) -> None:
    for piece in buffers:
        for at in range(0, len(piece), len(NOTHING)):
            part = piece[at : at + len(NOTHING)]
            part[:] = NOTHING[: len(part)]


class Image:
    """A qcow2 image with the images below it, as a `disk.Disk` that is only read.

    ``backing`` names the files that may lie below; without it they have to be beside the image that
    names them. ``above`` are the files (device, inode) of the images that stand on this one.

    Raises InputFileError for what cannot be used, ConfigError for what is in use or not allowed.
    """

    def __init__(
        self,
        path: str,
        *,
        read_only: bool = True,
        backing: Sequence[str] | None = None,
        above: Sequence[tuple[int, int]] = (),
    ) -> None:
        self.path = path
        self.read_only = read_only
        self._file = open_file(path, read_only=read_only)
        self._base: Disk | None = None
        try:
            header = read_header(self._file, self._file.size)
            self._set_up(header, self._file.size, len(above))
            if header.backing:
                found = os.fstat(self._file.fd)
                chain = [*above, (found.st_dev, found.st_ino)]
                self._base = self._open_base(header, backing, chain)
        except OSError as error:
            self._close_files()
            raise InputFileError(f"cannot use {path}: {error.strerror}") from error
        except BaseException:
            self._close_files()
            raise

    def _set_up(self, header: Header, end: int, level: int) -> None:
        """Read what has to be in memory, and check it."""
        path, bits = self.path, header.cluster_bits
        self.size = header.size // SECTOR * SECTOR
        if not self.size:
            raise InputFileError(f"{path} is a disk of {header.size} bytes")
        self._header = header
        self._bits, self._cluster = bits, 1 << bits
        self._mask = self._cluster - 1
        self._table_bits = bits - 3
        # The bits of a cluster's entry that are zero where it is nothing but data.
        self._special = _ALL & ~(COPIED | OFFSET & ~self._mask)
        self._place = OFFSET & ~self._mask
        self._end = end  # bytes of the file
        self._l1 = read_table(self._file, header.l1_offset, header.l1_needed)
        for entry in self._l1:
            if entry & self._special or entry & OFFSET >= end:
                raise InputFileError(f"{path} is damaged: an L2 table at {entry:#x} of {end:#x}")
        size = min(PIECE, self._cluster)
        self._pieces = Pieces(self._file, "Q", size, max(_CACHE >> level, _LEAST_CACHE))
        self._get = self._pieces.get
        self._piece_bits = size.bit_length() - 4
        self._piece_mask = size // 8 - 1
        self._span_bits = bits + self._piece_bits  # of what a piece of a table is about
        self._inflated: dict[int, bytes] = {}
        self._inflating = threading.Lock()
        self._tables = threading.Lock()

    # The images below.

    def _open_base(
        self, header: Header, allowed: Sequence[str] | None, above: list[tuple[int, int]]
    ) -> Disk:
        name, form = header.backing, header.backing_format
        if "\0" in name or ":" in name.split("/")[0]:
            raise InputFileError(f"{self.path}: the backing file {name!r} is no path of a file")
        if form not in {"raw", "qcow2"}:
            told = f"of the format {form!r}" if form else "without a format"
            raise InputFileError(
                f"{self.path} names the backing file {name!r} {told}: expected raw or qcow2; "
                "qemu-img rebase -u -F states it"
            )
        folder = os.path.dirname(self.path) or "."
        path = os.path.realpath(os.path.join(folder, name))
        if allowed is None:
            if os.path.dirname(path) != os.path.realpath(folder):
                raise ConfigError(
                    f"{self.path} stands on {path!r}, which is not beside it",
                    f"if that is meant to be so, name it: backing={path}",
                )
        elif path not in map(os.path.realpath, allowed):
            raise ConfigError(f"{self.path} stands on {path!r}, not on {', '.join(allowed)}")
        if len(above) >= _LONGEST_CHAIN:
            raise InputFileError(f"{self.path}: a chain of more than {_LONGEST_CHAIN} images")
        with suppress(OSError):  # said better by whoever opens it
            found = os.stat(path)
            if (found.st_dev, found.st_ino) in above:
                raise InputFileError(f"{self.path} stands on {path!r}, which stands on it")
        return _open_below(path, form, allowed, above)

    # Where things lie.

    def _load(self, number: int) -> Piece:
        """Return the piece of an L2 table that there is; ``_tables`` is held. Raises OSError."""
        bits = self._table_bits - self._piece_bits
        inside = number & (1 << bits) - 1
        place = (self._l1[number >> bits] & OFFSET) + inside * self._pieces.size
        if place + self._pieces.size > self._end:
            raise damaged("an L2 table ends behind the file's end")
        return self._pieces.load(number, place)

    def _extent(self, offset: int, length: int, *, wait: bool) -> tuple[int, int, int] | None:
        """Say what lies at ``offset``: its kind, its place, its bytes in a row up to ``length``.

        None if that would wait. Raises OSError where the image is damaged or cannot be read.
        """
        cluster = offset >> self._bits
        number = cluster >> self._piece_bits
        piece = self._get(number)
        if piece is None:
            table = cluster >> self._table_bits
            if not self._l1[table]:
                there = (table + 1 << self._table_bits + self._bits) - offset
                return self._nothing(offset, min(there, length))
            if not wait:
                return None
            with self._tables:
                piece = self._load(number)
        piece.used = True
        index = cluster & self._piece_mask
        entry = piece.entries[index]
        inside = offset & self._mask
        count = self._cluster - inside
        plain = not entry & self._special and entry & OFFSET
        if count >= length:
            count = length
        elif not entry & COMPRESSED:
            step = self._cluster if plain else 0
            count = min(count + self._following(piece, index, length - count, step), length)
        if not plain:
            return self._unusual(entry, offset, count)
        place = (entry & OFFSET) + inside
        if place + count > self._end and (place + count - 1) & ~self._mask >= self._end:
            raise damaged("a cluster behind the file's end")
        return DATA if entry & COPIED else SHARED, place, count

    def _following(self, piece: Piece, index: int, length: int, step: int) -> int:
        """Return the bytes behind a cluster whose entries go on by ``step``."""
        entries, count = piece.entries, 0
        expected = entries[index] + step
        for at in range(index + 1, self._piece_mask + 1):
            if count >= length or entries[at] != expected:
                break
            expected += step
            count += self._cluster
        return count

    def _nothing(self, offset: int, count: int) -> tuple[int, int, int]:
        """Say what lies where this image has nothing."""
        if self._base is None or offset >= self._base.size:
            return ZEROS, 0, count
        return BELOW, 0, min(count, self._base.size - offset)

    def _unusual(self, entry: int, offset: int, count: int) -> tuple[int, int, int]:
        """Say what an entry means that does not stand for data."""
        if not entry:
            return self._nothing(offset, count)
        if entry & COMPRESSED and not entry & COPIED:
            return PACKED, entry, count
        if self._is_zero(entry):
            return ZEROS, 0, count
        raise damaged(f"the entry {entry:#x} in an L2 table")

    def _is_zero(self, entry: int) -> bool:
        return entry & self._special == ZERO and self._header.version >= 3

    # Reading.

    def read(self, buffers: Sequence[memoryview], offset: int, *, wait: bool) -> bool:
        """Fill the buffers; without ``wait`` only with what is in memory, tables included."""
        length = total(buffers)
        if offset + length > self.size:
            raise OSError(errno.EINVAL, "behind the end of the disk")
        piece = self._get(offset >> self._span_bits)
        if piece is not None:  # most requests lie in one cluster that is data: a short way for them
            entry = piece.entries[offset >> self._bits & self._piece_mask]
            inside = offset & self._mask
            place = (entry & OFFSET) + inside
            known = place > inside and not entry & self._special
            if known and inside + length <= self._cluster and place + length <= self._end:
                piece.used = True
                return self._file.read(buffers, place, wait=wait)
        return self._read(buffers, offset, length, wait=wait)

    def _read(self, buffers: Sequence[memoryview], offset: int, length: int, *, wait: bool) -> bool:
        cursor = None
        while length:
            found = self._extent(offset, length, wait=wait)
            if found is None:
                return False
            kind, place, count = found
            if cursor is None:
                if count == length:
                    return self._fetch(kind, place, buffers, offset, wait=wait)
                cursor = Cursor(buffers)
            if not self._fetch(kind, place, cursor.take(count), offset, wait=wait):
                return False
            offset += count
            length -= count
        return True

    def _fetch(
        self, kind: int, place: int, buffers: Sequence[memoryview], offset: int, *, wait: bool
    ) -> bool:
        """Read one extent."""
        if kind <= SHARED:
            return self._file.read(buffers, place, wait=wait)
        if kind == BELOW and self._base is not None:
            return self._base.read(buffers, offset, wait=wait)
        if kind == ZEROS:
            _clear(buffers)
            return True
        data = self._inflate(place, wait=wait)
        if data is None:
            return False
        at = offset & self._mask
        for piece in buffers:
            piece[:] = data[at : at + len(piece)]
            at += len(piece)
        return True

    def _packed_place(self, entry: int) -> tuple[int, int]:
        """Return where the bytes of a compressed cluster are, and how many at most."""
        shift = 62 - (self._bits - 8)
        place = entry & (1 << shift) - 1
        sectors = (entry & COMPRESSED - 1) >> shift
        return place, (sectors + 1) * SECTOR - place % SECTOR

    def _inflate(self, entry: int, *, wait: bool) -> bytes | None:
        """Return a compressed cluster's data; None if that would wait. Raises OSError."""
        data = self._inflated.get(entry)
        if data is not None or not wait:
            return data
        # One at a time: others may wait for the same, and it takes up to 6 MiB.
        with self._inflating:
            data = self._inflated.get(entry)
            if data is None:
                data = self._inflate_now(entry)
                while len(self._inflated) >= max(_INFLATED >> self._bits, 1):
                    del self._inflated[next(iter(self._inflated))]
                self._inflated[entry] = data
        return data

    def _inflate_now(self, entry: int) -> bytes:
        place, length = self._packed_place(entry)
        if place >= self._end or place >> 56:
            raise damaged("a compressed cluster behind the file's end")
        packed = bytearray(length)
        self._file.read([memoryview(packed)], place, wait=True)
        try:
            data = zlib.decompressobj(-15).decompress(packed, self._cluster)
        except zlib.error as error:
            raise damaged("a compressed cluster") from error
        if len(data) != self._cluster:
            raise damaged("a compressed cluster that is too short")
        return data

    def write(self, buffers: Sequence[memoryview], offset: int) -> None:
        """Raise OSError: nothing is changed here, by any of these."""
        del buffers, offset
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    def discard(self, offset: int, length: int) -> None:
        """Raise OSError."""
        del length
        self.write([], offset)

    def zero(self, offset: int, length: int, *, unmap: bool) -> None:
        """Raise OSError."""
        del length, unmap
        self.write([], offset)

    def flush(self) -> None:
        """Do nothing: nothing was written."""

    def close(self) -> None:
        """Close the images, and with them the claims."""
        self._close_files()

    def _close_files(self) -> None:
        if self._base is not None:
            self._base.close()
        self._file.close()


def _open_below(
    path: str, form: str, allowed: Sequence[str] | None, above: list[tuple[int, int]]
) -> Disk:
    """Open an image to be read only, for others that stand on it."""
    if form == "qcow2":
        return Image(path, backing=allowed, above=above)
    base = open_file(path, read_only=True)
    base.size = -(-base.size // SECTOR) * SECTOR  # the last sector is filled up by zeros
    return base


def open_file(path: str, *, read_only: bool) -> Raw:
    """Open a file with its size as it is, down to the byte."""
    file = Raw(path, read_only=read_only)
    found = os.fstat(file.fd)
    if stat.S_ISREG(found.st_mode):
        file.size = found.st_size
    return file
