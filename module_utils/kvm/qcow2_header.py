# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The header of a qcow2 image, read and made (QEMU, docs/interop/qcow2.rst, "Header").

An image may come from anybody: all that is read here lies inside of the file, is aligned and has a
size that can be held when `read_header` returns.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, Mapping, NamedTuple

from .errors import InputFileError

if TYPE_CHECKING:
    from .disk import Raw

MAGIC = b"QFI\xfb"
TABLE_PLACE = struct.Struct(">QI")  # where the refcount table is, and its clusters
TABLE_PLACE_AT = 48
AUTOCLEAR_AT = 88
SIZE = struct.Struct(">QII")  # bytes of the disk, how it is encrypted, entries of the L1 table
SIZE_AT = 24
MOST_L1, MOST_TABLE = 4 << 20, 4 << 20  # bytes of the L1 and of the refcount table

_HEADER = struct.Struct(">4sIQIIQIIQQIIQ")
_VERSION_3 = struct.Struct(">QQQII")
_EXTENSION = struct.Struct(">II")
_BACKING_FORMAT, _FEATURE_NAMES = 0xE279_2ACA, 0x6803_F857
_NAME = struct.Struct("BB46s")
_LONGEST_NAME = 1023
_OFFSET_BITS = 56
_CRYPT = {1: "AES", 2: "LUKS"}
_COMPRESSION = {1: "zstd"}
_DIRTY, _CORRUPT, _DATA_FILE, _COMPRESSION_TYPE, _EXTENDED_L2 = (1 << bit for bit in range(5))
_REFCOUNT_ORDER = 4
_CLUSTER_BITS = 16  # of images that are made here: QEMU's default


class _Start(NamedTuple):
    """What both versions have, as it stands there."""

    magic: bytes
    version: int
    backing_offset: int
    backing_size: int
    cluster_bits: int
    size: int
    crypt: int
    l1_size: int
    l1_offset: int
    table_offset: int
    table_clusters: int
    snapshots: int
    snapshots_offset: int


def l1_entries(size: int, cluster_bits: int) -> int:
    """Return the entries of the L1 table that a disk of ``size`` bytes takes."""
    return -(-size >> 2 * cluster_bits - 3)


class Header(NamedTuple):
    """What the header says. Offsets and ``size`` are bytes, ``l1_size`` is entries.

    ``backing`` is the name of the image below as it stands there, ``backing_format`` its format;
    both are empty where there is none.
    """

    version: int
    cluster_bits: int
    size: int
    l1_offset: int
    l1_size: int
    table_offset: int
    table_clusters: int
    snapshots: int
    dirty: bool
    autoclear: int
    refcount_order: int
    backing: str
    backing_format: str

    @property
    def l1_needed(self) -> int:
        """The entries of the L1 table that the size takes."""
        return l1_entries(self.size, self.cluster_bits)


def read_header(file: Raw, end: int) -> Header:
    """Read the header of an image of ``end`` bytes.

    Raises InputFileError, which names it, for what is malformed or not supported.
    """
    path = file.path
    start = _read(file, 0, min(end, _HEADER.size))
    if len(start) < _HEADER.size or not start.startswith(MAGIC):
        raise InputFileError(f"{path} is not a qcow2 image")
    found = _Start._make(_HEADER.unpack(start))
    bits = found.cluster_bits
    if found.version not in {2, 3}:
        raise InputFileError(f"{path}: expected qcow2 version 2 or 3, found {found.version}")
    if not 9 <= bits <= 21:
        raise InputFileError(f"{path}: expected clusters of 2^9 to 2^21 bytes, found 2^{bits}")
    if found.crypt:
        crypt = _CRYPT.get(found.crypt, found.crypt)
        raise InputFileError(f"{path} is encrypted ({crypt}): not supported")
    if end >> _OFFSET_BITS:
        raise InputFileError(f"{path} has {end} bytes, more than a qcow2 image can have")
    whole = _read(file, 0, min(end, 1 << bits))
    incompatible, autoclear, order, extensions = _features(path, whole, found.version)
    backing = backing_format = ""
    if found.backing_offset:
        backing = _backing(path, whole, found.backing_offset, found.backing_size)
        backing_format = extensions.get(_BACKING_FORMAT, b"").decode("ascii", "replace")
    header = Header(
        found.version,
        bits,
        found.size,
        found.l1_offset,
        found.l1_size,
        found.table_offset,
        found.table_clusters,
        found.snapshots,
        bool(incompatible & _DIRTY),
        autoclear,
        order,
        backing,
        backing_format,
    )
    needed = 8 * header.l1_needed
    if needed > MOST_L1:
        raise InputFileError(
            f"{path}: a disk of {header.size} bytes in clusters of {1 << bits} takes an L1 table "
            f"of {needed} bytes, more than {MOST_L1}: qemu-img convert makes one of larger clusters"
        )
    if 8 * header.l1_size < needed:
        raise InputFileError(f"{path}: an L1 table of {header.l1_size} entries is too small")
    check_place(path, "the L1 table", header.l1_offset, needed, bits, end)
    return header


def _features(path: str, whole: bytes, version: int) -> tuple[int, int, int, Mapping[int, bytes]]:
    """Return the incompatible and the auto-clear features, the refcounts' order, the extensions."""
    if version == 2:
        return 0, 0, _REFCOUNT_ORDER, _extensions(path, whole, _HEADER.size)
    least = _HEADER.size + _VERSION_3.size
    if len(whole) < least:
        raise InputFileError(f"{path} is damaged: the header is cut off")
    incompatible, _, autoclear, order, length = _VERSION_3.unpack_from(whole, _HEADER.size)
    if length < least or length % 8 or length > len(whole):
        raise InputFileError(f"{path} is damaged: a header of {length} bytes")
    extensions = _extensions(path, whole, length)
    if incompatible & ~_DIRTY:
        compression = whole[least] if length > least else 0
        _refuse(path, incompatible, compression, extensions.get(_FEATURE_NAMES, b""))
    return incompatible, autoclear, order, extensions


def _read(file: Raw, offset: int, length: int) -> bytes:
    data = bytearray(length)
    try:
        file.read([memoryview(data)], offset, wait=True)
    except OSError as error:
        raise InputFileError(f"cannot read {file.path}: {error.strerror}") from error
    return bytes(data)


def check_place(path: str, what: str, offset: int, length: int, bits: int, end: int) -> None:
    """Raise InputFileError unless a table lies at a cluster's start and inside of the file."""
    if not offset or offset & (1 << bits) - 1 or offset + length > end:
        raise InputFileError(
            f"{path} is damaged: {what} is said to be {length} bytes at {offset:#x} of {end:#x}"
        )


def check_writable(path: str, header: Header, end: int) -> None:
    """Raise InputFileError where an image of ``end`` bytes may be read but not be written."""
    if header.dirty:
        raise InputFileError(
            f"{path} was not closed by its last user: repair it with qemu-img check -r all"
        )
    if header.snapshots:
        raise InputFileError(
            f"{path} has internal snapshots: it can be read only; qemu-img snapshot -d removes them"
        )
    if header.refcount_order != _REFCOUNT_ORDER:
        raise InputFileError(
            f"{path} has refcounts of 2^{header.refcount_order} bits, not of 16: it can be read "
            "only; qemu-img convert makes a writable one"
        )
    length = header.table_clusters << header.cluster_bits
    if not 0 < length <= MOST_TABLE:
        raise InputFileError(
            f"{path}: expected a refcount table of up to {MOST_TABLE} bytes, found {length}"
        )
    check_place(path, "the refcount table", header.table_offset, length, header.cluster_bits, end)


def _extensions(path: str, whole: bytes, at: int) -> Mapping[int, bytes]:
    """Return the header extensions by their type."""
    found: dict[int, bytes] = {}
    while at + _EXTENSION.size <= len(whole):
        kind, length = _EXTENSION.unpack_from(whole, at)
        at += _EXTENSION.size
        if not kind:
            break
        if length > len(whole) - at:
            raise InputFileError(f"{path} is damaged: a header extension of {length} bytes")
        found[kind] = whole[at : at + length]
        at += -(-length // 8) * 8
    return found


def _backing(path: str, whole: bytes, offset: int, length: int) -> str:
    """Return the name of the image below."""
    if not 0 < length <= _LONGEST_NAME or offset + length > len(whole):
        raise InputFileError(f"{path} is damaged: the name of its backing file is outside")
    return os.fsdecode(whole[offset : offset + length])


def _refuse(path: str, features: int, compression: int, names: bytes) -> None:
    """Raise InputFileError that names the first of the features that are not supported."""
    if features & _CORRUPT:
        raise InputFileError(f"{path} is marked as corrupt: repair it with qemu-img check -r all")
    if features & _DATA_FILE:
        raise InputFileError(f"{path} has its data in an external data file: not supported")
    if features & _COMPRESSION_TYPE:
        kind = _COMPRESSION.get(compression, f"type {compression}")
        raise InputFileError(f"{path} is compressed with {kind}: only zlib is supported")
    if features & _EXTENDED_L2:
        raise InputFileError(f"{path} has extended L2 entries (subclusters): not supported")
    unknown = features & ~_DIRTY
    bit = (unknown & -unknown).bit_length() - 1
    told = [
        name.rstrip(b"\0").decode("utf-8", "replace")
        for kind, number, name in _NAME.iter_unpack(names[: len(names) // _NAME.size * _NAME.size])
        if (kind, number) == (0, bit)
    ]
    name = f" ({told[0]!r})" if told else ""
    raise InputFileError(f"{path} has the incompatible feature {bit}{name}: not supported")


def new_image(size: int, backing: str, backing_format: str) -> tuple[list[tuple[int, bytes]], int]:
    """Return what is written where in a new image of ``size`` bytes, and the file's length.

    Clusters are of 64 KiB: the header's, the refcount table's, its one block, and the L1 table's.
    Raises InputFileError if the size or the name of the backing file cannot be expressed.
    """
    cluster = 1 << _CLUSTER_BITS
    entries = l1_entries(size, _CLUSTER_BITS)
    name = os.fsencode(backing)
    if size <= 0 or 8 * entries > MOST_L1:
        raise InputFileError(f"a qcow2 image of {size} bytes cannot be made")
    if len(name) > _LONGEST_NAME:
        raise InputFileError(f"the name of a backing file has {_LONGEST_NAME} bytes at most")
    clusters = 3 + -(-8 * entries // cluster)
    length = _HEADER.size + _VERSION_3.size
    extensions = b""
    if name:
        text = backing_format.encode()
        padded = text.ljust(-(-len(text) // 8) * 8, b"\0")
        extensions = _EXTENSION.pack(_BACKING_FORMAT, len(text)) + padded
    extensions += _EXTENSION.pack(0, 0)
    header = _HEADER.pack(
        MAGIC,
        3,
        length + len(extensions) if name else 0,
        len(name),
        _CLUSTER_BITS,
        size,
        0,
        entries,
        3 * cluster,
        cluster,
        1,
        0,
        0,
    )
    header += _VERSION_3.pack(0, 0, 0, _REFCOUNT_ORDER, length)
    writes = [
        (0, header + extensions + name),
        (cluster, struct.pack(">Q", 2 * cluster)),
        (2 * cluster, struct.pack(f">{clusters}H", *[1] * clusters)),
    ]
    return writes, clusters * cluster
