# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""QEMU's machine protocol, one connection a call (QEMU: docs/interop/qmp-spec)."""

from __future__ import annotations

import json
import os
import socket
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


class QmpError(Exception):
    """QEMU does not answer, or refuses; the message is its own."""


def connect(path: Path) -> socket.socket:
    """Return a connection to a unix socket, however long its path is."""
    # sun_path has 108 bytes, a checkout's path may have more.
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        link.connect(f"/proc/self/fd/{folder}/{path.name}")
    except OSError:
        link.close()
        raise
    finally:
        os.close(folder)
    return link


def call(path: Path, command: str, patience: float = 120.0, /, **arguments: Any) -> Any:
    """Run a command on the monitor at ``path`` and return its answer."""
    try:
        with connect(path) as link, link.makefile("rw", encoding="utf-8") as stream:
            link.settimeout(patience)
            stream.readline()  # the greeting
            for name, values in (("qmp_capabilities", {}), (command, arguments)):
                stream.write(json.dumps({"execute": name, "arguments": values}) + "\n")
                stream.flush()
                answer = _answer(stream)
            return answer
    except (OSError, ValueError) as error:
        raise QmpError(f"{command}: {error}") from error


def _answer(stream: Any) -> Any:
    while True:
        line = stream.readline()
        if not line:
            raise QmpError("QEMU closed the connection")
        message = json.loads(line)
        if "error" in message:
            raise QmpError(message["error"].get("desc", str(message["error"])))
        if "return" in message:
            return message["return"]


def human(path: Path, line: str, patience: float = 300.0) -> str:
    """Run a line of the human monitor and return what it prints; QmpError if that is an error."""
    answer = call(path, "human-monitor-command", patience, **{"command-line": line})
    text = str(answer).strip()
    if text.lower().startswith("error"):
        raise QmpError(f"{line}: {text}")
    return text
