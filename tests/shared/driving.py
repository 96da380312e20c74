# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A guest's driver for a virtio device of the helper, and what stands for KVM: no /dev/kvm is used.

`Driver` goes the way of Linux's virtio_pci_modern (Virtio 1.2, sections 3.1 and 4.1): it finds the
function through the configuration ports and its structures through the capabilities, negotiates,
lays out split queues and gives each its vector. `Ring` is one queue, seen from the driver; a test
that wants it wrong writes what it likes with `Ring.describe` and `Ring.offer`.
"""

from __future__ import annotations

import select
import struct
from typing import TYPE_CHECKING, Any, Callable, Iterable, NamedTuple, Sequence

from ansible.module_utils.kvm.bus import Bus
from ansible.module_utils.kvm.errors import KvmError
from ansible.module_utils.kvm.events import Interrupts
from ansible.module_utils.kvm.pci import CONFIG_PORTS, PciBus
from ansible.module_utils.kvm.virtio.pci import Transport

if TYPE_CHECKING:
    from ansible.module_utils.kvm.memory import GuestMemory
    from ansible.module_utils.kvm.virtio.device import VirtioDevice

BAR = 0xC000_0000
NEXT, WRITE, INDIRECT_TABLE = 1, 2, 4  # flags of a descriptor
NO_INTERRUPT = 1  # of the available ring
ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NEEDS_RESET, FAILED = 1, 2, 4, 8, 64, 128
VERSION_1, INDIRECT, EVENT_INDEX = 1 << 32, 1 << 28, 1 << 29
EVERYTHING = (1 << 64) - 1  # all features that are offered
_MSI_ADDRESS, _FIRST_VECTOR = 0xFEE0_1000, 0x40


class FakeVm:
    """Remembers what a Transport asks of a VM, and refuses what KVM refuses."""

    def __init__(self) -> None:
        self.routing: list[bytes] = []
        self.routings = 0  # how often the routing was set
        self.irqfds: dict[int, int] = {}  # the interrupt by its eventfd
        self.notified: dict[int, int] = {}  # the eventfd by its address
        self.lines: list[tuple[int, int]] = []

    def set_routing(self, entries: Sequence[bytes]) -> None:
        """Take where every interrupt goes."""
        assert all(len(entry) == 48 for entry in entries)
        self.routing = list(entries)
        self.routings += 1

    def message(self, gsi: int) -> tuple[int, int] | None:
        """Return address and data of the message that an interrupt is, None if it is none."""
        for entry in self.routing:
            number, kind, _, _, low, high, data = struct.unpack_from("7I", entry)
            if (number, kind) == (gsi, 2):
                return high << 32 | low, data
        return None

    def irqfd(self, descriptor: int, gsi: int, *, assign: bool) -> None:
        """Tie an eventfd to an interrupt."""
        if not assign:
            self.irqfds.pop(descriptor, None)
            return
        if descriptor in self.irqfds:
            raise KvmError("cannot tie an interrupt: Device or resource busy")
        self.irqfds[descriptor] = gsi

    def ioeventfd(self, descriptor: int, address: int, *, assign: bool) -> None:
        """Tie an eventfd to an address."""
        if assign and address in self.notified:
            raise KvmError(f"cannot tie eventfd {descriptor} to {address:#x}: File exists")
        if not assign and self.notified.pop(address, None) != descriptor:
            raise KvmError(f"cannot untie eventfd {descriptor} from {address:#x}: No such file")
        if assign:
            self.notified[address] = descriptor

    def irq_line(self, irq: int, level: int) -> None:
        """Take the level of a line."""
        self.lines.append((irq, level))


class HandWorker:
    """A device's worker that works when it is told to, on the thread of the test."""

    def __init__(self) -> None:
        self.calls: dict[int, Callable[[], None]] = {}
        self.failures: list[BaseException] = []

    def watch(self, descriptor: int, call: Callable[[], None]) -> None:
        """Remember what is to be called when the descriptor can be read."""
        assert descriptor not in self.calls, "it is watched already"
        self.calls[descriptor] = call

    def unwatch(self, descriptor: int) -> None:
        """Forget the descriptor."""
        self.calls.pop(descriptor, None)

    def fail(self, error: BaseException) -> None:
        """Remember an error of a thread that belongs to the worker."""
        self.failures.append(error)

    def turn(self) -> bool:
        """Call what is due, each once; return whether anything was."""
        due = [descriptor for descriptor in self.calls if readable(descriptor)]
        for descriptor in due:
            call = self.calls.get(descriptor)
            if call is not None:
                call()
        return bool(due)


def readable(descriptor: int) -> bool:
    """Return whether there is something to read."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


class Used(NamedTuple):
    """What the device gave back: the head of the request, and how many bytes it says it wrote."""

    head: int
    length: int


class Ring:
    """A split queue (Virtio 1.2, section 2.7) at three places of the guest's memory."""

    def __init__(self, memory: GuestMemory, size: int, places: tuple[int, int, int]) -> None:
        self.memory = memory
        self.size = size
        self.table, self.avail, self.used = places
        self.event_index = False
        self.offered = 0  # how many requests were made
        self.seen = 0  # how many of them were found in the used ring
        self._announced = 0
        self._free = list(range(size))
        self._chains: dict[int, list[int]] = {}

    @staticmethod
    def lengths(size: int) -> tuple[int, int, int]:
        """Return the bytes of descriptors, available and used ring of a queue."""
        return 16 * size, 6 + 2 * size, 6 + 8 * size

    def _word(self, address: int) -> int:
        return int.from_bytes(self.memory.read(address, 2), "little")

    def _set_word(self, address: int, value: int) -> None:
        self.memory.write(address, (value & 0xFFFF).to_bytes(2, "little"))

    def begin_at(self, count: int) -> None:
        """Go on as if ``count`` requests had been made and given back before."""
        self.offered = self.seen = self._announced = count & 0xFFFF
        self._set_word(self.avail + 2, count)
        self._set_word(self.used + 2, count)

    def describe(
        self, index: int, address: int, length: int, flags: int = 0, following: int = 0
    ) -> None:
        """Write a descriptor of the table."""
        entry = struct.pack("<QIHH", address, length, flags, following)
        self.memory.write(self.table + 16 * index, entry)

    def offer(self, head: int, *, publish: bool = True) -> None:
        """Put a head into the available ring and let the device see it."""
        self._set_word(self.avail + 4 + 2 * (self.offered % self.size), head)
        self.offered = self.offered + 1 & 0xFFFF
        if publish:
            self.publish()

    def publish(self, count: int | None = None) -> None:
        """Say how many requests were made, in truth unless ``count`` is given."""
        self._set_word(self.avail + 2, self.offered if count is None else count)

    def add(
        self,
        out: Iterable[tuple[int, int]] = (),
        into: Iterable[tuple[int, int]] = (),
        *,
        indirect: int = 0,
        publish: bool = True,
    ) -> int:
        """Make a request of buffers to be read and to be written; return its head.

        Where ``indirect`` is an address, its descriptors stand there and one leads to them.
        """
        pieces = [(*one, 0) for one in out] + [(*one, WRITE) for one in into]
        assert pieces, "a request has a buffer at least"
        if indirect:
            slots = [self._free.pop(0)]
            for number, (address, length, flags) in enumerate(pieces):
                more = NEXT if number + 1 < len(pieces) else 0
                entry = struct.pack("<QIHH", address, length, flags | more, number + 1)
                self.memory.write(indirect + 16 * number, entry)
            self.describe(slots[0], indirect, 16 * len(pieces), INDIRECT_TABLE)
        else:
            slots = [self._free.pop(0) for _ in pieces]
            for number, (address, length, flags) in enumerate(pieces):
                last = number + 1 == len(pieces)
                following = 0 if last else slots[number + 1]
                self.describe(
                    slots[number], address, length, flags | (0 if last else NEXT), following
                )
        self._chains[slots[0]] = slots
        self.offer(slots[0], publish=publish)
        return slots[0]

    def wants_notification(self) -> bool:
        """Return whether the device wants to be told of what was added since the last call."""
        now, before = self.offered, self._announced
        self._announced = now
        if self.event_index:
            event = self._word(self.used + 4 + 8 * self.size)
            return now - event - 1 & 0xFFFF < now - before & 0xFFFF
        return not self._word(self.used) & 1

    def suppress(self, flag: bool) -> None:
        """Say by flag that no interrupt is wanted."""
        self._set_word(self.avail, NO_INTERRUPT if flag else 0)

    def ask_at(self, count: int) -> None:
        """Ask for an interrupt when ``count`` + 1 requests were given back (used_event)."""
        self._set_word(self.avail + 4 + 2 * self.size, count)

    def device_index(self) -> int:
        """Return how many requests the device says it gave back."""
        return self._word(self.used + 2)

    def collect(self) -> list[Used]:
        """Return what came back since the last call."""
        found = []
        now = self.device_index()
        assert now - self.seen & 0xFFFF <= self.size, "more came back than the ring holds"
        while self.seen != now:
            raw = self.memory.read(self.used + 4 + 8 * (self.seen % self.size), 8)
            one = Used(*struct.unpack("<II", raw))
            found.append(one)
            self._free += self._chains.pop(one.head, [])
            self.seen = self.seen + 1 & 0xFFFF
        return found


class Structure(NamedTuple):
    """One of the structures that a vendor's capability tells of: where it begins in the BAR."""

    offset: int
    length: int
    more: int = 0  # of the notify structure: the bytes between two queues


class Driver:
    """Drives ``device`` through a Transport on a bus of its own.

    Queues lie from ``queues_at`` on, buffers are given out from ``buffers_at`` on.
    """

    def __init__(
        self,
        device: VirtioDevice,
        memory: GuestMemory,
        *,
        queues_at: int = 0x10_0000,
        buffers_at: int = 0x20_0000,
        worker: Any = None,
    ) -> None:
        self.device = device
        self.memory = memory
        self.vm = FakeVm()
        self.bus = Bus()
        self.pci = PciBus()
        self.bus.add_ports(CONFIG_PORTS, 8, self.pci)
        vm: Any = self.vm
        hands: Any = HandWorker() if worker is None else worker
        self.worker = device.worker = hands
        self.transport = Transport(device, vm, memory, Interrupts(vm), BAR)
        self.number = self.pci.add(self.transport)
        self.transport.place(self.bus)
        self.rings: dict[int, Ring] = {}
        self.features = 0
        self._places = queues_at
        self._buffers = self._first_buffer = buffers_at
        self.structures: dict[int, Structure] = {}
        self.msix_at = self.table = self.pending = self.vectors = 0
        self.find()

    # The configuration space, through the ports.

    def config_read(self, offset: int, size: int) -> int:
        """Read the function's configuration space as a kernel does."""
        self.pci.write(0, 4, 1 << 31 | self.number << 11 | offset & 0xFC)
        return self.pci.read(4 + offset % 4, size) & (1 << 8 * size) - 1

    def config_write(self, offset: int, size: int, value: int) -> None:
        """Write the function's configuration space."""
        self.pci.write(0, 4, 1 << 31 | self.number << 11 | offset & 0xFC)
        self.pci.write(4 + offset % 4, size, value)

    def capabilities(self) -> list[tuple[int, int]]:
        """Return kind and place of every capability, in the order of the list."""
        found: list[tuple[int, int]] = []
        at = self.config_read(0x34, 1)
        while at:
            assert at % 4 == 0
            assert len(found) < 48, "the list of capabilities is a loop"
            found.append((self.config_read(at, 1), at))
            at = self.config_read(at + 1, 1)
        return found

    def find(self) -> None:
        """Look for the structures of 4.1.4 and for MSI-X."""
        assert self.config_read(0, 2) == 0x1AF4
        assert self.config_read(0x06, 2) & 1 << 4, "it has no capabilities"
        for kind, at in self.capabilities():
            if kind == 0x11:
                self.msix_at = at
                self.vectors = (self.config_read(at + 2, 2) & 0x7FF) + 1
                self.table = self.config_read(at + 4, 4)
                self.pending = self.config_read(at + 8, 4)
                assert not (self.table | self.pending) & 7, "they lie in BAR 0"
            if kind == 0x09 and self.config_read(at + 3, 1) not in self.structures:
                assert self.config_read(at + 4, 1) == 0
                place, length = self.config_read(at + 8, 4), self.config_read(at + 12, 4)
                more = self.config_read(at + 16, 4) if self.config_read(at + 3, 1) == 2 else 0
                self.structures[self.config_read(at + 3, 1)] = Structure(place, length, more)
        # Memory and bus mastering on, interrupt pins off.
        self.config_write(0x04, 2, 0x0406)

    # Registers of the BAR.

    def read(self, offset: int, size: int, structure: int = 1) -> int:
        """Read a register of the common configuration, or of another structure."""
        value = self.transport.read(self.structures[structure].offset + offset, size)
        return value & (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int, structure: int = 1) -> None:
        """Write a register of the common configuration, or of another structure."""
        self.transport.write(self.structures[structure].offset + offset, size, value)

    def device_config(self, offset: int, size: int) -> int:
        """Read the device's own configuration."""
        return self.read(offset, size, 4)

    @property
    def status(self) -> int:
        """The device's status."""
        return self.read(20, 1)

    def add_status(self, bits: int) -> None:
        """Set bits of the status, which keeps those that are set."""
        self.write(20, 1, self.status | bits)

    def offered(self) -> int:
        """Return the features that the device has."""
        found = 0
        for half in (0, 1):
            self.write(0, 4, half)
            found |= self.read(4, 4) << 32 * half
        return found

    # The life of a device (3.1.1).

    def reset(self) -> None:
        """Reset the device, and wait until it is."""
        self.write(20, 1, 0)
        assert self.status == 0
        self.rings = {}
        self._buffers = self._first_buffer

    def negotiate(self, features: int = EVERYTHING) -> bool:
        """Take those of ``features`` that are offered; return whether the device is content."""
        self.reset()
        self.add_status(ACKNOWLEDGE)
        self.add_status(DRIVER)
        self.features = features & self.offered()
        self.accept(self.features)
        self.add_status(FEATURES_OK)
        return bool(self.status & FEATURES_OK)

    def accept(self, features: int) -> None:
        """Write the features that the driver takes."""
        for half in (0, 1):
            self.write(8, 4, half)
            self.write(12, 4, features >> 32 * half & 0xFFFF_FFFF)

    def enable_msix(self) -> None:
        """Turn MSI-X on as Linux does: all masked, each message written, then let through."""
        self.config_write(self.msix_at + 2, 2, 1 << 15 | 1 << 14)
        for vector in range(self.vectors):
            at = self.table + 16 * vector
            self.transport.write(at + 12, 4, 1)
            self.transport.write(at, 4, _MSI_ADDRESS)
            self.transport.write(at + 4, 4, 0)
            self.transport.write(at + 8, 4, _FIRST_VECTOR + vector)
            self.transport.write(at + 12, 4, 0)
        self.config_write(self.msix_at + 2, 2, 1 << 15)

    def place(self, length: int, alignment: int = 64) -> int:
        """Return an address for a part of a queue."""
        at = -(-self._places // alignment) * alignment
        self._places = at + length
        return at

    def make_ring(self, index: int, size: int = 0) -> Ring:
        """Lay out a queue, of its greatest size unless stated, without telling the device."""
        self.write(22, 2, index)
        size = size or self.read(24, 2)
        places = tuple(self.place(length) for length in Ring.lengths(size))
        ring = Ring(self.memory, size, (places[0], places[1], places[2]))
        for at, length in zip(places, Ring.lengths(size)):
            self.memory.write(at, bytes(length))
        ring.event_index = bool(self.features & EVENT_INDEX)
        self.rings[index] = ring
        return ring

    def set_up(self, index: int, ring: Ring, vector: int | None = None) -> None:
        """Tell the device where a queue is, and enable it; its vector is its number and one."""
        self.write(22, 2, index)
        self.write(24, 2, ring.size)
        for offset, address in ((32, ring.table), (40, ring.avail), (48, ring.used)):
            self.write(offset, 4, address & 0xFFFF_FFFF)
            self.write(offset + 4, 4, address >> 32)
        self.write(26, 2, index + 1 if vector is None else vector)
        self.write(28, 2, 1)

    def start(self, features: int = EVERYTHING, sizes: dict[int, int] | None = None) -> None:
        """Bring the device up with all its queues, or those in ``sizes`` alone."""
        assert self.negotiate(features)
        self.enable_msix()
        self.write(16, 2, 0)
        assert self.read(16, 2) == 0
        count = self.read(18, 2)
        for index, size in (sizes or dict.fromkeys(range(count), 0)).items():
            self.set_up(index, self.make_ring(index, size))
        self.add_status(DRIVER_OK)
        self.work()

    # Requests.

    def buffer(self, data: bytes = b"", length: int = 0) -> tuple[int, int]:
        """Return a buffer that holds ``data`` and has ``length`` bytes at least."""
        length = max(length, len(data))
        at = self._buffers
        self._buffers += -(-length // 64) * 64
        self.memory.write(at, data.ljust(length, b"\0"))
        return at, length

    def content(self, buffer: tuple[int, int]) -> bytes:
        """Return what a buffer holds."""
        return self.memory.read(*buffer)

    def notify(self, index: int) -> None:
        """Notify the device of a queue, as a write that KVM does not turn into an event."""
        place = self.structures[2]
        self.transport.write(place.offset + place.more * index, 2, index)

    def work(self, turns: int = 1000) -> None:
        """Let the device's worker do what is due."""
        while isinstance(self.worker, HandWorker) and self.worker.turn():
            turns -= 1
            assert turns, "the device never ceases to work"

    def ask(
        self,
        index: int,
        out: Iterable[tuple[int, int]] = (),
        into: Iterable[tuple[int, int]] = (),
        *,
        indirect: bool = False,
    ) -> int:
        """Make a request, let the device work, and return the head of the request."""
        table = self.buffer(length=16 * 64)[0] if indirect else 0
        head = self.rings[index].add(out, into, indirect=table)
        if self.rings[index].wants_notification():
            self.notify(index)
        self.work()
        return head

    def interrupts(self, index: int | None = None) -> int:
        """Return how many interrupts of a queue came since the last call, 0 or 1.

        They go the way of its vector; None stands for changes of the configuration.
        """
        if index is None:
            number = self.read(16, 2)
        else:
            self.write(22, 2, index)
            number = self.read(26, 2)
        if number >= self.vectors:
            return 0
        event = self.transport.msix.vectors[number].event
        return int(event.fd in self.vm.irqfds and event.take())

    @property
    def broken(self) -> str:
        """What the device says that the driver did wrong; its status says that, too."""
        assert bool(self.status & NEEDS_RESET) == bool(self.transport.broken)
        return self.transport.broken

    def close(self) -> None:
        """Take the device away."""
        self.transport.close()
