# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a guest can be reached, whatever runs it."""

from __future__ import annotations

import socket
from contextlib import suppress

DEFAULT_TIMEOUT = 300.0  # seconds that are waited for a guest
_SSH_PORT = 22
_PATIENCE = 1.0  # seconds for one attempt at a port


def speaks_ssh(address: str, port: int = _SSH_PORT) -> bool:
    """Return whether an SSH server greets at the address."""
    with suppress(OSError), socket.create_connection((address, port), _PATIENCE) as connection:
        connection.settimeout(_PATIENCE)
        return connection.recv(4) == b"SSH-"
    return False
