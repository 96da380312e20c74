# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whose objects are that bear neither mark nor UUID of ours, and what a run has begun with them.

One file, written at once.
"""

from __future__ import annotations

import json
import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from ..converge.errors import VirtfleetError
from ..kvm.layout import make_folder

if TYPE_CHECKING:
    from ..kvm.layout import Layout


class Ledger:
    """By kind and UUID (of a volume its key), the fleet that an object belongs to.

    What the next run has to complete if this one is killed stands there under kinds of its own.
    """

    def __init__(self, layout: Layout) -> None:
        self.folder = layout.state
        self.path = os.path.join(layout.state, "adopted.json")
        self._known: dict[str, dict[str, str]] | None = None
        self._writing = threading.Lock()

    def _read(self) -> dict[str, dict[str, str]]:
        if self._known is None:
            try:
                with open(self.path, encoding="utf-8") as file:
                    found = json.load(file)
            except FileNotFoundError:
                found = {}
            except ValueError:
                found = None
            if not isinstance(found, dict) or not all(isinstance(v, dict) for v in found.values()):
                raise VirtfleetError(
                    f"{self.path} cannot be read as what was taken over here",
                    remedy="mend it, or move it away and state adopt: true again",
                )
            self._known = found
        return self._known

    def forget(self) -> None:
        """Read the file anew when it is needed next: another run may have written it."""
        self._known = None

    def noted(self, kind: str, key: str) -> str | None:
        """Return what was noted, None where nothing was."""
        found = self._read().get(kind, {}).get(key)
        return found if isinstance(found, str) else None

    def fleet_of(self, kind: str, uuid: str) -> str | None:
        """Return the fleet of an object that was taken over, None where none was."""
        return self.noted(kind, uuid)

    def note(self, kind: str, key: str, value: str | None) -> None:
        """Write what is noted, such as the fleet that an object belongs to; None for nothing."""
        with self._writing:
            self._note(kind, key, value)

    def _note(self, kind: str, key: str, value: str | None) -> None:
        self.forget()
        known = {key: dict(inside) for key, inside in self._read().items()}
        if value is None:
            if known.get(kind, {}).pop(key, None) is None:
                return
        else:
            known.setdefault(kind, {})[key] = value
        make_folder(self.folder)
        half = f"{self.path}.new"
        try:
            with open(half, "w", encoding="utf-8") as file:
                json.dump(known, file, indent=1, sort_keys=True)
                file.flush()
                os.fsync(file.fileno())
            os.replace(half, self.path)
        except OSError:
            with suppress(OSError):
                os.unlink(half)
            raise
        self._known = known
