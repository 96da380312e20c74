# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""vhost: queues that the kernel serves by itself, from the guest's kick to its interrupt.

Sources: include/uapi/linux/vhost.h and vhost_types.h, drivers/vhost/ of the kernel. A descriptor is
opened once, as root, and outlives the machine's resets. It has its owner for good: what an owner is
needed for is the memory's address space, which stays this process's; what changes with a reset is
the table of memory and the queues, and those are set at every start. (vhost-vsock has no
VHOST_RESET_OWNER, and that of vhost-net would end its thread for nothing.)
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Mapping, NamedTuple

from ..abi import ioctl_number
from ..errors import ConfigError, HostError, KvmError
from .device import EVENT_INDEX, INDIRECT, VERSION_1
from .queue import BrokenDriver, Queue

if TYPE_CHECKING:
    from ..events import Event
    from ..memory import GuestMemory

_KIND = 0xAF
_NONE, _WRITE, _READ = 0, 1, 2
_GET_FEATURES = ioctl_number(_READ, _KIND, 0x00, 8)
_SET_FEATURES = ioctl_number(_WRITE, _KIND, 0x00, 8)
_SET_OWNER = ioctl_number(_NONE, _KIND, 0x01, 0)
_SET_MEM_TABLE = ioctl_number(_WRITE, _KIND, 0x03, 8)
_SET_VRING_NUM = ioctl_number(_WRITE, _KIND, 0x10, 8)
_SET_VRING_ADDR = ioctl_number(_WRITE, _KIND, 0x11, 40)
_SET_VRING_BASE = ioctl_number(_WRITE, _KIND, 0x12, 8)
_GET_VRING_BASE = ioctl_number(_READ | _WRITE, _KIND, 0x12, 8)
_SET_VRING_KICK = ioctl_number(_WRITE, _KIND, 0x20, 8)
_SET_VRING_CALL = ioctl_number(_WRITE, _KIND, 0x21, 8)
_NET_SET_BACKEND = ioctl_number(_WRITE, _KIND, 0x30, 8)
_VSOCK_SET_GUEST_CID = ioctl_number(_WRITE, _KIND, 0x60, 8)
_VSOCK_SET_RUNNING = ioctl_number(_WRITE, _KIND, 0x61, 4)
_UNBIND = -1  # VHOST_FILE_UNBIND

NET_DEVICE, VSOCK_DEVICE = "/dev/vhost-net", "/dev/vhost-vsock"
_NEEDED = VERSION_1 | INDIRECT | EVENT_INDEX  # what every transport here offers


class Ring(NamedTuple):
    """A queue with what signals it, and what it signals (None where nobody wants to know)."""

    queue: Queue
    kick: Event
    call: Event | None


def memory_table(memory: GuestMemory) -> bytearray:
    """Return all regions as a struct vhost_memory."""
    table = bytearray(struct.pack("II", len(memory.regions), 0))
    for region in memory.regions:
        table += struct.pack("QQQQ", region.start, region.size, region.address, 0)
    return table


class Vhost:
    """One vhost device at ``path``, whose ``features`` must hold those in ``needed``.

    HostError if it cannot be opened or lacks a feature.
    """

    def __init__(self, path: str, needed: int = 0) -> None:
        self.path = path
        try:
            self.fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            missing = error.errno in {errno.ENOENT, errno.ENODEV, errno.ENXIO}
            module = os.path.basename(path).replace("-", "_")
            remedy = f"load the module {module}" if missing else None
            raise HostError(f"cannot open {path}: {error.strerror}", remedy) from error
        self._owned = False
        self._rings: Mapping[int, Ring] = {}  # those that the kernel serves now
        try:
            answer = bytearray(8)
            self._call(_GET_FEATURES, answer)
            (self.features,) = struct.unpack("Q", answer)
        except OSError as error:
            self.close()
            raise HostError(f"{path} is no vhost device: {error.strerror}") from error
        missing = (needed | _NEEDED) & ~self.features
        if missing:
            self.close()
            raise HostError(f"{path} of this kernel lacks the features {missing:#x}")

    def _call(self, request: int, argument: bytes | bytearray | int = 0) -> None:
        fcntl.ioctl(self.fd, request, argument)

    def own(self) -> None:
        """Make this process's memory the device's; to be called after privileges are dropped.

        The kernel starts a thread with the rights of whoever calls. KvmError if it does not.
        """
        if self._owned:
            return
        try:
            self._call(_SET_OWNER)
        except OSError as error:
            raise KvmError(f"cannot take {self.path}: {error.strerror}") from error
        self._owned = True

    def start(self, memory: GuestMemory, features: int, rings: Mapping[int, Ring]) -> None:
        """Let the kernel serve the queues, by their numbers in this device.

        ``features`` are those that the driver accepted. BrokenDriver if the kernel does not take
        the queues; none is served then.
        """
        self._rings = rings
        try:
            self._call(_SET_FEATURES, struct.pack("Q", features & self.features))
            self._call(_SET_MEM_TABLE, memory_table(memory))
            for index, (queue, kick, call) in rings.items():
                self._call(_SET_VRING_NUM, struct.pack("II", index, queue.size))
                self._call(_SET_VRING_BASE, struct.pack("II", index, queue.position))
                table, available, used = queue.host_addresses()
                addresses = struct.pack("IIQQQQ", index, 0, table, used, available, 0)
                self._call(_SET_VRING_ADDR, addresses)
                self._call(_SET_VRING_KICK, struct.pack("Ii", index, kick.fd))
                self._set_call(index, call)
            self._enable()
        except OSError as error:
            self.stop()
            raise BrokenDriver(f"{self.path} does not take the queues: {error.strerror}") from error
        for ring in rings.values():
            ring.kick.signal()  # what came before the kernel listened needs no notification

    def _enable(self) -> None:
        """Begin with the queues in ``_rings``."""
        raise NotImplementedError

    def _disable(self) -> None:
        """End with them: afterwards the kernel touches no memory of the guest."""
        raise NotImplementedError

    def _set_call(self, index: int, event: Event | None) -> None:
        descriptor = _UNBIND if event is None else event.fd
        self._call(_SET_VRING_CALL, struct.pack("Ii", index, descriptor))

    def set_call(self, index: int, event: Event | None) -> None:
        """Let another event be signalled by a queue that runs."""
        if index in self._rings:
            self._set_call(index, event)

    def stop(self) -> None:
        """Take the queues back, each with its position; what belongs to the guest is let go."""
        rings, self._rings = self._rings, {}
        if not rings:
            return
        try:
            self._disable()
        except OSError as error:  # the memory may not be given to anybody else
            raise KvmError(f"cannot stop {self.path}: {error.strerror}") from error
        for index, ring in rings.items():
            state = bytearray(struct.pack("II", index, 0))
            with suppress(OSError):  # where a start broke off
                self._call(_GET_VRING_BASE, state)
                ring.queue.position = struct.unpack("II", state)[1]
            self._call(_SET_VRING_KICK, struct.pack("Ii", index, _UNBIND))
            self._set_call(index, None)

    def close(self) -> None:
        """Close the device, which ends whatever it does."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class VhostNet(Vhost):
    """The two queues of a network device, 0 to receive and 1 to send, over the tap ``tap``.

    Frames have the header that the tap puts before them.
    """

    def __init__(self, tap: int, needed: int, path: str = NET_DEVICE) -> None:
        super().__init__(path, needed)
        self._tap = tap

    def _enable(self) -> None:
        for index in self._rings:
            self._call(_NET_SET_BACKEND, struct.pack("Ii", index, self._tap))

    def _disable(self) -> None:
        for index in (0, 1):
            self._call(_NET_SET_BACKEND, struct.pack("Ii", index, _UNBIND))


class VhostVsock(Vhost):
    """The two queues of the socket device of the guest ``cid``, 0 to receive and 1 to send.

    ConfigError if another guest has the CID.
    """

    def __init__(self, cid: int, path: str = VSOCK_DEVICE) -> None:
        super().__init__(path)
        try:
            self._call(_VSOCK_SET_GUEST_CID, struct.pack("Q", cid))
        except OSError as error:
            self.close()
            if error.errno == errno.EADDRINUSE:
                raise ConfigError(f"the CID {cid} is in use by another guest") from error
            raise ConfigError(f"{cid} cannot be a guest's CID: {error.strerror}") from error

    def _enable(self) -> None:
        self._call(_VSOCK_SET_RUNNING, struct.pack("i", 1))

    def _disable(self) -> None:
        self._call(_VSOCK_SET_RUNNING, struct.pack("i", 0))
