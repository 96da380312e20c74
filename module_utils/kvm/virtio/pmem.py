# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Persistent memory (Virtio 1.2, section 5.19): an image that lies in the guest's memory itself.

Reads and writes are the CPU's own, without an exit, a request or a second copy in the guest's
cache; what the host has in memory is shared by all guests of an image. The device is left with the
flush.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
import threading
from typing import Any

from ...units import format_size
from ..disk import open_file
from ..errors import HostError, InputFileError
from ..memory import MAP_NORESERVE, Region
from .device import VirtioDevice
from .queue import BrokenDriver, Chain, copy_in, copy_out

ALIGNMENT = 2 << 20  # Linux's drivers take persistent memory in these (its SUBSECTION_SIZE)
_FLUSH = 0
_OK, _FAILED = struct.pack("<I", 0), struct.pack("<I", 1)
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def _reserve(descriptor: int, path: str, size: int) -> None:
    """Let the whole image have its space: a store to memory cannot fail for the lack of it."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.fallocate64(descriptor, 0, ctypes.c_int64(0), ctypes.c_int64(size)):
        number = ctypes.get_errno()
        if number in _NO_SPACE:
            raise HostError(
                f"{path} has holes, and its file system no room to fill them: {os.strerror(number)}"
            )


def open_image(path: str, *, read_only: bool) -> Region:
    """Return the image or block device at ``path``, claimed and mapped, as a region of memory.

    Its size must be a multiple of 2 MiB, else InputFileError. Holes of one that may be written are
    filled with zeros at once, HostError if there is no room. A read-only one can have many guests.
    """
    descriptor, size = open_file(path, read_only=read_only)
    if not size or size % ALIGNMENT:
        os.close(descriptor)
        raise InputFileError(
            f"{path} has {size} bytes: persistent memory comes in multiples of "
            f"{format_size(ALIGNMENT)}",
            f"truncate -s %{ALIGNMENT >> 20}M {path} makes it longer",
        )
    try:
        if read_only:
            # Private, as a shared mapping could not be made from a file that is open for reading
            # alone and yet be one whose address ctypes tells; never written, it is the file's.
            mapping = mmap.mmap(descriptor, size, flags=mmap.MAP_PRIVATE | MAP_NORESERVE)
        else:
            _reserve(descriptor, path, size)
            mapping = mmap.mmap(descriptor, size, flags=mmap.MAP_SHARED)
        region = Region(0, size, mapping, descriptor, read_only=read_only)
        if read_only:
            _protect(region)
    except (OSError, ValueError, OverflowError) as error:
        os.close(descriptor)
        raise HostError(f"cannot map {path}: {error}") from error
    except BaseException:
        os.close(descriptor)
        raise
    return region


def _protect(region: Region) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    place, size = ctypes.c_void_p(region.address), ctypes.c_size_t(region.size)
    if libc.mprotect(place, size, mmap.PROT_READ):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


class Pmem(VirtioDevice):
    """The device of an image that ``region`` has in the guest's memory."""

    kind = 27
    name = "pmem"
    class_code = 0x05_80_00
    limits = (64,)

    def __init__(self, region: Region) -> None:
        super().__init__()
        self._region = region
        self.config = bytearray(struct.pack("<QQ", region.start, region.size))
        self._waiting: list[Chain] = []
        self._flushing = False
        self._idle: threading.Condition | None = None

    def attach(self, transport: Any) -> None:
        """Take the transport, once."""
        super().attach(transport)
        self._idle = threading.Condition(transport.lock)

    def handle(self, index: int) -> None:
        """Take the requests: those that come while the image is flushed share the next flush."""
        for chain in self.requests(index):
            kind = copy_out(chain.readable, 4)
            if len(kind) < 4 or sum(map(len, chain.writable)) < 4:
                raise BrokenDriver("a malformed request for a flush")
            if kind != struct.pack("<I", _FLUSH):
                self.queues[index].push(chain.head, copy_in(chain.writable, _FAILED))
                continue
            self._waiting.append(chain)
        if self._waiting and not self._flushing:
            self._flushing = True
            threading.Thread(target=self._flush, name=self.name, daemon=True).start()

    def _flush(self) -> None:
        """Flush as long as somebody waits for it, on a thread of its own."""
        assert self._idle is not None  # noqa: S101 - attached
        while True:
            with self._idle:
                chains, self._waiting = self._waiting, []
                if not chains:
                    self._flushing = False
                    self._idle.notify_all()
                    return
            try:
                os.fdatasync(self._region.fd)
                result = _OK
            except OSError:
                result = _FAILED
            with self._idle:
                self.counts["flushes" if result is _OK else "failed"] += 1
                for chain in chains:
                    self.queues[0].push(chain.head, copy_in(chain.writable, result))
                self.queues[0].signal()

    def stop(self) -> None:
        """Wait for what is on its way; what only waits is of the time before."""
        if self._idle is not None:
            with self._idle:
                self._waiting.clear()
                self._idle.wait_for(lambda: not self._flushing)
