# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The transport over PCI: what its registers do in every state, and what a broken driver loses."""

from __future__ import annotations

import pytest
from ansible.module_utils.kvm.virtio.device import VirtioDevice
from ansible.module_utils.kvm.virtio.queue import BrokenDriver
from driving import (
    ACKNOWLEDGE,
    DRIVER,
    DRIVER_OK,
    EVENT_INDEX,
    EVERYTHING,
    FAILED,
    FEATURES_OK,
    INDIRECT,
    NEEDS_RESET,
    VERSION_1,
)

READY = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK
FEATURE, OTHER_FEATURE = 1 << 3, 1 << 40
NO_VECTOR = 0xFFFF


class Recorder(VirtioDevice):
    """Remembers what it is told, and gives back what it is given."""

    kind = 42
    name = "recorder"
    class_code = 0x01_02_03
    features = FEATURE | OTHER_FEATURE
    limits = (64, 16)

    def __init__(self):
        super().__init__()
        self.config = bytearray(range(1, 9))
        self.seen = []
        self.fails = None

    def start(self):
        self.seen.append("start")
        if self.fails == "start":
            raise BrokenDriver("not like this")

    def stop(self):
        self.seen.append("stop")

    def handle(self, index):
        self.seen.append(index)
        for chain in self.requests(index):
            self.queues[index].push(chain.head, 0)

    def write_config(self, offset, size, value):
        self.seen.append((offset, size, value))


@pytest.fixture
def driver(drive):
    return drive(Recorder())


@pytest.fixture
def started(driver):
    driver.start()
    driver.device.seen.clear()
    return driver


def test_what_a_kernel_finds(driver):
    assert driver.config_read(0x00, 4) == (0x1040 + 42) << 16 | 0x1AF4
    assert driver.config_read(0x08, 4) == 0x01_02_03_01
    assert driver.config_read(0x10, 4) == 0xC000_0000
    assert [kind for kind, _ in driver.capabilities()] == [9, 9, 9, 9, 9, 0x11]
    assert driver.vectors == 3  # one of each queue, one of the configuration
    common, notify, isr, config, window = (driver.structures[kind] for kind in range(1, 6))
    assert common.length >= 56
    assert (isr.length, config.length >= 8, window.length) == (1, True, 0)
    # Each has an address of its own, all of them within the BAR and beside each other.
    assert notify.more * 2 <= notify.length
    spans = [(one.offset, one.offset + one.length) for one in (common, notify, isr, config)]
    spans += [(driver.table, driver.table + 16 * 3), (driver.pending, driver.pending + 8)]
    spans.sort()
    assert all(before[1] <= after[0] for before, after in zip(spans, spans[1:]))
    assert spans[-1][1] <= 0x4000
    assert all(start % 4 == 0 for start, _ in spans)


def test_features_in_two_halves(driver):
    assert driver.offered() == FEATURE | OTHER_FEATURE | VERSION_1 | INDIRECT | EVENT_INDEX
    for half in (2, 3, 0xFFFF_FFFF):
        driver.write(0, 4, half)
        assert driver.read(4, 4) == 0
        driver.write(8, 4, half)
        driver.write(12, 4, 0xFFFF_FFFF)
        assert driver.read(12, 4) == 0
    driver.accept(FEATURE | VERSION_1)
    for half, found in ((0, FEATURE), (1, 1)):
        driver.write(8, 4, half)
        assert driver.read(12, 4) == found


NEGOTIATED = {
    "all": (EVERYTHING, True),
    "the least": (VERSION_1, True),
    "one": (VERSION_1 | FEATURE, True),
    "none": (0, False),
    "a driver of the old kind": (FEATURE | INDIRECT, False),
}


@pytest.mark.parametrize("case", NEGOTIATED)
def test_negotiation(driver, case):
    features, accepted = NEGOTIATED[case]
    assert driver.negotiate(features) == accepted
    driver.add_status(DRIVER_OK)
    assert driver.device.seen == (["start"] if accepted else [])
    if accepted:
        assert driver.device.accepted == driver.features
    assert driver.transport.running == accepted


@pytest.mark.parametrize("extra", [1 << 0, 1 << 33, 1 << 35, 1 << 63])
def test_a_feature_that_was_not_offered(driver, extra):
    driver.negotiate()
    driver.reset()
    driver.add_status(ACKNOWLEDGE | DRIVER)
    driver.accept(VERSION_1 | extra)
    driver.add_status(FEATURES_OK)
    assert driver.status == ACKNOWLEDGE | DRIVER
    # It may still ask for less.
    driver.accept(VERSION_1)
    driver.add_status(FEATURES_OK)
    assert driver.status & FEATURES_OK


def test_features_are_settled_once(driver):
    driver.negotiate(VERSION_1)
    driver.accept(VERSION_1 | FEATURE)
    driver.add_status(DRIVER_OK)
    assert driver.device.accepted == VERSION_1


def test_the_status_only_grows(driver):
    driver.write(20, 1, ACKNOWLEDGE)
    driver.write(20, 1, DRIVER)
    assert driver.status == ACKNOWLEDGE | DRIVER
    driver.write(20, 1, FAILED)
    assert driver.status == ACKNOWLEDGE | DRIVER | FAILED
    driver.write(20, 1, 0)
    assert driver.status == 0


def test_only_the_device_says_that_it_needs_a_reset(driver):
    driver.negotiate()
    driver.write(20, 1, driver.status | NEEDS_RESET)
    assert driver.status == ACKNOWLEDGE | DRIVER | FEATURES_OK


def test_ready_without_features_starts_nothing(driver):
    driver.write(20, 1, ACKNOWLEDGE | DRIVER | DRIVER_OK)
    assert not driver.transport.running
    driver.reset()
    assert driver.device.seen == []


def test_ready_and_features_in_one_write(driver):
    driver.write(20, 1, ACKNOWLEDGE | DRIVER)
    driver.accept(VERSION_1)
    driver.write(20, 1, READY)
    assert driver.device.seen == ["start"]


def test_a_device_starts_once_and_stops_once(driver):
    driver.start()
    driver.add_status(DRIVER_OK)
    driver.write(20, 1, READY)
    assert driver.device.seen == ["start", 0, 1]
    driver.reset()
    driver.reset()
    assert driver.device.seen == ["start", 0, 1, "stop"]
    driver.start()
    assert driver.device.seen[4:] == ["start", 0, 1]


def test_a_device_that_never_started_is_not_stopped(driver):
    driver.negotiate()
    driver.reset()
    assert driver.device.seen == []


# The registers of queues.


def registers(driver):
    """Return size, vector, enabled, notify offset and addresses of the queue that is selected."""
    found = [driver.read(offset, 2) for offset in (24, 26, 28, 30)]
    return found + [driver.read(offset, 8) for offset in (32, 40, 48)]


def test_a_queue_at_first(driver):
    assert driver.read(18, 2) == 2
    for index, size in enumerate((64, 16)):
        driver.write(22, 2, index)
        assert driver.read(22, 2) == index
        assert registers(driver) == [size, NO_VECTOR, 0, index, 0, 0, 0]


@pytest.mark.parametrize("index", [2, 63, 0xFFFF])
def test_a_queue_that_is_none(driver, index):
    driver.write(22, 2, index)
    for offset, size in ((24, 2), (26, 2), (28, 2), (32, 4), (40, 8), (52, 4)):
        driver.write(offset, size, 1)
    assert registers(driver) == [0, NO_VECTOR, 0, 0, 0, 0, 0]
    driver.write(22, 2, 0)
    assert registers(driver) == [64, NO_VECTOR, 0, 0, 0, 0, 0]


def test_addresses_in_halves_and_whole(driver):
    driver.write(22, 2, 1)
    driver.write(32, 4, 0x1111_1110)
    driver.write(36, 4, 0x2)
    driver.write(40, 8, 0x3_2222_2220)
    driver.write(52, 4, 0x4)
    driver.write(48, 4, 0x3333_3330)
    assert registers(driver)[4:] == [0x2_1111_1110, 0x3_2222_2220, 0x4_3333_3330]
    assert driver.read(36, 4) == 0x2
    assert driver.read(40, 2) == 0x2220


@pytest.mark.parametrize(
    ("offset", "size"),
    [
        (0, 1),
        (0, 2),
        (8, 8),
        (20, 2),
        (20, 4),
        (22, 1),
        (24, 1),
        (24, 4),
        (28, 4),
        (33, 4),
        (32, 2),
        (36, 8),
        (44, 8),
        (54, 2),
        (54, 4),
        (52, 8),
        (56, 4),
        (252, 4),
    ],
)
def test_parts_of_fields_are_ignored(driver, offset, size):
    before = driver.read(0, 8), driver.read(8, 8), driver.read(16, 8), registers(driver)
    driver.write(offset, size, 1)
    assert (driver.read(0, 8), driver.read(8, 8), driver.read(16, 8), registers(driver)) == before


@pytest.mark.parametrize("value", [0, 2, 0xFFFF])
def test_only_one_enables(driver, value):
    driver.write(28, 2, value)
    assert driver.read(28, 2) == 0


def test_an_enabled_queue_stays_where_it_is(started):
    started.write(22, 2, 0)
    before = registers(started)
    assert before[:4] == [64, 1, 1, 0]
    for offset, size in ((24, 2), (28, 2), (32, 8), (40, 4), (48, 4)):
        started.write(offset, size, 0)
    assert registers(started) == before


@pytest.mark.parametrize(("vector", "found"), [(0, 0), (2, 2), (3, NO_VECTOR), (NO_VECTOR,) * 2])
def test_vectors(started, vector, found):
    """Also of a queue that is in use; what there is not reads back as none."""
    started.write(16, 2, vector)
    assert started.read(16, 2) == found
    started.write(22, 2, 1)
    started.write(26, 2, vector)
    assert started.read(26, 2) == found


def test_the_vector_of_an_interrupt(started):
    started.write(22, 2, 0)
    started.write(26, 2, 2)
    started.ask(0, [started.buffer(b"x")])
    assert not started.transport.msix.vectors[1].event.take()
    assert started.transport.msix.vectors[2].event.take()
    started.write(26, 2, NO_VECTOR)
    started.ask(0, [started.buffer(b"x")])
    assert not any(vector.event.take() for vector in started.transport.msix.vectors)


def test_every_place_of_the_bar_can_be_read_and_written(driver):
    """In every size, over the end as well: a kernel's own mistakes are no end of the helper."""
    for offset in [*range(0x60), *range(0xF8, 0x110), *range(0x1F8, 0x220), 0xFFF]:
        for size in (1, 2, 4, 8):
            assert driver.transport.read(offset, size) >= 0
    for offset in [*range(0xFF8, 0x1040), *range(0x17F8, 0x1810), *range(0x1FF8, 0x2010), 0x3FFF]:
        for size in (1, 2, 4, 8):
            assert driver.transport.read(offset, size) >= 0
            driver.transport.write(offset, size, (1 << 8 * size) - 1)
    for offset in [*range(0x60), *range(0xF8, 0x110), *range(0x1F8, 0x220), 0xFFF]:
        for size in (1, 2, 4, 8):
            driver.transport.write(offset, size, (1 << 8 * size) - 1)


# Running.


def test_what_was_there_before_the_device_was_ready_is_found(driver):
    driver.negotiate()
    ring = driver.make_ring(0)
    driver.set_up(0, ring)
    head = ring.add([driver.buffer(b"early")])
    driver.notify(0)
    driver.work()
    assert driver.device.seen == []
    driver.add_status(DRIVER_OK)
    driver.work()
    assert ring.collect() == [(head, 0)]


def test_a_notification_wakes_the_queue_that_it_names(started):
    for index in (1, 0, 1):
        started.notify(index)
        started.work()
    assert started.device.seen == [1, 0, 1]
    for place in (0x2008, 0x2FFC, 0x3FFE):
        started.transport.write(place, 2, 0)
    started.work()
    assert started.device.seen == [1, 0, 1]


def test_a_queue_that_is_not_enabled_is_not_served(driver):
    driver.start(sizes={1: 16})
    driver.notify(0)
    driver.work()
    assert driver.device.seen == ["start", 1]
    driver.transport._kicked(0)
    assert driver.device.seen == ["start", 1]


def test_a_queue_that_is_enabled_too_late_is_not_served(driver):
    """A driver has to set up its queues before it is ready (3.1.1)."""
    driver.start(sizes={1: 16})
    driver.set_up(0, driver.make_ring(0))
    driver.notify(0)
    driver.work()
    assert 0 not in driver.device.seen


@pytest.mark.parametrize("size", [1, 4, 64])
def test_a_queue_smaller_than_could_be(driver, size):
    driver.start(sizes={0: size})
    for number in range(3 * size):
        head = driver.ask(0, [driver.buffer(b"x")])
        assert driver.rings[0].collect() == [(head, 0)], number


def test_a_driver_that_never_ceases_is_served_in_turns(started):
    """A device's lock is free again after so many requests, and what is left is not forgotten."""
    ring = started.rings[0]
    turns, total = [], 1000

    def push(head, written, queue=started.device.queues[0], done=[]):  # noqa: B006 - counts
        type(queue).push(queue, head, written)
        done.append(head)
        turns[-1] += 1
        ring.collect()
        if len(done) < total:
            ring.add([(0x20_0000, 1)])

    def handle(index):
        turns.append(0)
        for chain in started.device.requests(index):
            push(chain.head, 0)

    started.device.handle = handle
    ring.add([(0x20_0000, 1)])
    started.notify(0)
    started.work()
    assert sum(turns) == total
    assert max(turns) < 300


def test_a_change_of_the_configuration(started):
    generation = started.read(21, 1)
    started.transport.config_changed()
    assert started.read(21, 1) == generation + 1
    assert started.interrupts(None)
    assert started.read(0, 1, 3) == 2
    assert started.read(0, 1, 3) == 0  # reading acknowledges
    for _ in range(256):
        started.transport.config_changed()
    assert started.read(21, 1) == generation + 1


def test_the_interrupt_status_of_a_queue(started):
    started.ask(1, [started.buffer(b"x")])
    assert started.read(0, 1, 3) == 1
    assert started.read(0, 1, 3) == 0


@pytest.mark.parametrize(
    ("offset", "size", "value"),
    [
        (0, 1, 1),
        (1, 2, 770),
        (4, 4, 134678021),
        (0, 8, 578437695752307201),
        (6, 4, 2055),
        (8, 4, 0),
        (3583, 1, 0),
        (3580, 8, 0),
    ],
)
def test_the_devices_own_configuration(driver, offset, size, value):
    assert driver.device_config(offset, size) == value
    driver.write(offset, size, 1, 4)
    assert driver.device.seen == [(offset, size, 1)]


# What a broken driver loses.


def break_it(driver):
    driver.rings[0].describe(0, 1 << 63, 4)
    driver.rings[0].offer(0)
    driver.notify(0)
    driver.work()


def test_a_broken_driver_loses_its_device(started):
    assert started.broken == ""
    break_it(started)
    assert "lie outside" in started.broken
    assert started.status == READY | NEEDS_RESET
    assert started.interrupts(None)
    assert started.read(0, 1, 3) & 2
    assert started.device.seen == [0, "stop"]
    assert started.device.counts["broken"] == 1
    assert not started.transport.running
    # All its queues stand still, whatever comes.
    started.notify(0)
    started.notify(1)
    started.work()
    started.write(20, 1, READY)
    assert started.device.seen == [0, "stop"]
    assert started.status == READY | NEEDS_RESET


def test_a_reset_heals(started):
    break_it(started)
    started.start()
    assert started.broken == ""
    assert started.device.seen == [0, "stop", "start", 0, 1]
    head = started.ask(0, [started.buffer(b"x")])
    assert started.rings[0].collect() == [(head, 0)]
    assert started.status == READY


def test_a_queue_that_cannot_be_enabled(driver):
    """The device is lost before it started, and does not start then."""
    driver.negotiate()
    ring = driver.make_ring(0)
    ring.table = 1 << 40
    driver.set_up(0, ring)
    assert "lie outside" in driver.broken
    assert driver.read(28, 2) == 0
    driver.add_status(DRIVER_OK)
    assert driver.device.seen == []
    assert not driver.transport.running
    driver.start()
    assert driver.device.seen == ["start", 0, 1]


def test_a_device_that_does_not_start_like_this(driver):
    driver.device.fails = "start"
    driver.start()
    assert driver.broken == "not like this"
    driver.notify(0)
    driver.work()
    assert driver.device.seen == ["start", "stop"]
    driver.reset()
    assert driver.device.seen == ["start", "stop"]


def test_a_reset_lets_go_of_the_queues(started):
    ring = started.rings[0]
    started.reset()
    ring.add([(0x20_0000, 1)])
    started.notify(0)
    started.work()
    assert started.worker.calls == {}
    assert ring.collect() == []
    assert started.device.seen == ["stop"]
    for index, size in enumerate((64, 16)):
        started.write(22, 2, index)
        assert registers(started) == [size, NO_VECTOR, 0, index, 0, 0, 0]
    assert started.read(16, 2) == NO_VECTOR
    assert started.read(0, 1, 3) == 0
    for half in (0, 1):
        started.write(8, 4, half)
        assert started.read(12, 4) == 0


def test_a_call_that_is_on_its_way_when_the_device_is_reset(started):
    """The worker found the event before, and comes to the device after the reset."""
    started.notify(0)
    (call, *_) = started.worker.calls.values()
    started.reset()
    call()
    assert started.device.seen == ["stop"]


# The window to the BAR through the configuration space (4.1.4.9).


class Window:
    """The capability VIRTIO_PCI_CAP_PCI_CFG."""

    def __init__(self, driver):
        self.driver = driver
        kinds = {driver.config_read(at + 3, 1): at for _, at in driver.capabilities()[:-1]}
        self.at = kinds[5]

    def aim(self, offset, length, bar=0):
        self.driver.config_write(self.at + 4, 1, bar)
        self.driver.config_write(self.at + 8, 4, offset)
        self.driver.config_write(self.at + 12, 4, length)

    def read(self, offset, length, bar=0):
        self.aim(offset, length, bar)
        return self.driver.config_read(self.at + 16, 4)

    def write(self, offset, length, value, bar=0):
        self.aim(offset, length, bar)
        size = length if length in {1, 2} else 4
        self.driver.config_write(self.at + 16, size, value)


@pytest.fixture
def window(driver):
    return Window(driver)


def test_registers_through_the_window(driver, window):
    config = driver.structures[4].offset
    assert window.read(config, 1) & 0xFF == 1
    assert window.read(config + 2, 2) & 0xFFFF == 0x0403
    assert window.read(config + 4, 4) == 0x08070605
    window.write(20, 1, ACKNOWLEDGE)
    window.write(20, 1, DRIVER)
    assert driver.status == ACKNOWLEDGE | DRIVER
    window.write(22, 2, 1)
    assert driver.read(22, 2) == 1
    assert window.read(24, 2) & 0xFFFF == 16
    window.write(8, 4, 1)
    window.write(12, 4, 0x1234)
    assert driver.read(12, 4) == 0x1234


def test_a_notification_through_the_window(started):
    window = Window(started)
    place = started.structures[2]
    window.write(place.offset + place.more, 2, 1)
    started.work()
    assert started.device.seen == [1]


@pytest.mark.parametrize(
    ("offset", "length", "bar"),
    [(20, 0, 0), (20, 3, 0), (20, 8, 0), (20, 0xFFFF_FFFF, 0), (20, 1, 1), (20, 1, 255)],
)
def test_a_window_that_is_aimed_wrong(driver, window, offset, length, bar):
    window.write(offset, length, 1, bar)
    assert driver.status == 0
    driver.write(20, 1, ACKNOWLEDGE)
    before = driver.transport.config[window.at + 16 : window.at + 20]
    window.read(offset, length, bar)
    assert driver.transport.config[window.at + 16 : window.at + 20] == before


@pytest.mark.parametrize("offset", [0x4000, 0x4014, 0x7FFF_FFFF, 0xFFFF_FFFC, 0xFFFF_FFFF])
def test_a_window_beside_the_bar(driver, window, offset):
    for length in (1, 2, 4):
        assert window.read(offset, length) & (1 << 8 * length) - 1 == 0
        window.write(offset, length, (1 << 8 * length) - 1)
    assert not any(kick.take() for kick in driver.transport.kicks)


def test_a_transport_leaves_nothing(drive, new_memory):
    import os

    before = len(os.listdir("/proc/self/fd"))
    driver = drive(Recorder())
    driver.start()
    driver.close()
    assert driver.device.seen[-1] == "stop"
    assert driver.worker.calls == {}
    assert len(os.listdir("/proc/self/fd")) == before
