# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The control socket's side inside a running guest; control.py is the other one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Callable, Dict, Sequence

from .console import Channel, Client
from .control import LINE_LIMIT

if TYPE_CHECKING:
    import socket

    from .runner import Runner

# Request → answer without "ok"; a ValueError refuses.
Handler = Callable[[Dict[str, Any]], Dict[str, Any]]
_MAX_CONNECTIONS = 16
_RETRY = 0.05  # seconds after which a guest is asked again to take what it had no room for


class _Connection:
    def __init__(self, peer: socket.socket) -> None:
        self.socket = peer
        self.buffer = b""
        self.client: Client | None = None  # set once it is attached
        self.channel: Channel | None = None  # what it is attached to
        self.waiting = b""  # what the guest has not taken yet; until then no more is read


class ControlServer:
    """Answers on ``listener`` on the runner's main thread.

    Clients may attach to the ``channels``, to the first of them where they name none.
    """

    def __init__(
        self,
        listener: socket.socket,
        runner: Runner,
        channels: Sequence[Channel],
        handlers: dict[str, Handler],
    ) -> None:
        self._listener = listener
        self._runner = runner
        self._channels = channels
        self._handlers = handlers
        self._connections: set[_Connection] = set()
        for channel in channels:
            channel.console.on_backlog = runner.wake
        runner.watch(listener, self._accept)
        runner.each_turn(self._flush)

    def _flush(self) -> float | None:
        behind = False
        for channel in self._channels:
            behind |= channel.console.flush()
        for connection in list(self._connections):
            if connection.client and connection.client.lost:
                self._close(connection)
            elif connection.waiting:
                self._give(connection, connection.waiting)
                if not connection.waiting:
                    self._watch(connection)
        waits = any(connection.waiting for connection in self._connections)
        return _RETRY if waits else 0.05 if behind else None

    def _accept(self) -> None:
        try:
            peer, _ = self._listener.accept()
        except OSError:
            return
        if len(self._connections) >= _MAX_CONNECTIONS:
            peer.close()
            return
        peer.setblocking(False)
        connection = _Connection(peer)
        self._connections.add(connection)
        self._watch(connection)

    def _watch(self, connection: _Connection) -> None:
        self._runner.watch(connection.socket, lambda: self._receive(connection))

    def _close(self, connection: _Connection) -> None:
        if connection.client and connection.channel:
            connection.channel.detach(connection.client)
        if not connection.waiting:
            self._runner.unwatch(connection.socket)
        connection.socket.close()
        self._connections.discard(connection)

    def _receive(self, connection: _Connection) -> None:
        try:
            data = connection.socket.recv(LINE_LIMIT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close(connection)
            return
        if connection.channel:
            self._take(connection, data)
            return
        connection.buffer += data
        while b"\n" in connection.buffer and not connection.channel:
            line, _, connection.buffer = connection.buffer.partition(b"\n")
            if not self._answer(connection, line):
                return
        if connection.channel and connection.buffer:
            self._take(connection, connection.buffer)
        elif len(connection.buffer) > LINE_LIMIT:
            self._close(connection)

    def _take(self, connection: _Connection, data: bytes) -> None:
        """Give the guest what came over an attached connection."""
        self._give(connection, data)
        if connection.waiting:
            self._runner.unwatch(connection.socket)

    @staticmethod
    def _give(connection: _Connection, data: bytes) -> None:
        channel = connection.channel
        if channel:
            taken = channel.receive(data)
            connection.waiting = data[taken:] if channel.waits else b""

    def _answer(self, connection: _Connection, line: bytes) -> bool:
        """Answer one request; return whether the connection is still there."""
        answer = self._carry_out(line)
        channel = answer.pop("attach", None)
        try:
            connection.socket.sendall(json.dumps(answer).encode() + b"\n")
        except OSError:
            self._close(connection)
            return False
        if channel:
            connection.client, connection.channel = Client(connection.socket), channel
            channel.attach(connection.client)
        return True

    def _carry_out(self, line: bytes) -> dict[str, Any]:
        try:
            message = json.loads(line.decode())
            operation = message["op"]
            if operation == "console":
                return {"ok": True, "attach": self._channel(message.get("port"))}
            return {"ok": True, **self._handlers[operation](message)}
        except KeyError as error:
            return {"ok": False, "error": f"unknown operation or missing value {error}"}
        except (ValueError, TypeError, RecursionError) as error:
            return {"ok": False, "error": f"not understood: {error}"}

    def _channel(self, name: object) -> Channel:
        """Return the channel of that name; ValueError where there is none."""
        if name is None:
            return self._channels[0]
        for channel in self._channels:
            if channel.name == name:
                return channel
        names = ", ".join(channel.name for channel in self._channels)
        raise ValueError(f"the guest has no port {name!r}, it has {names}")
