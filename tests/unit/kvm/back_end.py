# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A vhost-user back-end for the tests, called as virtiofsd is: it answers every request with "ok".

What it is told is written into ``log`` in the folder that it is to share, a line each. A file
``features`` there holds those that it offers beyond its least, in hexadecimal, and a file ``fail``
the number of a request that it refuses.
"""

from __future__ import annotations

import mmap
import os
import select
import socket
import struct
import sys

VERSION_1, PROTOCOL = 1 << 32, 1 << 30
NEED_REPLY, REPLY = 8, 4
FEATURES, PROTOCOL_FEATURES, BASE = 1, 15, 11


class BackEnd:
    """One conversation."""

    def __init__(self, connection, folder):
        self.socket = connection
        self.folder = folder
        self.regions = []
        self.rings = {}
        self.more = int(self.setting("features") or "0", 16)
        self.refused = int(self.setting("fail") or "0")

    def setting(self, name):
        """Return what a file of the folder says."""
        try:
            with open(os.path.join(self.folder, name)) as file:
                return file.read()
        except OSError:
            return ""

    def log(self, *words):
        """Write a line."""
        with open(os.path.join(self.folder, "log"), "a") as file:
            file.write(" ".join(map(str, words)) + "\n")

    def at(self, place, length, *, host):
        """Return a mapping and the offset of a front-end's or a guest's address."""
        for start, size, user, mapping in self.regions:
            offset = place - (user if host else start)
            if offset >= 0 and offset + length <= size:
                return mapping, offset
        raise SystemExit(f"nothing at {place:#x}")

    def serve(self):
        """Serve until the other side has gone."""
        while True:
            kicks = {ring["kick"]: ring for ring in self.rings.values() if "kick" in ring}
            for ready in select.select([self.socket, *kicks], [], [])[0]:
                if ready is self.socket:
                    if not self.message():
                        self.log("end")
                        return
                elif ready in kicks:
                    os.read(ready, 8)
                    self.work(kicks[ready])

    def message(self):
        """Carry out one message; return whether there was one."""
        data, ancillary, _, _ = self.socket.recvmsg(12, 256)
        if not data:
            return False
        fds = [
            fd
            for _, _, content in ancillary
            for fd in struct.unpack(f"{len(content) // 4}i", content)
        ]
        request, flags, size = struct.unpack("=III", data)
        payload = self.socket.recv(size) if size else b""
        self.log(request, payload[:8].hex(), len(fds))
        answer = self.answer(request, payload, fds)
        if answer is None and flags & NEED_REPLY:
            answer = struct.pack("=Q", int(request == self.refused))
        if answer is not None:
            head = struct.pack("=III", request, 1 | REPLY, len(answer))
            self.socket.sendall(head + answer)
        return True

    def answer(self, request, payload, fds):
        """Return the answer to a request, None where it has none of its own."""
        if request == FEATURES:
            return struct.pack("=Q", VERSION_1 | PROTOCOL | self.more)
        if request == PROTOCOL_FEATURES:
            return struct.pack("=Q", 0xFF)
        if request == 5:
            (count,) = struct.unpack_from("=I", payload)
            self.regions = []
            for index, fd in zip(range(count), fds):
                start, size, user, offset = struct.unpack_from("=QQQQ", payload, 8 + 32 * index)
                self.regions.append((start, size, user, mmap.mmap(fd, size, offset=offset)))
                os.close(fd)
            return None
        if request < 8 or request == 16:
            return None
        index = payload[0]
        ring = self.rings.setdefault(index, {})
        if request == BASE:
            del self.rings[index]
            return struct.pack("=II", index, ring.get("next", 0))
        if request in (8, 10):
            ring["size" if request == 8 else "next"] = struct.unpack_from("=I", payload, 4)[0]
        elif request == 9:
            ring["places"] = struct.unpack_from("=QQQ", payload, 8)
        elif request in (12, 13):
            ring["kick" if request == 12 else "call"] = fds[0]
        return None

    def work(self, ring):
        """Answer what is in a queue."""
        size = ring["size"]
        table, table_at = self.at(ring["places"][0], 16 * size, host=True)
        used, used_at = self.at(ring["places"][1], 6 + 8 * size, host=True)
        avail, avail_at = self.at(ring["places"][2], 6 + 2 * size, host=True)
        (ready,) = struct.unpack_from("<H", avail, avail_at + 2)
        if ring["next"] == ready:
            return
        while ring["next"] != ready:
            slot = ring["next"] % size
            (head,) = struct.unpack_from("<H", avail, avail_at + 4 + 2 * slot)
            index, written = head, 0
            while True:
                entry = struct.unpack_from("<QIHH", table, table_at + 16 * index)
                address, length, flags, index = entry
                if flags & 2:
                    mapping, offset = self.at(address, length, host=False)
                    mapping[offset : offset + 2] = b"ok"
                    written = 2
                if not flags & 1:
                    break
            struct.pack_into("<II", used, used_at + 4 + 8 * slot, head, written)
            ring["next"] += 1
            struct.pack_into("<H", used, used_at + 2, ring["next"])
        os.write(ring["call"], struct.pack("Q", 1))


def main(arguments):
    """Serve the one connection that comes to the descriptor on the command line."""
    source = next(one for one in arguments if one.startswith("source="))[7:]
    descriptor = next(one for one in arguments if one.startswith("--fd="))[5:]
    listener = socket.socket(fileno=int(descriptor))
    connection, _ = listener.accept()
    BackEnd(connection, source).serve()


if __name__ == "__main__":
    main(sys.argv[1:])
