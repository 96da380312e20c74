# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The console device with its ports (Virtio 1.2, section 5.3).

Port 0 is a console (hvc0 in Linux); the others are channels with names, as /dev/virtio-ports has
them. Output is taken at once; input waits for a driver that is slow, up to a limit.
"""

from __future__ import annotations

import struct
from collections import deque
from functools import partial
from typing import Callable, NamedTuple, Sequence

from .device import TURN, VirtioDevice
from .queue import Chain, copy_in, copy_out

INPUT_LIMIT = 64 * 1024  # bytes waiting for a guest that does not read them
_OUTPUT_LIMIT = 64 * 1024  # bytes of one buffer that are taken
_SIZE, _MULTIPORT = 1 << 0, 1 << 1
_CONTROL_IN, _CONTROL_OUT = 2, 3
_DEVICE_READY, _PORT_ADD, _, _PORT_READY, _CONSOLE_PORT, _RESIZE, _PORT_OPEN, _PORT_NAME = range(8)
_MESSAGE = struct.Struct("<IHH")
_MESSAGES_LIMIT = 256


class Port(NamedTuple):
    """One port: its name (empty for the console) and what takes the guest's output.

    ``opened`` is whether somebody is at the host's end: as long as nobody is, a guest that writes
    waits.
    """

    name: str
    sink: Callable[[bytes], None]
    opened: bool = True


class VirtioConsole(VirtioDevice):
    """The console of a guest: ``ports``, of which the first is the console."""

    kind = 3
    name = "console"
    class_code = 0x07_80_00
    features = _SIZE | _MULTIPORT

    def __init__(self, ports: Sequence[Port], columns: int = 80, rows: int = 25) -> None:
        super().__init__()
        self.ports = list(ports)
        # In and out for the console, then for control, then for the other ports.
        self.limits = (64,) * (2 * len(self.ports) + 2)
        self.config = bytearray(struct.pack("<HHII", columns, rows, len(self.ports), 0))
        self._input: list[bytearray] = [bytearray() for _ in self.ports]
        self._messages: deque[bytes] = deque()
        self._multiport = False

    def start(self) -> None:
        """Begin; a driver without several ports has the console alone."""
        self._multiport = bool(self.accepted & _MULTIPORT)
        self._messages.clear()

    def stop(self) -> None:
        """End: what waits for the guest is of the time before."""
        for waiting in self._input:
            waiting.clear()
        self._messages.clear()

    @staticmethod
    def _port_of(index: int) -> int:
        return 0 if index < 2 else index // 2 - 1

    def handle(self, index: int) -> None:
        """Look at a queue."""
        if index == _CONTROL_IN:
            self._send_messages()
        elif index == _CONTROL_OUT:
            for chain in self.requests(index):
                self._control(copy_out(chain.readable, 256))
                self.queues[index].push(chain.head, 0)
            self._send_messages()
        elif index % 2:
            self._take(index)
        else:
            self._fill(self._port_of(index))

    def _take(self, index: int) -> None:
        """Take the output of a port."""
        sink = self.ports[self._port_of(index)].sink
        for chain in self.requests(index):
            data = copy_out(chain.readable, _OUTPUT_LIMIT)
            self.queues[index].push(chain.head, 0)
            self.counts["output_bytes"] += len(data)
            sink(data)

    def receive(self, data: bytes, number: int = 0) -> int:
        """Give input to a port; return how many bytes there was room for. From any thread."""
        transport = self.transport
        with transport.lock:
            if not transport.running:
                return 0
            waiting = self._input[number]
            taken = data[: INPUT_LIMIT - len(waiting)]
            waiting += taken
            transport.guarded(partial(self._fill, number))
            return len(taken)

    def waiting(self, number: int = 0) -> int:
        """Return how many bytes of input a port's driver has not taken yet."""
        return len(self._input[number])

    def _fill(self, number: int) -> None:
        """Put what waits into the driver's buffers."""
        index = 2 * number + 2 if number else 0
        waiting = self._input[number]
        if waiting and self.queues[index].enabled:
            self._give(index, lambda chain: self._some(chain, waiting))

    @staticmethod
    def _some(chain: Chain, waiting: bytearray) -> int:
        done = copy_in(chain.writable, bytes(waiting))
        del waiting[:done]
        return done

    def _give(self, index: int, fill: Callable[[Chain], int]) -> None:
        """Fill buffers as long as there is something to put into them."""
        queue = self.queues[index]
        more = self._messages if index == _CONTROL_IN else self._input[self._port_of(index)]
        for _ in range(TURN):
            if not more:
                break
            chain = queue.pop()
            if chain is not None:
                queue.push(chain.head, fill(chain))
            elif queue.rest():
                break
        else:
            self.kicks[index].signal()
        queue.signal()

    # Control messages: struct virtio_console_control, with a name or a size behind it.

    def _say(self, port: int, event: int, value: int, more: bytes = b"") -> None:
        if len(self._messages) < _MESSAGES_LIMIT:
            self._messages.append(_MESSAGE.pack(port, event, value) + more)

    def _send_messages(self) -> None:
        if self._messages and self.queues[_CONTROL_IN].enabled:
            self._give(_CONTROL_IN, lambda chain: copy_in(chain.writable, self._messages.popleft()))

    def _control(self, message: bytes) -> None:
        """Answer the driver."""
        if len(message) < _MESSAGE.size:
            return
        number, event, value = _MESSAGE.unpack_from(message)
        if event == _DEVICE_READY and value:
            for port in range(len(self.ports)):
                self._say(port, _PORT_ADD, 0)
        elif event == _PORT_READY and value and number < len(self.ports):
            name = self.ports[number].name
            if number == 0:
                self._say(number, _CONSOLE_PORT, 1)
            if name:
                self._say(number, _PORT_NAME, 0, name.encode() + b"\0")
            self._say(number, _PORT_OPEN, int(self.ports[number].opened))

    def set_opened(self, number: int, opened: bool) -> None:
        """Tell the driver whether somebody is at the host's end of a port. From any thread."""
        transport = self.transport
        with transport.lock:
            self.ports[number] = self.ports[number]._replace(opened=opened)
            if transport.running and self._multiport:
                self._say(number, _PORT_OPEN, int(opened))
                transport.guarded(partial(self._send_messages))

    def resize(self, columns: int, rows: int) -> None:
        """Tell the driver of another size of the terminal. From any thread."""
        transport = self.transport
        with transport.lock:
            struct.pack_into("<HH", self.config, 0, columns, rows)
            if not transport.running:
                return
            if self._multiport:
                self._say(0, _RESIZE, 0, struct.pack("<HH", columns, rows))
                transport.guarded(partial(self._send_messages))
            else:
                transport.config_changed()
