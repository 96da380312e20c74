# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a guest has of the fleet's defaults, its size, profiles and groups, and of itself."""

from __future__ import annotations

from typing import Any, Mapping, Sequence

Values = Mapping[str, Any]


def merged(layers: Sequence[Values | None]) -> dict[str, Any]:
    """Return the layers over each other, the later ones on top.

    Mappings are joined key by key; anything else takes the place of what was there. Nothing
    (``null``) takes a key away.
    """
    found: dict[str, Any] = {}
    for layer in layers:
        for key, value in (layer or {}).items():
            there = found.get(key)
            if isinstance(value, Mapping) and isinstance(there, Mapping):
                found[key] = merged([there, value])
            else:
                found[key] = value
    return {key: value for key, value in found.items() if value is not None}


def as_list(value: Any) -> list[Any]:
    """Return a value that may be one or several as a list."""
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]
