# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The socket device (Virtio 1.2, section 5.10): streams between guest and host, without a network.

The kernel's vhost-vsock does all of it.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from .device import VirtioDevice
from .queue import BrokenDriver
from .vhost import Ring

if TYPE_CHECKING:
    from .pci import Transport
    from .vhost import VhostVsock

_SEQPACKET = 1 << 1
_SERVED = (0, 1)  # receive and send


class Vsock(VirtioDevice):
    """The sockets of the guest ``cid``. Events (queue 2) are of migrations: there are none."""

    kind = 19
    name = "vsock"
    class_code = 0x07_80_00
    limits = (128, 128, 16)
    in_kernel = (0, 1, 2)

    def __init__(self, vhost: VhostVsock, cid: int) -> None:
        super().__init__()
        self._vhost = vhost
        self.features = vhost.features & _SEQPACKET
        self.config = bytearray(struct.pack("<Q", cid))

    def attach(self, transport: Transport) -> None:
        """Take the transport, once."""
        super().attach(transport)
        self._vhost.own()

    def start(self) -> None:
        """Let the kernel begin."""
        transport, queues = self.transport, self.queues
        if not all(queues[index].enabled for index in _SERVED):
            raise BrokenDriver("a socket device without its queues")
        rings = {
            index: Ring(queues[index], self.kicks[index], transport.vector_event(queues[index]))
            for index in _SERVED
        }
        self._vhost.start(transport.memory, self.accepted, rings)

    def vector_changed(self, index: int) -> None:
        """Let the kernel raise the queue's other interrupt."""
        self._vhost.set_call(index, self.transport.vector_event(self.queues[index]))

    def stop(self) -> None:
        """Let the kernel end."""
        self._vhost.stop()
