# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the servers that pools stand on answer: libvirt would wait for minutes, or for ever."""

from __future__ import annotations

import socket
from typing import Any, Mapping

from ..converge.errors import VirtfleetError
from ..virt.pool import kind_of

_PATIENCE = 5.0  # seconds in which a server of storage has to answer
_PORTS = {"cifs": 445, "glusterfs": 24007}  # of a file system that is no NFS


def answers(name: str, spec: Mapping[str, Any]) -> None:
    """Raise VirtfleetError where a server of a pool does not answer."""
    port = _port(spec)
    if port is None:
        return
    place = f" ({spec['path']})" if spec.get("type") == "netfs" and spec.get("path") else ""
    for host in spec.get("hosts") or ():
        where = (host["name"], host.get("port", port))
        try:
            socket.create_connection(where, _PATIENCE).close()
        except OSError as error:
            raise VirtfleetError(
                f"{where[0]} does not answer on port {where[1]} ({error.strerror or error}),"
                f" and the pool {name}{place} is on it",
                remedy="see that the server runs and can be reached from here",
            ) from error


def _port(spec: Mapping[str, Any]) -> int | None:
    """Return the port of TCP where a pool's servers listen, None where it cannot be known."""
    port = kind_of(spec).port
    if port is None:
        return None
    port = _PORTS.get(str(spec.get("format")), port)
    for option in spec.get("mount_options") or ():
        key, _, value = option.partition("=")
        if key in ("udp", "rdma") or (key == "proto" and not value.startswith("tcp")):
            return None
        if key == "port" and value.isdigit():
            port = int(value) or None  # 0: NFS asks the server for it
    return port
