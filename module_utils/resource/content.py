# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is in a volume, sent to it from a file and brought from it into one, holes as holes.

Over libvirt's streams (https://libvirt.org/html/libvirt-libvirt-stream.html), so that it works the
same for a volume of this host and of another one, and for what is no file at all. A hole counts
for a checksum as the zeros that it reads as.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, Callable, Iterator, Tuple

from ..converge.errors import VirtfleetError, system_says
from ..units import format_size

if TYPE_CHECKING:
    from ..image.checksum import Checksum
    from ..virt.connection import Connection

CHUNK = 256 << 10  # bytes in one message: libvirt's own limit of a stream's packet
REPORT = 10.0  # seconds between two reports of how far it is
_ZEROS = bytes(1 << 20)
_STOPPED_AT_HOLE = -3  # virStreamRecvFlags
_SPARE = 64 << 20  # bytes that a file system keeps
Section = Tuple[bool, int]  # whether it is data, and its length in bytes


def sections(file: IO[bytes], size: int) -> Iterator[Section]:
    """Yield what a file consists of up to ``size``, lseek(2): data and holes, in their order.

    What a file system cannot tell of is data. Where the file is read next is another one then.
    """
    at = 0
    while at < size:
        try:
            data = os.lseek(file.fileno(), at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:  # else nothing but a hole is left
                yield True, size - at
                return
            data = size
        if data > at:
            yield False, min(data, size) - at
        if data < size:
            hole = os.lseek(file.fileno(), data, os.SEEK_HOLE)
            yield True, min(hole, size) - data
            data = hole
        at = data


@dataclass
class Digest:
    """A checksum that grows with what goes by; without an algorithm it is none.

    The zeros of holes cost it more than all the rest of the work, so it is asked for.
    """

    algorithm: str | None = "sha256"
    state: Any = field(init=False)

    def __post_init__(self) -> None:
        self.state = hashlib.new(self.algorithm) if self.algorithm else None

    def data(self, chunk: bytes) -> None:
        """Count bytes."""
        if self.state is not None:
            self.state.update(chunk)

    def hole(self, length: int) -> None:
        """Count zeros."""
        while length > 0 and self.state is not None:
            part = min(length, len(_ZEROS))
            self.state.update(memoryview(_ZEROS)[:part])
            length -= part

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.state.hexdigest()}" if self.state is not None else ""


class Progress:
    """Tells now and then how far something is; ``whole`` in bytes, ``say`` takes a line."""

    def __init__(self, what: str, whole: int, say: Callable[[str], None] | None) -> None:
        self.what = what
        self.whole = whole
        self.say = say
        self.came = 0
        self.begin = self.next = time.monotonic()
        self.next += REPORT

    def add(self, length: int) -> None:
        """Count bytes, and tell it when it is time to."""
        self.came += length
        now = time.monotonic()
        if self.say is None or now < self.next:
            return
        self.next = now + REPORT
        part = f" of {format_size(self.whole)}" if self.whole else ""
        percent = f" ({100 * self.came // self.whole} %)" if self.whole else ""
        rate = format_size(int(self.came / (now - self.begin)))
        self.say(f"{self.what}: {format_size(self.came)}{part}{percent}, {rate} per second")


class Streams:
    """Sends and brings what is in volumes, over one connection."""

    def __init__(self, connection: Connection, say: Callable[[str], None] | None = None) -> None:
        self.connection = connection
        self.libvirt = connection.libvirt
        self.say = say

    @contextmanager
    def _stream(self) -> Iterator[Any]:
        """Give a stream that is ended as what happens with it ends, and told of what went wrong."""
        stream = self.connection.handle.newStream(0)
        try:
            yield stream
        except BaseException:
            with suppress(self.libvirt.libvirtError):
                stream.abort()
            raise
        stream.finish()

    def send(self, volume: Any, path: str, expected: Checksum | None, what: str) -> None:
        """Write a file into a volume from its beginning.

        Raises VirtfleetError where the file cannot be read or is not what was expected; what is in
        the volume then is of no use.
        """
        digest = Digest(expected.algorithm if expected else None)
        try:
            with open(path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                progress = Progress(what, size, self.say)
                with self._stream() as stream:
                    flag = self.libvirt.VIR_STORAGE_VOL_UPLOAD_SPARSE_STREAM
                    volume.upload(stream, 0, 0, flag)
                    at = 0
                    for data, length in sections(file, size):
                        if data:
                            self._send_data(stream, file, at, at + length, digest, progress)
                        else:
                            stream.sendHole(length)
                            digest.hole(length)
                            progress.add(length)
                        at += length
        except OSError as error:
            raise VirtfleetError(f"{path}: {system_says(error)}") from error
        if expected is not None and str(digest) != str(expected):
            raise VirtfleetError(f"{path}: expected {expected}, found {digest}")

    @staticmethod
    def _send_data(
        stream: Any, file: IO[bytes], at: int, end: int, digest: Digest, progress: Progress
    ) -> None:
        while at < end:
            chunk = os.pread(file.fileno(), min(end - at, CHUNK), at)
            if not chunk:
                raise VirtfleetError(f"{file.name}: it became shorter while it was read")
            digest.data(chunk)
            sent = 0
            while sent < len(chunk):
                sent += stream.send(chunk[sent:])
            at += len(chunk)
            progress.add(len(chunk))

    def bring(self, volume: Any, path: str, algorithm: str | None, what: str) -> str:
        """Bring what is in a volume into a new file, which has its name once it is whole.

        Return its checksum by the algorithm, empty for none. Raises VirtfleetError where the file
        cannot be written.
        """
        _, capacity, allocation = volume.info()
        part = f"{path}.part"
        digest = Digest(algorithm)
        try:
            _room(os.path.dirname(path), int(allocation))
            progress = Progress(what, int(capacity), self.say)
            with open(part, "wb") as file:
                os.fchmod(file.fileno(), 0o600)
                with self._stream() as stream:
                    flag = self.libvirt.VIR_STORAGE_VOL_DOWNLOAD_SPARSE_STREAM
                    volume.download(stream, 0, 0, flag)
                    self._receive(stream, file, digest, progress)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        except OSError as error:
            raise VirtfleetError(f"{path}: {system_says(error)}") from error
        finally:
            with suppress(OSError):
                os.unlink(part)
        return str(digest)

    def _receive(self, stream: Any, file: IO[bytes], digest: Digest, progress: Progress) -> None:
        while True:
            got = stream.recvFlags(CHUNK, self.libvirt.VIR_STREAM_RECV_STOP_AT_HOLE)
            if got == _STOPPED_AT_HOLE:
                length = stream.recvHole()
                file.truncate(file.seek(length, os.SEEK_CUR))
                digest.hole(length)
                progress.add(length)
                continue
            if not got:
                return
            file.write(got)
            digest.data(got)
            progress.add(len(got))


def _room(folder: str, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if size > free - _SPARE:
        raise VirtfleetError(
            f"{format_size(size)} are to come, and {folder} has {format_size(free)} left"
        )
