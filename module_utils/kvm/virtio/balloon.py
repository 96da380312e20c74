# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The memory balloon (Virtio 1.2, section 5.5): pages of the guest that the host may use meanwhile.

What the guest puts into the balloon, and what it reports as free, is given back to the host at
once; touched again it is zeros. Memory of huge pages is kept (memory.allocate says why).
"""

from __future__ import annotations

import ctypes
import struct
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from ..memory import PAGE
from .device import VirtioDevice
from .queue import BrokenDriver, Chain, copy_out

if TYPE_CHECKING:
    from ..memory import GuestMemory

_HAS_STATS, _DEFLATE_ON_OOM, _CAN_REPORT = 1 << 1, 1 << 2, 1 << 5
_INFLATE, _DEFLATE = 0, 1
_STAT = struct.Struct("<HQ")
_MOST_PAGES = 4096  # of one request; drivers send 256 or 1,024
_MOST_STATS = 64
# VIRTIO_BALLOON_S_* by tag (5.5.6.3.1). Sizes are bytes.
STATS = (
    "swap_in",
    "swap_out",
    "majflt",
    "minflt",
    "memfree",
    "memtot",
    "avail",
    "caches",
    "htlb_pgalloc",
    "htlb_pgfail",
)


class Target:
    """What a guest is asked to get along with: ``size`` bytes, None for all. It outlives resets."""

    def __init__(self, size: int | None = None) -> None:
        self.size = size


class Balloon(VirtioDevice):
    """The balloon of a guest, blown up until ``target`` is met."""

    kind = 5
    name = "balloon"
    class_code = 0x05_80_00
    limits = (128, 128, 64, 64, 64)

    def __init__(self, target: Target, *, reporting: bool = True) -> None:
        super().__init__()
        self.features = _HAS_STATS | _DEFLATE_ON_OOM | (_CAN_REPORT if reporting else 0)
        self.config = bytearray(8)  # num_pages, actual
        self._target = target
        self._stats: dict[str, int] = {}
        self._held: int | None = None  # the request by which the driver is asked for more of them
        self._stats_queue = self._report_queue = -1
        self._told: threading.Condition | None = None

    def attach(self, transport: Any) -> None:
        """Take the transport, once."""
        super().attach(transport)
        self._told = threading.Condition(transport.lock)
        if self._memory.backing.page:
            self.features &= ~_CAN_REPORT
        self._set_pages()

    @property
    def _memory(self) -> GuestMemory:
        memory: GuestMemory = self.transport.memory
        return memory

    def start(self) -> None:
        """Find out which queue is which."""
        # By the specification the queue of reports is the fifth, whatever else there is; Linux and
        # QEMU count those queues alone that were agreed on. A driver sets up what it will use.
        following = 2
        if self.accepted & _HAS_STATS:
            self._stats_queue, following = 2, 3
        if self.accepted & _CAN_REPORT:
            self._report_queue = 4 if self.queues[4].enabled else following

    def stop(self) -> None:
        """End: the guest has all of its memory again."""
        self._held = None
        self._stats_queue = self._report_queue = -1
        self._stats = {}
        struct.pack_into("<I", self.config, 4, 0)

    def handle(self, index: int) -> None:
        """Look at a queue."""
        if index == _INFLATE:
            for chain in self.requests(index):
                self._take(chain)
                self.queues[index].push(chain.head, 0)
        elif index == self._stats_queue:
            for chain in self.requests(index):
                self._learn(chain)
        elif index == self._report_queue:
            for chain in self.requests(index):
                self._take_reported(chain)
                self.queues[index].push(chain.head, 0)
        else:  # deflated pages come back when they are touched
            for chain in self.requests(index):
                self.queues[index].push(chain.head, 0)

    def _take(self, chain: Chain) -> None:
        """Give the pages of a request back to the host: numbers of 4 KiB each, of 32 bits."""
        data = copy_out(chain.readable, 4 * _MOST_PAGES + 1)
        if len(data) % 4 or len(data) > 4 * _MOST_PAGES:
            raise BrokenDriver("a malformed list of pages")
        pages = sorted(struct.unpack(f"<{len(data) // 4}I", data))
        self.counts["inflated_pages"] += len(pages)
        at = 0
        while at < len(pages):
            first = last = pages[at]
            at += 1
            while at < len(pages) and pages[at] - last <= 1:
                last = pages[at]
                at += 1
            self._give_back(first * PAGE, (last + 1 - first) * PAGE)

    def _take_reported(self, chain: Chain) -> None:
        """Give back what the guest says that it does not use."""
        if sum(map(len, chain.writable)) > self._memory.size:
            raise BrokenDriver("reports of more memory than there is")
        self.counts["reports"] += 1
        for piece in chain.writable:
            if piece:
                anchor = ctypes.c_char.from_buffer(piece)
                place = ctypes.addressof(anchor)
                del anchor
                self._give_back(self._memory.guest_address(place), len(piece))

    def _give_back(self, address: int, length: int) -> None:
        try:
            region, offset = self._memory.find(address, length)
        except ConfigError as error:
            raise BrokenDriver(str(error)) from error
        if region in self._memory.devices:
            raise BrokenDriver(f"a page at {address:#x}, which belongs to a device")
        self.counts["returned_bytes"] += region.give_back(offset, length)

    def _learn(self, chain: Chain) -> None:
        """Read the statistics that the driver sends; keep the request until others are wanted."""
        if self._held is not None:
            self.queues[self._stats_queue].push(self._held, 0)
        self._held = chain.head
        data = copy_out(chain.readable, _MOST_STATS * _STAT.size)
        whole = data[: len(data) // _STAT.size * _STAT.size]
        self._stats = {
            STATS[tag]: value for tag, value in _STAT.iter_unpack(whole) if tag < len(STATS)
        }
        self.counts["stats"] += 1
        assert self._told is not None  # noqa: S101 - attached
        self._told.notify_all()

    def stats(self, wait: float = 0.0) -> dict[str, int]:
        """Return what the guest says of its memory, by the names in `STATS`; empty if nothing yet.

        The guest is asked for more, and its answer awaited for ``wait`` seconds at most. From any
        thread but the worker's.
        """
        told = self._told
        assert told is not None  # noqa: S101 - attached
        with told:
            if self._held is not None and self.transport.running:
                before = self.counts["stats"]
                self.transport.guarded(partial(self._ask))
                told.wait_for(lambda: self.counts["stats"] != before, wait)
            return dict(self._stats)

    def _ask(self) -> None:
        """Give the driver its request back, upon which it sends another."""
        queue = self.queues[self._stats_queue]
        if self._held is not None:
            queue.push(self._held, 0)
            self._held = None
            queue.signal()

    def target(self, size: int | None) -> None:
        """Ask the guest to get along with ``size`` bytes, None: with all. From any thread."""
        with self.transport.lock:
            self._target.size = size
            self._set_pages()
            if self.transport.running:
                self.transport.config_changed()

    def _set_pages(self) -> None:
        wanted, size = self._target.size, self._memory.size
        pages = 0 if wanted is None else max(size - wanted, 0) // PAGE
        struct.pack_into("<I", self.config, 0, min(pages, 0xFFFF_FFFF))

    @property
    def actual(self) -> int:
        """The bytes in the balloon, as the driver says."""
        pages = int.from_bytes(self.config[4:], "little")
        return min(pages * PAGE, self._memory.size)

    def write_config(self, offset: int, size: int, value: int) -> None:
        """Take ``actual`` from the driver."""
        if (offset, size) == (4, 4):
            struct.pack_into("<I", self.config, 4, value)
