# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Event counters of the kernel, the interrupts that they raise, and the threads that wait on them.

An eventfd (eventfd(2)) is what KVM signals when a guest writes to a notify address, and what raises
an interrupt when it is written to: neither takes an exit to this process.
"""

from __future__ import annotations

import ctypes
import os
import select
import struct
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Callable

from . import abi
from .errors import KvmError

if TYPE_CHECKING:
    from .device import Vm

_EFD_CLOEXEC, _EFD_NONBLOCK = 0o2000000, 0o4000
_ONE = struct.pack("Q", 1)
_PINS = 24  # of the IOAPIC, of which the first 16 are the PICs' as well
_MAX_GSI = 4096  # KVM_MAX_IRQ_ROUTES


def readable(descriptor: int) -> bool:
    """Return whether something can be read from the descriptor, or its end has come."""
    poll = select.poll()  # select(2) knows of the first 1024 descriptors only
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


class Event:
    """An eventfd. Signals that nobody took yet count as one."""

    def __init__(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self.fd: int = libc.eventfd(0, _EFD_CLOEXEC | _EFD_NONBLOCK)
        if self.fd < 0:
            raise KvmError(f"cannot make an eventfd: {os.strerror(ctypes.get_errno())}")

    def signal(self) -> None:
        """Signal it."""
        with suppress(BlockingIOError):  # the counter is full, so it is signalled
            os.write(self.fd, _ONE)

    def take(self) -> bool:
        """Return whether it was signalled, and forget it."""
        try:
            return bool(os.read(self.fd, 8))
        except BlockingIOError:
            return False

    def pending(self) -> bool:
        """Return whether it is signalled."""
        return readable(self.fd)

    def close(self) -> None:
        """Close it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Interrupts:
    """Where the VM's interrupts go: the pins of the kernel's controllers, and messages (MSI).

    KVM takes the whole table at every change (api.rst, KVM_SET_GSI_ROUTING). Calls are serialised
    by the bus.
    """

    def __init__(self, vm: Vm) -> None:
        self._vm = vm
        self._pins = [
            struct.pack("IIIIII24x", pin, abi.ROUTING_IRQCHIP, 0, 0, chip, pin - first)
            for chip, first, end in ((0, 0, 8), (1, 8, 16), (2, 0, _PINS))
            for pin in range(first, end)
        ]
        self._messages: dict[int, bytes] = {}
        self._next = _PINS

    def allocate(self) -> int:
        """Return the number of a message that goes nowhere yet."""
        if self._next >= _MAX_GSI:
            raise KvmError("the guest has more interrupts than KVM routes")
        self._next += 1
        return self._next - 1

    def route(self, gsi: int, address: int, data: int) -> None:
        """Let the interrupt ``gsi`` be the message ``data`` at ``address``."""
        low, high = address & 0xFFFF_FFFF, address >> 32
        entry = struct.pack("IIIIIIII16x", gsi, abi.ROUTING_MSI, 0, 0, low, high, data, 0)
        if self._messages.get(gsi) != entry:
            self._messages[gsi] = entry
            self._vm.set_routing([*self._pins, *self._messages.values()])

    def connect(self, event: Event, gsi: int) -> None:
        """Let ``event`` raise the interrupt from now on, at once if it is signalled."""
        self._vm.irqfd(event.fd, gsi, assign=True)

    def disconnect(self, event: Event, gsi: int) -> None:
        """Hold the interrupt back; ``event`` remembers that it is due."""
        self._vm.irqfd(event.fd, gsi, assign=False)


class Worker:
    """A thread that waits for descriptors and calls back when they can be read.

    ``failed`` is told of an exception that a callback raises; the thread ends then.
    """

    def __init__(self, name: str) -> None:
        self._poll = select.epoll()
        self._calls: dict[int, Callable[[], None]] = {}
        self._end = Event()
        self._poll.register(self._end.fd, select.EPOLLIN)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._failed: Callable[[BaseException], None] = lambda _: None

    def watch(self, descriptor: int, call: Callable[[], None]) -> None:
        """Call ``call`` on the thread whenever the descriptor can be read. From any thread."""
        self._calls[descriptor] = call
        self._poll.register(descriptor, select.EPOLLIN)

    def unwatch(self, descriptor: int) -> None:
        """Stop watching the descriptor; a call that is on its way may still come."""
        if self._calls.pop(descriptor, None):
            self._poll.unregister(descriptor)

    def start(self, failed: Callable[[BaseException], None]) -> None:
        """Start the thread."""
        self._failed = failed
        self._thread.start()

    def fail(self, error: BaseException) -> None:
        """Tell of an error on a thread that works for this one. From any thread."""
        self._failed(error)

    def _run(self) -> None:
        poll, calls, end = self._poll.poll, self._calls, self._end.fd
        try:
            while True:
                for descriptor, _ in poll():
                    if descriptor == end:
                        return
                    call = calls.get(descriptor)
                    if call:
                        call()
        except Exception as error:  # noqa: BLE001 - reported, and the guest must end
            self.fail(error)

    def stop(self) -> None:
        """Let the thread come to its end, and wait for it."""
        self._end.signal()
        if self._thread.ident:
            self._thread.join()

    def close(self) -> None:
        """Stop, and give back what it holds."""
        self.stop()
        self._poll.close()
        self._end.close()
