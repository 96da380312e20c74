# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The cable between the hosts: a hub on a unix socket that QEMU's stream netdevs connect to.

Every frame comes with its length in four bytes, network order (QEMU: net/stream.c), and goes to all
others. Run as ``python -m virtlab.switch SOCKET``; it says "ready" and ends when it is told to.
"""

from __future__ import annotations

import os
import selectors
import socket
import struct
import sys
from contextlib import suppress

_LONGEST = 1 << 20  # bytes of a frame, many times what a NIC sends


class Port:
    """One connected host."""

    def __init__(self, link: socket.socket) -> None:
        self.link = link
        self.buffer = bytearray()

    def receive(self) -> list[bytes]:
        """Return the whole frames that have arrived; OSError when the host is gone."""
        data = self.link.recv(1 << 16)
        if not data:
            raise ConnectionResetError
        self.buffer += data
        found = []
        while len(self.buffer) >= 4:
            (length,) = struct.unpack_from("!I", self.buffer)
            if length > _LONGEST:
                raise OSError("a frame of nonsensical length")
            if len(self.buffer) < 4 + length:
                break
            found.append(bytes(self.buffer[: 4 + length]))
            del self.buffer[: 4 + length]
        return found

    def send(self, frame: bytes) -> None:
        """Pass a frame on whole, or drop it whole, as a cable does when nobody takes it."""
        try:
            sent = self.link.send(frame, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        if sent < len(frame):
            self.link.setblocking(True)
            self.link.sendall(frame[sent:])


def serve(path: str) -> None:
    """Pass frames on until the process is ended."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen(16)
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    ports: dict[socket.socket, Port] = {}
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        for key, _ in selector.select():
            if key.fileobj is listener:
                link, _ = listener.accept()
                link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
                ports[link] = Port(link)
                selector.register(link, selectors.EVENT_READ)
                continue
            port = ports[key.fileobj]  # type: ignore[index]
            try:
                frames = port.receive()
            except OSError:
                selector.unregister(port.link)
                del ports[port.link]
                port.link.close()
                continue
            for other in ports.values():
                if other is not port:
                    with suppress(OSError):  # it is about to be found closed
                        for frame in frames:
                            other.send(frame)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        os.umask(0o077)
        serve(sys.argv[1])
