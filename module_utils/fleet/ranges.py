# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names that stand for several, as Ansible's inventories write them: web[01:12], rack[a:c].

https://docs.ansible.com/ansible/latest/inventory_guide/intro_inventory.html
"""

from __future__ import annotations

import re
from itertools import product
from typing import Iterator

MOST = 100_000  # names that one range may stand for
_RANGE = re.compile(r"\[([0-9]+|[a-z]):([0-9]+|[a-z])(?::([0-9]+))?\]")


class RangeError(Exception):
    """A range that stands for nothing; the message says what was expected."""


def _numbers(first: str, last: str, step: int) -> Iterator[str]:
    width = len(first) if first.startswith("0") and len(first) > 1 else 0
    if width and len(last) != width:
        raise RangeError(f"an end with as many digits as {first}")
    for number in range(int(first), int(last) + 1, step):
        yield str(number).zfill(width)


def _letters(first: str, last: str, step: int) -> Iterator[str]:
    for number in range(ord(first), ord(last) + 1, step):
        yield chr(number)


def _one(first: str, last: str, step: str | None) -> list[str]:
    by = int(step or 1)
    if by < 1:
        raise RangeError("a step of 1 at least")
    if first.isdigit() != last.isdigit():
        raise RangeError("two numbers or two letters")
    if (int(last) < int(first)) if first.isdigit() else last < first:
        raise RangeError(f"an end after {first}")
    if first.isdigit() and (int(last) - int(first)) // by >= MOST:
        raise RangeError(f"at most {MOST} names")
    return list(_numbers(first, last, by) if first.isdigit() else _letters(first, last, by))


def expanded(name: str) -> list[str]:
    """Return the names that a name stands for, itself if it has no range; RangeError."""
    parts: list[list[str]] = []
    at = total = 0
    for match in _RANGE.finditer(name):
        parts.append([name[at : match.start()]])
        parts.append(_one(match.group(1), match.group(2), match.group(3)))
        total = max(total, 1) * len(parts[-1])
        if total > MOST:
            raise RangeError(f"at most {MOST} names")
        at = match.end()
    parts.append([name[at:]])
    if any("[" in part or "]" in part for fixed in parts[::2] for part in fixed):
        raise RangeError("a range such as [01:12], [1:9:2] or [a:c]")
    return ["".join(one) for one in product(*parts)]
