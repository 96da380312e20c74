# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The control socket of a running guest: JSON lines, one request, one answer.

``{"op": "status"}`` is answered by ``{"ok": true, …}``, what cannot be done by
``{"ok": false, "error": …}``. After the answer to ``{"op": "console"}`` the connection carries the
serial port's raw bytes both ways.
"""

from __future__ import annotations

import json
import os
import socket
import time
from typing import Any

from .errors import ControlError

LINE_LIMIT = 64 * 1024  # bytes of one request or answer


def connect(path: str, timeout: float) -> socket.socket:
    """Return a connection to the control socket at ``path``.

    The folder is opened first and the socket reached through it, because an address holds only
    107 bytes (unix(7)). Raises ControlError if nobody listens there.
    """
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(timeout)
    try:
        folder = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            client.connect(f"/proc/self/fd/{folder}/{os.path.basename(path)}")
        finally:
            os.close(folder)
    except OSError as error:
        client.close()
        raise ControlError(f"no guest answers at {path}: {error.strerror or error}") from error
    return client


def read_line(client: socket.socket) -> bytes:
    """Return one line without its end; empty when the other side closed before it was whole.

    The socket's timeout is for the whole line: one byte now and then does not prolong it.
    """
    line = b""
    timeout = client.gettimeout()
    deadline = time.monotonic() + (timeout or 0.0)
    while not line.endswith(b"\n"):
        if timeout and time.monotonic() > deadline:
            raise socket.timeout("timed out")
        # Byte by byte: what follows the line may be the console's and is not ours to take.
        piece = client.recv(1)
        if not piece or len(line) >= LINE_LIMIT:
            return b""
        line += piece
    return line[:-1]


def ask(client: socket.socket, message: dict[str, Any]) -> dict[str, Any]:
    """Send one request over an open connection and return the answer.

    Raises ControlError if the guest refuses, closes the connection or is silent.
    """
    try:
        client.sendall(json.dumps(message).encode() + b"\n")
        line = read_line(client)
    except OSError as error:
        raise ControlError(f"the guest does not answer: {error.strerror or error}") from error
    try:
        answer = json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        raise ControlError("the guest closed its control socket without an answer") from error
    if not isinstance(answer, dict) or not answer.get("ok"):
        reason = answer.get("error") if isinstance(answer, dict) else answer
        raise ControlError(f"the guest refuses {message.get('op')!r}: {reason}")
    return answer


def request(path: str, message: dict[str, Any], timeout: float = 5.0) -> dict[str, Any]:
    """Connect, ask once, and return the answer; ControlError as in `connect` and `ask`."""
    with connect(path, timeout) as client:
        return ask(client, message)
