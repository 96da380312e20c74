# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hostile drivers: mutated queues and register sequences against every device.

Each round is a driver's life with one device. What must hold: nothing is raised but what the code
handles itself; every step ends; no byte changes in the guest's memory but those of buffers that the
driver gave to be written and of used rings; what comes back was given, with no more bytes than it
had room for; no page around the guest's memory changes. Which chains are good, and where they may
be written, is found out by a walk of this file's own. The seed is fixed: a failure names the round,
and the same round gives the same life.
"""

from __future__ import annotations

import mmap
import os
import random
import signal
import socket
import struct
import sys
import time
from array import array
from contextlib import contextmanager, suppress

import pytest
from ansible.module_utils.kvm.errors import KvmError
from ansible.module_utils.kvm.memory import GAP_END, PAGE, GuestMemory, Region
from ansible.module_utils.kvm.virtio.balloon import Balloon, Target
from ansible.module_utils.kvm.virtio.block import Block
from ansible.module_utils.kvm.virtio.console import Port, VirtioConsole
from ansible.module_utils.kvm.virtio.device import EVENT_INDEX, INDIRECT
from ansible.module_utils.kvm.virtio.entropy import Entropy
from ansible.module_utils.kvm.virtio.fs import FileSystem
from ansible.module_utils.kvm.virtio.net import Net
from ansible.module_utils.kvm.virtio.pmem import Pmem
from ansible.module_utils.kvm.virtio.vsock import Vsock
from driving import (
    BAR,
    DRIVER_OK,
    EVERYTHING,
    FEATURES_OK,
    INDIRECT_TABLE,
    NEXT,
    VERSION_1,
    WRITE,
    Driver,
    Ring,
)

SEED = 20261128
SECONDS = 6.0  # of the short form
SOAK_CASES = 1_000_000
LONGEST = 5.0  # seconds for one round, by far: the machine may be busy
TURNS = 200  # of a device's worker after one notification, by far
LOW, HIGH = 0x2_0000, 0x8000  # bytes from 0 and from 4 GiB on
RINGS, TABLES, DATA = 0x1000, 0x8000, 0x1_0000  # where the driver has what; data goes to LOW
RING_SPACE = 0x800
CANARY = b"\xc5\x3a" * (PAGE // 2)
TOP = 1 << 64
EXTREMES = (
    *(0, 1, LOW - 1, LOW - 16, LOW, LOW + PAGE, GAP_END - 1, GAP_END, GAP_END + HIGH - 1),
    *(GAP_END + HIGH, 0xC000_0000, 0xFEE0_0000, 0xFFFF_FFFF, 1 << 32, 1 << 63, TOP - PAGE, TOP - 1),
)
LENGTHS = (0, 1, 15, 16, 17, 511, 512, PAGE, LOW, LOW + 1, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF)
WORDS = (0, 1, 2, 7, 8, 9, 15, 16, 63, 64, 65, 127, 128, 255, 256, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF)
# Of struct virtio_pci_common_cfg, but for the status: place and size.
FIELDS = (
    *((0, 4), (8, 4), (12, 4), (16, 2), (22, 2), (24, 2), (26, 2), (28, 2)),
    *((32, 8), (40, 8), (48, 8), (32, 4), (36, 4), (44, 4), (52, 4)),
)


class Dice(random.Random):
    """Chance, in a tenth of the time that `random` takes for fair chance."""

    def below(self, count):
        return int(self.random() * count)

    def pick(self, some):
        return some[int(self.random() * len(some))]


# The guest's memory.


def guarded(start, size, returns=None):
    """Return a region with a page behind it that nobody may touch."""
    fd = os.memfd_create("fuzz")
    os.ftruncate(fd, size + PAGE)
    mapping = mmap.mmap(fd, size + PAGE)
    mapping[size:] = CANARY
    return Region(start, size, mapping, fd, returns=returns)


class Memory(GuestMemory):
    """A small guest: memory from 0, memory from 4 GiB, and what devices have behind that."""

    def __init__(self, more=(), returns=None):
        super().__init__(PAGE)
        self.close()
        self.size = LOW + HIGH
        self.devices = tuple(more)
        self.regions = [guarded(0, LOW, returns), guarded(GAP_END, HIGH, returns)]
        for region in more:
            region.start = 5 << 30
            self.regions.append(region)
        # Of fixed content, none of it zero, with marks that tell places apart.
        marks = array("H", range(0x0101, 0xFF01)).tobytes()
        self.pristine = [(marks * 3)[: region.size] for region in self.regions]
        self.restore()

    def restore(self):
        for region, content in zip(self.regions, self.pristine):
            if not region.read_only:
                region.map[: region.size] = content

    def contents(self):
        return [region.map[: region.size] for region in self.regions]

    def check_guards(self):
        for region in self.regions:
            if region not in self.devices:
                assert region.map[region.size :] == CANARY, "a page behind memory was written"

    def has(self, address, length):
        return any(
            region.start <= address and address + length <= region.start + region.size
            for region in self.regions
        )

    def writable(self, address, length):
        return any(
            region.start <= address and address + length <= region.start + region.size
            for region in self.regions
            if not region.read_only
        )


def walk(memory, table, size, head):
    """Follow a chain as the specification has it: the ranges that may be written, None if broken.

    In 2.7.5.3 and 2.7.4.2: tables neither nest nor have a next, what is readable comes first.
    """
    count, base, indirect, index, left = size, table, False, head, size
    ranges, pieces, writing = [], 0, False
    while True:
        if index >= count or not left:
            return None
        left -= 1
        raw = memory.read(base + 16 * index, 16)
        address, length, flags, following = struct.unpack("<QIHH", raw)
        if flags & INDIRECT_TABLE:
            wrong = indirect or flags & NEXT or not length or length % 16
            if wrong or not memory.has(address, length):
                return None
            indirect, base, index = True, address, 0
            count = left = min(length // 16, 1024)
            continue
        pieces += 1
        if flags & WRITE:
            writing = True
            if not memory.writable(address, length):
                return None
            ranges.append((address, length))
        elif writing or not memory.has(address, length):
            return None
        if pieces > 1024:
            return None
        if not flags & NEXT:
            return ranges
        index = following


# What stands for the host.


class Disk:
    """A disk that notices what is outside of it."""

    path = "memory"

    def __init__(self, *, read_only=False):
        self.size = 1 << 16
        self.read_only = read_only
        self.content = bytearray(self.size)

    def _check(self, offset, length):
        assert 0 <= offset <= self.size - length
        assert offset % 512 == length % 512 == 0

    def read(self, buffers, offset, *, wait):
        self._check(offset, sum(map(len, buffers)))
        assert len(buffers) <= 1024
        if not wait and offset % 3 == 0:
            return False
        if offset % 7 == 0:
            raise OSError(5, "Input/output error")
        for piece in buffers:
            piece[:] = self.content[offset : offset + len(piece)]
            offset += len(piece)
        return True

    def write(self, buffers, offset):
        assert not self.read_only
        assert len(buffers) <= 1024
        data = b"".join(buffers)
        self._check(offset, len(data))
        self.content[offset : offset + len(data)] = data

    def flush(self):
        pass

    def discard(self, offset, length):
        assert not self.read_only
        self._check(offset, length)

    def zero(self, offset, length, *, unmap):
        self.discard(offset, length)
        self.content[offset : offset + length] = bytes(length)

    def close(self):
        pass


class AtOnce:
    """Carries out a block device's tasks on the thread that brings them."""

    def submit(self, task, waiting):
        task()

    def close(self):
        pass


class Tap:
    """A tap whose other ends are sockets."""

    name, mtu = "fuzz", 1500

    def __init__(self, queues):
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(queues)]
        self.ours, self.host = zip(*pairs)
        for one in (*self.ours, *self.host):
            one.setblocking(False)
        self.fds = [one.fileno() for one in self.ours]

    def set_offload(self, offload):
        pass

    def switch(self, queue, *, on):
        assert 0 <= queue < len(self.fds)

    def discard(self, queue):
        with suppress(BlockingIOError):
            while True:
                os.read(self.fds[queue], 1)

    def statistics(self):
        return {}

    def drain(self):
        for one in self.host:
            with suppress(BlockingIOError):
                while True:
                    one.recv(1 << 17)

    def close(self):
        for one in (*self.ours, *self.host):
            one.close()


class Kernel:
    """Stands for vhost, and for a daemon of vhost-user: serves nothing, checks what it is given."""

    closed = False

    def __init__(self):
        self.features = EVERYTHING
        self.serving = {}

    def own(self):
        pass

    def negotiate(self):
        return VERSION_1 | INDIRECT | EVENT_INDEX

    def alive(self):
        return True

    def _take(self, memory, index, queue):
        assert queue.enabled
        sizes = Ring.lengths(queue.size)
        for place, size in zip(queue.host_addresses(), sizes):
            inside = [r for r in memory if r.address <= place <= r.address + r.size - size]
            assert inside, "a part of a queue outside of the guest's memory"
        self.serving[index] = queue

    def start(self, *arguments):
        if isinstance(arguments[0], GuestMemory):  # vhost: memory, features, rings
            memory, _, rings = arguments
            for index, ring in rings.items():
                self._take(memory.regions, index, ring.queue)
            return
        _, regions, queues = arguments
        for index, queue, *_ in queues:
            self._take(regions, index, queue)

    def set_call(self, index, event):
        pass

    def stop(self, *_):
        self.serving = {}


class Share(Kernel):
    """A shared folder."""

    tag = "fuzz"

    @property
    def front_end(self):
        return self

    def let_go(self, regions):
        """Have nothing of the guest's memory any more; no queue is served by then."""
        assert not self.serving
        assert all(region.fd >= 0 and not region.read_only for region in regions)


# The devices: each with what its driver would ask, and with what comes from outside meanwhile.


def some_bytes(generator, most=64):
    return generator.getrandbits(8 * most).to_bytes(most, "little")[: generator.below(most + 1)]


class Subject:
    """A device under attack. What is not said here is that of a device without surprises."""

    strict = True  # nothing but buffers and used rings may change in memory
    more = ()  # regions of the guest's memory that belong to the device
    returns = None

    def make(self):
        raise NotImplementedError

    def request(self, generator, index):
        """Return pieces to be read and lengths to be written of a plausible request."""
        return [some_bytes(generator)], [generator.pick((1, 16, 64, 512))]

    def outside(self, generator):
        """Let something happen that the driver has no part in."""

    def check(self, driver):
        """Check what is left when the driver has reset the device."""

    def close(self):
        pass


class BlockSubject(Subject):
    def __init__(self, *, threads=False, read_only=False, queues=1):
        self.threads, self.read_only, self.queues = threads, read_only, queues

    def make(self):
        device = Block(Disk(read_only=self.read_only), "fuzz", self.queues)
        if not self.threads:
            device._pool = AtOnce()
        return device

    def request(self, generator, index):
        kind = generator.pick((0, 0, 0, 1, 1, 4, 8, 11, 13, 2, generator.getrandbits(32)))
        sector = generator.pick((0, 1, 7, 100, 127, 128, generator.getrandbits(64)))
        header = struct.pack("<IIQ", kind, generator.getrandbits(32), sector)
        into = [generator.pick((512, 1024, 4096, 512, 100)) for _ in range(generator.below(3))]
        out = []
        if kind == 1:
            into, out = [], [b"w" * generator.pick((512, 1024, 100))]
        if kind in {11, 13}:
            one = struct.pack("<QII", sector & 0xFF, generator.below(9), generator.below(3))
            into, out = [], [one * generator.pick((1, 1, 2, 16, 17))]
        if generator.below(8) == 0:
            return [header[:9], header[9:], *out], [*into, 1]
        return [header, *out], [*into, 1]


class ConsoleSubject(Subject):
    def make(self):
        self.output = 0
        names = ("", "org.example.0", "b")
        self.device = VirtioConsole([Port(name, self._take) for name in names])
        return self.device

    def _take(self, data):
        assert len(data) <= 1 << 16
        self.output += len(data)

    def request(self, generator, index):
        if index == 3:
            event = generator.pick((0, 3, 3, 6, generator.getrandbits(16)))
            port = generator.pick((0, 1, 2, 3, 0xFFFF_FFFF))
            return [struct.pack("<IHH", port, event, generator.below(2))], []
        if index % 2:
            return [some_bytes(generator) for _ in range(1 + generator.below(3))], []
        return [], [generator.pick((1, 8, 64)) for _ in range(1 + generator.below(2))]

    def outside(self, generator):
        if generator.below(3) == 0:
            self.device.resize(generator.getrandbits(16), generator.getrandbits(16))
        else:
            data = bytes(generator.pick((1, 10, 100, 70_000)))
            taken = self.device.receive(data, generator.below(3))
            assert 0 <= taken <= len(data)
        assert all(self.device.waiting(number) <= 1 << 16 for number in range(3))

    def check(self, driver):
        assert not any(self.device.waiting(number) for number in range(3))


class EntropySubject(Subject):
    def make(self):
        return Entropy()

    def request(self, generator, index):
        return [], [generator.pick((1, 16, 64, 4096)) for _ in range(1 + generator.below(3))]


class BalloonSubject(Subject):
    """With ``returns`` it gives pages back, which are zeros then."""

    def __init__(self, returns=None):
        self.returns = returns
        self.strict = returns is None

    def make(self):
        self.device = Balloon(Target(LOW))
        return self.device

    def request(self, generator, index):
        if index < 2:
            pages = (
                16,
                17,
                LOW // PAGE - 1,
                LOW // PAGE,
                GAP_END // PAGE,
                generator.getrandbits(32),
            )
            count = generator.pick((1, 2, 30))
            return [struct.pack(f"<{count}I", *(generator.pick(pages) for _ in range(count)))], []
        if index == 2:
            stat = struct.pack("<HQ", generator.below(12), generator.getrandbits(64))
            return [stat * generator.below(5), some_bytes(generator, 11)], []
        return [], [generator.pick((PAGE, 2 * PAGE, 100))]

    def outside(self, generator):
        if generator.below(2):
            self.device.target(generator.pick((None, 0, PAGE, LOW, 1 << 40)))
        else:
            self.device.stats()
        assert 0 <= self.device.actual <= LOW + HIGH


class NetSubject(Subject):
    def __init__(self, queues=1, *, vhost=False):
        self.queues = queues
        self.tap = Tap(queues)
        self.vhosts = [Kernel() for _ in range(queues)] if vhost else []

    def make(self):
        return Net(self.tap, b"\2vfuzz", self.vhosts)

    def request(self, generator, index):
        if index == 2 * self.queues:
            command = struct.pack("<BBH", 4, 0, generator.below(self.queues + 2))
            return [command], [1]
        if index % 2:
            return [some_bytes(generator, 12).ljust(12, b"\0"), some_bytes(generator)], []
        return [], [generator.pick((12, 64, 1526, 2048))]

    def outside(self, generator):
        self.tap.drain()
        sender = generator.pick(self.tap.host)
        with suppress(BlockingIOError):
            sender.send(bytes(12) + b"f" * generator.pick((0, 1, 60, 1500, 9000, 60_000)))

    def check(self, driver):
        assert not any(vhost.serving for vhost in self.vhosts)

    def close(self):
        self.tap.close()


class PmemSubject(Subject):
    def __init__(self, *, read_only=False):
        fd = os.memfd_create("pmem")
        os.ftruncate(fd, 16 * PAGE)
        mapping = mmap.mmap(fd, 16 * PAGE)
        self.region = Region(0, 16 * PAGE, mapping, fd, read_only=read_only)
        self.more = (self.region,)

    def make(self):
        return Pmem(self.region)

    def request(self, generator, index):
        kind = generator.pick((0, 0, 0, 1, generator.getrandbits(32)))
        return [struct.pack("<I", kind)], [generator.pick((4, 4, 4, 8, 3))]

    def close(self):
        self.region.close()


class ServedSubject(Subject):
    """A device whose queues somebody else serves."""

    def __init__(self, make, served):
        self.make = lambda: make(served)
        self.served = served

    def check(self, driver):
        assert not self.served.serving


SUBJECTS = {
    "block": BlockSubject,
    "block of several queues": lambda: BlockSubject(queues=3),
    "block, read-only": lambda: BlockSubject(read_only=True),
    "block with its threads": lambda: BlockSubject(threads=True),
    "console": ConsoleSubject,
    "entropy": EntropySubject,
    "balloon": BalloonSubject,
    "balloon that gives back": lambda: BalloonSubject(mmap.MADV_REMOVE),
    "net": NetSubject,
    "net of several queues": lambda: NetSubject(3),
    "net with vhost": lambda: NetSubject(2, vhost=True),
    "pmem": PmemSubject,
    "pmem, read-only": lambda: PmemSubject(read_only=True),
    "vsock": lambda: ServedSubject(lambda kernel: Vsock(kernel, 3), Kernel()),
    "fs": lambda: ServedSubject(FileSystem, Share()),
}


# The driver.


class Bench:
    """One device with its hostile driver, used for many rounds."""

    def __init__(self, name):
        self.name = name
        self.subject = SUBJECTS[name]()
        self.memory = Memory(self.subject.more, self.subject.returns)
        self.driver = Driver(self.subject.make(), self.memory)
        self.transport = self.driver.transport
        self.limits = [queue.limit for queue in self.transport.queues]
        self.cases = self.breaks = self.back = 0
        self.driver.enable_msix()

    def round(self, generator):
        self.memory.restore()
        self.generator = generator
        before = self.transport.device.counts["broken"]
        if generator.below(4):
            self.layouts()
        else:
            self.registers()
        self.breaks += self.transport.device.counts["broken"] - before
        # The end of every life: the driver resets, and all is as before.
        self.driver.reset()
        assert self.transport.broken == ""
        assert not self.transport.running
        assert not self.driver.worker.calls, "something is watched after a reset"
        assert not any(queue.enabled for queue in self.transport.queues)
        assert not self.driver.worker.failures
        self.subject.check(self.driver)
        after = self.memory.contents()
        self.outside()
        self.driver.work(TURNS)
        assert self.memory.contents() == after, "memory changed after the reset"
        self.memory.check_guards()

    def outside(self):
        if self.generator.below(2):
            self.subject.outside(self.generator)

    # Queues.

    def start(self):
        generator, driver = self.generator, self.driver
        features = EVERYTHING
        if generator.below(2):
            features = generator.getrandbits(64) | VERSION_1
        assert driver.negotiate(features)
        count = len(self.limits)
        chosen = (
            range(count)
            if generator.below(4)
            else sorted(generator.sample(range(count), generator.below(count + 1)))
        )
        self.rings = {}
        for index in chosen:
            size = min(generator.pick((1, 2, 4, 8, 8, 8, 16, 64)), self.limits[index])
            at = RINGS + RING_SPACE * index
            if generator.below(16) == 0:
                at = GAP_END + RING_SPACE * index % (HIGH - RING_SPACE)
            table, avail, _ = Ring.lengths(size)
            places = [at, at + table, at + table + avail + 3 & ~3]
            self.memory.write(at, bytes(RING_SPACE))
            if generator.below(16) == 0:
                self.to_the_edge(places, Ring.lengths(size))
            ring = Ring(self.memory, size, tuple(places))
            if not all(map(self.memory.has, places, Ring.lengths(size))):
                driver.set_up(index, ring)
                assert self.transport.broken, "a queue that reaches out of memory"
                continue
            self.rings[index] = ring
            driver.set_up(index, ring, generator.pick((index + 1, 0, 0xFFFF)))
        driver.add_status(DRIVER_OK)
        self.given = {index: {} for index in self.rings}  # by head: the most room that it had
        self.allowed = set()
        spans = sorted(span for ring in self.rings.values() for span in self.spans(ring))
        crossing = any(one[0] + one[1] > other[0] for one, other in zip(spans, spans[1:]))
        self.wild = crossing or not self.subject.strict
        self.learn()
        self.driver.work(TURNS)  # queues are looked at once at the start
        self.look()

    def to_the_edge(self, places, lengths):
        """Move a part of a queue to where memory ends, or a little beyond that."""
        part = self.generator.below(3)
        alignment = (16, 2, 4)[part]
        end = self.generator.pick((LOW, GAP_END + HIGH))
        at = (end - lengths[part]) & -alignment
        places[part] = at + alignment * self.generator.below(3)
        if self.memory.has(places[part], lengths[part]):
            self.memory.write(places[part], bytes(lengths[part]))

    def learn(self):
        """Find out what the device may do from now on, as it stands in memory."""
        for index, ring in self.rings.items():
            raw = self.memory.read(ring.avail + 4, 2 * ring.size)
            for (head,) in set(struct.iter_unpack("<H", raw)):
                ranges = walk(self.memory, ring.table, ring.size, head)
                if ranges is None:
                    continue
                room = sum(length for _, length in ranges)
                self.given[index][head] = max(self.given[index].get(head, 0), room)
                self.allowed.update(ranges)
        # Who lets the device write to rings and tables has no right to anything any more.
        if any(length and self.holds(address, length) for address, length in self.allowed):
            self.wild = True
        self.before = self.memory.contents()

    @staticmethod
    def spans(ring):
        return zip((ring.table, ring.avail, ring.used), Ring.lengths(ring.size))

    def holds(self, address, length):
        """Tell whether rings or tables lie there."""
        if address < DATA:
            return True
        for ring in self.rings.values():
            for place, size in self.spans(ring):
                if place < address + length and address < place + size:
                    return True
        return False

    def in_high(self):
        return any(
            max(ring.table, ring.avail, ring.used) >= GAP_END for ring in self.rings.values()
        )

    def settle(self):
        """Wait for the device's own threads."""
        device = self.transport.device
        deadline = time.monotonic() + LONGEST
        while getattr(device, "_waiting", 0) or getattr(device, "_flushing", False):
            assert time.monotonic() < deadline, "the device's threads do not come to an end"
            time.sleep(0)

    def look(self):
        self.memory.check_guards()
        assert not self.driver.worker.failures, self.driver.worker.failures
        assert bool(self.driver.status & 64) == bool(self.transport.broken)
        if self.wild:
            return
        after = self.memory.contents()
        used = [(ring.used, Ring.lengths(ring.size)[2]) for ring in self.rings.values()]
        wanted = [bytearray(content) for content in self.before]
        for address, length in (*self.allowed, *used):
            for number, region in enumerate(self.memory.regions):
                offset = address - region.start
                if 0 <= offset < region.size:
                    end = offset + length
                    wanted[number][offset:end] = after[number][offset:end]
        assert after == wanted, "memory was written that nobody gave"
        self.before = after
        for index, ring in self.rings.items():
            for head, length in ring.collect():
                assert head in self.given[index], f"{head} came back and was never given"
                assert length <= self.given[index][head], f"{length} bytes in a smaller buffer"
                self.back += 1

    def layouts(self):
        generator = self.generator
        self.start()
        for _ in range(generator.pick((1, 4, 8, 16))):
            for index in self.rings:
                if len(self.rings) == 1 or generator.below(2):
                    self.lay_out(index)
                    self.cases += 1
            for index in self.rings:
                if generator.below(4):
                    self.driver.notify(index)
            if generator.below(4) == 0:
                self.driver.notify(generator.below(len(self.limits) + 2))
            self.learn()
            self.outside()
            self.driver.work(TURNS)
            self.settle()
            self.look()
            if self.transport.broken and generator.below(4):
                break  # else the driver goes on, and nothing may come of it

    def lay_out(self, index):
        """Put some requests into a queue, and spoil a few things."""
        generator, ring = self.generator, self.rings[index]
        slot = generator.below(ring.size)
        for _ in range(generator.pick((1, 1, 2, 4))):
            pieces = self.pieces(index)
            indirect = self.transport.offered & INDIRECT and generator.below(3) == 0
            if indirect or len(pieces) > ring.size:
                pieces = [self.table_of(pieces)]
            slots = [(slot + number) % ring.size for number in range(len(pieces))]
            entries = self.chained(pieces, slots)
            self.spoil(entries)
            for number, entry in zip(slots, entries):
                self.memory.write(ring.table + 16 * number, struct.pack("<QIHH", *entry))
            head = generator.pick(WORDS) if generator.below(60) == 0 else slot
            ring.offer(head, publish=False)
            slot = (slot + len(pieces)) % ring.size
        if generator.below(60) == 0:
            ring.offered = ring.offered + generator.pick((1, ring.size, 0x8000, 0xFFFF)) & 0xFFFF
        ring.publish()
        if generator.below(8) == 0:
            ring.suppress(bool(generator.below(2)))
        if generator.below(4) == 0:
            ring.ask_at(generator.pick((ring.offered, *WORDS)))

    def pieces(self, index):
        """Return the buffers of a request: address, length and flags of each."""
        generator = self.generator
        out, into = self.subject.request(generator, index)
        if generator.below(8) == 0:
            out, into = [some_bytes(generator)], [generator.below(600)]
        return [(self.place(len(data), data), len(data), 0) for data in out] + [
            (self.place(length), length, WRITE) for length in into
        ]

    def table_of(self, pieces):
        """Describe buffers in a table; return that as a buffer."""
        at = TABLES + 16 * self.generator.below(0x700)
        entries = self.chained(pieces, range(len(pieces)))
        self.spoil(entries)
        self.memory.write(at, b"".join(struct.pack("<QIHH", *one) for one in entries))
        return at, 16 * len(entries), INDIRECT_TABLE

    @staticmethod
    def chained(pieces, slots):
        """Return descriptors of the pieces that lead from each to the next."""
        entries = [[*piece, 0] for piece in pieces]
        for entry, following in zip(entries, list(slots)[1:]):
            entry[2] |= NEXT
            entry[3] = following
        return entries

    def place(self, length, data=None):
        """Return an address for a buffer, and fill it."""
        generator = self.generator
        if generator.below(8) == 0 and not self.in_high() and length <= HIGH:
            at = GAP_END + generator.pick((0, HIGH - length, generator.below(HIGH - length + 1)))
        else:
            room = LOW - DATA - length
            at = DATA + generator.pick((0, room, generator.below(room + 1)))
        if data:
            self.memory.write(at, data)
            self.wild |= self.holds(at, length)
        return at

    def spoil(self, entries):
        """Change a little of some descriptors, of one table in eight."""
        generator = self.generator
        if generator.below(8):
            return
        for _ in range(generator.pick((1, 1, 2))):
            entry = generator.pick(entries)
            field = generator.below(8)
            if field < 2:
                near = entry[0] + generator.pick((-1, 1, -16, 16, 512))
                entry[0] = generator.pick((*EXTREMES, near, near)) % TOP
            elif field < 4:
                near = entry[1] + generator.pick((-1, 1, -16, 16, 512))
                entry[1] = generator.pick((*LENGTHS, near, near)) & 0xFFFF_FFFF
            elif field == 4:
                # A table, in a table or beside one: as good a one as can be.
                at = TABLES + 16 * generator.below(0x700)
                self.memory.write(at, struct.pack("<QIHH", DATA, 64, generator.pick((0, WRITE)), 0))
                entry[:] = [at, 16, entry[2] ^ INDIRECT_TABLE, entry[3]]
            elif field < 7:
                entry[2] ^= 1 << generator.pick((0, 1, 2, generator.below(16)))
            else:
                entry[3] = generator.pick((*WORDS, generator.below(len(entries))))

    # Registers.

    def registers(self):
        """Do what a driver does in any order, and what none does."""
        generator = self.generator
        self.cases += 1
        if generator.below(2):
            self.start()
        for _ in range(generator.pick((5, 20, 40))):
            generator.pick(self.ACTIONS)(self)
        self.driver.work(TURNS)
        self.settle()
        self.memory.check_guards()
        assert bool(self.driver.status & 64) == bool(self.transport.broken)
        self.put_back()

    def put_back(self):
        """Bring the function back to where the next round expects it."""
        driver = self.driver
        driver.config_write(0x04, 2, 0x0406)
        driver.config_write(0x10, 4, BAR)
        wanted = {
            BAR + 0x2000 + 4 * number: kick.fd for number, kick in enumerate(driver.transport.kicks)
        }
        assert driver.vm.notified == wanted
        driver.enable_msix()
        events = {vector.event.fd for vector in driver.transport.msix.vectors}
        assert set(driver.vm.irqfds) == events
        assert len(set(driver.vm.irqfds.values())) == len(events)

    def value(self, size):
        generator = self.generator
        kind = generator.below(5)
        if kind < 2:
            found = generator.getrandbits(64 if kind else 8)
        else:
            found = generator.pick((WORDS, EXTREMES, (0, 1))[kind - 2])
        return found & (1 << 8 * size) - 1

    def size(self):
        return self.generator.pick((1, 2, 4, 4, 8))

    def common(self):
        offset, size = self.generator.pick(FIELDS)
        if self.generator.below(8) == 0:
            offset, size = self.generator.below(64), self.size()
        self.transport.write(offset, size, self.value(size))

    def look_at(self):
        offset = self.generator.pick((0, 0x100, 0x200, 0x1000, 0x1800, 0x2000, 0x3FF8))
        size = self.size()
        found = self.transport.read(offset + self.generator.below(64), size)
        assert isinstance(found, int)

    def status(self):
        bits = self.generator.pick((1, 2, FEATURES_OK, DRIVER_OK, 64, 128, 0xF, 0xFF, 0))
        value = bits if self.generator.below(4) == 0 else bits | self.driver.status
        self.transport.write(20, 1, value)

    def features(self):
        offered = self.driver.offered()
        chosen = offered if self.generator.below(2) else self.generator.getrandbits(64)
        self.driver.accept(chosen | VERSION_1 if self.generator.below(4) else chosen)

    def queue(self):
        """Set up a queue somewhere, and enable it."""
        generator, driver = self.generator, self.driver
        index = generator.below(len(self.limits))
        driver.write(22, 2, index)
        driver.write(24, 2, min(generator.pick((1, 2, 8, 64)), self.limits[index]))
        for offset in (32, 40, 48):
            at = generator.below(LOW >> 4) << 4
            if generator.below(6) == 0:
                at = generator.pick(EXTREMES)
            driver.write(offset, 8, at)
        driver.write(28, 2, 1)

    def table(self):
        at = 0x1000 + self.generator.below(16 * (len(self.limits) + 3))
        size = self.size()
        self.transport.write(at, size, self.value(size))

    def messages(self):
        control = self.generator.pick((0, 1 << 15, 1 << 14, 3 << 14, 0xFFFF))
        self.driver.config_write(self.driver.msix_at + 2, 2, control)

    def config(self):
        place = self.generator.below(256)
        size = self.generator.pick((1, 2, 4))
        if self.generator.below(2):
            self.driver.config_write(place, size, self.value(size))
        else:
            self.driver.config_read(place, size)

    def ports(self):
        offset, size = self.generator.below(8), self.generator.pick((1, 2, 4))
        if self.generator.below(2):
            self.driver.pci.write(offset, size, self.value(size))
        else:
            self.driver.pci.read(offset, size)

    def move(self):
        where = (BAR, 0xD000_0000, 0, 0xFFFF_FFFF, 0xFEE0_0000, self.generator.getrandbits(32))
        self.driver.config_write(0x10, 4, self.generator.pick(where))
        self.driver.config_write(0x04, 2, self.generator.pick((0, 2, 6, 6, 0xFFFF)))

    def window(self):
        """Reach for the BAR through the configuration space."""
        at, generator = self.transport._window, self.generator
        offset = generator.pick((20, 22, 28, 0x200, 0x2000, 0x1000, generator.getrandbits(32)))
        self.driver.config_write(at + 8, 4, offset)
        self.driver.config_write(at + 12, 4, generator.pick((1, 2, 4, 4, 0, 3, 0xFFFF_FFFF)))
        if generator.below(2):
            self.driver.config_write(at + 16, 4, self.value(4))
        else:
            self.driver.config_read(at + 16, 4)

    def own(self):
        offset, size = self.generator.below(80), self.size()
        self.transport.write(0x200 + offset, size, self.value(size))

    def notify(self):
        self.transport.write(0x2000 + self.generator.below(4 * len(self.limits) + 9), 2, 0)

    def scribble(self):
        """Write something into memory, where queues may be."""
        at = self.generator.below(LOW - 64)
        self.memory.write(at, some_bytes(self.generator))

    def turn(self):
        self.driver.worker.turn()

    def happen(self):
        self.subject.outside(self.generator)

    ACTIONS = (
        *(common, common, look_at, status, status, features, queue, queue, table, messages),
        *(config, ports, move, window, own, notify, notify, scribble, turn, turn, happen),
    )

    def close(self):
        self.driver.close()
        self.memory.close()
        self.subject.close()


@contextmanager
def at_most(seconds):
    """Break off what hangs."""

    def hung(*_):
        raise AssertionError(f"not done after {seconds} seconds")

    before = signal.signal(signal.SIGALRM, hung)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def fuzz(names, cases, seconds, first=0):
    """Go on until so many cases are done, or for so many seconds; return the benches."""
    benches = [Bench(name) for name in names]
    begin = time.monotonic()
    number = first
    try:
        while sum(bench.cases for bench in benches) < cases:
            now = time.monotonic()
            if now - begin > seconds:
                break
            bench = benches[number % len(benches)]
            try:
                bench.round(Dice(SEED + number))
            except Exception as error:
                raise AssertionError(f"{bench.name}, round {number}: {error!r}") from error
            took = time.monotonic() - now
            assert took < LONGEST, f"{bench.name}, round {number}: {took} seconds"
            number += 1
    finally:
        for bench in benches:
            with suppress(KvmError):
                bench.close()
    done = sum(bench.cases for bench in benches)
    return benches, f"{done} layouts and register sequences in {time.monotonic() - begin:.1f} s"


def tell(capsys, text):
    with capsys.disabled():
        sys.stdout.write(f"{text} ")


def test_hostile_drivers(capsys):
    with at_most(60):
        benches, done = fuzz(SUBJECTS, SOAK_CASES, SECONDS)
    tell(capsys, done)
    for bench in benches:
        # Both ways are well trodden: requests that come back, and devices that are lost.
        assert bench.cases > 20, bench.name
        served = isinstance(bench.subject, ServedSubject) or getattr(bench.subject, "vhosts", None)
        if not served:
            assert bench.breaks, bench.name
            assert bench.back or not bench.subject.strict, bench.name


@pytest.mark.soak
def test_very_many_hostile_drivers(capsys):
    with at_most(7200):
        benches, done = fuzz(SUBJECTS, SOAK_CASES, 7000.0, first=1 << 20)
    tell(capsys, done)
    assert sum(bench.cases for bench in benches) >= SOAK_CASES
