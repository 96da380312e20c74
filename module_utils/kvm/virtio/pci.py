# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Virtio over PCI (Virtio 1.2, section 4.1): every stock kernel's initramfs finds it by itself.

One BAR of 16 KiB: common configuration, interrupt status and the device's own configuration, then
the vectors, then an address for each queue to be notified at. KVM turns writes to those into events
and events into interrupts; what comes to this process as an exit is the set-up alone.
"""

from __future__ import annotations

import struct
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

from ..errors import KvmError
from ..events import Event
from ..pci import Function, Mapping, Msix
from .device import EVENT_INDEX, VERSION_1, VirtioDevice
from .queue import BrokenDriver, Queue

if TYPE_CHECKING:
    from ..bus import Bus
    from ..device import Vm
    from ..events import Interrupts
    from ..memory import GuestMemory

_VENDOR, _FIRST_DEVICE = 0x1AF4, 0x1040
_COMMON, _ISR, _DEVICE, _TABLE, _PENDING, _NOTIFY = 0x000, 0x100, 0x200, 0x1000, 0x1800, 0x2000
_COMMON_SIZE, _DEVICE_SIZE, _NOTIFY_SIZE = 0x38, 0xE00, 0x1000
_STEP = 4  # notify_off_multiplier
MAX_QUEUES = 64
_CAP_VENDOR = 0x09
_CFG_COMMON, _CFG_NOTIFY, _CFG_ISR, _CFG_DEVICE, _CFG_PCI = range(1, 6)
_NO_VECTOR = 0xFFFF
# device_status
_FEATURES_OK, _DRIVER_OK, _NEEDS_RESET = 8, 4, 64


class Transport(Function):
    """The PCI function of one virtio device, and what stands at its BAR."""

    def __init__(
        self, device: VirtioDevice, vm: Vm, memory: GuestMemory, interrupts: Interrupts, bar: int
    ) -> None:
        super().__init__(_VENDOR, _FIRST_DEVICE + device.kind, device.class_code, bar, revision=1)
        self.device = device
        self.memory = memory
        self._vm = vm
        self.lock = threading.RLock()  # between a worker and the vCPUs
        self.queues = [Queue(memory, limit) for limit in device.limits]
        self.kicks = [Event() for _ in device.limits]
        self.broken = ""  # what the driver did wrong, until it resets the device
        self._fast: set[int] = set()  # the notify addresses that KVM turns into events
        self._forget()
        self._started = False
        self._isr = 0
        self._generation = 0
        self._add_capabilities()
        count = len(device.limits) + 1
        self.msix = Msix(self, interrupts, count, _TABLE, _PENDING)
        self._mapping: Mapping | None = None
        device.queues, device.kicks = self.queues, self.kicks
        device.attach(self)

    def _add_capabilities(self) -> None:
        for kind, offset, length in (
            (_CFG_COMMON, _COMMON, _COMMON_SIZE),
            (_CFG_ISR, _ISR, 1),
            (_CFG_DEVICE, _DEVICE, _DEVICE_SIZE),
        ):
            self.add_capability(_CAP_VENDOR, struct.pack("<BBBxxxII", 16, kind, 0, offset, length))
        body = struct.pack("<BBBxxxIII", 20, _CFG_NOTIFY, 0, _NOTIFY, _NOTIFY_SIZE, _STEP)
        self.add_capability(_CAP_VENDOR, body)
        # The window to the BAR through the configuration space (4.1.4.9).
        body = struct.pack("<BBBxxxIII", 20, _CFG_PCI, 0, 0, 0, 0)
        writable = bytes([0, 0, 0xFF, 0, 0, 0]) + b"\xff" * 12
        self._window = self.add_capability(_CAP_VENDOR, body, writable)

    def _forget(self) -> None:
        self._status = 0
        self._select = [0, 0]  # device_feature_select, driver_feature_select
        self._driver_features = 0
        self._config_vector = _NO_VECTOR
        self._queue = 0  # queue_select
        self.broken = ""

    @property
    def offered(self) -> int:
        """The features of the device."""
        return self.device.features | self.device.ring_features | VERSION_1

    def place(self, bus: Bus) -> None:
        """Appear on the bus, where the BAR is."""
        self._mapping = Mapping(self, bus, self)
        self._moved()

    @property
    def address(self) -> int | None:
        """Where on the bus it stands, None where it does not."""
        return self._mapping.address if self._mapping else None

    def changed(self, offset: int, size: int) -> None:
        """Follow a write to the configuration space."""
        self.msix.changed(offset, size)
        self._moved()
        at = self._window + 16
        if offset < at + 4 and offset + size > at:
            place, length = self._window_target()
            if length:
                value = int.from_bytes(self.config[at : at + length], "little")
                self.write(place, length, value)

    def _window_target(self) -> tuple[int, int]:
        place, length = struct.unpack_from("<II", self.config, self._window + 8)
        fits = self.config[self._window + 4] == 0 and length in {1, 2, 4}
        return place, length if fits else 0

    def read_config(self, offset: int, size: int) -> int:
        """Return ``size`` bytes of the configuration space."""
        at = self._window + 16
        if offset < at + 4 and offset + size > at:
            place, length = self._window_target()
            if length:
                data = self.read(place, length) & (1 << 8 * length) - 1
                self.config[at : at + length] = data.to_bytes(length, "little")
        return super().read_config(offset, size)

    def _moved(self) -> None:
        """Let KVM know the addresses where queues are notified."""
        mapping = self._mapping
        if mapping is None:
            return
        before = mapping.address
        if not mapping.update():
            return
        for index, kick in enumerate(self.kicks):
            if before is not None and index in self._fast:
                self._vm.ioeventfd(kick.fd, before + _NOTIFY + _STEP * index, assign=False)
                self._fast.discard(index)
            at = (mapping.address or 0) + _NOTIFY + _STEP * index
            try:
                self._vm.ioeventfd(kick.fd, at, assign=True)
                self._fast.add(index)
            except KvmError:
                continue  # taken by another device, or too many: then it comes as an exit

    # What stands at the BAR.

    def read(self, offset: int, size: int) -> int:
        """Read a register."""
        if offset >= _NOTIFY:
            return 0
        if offset >= _PENDING:
            return self.msix.read_pending(offset - _PENDING, size)
        if offset >= _TABLE:
            return self.msix.read_table(offset - _TABLE, size)
        with self.lock:
            if offset >= _DEVICE:
                at = offset - _DEVICE
                return int.from_bytes(self.device.config[at : at + size], "little")
            if offset == _ISR:
                found, self._isr = self._isr, 0
                return found
            return self._read_common(offset, size)

    def write(self, offset: int, size: int, value: int) -> None:
        """Write a register."""
        if offset >= _NOTIFY:
            index = (offset - _NOTIFY) // _STEP
            if index < len(self.kicks):
                self.kicks[index].signal()
        elif offset >= _PENDING:
            return
        elif offset >= _TABLE:
            self.msix.write_table(offset - _TABLE, size, value)
        else:
            with self.lock:
                if offset >= _DEVICE:
                    self.device.write_config(offset - _DEVICE, size, value)
                else:
                    self._write_common(offset, size, value)

    def _selected(self) -> Queue | None:
        return self.queues[self._queue] if self._queue < len(self.queues) else None

    def _read_common(self, offset: int, size: int) -> int:
        """Read struct virtio_pci_common_cfg (4.1.4.3), any part of a field."""
        queue = self._selected()
        select = self._select
        offered = self.offered >> 32 * select[0] & 0xFFFF_FFFF if select[0] < 2 else 0
        accepted = self._driver_features >> 32 * select[1] & 0xFFFF_FFFF if select[1] < 2 else 0
        head = struct.pack(
            "<IIIIHHBBH",
            select[0],
            offered,
            select[1],
            accepted,
            self._config_vector,
            len(self.queues),
            self._status,
            self._generation,
            self._queue,
        )
        if queue is None:
            tail = struct.pack("<HHHHQQQ", 0, _NO_VECTOR, 0, 0, 0, 0, 0)
        else:
            fixed = (queue.size, queue.vector, int(queue.enabled), self._queue)
            tail = struct.pack("<HHHHQQQ", *fixed, queue.descriptors, queue.driver, queue.device)
        return int.from_bytes((head + tail)[offset : offset + size], "little")

    def _write_common(self, offset: int, size: int, value: int) -> None:
        """Write a field of struct virtio_pci_common_cfg; parts of fields are ignored."""
        if (offset, size) in {(0, 4), (8, 4)}:
            self._select[offset // 8] = value
        elif (offset, size) == (12, 4) and self._select[1] < 2:
            shift = 32 * self._select[1]
            if not self._status & _FEATURES_OK:
                kept = self._driver_features & ~(0xFFFF_FFFF << shift)
                self._driver_features = kept | value << shift
        elif (offset, size) == (16, 2):
            self._config_vector = value if value < len(self.msix.vectors) else _NO_VECTOR
        elif (offset, size) == (20, 1):
            self._set_status(value)
        elif (offset, size) == (22, 2):
            self._queue = value
        else:
            queue = self._selected()
            if queue is not None and not queue.enabled:
                self._write_queue(queue, offset, size, value)
            elif queue is not None and (offset, size) == (26, 2):
                self._set_vector(queue, value)
                if self._status & _DRIVER_OK:
                    self.device.vector_changed(self._queue)

    def _set_vector(self, queue: Queue, value: int) -> None:
        queue.vector = value if value < len(self.msix.vectors) else _NO_VECTOR

    def _write_queue(self, queue: Queue, offset: int, size: int, value: int) -> None:
        if (offset, size) == (24, 2):
            queue.size = value
        elif (offset, size) == (26, 2):
            self._set_vector(queue, value)
        elif (offset, size) == (28, 2) and value == 1:
            try:
                queue.enable()
            except BrokenDriver as error:
                self._break(str(error))
        elif 32 <= offset < 56 and size in {4, 8} and offset % size == 0:
            name = ("descriptors", "driver", "device")[(offset - 32) // 8]
            shift = 8 * (offset % 8)
            kept = getattr(queue, name) & ~(((1 << 8 * size) - 1) << shift)
            setattr(queue, name, kept | value << shift)

    def _set_status(self, value: int) -> None:
        if not value:
            self.reset()
            return
        new = value & ~self._status
        accepted = self._driver_features
        if new & _FEATURES_OK and (accepted & ~self.offered or not accepted & VERSION_1):
            value &= ~_FEATURES_OK  # the driver reads it back, and gives up (3.1.1)
        self._status |= value & ~_NEEDS_RESET
        if new & _DRIVER_OK and self._status & _FEATURES_OK and not self.broken:
            self._start()

    def _start(self) -> None:
        device = self.device
        device.ready_at = time.monotonic()
        device.accepted = self._driver_features
        self._started = True
        for index, queue in enumerate(self.queues):
            queue.interrupt = partial(self._interrupt, index)
            if queue.enabled:
                queue.start(event_index=bool(device.accepted & EVENT_INDEX))
        try:
            device.start()
        except BrokenDriver as error:
            self._break(str(error))
            return
        if device.worker is not None:
            for index, kick in enumerate(self.kicks):
                if self.queues[index].enabled and index not in device.in_kernel:
                    device.worker.watch(kick.fd, partial(self._kicked, index))
                    # Buffers that were there before need no notification.
                    kick.signal()

    @property
    def running(self) -> bool:
        """Whether the driver is ready and has done nothing wrong."""
        return self._started and not self.broken

    def _kicked(self, index: int) -> None:
        """Serve a queue, on the device's thread."""
        self.kicks[index].take()
        with self.lock:
            if self.running and self.queues[index].enabled:
                self.guarded(partial(self.device.handle, index))

    def guarded(self, call: partial[None]) -> None:
        """Call what looks at the guest's memory; a broken driver loses the device."""
        try:
            call()
        except BrokenDriver as error:
            self._break(str(error))

    def _break(self, what: str) -> None:
        """Let the device stand still until it is reset: the driver broke a rule (2.1.2)."""
        self.broken = what
        self.device.counts["broken"] += 1
        self._status |= _NEEDS_RESET
        if self._started:
            # A device that waits here lets go of the lock: it may be reset meanwhile, and that has
            # to wait as well.
            self.device.stop()
            if self.broken:
                self._started = False
                self.config_changed()

    def _interrupt(self, index: int) -> None:
        self._isr |= 1
        self.msix.signal(self.queues[index].vector)

    def vector_event(self, queue: Queue) -> Event | None:
        """Return what raises the queue's interrupt, None where the driver wants none."""
        known = queue.vector < len(self.msix.vectors)
        return self.msix.vectors[queue.vector].event if known else None

    def config_changed(self) -> None:
        """Tell the driver that the device's configuration is another one."""
        self._generation = self._generation + 1 & 0xFF
        self._isr |= 2
        self.msix.signal(self._config_vector)

    def reset(self) -> None:
        """Reset the device: nothing of the guest's memory is touched after this."""
        with self.lock:
            device = self.device
            if device.worker is not None:
                for kick in self.kicks:
                    device.worker.unwatch(kick.fd)
            if self._started:
                device.stop()
                self._started = False
            for queue in self.queues:
                queue.reset()
            self._isr = 0
            self._forget()

    def close(self) -> None:
        """End the device and give back what it holds."""
        self.reset()
        self.device.close()
        self.msix.close()
        for kick in self.kicks:
            kick.close()
