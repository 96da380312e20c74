# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Events, where interrupts go, and the threads that wait on events."""

from __future__ import annotations

import os
import resource
import struct
import threading
import time

import pytest
from ansible.module_utils.kvm import abi
from ansible.module_utils.kvm.errors import KvmError
from ansible.module_utils.kvm.events import Event, Interrupts, Worker
from driving import FakeVm

SOON = 5.0  # seconds in which everything here must have come about


@pytest.fixture
def event():
    event = Event()
    yield event
    event.close()


@pytest.fixture
def worker():
    worker = Worker("test")
    yield worker
    worker.close()


def test_signals_count_as_one(event):
    assert not event.pending()
    assert not event.take()
    for _ in range(3):
        event.signal()
    assert event.pending()
    assert event.take()
    assert not event.take()
    assert not event.pending()


def test_a_full_counter_is_signalled_still(event):
    os.write(event.fd, struct.pack("Q", (1 << 64) - 2))
    event.signal()
    assert event.take()
    assert not event.pending()


def test_an_event_is_closed_once(event):
    before = len(os.listdir("/proc/self/fd"))
    event.close()
    event.close()
    assert len(os.listdir("/proc/self/fd")) == before - 1


def test_an_event_is_not_inherited(event):
    assert not os.get_inheritable(event.fd)


def test_an_event_beyond_what_select_can_tell():
    """A guest with many devices has more descriptors than the 1024 of select(2)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2048:
        pytest.skip("this process may not have that many files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    far = Event()
    low = far.fd
    far.fd = os.dup2(low, 1500, inheritable=False)
    try:
        assert not far.pending()
        far.signal()
        assert far.pending()
    finally:
        far.close()
        os.close(low)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_no_more_descriptors():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(KvmError, match="cannot make an eventfd: Too many open files"):
            Event()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def entries(vm):
    """Return the routing as gsi, type, and what follows by type."""
    return [
        (gsi, kind, struct.unpack_from("II" if kind == abi.ROUTING_IRQCHIP else "III", entry, 16))
        for entry in vm.routing
        for gsi, kind in [struct.unpack_from("II", entry)]
    ]


def test_pins_stay_where_the_kernel_has_them():
    """As KVM's own table is (arch/x86/kvm/irq_comm.c, default_routing)."""
    vm = FakeVm()
    interrupts = Interrupts(vm)
    interrupts.route(interrupts.allocate(), 0xFEE0_0000, 0x41)
    pins = [one for one in entries(vm) if one[1] == abi.ROUTING_IRQCHIP]
    master = [(pin, 1, (0, pin)) for pin in range(8)]
    slave = [(pin, 1, (1, pin - 8)) for pin in range(8, 16)]
    assert sorted(pins) == sorted(master + slave + [(pin, 1, (2, pin)) for pin in range(24)])


def test_messages():
    vm = FakeVm()
    interrupts = Interrupts(vm)
    first, second = interrupts.allocate(), interrupts.allocate()
    assert (first, second) == (24, 25)
    assert vm.routings == 0
    interrupts.route(first, 0xFEE0_1000, 0x41)
    interrupts.route(second, 0x1_FEE0_2000, 0x8000_0042)
    assert vm.message(first) == (0xFEE0_1000, 0x41)
    assert vm.message(second) == (0x1_FEE0_2000, 0x8000_0042)
    assert vm.routings == 2
    interrupts.route(first, 0xFEE0_1000, 0x41)
    assert vm.routings == 2  # the same again takes no call
    interrupts.route(first, 0xFEE0_3000, 0x43)
    assert vm.message(first) == (0xFEE0_3000, 0x43)
    assert vm.message(second) == (0x1_FEE0_2000, 0x8000_0042)
    assert len(vm.routing) == 40 + 2


def test_there_are_only_so_many_messages():
    interrupts = Interrupts(FakeVm())
    numbers = [interrupts.allocate() for _ in range(4096 - 24)]
    assert numbers == list(range(24, 4096))
    with pytest.raises(KvmError, match="more interrupts than KVM routes"):
        interrupts.allocate()


def test_an_event_raises_an_interrupt_while_it_is_connected(event):
    vm = FakeVm()
    interrupts = Interrupts(vm)
    interrupts.connect(event, 24)
    assert vm.irqfds == {event.fd: 24}
    interrupts.disconnect(event, 24)
    assert vm.irqfds == {}


# Workers.


def eventually(condition):
    deadline = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def unexpected(error):
    raise AssertionError(error)


def test_a_worker_calls_on_a_thread_of_its_own(worker, event):
    calls = []

    def call():
        event.take()
        calls.append(threading.current_thread().name)

    worker.watch(event.fd, call)
    worker.start(unexpected)
    for count in (1, 2):
        event.signal()
        eventually(lambda count=count: len(calls) == count)
    assert set(calls) == {"test"}


def test_what_was_signalled_before_the_start_is_found(worker, event):
    calls = []
    event.signal()
    worker.watch(event.fd, lambda: calls.append(event.take()))
    worker.start(unexpected)
    eventually(lambda: calls == [True])


def test_what_is_not_watched_any_more_is_not_called(worker, event):
    calls, other = [], Event()
    worker.watch(event.fd, lambda: calls.append("event"))
    worker.watch(other.fd, lambda: calls.append(other.take()))
    worker.unwatch(event.fd)
    worker.unwatch(event.fd)  # again: nothing
    worker.start(unexpected)
    event.signal()
    other.signal()
    eventually(lambda: calls)
    assert calls == [True]
    worker.stop()
    other.close()


def test_a_call_that_unwatches_its_neighbour(worker):
    """Both are due at once: what the first takes away is not called in the same round."""
    events, calls = [Event(), Event()], []

    def call(number):
        events[number].take()
        worker.unwatch(events[1 - number].fd)
        calls.append(number)

    for number, one in enumerate(events):
        one.signal()
        worker.watch(one.fd, lambda number=number: call(number))
    worker.start(unexpected)
    eventually(lambda: calls)
    worker.stop()
    assert len(calls) == 1
    for one in events:
        one.close()


def test_watching_from_another_thread_while_it_waits(worker, event):
    worker.start(unexpected)
    done = threading.Event()
    event.signal()
    worker.watch(event.fd, lambda: (event.take(), done.set()))
    assert done.wait(SOON)


def test_a_call_that_fails_ends_the_thread_and_is_told(worker, event):
    failures = []
    worker.watch(event.fd, lambda: 1 // 0)
    worker.start(failures.append)
    event.signal()
    eventually(lambda: failures)
    assert isinstance(failures[0], ZeroDivisionError)
    worker._thread.join(SOON)
    assert not worker._thread.is_alive()


@pytest.mark.parametrize("started", [False, True])
def test_a_worker_leaves_nothing(started):
    before = (threading.active_count(), len(os.listdir("/proc/self/fd")))
    worker = Worker("short")
    if started:
        worker.start(unexpected)
    worker.stop()
    worker.close()
    assert (threading.active_count(), len(os.listdir("/proc/self/fd"))) == before
