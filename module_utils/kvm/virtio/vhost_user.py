# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The front-end of vhost-user (QEMU, docs/interop/vhost-user.rst): another process is the device.

It maps the guest's memory, takes the notifications of the queues from their eventfds and raises
their interrupts by eventfds. Over the socket goes the set-up alone.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import TYPE_CHECKING, Sequence

from ..events import readable

if TYPE_CHECKING:
    from ..memory import Region
    from .queue import Queue

MOST_REGIONS = 8  # of a memory table
_TIMEOUT = 10.0  # seconds that the other side may take for an answer
_GET_FEATURES, _SET_FEATURES, _SET_OWNER, _SET_MEM_TABLE = 1, 2, 3, 5
_SET_VRING_NUM, _SET_VRING_ADDR, _SET_VRING_BASE, _GET_VRING_BASE = 8, 9, 10, 11
_SET_VRING_KICK, _SET_VRING_CALL = 12, 13
_GET_PROTOCOL_FEATURES, _SET_PROTOCOL_FEATURES, _SET_VRING_ENABLE = 15, 16, 18
_PROTOCOL_FEATURES = 1 << 30  # VHOST_USER_F_PROTOCOL_FEATURES
_REPLY_ACK = 1 << 3  # VHOST_USER_PROTOCOL_F_REPLY_ACK
_HEADER = struct.Struct("=III")
_VERSION, _REPLY, _NEED_REPLY = 1, 1 << 2, 1 << 3
_u64 = struct.Struct("=Q").pack
_state = struct.Struct("=II").pack


class PeerError(Exception):
    """The other side has gone, does not answer, or not as the protocol wants it."""


class FrontEnd:
    """One connection to a back-end. Every call raises PeerError; after that it is closed."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(_TIMEOUT)
        self._socket = connection
        self._acknowledged = False
        self.features: int | None = None  # those of the back-end, once they were negotiated

    @property
    def closed(self) -> bool:
        """Whether nothing can be said any more."""
        return self._socket.fileno() < 0

    def alive(self) -> bool:
        """Return whether the back-end is still there."""
        if self.closed:
            return False
        try:
            heard = readable(self._socket.fileno())
            return not heard or self._socket.recv(1, socket.MSG_PEEK) != b""
        except OSError:
            return False

    def close(self) -> None:
        """Close the connection; the back-end touches nothing of the guest's once it has seen it."""
        self._socket.close()

    def _send(
        self, request: int, payload: bytes = b"", descriptors: Sequence[int] = (), flags: int = 0
    ) -> None:
        message = _HEADER.pack(request, _VERSION | flags, len(payload)) + payload
        rights = struct.pack(f"{len(descriptors)}i", *descriptors)
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if rights else []
        try:
            sent = self._socket.sendmsg([message], ancillary)
        except OSError as error:
            self.close()
            raise PeerError(f"it takes no messages: {error}") from error
        if sent != len(message):
            self.close()
            raise PeerError("a message was not taken as a whole")

    def _receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            try:
                more = self._socket.recv(size - len(data))
            except OSError as error:
                self.close()
                raise PeerError(f"it does not answer: {error}") from error
            if not more:
                self.close()
                raise PeerError("it has ended")
            data += more
        return data

    def _answer(self, request: int, length: int) -> bytes:
        """Return the payload of the answer to ``request``, of ``length`` bytes."""
        kind, flags, size = _HEADER.unpack(self._receive(_HEADER.size))
        if (kind, size) != (request, length) or flags & 0x7 != _VERSION | _REPLY:
            self.close()
            raise PeerError(f"request {request} was answered by {kind} with {size} bytes")
        return self._receive(length)

    def _ask(self, request: int, payload: bytes = b"") -> int:
        self._send(request, payload)
        return int.from_bytes(self._answer(request, 8), "little")

    def _tell(self, request: int, payload: bytes = b"", descriptors: Sequence[int] = ()) -> None:
        """Send a request that has no answer; wait until it is carried out where that is told."""
        flags = _NEED_REPLY if self._acknowledged else 0
        self._send(request, payload, descriptors, flags)
        if flags and int.from_bytes(self._answer(request, 8), "little"):
            self.close()
            raise PeerError(f"it refuses request {request}")

    def negotiate(self) -> int:
        """Return the features of the back-end; the first call begins the conversation."""
        if self.features is None:
            found = self._ask(_GET_FEATURES)
            if not found & _PROTOCOL_FEATURES:
                self.close()
                raise PeerError("it speaks an older protocol")
            protocol = self._ask(_GET_PROTOCOL_FEATURES) & _REPLY_ACK
            self._tell(_SET_PROTOCOL_FEATURES, _u64(protocol))
            self._acknowledged = bool(protocol)
            self._tell(_SET_OWNER)
            self.features = found & ~_PROTOCOL_FEATURES
        return self.features

    def start(
        self,
        features: int,
        regions: Sequence[Region],
        queues: Sequence[tuple[int, Queue, int, int]],
    ) -> None:
        """Let the back-end serve the queues of a driver that has accepted ``features``.

        ``regions`` are the memory that it may map, each with a file. A queue comes with its number,
        and with the eventfds of its notifications and of its interrupt.
        """
        self._tell(_SET_FEATURES, _u64(features | _PROTOCOL_FEATURES))
        self._map(regions, [region.fd for region in regions])
        for index, queue, kick, call in queues:
            self._tell(_SET_VRING_NUM, _state(index, queue.size))
            self._tell(_SET_VRING_BASE, _state(index, 0))
            # struct vhost_vring_addr: index, flags, descriptors, used, available, log
            parts = (queue.descriptors, queue.device, queue.driver, 0)
            self._tell(_SET_VRING_ADDR, struct.pack("=IIQQQQ", index, 0, *parts))
            self.set_call(index, call)
            self._tell(_SET_VRING_KICK, _u64(index), [kick])
            self._tell(_SET_VRING_ENABLE, _state(index, 1))

    def _map(self, regions: Sequence[Region], files: Sequence[int]) -> None:
        """Let the back-end map the files as the memory of the regions, and nothing else."""
        # "User addresses" are but what the queues' places are told in. Here they are the guest's:
        # those of the time before a reset must be in the new table (libvhost-user looks them up).
        table = struct.pack("=II", len(regions), 0)
        for region in regions:
            table += struct.pack("=QQQQ", region.start, region.size, region.start, 0)
        self._tell(_SET_MEM_TABLE, table, files)

    def let_go(self, regions: Sequence[Region]) -> None:
        """Let the back-end, which has stopped, give the guest's memory back.

        It has nothing in its place, which takes no memory.
        """
        files: list[int] = []
        try:
            for region in regions:
                files.append(os.memfd_create("nothing", os.MFD_CLOEXEC))
                os.ftruncate(files[-1], region.size)
            self._map(regions, files)
        except OSError as error:
            self.close()
            raise PeerError(f"it cannot let go of the guest's memory: {error}") from error
        finally:
            for file in files:
                os.close(file)

    def set_call(self, index: int, call: int) -> None:
        """Let the eventfd ``call`` be what raises the interrupt of a queue."""
        self._tell(_SET_VRING_CALL, _u64(index), [call])

    def stop(self, indexes: Sequence[int]) -> None:
        """Let the back-end finish with the queues; nothing of the guest's is touched after that."""
        for index in indexes:
            self._ask(_GET_VRING_BASE, _state(index, 0))
