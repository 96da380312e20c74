# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The block device (Virtio 1.2, section 5.2) over a `disk.Disk`.

Data goes between the image and the guest's memory without a copy. What the host has in memory is
read at once; what has to wait, and every flush, goes to threads of its own, so that a disk with
many requests sees them all.
"""

from __future__ import annotations

import struct
import threading
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Callable, Sequence

from ..disk import SECTOR
from ..memory import total
from .device import VirtioDevice
from .queue import BrokenDriver, Chain, copy_in, copy_out

if TYPE_CHECKING:
    from ..disk import Disk

_IN, _OUT, _FLUSH, _GET_ID, _DISCARD, _WRITE_ZEROES = 0, 1, 4, 8, 11, 13
_OK, _IO_ERROR, _UNSUPPORTED = 0, 1, 2
_SEG_MAX, _READ_ONLY, _BLK_SIZE, _CAN_FLUSH, _TOPOLOGY = 1 << 2, 1 << 5, 1 << 6, 1 << 9, 1 << 10
_MULTI_QUEUE, _CAN_DISCARD, _CAN_WRITE_ZEROES = 1 << 12, 1 << 13, 1 << 14
_HEADER = struct.Struct("<I4xQ")
_RANGE = struct.Struct("<QII")
_MOST_SECTORS = 1 << 22  # of one discard or write-zeroes request: 2 GiB
_MOST_RANGES = 16
_UNMAP = 1
_ID_SIZE = 20
THREADS = 8


class _Pool:
    """Threads that carry out what may wait. They are started when they are needed."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []

    def submit(self, task: Callable[[], None], waiting: int) -> None:
        """Carry out ``task``, of which ``waiting`` are on their way with it."""
        if len(self._threads) < min(waiting, self._count):
            self._threads.append(threading.Thread(target=self._run, daemon=True))
            self._threads[-1].start()
        self._tasks.put(task)

    def _run(self) -> None:
        while True:
            task = self._tasks.get()
            if task is None:
                return
            task()

    def close(self) -> None:
        """Let the threads end, and wait for them."""
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            thread.join()


class Block(VirtioDevice):
    """A disk. ``serial`` is the identity that the guest sees, of 20 bytes at most."""

    kind = 2
    name = "block"
    class_code = 0x01_80_00
    blocking = True

    def __init__(self, disk: Disk, serial: str = "", queues: int = 1, depth: int = 512) -> None:
        super().__init__()
        self.disk = disk
        self._serial = serial.encode()[:_ID_SIZE].ljust(_ID_SIZE, b"\0")
        self.limits = (depth,) * queues
        self.features = _SEG_MAX | _BLK_SIZE | _CAN_FLUSH | _TOPOLOGY
        if queues > 1:
            self.features |= _MULTI_QUEUE
        self.features |= _READ_ONLY if disk.read_only else _CAN_DISCARD | _CAN_WRITE_ZEROES
        self.config = bytearray(
            struct.pack(
                "<QII4xIBBHIBBHIIIIIB3x",
                disk.size // SECTOR,
                0,
                depth - 2,
                SECTOR,
                3,  # blocks of 4 KiB are the best, and the smallest that is best
                0,
                1,
                0,
                1,
                0,
                queues,
                _MOST_SECTORS,
                _MOST_RANGES,
                8,
                _MOST_SECTORS,
                _MOST_RANGES,
                1,
            )
        )
        self._pool = _Pool(THREADS)
        self._waiting = 0
        self._idle: threading.Condition | None = None

    def attach(self, transport: Any) -> None:
        """Take the transport, once."""
        super().attach(transport)
        self._idle = threading.Condition(transport.lock)

    def handle(self, index: int) -> None:
        """Carry out what is in the queue."""
        read, queue, header = self._read_at_once, self.queues[index], _HEADER.unpack
        end = self.disk.size
        for chain in self.requests(index):
            readable, data = chain.readable, chain.writable
            last = data[-1] if data else None
            if not last:
                raise BrokenDriver("a request without room for its status")
            status, data = last[-1:], data[:-1]
            if len(last) > 1:
                data = [*data, last[:-1]]
            if readable and len(readable[0]) == _HEADER.size:
                kind, sector = header(readable[0])
                outgoing: Sequence[memoryview] = readable[1:]
            else:
                kind, sector, outgoing = self._odd_header(chain)
            if kind == _IN:
                length = total(data)
                at = sector * SECTOR
                if length % SECTOR or at + length > end:
                    status[0] = _IO_ERROR
                    self.counts["failed"] += 1
                    queue.push(chain.head, 1)
                    continue
                self.counts["reads"] += 1
                self.counts["read_bytes"] += length
                if read(data, at):
                    status[0] = _OK
                    queue.push(chain.head, length + 1)
                    continue
                task: Callable[[], int] = partial(self._read, data, at, length)
            else:
                task = partial(self._other, kind, sector, outgoing, data)
            self._later(index, chain.head, status, task)

    def _odd_header(self, chain: Chain) -> tuple[int, int, list[memoryview]]:
        """Read a header that is not a buffer by itself."""
        head = copy_out(chain.readable, _HEADER.size)
        if len(head) < _HEADER.size:
            raise BrokenDriver("a request without a whole header")
        kind, sector = _HEADER.unpack(head)
        left, rest = _HEADER.size, []
        for piece in chain.readable:
            rest.append(piece[left:])
            left = max(left - len(piece), 0)
        return kind, sector, [piece for piece in rest if piece]

    def _later(self, index: int, head: int, status: memoryview, task: Callable[[], int]) -> None:
        self._waiting += 1
        self._pool.submit(partial(self._finish, index, head, status, task), self._waiting)

    def _finish(self, index: int, head: int, status: memoryview, task: Callable[[], int]) -> None:
        """Carry out a task on one of the pool's threads, and give its request back."""
        try:
            written, code = task(), _OK
        except OSError:
            written, code = 0, _IO_ERROR
        except NotImplementedError:
            written, code = 0, _UNSUPPORTED
        except Exception as error:  # noqa: BLE001 - reported, and the guest must end
            written, code = 0, _IO_ERROR
            if self.worker is not None:
                self.worker.fail(error)
        assert self._idle is not None  # noqa: S101 - attached
        with self._idle:
            if code != _OK:
                self.counts["failed"] += 1
            status[0] = code
            queue = self.queues[index]
            queue.push(head, written + 1)
            queue.signal()
            self._waiting -= 1
            if not self._waiting:
                self._idle.notify_all()

    def _read_at_once(self, data: Sequence[memoryview], at: int) -> bool:
        try:
            return self.disk.read(data, at, wait=False)
        except OSError:
            return False  # what fails fails again on a thread, which answers for it

    def _read(self, data: Sequence[memoryview], at: int, length: int) -> int:
        self.disk.read(data, at, wait=True)
        return length

    def _other(
        self, kind: int, sector: int, outgoing: Sequence[memoryview], incoming: Sequence[memoryview]
    ) -> int:
        """Carry out anything but a read; return how many bytes were put into the guest's memory."""
        counts, disk = self.counts, self.disk
        if kind == _OUT:
            length, at = total(outgoing), sector * SECTOR
            self._allow(at, length)
            disk.write(outgoing, at)
            if not self.accepted & _CAN_FLUSH:
                disk.flush()  # such a driver takes a write that is done for safe (5.2.6.2)
            counts["writes"] += 1
            counts["written_bytes"] += length
        elif kind == _FLUSH:
            disk.flush()
            counts["flushes"] += 1
        elif kind == _GET_ID:
            return copy_in(incoming, self._serial)
        elif kind in {_DISCARD, _WRITE_ZEROES} and not disk.read_only:
            ranges = copy_out(outgoing, _MOST_RANGES * _RANGE.size + 1)
            if not ranges or len(ranges) % _RANGE.size or len(ranges) > _MOST_RANGES * _RANGE.size:
                raise OSError("a malformed range")
            for first, count, flags in _RANGE.iter_unpack(ranges):
                self._allow(first * SECTOR, count * SECTOR)
                if count > _MOST_SECTORS or flags & ~_UNMAP or (flags and kind == _DISCARD):
                    raise NotImplementedError
                if kind == _DISCARD:
                    disk.discard(first * SECTOR, count * SECTOR)
                else:
                    disk.zero(first * SECTOR, count * SECTOR, unmap=bool(flags))
            counts["discards" if kind == _DISCARD else "zeroes"] += 1
        else:
            raise NotImplementedError
        return 0

    def _allow(self, at: int, length: int) -> None:
        """Raise OSError unless the disk has these bytes, in whole sectors, and may be written."""
        if self.disk.read_only or length % SECTOR or at + length > self.disk.size:
            raise OSError("outside of the disk, or it is read-only")

    def stop(self) -> None:
        """Wait for what is on its way."""
        if self._idle is not None:
            with self._idle:
                self._idle.wait_for(lambda: not self._waiting)

    def close(self) -> None:
        """End the threads."""
        self._pool.close()
