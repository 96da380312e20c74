# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The guest's side of a virtio device, as little of a driver as the device tests need.

It speaks to a Transport by its registers and lays its queues out in guest memory. No KVM is there:
what a vCPU or a worker would do is called at once.
"""

from __future__ import annotations

import struct

from ansible.module_utils.kvm.events import Interrupts
from ansible.module_utils.kvm.virtio.pci import Transport

BAR = 0xC000_0000
VERSION_1 = 1 << 32
NEXT, WRITE = 1, 2
ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NEEDS_RESET = 1, 2, 4, 8, 64
SIZE = 64  # descriptors of each queue
AREA = 0x4000  # bytes for the three parts of a queue
QUEUES, BUFFERS = 0x10_0000, 0x20_0000  # where they lie in the guest


class NoVm:
    """Takes what a Transport asks of a VM."""

    def set_routing(self, entries):
        """Take a table of interrupts."""

    def irqfd(self, descriptor, gsi, *, assign):
        """Take an interrupt."""

    def ioeventfd(self, descriptor, address, *, assign):
        """Take a notify address."""


class Driver:
    """Drives ``device`` in ``memory``, which must have 4 MiB at least."""

    def __init__(self, device, memory):
        self.device = device
        self.memory = memory
        vm = NoVm()
        self.transport = Transport(device, vm, memory, Interrupts(vm), BAR)
        self._next = {}
        self._seen = {}
        self._buffers = BUFFERS

    def status(self):
        return self.transport.read(20, 1)

    def offered(self):
        found = 0
        for half in (0, 1):
            self.transport.write(0, 4, half)
            found |= self.transport.read(4, 4) << 32 * half
        return found

    def config(self, offset, size):
        return self.transport.read(0x200 + offset, size)

    def begin(self, features=0, queues=None, place=QUEUES):
        """Take ``features`` and start with the queues of these numbers, all unless stated."""
        transport = self.transport
        transport.write(20, 1, ACKNOWLEDGE | DRIVER)
        for half in (0, 1):
            transport.write(8, 4, half)
            transport.write(12, 4, (features | VERSION_1) >> 32 * half & 0xFFFF_FFFF)
        transport.write(20, 1, ACKNOWLEDGE | DRIVER | FEATURES_OK)
        assert self.status() & FEATURES_OK
        for index in range(len(transport.queues)) if queues is None else queues:
            at = place + index * AREA
            self.memory.write(at, bytes(AREA))
            transport.write(22, 2, index)
            transport.write(24, 2, SIZE)
            transport.write(26, 2, index)
            for offset, part in ((32, 0), (40, 0x1000), (48, 0x2000)):
                transport.write(offset, 4, at + part)
                transport.write(offset + 4, 4, 0)
            transport.write(28, 2, 1)
            self._next[index] = self._seen[index] = 0
        transport.write(20, 1, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK)

    def reset(self):
        self.transport.write(20, 1, 0)

    def buffer(self, data):
        """Put ``data`` somewhere and return the address."""
        at = self._buffers
        self._buffers += -(-len(data) // 16) * 16
        self.memory.write(at, data)
        return at

    def add(self, index, readable=(), writable=()):
        """Make a request of buffers, each an address and a length; return its head."""
        at = QUEUES + index * AREA
        pieces = [(*one, 0) for one in readable] + [(*one, WRITE) for one in writable]
        count = self._next[index]
        head = 8 * count % SIZE  # of eight pieces at most
        for number, (address, length, flags) in enumerate(pieces):
            more = NEXT if number + 1 < len(pieces) else 0
            entry = struct.pack("<QIHH", address, length, flags | more, head + number + 1)
            self.memory.write(at + 16 * (head + number), entry)
        self.memory.write(at + 0x1000 + 4 + 2 * (count % SIZE), struct.pack("<H", head))
        self._next[index] = count + 1
        self.memory.write(at + 0x1000 + 2, struct.pack("<H", count + 1))
        return head

    def send(self, index, *data):
        """Make a request of bytes to be read, notify, and return its head."""
        head = self.add(index, [(self.buffer(one), len(one)) for one in data])
        self.notify(index)
        return head

    def notify(self, index):
        self.transport.write(0x2000 + 4 * index, 2, index)
        if index not in self.device.in_kernel:
            self.transport._kicked(index)

    def used(self, index):
        """Return what came back since the last call: heads, and bytes written."""
        at = QUEUES + index * AREA + 0x2000
        (now,) = struct.unpack("<H", self.memory.read(at + 2, 2))
        back = []
        while self._seen[index] != now:
            place = at + 4 + 8 * (self._seen[index] % SIZE)
            back.append(struct.unpack("<II", self.memory.read(place, 8)))
            self._seen[index] = self._seen[index] + 1 & 0xFFFF
        return back

    def interrupted(self, index):
        """Return whether the queue's interrupt was raised, and forget it."""
        return self.transport.msix.vectors[index].event.take()

    def broken(self):
        return bool(self.status() & NEEDS_RESET) and self.transport.broken

    def close(self):
        self.transport.close()
