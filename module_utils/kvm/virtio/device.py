# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every virtio device has: its kind, features, configuration and queues.

A device lives as long as the machine is not reset; what it stands on (a disk, a tap) is made before
and outlives it. All of a device's state that the guest can see is in its transport, its queues and
``config``.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Collection, Iterator, Mapping, Sequence

if TYPE_CHECKING:
    from ..events import Event, Worker
    from .pci import Transport
    from .queue import Chain, Queue

TURN = 256  # requests after which others have their turn

VERSION_1, INDIRECT, EVENT_INDEX = 1 << 32, 1 << 28, 1 << 29


class VirtioDevice:
    """The base of all devices; subclasses say ``kind`` (Virtio 1.2, section 5) and the rest."""

    kind = 0
    name = ""
    class_code = 0xFF_00_00  # PCI's, which tells people what it is
    features = 0  # beyond those that every device here has
    ring_features = INDIRECT | EVENT_INDEX  # what its queues can beyond the least
    limits: Sequence[int] = ()  # descriptors of each queue at most
    blocking = False  # it waits for its host: a thread of its own
    in_kernel: Collection[int] = ()  # the queues that the kernel serves, or nobody
    note = ""  # what people are told of how it is served

    def __init__(self) -> None:
        self.config = bytearray()
        self.queues: list[Queue] = []
        self.kicks: list[Event] = []
        self.accepted = 0
        self.counts: Counter[str] = Counter()
        self.ready_at: float | None = None  # time.monotonic() when its driver said that it is ready
        self._transport: Transport | None = None
        self.worker: Worker | None = None

    def attach(self, transport: Transport) -> None:
        """Take the transport, once."""
        self._transport = transport

    @property
    def transport(self) -> Transport:
        """The way to the driver."""
        assert self._transport is not None  # noqa: S101 - attached before anything is called
        return self._transport

    def start(self) -> None:
        """Begin: the driver is ready, ``accepted`` are the features, ``queues`` are set up."""

    def handle(self, index: int) -> None:
        """Look at the queue ``index``: its driver has said that there is something."""

    def requests(self, index: int) -> Iterator[Chain]:
        """Yield what is in the queue; the driver is told of what was pushed when that is all.

        A driver that never ceases is served in turns, so that it cannot keep the device's lock.
        """
        queue = self.queues[index]
        for _ in range(TURN):
            chain = queue.pop()
            if chain is not None:
                yield chain
            elif queue.rest():
                break
        else:
            self.kicks[index].signal()
        queue.signal()

    def vector_changed(self, index: int) -> None:
        """Another interrupt belongs to the queue ``index``, while the device runs."""

    def counters(self) -> Mapping[str, int]:
        """Return what has been counted since the device was made, and by its host's side."""
        return self.counts.copy()

    def stop(self) -> None:
        """End: the driver resets the device, or the machine ends. Nothing is touched after that."""

    def write_config(self, offset: int, size: int, value: int) -> None:
        """Take what the driver writes to the device's configuration; ignored unless overridden."""

    def close(self) -> None:
        """Give back what belongs to the device alone."""
