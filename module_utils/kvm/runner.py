# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a machine: a thread per vCPU, and the main thread that watches everything else.

Whoever ends the run first decides its outcome: the guest, an error, a request, a signal, the clock.
Threads inside KVM_RUN are brought out by ``immediate_exit`` and a signal (api.rst, 5).
"""

from __future__ import annotations

import os
import selectors
import signal
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, AbstractSet, Any, Callable, Mapping, NamedTuple

from . import abi
from .bus import GuestStop
from .errors import EXIT_INTERNAL, EXIT_OK, EXIT_TIMEOUT, EXIT_TRIPLE_FAULT, KvmError, trace

if TYPE_CHECKING:
    from .builder import Machine
    from .device import Vcpu

_KICK = signal.SIGUSR1
_JOIN_GRACE = 2.0  # seconds after which a thread stuck in a write is left to the process's end
# Bytes of a thread's stack: where the host makes huge pages of what it can, one of the usual 8 MiB
# takes 2 MiB for the few KiB that are used.
_STACK = 512 << 10
_REASONS = 64  # exit reasons that are counted
_LONGEST_WAIT = 3600.0  # seconds; epoll takes 24 days at most


class Outcome(NamedTuple):
    """How a run ended: exit status, one line for people, and details such as registers.

    ``reset`` is True where the guest wants to begin again.
    """

    status: int
    reason: str
    detail: str = ""
    reset: bool = False


def registers(vcpu: Vcpu) -> str:
    """Return the vCPU's registers as lines of text."""
    regs, sregs = vcpu.regs(), vcpu.sregs()
    names = [name for name, _ in abi.kvm_regs._fields_]
    words = [f"{name}={getattr(regs, name):#x}" for name in names]
    words += [f"{name}={getattr(sregs, name):#x}" for name in ("cr0", "cr3", "cr4", "efer")]
    words.append(f"cs={sregs.cs.selector:#x}/{sregs.cs.base:#x}")
    return "\n".join(" ".join(words[at : at + 4]) for at in range(0, len(words), 4))


class Runner:
    """Runs ``machine`` to its end, and watches other descriptors on the main thread meanwhile.

    ``again`` is asked for the next machine where the guest wants to begin again; None ends the run.
    ``grace`` is how many seconds a signal leaves the guest to turn itself off. ``pins`` says which
    CPUs a vCPU may run on. All that is watched stays from one machine to the next.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.again: Callable[[Outcome], Machine | None] = lambda _: None
        self.grace = 0.0
        self.pins: Mapping[int, AbstractSet[int]] = {}
        self.on_stopping: Callable[[float], None] = lambda _: None  # a grace of so many seconds
        self.selector = selectors.DefaultSelector()
        self.exits = [0] * _REASONS
        self.started = 0.0  # time.monotonic() of the first entry
        self.booted = 0.0  # the same of this machine's
        self.boots = 0
        self.paused = False
        self.clocks: dict[int, int] = {}  # by vCPU, what time.clock_gettime tells its CPU time by
        self.stuck = False  # a vCPU's thread could not be ended, because its output blocks
        self._outcome: Outcome | None = None
        self._attention = False  # the vCPUs' threads are to look up: to end, or to stand still
        self._lock = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._parked = 0
        self._paused_at = self._paused_for = 0.0
        self._signals: list[int] = []
        self._last_resort: tuple[float, Outcome] | None = None  # when the grace is over
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.selector.register(self._wake_read, selectors.EVENT_READ, self._drain)
        self._ticks: list[Callable[[], float | None]] = []

    def watch(self, source: Any, callback: Callable[[], None]) -> None:
        """Call ``callback`` on the main thread whenever ``source`` can be read."""
        self.selector.register(source, selectors.EVENT_READ, callback)

    def unwatch(self, source: Any) -> None:
        """Stop watching ``source``."""
        self.selector.unregister(source)

    def each_turn(self, callback: Callable[[], float | None]) -> None:
        """Call ``callback`` on every turn of the main loop.

        It returns the seconds after which it wants to be called again at the latest, or None.
        """
        self._ticks.append(callback)

    def finish(self, outcome: Outcome, for_good: bool = False) -> None:
        """End the run with ``outcome``, unless it has already ended. From any thread.

        One that is meant for good ends it as well where the guest just wants to begin again.
        """
        with self._lock:
            if self._outcome is not None and not (for_good and self._outcome.reset):
                return
            self._outcome = outcome
            self._attention = True
            self._lock.notify_all()
        self.wake()

    def wake(self) -> None:
        """Let the main thread take a turn."""
        with suppress(BlockingIOError):  # the pipe is full: it will wake anyway
            os.write(self._wake_write, b"\0")

    def _drain(self) -> None:
        os.read(self._wake_read, 4096)

    def counts(self) -> dict[str, int]:
        """Return the exits so far by reason."""
        return {
            abi.EXIT_NAMES.get(number, str(number)): count
            for number, count in enumerate(self.exits)
            if count
        }

    def run(
        self, timeout: float | None = None, on_start: Callable[[], None] | None = None
    ) -> Outcome:
        """Run to the end and return the outcome. ``timeout`` is in seconds.

        SIGTERM, SIGINT and SIGHUP end the run cleanly, a second one at once. Must be called on the
        process's main thread.
        """
        threading.stack_size(_STACK)
        handlers = {_KICK: signal.signal(_KICK, lambda *_: None)}
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            handlers[number] = signal.signal(number, self._on_signal)
        # One that comes just before the main thread waits is heeded only when the wait is over.
        waker = signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        self.started = time.monotonic()
        deadline = None if timeout is None else self.started + timeout
        try:
            self._boot()
            if on_start:
                on_start()
            self._main_loop(deadline)
            while self._boots_again():
                self._main_loop(deadline)
        finally:
            # Whatever happened here: nothing may be taken from under a thread that still runs.
            self.finish(Outcome(EXIT_INTERNAL, "the run was given up"))
            self._join()
            for number, handler in handlers.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(waker)
            self.selector.close()
            os.close(self._wake_read)
            os.close(self._wake_write)
            self._wake_write = -1  # a thread that is stuck may still come by
        return self._outcome or Outcome(EXIT_INTERNAL, "the run ended without an outcome")

    def _boot(self) -> None:
        """Let the machine run."""
        self.boots += 1
        self.booted = time.monotonic()
        self._threads = [
            threading.Thread(target=self._vcpu_thread, args=(vcpu,), daemon=True)
            for vcpu in self.machine.vcpus
        ]
        for worker in self.machine.workers:
            worker.start(self._failed)
        for thread in self._threads:
            thread.start()

    def _boots_again(self) -> bool:
        """After the end of a machine: let another take its place, if that is what is wanted."""
        outcome = self._outcome
        if outcome is None or not outcome.reset or self._last_resort or self._signals:
            return False
        self._join()
        if self.stuck:
            return False
        with self._lock:
            self._outcome = None
            self._stop_pause()
        self._turn(0.0)  # a guest that does nothing but reset must not shut out everything else
        if self._ended_meanwhile():
            return False
        machine = self.again(outcome)
        if machine is None:
            self.finish(outcome)
            return False
        self.machine = machine
        with self._lock:  # it may have been paused in between
            self._attention = self.paused or self._outcome is not None
        self._boot()
        return True

    def _ended_meanwhile(self) -> bool:
        return self._outcome is not None

    # Stopping and standing still. All of this is for the main thread.

    def _on_signal(self, number: int, _: object) -> None:
        # It may come between any two instructions of the main thread: the next turn heeds it.
        self._signals.append(number)

    def press(self) -> bool:
        """Press the power button; return whether the guest listens to it.

        A guest that is paused goes on, as it could not see it otherwise.
        """
        self.resume()
        with self.machine.bus.lock:
            return self.machine.power.press()

    def shut_down(self, reason: str) -> None:
        """Press the power button and wait, no longer than the grace; or end the run at once.

        At once is where there is no grace, where the guest does not listen, or when it has been
        asked before.
        """
        outcome = Outcome(EXIT_OK, reason)
        if self.grace <= 0 or self._last_resort or not self.press():
            self.finish(outcome, for_good=True)
            return
        words = f"{reason}, as it did not turn itself off within {self.grace:g} s"
        self._last_resort = (time.monotonic() + self.grace, Outcome(EXIT_OK, words))
        self.on_stopping(self.grace)

    def pause(self) -> bool:
        """Bring every vCPU out of the guest and keep it there; return whether that went well.

        What the guest has asked its devices for goes on: stopping that would leave requests of the
        host's half done, and without vCPUs nothing new comes.
        """
        with self._lock:
            if self.paused or self._outcome is not None:
                return self.paused
            self.paused = self._attention = True
            self._paused_at = time.monotonic()
        if not self._kick(self._all_stand, self._wait_for_news):
            self.resume()
        return self.paused

    def _all_stand(self) -> bool:
        with self._lock:
            return self._parked >= sum(thread.is_alive() for thread in self._threads)

    def resume(self) -> None:
        """Let the vCPUs go on, if they are paused."""
        with self._lock:
            self._stop_pause()
            self._attention = self._outcome is not None
            self._lock.notify_all()

    def _stop_pause(self) -> None:
        if self.paused:
            self.paused = False
            self._paused_for += time.monotonic() - self._paused_at

    def guest_time(self) -> float:
        """Return seconds that only go on while the guest does; of use are differences."""
        with self._lock:
            now = self._paused_at if self.paused else time.monotonic()
            return now - self._paused_for

    def _main_loop(self, deadline: float | None) -> None:
        while self._outcome is None:
            while self._signals:
                self.shut_down(f"stopped by {signal.Signals(self._signals.pop(0)).name}")
            waits = [wait for tick in self._ticks for wait in (tick(),) if wait is not None]
            ends = [] if deadline is None else [(deadline, Outcome(EXIT_TIMEOUT, "timed out"))]
            if self._last_resort:
                ends.append(self._last_resort)
            for moment, outcome in ends:
                left = moment - time.monotonic()
                if left <= 0:
                    self.finish(outcome)
                    return
                waits.append(min(left, _LONGEST_WAIT))
            self._turn(min(waits) if waits else None)

    def _turn(self, timeout: float | None) -> None:
        for key, _ in self.selector.select(timeout):
            key.data()

    def _kick(self, done: Callable[[], bool], wait: Callable[[], None]) -> bool:
        """Bring the vCPUs' threads out of the guest until ``done``; return False if one is stuck.

        ``wait`` lets a few milliseconds pass.
        """
        if done():
            return True
        for vcpu in self.machine.vcpus:
            vcpu.kick()
        give_up = time.monotonic() + _JOIN_GRACE
        while time.monotonic() < give_up:
            # Again and again: the signal may come between two entries of the loop.
            for thread in self._threads:
                if thread.is_alive():
                    with suppress(ProcessLookupError):  # it ends in this very moment
                        signal.pthread_kill(thread.ident or 0, _KICK)
            wait()
            if done():
                return True
        return False

    def _wait_for_news(self) -> None:
        with self._lock:
            self._lock.wait(0.002)

    def _join(self) -> None:
        """Bring every vCPU out of the guest and its thread to an end."""

        def ended() -> bool:
            return not any(thread.is_alive() for thread in self._threads)

        def wait() -> None:
            for thread in self._threads:
                if thread.is_alive():
                    thread.join(0.005)
                    return

        self.stuck = not self._kick(ended, wait)

    def _vcpu_thread(self, vcpu: Vcpu) -> None:
        try:
            self.clocks[vcpu.index] = time.pthread_getcpuclockid(threading.get_ident())
            if vcpu.index in self.pins:
                os.sched_setaffinity(0, self.pins[vcpu.index])
            self.finish(self._vcpu_loop(vcpu))
        except GuestStop as stop:
            self.finish(Outcome(stop.status, stop.reason, reset=stop.reset))
        except Exception as error:  # noqa: BLE001 - reported, and the guest must end
            self._failed(error)

    def _failed(self, error: BaseException) -> None:
        """End the run because of an error on one of its threads."""
        if isinstance(error, KvmError):
            self.finish(Outcome(error.status, str(error)))
            return
        self.finish(Outcome(EXIT_INTERNAL, f"internal error of the helper: {error}", trace(error)))

    def _vcpu_loop(self, vcpu: Vcpu) -> Outcome:
        # After every exit the caches are cold: the loop calls little and keeps its names local.
        enter, run32, exits = vcpu.enter, vcpu.run32, self.exits
        port_io, mmio = self.machine.bus.port_io, self.machine.bus.mmio
        io_exit = abi.EXIT_IO
        while True:
            while not self._attention:
                try:
                    enter()
                except OSError as error:
                    vcpu.check_interrupted(error)
                    exits[abi.EXIT_INTR] += 1
                    continue
                reason = run32[2]
                exits[reason] += 1
                if reason == io_exit:
                    port_io(vcpu)
                elif reason == abi.EXIT_MMIO:
                    mmio(vcpu)
                elif reason != abi.EXIT_INTR:
                    return self._ended(vcpu, reason)
            if self._outcome is not None:
                return self._outcome
            ended = self._stand(vcpu)
            if ended is not None:
                return ended

    def _stand(self, vcpu: Vcpu) -> Outcome | None:
        """Keep a vCPU out of the guest while the run is paused; return how it ended, if it did.

        The instruction that brought it out is finished first, as the kernel does at the next entry
        before it looks at ``immediate_exit`` (api.rst, 5), so that the registers are whole.
        """
        vcpu.kick()
        while True:
            try:
                vcpu.enter()
            except OSError as error:
                vcpu.check_interrupted(error)
                break
            reason = vcpu.run32[2]
            self.exits[reason] += 1
            if reason == abi.EXIT_IO:
                self.machine.bus.port_io(vcpu)
            elif reason == abi.EXIT_MMIO:
                self.machine.bus.mmio(vcpu)
            elif reason == abi.EXIT_INTR:
                break
            else:
                return self._ended(vcpu, reason)
        with self._lock:
            self._parked += 1
            self._lock.notify_all()
            while self.paused and self._outcome is None:
                self._lock.wait()
            self._parked -= 1
            if self._outcome is None:
                vcpu.release()
        return None

    @staticmethod
    def _ended(vcpu: Vcpu, reason: int) -> Outcome:
        """Say what an exit means that the guest does not come back from."""
        name = abi.EXIT_NAMES.get(reason, str(reason))
        detail = registers(vcpu)
        where = f"vCPU {vcpu.index} at {vcpu.regs().rip:#x}"
        if reason == abi.EXIT_SHUTDOWN:
            return Outcome(EXIT_TRIPLE_FAULT, f"triple fault: {where}", detail)
        if reason == abi.EXIT_INTERNAL_ERROR:
            suberror = vcpu.run32[8]
            meaning = abi.INTERNAL_ERRORS.get(suberror, f"suberror {suberror}")
            if suberror == 1 and vcpu.run32[9] >= 3:
                # kvm_run.emulation_failure: the instruction's length and bytes follow the flags.
                size = min(vcpu.run8[48], 15)
                meaning += f" ({bytes(vcpu.run8[49 : 49 + size]).hex(' ')})"
            return Outcome(EXIT_INTERNAL, f"KVM internal error: {meaning}, {where}", detail)
        if reason == abi.EXIT_FAIL_ENTRY:
            code = vcpu.run64[4]
            return Outcome(
                EXIT_INTERNAL, f"KVM cannot enter the guest ({code:#x}): {where}", detail
            )
        return Outcome(EXIT_INTERNAL, f"unexpected KVM exit {name}: {where}", detail)
