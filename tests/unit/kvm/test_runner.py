# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs of a machine whose vCPUs play a script: how each exit ends, and who ends a run first."""

from __future__ import annotations

import os
import signal
import struct
import threading
import time
from types import SimpleNamespace

import pytest
from ansible.module_utils.kvm import abi, runner
from ansible.module_utils.kvm.bus import Bus, Device, GuestStop
from ansible.module_utils.kvm.errors import OutputError
from ansible.module_utils.kvm.runner import Outcome, Runner

SPIN = object()  # what a vCPU does that never ends by itself
LATE = object()  # an end that comes while the main thread already waits
SOON = 5.0  # seconds in which every run here must have ended


class ScriptedVcpu:
    """Stands in for a vCPU: every entry gives the next step's exit reason, or raises it."""

    def __init__(self, *steps, index=0, prepare=None):
        self.index = index
        self.steps = list(steps)
        self.run8 = memoryview(bytearray(2 * 4096))
        self.run32, self.run64 = self.run8.cast("I"), self.run8.cast("Q")
        self.kicked = threading.Event()
        if prepare:
            prepare(self.run8)

    def enter(self):
        self.run32[2] = self.next_exit()

    def next_exit(self):
        step = self.steps[0] if self.steps[0] is SPIN else self.steps.pop(0)
        if step is SPIN:
            self.kicked.wait(0.01)
            return abi.EXIT_INTR
        if isinstance(step, BaseException):
            raise step
        if step is LATE:
            time.sleep(0.05)
            raise GuestStop(5, "late")
        return step

    def kick(self):
        self.kicked.set()

    def release(self):
        self.kicked.clear()

    def regs(self):
        return abi.kvm_regs(rip=0x7C05, rax=0xABC)

    def sregs(self):
        sregs = abi.kvm_sregs(cr0=0x11)
        sregs.cs.selector, sregs.cs.base = 0x8, 0x1000
        return sregs


def machine(*vcpus):
    return SimpleNamespace(vcpus=list(vcpus), bus=Bus(), workers=[])


def run(*vcpus, **settings):
    """Run scripted vCPUs and return the outcome; nothing may be left of the run."""
    before = (set(os.listdir("/proc/self/fd")), threading.active_count(), handlers())
    begin = time.monotonic()
    outcome = Runner(machine(*vcpus)).run(**settings)
    assert time.monotonic() - begin < SOON
    assert (set(os.listdir("/proc/self/fd")), threading.active_count(), handlers()) == before
    return outcome


def handlers():
    numbers = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    return [signal.getsignal(number) for number in numbers]


def internal_error(suberror, ndata=0, data=b""):
    return lambda run8: struct.pack_into("<II16s", run8, 32, suberror, ndata, data)


# An emulation failure as KVM reports it: flags, then the instruction's length and bytes.
EMULATION = "KVM internal error: an instruction that KVM cannot emulate"
POPCNT = struct.pack("<QB", 1, 4) + b"\xf3\x0f\xb8\xc0\xe6\xf4\x90"

ENDS = {
    "triple fault": (abi.EXIT_SHUTDOWN, None, 72, "triple fault: vCPU 0 at 0x7c05"),
    "no instruction of KVM's": (
        abi.EXIT_INTERNAL_ERROR,
        internal_error(1, 4, POPCNT),
        70,
        f"{EMULATION} (f3 0f b8 c0), vCPU 0 at 0x7c05",
    ),
    "the same without its bytes, as older kernels tell it": (
        abi.EXIT_INTERNAL_ERROR,
        internal_error(1),
        70,
        f"{EMULATION}, vCPU 0 at 0x7c05",
    ),
    "simultaneous exceptions": (
        abi.EXIT_INTERNAL_ERROR,
        internal_error(2),
        70,
        "KVM internal error: simultaneous exceptions, vCPU 0 at 0x7c05",
    ),
    "an internal error from the future": (
        abi.EXIT_INTERNAL_ERROR,
        internal_error(99),
        70,
        "KVM internal error: suberror 99, vCPU 0 at 0x7c05",
    ),
    "an entry that the hardware refuses": (
        abi.EXIT_FAIL_ENTRY,
        lambda run8: struct.pack_into("<Q", run8, 32, 0x80000021),
        70,
        "KVM cannot enter the guest (0x80000021): vCPU 0 at 0x7c05",
    ),
    "an exit without a meaning here": (
        abi.EXIT_HLT,
        None,
        70,
        "unexpected KVM exit hlt: vCPU 0 at 0x7c05",
    ),
    "an exit from the future": (63, None, 70, "unexpected KVM exit 63: vCPU 0 at 0x7c05"),
}


@pytest.mark.parametrize("case", ENDS)
def test_an_exit_that_the_guest_does_not_come_back_from(case):
    reason, prepare, status, words = ENDS[case]
    outcome = run(ScriptedVcpu(reason, prepare=prepare))
    assert (outcome.status, outcome.reason) == (status, words)
    assert "rax=0xabc" in outcome.detail
    assert "rip=0x7c05" in outcome.detail
    assert "cr0=0x11" in outcome.detail
    assert "cs=0x8/0x1000" in outcome.detail


RAISED = {
    "the guest's own end": (GuestStop(43, "debug exit with value 0x15"), 43, "debug exit with"),
    "an output that fails": (OutputError("cannot write"), 74, "cannot write"),
    "a mistake of ours": (ValueError("oh"), 70, "internal error of the helper: oh"),
}


@pytest.mark.parametrize("case", RAISED)
def test_what_ends_a_vcpus_thread_ends_the_run(case):
    error, status, words = RAISED[case]
    outcome = run(ScriptedVcpu(error), ScriptedVcpu(SPIN, index=1))
    assert outcome.status == status
    assert outcome.reason.startswith(words)
    assert ("Traceback" in outcome.detail) == (status == 70)


def test_the_first_to_end_decides():
    waiting = Runner(machine())
    waiting.finish(Outcome(1, "first"))
    waiting.finish(Outcome(2, "second"))
    assert waiting.run().reason == "first"


def test_a_vcpu_whose_thread_ended_before_it_is_joined():
    outcome = run(ScriptedVcpu(GuestStop(1, "done")), *[ScriptedVcpu(SPIN) for _ in range(7)])
    assert outcome == Outcome(1, "done")


def test_an_end_wakes_the_main_thread():
    begin = time.monotonic()
    assert run(ScriptedVcpu(LATE), timeout=SOON).status == 5
    assert time.monotonic() - begin < SOON / 2


@pytest.mark.parametrize("timeout", [0.0, 0.05])
def test_timeout(timeout):
    begin = time.monotonic()
    assert run(ScriptedVcpu(SPIN), timeout=timeout) == Outcome(124, "timed out")
    assert time.monotonic() - begin >= timeout


@pytest.mark.parametrize("timeout", [1e3, 1e9, 1e300])
def test_a_very_long_timeout_is_none_that_fails(timeout):
    steps = [abi.EXIT_INTR, abi.EXIT_INTR, GuestStop(3, "done")]
    assert run(ScriptedVcpu(*steps), timeout=timeout).status == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_end_a_run_cleanly(number):
    def send():
        os.kill(os.getpid(), number)

    outcome = run(ScriptedVcpu(SPIN), on_start=send)
    assert outcome == Outcome(0, f"stopped by {signal.Signals(number).name}")


def test_a_signal_just_before_the_main_thread_waits_is_heeded_at_once():
    """As when another thread receives it: the wait of the main thread is not interrupted."""

    def send():
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()

    try:
        outcome = run(ScriptedVcpu(SPIN), on_start=send, timeout=2 * SOON)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    assert outcome == Outcome(0, "stopped by SIGTERM")


def test_exits_are_counted_by_name():
    counting = Runner(machine(ScriptedVcpu(*[abi.EXIT_INTR] * 3, abi.EXIT_SHUTDOWN)))
    counting.run()
    assert counting.counts() == {"intr": 3, "shutdown": 1}


def test_port_and_mmio_exits_reach_the_bus():
    seen = []

    class Recorder(Device):
        def write(self, offset, size, value):
            seen.append((offset, size, value))
            if value == 0x99:
                raise GuestStop(0, "reset")

    def mmio(run8):
        struct.pack_into("<Q8sIB", run8, 32, 0xD0000004, b"\x99", 1, 1)

    vcpu = ScriptedVcpu(abi.EXIT_MMIO, prepare=mmio)
    made = machine(vcpu)
    made.bus.add_mmio(0xD0000000, 16, Recorder())
    assert Runner(made).run() == Outcome(0, "reset")
    assert seen == [(4, 1, 0x99)]


def test_watched_descriptors_and_turns():
    reader, writer = os.pipe()
    seen = []
    watching = Runner(machine(ScriptedVcpu(SPIN)))

    def readable():
        seen.append(os.read(reader, 100))
        watching.unwatch(reader)
        watching.finish(Outcome(0, "seen"))

    def each_turn():
        if not seen:
            os.write(writer, b"x")
        return 0.01

    watching.watch(reader, readable)
    watching.each_turn(each_turn)
    assert watching.run().reason == "seen"
    assert seen[0].strip(b"x") == b""
    os.close(reader)
    os.close(writer)


def test_waking_again_and_again_never_blocks():
    waking = Runner(machine())
    for _ in range(100_000):
        waking.wake()
    waking.finish(Outcome(0, "done"))
    assert waking.run().status == 0


@pytest.mark.parametrize("when", ["on_start", "each_turn"])
def test_an_error_on_the_main_thread_still_ends_every_vcpu(when):
    """Otherwise the machine would be taken from under threads that run it."""

    def fail():
        raise LookupError("main thread")

    vcpus = [ScriptedVcpu(SPIN), ScriptedVcpu(SPIN, index=1)]
    failing = Runner(machine(*vcpus))
    if when == "each_turn":
        failing.each_turn(fail)
    before = (set(os.listdir("/proc/self/fd")), threading.active_count())
    with pytest.raises(LookupError, match="main thread"):
        failing.run(on_start=fail if when == "on_start" else None)
    assert threading.active_count() == before[1]
    assert len(os.listdir("/proc/self/fd")) == len(before[0]) - 4 + 1
    assert all(vcpu.kicked.is_set() for vcpu in vcpus)


def test_a_vcpu_that_is_stuck_is_given_up(monkeypatch):
    """As one whose output nobody reads: it waits where no kick reaches it."""
    monkeypatch.setattr(runner, "_JOIN_GRACE", 0.05)
    release = threading.Event()

    class Stuck(ScriptedVcpu):
        def next_exit(self):
            release.wait()
            return abi.EXIT_INTR

    stuck = Runner(machine(Stuck(SPIN)))
    assert stuck.run(timeout=0.01).status == 124
    assert stuck.stuck
    release.set()
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join(SOON)  # what it does afterwards fails here, if it fails


def test_registers_are_readable_lines():
    lines = runner.registers(ScriptedVcpu()).splitlines()
    assert lines[0] == "rax=0xabc rbx=0x0 rcx=0x0 rdx=0x0"
    assert len(lines) == 6


# Standing still.


class CountingVcpu(ScriptedVcpu):
    """Goes in and out of the guest without end, and answers a kick as KVM does."""

    def __init__(self, index=0):
        super().__init__(SPIN, index=index)
        self.entries = 0
        self.released = 0

    def next_exit(self):
        if self.kicked.is_set():
            raise InterruptedError(4, "Interrupted system call")
        self.entries += 1
        time.sleep(0.0005)
        return abi.EXIT_INTR

    def check_interrupted(self, error):
        assert error.errno == 4

    def release(self):
        self.released += 1
        super().release()


def moves(vcpu):
    before = vcpu.entries
    deadline = time.monotonic() + SOON
    while vcpu.entries == before and time.monotonic() < deadline:
        time.sleep(0.001)
    return vcpu.entries > before


def on_main_thread(made, steps):
    """Run the machine while ``steps``, a generator, goes on by one on each turn of the loop."""
    running = Runner(made)
    errors = []

    def turn():
        try:
            next(started)
        except StopIteration:
            running.finish(Outcome(0, "done"))
        except AssertionError as error:
            errors.append(error)
            running.finish(Outcome(1, "failed"))
        return 0.001

    started = steps(running)
    running.each_turn(turn)
    outcome = running.run(timeout=SOON)
    if errors:
        raise errors[0]
    return running, outcome


def test_a_paused_machine_stands_still_and_goes_on_where_it_was():
    vcpus = [CountingVcpu(), CountingVcpu(1)]

    def steps(running):
        assert all(moves(vcpu) for vcpu in vcpus)
        for times in range(1, 4):
            assert running.pause()
            assert running.pause()  # which is nothing new
            stood = [vcpu.entries for vcpu in vcpus]
            yield
            time.sleep(0.02)
            assert [vcpu.entries for vcpu in vcpus] == stood
            assert running.paused
            running.resume()
            assert not running.paused
            assert all(moves(vcpu) for vcpu in vcpus)
            assert [vcpu.released for vcpu in vcpus] == [times] * 2
            yield

    _, outcome = on_main_thread(machine(*vcpus), steps)
    assert outcome.reason == "done"


def test_an_exit_that_is_on_its_way_is_finished_before_the_vcpu_stands():
    """The kernel finishes an access at the next entry, which may be another exit."""
    seen = []

    class Recorder(Device):
        def write(self, offset, size, value):
            seen.append(value)

    class Halfway(CountingVcpu):
        """Where it is kicked it still has three more writes to hand out."""

        left = 3

        def next_exit(self):
            if self.kicked.is_set() and self.left:
                self.left -= 1
                self.run8[40] = self.left
                return abi.EXIT_MMIO
            return super().next_exit()

    def mmio(run8):
        struct.pack_into("<Q8sIB", run8, 32, 0xD0000000, b"", 1, 1)

    vcpu = Halfway()
    mmio(vcpu.run8)
    made = machine(vcpu)
    made.bus.add_mmio(0xD0000000, 16, Recorder())

    def steps(running):
        assert moves(vcpu)
        assert running.pause()
        assert seen == [2, 1, 0]
        yield

    assert on_main_thread(made, steps)[1].reason == "done"


def test_a_guest_that_ends_itself_while_it_is_brought_out_has_ended():
    class Ending(CountingVcpu):
        def next_exit(self):
            if self.kicked.is_set():
                raise GuestStop(7, "with its last breath")
            return super().next_exit()

    vcpu = Ending()

    def steps(running):
        assert moves(vcpu)
        running.pause()
        yield
        yield

    assert on_main_thread(machine(vcpu), steps)[1] == Outcome(7, "with its last breath")


def test_a_paused_machine_can_be_ended():
    vcpus = [CountingVcpu(), CountingVcpu(1)]

    def steps(running):
        assert running.pause()
        running.finish(Outcome(5, "enough"))
        yield
        yield

    assert on_main_thread(machine(*vcpus), steps)[1] == Outcome(5, "enough")


def test_a_vcpu_that_does_not_come_out_keeps_nobody_else_standing(monkeypatch):
    monkeypatch.setattr(runner, "_JOIN_GRACE", 0.05)
    release = threading.Event()

    class Stuck(CountingVcpu):
        def next_exit(self):
            release.wait()
            return super().next_exit()

    good = CountingVcpu()

    def steps(running):
        assert moves(good)
        assert not running.pause()
        assert not running.paused
        assert moves(good)
        release.set()
        yield

    assert on_main_thread(machine(good, Stuck(1)), steps)[1].reason == "done"


def test_guest_time_stands_still_while_the_guest_does():
    def steps(running):
        assert running.pause()
        before = running.guest_time()
        time.sleep(0.05)
        assert running.guest_time() == before
        running.resume()
        assert running.guest_time() - before < 0.04
        time.sleep(0.02)
        assert running.guest_time() - before >= 0.02
        yield

    assert on_main_thread(machine(CountingVcpu()), steps)[1].reason == "done"


def test_cpu_time_and_pins_are_of_each_vcpus_own_thread():
    """A pin is of the thread, not of the process."""
    mine = os.sched_getaffinity(0)
    seen = {}

    class Looking(ScriptedVcpu):
        def next_exit(self):
            seen[self.index] = os.sched_getaffinity(0)
            return super().next_exit()

    one = {max(mine)}
    pinned = Runner(machine(Looking(GuestStop(0, "done")), Looking(GuestStop(0, "done"), index=1)))
    pinned.pins = {1: one}
    assert pinned.run().reason == "done"
    assert seen.get(0, mine) == mine
    assert seen.get(1, one) == one
    assert os.sched_getaffinity(0) == mine
    assert set(pinned.clocks) <= {0, 1}

    def look():
        for _ in range(1000):  # the kernel may keep a thread a moment longer than Python does
            time.clock_gettime(pinned.clocks[max(pinned.clocks)])
            time.sleep(0.01)

    with pytest.raises(OSError, match="Invalid argument"):  # of a thread that has ended
        look()


def test_a_pin_to_a_cpu_that_is_not_there_ends_the_run():
    pinned = Runner(machine(ScriptedVcpu(SPIN)))
    pinned.pins = {0: {1023}}
    assert pinned.run(timeout=SOON).status == 70


# Beginning again.

RESET = GuestStop(0, "reset", reset=True)


def resetting(*machines):
    """Return a runner that goes from machine to machine, and those that it has taken."""
    running = Runner(machines[0])
    rest, asked = list(machines[1:]), []

    def again(outcome):
        asked.append(outcome)
        return rest.pop(0) if rest else None

    running.again = again
    return running, asked


def test_a_guest_that_is_reset_gets_the_next_machine():
    ends = [machine(ScriptedVcpu(RESET)), machine(ScriptedVcpu(SPIN), ScriptedVcpu(RESET))]
    running, asked = resetting(*ends, machine(ScriptedVcpu(abi.EXIT_INTR, GuestStop(9, "off"))))
    assert running.run(timeout=SOON) == Outcome(9, "off")
    assert asked == [Outcome(0, "reset", reset=True)] * 2
    assert running.boots == 3
    assert running.counts() == {"intr": running.exits[abi.EXIT_INTR]}


def test_a_guest_that_is_reset_and_gets_none_has_ended():
    running, asked = resetting(machine(ScriptedVcpu(RESET)))
    assert running.run(timeout=SOON) == Outcome(0, "reset", reset=True)
    assert (running.boots, len(asked)) == (1, 1)


def test_a_run_that_cannot_go_on_fails_and_leaves_nothing():
    before = (set(os.listdir("/proc/self/fd")), threading.active_count(), handlers())
    running = Runner(machine(ScriptedVcpu(RESET)))

    def again(_):
        raise OutputError("no machine is to be had")

    running.again = again
    with pytest.raises(OutputError, match="no machine"):
        running.run(timeout=SOON)
    assert (set(os.listdir("/proc/self/fd")), threading.active_count(), handlers()) == before


def test_a_guest_that_only_resets_shuts_nobody_out():
    """What is watched is served between two machines, however short they live."""
    reader, writer = os.pipe()
    running = Runner(machine(ScriptedVcpu(RESET)))
    running.again = lambda _: machine(ScriptedVcpu(RESET))
    running.watch(reader, lambda: running.finish(Outcome(3, "heard")))
    os.write(writer, b"x")
    assert running.run(timeout=SOON) == Outcome(3, "heard")
    os.close(reader)
    os.close(writer)


def test_a_machine_that_is_paused_when_it_is_reset_does_not_stay_so():
    last = CountingVcpu()
    ends = [machine(CountingVcpu()), machine(last)]

    def steps(running):
        running.again = lambda _: ends[1]
        assert running.pause()
        running.finish(Outcome(0, "reset on request", reset=True))
        yield
        assert running.machine is ends[1]
        assert not running.paused
        assert moves(last)

    assert on_main_thread(ends[0], steps)[1].reason == "done"


def test_a_pause_between_two_machines_holds_for_the_next():
    """Asked for in the turn that is taken between them."""
    reader, writer = os.pipe()
    last = CountingVcpu()
    running = Runner(machine(ScriptedVcpu(RESET)))
    running.again = lambda _: machine(last)

    def pause():
        os.read(reader, 1)
        assert running.pause()

    running.watch(reader, pause)
    os.write(writer, b"x")
    seen = []

    def turn():
        if running.machine.vcpus[0] is last:
            seen.append((running.paused, last.entries))
            if len(seen) == 5:
                running.resume()
            elif len(seen) > 5:
                assert moves(last)
                running.finish(Outcome(0, "done"))
        return 0.01

    running.each_turn(turn)
    assert running.run(timeout=SOON).reason == "done"
    assert seen[:5] == [(True, 0)] * 5
    os.close(reader)
    os.close(writer)


def test_workers_of_every_machine_are_started():
    class Worker:
        started = 0

        def start(self, failed):
            Worker.started += 1

    ends = [machine(ScriptedVcpu(RESET)), machine(ScriptedVcpu(GuestStop(1, "off")))]
    for one in ends:
        one.workers.append(Worker())
    running, _ = resetting(*ends)
    assert running.run(timeout=SOON).status == 1
    assert Worker.started == 2


# The power button.


class Power:
    """A power button that the guest listens to or not."""

    def __init__(self, listens, on_press=lambda: None):
        self.listens, self.on_press, self.pressed = listens, on_press, 0

    def press(self):
        self.pressed += 1
        self.on_press()
        return self.listens


def signalled(*numbers):
    for number in numbers:
        os.kill(os.getpid(), number)


@pytest.mark.parametrize("listens", [True, False])
def test_a_signal_presses_the_button_and_waits_for_a_guest_that_listens(listens):
    made = machine(CountingVcpu())
    running = Runner(made)
    running.grace = SOON
    told = []
    running.on_stopping = told.append
    off = Outcome(0, "turned itself off")
    made.power = Power(listens, lambda: listens and running.finish(off))
    begin = time.monotonic()
    outcome = running.run(on_start=lambda: signalled(signal.SIGTERM))
    assert time.monotonic() - begin < SOON / 2
    assert outcome == (off if listens else Outcome(0, "stopped by SIGTERM"))
    assert made.power.pressed == 1
    assert told == ([SOON] if listens else [])


def test_the_grace_is_all_that_a_guest_gets():
    made = machine(CountingVcpu())
    made.power = Power(listens=True)
    running = Runner(made)
    running.grace = 0.05
    begin = time.monotonic()
    outcome = running.run(on_start=lambda: signalled(signal.SIGTERM))
    assert 0.05 <= time.monotonic() - begin < SOON
    words = "stopped by SIGTERM, as it did not turn itself off within 0.05 s"
    assert outcome == Outcome(0, words)


def test_a_second_signal_ends_it_at_once():
    made = machine(CountingVcpu())
    made.power = Power(listens=True)
    running = Runner(made)
    running.grace = 1000.0
    begin = time.monotonic()
    outcome = running.run(on_start=lambda: signalled(signal.SIGTERM, signal.SIGINT))
    assert time.monotonic() - begin < SOON
    assert outcome == Outcome(0, "stopped by SIGINT")
    assert made.power.pressed == 1


def test_a_guest_that_resets_itself_instead_of_turning_itself_off_does_not_come_back():
    made = machine(ScriptedVcpu(*[abi.EXIT_INTR] * 50, LATE))
    made.power = Power(listens=True)
    running, asked = resetting(made, machine(ScriptedVcpu(SPIN)))
    running.grace = SOON

    def reset():
        running.finish(Outcome(0, "reset", reset=True))

    made.power.on_press = reset
    assert running.run(on_start=lambda: signalled(signal.SIGTERM)).reason == "reset"
    assert asked == []


def test_a_signal_between_two_machines_is_not_lost():
    running = Runner(machine(ScriptedVcpu(RESET)))
    last = machine(CountingVcpu())
    last.power = Power(listens=False)
    running.grace = SOON

    def again(_):
        signalled(signal.SIGTERM)
        return last

    running.again = again
    assert running.run(timeout=SOON) == Outcome(0, "stopped by SIGTERM")


def test_an_end_for_good_is_not_lost_where_the_guest_just_wants_to_begin_again():
    begun = threading.Event()

    class Waiting(ScriptedVcpu):
        def next_exit(self):
            begun.wait()
            return super().next_exit()

    running = Runner(machine(Waiting(RESET)))
    running.again = lambda _: machine(CountingVcpu())
    end = Outcome(0, "stopped on request")

    def tick():
        begun.set()
        time.sleep(0.1)  # meanwhile the guest resets itself
        running.finish(Outcome(1, "given up"))
        running.finish(end, for_good=True)
        running.finish(Outcome(1, "once more"), for_good=True)

    running.each_turn(tick)
    assert running.run(timeout=SOON) == end
    assert running.boots == 1


def test_a_paused_guest_is_let_go_on_to_see_the_button():
    vcpu = CountingVcpu()
    made = machine(vcpu)
    made.power = Power(listens=True)

    def steps(running):
        assert running.pause()
        assert running.press()
        assert moves(vcpu)
        yield

    assert on_main_thread(made, steps)[1].reason == "done"


def test_threads_have_stacks_of_which_no_huge_page_is_made():
    run(ScriptedVcpu(GuestStop(1, "end")))
    assert 0 < threading.stack_size() < 2 << 20
