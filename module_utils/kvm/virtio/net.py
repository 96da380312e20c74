# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The network device (Virtio 1.2, section 5.1) over a tap.

With vhost-net the kernel moves the frames, and this process answers the control queue alone.
Without it a thread moves them between the tap and the guest's memory, without a copy where the
driver has buffers enough. Queues come in pairs: 2n receives, 2n + 1 sends, the last is for control.
"""

from __future__ import annotations

import os
import struct
from functools import partial
from typing import TYPE_CHECKING, Counter, Mapping, Sequence

from .. import tap as host
from .device import VirtioDevice
from .queue import BrokenDriver, copy_in, copy_out
from .vhost import Ring

if TYPE_CHECKING:
    from ..tap import Tap
    from .pci import Transport
    from .queue import Chain, Queue
    from .vhost import VhostNet

_CSUM, _GUEST_CSUM, _MTU, _MAC = 1 << 0, 1 << 1, 1 << 3, 1 << 5
_GUEST_TSO4, _GUEST_TSO6, _GUEST_ECN, _GUEST_UFO = 1 << 7, 1 << 8, 1 << 9, 1 << 10
_HOST_TSO4, _HOST_TSO6, _HOST_ECN, _HOST_UFO = 1 << 11, 1 << 12, 1 << 13, 1 << 14
MRG_RXBUF, _STATUS, _CTRL_VQ, _MQ = 1 << 15, 1 << 16, 1 << 17, 1 << 22
_GUEST_SEGMENTS = _GUEST_TSO4 | _GUEST_TSO6 | _GUEST_ECN | _GUEST_UFO
_FEATURES = (
    (_CSUM | _GUEST_CSUM | _MTU | _MAC | MRG_RXBUF | _STATUS)
    | (_HOST_TSO4 | _HOST_TSO6 | _HOST_ECN | _HOST_UFO)
    | _GUEST_SEGMENTS
)
_OFFLOADS = (
    (_GUEST_CSUM, host.OFFLOAD_CSUM),
    (_GUEST_TSO4, host.OFFLOAD_TSO4),
    (_GUEST_TSO6, host.OFFLOAD_TSO6),
    (_GUEST_ECN, host.OFFLOAD_ECN),
    (_GUEST_UFO, host.OFFLOAD_UFO),
)
_LINK_UP = 1
_DEPTH, _CONTROL_DEPTH = 256, 64
_CLASS_MQ, _SET_PAIRS = 4, 0
_ACK_OK, _ACK_ERROR = 0, 1
_HEADER = host.HEADER
_COUNT_AT = 10  # num_buffers in struct virtio_net_hdr
_FRAME_HEAD = 14 + 4  # Ethernet's, and a VLAN's
_LARGEST = _HEADER + _FRAME_HEAD + 0xFFFF  # a segment that is still to be cut
_SCRATCH = 128 * 1024
_MOST_PIECES = 1000  # of one read: IOV_MAX less the scratch
_TURN = 64  # frames received after which others have their turn


class _Receiver:
    """Moves frames from a queue of the tap into a queue of the driver.

    With ``mergeable`` a frame may take several buffers (5.1.6.3.2). ``largest`` is the bytes that
    a frame has at most; what is longer than the buffers that are there comes by a scratch.
    """

    def __init__(
        self,
        queue: Queue,
        descriptor: int,
        largest: int,
        counts: Counter[str],
        *,
        mergeable: bool,
    ) -> None:
        self._queue = queue
        self._counts = counts
        self._descriptor = descriptor
        self._largest = largest
        self._mergeable = mergeable
        self._scratch = memoryview(bytearray(_SCRATCH))
        # Buffers of the driver for the next frame: head, bytes, pieces of each; all the pieces.
        self._buffers: list[tuple[int, int, int]] = []
        self._pieces: list[memoryview] = []
        self._room = 0
        # A frame that the driver had too few buffers for: those that it has filled, the rest of it.
        self._filled: list[tuple[int, int]] = []
        self._start: list[memoryview] = []
        self._rest = b""
        self.starved = False  # the driver has to give buffers before anything is read

    def run(self) -> None:
        """Receive what is there, as far as there are buffers and for one turn at most.

        Raises OSError if the tap is gone, BrokenDriver.
        """
        self.starved = False
        try:
            for _ in range(_TURN):
                if (self._rest and not self._finish()) or not self._collect():
                    self.starved = True
                    return
                try:
                    got = os.readv(self._descriptor, [*self._pieces, self._scratch])
                except BlockingIOError:
                    return
                self._deliver(got)
            self.starved = bool(self._rest)  # a notification brings it on, a frame may never come
        finally:
            self._queue.signal()

    def _next(self) -> Chain | None:
        """Return the next buffer; if there is none, the driver will tell when there is one."""
        queue = self._queue
        while True:
            chain = queue.pop()
            if chain is not None or queue.rest():
                return chain

    def _collect(self) -> bool:
        """Take buffers for the largest frame, or what there are; return whether there are any."""
        pieces = self._pieces
        while self._room < self._largest and len(pieces) < _MOST_PIECES:
            if self._buffers and not self._mergeable:
                break
            chain = self._next() if not self._buffers else self._queue.pop()
            if chain is None:
                break
            added = chain.writable[: _MOST_PIECES - len(pieces)]
            size = sum(map(len, added))
            if size < _HEADER:
                raise BrokenDriver(f"a buffer of {size} bytes for a frame with its header")
            self._buffers.append((chain.head, size, len(added)))
            pieces += added
            self._room += size
        return bool(self._buffers)

    def _deliver(self, got: int) -> None:
        """Give the driver a frame of ``got`` bytes that was read into the buffers."""
        left, count, pieces = got, 0, 0
        filled = []
        for head, size, parts in self._buffers:
            filled.append((head, min(left, size)))
            left -= size
            count += 1
            pieces += parts
            if left <= 0:
                break
        if left > 0 and (not self._mergeable or left == _SCRATCH):
            self._counts["rx_dropped"] += 1  # and the buffers are there for the next one
            return
        start = self._pieces[:pieces]
        del self._buffers[:count], self._pieces[:pieces]
        self._room -= sum(map(len, start))
        if left > 0:
            self._filled, self._start, self._rest = filled, start, bytes(self._scratch[:left])
            self._finish()
        else:
            self._push(start, filled)

    def _finish(self) -> bool:
        """Put the rest of a frame into further buffers; return whether that was all of it."""
        while self._rest:
            if len(self._filled) >= self._queue.size:
                self._rest = b""  # the driver can have no more: what is cut off is lost
                self._counts["rx_dropped"] += 1
                break
            chain = self._next()
            if chain is None:
                return False
            done = copy_in(chain.writable, self._rest)
            self._filled.append((chain.head, done))
            self._rest = self._rest[done:]
        self._push(self._start, self._filled)
        self._start, self._filled = [], []
        return True

    def _push(self, start: list[memoryview], filled: list[tuple[int, int]]) -> None:
        """Give buffers back that hold a frame, the header in ``start`` completed."""
        count = struct.pack("<H", len(filled))
        if len(start[0]) >= _HEADER:
            start[0][_COUNT_AT:_HEADER] = count
        else:
            at = 0
            for piece in start:
                for place in range(max(_COUNT_AT - at, 0), min(_HEADER - at, len(piece))):
                    piece[place] = count[at + place - _COUNT_AT]
                at += len(piece)
        self._queue.push_all(filled)


class Net(VirtioDevice):
    """An interface with the hardware address ``mac`` over ``tap``.

    It has a pair of queues for each queue of the tap. ``vhosts`` has as many, or none: then frames
    are moved here, for the reason in ``note``.
    """

    kind = 1
    name = "net"
    class_code = 0x02_00_00

    def __init__(
        self, tap: Tap, mac: bytes, vhosts: Sequence[VhostNet] = (), note: str = ""
    ) -> None:
        super().__init__()
        self._tap = tap
        self._vhosts = vhosts
        self.note = note
        self._most_pairs = len(tap.fds)
        self.limits = (_DEPTH,) * (2 * self._most_pairs)
        self.features = _FEATURES
        if self._most_pairs > 1:
            self.limits += (_CONTROL_DEPTH,)
            self.features |= _CTRL_VQ | _MQ
        self.config = bytearray(
            struct.pack("<6sHHH", mac, _LINK_UP, self._most_pairs, min(tap.mtu, 0xFFFF))
        )
        self.blocking = not vhosts
        self._control = -1  # the control queue
        self._set_in_kernel()
        self._pairs = 0  # pairs that are served
        self._receivers: list[_Receiver] = []
        self._watched: set[int] = set()  # pairs whose tap is waited for

    def _set_in_kernel(self) -> None:
        pairs = range(2 * self._most_pairs)
        self.in_kernel = [i for i in pairs if i != self._control] if self._vhosts else ()

    def _switch(self, queue: int, *, on: bool) -> None:
        try:
            self._tap.switch(queue, on=on)
        except OSError:
            self.counts["lost_taps"] += 1

    def attach(self, transport: Transport) -> None:
        """Take the transport, once."""
        super().attach(transport)
        for vhost in self._vhosts:
            vhost.own()

    def start(self) -> None:
        """Begin with one pair; a driver that can have more asks for them (5.1.6.5.5)."""
        accepted = self.accepted
        pairs = self._most_pairs if accepted & _MQ else 1
        self._control = 2 * pairs if accepted & _CTRL_VQ else -1
        self._set_in_kernel()
        offload = sum(ours for theirs, ours in _OFFLOADS if accepted & theirs)
        mergeable = bool(accepted & MRG_RXBUF)
        small = _HEADER + _FRAME_HEAD + self._tap.mtu
        largest = _LARGEST if accepted & _GUEST_SEGMENTS else small
        try:
            self._tap.set_offload(offload)
        except OSError as error:
            raise BrokenDriver(f"the tap {self._tap.name} is gone: {error.strerror}") from error
        if not self._vhosts:
            queues, fds = self.queues[::2], self._tap.fds[:pairs]
            self._receivers = [
                _Receiver(queue, descriptor, largest, self.counts, mergeable=mergeable)
                for queue, descriptor in zip(queues, fds)
            ]
        self._set_pairs(1)

    def stop(self) -> None:
        """End with all pairs."""
        self._set_pairs(0)
        self._receivers = []

    def _set_pairs(self, wanted: int) -> None:
        """Serve so many pairs."""
        while self._pairs > wanted:
            self._pairs -= 1
            self._stop_pair(self._pairs)
        while self._pairs < wanted:
            self._pairs += 1
            self._start_pair(self._pairs - 1)

    def _start_pair(self, pair: int) -> None:
        if pair:
            self._switch(pair, on=True)
        self._tap.discard(pair)  # frames for the driver before this one
        places = [index for index in (2 * pair, 2 * pair + 1) if self.queues[index].enabled]
        if self._vhosts:
            rings = {index % 2: self._ring(index) for index in places}
            self._vhosts[pair].start(self.transport.memory, self.accepted, rings)
            return
        if 2 * pair in places:
            self._watch(pair, on=True)
        for index in places:
            self.kicks[index].signal()  # kicks were ignored until now

    def _ring(self, index: int) -> Ring:
        queue = self.queues[index]
        return Ring(queue, self.kicks[index], self.transport.vector_event(queue))

    def _stop_pair(self, pair: int) -> None:
        if self._vhosts:
            self._vhosts[pair].stop()
        else:
            self._watch(pair, on=False)
        if pair:
            self._switch(pair, on=False)

    def vector_changed(self, index: int) -> None:
        """Let the kernel raise the queue's other interrupt."""
        if index in self.in_kernel:
            event = self.transport.vector_event(self.queues[index])
            self._vhosts[index // 2].set_call(index % 2, event)

    def _watch(self, pair: int, *, on: bool) -> None:
        """Wait for frames from the tap, or no longer."""
        assert self.worker is not None  # noqa: S101 - given to every device that serves itself
        if on and pair not in self._watched:
            self._watched.add(pair)
            self.worker.watch(self._tap.fds[pair], partial(self._readable, pair))
        elif not on and pair in self._watched:
            self._watched.discard(pair)
            self.worker.unwatch(self._tap.fds[pair])

    def _readable(self, pair: int) -> None:
        """Take frames from the tap, on the device's thread."""
        transport = self.transport
        with transport.lock:
            if transport.running and pair in self._watched:
                transport.guarded(partial(self._receive, pair))

    def _receive(self, pair: int) -> None:
        receiver = self._receivers[pair]
        try:
            receiver.run()
        except OSError:  # whoever took the tap away on the host
            self.counts["lost_taps"] += 1
            self._watch(pair, on=False)
            return
        # A driver that has no buffers is left alone until it says that it has some.
        self._watch(pair, on=not receiver.starved)

    def handle(self, index: int) -> None:
        """Look at a queue."""
        if index == self._control:
            self._obey(index)
        elif self._vhosts or index // 2 >= self._pairs:
            return
        elif index % 2:
            self._send(index)
        elif self._receivers[index // 2].starved:
            self._receive(index // 2)

    def _send(self, index: int) -> None:
        """Give the driver's frames to the tap."""
        descriptor, queue = self._tap.fds[index // 2], self.queues[index]
        for chain in self.requests(index):
            if sum(map(len, chain.readable)) < _HEADER:
                raise BrokenDriver("a frame without its header")
            try:
                os.writev(descriptor, chain.readable)
            except OSError:  # no frame for the kernel, or an interface that is down
                self.counts["tx_refused"] += 1
            queue.push(chain.head, 0)

    def _obey(self, index: int) -> None:
        """Carry out the driver's commands: class, command, what belongs to it (5.1.6.5)."""
        for chain in self.requests(index):
            if not any(chain.writable):
                raise BrokenDriver("a command without room for its answer")
            command = copy_out(chain.readable, 5)
            answer = _ACK_OK if self._command(command) else _ACK_ERROR
            self.queues[index].push(chain.head, copy_in(chain.writable, bytes([answer])))

    def _command(self, command: bytes) -> bool:
        """Return whether a command was carried out: setting the number of pairs is the only one."""
        if len(command) != 4 or not self.accepted & _MQ:
            return False
        kind, what, pairs = struct.unpack("<BBH", command)
        if (kind, what) != (_CLASS_MQ, _SET_PAIRS) or not 1 <= pairs <= self._most_pairs:
            return False
        if not all(queue.enabled for queue in self.queues[: 2 * pairs]):
            return False
        self._set_pairs(pairs)
        return True

    def counters(self) -> Mapping[str, int]:
        """Return frames, bytes and losses, as the guest sees them; the tap's are of its life."""
        found = self.counts.copy()
        found.update(self._tap.statistics())
        return found
