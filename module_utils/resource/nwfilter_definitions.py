# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the definitions of network filters say."""

from __future__ import annotations

from typing import Iterator

from ..converge.errors import Problem
from ..virt import nwfilter
from ..virt.identity import uuid_for
from .definitions import Definitions, Stated


class NwfilterDefinitions(Definitions):
    """The definitions of filters."""

    word = "nwfilter"
    fields = nwfilter.FIELDS

    def contradictions(self, stated: Stated, path: str) -> Iterator[Problem]:
        """Yield nothing: what two rules say against each other, their priorities settle."""
        del stated, path
        return iter(())

    def lacking(self, stated: Stated, path: str) -> Iterator[Problem]:
        """Yield a filter without anything in it, which lets everything pass."""
        if not stated.get("rules") and not stated.get("filters"):
            yield Problem(f"{path}.rules", "rules, or filters to refer to", "neither")

    def write(self, name: str, fleet: str, stated: Stated) -> str:
        """Return the definition of a new filter."""
        return nwfilter.write(name, stated.get("uuid") or uuid_for(name, fleet, self.word), stated)
