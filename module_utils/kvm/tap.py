# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Taps: network interfaces of the host whose other end a guest holds.

A tap is made for one guest, put on a bridge and brought up; it lives as long as its descriptors do,
so nothing is left behind by a process that is killed. Sources: Documentation/networking/tuntap.rst,
include/uapi/linux/if_tun.h, sockios.h and if_bridge.h.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import socket
import struct
from contextlib import suppress
from typing import Sequence

from .abi import ioctl_number
from .errors import ConfigError, HostError

DEVICE = "/dev/net/tun"
NAME_LIMIT = 15  # IFNAMSIZ without the zero at the end
MOST_QUEUES = 16
HEADER = 12  # bytes before every frame: struct virtio_net_hdr_v1
_WRITE = 1
_TUN = 0x54
_SET_IFF = ioctl_number(_WRITE, _TUN, 202, 4)
_SET_OFFLOAD = ioctl_number(_WRITE, _TUN, 208, 4)
_SET_HEADER_SIZE = ioctl_number(_WRITE, _TUN, 216, 4)
_SET_QUEUE = ioctl_number(_WRITE, _TUN, 217, 4)
_TAP, _MULTI_QUEUE, _NO_PI, _VNET_HDR = 0x0002, 0x0100, 0x1000, 0x4000
_ATTACH_QUEUE, _DETACH_QUEUE = 0x0200, 0x0400
# What may be left to the guest: TUN_F_*.
OFFLOAD_CSUM, OFFLOAD_TSO4, OFFLOAD_TSO6, OFFLOAD_ECN, OFFLOAD_UFO = 1, 2, 4, 8, 16
_GET_FLAGS, _SET_FLAGS, _GET_MTU, _SET_MTU, _SET_ADDRESS = 0x8913, 0x8914, 0x8921, 0x8922, 0x8924
_GET_INDEX, _GET_BRIDGES, _ADD_TO_BRIDGE = 0x8933, 0x8940, 0x89A2
_BRCTL_GET_BRIDGES = 1
_MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")
_UP = 1
_ETHER = 1  # ARPHRD_ETHER
_MOST_BRIDGES = 1024
_STALE_LIMIT = 2048  # frames; a tap holds 1,000 for each queue
# Of the guest: what it has received is what the tap has sent.
_STATISTICS = {
    "rx_frames": "tx_packets",
    "rx_bytes": "tx_bytes",
    "rx_dropped": "tx_dropped",
    "tx_frames": "rx_packets",
    "tx_bytes": "rx_bytes",
    "tx_dropped": "rx_dropped",
}


def _request(name: str, value: bytes = b"") -> bytearray:
    """Return a struct ifreq."""
    return bytearray(struct.pack("16s24s", name.encode(), value))


def bridges() -> list[str]:
    """Return the names of the bridges that there are."""
    indexes = (ctypes.c_int * _MOST_BRIDGES)()
    place = ctypes.addressof(indexes)
    argument = bytearray(struct.pack("LLL", _BRCTL_GET_BRIDGES, place, _MOST_BRIDGES))
    names = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control, suppress(OSError):
        for index in indexes[: fcntl.ioctl(control, _GET_BRIDGES, argument)]:
            with suppress(OSError):  # it is gone meanwhile
                names.append(socket.if_indextoname(index))
    return sorted(names)


def is_interface(name: str) -> bool:
    """Return whether this host has a network device of that name."""
    try:
        socket.if_nametoindex(name)
    except OSError:
        return False
    return True


def _check_bridge(name: str) -> None:
    known = bridges()
    if name in known:
        return
    why = "is no bridge of the kernel" if is_interface(name) else "is missing"
    there = ", ".join(known) or "none"
    raise ConfigError(f"the bridge {name} {why}; the bridges of this host: {there}")


def parse_mac(text: str) -> bytes:
    """Return the 6 bytes of a guest's hardware address; ConfigError if it cannot be one."""
    if _MAC.fullmatch(text):
        mac = bytes.fromhex(text.replace(":", ""))
        if any(mac) and not mac[0] & 1:
            return mac
    raise ConfigError(f"{text!r} is not the hardware address of one interface")


class Tap:
    """The tap ``name`` with an open descriptor in ``fds`` for each queue, in non-blocking mode.

    All queues but the first are switched off at first.
    ``mac`` is the guest's. Without a ``bridge`` the tap stands where whoever made it has put it.
    ``mtu`` is in bytes, the bridge's if it is None. ConfigError for what is not there or in use,
    HostError where taps cannot be had.
    """

    def __init__(
        self, name: str, bridge: str | None, mac: bytes, queues: int = 1, mtu: int | None = None
    ) -> None:
        self.name = name
        self.mtu = mtu or 0
        self.fds: list[int] = []
        self._on = set(range(queues))
        self._statistics: dict[str, int] = {}
        if bridge is not None:
            _check_bridge(bridge)
        try:
            for _ in range(queues):
                self.fds.append(self._open(queues))
            for queue in range(1, queues):
                self.switch(queue, on=False)
            self._set_up(bridge, mac)
            for key, file in _STATISTICS.items():
                # Open while the files can be reached: later the process may see none.
                with suppress(OSError):
                    path = f"/sys/class/net/{name}/statistics/{file}"
                    self._statistics[key] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except BaseException:
            self.close()
            raise

    def _open(self, queues: int) -> int:
        try:
            descriptor = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            missing = error.errno in {errno.ENOENT, errno.ENODEV, errno.ENOTDIR}
            remedy = "load the module tun" if missing else "run as root"
            raise HostError(f"cannot open {DEVICE}: {error.strerror}", remedy) from error
        flags = _TAP | _NO_PI | _VNET_HDR | (_MULTI_QUEUE if queues > 1 else 0)
        try:
            fcntl.ioctl(descriptor, _SET_IFF, _request(self.name, struct.pack("H", flags)))
            fcntl.ioctl(descriptor, _SET_HEADER_SIZE, struct.pack("i", HEADER))
        except OSError as error:
            os.close(descriptor)
            if error.errno == errno.EBUSY:
                message = f"the tap {self.name} is in use by another guest or program"
                raise ConfigError(message) from error
            if error.errno == errno.EINVAL:
                raise ConfigError(
                    f"{self.name} is no tap, or one with another number of queues"
                ) from error
            cause = f"cannot make a tap {self.name}: {error.strerror}"
            raise HostError(cause, "run as root" if error.errno == errno.EPERM else None) from error
        return descriptor

    def _set_up(self, bridge: str | None, mac: bytes) -> None:
        name = self.name
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:

            def call(number: int, what: str, target: str, value: bytes = b"") -> bytes:
                argument = _request(target, value)
                try:
                    fcntl.ioctl(control, number, argument)
                except OSError as error:
                    raise HostError(f"cannot {what}: {error.strerror}") from error
                return bytes(argument[16:])

            if bridge is None:
                (self.mtu,) = struct.unpack_from("i", call(_GET_MTU, f"ask for {name}", name))
                return
            (theirs,) = struct.unpack_from("i", call(_GET_MTU, f"ask for {bridge}", bridge))
            # Before it joins: a bridge takes the smallest MTU of its ports.
            self.mtu = self.mtu or theirs
            call(_SET_MTU, f"set the MTU of {name} to {self.mtu}", name, struct.pack("i", self.mtu))
            # A bridge takes the smallest address of its ports; this one never is.
            address = struct.pack("H6s", _ETHER, b"\xfe" + mac[1:])
            call(_SET_ADDRESS, f"set the address of {name}", name, address)
            # The host itself has nothing to say on the guest's link.
            with suppress(OSError), open(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6", "w") as f:
                f.write("1")
            index = call(_GET_INDEX, f"ask for {name}", name)[:4]
            call(_ADD_TO_BRIDGE, f"put {name} on {bridge}", bridge, index)
            (flags,) = struct.unpack_from("H", call(_GET_FLAGS, f"ask for {name}", name))
            call(_SET_FLAGS, f"bring {name} up", name, struct.pack("H", flags | _UP))

    def set_offload(self, offload: int) -> None:
        """Say which work the guest does by itself, as OFFLOAD_*; OSError if the tap is gone."""
        if not offload & OFFLOAD_CSUM:
            offload = 0  # the kernel takes no segments without checksums
        fcntl.ioctl(self.fds[0], _SET_OFFLOAD, offload)

    def switch(self, queue: int, *, on: bool) -> None:
        """Let frames come by that queue too, or no longer; OSError if the tap is gone."""
        if on == (queue in self._on):
            return
        flags = _ATTACH_QUEUE if on else _DETACH_QUEUE
        fcntl.ioctl(self.fds[queue], _SET_QUEUE, _request("", struct.pack("H", flags)))
        (self._on.add if on else self._on.discard)(queue)

    def discard(self, queue: int) -> None:
        """Forget the frames that wait in a queue."""
        with suppress(OSError):
            for _ in range(_STALE_LIMIT):
                os.read(self.fds[queue], HEADER)

    def statistics(self) -> dict[str, int]:
        """Return frames, bytes and losses as the guest sees them, empty where they are unknown."""
        found = {}
        for key, descriptor in self._statistics.items():
            with suppress(OSError, ValueError):
                found[key] = int(os.pread(descriptor, 32, 0))
        return found

    def close(self) -> None:
        """Close the tap, which is gone then."""
        descriptors: Sequence[int] = [*self.fds, *self._statistics.values()]
        self.fds, self._statistics = [], {}
        for descriptor in descriptors:
            os.close(descriptor)
