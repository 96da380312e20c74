# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Narrowing a list of guests by names and shell patterns; on the controller, before any host."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any, Mapping, Sequence

from ..converge.errors import VirtfleetError, shown
from .spec import ABSENT, PRESENT


def patterns(selection: object) -> list[str]:
    """Return the patterns of a selection: a list, or words separated by commas."""
    words = selection.split(",") if isinstance(selection, str) else selection
    if not isinstance(words, (list, tuple)) or not all(isinstance(word, str) for word in words):
        raise VirtfleetError(
            f"expected names or shell patterns of guests, found {shown(selection)}",
            remedy="separate them by commas, or give a list of them",
        )
    return [word.strip() for word in words if word.strip()]


def _name(spec: object) -> str:
    return str(spec.get("name", "")) if isinstance(spec, Mapping) else ""


def select(specs: Sequence[Any], selection: object) -> list[Any]:
    """Return the specs whose names match any pattern, all of them where there is no pattern."""
    wanted = patterns(selection)
    if not wanted:
        return list(specs)
    return [spec for spec in specs if any(fnmatchcase(_name(spec), word) for word in wanted)]


def removed(names: Sequence[str], selection: object) -> list[dict[str, str]]:
    """Return guests that are no longer declared as ones to remove, none where a pattern is."""
    return [] if patterns(selection) else [{"name": name, "state": ABSENT} for name in names]


def adopted(guests: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return guests, as kvm_guests_info shows them, as ones to take over and leave as they are."""
    keys = ("name", "engine")
    asked = {"adopt": True, "state": PRESENT}
    return [{**{key: guest[key] for key in keys}, **asked} for guest in guests]


def unmatched(specs: Sequence[Any], selection: object, others: Sequence[str] = ()) -> list[str]:
    """Return the patterns that match none of the specs, and none of the names of others."""
    names = [*map(_name, specs), *others]
    return [
        word for word in patterns(selection) if not any(fnmatchcase(name, word) for name in names)
    ]
