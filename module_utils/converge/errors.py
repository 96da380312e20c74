# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Errors that say what was expected, what was found and what to do, and carry data.

Nothing below library/ ends a module: it raises one of these, and main() makes the message.
"""

from __future__ import annotations

from typing import Any, Iterable, NamedTuple, Sequence

_SHOWN = 60  # characters of a found value in a message


class VirtfleetError(Exception):
    """A failure with plain data for the result and, where one is known, the remedy."""

    def __init__(self, message: str, *, remedy: str | None = None, **data: Any) -> None:
        super().__init__(f"{message}: {remedy}" if remedy else message)
        self.message = message
        self.remedy = remedy
        self.data = data


class ApplyError(VirtfleetError):
    """Some actions failed; ``data`` is the result, with what was done and what was not."""


def system_says(error: OSError) -> str:
    """Return what the system has against a call, with the file where it names one."""
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"


class Problem(NamedTuple):
    """One thing wrong in the input, at the path of its key (``guests[2].memory``)."""

    path: str
    expected: str
    found: str
    remedy: str | None = None

    def __str__(self) -> str:
        text = f"{self.path}: expected {self.expected}, found {self.found}"
        return f"{text}: {self.remedy}" if self.remedy else text

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "path": self.path,
            "expected": self.expected,
            "found": self.found,
            "remedy": self.remedy,
        }


class InputError(VirtfleetError):
    """All that is wrong in the input, at once; nothing was touched."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        lines = [str(problem) for problem in problems]
        if len(lines) > 1:
            lines.insert(0, f"{len(lines)} problems in the input, nothing was changed:")
        super().__init__("\n".join(lines), problems=[problem.to_dict() for problem in problems])
        self.problems = tuple(problems)


def shown(value: Any) -> str:
    """Return a found value for a message: control characters escaped, long ones cut."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(text)} characters)"


def nearest(word: Any, known: Iterable[str]) -> str | None:
    """Return the known word that ``word`` was probably meant to be, or None."""
    import difflib  # costs milliseconds that only a mistake should pay

    if not isinstance(word, str):
        return None
    found = difflib.get_close_matches(word[:64], list(known), n=1)
    return found[0] if found else None


def unknown(path: str, word: Any, kind: str, known: Sequence[str]) -> Problem:
    """Return the problem that ``word`` is none of the ``known`` ones, with the nearest of them."""
    guess = nearest(word, known)
    remedy = f"did you mean {guess}?" if guess else None
    return Problem(path, f"{kind} ({', '.join(known)})", shown(word), remedy)
