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
from typing import TYPE_CHECKING, Any, Callable, NamedTuple

from . import abi
from .bus import GuestStop
from .errors import EXIT_INTERNAL, EXIT_OK, EXIT_TIMEOUT, EXIT_TRIPLE_FAULT, KvmError

if TYPE_CHECKING:
    from .builder import Machine
    from .device import Vcpu

_KICK = signal.SIGUSR1
_JOIN_GRACE = 2.0  # seconds after which a thread stuck in a write is left to the process's end
_REASONS = 64  # exit reasons that are counted
_LONGEST_WAIT = 3600.0  # seconds; epoll takes 24 days at most


class Outcome(NamedTuple):
    """How a run ended: exit status, one line for people, and details such as registers."""

    status: int
    reason: str
    detail: str = ""


def registers(vcpu: Vcpu) -> str:
    """Return the vCPU's registers as lines of text."""
    regs, sregs = vcpu.regs(), vcpu.sregs()
    names = [name for name, _ in abi.kvm_regs._fields_]
    words = [f"{name}={getattr(regs, name):#x}" for name in names]
    words += [f"{name}={getattr(sregs, name):#x}" for name in ("cr0", "cr3", "cr4", "efer")]
    words.append(f"cs={sregs.cs.selector:#x}/{sregs.cs.base:#x}")
    return "\n".join(" ".join(words[at : at + 4]) for at in range(0, len(words), 4))


class Runner:
    """Runs ``machine`` to its end, and watches other descriptors on the main thread meanwhile."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.selector = selectors.DefaultSelector()
        self.exits = [0] * _REASONS
        self.started = 0.0  # time.monotonic() of the first entry
        self.stuck = False  # a vCPU's thread could not be ended, because its output blocks
        self._outcome: Outcome | None = None
        self._lock = threading.Lock()
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

    def finish(self, outcome: Outcome) -> None:
        """End the run with ``outcome``, unless it has already ended. From any thread."""
        with self._lock:
            if self._outcome is not None:
                return
            self._outcome = outcome
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

        SIGTERM and SIGINT end the run cleanly. Must be called on the process's main thread.
        """
        threads = [
            threading.Thread(target=self._vcpu_thread, args=(vcpu,), daemon=True)
            for vcpu in self.machine.vcpus
        ]
        handlers = {_KICK: signal.signal(_KICK, lambda *_: None)}
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            handlers[number] = signal.signal(number, self._on_signal)
        self.started = time.monotonic()
        try:
            for thread in threads:
                thread.start()
            if on_start:
                on_start()
            self._main_loop(None if timeout is None else self.started + timeout)
        finally:
            # Whatever happened here: nothing may be taken from under a thread that still runs.
            self.finish(Outcome(EXIT_INTERNAL, "the run was given up"))
            self._join(threads)
            self.stuck = any(thread.is_alive() for thread in threads)
            for number, handler in handlers.items():
                signal.signal(number, handler)
            self.selector.close()
            os.close(self._wake_read)
            os.close(self._wake_write)
            self._wake_write = -1  # a thread that is stuck may still come by
        return self._outcome or Outcome(EXIT_INTERNAL, "the run ended without an outcome")

    def _on_signal(self, number: int, _: object) -> None:
        self.finish(Outcome(EXIT_OK, f"stopped by {signal.Signals(number).name}"))

    def _main_loop(self, deadline: float | None) -> None:
        while self._outcome is None:
            waits = [wait for tick in self._ticks for wait in (tick(),) if wait is not None]
            if deadline is not None:
                left = deadline - time.monotonic()
                if left <= 0:
                    self.finish(Outcome(EXIT_TIMEOUT, "timed out"))
                    return
                waits.append(min(left, _LONGEST_WAIT))
            for key, _ in self.selector.select(min(waits) if waits else None):
                key.data()

    def _join(self, threads: list[threading.Thread]) -> None:
        """Bring every vCPU out of the guest and its thread to an end."""
        for vcpu in self.machine.vcpus:
            vcpu.kick()
        give_up = time.monotonic() + _JOIN_GRACE
        for thread in threads:
            while thread.is_alive() and time.monotonic() < give_up:
                # Again and again: the signal may come between two entries of the loop.
                with suppress(ProcessLookupError):  # it ends in this very moment
                    signal.pthread_kill(thread.ident or 0, _KICK)
                thread.join(0.005)

    def _vcpu_thread(self, vcpu: Vcpu) -> None:
        try:
            self.finish(self._vcpu_loop(vcpu))
        except GuestStop as stop:
            self.finish(Outcome(stop.status, stop.reason))
        except KvmError as error:
            self.finish(Outcome(error.status, str(error)))
        except Exception as error:  # noqa: BLE001 - reported, and the guest must end
            import traceback  # costs milliseconds at every start

            text = traceback.format_exc()
            self.finish(Outcome(EXIT_INTERNAL, f"internal error of the helper: {error}", text))

    def _vcpu_loop(self, vcpu: Vcpu) -> Outcome:
        # After every exit the caches are cold: the loop calls little and keeps its names local.
        enter, run32, exits = vcpu.enter, vcpu.run32, self.exits
        port_io, mmio = self.machine.bus.port_io, self.machine.bus.mmio
        io_exit = abi.EXIT_IO
        while self._outcome is None:
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
        return self._outcome

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
