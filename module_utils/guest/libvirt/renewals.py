# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Domains that are being made anew: what each will be, written down before it goes.

libvirt gives a domain another identity only by undefining it first. A run that is killed in between
would lose all of the definition that nobody states.
"""

from __future__ import annotations

import os
from contextlib import suppress

_ENDING = ".xml"


class Renewals:
    """The definitions in one folder, for root alone: they hold passwords."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def _path(self, name: str) -> str:
        return os.path.join(self.folder, name + _ENDING)

    def begin(self, name: str, xml: str) -> None:
        """Note what a domain will be; it lasts from here on."""
        os.makedirs(self.folder, mode=0o700, exist_ok=True)
        half = f"{self._path(name)}.new"
        handle = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(handle, "w", encoding="utf-8") as file:
            file.write(xml)
            file.flush()
            os.fsync(file.fileno())
        os.replace(half, self._path(name))
        folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)  # else the name may be lost with the power
        finally:
            os.close(folder)

    def end(self, name: str) -> None:
        """Let go of it: the domain is defined again."""
        with suppress(FileNotFoundError):
            os.unlink(self._path(name))

    def pending(self) -> dict[str, str]:
        """Return what was begun and not ended, by name."""
        found = {}
        try:
            names = sorted(os.listdir(self.folder))
        except FileNotFoundError:
            return {}
        for name in names:
            if name.endswith(_ENDING):
                with open(os.path.join(self.folder, name), encoding="utf-8") as file:
                    found[name[: -len(_ENDING)]] = file.read()
        return found
