# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks of guests: files and block devices, opened once, locked against every other guest.

The locks are those that QEMU takes on its images (open file description locks at agreed bytes, in
QEMU's block/file-posix.c), so that neither this helper nor QEMU runs a second guest on a disk.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
import struct
from typing import Protocol, Sequence

from .errors import ConfigError, InputFileError
from .memory import IoVector, total

SECTOR = 512
_GETLK, _SETLK = 36, 37  # F_OFD_GETLK, F_OFD_SETLK (include/uapi/asm-generic/fcntl.h)
# What a user of an image does, and what it bears others doing: a byte each from these offsets on.
_DONE, _REFUSED = 100, 200
_READS, _WRITES, _RESIZES = 0, 1, 3
_KEEP_SIZE, _PUNCH_HOLE, _ZERO_RANGE = 0x01, 0x02, 0x10  # include/uapi/linux/falloc.h
_BLOCK_SIZE_64 = 0x8008_1272  # BLKGETSIZE64


class Disk(Protocol):
    """What a block device stands on. Offsets and lengths are bytes; an OSError fails a request."""

    path: str
    size: int
    read_only: bool

    def read(self, buffers: Sequence[memoryview], offset: int, *, wait: bool) -> bool:
        """Fill the buffers; return False, with nothing promised, if that would wait."""

    def write(self, buffers: Sequence[memoryview], offset: int) -> None:
        """Write the buffers."""

    def flush(self) -> None:
        """Let everything that was written survive a loss of power."""

    def discard(self, offset: int, length: int) -> None:
        """Forget what is there; what is read afterwards is anything."""

    def zero(self, offset: int, length: int, *, unmap: bool) -> None:
        """Let zeros be read there; ``unmap`` lets the space be given back."""

    def close(self) -> None:
        """Close the disk."""


def _lock_bytes(descriptor: int, command: int, kind: int, start: int) -> int:
    """Carry out a lock command on one byte; return the kind of the lock that was found."""
    argument = struct.pack("hhqqi4x", kind, os.SEEK_SET, start, 1, 0)
    return int(struct.unpack("hhqqi4x", fcntl.fcntl(descriptor, command, argument))[0])


def lock(descriptor: int, path: str, *, read_only: bool) -> None:
    """Claim an image; ConfigError if what others do with it does not go with that."""
    done = [_READS] if read_only else [_READS, _WRITES]
    refused = [_WRITES, _RESIZES]
    try:
        for place in [*(_DONE + one for one in done), *(_REFUSED + one for one in refused)]:
            _lock_bytes(descriptor, _SETLK, fcntl.F_RDLCK, place)
        for place in [*(_REFUSED + one for one in done), *(_DONE + one for one in refused)]:
            if _lock_bytes(descriptor, _GETLK, fcntl.F_WRLCK, place) != fcntl.F_UNLCK:
                raise ConfigError(f"{path} is in use by another guest or program")
    except OSError as error:
        if error.errno in {errno.EACCES, errno.EAGAIN}:
            raise ConfigError(f"{path} is in use by another guest or program") from error
        if error.errno not in {errno.EINVAL, errno.ENOLCK}:  # a file system without locks
            raise InputFileError(f"cannot lock {path}: {error.strerror}") from error


def _size(descriptor: int, path: str) -> int:
    """Return the bytes of an opened file or block device; InputFileError if it is neither."""
    found = os.fstat(descriptor)
    if stat.S_ISBLK(found.st_mode):
        answer = fcntl.ioctl(descriptor, _BLOCK_SIZE_64, bytes(8))
        return int(struct.unpack("Q", answer)[0])
    if not stat.S_ISREG(found.st_mode):
        raise InputFileError(f"{path} is neither a regular file nor a block device")
    return found.st_size


def open_file(path: str, *, read_only: bool) -> tuple[int, int]:
    """Return the descriptor and the bytes of a file or block device, claimed.

    Raises InputFileError if it cannot be opened, ConfigError if somebody else has it.
    """
    flags = (os.O_RDONLY if read_only else os.O_RDWR) | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        how = "for reading" if read_only else "for reading and writing"
        raise InputFileError(f"cannot open {path} {how}: {error.strerror}") from error
    try:
        size = _size(descriptor, path)
        lock(descriptor, path, read_only=read_only)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, size


def _checked(done: int) -> int:
    """Return what a call of libc has returned, or raise its error."""
    if done < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return done


class Raw:
    """An image whose bytes are the disk's."""

    def __init__(self, path: str, *, read_only: bool) -> None:
        self.path = path
        self.read_only = read_only
        self.fd, size = open_file(path, read_only=read_only)
        self.size = size // SECTOR * SECTOR
        if not self.size:
            os.close(self.fd)
            raise InputFileError(f"{path} has {size} bytes: expected a disk image")
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._preadv2, self._pwritev2 = self._libc.preadv64v2, self._libc.pwritev64v2
        self._preadv2.restype = self._pwritev2.restype = ctypes.c_ssize_t
        self._no_wait = os.RWF_NOWAIT

    def read(self, buffers: Sequence[memoryview], offset: int, *, wait: bool) -> bool:
        """Fill the buffers; without ``wait`` only with what the host has in memory."""
        wanted = total(buffers)
        if not wait and not self._no_wait:
            return False
        try:
            got = self._move_in(buffers, offset, 0 if wait else self._no_wait)
        except BlockingIOError:
            return False
        except OSError as error:
            if wait or error.errno not in {errno.EOPNOTSUPP, errno.EINVAL}:
                raise
            self._no_wait = 0  # this file system cannot tell
            return False
        if got == wanted:
            return True
        if not wait:
            return False
        self._read_rest(buffers, offset, got)
        return True

    def _move_in(self, buffers: Sequence[memoryview], offset: int, flags: int) -> int:
        if not isinstance(buffers, IoVector):
            return os.preadv(self.fd, buffers, offset, flags)
        place = ctypes.c_int64(offset)
        got: int = self._preadv2(self.fd, buffers.iovecs, len(buffers), place, flags)
        return _checked(got)

    def _move_out(self, buffers: Sequence[memoryview], offset: int) -> int:
        if not isinstance(buffers, IoVector):
            return os.pwritev(self.fd, buffers, offset)
        place = ctypes.c_int64(offset)
        return _checked(self._pwritev2(self.fd, buffers.iovecs, len(buffers), place, 0))

    def _read_rest(self, buffers: Sequence[memoryview], offset: int, got: int) -> None:
        """Go on after a short read; behind the end of the file are zeros."""
        at = 0
        for piece in buffers:
            done = min(max(got - at, 0), len(piece))
            while done < len(piece):
                more = os.preadv(self.fd, [piece[done:]], offset + at + done)
                if not more:
                    piece[done:] = bytes(len(piece) - done)
                    break
                done += more
            at += len(piece)

    def write(self, buffers: Sequence[memoryview], offset: int) -> None:
        """Write the buffers."""
        wanted = total(buffers)
        done = self._move_out(buffers, offset)
        while done < wanted:
            data = b"".join(buffers)[done:]
            written = os.pwrite(self.fd, data, offset + done)
            if not written:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            done += written

    def flush(self) -> None:
        """Let everything that was written survive a loss of power."""
        os.fdatasync(self.fd)

    def _allocate(self, mode: int, offset: int, length: int) -> int:
        """Call fallocate(2); return 0 or the error's number."""
        start, size = ctypes.c_int64(offset), ctypes.c_int64(length)
        done = self._libc.fallocate64(self.fd, mode | _KEEP_SIZE, start, size)
        return ctypes.get_errno() if done else 0

    def discard(self, offset: int, length: int) -> None:
        """Give the space back where the host's file system can."""
        failed = self._allocate(_PUNCH_HOLE, offset, length)
        if failed not in {0, errno.EOPNOTSUPP, errno.ENODEV}:
            raise OSError(failed, os.strerror(failed))

    def zero(self, offset: int, length: int, *, unmap: bool) -> None:
        """Let zeros be read there."""
        for mode in [_PUNCH_HOLE] * unmap + [_ZERO_RANGE]:
            failed = self._allocate(mode, offset, length)
            if not failed:
                return
            if failed not in {errno.EOPNOTSUPP, errno.ENODEV}:
                raise OSError(failed, os.strerror(failed))
        piece = memoryview(bytes(min(length, 1 << 20)))
        for at in range(0, length, len(piece)):
            self.write([piece[: length - at]], offset + at)

    def close(self) -> None:
        """Close the image, and with it the claim."""
        os.close(self.fd)
