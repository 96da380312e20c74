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

    def regs(self):
        return abi.kvm_regs(rip=0x7C05, rax=0xABC)

    def sregs(self):
        sregs = abi.kvm_sregs(cr0=0x11)
        sregs.cs.selector, sregs.cs.base = 0x8, 0x1000
        return sregs


def machine(*vcpus):
    return SimpleNamespace(vcpus=list(vcpus), bus=Bus())


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
