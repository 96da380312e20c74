# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The entropy device, driven as a guest's kernel does it."""

from __future__ import annotations

import pytest
from ansible.module_utils.kvm.virtio.entropy import Entropy

MOST = 64 * 1024


@pytest.fixture
def driver(drive):
    driver = drive(Entropy())
    driver.start()
    return driver


@pytest.mark.parametrize("indirect", [False, True])
@pytest.mark.parametrize("lengths", [[1], [64], [4096, 1, 4096], [MOST]])
def test_buffers_are_filled(driver, lengths, indirect):
    buffers = [driver.buffer(length=length) for length in lengths]
    head = driver.ask(0, into=buffers, indirect=indirect)
    assert driver.rings[0].collect() == [(head, sum(lengths))]
    assert driver.interrupts(0)
    for buffer in buffers:
        if buffer[1] >= 64:
            assert len(set(driver.content(buffer))) > 32
    assert driver.device.counts["bytes"] == sum(lengths)


def test_two_times_are_two_values(driver):
    buffers = [driver.buffer(length=32) for _ in range(2)]
    for buffer in buffers:
        driver.ask(0, into=[buffer])
    assert driver.content(buffers[0]) != driver.content(buffers[1])


@pytest.mark.parametrize("lengths", [[MOST + 1], [MOST, 4096], [4096, 2 * MOST]])
def test_no_more_than_64_kib_at_once(driver, lengths):
    buffers = [driver.buffer(length=length) for length in lengths]
    driver.ask(0, into=buffers)
    assert [used.length for used in driver.rings[0].collect()] == [MOST]
    whole = b"".join(map(driver.content, buffers))
    assert not whole[MOST:].strip(b"\0")


@pytest.mark.parametrize("out", [[], [b"ignored"]])
def test_nothing_to_fill(driver, out):
    """A request that has nothing to be written, or a buffer of no length, is given back."""
    readable = [driver.buffer(data) for data in out]
    empty = [] if out else [(0x20_0000, 0)]
    driver.ask(0, readable, empty)
    assert [used.length for used in driver.rings[0].collect()] == [0]
    assert not driver.broken


def test_as_many_requests_as_the_queue_holds(driver):
    ring = driver.rings[0]
    buffers = [driver.buffer(length=16) for _ in range(ring.size)]
    heads = [ring.add(into=[buffer]) for buffer in buffers]
    driver.notify(0)
    driver.work()
    assert ring.collect() == [(head, 16) for head in heads]
    assert all(driver.content(buffer) != bytes(16) for buffer in buffers)
