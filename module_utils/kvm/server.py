# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The control socket's side inside a running guest; control.py is the other one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Callable, Dict

from .console import Client, Console
from .control import LINE_LIMIT

if TYPE_CHECKING:
    import socket

    from .runner import Runner
    from .serial import Serial

# Request → answer without "ok"; a ValueError refuses.
Handler = Callable[[Dict[str, Any]], Dict[str, Any]]
_MAX_CONNECTIONS = 16


class _Connection:
    def __init__(self, peer: socket.socket) -> None:
        self.socket = peer
        self.buffer = b""
        self.client: Client | None = None  # set once it is attached to the console


class ControlServer:
    """Answers on ``listener`` on the runner's main thread."""

    def __init__(
        self,
        listener: socket.socket,
        runner: Runner,
        console: Console,
        serial: Serial,
        handlers: dict[str, Handler],
    ) -> None:
        self._listener = listener
        self._runner = runner
        self._console = console
        self._serial = serial
        self._handlers = handlers
        self._connections: set[_Connection] = set()
        console.on_backlog = runner.wake
        runner.watch(listener, self._accept)
        runner.each_turn(self._flush)

    def _flush(self) -> float | None:
        waiting = self._console.flush()
        for connection in [c for c in self._connections if c.client and c.client.lost]:
            self._close(connection)
        return 0.05 if waiting else None

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
        self._runner.watch(peer, lambda: self._receive(connection))

    def _close(self, connection: _Connection) -> None:
        if connection.client:
            self._console.detach(connection.client)
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
        if connection.client:
            self._serial.receive(data)
            return
        connection.buffer += data
        while b"\n" in connection.buffer and not connection.client:
            line, _, connection.buffer = connection.buffer.partition(b"\n")
            if not self._answer(connection, line):
                return
        if connection.client and connection.buffer:
            self._serial.receive(connection.buffer)
        elif len(connection.buffer) > LINE_LIMIT:
            self._close(connection)

    def _answer(self, connection: _Connection, line: bytes) -> bool:
        """Answer one request; return whether the connection is still there."""
        answer = self._carry_out(line)
        attach = answer.pop("attach", False)
        try:
            connection.socket.sendall(json.dumps(answer).encode() + b"\n")
        except OSError:
            self._close(connection)
            return False
        if attach:
            connection.client = Client(connection.socket)
            self._console.attach(connection.client)
        return True

    def _carry_out(self, line: bytes) -> dict[str, Any]:
        try:
            message = json.loads(line.decode())
            operation = message["op"]
            if operation == "console":
                return {"ok": True, "attach": True}
            return {"ok": True, **self._handlers[operation](message)}
        except KeyError as error:
            return {"ok": False, "error": f"unknown operation or missing value {error}"}
        except (ValueError, TypeError, RecursionError) as error:
            return {"ok": False, "error": f"not understood: {error}"}
