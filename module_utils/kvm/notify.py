# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tells whoever started a guest's process how far it is."""

from __future__ import annotations

import os
import socket
from contextlib import suppress

_MARGIN = 10.0  # seconds that the end takes beyond what is left to the guest


class Readiness:
    """Tells at ``descriptor``, and systemd, that the guest runs, or why it does not.

    What it speaks to is opened at once: it cannot be reached any more when it is needed.
    """

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor
        self._systemd: socket.socket | None = None
        address = os.environ.get("NOTIFY_SOCKET", "")
        if address:
            # sd_notify(3): a datagram; an address that begins with @ is an abstract one.
            # Where nobody receives it, the guest runs all the same.
            notifier = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            try:
                notifier.connect(address.replace("@", "\0", 1))
                self._systemd = notifier
            except OSError:
                notifier.close()

    def ready(self) -> None:
        """Say that the first vCPU has been entered."""
        self._tell(b"ready\n")
        self._notify("READY=1")

    def failed(self, reason: str) -> None:
        """Say why the guest does not run."""
        self._tell(b"error: " + reason.replace("\n", " ").encode() + b"\n")

    def stopping(self, seconds: float) -> None:
        """Say that the guest has been asked to end and has this long for it."""
        microseconds = int((seconds + _MARGIN) * 1e6)
        self._notify(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={microseconds}")

    def _notify(self, words: str) -> None:
        if self._systemd is not None:
            with suppress(OSError):
                self._systemd.send(words.encode())

    def _tell(self, line: bytes) -> None:
        if self._descriptor is None:
            return
        try:
            os.write(self._descriptor, line)
            os.close(self._descriptor)
        except OSError:
            pass  # whoever started us is gone; the guest runs all the same
        self._descriptor = None

    def close(self) -> None:
        """Close what it speaks to."""
        if self._systemd is not None:
            self._systemd.close()
            self._systemd = None
