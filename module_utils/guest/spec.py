# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The canonical guest: what is stated of it whatever runs it, and all that is wrong with a list.

A declaration holds only what the user stated, in canonical form: sizes as text in their largest
unit, so that 2048MiB and 2GiB are no difference. What is left out is kept as it is observed, or
takes its default when the guest is made. What a guest is made of is its engine's dialect.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Collection, Iterator, Mapping, Sequence

from ..converge.errors import InputError, Problem, shown, unknown
from ..kvm.layout import valid_name

if TYPE_CHECKING:
    from .engine import Dialect

DEFAULT_ENGINE = "libvirt"

PRESENT = "present"
RUNNING = "running"
STOPPED = "stopped"
PAUSED = "paused"
RESTARTED = "restarted"
SAVED = "saved"
ABSENT = "absent"
STATES = (PRESENT, RUNNING, STOPPED, PAUSED, RESTARTED, SAVED, ABSENT)

# The keys of every guest. Those of the first row are no part of its definition.
ASKED = ("state", "adopt", "replace", "remove_disks", "wait_for", "wait_timeout")
KEPT = {"autostart": False, "protected": False}
WAS = "was"  # the name that it had before: it is found by it, and its identity follows from it
CALLED = ("name", WAS)
_LABEL = "an RFC 1123 label (1 to 63 of a-z, 0-9 and -, neither first nor last a hyphen)"


@dataclass(frozen=True)
class Declared:
    """One guest as the user wants it.

    ``path`` is where it stands in the input; ``stated`` holds the keys of a spec that were stated,
    ``asked`` what is asked for besides and only now (adopt, wait_for, …).
    """

    name: str
    path: str
    state: str = RUNNING
    stated: dict[str, Any] = field(default_factory=dict)
    asked: Mapping[str, Any] = field(default_factory=dict)

    @property
    def engine(self) -> str | None:
        """What runs it, None where a guest shall be removed whatever runs it."""
        return self.stated.get("engine")

    @property
    def was(self) -> str | None:
        """The name that it had before, None where it never had another."""
        return self.stated.get(WAS)

    def called(self, name: str) -> Declared:
        """Return it as if it were declared under the name that it still has."""
        stated = {key: value for key, value in self.stated.items() if key != WAS}
        return replace(self, name=name, stated={**stated, "name": name})


def digest(spec: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a spec's canonical JSON, in hex."""
    text = json.dumps(spec, sort_keys=True, separators=(",", ":"))
    return sha256(text.encode()).hexdigest()


def quotable(value: object) -> bool:
    """Return whether YAML probably made a number or a truth value of a word."""
    return isinstance(value, (bool, int, float))


class Reader:
    """Reads one entry, collecting what is wrong with it."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems

    def refuse(self, path: str, expected: str, found: object, remedy: str | None = None) -> None:
        """Note a problem."""
        self.problems.append(Problem(path, expected, shown(found), remedy))

    def known(self, path: str, entry: Mapping[Any, Any], keys: Sequence[str]) -> None:
        """Refuse every key of ``entry`` that is not one of ``keys``."""
        for key in entry:
            if key not in keys:
                text = key if isinstance(key, str) and key.isprintable() else shown(key)
                self.problems.append(unknown(f"{path}.{text[:64]}", key, "a known key", keys))

    def flag(self, path: str, value: object) -> bool:
        """Return a truth value."""
        if not isinstance(value, bool):
            self.refuse(path, "true or false", value)
        return bool(value)


class _Entry(Reader):
    """Reads what every guest has."""

    def __init__(self, dialects: Mapping[str, Dialect], problems: list[Problem]) -> None:
        super().__init__(problems)
        self.dialects = dialects

    def name(self, path: str, entry: Mapping[Any, Any]) -> str | None:
        """Return the guest's name, None where there is none that can be used."""
        if "name" not in entry:
            self.problems.append(Problem(f"{path}.name", "a name", "nothing"))
            return None
        value = entry["name"]
        if valid_name(value):
            return str(value)
        self.refuse(f"{path}.name", _LABEL, value, "quote it" if quotable(value) else None)
        return None

    def was(self, path: str, entry: Mapping[Any, Any]) -> str | None:
        """Return the name that the guest had before, None where it states none that can be used."""
        value = entry.get(WAS)
        if value is None:
            return None
        if not valid_name(value):
            self.refuse(f"{path}.{WAS}", _LABEL, value, "quote it" if quotable(value) else None)
        elif value == entry.get("name"):
            self.refuse(f"{path}.{WAS}", "another name, which it had before", value)
        else:
            return str(value)
        return None

    def engine(self, path: str, entry: Mapping[Any, Any], *, removed: bool) -> str | None:
        """Return the engine; a guest to be removed is found whatever its engine is."""
        if "engine" not in entry and removed:
            return None
        value = entry.get("engine", DEFAULT_ENGINE)
        if isinstance(value, str) and value in self.dialects:
            return value
        expected = f"an engine that is there ({', '.join(self.dialects)})"
        if "engine" in entry:
            self.refuse(f"{path}.engine", expected, value)
        else:
            found = f"nothing, which means {value}"
            remedy = f"state engine: {next(iter(self.dialects))}"
            self.problems.append(Problem(f"{path}.engine", expected, found, remedy))
        return None

    def state(self, path: str, entry: Mapping[Any, Any], states: Sequence[str]) -> str:
        """Return the state that is asked for."""
        value = entry.get("state", RUNNING)
        if isinstance(value, str) and value in states:
            return value
        self.problems.append(unknown(f"{path}.state", value, "a state", states))
        return RUNNING

    def read(self, path: str, entry: object, existing: Collection[str]) -> Declared | None:
        """Return what an entry declares, None where it has no usable name."""
        if not isinstance(entry, Mapping):
            self.refuse(path, "a mapping that describes a guest", entry)
            return None
        name = self.name(path, entry)
        removed = entry.get("state") == ABSENT
        engine = self.engine(path, entry, removed=removed)
        # A guest of either kind may be removed: what is stated of it need only make sense to one.
        dialect = self.dialects[engine or _closest(self.dialects, entry)]
        state = self.state(path, entry, dialect.states)
        was = self.was(path, entry)
        rest = {k: v for k, v in entry.items() if k not in (*CALLED, "engine", "state", *KEPT)}
        new = not removed and name is not None and not {name, was}.intersection(existing)
        found = dialect.read(rest, path, self.problems, new=new, removed=removed)
        stated: dict[str, Any] = {"name": name}
        if engine is not None:
            stated["engine"] = engine
        if was is not None:
            stated[WAS] = was
        stated.update((key, value) for key, value in found.items() if key not in ASKED)
        for key in KEPT:
            if key in entry:
                stated[key] = self.flag(f"{path}.{key}", entry[key])
        asked = {key: value for key, value in found.items() if key in ASKED}
        return None if name is None else Declared(name, path, state, stated, asked)


def _closest(dialects: Mapping[str, Dialect], entry: Mapping[Any, Any]) -> str:
    """Return the engine whose dialect knows most of an entry's keys."""

    def strange(name: str) -> int:
        return sum(key not in dialects[name].keys for key in entry)

    return min(dialects, key=strange)


def _taken(declared: Sequence[Declared], names: Collection[str]) -> Iterator[Problem]:
    """Yield the former names that another guest has, or had as well."""
    claimed: dict[str, str] = {}
    for guest in declared:
        if guest.was is None:
            continue
        path, word = f"{guest.path}.{WAS}", shown(guest.was)
        if guest.was in names:
            found = f"{word}, which is declared still"
            yield Problem(path, "a name that no guest has any more", found)
        elif guest.was in claimed:
            found = f"{word}, which {claimed[guest.was]} states too"
            yield Problem(path, "a name that no other guest had", found)
        claimed.setdefault(guest.was, guest.name)


def read(
    entries: Sequence[object],
    dialects: Mapping[str, Dialect],
    existing: Collection[str] = (),
    root: str = "guests",
) -> list[Declared]:
    """Return what the list declares; InputError with every problem in it, none of them acted on.

    What is not among the ``existing`` guests is new and needs what its engine cannot do without.
    """
    problems: list[Problem] = []
    reader = _Entry(dialects, problems)
    declared: list[Declared] = []
    first: dict[str, str] = {}
    for number, entry in enumerate(entries):
        guest = reader.read(f"{root}[{number}]", entry, existing)
        if guest is None:
            continue
        if guest.name in first:
            where = f"{first[guest.name]}.name"
            found = f"{shown(guest.name)}, which {where} has already"
            problems.append(Problem(f"{guest.path}.name", "a name of its own", found))
        first.setdefault(guest.name, guest.path)
        declared.append(guest)
    problems += _taken(declared, first)
    if problems:
        raise InputError(problems)
    return declared
