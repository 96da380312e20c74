# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The balloon: which queue is which, what the host gets back, and what a guest may not say."""

from __future__ import annotations

import runpy
import struct
import threading
from pathlib import Path

import pytest
from ansible.module_utils.kvm.memory import PAGE, Backing, GuestMemory, Region, allocate
from ansible.module_utils.kvm.virtio.balloon import Balloon, Target

Driver = runpy.run_path(str(Path(__file__).with_name("guest_side.py")))["Driver"]
MIB = 1 << 20
SIZE = 16 * MIB
STATS, ON_OOM, REPORTING = 1 << 1, 1 << 2, 1 << 5
PLACE = 8 * MIB  # of the guest's memory that is played with


def resident(region):
    """Return the bytes of a region that this process has pages for (/proc/self/pagemap)."""
    with open("/proc/self/pagemap", "rb") as file:
        file.seek(region.address // PAGE * 8)
        entries = struct.unpack(f"{region.size // PAGE}Q", file.read(region.size // PAGE * 8))
    return sum(PAGE for entry in entries if entry >> 63)


@pytest.fixture
def new():
    """Make a balloon in a memory of 16 MiB, and its driver."""
    made = []

    def make(target=None, *, reporting=True, backing=None, more=()):
        memory = GuestMemory(SIZE, backing or Backing(), more)
        driver = Driver(Balloon(Target(target), reporting=reporting), memory)
        made.append((driver, memory))
        return driver

    yield make
    for driver, memory in made:
        driver.close()
        memory.close()


def pages(*numbers):
    return struct.pack(f"<{len(numbers)}I", *numbers)


def fill(driver, at=PLACE, length=4 * MIB):
    driver.memory.write(at, b"\xaa" * length)


def test_it_offers_what_it_can(new):
    assert new().offered() & 0xFF == STATS | ON_OOM | REPORTING
    assert new(reporting=False).offered() & 0xFF == STATS | ON_OOM


@pytest.mark.parametrize("shared", [False, True])
def test_inflated_pages_go_back_to_the_host_and_are_zeros_then(new, shared):
    driver = new(backing=Backing(shared=shared))
    fill(driver)
    region = driver.memory.regions[0]
    before = resident(region)
    driver.begin(STATS | ON_OOM, queues=(0, 1, 2))
    first = PLACE // PAGE
    # In any order, twice, and with a hole.
    numbers = [first + 3, first + 1, first, first + 2, first + 2, *range(first + 8, first + 300)]
    head = driver.send(0, pages(*numbers))
    assert driver.used(0) == [(head, 0)]
    assert driver.interrupted(0)
    assert driver.memory.read(PLACE, 4 * PAGE) == bytes(4 * PAGE)
    assert driver.memory.read(PLACE + 4 * PAGE, 4 * PAGE) == b"\xaa" * 4 * PAGE
    assert driver.memory.read(PLACE + 300 * PAGE, PAGE) == b"\xaa" * PAGE
    driver.memory.regions[0].give_back(PLACE, 8 * PAGE)  # what was just read is there again
    assert before - resident(region) >= 280 * PAGE  # the queues have got some
    assert driver.device.counts["inflated_pages"] == len(numbers)
    assert driver.device.counts["returned_bytes"] == 296 * PAGE


def test_deflated_pages_need_nothing(new):
    driver = new()
    fill(driver)
    driver.begin(0, queues=(0, 1))
    head = driver.send(1, pages(PLACE // PAGE))
    assert driver.used(1) == [(head, 0)]
    assert driver.memory.read(PLACE, PAGE) == b"\xaa" * PAGE


# Which queue has the reports: the specification numbers all queues, Linux those agreed on alone.
NUMBERING = [
    (STATS | REPORTING, (0, 1, 2, 3), 2, 3),
    (STATS | REPORTING, (0, 1, 2, 4), 2, 4),
    (REPORTING, (0, 1, 2), -1, 2),
    (REPORTING, (0, 1, 4), -1, 4),
    (STATS, (0, 1, 2), 2, -1),
    (0, (0, 1), -1, -1),
]


@pytest.mark.parametrize(("features", "queues", "stats", "reports"), NUMBERING)
def test_queues_are_told_apart(new, features, queues, stats, reports):
    driver = new()
    driver.begin(features, queues=queues)
    fill(driver)
    if reports >= 0:
        head = driver.add(reports, writable=[(PLACE, 2 * MIB), (PLACE + 3 * MIB, PAGE)])
        driver.notify(reports)
        assert driver.used(reports) == [(head, 0)]
        assert driver.memory.read(PLACE, 2 * MIB) == bytes(2 * MIB)
        assert driver.memory.read(PLACE + 2 * MIB, MIB) == b"\xaa" * MIB
        assert driver.memory.read(PLACE + 3 * MIB, PAGE) == bytes(PAGE)
        assert driver.device.counts["reports"] == 1
        assert driver.device.counts["returned_bytes"] == 2 * MIB + PAGE
    if stats >= 0:
        driver.send(stats, struct.pack("<HQ", 4, 12345))
        assert driver.used(stats) == []
        assert driver.device.stats() == {"memfree": 12345}
    assert not driver.broken()


def test_what_is_reported_of_a_page_is_kept_unless_it_is_whole(new):
    driver = new()
    fill(driver)
    driver.begin(REPORTING, queues=(0, 1, 2))
    driver.add(2, writable=[(PLACE + 16, PAGE), (PLACE + 2 * PAGE + 16, 2 * PAGE), (PLACE, 0)])
    driver.notify(2)
    assert driver.memory.read(PLACE, 3 * PAGE) == b"\xaa" * 3 * PAGE
    assert driver.memory.read(PLACE + 3 * PAGE, PAGE) == bytes(PAGE)
    assert driver.memory.read(PLACE + 4 * PAGE, PAGE) == b"\xaa" * PAGE


def test_statistics_are_asked_for_by_giving_the_request_back(new):
    driver = new()
    driver.begin(STATS, queues=(0, 1, 2))
    device = driver.device
    assert device.stats() == {}
    every = {name: 100 + tag for tag, name in enumerate(device_stats())}
    records = b"".join(struct.pack("<HQ", tag, 100 + tag) for tag in range(len(every)))
    unknown = struct.pack("<HQ", 999, 7)
    head = driver.send(2, records + unknown + b"\0\0\0")
    assert driver.used(2) == []
    assert device.stats() == every
    assert driver.used(2) == [(head, 0)]
    assert driver.interrupted(2)
    assert device.stats() == every  # those of before, while there is no answer
    assert driver.used(2) == []

    def answer():
        driver.send(2, struct.pack("<HQ", 5, 1 << 64 - 1))

    threading.Timer(0.05, answer).start()
    driver.send(2, struct.pack("<HQ", 5, 1))
    assert device.stats(wait=5) == {"memtot": 1 << 63}


def device_stats():
    from ansible.module_utils.kvm.virtio.balloon import STATS as NAMES

    return NAMES


def test_a_second_request_for_statistics_returns_the_first(new):
    driver = new()
    driver.begin(STATS, queues=(0, 1, 2))
    first = driver.send(2, struct.pack("<HQ", 5, 1))
    driver.send(2, struct.pack("<HQ", 5, 2))
    assert driver.used(2) == [(first, 0)]
    assert driver.device.stats() == {"memtot": 2}


@pytest.mark.parametrize(
    ("wanted", "asked"), [(None, 0), (SIZE, 0), (2 * SIZE, 0), (12 * MIB, 1024), (0, SIZE // PAGE)]
)
def test_a_target_is_told_in_pages_for_the_balloon(new, wanted, asked):
    driver = new(wanted)
    assert driver.config(0, 4) == asked
    driver.begin(0, queues=(0, 1))
    driver.transport.write(16, 2, 3)  # the vector of changes
    driver.device.target(None)
    assert driver.config(0, 4) == 0
    driver.device.target(wanted)
    assert driver.config(0, 4) == asked
    assert driver.interrupted(3)
    assert driver.device._target.size == wanted


def test_a_target_outlives_the_machine(new_memory):
    target = Target(12 * MIB)
    for wanted, pages_asked in ((12 * MIB, 1024), (8 * MIB, 2048)):
        driver = Driver(Balloon(target), new_memory(SIZE))
        assert target.size == wanted
        assert driver.config(0, 4) == pages_asked
        driver.device.target(8 * MIB)
        driver.close()


def test_what_the_driver_says_of_its_balloon_is_bounded_and_ends_with_it(new):
    driver = new()
    driver.begin(0, queues=(0, 1))
    assert driver.device.actual == 0
    driver.transport.write(0x204, 4, 256)
    assert driver.device.actual == MIB
    assert driver.config(4, 4) == 256
    driver.transport.write(0x204, 4, 0xFFFF_FFFF)
    assert driver.device.actual == SIZE
    driver.transport.write(0x200, 4, 77)  # not the driver's
    driver.transport.write(0x205, 2, 77)
    assert driver.config(0, 4) == 0
    driver.reset()
    assert driver.device.actual == 0


MALFORMED = [
    (0, pages(SIZE // PAGE), "outside the guest's"),
    (0, pages(0xFFFF_FFFF), "outside the guest's"),
    (0, pages(0xC_0000), "outside the guest's"),
    (0, pages(SIZE // PAGE - 1, SIZE // PAGE), "outside the guest's"),
    (0, pages(1)[:3], "malformed"),
    (0, pages(*range(4097)), "malformed"),
]


@pytest.mark.parametrize(("index", "data", "what"), MALFORMED)
def test_a_driver_that_breaks_a_rule_loses_its_balloon(new, index, data, what):
    driver = new()
    fill(driver)
    driver.begin(0, queues=(0, 1))
    driver.send(index, data)
    assert what in driver.broken()
    assert driver.memory.read(PLACE, 4 * MIB) == b"\xaa" * 4 * MIB
    driver.reset()
    driver.begin(0, queues=(0, 1))
    assert not driver.broken()


def test_more_reports_than_memory_are_refused(new):
    driver = new()
    driver.begin(REPORTING, queues=(0, 1, 2))
    driver.add(2, writable=[(0, SIZE), (0, SIZE)])
    driver.notify(2)
    assert "more memory than there is" in driver.broken()


def test_a_devices_region_is_no_memory_to_give_back(new):
    memory = allocate(0, 2 * MIB, Backing())
    device = Region(0, 2 * MIB, memory.map, returns=memory.returns)
    driver = new(more=[device])
    assert device.start == 1 << 32
    driver.memory.write(device.start, b"kept")
    driver.begin(REPORTING, queues=(0, 1, 2))
    driver.send(0, pages(device.start // PAGE))
    assert "belongs to a device" in driver.broken()
    driver.reset()
    driver.begin(REPORTING, queues=(0, 1, 2))
    driver.add(2, writable=[(device.start, PAGE)])
    driver.notify(2)
    assert "belongs to a device" in driver.broken()
    assert driver.memory.read(device.start, 4) == b"kept"


def test_memory_of_huge_pages_is_kept(new):
    """The host need not have any: what counts is what the region says of itself."""
    driver = new()
    fill(driver)
    driver.memory.regions[0].returns = None
    driver.begin(0, queues=(0, 1))
    head = driver.send(0, pages(PLACE // PAGE))
    assert driver.used(0) == [(head, 0)]
    assert driver.memory.read(PLACE, PAGE) == b"\xaa" * PAGE
    assert driver.device.counts["returned_bytes"] == 0
    driver.memory.backing = Backing(page=2 * MIB)
    balloon = Driver(Balloon(Target()), driver.memory)
    assert not balloon.offered() & REPORTING
    balloon.close()
