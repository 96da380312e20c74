# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sizes and durations as people write them.

Sizes are whole numbers with a binary unit (IEC 80000-13): ``128MiB``. Durations carry ``ms``,
``s``, ``min`` or ``h``. A number without a unit is refused, because one reader takes it for bytes
and the next for MiB.
"""

from __future__ import annotations

import re

_SIZE_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0}
_SIZE = re.compile(r"([0-9]{1,15})\s?([A-Za-z]+)", re.ASCII)
_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)\s?([A-Za-z]+)", re.ASCII)


class UnitError(ValueError):
    """A size or a duration that cannot be read; the message says what was expected."""


def parse_size(text: object) -> int:
    """Return the bytes that ``text`` ("128MiB", "2 GiB") stands for.

    Raises UnitError for anything else, a bare number included.
    """
    match = _SIZE.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise UnitError(f"expected a whole number with a unit such as 128MiB, found {text!r}")
    number, unit = match.groups()
    if unit not in _SIZE_UNITS:
        units = ", ".join(_SIZE_UNITS)
        raise UnitError(f"unknown unit {unit!r} in {text!r}: expected one of {units}")
    return int(number) * _SIZE_UNITS[unit]


def format_size(size: int) -> str:
    """Return ``size`` bytes in the largest unit that divides it, so that parsing gives it back."""
    for unit, factor in sorted(_SIZE_UNITS.items(), key=lambda item: -item[1]):
        if size >= factor and size % factor == 0:
            return f"{size // factor}{unit}"
    return f"{size}B"


def parse_duration(text: object) -> float:
    """Return the seconds that ``text`` ("500ms", "30s", "2min", "1h") stands for.

    Raises UnitError for anything else, a bare number included.
    """
    match = _DURATION.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise UnitError(f"expected a number with a unit such as 30s, found {text!r}")
    number, unit = match.groups()
    if unit not in _DURATION_UNITS:
        units = ", ".join(_DURATION_UNITS)
        raise UnitError(f"unknown unit {unit!r} in {text!r}: expected one of {units}")
    return float(number) * _DURATION_UNITS[unit]


def format_duration(seconds: float) -> str:
    """Return ``seconds`` for people: "840us", "12.5ms", "42s", "3min 20s", "5h 2min", "3d 4h"."""
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f}us"
    if seconds < 1:
        return f"{seconds * 1e3:.1f}ms"
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}min {whole % 60}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60}min"
    return f"{whole // 86400}d {whole % 86400 // 3600}h"
