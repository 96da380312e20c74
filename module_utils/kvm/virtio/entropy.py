# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The entropy device (Virtio 1.2, section 5.4): the host's random numbers for the guest."""

from __future__ import annotations

import os

from .device import VirtioDevice
from .queue import copy_in

_MOST = 64 * 1024  # bytes for one request; a driver asks again for more


class Entropy(VirtioDevice):
    """Fills what it is given."""

    kind = 4
    name = "rng"
    limits = (64,)

    def handle(self, index: int) -> None:
        """Fill every buffer."""
        for chain in self.requests(index):
            wanted = min(sum(len(piece) for piece in chain.writable), _MOST)
            self.queues[index].push(chain.head, copy_in(chain.writable, os.urandom(wanted)))
            self.counts["bytes"] += wanted
