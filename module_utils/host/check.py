# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a check is, and what it finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Optional

if TYPE_CHECKING:
    from .observe import Host

PASS, WARN, FAIL, INFO, UNKNOWN = LEVELS = ("pass", "warn", "fail", "info", "unknown")

POWER_OFF = "then power the machine fully off and on again (a reboot is not enough)"


@dataclass(eq=False, repr=False)
class Finding:
    """What a check says of one machine; ``remedies`` stand most likely first."""

    level: str
    found: str
    expected: str = ""
    remedies: tuple[str, ...] = ()


Test = Callable[["Host"], Optional[Finding]]


@dataclass(eq=False, repr=False)
class Check:
    """One row of the table.

    ``levels`` are all that ``test`` can give; None from it means that the check does not apply.
    ``limit`` says what guests go without where it warns, ``vital`` that not knowing matters.
    """

    id: str
    title: str
    source: str
    levels: tuple[str, ...]
    test: Test
    limit: str = ""
    vital: bool = False


def passed(found: str) -> Finding:
    """All is well."""
    return Finding(PASS, found)


def info(found: str, *remedies: str) -> Finding:
    """State a fact, neither good nor bad; a remedy says how it could be otherwise."""
    return Finding(INFO, found, "", remedies)


def warned(found: str, expected: str, *remedies: str) -> Finding:
    """Guests run, with something missing."""
    return Finding(WARN, found, expected, remedies)


def failed(found: str, expected: str, *remedies: str) -> Finding:
    """Guests do not run."""
    return Finding(FAIL, found, expected, remedies)


def unknown(reason: str, *remedies: str) -> Finding:
    """Say that it could not be read, and why; a remedy says how it could be."""
    return Finding(UNKNOWN, reason, "", remedies)


def levels(text: str) -> tuple[str, ...]:
    """Return the levels named in ``text``, in the order of severity that all tables use."""
    wanted = text.split()
    return tuple(level for level in LEVELS if level in wanted)


def some(items: tuple[str, ...], limit: int = 6) -> str:
    """Return the first items for a message, and how many are left."""
    rest = len(items) - limit
    return ", ".join(items[:limit]) + (f" and {rest} more" if rest > 0 else "")


def as_dict(identity: str, title: str, source: str, finding: Finding) -> dict[str, Any]:
    """Return the fixed shape of a check's result."""
    return {
        "id": identity,
        "level": finding.level,
        "title": title,
        "found": finding.found,
        "expected": finding.expected,
        "remedy": "; or ".join(finding.remedies) or None,
        "source": source,
    }
