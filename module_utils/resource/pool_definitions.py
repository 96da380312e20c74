# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the definitions of storage pools say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Iterator

from ..virt import pool
from ..virt.fields import Edits, patch_fields
from .definitions import Definitions, Stated, present

if TYPE_CHECKING:
    from ..converge.errors import Problem


class PoolDefinitions(Definitions):
    """The definitions of pools."""

    word = "pool"
    fields = pool.FIELDS

    def contradictions(self, stated: Stated, path: str) -> Iterator[Problem]:
        """Yield what contradicts itself, whatever the host is."""
        return pool.contradictions(stated, path)

    def lacking(self, stated: Stated, path: str) -> Iterator[Problem]:
        """Yield what a new one cannot do without."""
        return pool.lacking(stated, path)

    def write(self, name: str, fleet: str, stated: Stated) -> str:
        """Return the definition of a new pool."""
        document = self._begun(name, fleet, stated)
        root, keys = document.root, present(stated)
        kind = pool.KINDS[keys["type"]]
        if "path" not in keys and kind.path is not None:
            keys["path"] = kind.path.format(**keys)
        patch_fields(root, self.fields, keys, Edits(root, keys), "")
        return document.text()
