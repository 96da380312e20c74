# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is declared of objects of one kind, and all that is wrong with it at once."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Collection, Mapping, Sequence

from ..converge.errors import InputError, Problem, shown, unknown
from .kind import ABSENT, ACTIVE, PRESENT, STATES

if TYPE_CHECKING:
    from .kind import Kind

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.+-]{0,62}", re.ASCII)
_EXPECTED = "a name (1 to 63 letters, digits, _ . + and -, a letter or digit first)"


@dataclass(frozen=True)
class Declared:
    """One object as the user wants it: the keys of its definition, and what is asked besides."""

    name: str
    path: str
    state: str = ACTIVE
    stated: Mapping[str, Any] = field(default_factory=dict)
    asked: Mapping[str, Any] = field(default_factory=dict)


class _Reader:
    """Reads entries of one kind, collecting what is wrong with them."""

    def __init__(self, kind: Kind, existing: Collection[str]) -> None:
        self.kind = kind
        self.existing = existing
        self.problems: list[Problem] = []

    def name(self, path: str, entry: Mapping[Any, Any]) -> str | None:
        value = entry.get("name")
        if isinstance(value, str) and _NAME.fullmatch(value):
            return value
        remedy = "quote it" if isinstance(value, (bool, int, float)) else None
        found = shown(value) if "name" in entry else "nothing"
        self.problems.append(Problem(f"{path}.name", _EXPECTED, found, remedy))
        return None

    def asked(self, path: str, entry: Mapping[Any, Any]) -> dict[str, Any]:
        found = {}
        for key in self.kind.flags:
            if key in entry:
                if not isinstance(entry[key], bool):
                    problem = Problem(f"{path}.{key}", "true or false", shown(entry[key]))
                    self.problems.append(problem)
                found[key] = bool(entry[key])
        return found

    def entry(self, path: str, entry: object) -> Declared | None:
        if not isinstance(entry, Mapping):
            expected = f"a mapping that describes a {self.kind.word}"
            self.problems.append(Problem(path, expected, shown(entry)))
            return None
        name = self.name(path, entry)
        states = STATES if self.kind.starts else (PRESENT, ABSENT)
        state = entry.get("state", states[0])
        if not isinstance(state, str) or state not in states:
            self.problems.append(unknown(f"{path}.state", state, "a state", states))
            state = states[0]
        asked = self.asked(path, entry)
        rest = {k: v for k, v in entry.items() if k not in ("name", "state", *self.kind.flags)}
        new = state != ABSENT and name is not None and name not in self.existing
        others = ("name", "state", *self.kind.flags)
        stated = self.kind.checked(rest, path, self.problems, new=new, others=others)
        return None if name is None else Declared(name, path, state, stated, asked)


def read(entries: Sequence[object], kind: Kind, existing: Collection[str]) -> list[Declared]:
    """Return what the list declares; InputError with every problem in it."""
    reader = _Reader(kind, existing)
    declared: list[Declared] = []
    first: dict[str, str] = {}
    for number, entry in enumerate(entries):
        one = reader.entry(f"{kind.plural}[{number}]", entry)
        if one is None:
            continue
        if one.name in first:
            found = f"{shown(one.name)}, which {first[one.name]}.name has already"
            reader.problems.append(Problem(f"{one.path}.name", "a name of its own", found))
        first.setdefault(one.name, one.path)
        declared.append(one)
    if reader.problems:
        raise InputError(reader.problems)
    return declared
