# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The watchdog, driven through its registers as the kernel's i6300esb.c does."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest
from ansible.module_utils.kvm.bus import Bus
from ansible.module_utils.kvm.pci import PciBus
from ansible.module_utils.kvm.watchdog import Watchdog

BAR = 0xC0008000
# As in drivers/watchdog/i6300esb.c.
CONFIG, LOCK, TIMER1, TIMER2, STATUS, RELOAD = 0x60, 0x68, 0x0, 0x4, 0x8, 0xC
ENABLE, LOCKED = 2, 1
DO_RELOAD, TIMED_OUT = 0x100, 0x200


class Run:
    """A runner whose time is set by hand."""

    def __init__(self):
        self.time, self.paused, self.woken, self.ticks = 100.0, False, 0, []
        self.machine = SimpleNamespace(bus=Bus())

    def each_turn(self, tick):
        self.ticks.append(tick)

    def guest_time(self):
        return self.time

    def wake(self):
        self.woken += 1

    def turn(self, seconds=0.0):
        """Let time pass and take a turn; return how long it wants to sleep."""
        self.time += seconds
        return self.ticks[0]()


class Guest:
    """A machine with a watchdog, and a driver for it."""

    def __init__(self, from_start=0.0):
        self.run = Run()
        self.fires = []
        self.watchdog = Watchdog(from_start, lambda: self.fires.append(self.run.time))
        self.watchdog.watch(self.run)
        self.boot()

    def boot(self):
        self.run.machine = SimpleNamespace(bus=Bus())
        self.function = self.watchdog.make(BAR)
        self.function.place(self.run.machine.bus)
        self.pci = PciBus()
        self.pci.add(self.function)

    def config(self, offset, size, value=None):
        """Write, or read, the configuration space through the ports."""
        self.pci.write(0, 4, 0x80000800 | offset & 0xFC)
        if value is None:
            return self.pci.read(4 + offset % 4, size)
        return self.pci.write(4 + offset % 4, size, value)

    def unlock(self):
        self.function.write(RELOAD, 2, 0x80)
        self.function.write(RELOAD, 2, 0x86)

    def store(self, offset, size, value):
        self.unlock()
        self.function.write(offset, size, value)

    def start(self, seconds):
        """Start it as the driver's esb_initdevice, _set_heartbeat and _start do."""
        self.config(CONFIG, 2, 0x0003)
        self.config(LOCK, 1, 0x00)
        self.store(RELOAD, 2, TIMED_OUT | DO_RELOAD)
        for timer in (TIMER1, TIMER2):
            self.store(timer, 4, seconds << 9)
        self.store(RELOAD, 2, DO_RELOAD)
        self.config(LOCK, 1, ENABLE)

    def keep_alive(self):
        self.store(RELOAD, 2, DO_RELOAD)

    def stop(self):
        self.store(RELOAD, 2, DO_RELOAD)
        self.config(LOCK, 1, 0)
        return self.config(LOCK, 1) & ENABLE


@pytest.fixture
def guest():
    return Guest()


def test_what_the_kernel_finds():
    guest = Guest()
    assert guest.config(0, 4) == 0x25AB8086
    assert guest.config(8, 4) == 0x08800000
    guest.config(0x10, 4, 0xFFFFFFFF)
    assert guest.config(0x10, 4) == 0xFFFFC000
    guest.config(0x10, 4, BAR)
    assert guest.config(LOCK, 1) == 0
    assert guest.run.turn() is None


def test_a_guest_that_is_alive_is_left_alone(guest):
    guest.start(30)
    for _ in range(20):
        assert 0 < guest.run.turn(10) < 20
        guest.keep_alive()
    assert guest.fires == []
    assert not guest.stop()
    assert guest.run.turn(1000) is None
    assert guest.fires == []


def test_a_guest_that_hangs_is_found_after_both_stages(guest):
    """30 seconds are twice 30 * 512 counts of 2^15 cycles at 33 MHz: 30.504 seconds."""
    guest.start(30)
    left = guest.run.turn()
    assert left == pytest.approx(15.252, abs=0.001)
    assert guest.run.turn(left) == pytest.approx(15.252, abs=0.001)
    assert guest.function.read(STATUS, 4) == 1  # the first stage is over
    assert guest.run.turn(15.2) == pytest.approx(0.052, abs=0.001)
    assert guest.fires == []
    guest.run.turn(0.06)
    assert len(guest.fires) == 1
    assert guest.run.turn(100) is None
    assert len(guest.fires) == 1
    assert guest.watchdog.state() == {"fired": 1, "left": None}


def test_one_long_turn_goes_through_both_stages(guest):
    guest.start(30)
    guest.run.turn(15.3)
    guest.run.turn(1000)
    assert len(guest.fires) == 1


def test_whoever_asks_for_its_state_takes_nothing_from_it(guest):
    guest.start(30)
    guest.run.turn(16)
    guest.run.time += 16
    for _ in range(2):
        assert guest.watchdog.state() == {"fired": 0, "left": 0.0}
    guest.run.turn()
    assert len(guest.fires) == 1


def test_in_the_second_stage_it_is_not_too_late(guest):
    guest.start(30)
    guest.run.turn(20)
    guest.keep_alive()
    assert guest.run.turn(20) < 15.3
    assert guest.fires == []


def test_after_the_reset_the_guest_is_told_why_it_came(guest):
    guest.start(10)
    guest.run.turn(6)
    guest.run.turn(6)
    assert len(guest.fires) == 1
    guest.boot()
    assert guest.run.turn(1000) is None  # it does not run until a driver starts it
    assert guest.function.read(RELOAD, 2) == TIMED_OUT
    assert guest.function.read(RELOAD + 1, 1) == TIMED_OUT >> 8
    guest.start(10)
    assert guest.function.read(RELOAD, 2) == 0


def test_a_register_takes_its_keys_first(guest):
    guest.start(30)
    guest.function.write(TIMER1, 4, 1)
    for key in (0x86, 0x80, 0x00, 0x80):
        guest.function.write(RELOAD, 2, key)
    guest.function.write(RELOAD, 2, 0x80)  # the wrong one: from the beginning
    guest.function.write(RELOAD, 2, 0x86)
    guest.function.write(TIMER2, 4, 1)
    guest.run.turn(14)
    guest.function.write(RELOAD, 2, DO_RELOAD)
    assert guest.run.turn() == pytest.approx(1.252, abs=0.01)


def test_one_register_for_the_keys(guest):
    guest.start(30)
    guest.unlock()
    guest.function.write(RELOAD, 2, DO_RELOAD)
    guest.run.turn(10)
    guest.function.write(RELOAD, 2, DO_RELOAD)
    assert guest.run.turn() == pytest.approx(5.252, abs=0.01)


def test_counters_have_twenty_bits(guest):
    guest.start(1)
    guest.store(TIMER1, 4, 0xFFFFFFFF)
    guest.keep_alive()
    assert guest.run.turn() == pytest.approx(1041.2, abs=0.1)
    guest.store(TIMER1, 2, 5)  # and are written as a whole
    guest.keep_alive()
    assert guest.run.turn() > 1000


def test_a_fast_clock(guest):
    guest.start(30)
    guest.config(CONFIG, 2, 0x0007)
    guest.keep_alive()
    assert guest.run.turn() == pytest.approx(15.252 / 1024, rel=0.01)


def test_with_its_output_off_it_ends_in_nothing(guest):
    guest.start(30)
    guest.config(CONFIG, 2, 0x0023)
    guest.run.turn(16)
    assert guest.run.turn(16) is None
    assert guest.fires == []


def test_free_running_it_begins_again(guest):
    guest.start(30)
    guest.config(CONFIG, 2, 0x0023)
    guest.config(LOCK, 1, 0)
    guest.config(LOCK, 1, ENABLE | 4)
    guest.run.turn(16)
    assert guest.run.turn(16) == pytest.approx(15.252, abs=0.01)


def test_once_locked_it_cannot_be_stopped(guest):
    guest.start(30)
    guest.config(LOCK, 1, ENABLE | LOCKED)
    assert guest.stop()
    guest.run.turn(16)
    guest.run.turn(16)
    assert len(guest.fires) == 1


def test_the_reason_is_cleared_by_writing_it(guest):
    guest.start(30)
    guest.run.turn(16)
    guest.function.write(STATUS, 4, 0)
    assert guest.function.read(STATUS, 4) == 1
    guest.function.write(STATUS, 4, 1)
    assert guest.function.read(STATUS, 4) == 0


def test_while_the_guest_is_paused_nothing_fires(guest):
    guest.start(30)
    guest.run.paused = True
    assert guest.run.turn() is None
    guest.run.paused = False
    assert guest.run.turn() > 15  # the runner's time stood still meanwhile


def test_a_start_that_is_due_sooner_wakes_the_main_thread(guest):
    guest.start(30)
    before = guest.run.woken
    assert before
    guest.keep_alive()
    assert guest.run.woken == before  # later than it looks again by itself
    guest.store(TIMER1, 4, 512)
    guest.keep_alive()
    assert guest.run.woken == before + 1


def test_a_guest_that_never_gets_to_its_driver():
    guest = Guest(from_start=60)
    assert guest.config(LOCK, 1) == ENABLE
    assert guest.run.turn() == pytest.approx(30, abs=0.1)
    guest.run.turn(31)
    guest.run.turn(30)
    assert len(guest.fires) == 1
    guest.boot()
    guest.start(30)  # this time it does
    assert guest.run.turn() < 16


def test_the_first_machine_is_made_before_there_is_a_runner():
    """Its time goes on from where the runner's begins."""
    run = Run()
    watchdog = Watchdog(60, lambda: None)
    watchdog.make(BAR).place(run.machine.bus)
    run.time = time.monotonic()
    watchdog.watch(run)
    assert run.turn() == pytest.approx(30, abs=1)


def test_the_longest_time_fits_its_counters():
    guest = Guest(from_start=2000)
    assert guest.run.turn() == pytest.approx(1000, rel=0.01)


def test_any_access_is_survived(guest):
    """Every register, size and value: nothing is raised, and it never fires unless it runs."""
    for offset in (*range(0x20), 0x3FFC, 0x3FFF):
        for size in (1, 2, 4, 8):
            for value in (0, 0x80, 0x86, 0x100, 0x200, (1 << 8 * size) - 1):
                guest.function.write(offset, size, value)
                assert guest.function.read(offset, size) >= 0
    for offset in range(0, 256, 4):
        for at, size in ((0, 1), (1, 1), (2, 2), (3, 1), (0, 4)):
            guest.config(offset + at, size, (1 << 8 * size) - 1)
    guest.run.turn()


def test_a_driver_and_the_main_thread_at_once(guest):
    """The one writes under the bus's lock, the other looks under it."""
    guest.start(30)
    end = threading.Event()

    def drive():
        while not end.is_set():
            with guest.run.machine.bus.lock:
                guest.keep_alive()

    thread = threading.Thread(target=drive)
    thread.start()
    for _ in range(2000):
        guest.run.turn(0.01)
    end.set()
    thread.join()
    assert guest.fires == []
