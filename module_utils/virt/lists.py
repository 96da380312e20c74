# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The entries of the table that are many: lists of things, and names with values."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Callable, Mapping, Protocol, Sequence, TypeVar

from ..converge.action import LIVE, NEXT_BOOT, Edit
from ..converge.compare import join
from ..converge.errors import Problem, shown
from .codecs import Codec, Refused
from .document import Element, Fresh, elements, insert, remove
from .fields import Edits, Field, Group, When, check_fields, missing, patch_fields, read_fields
from .place import Place, place

_END = re.compile(r"[.\[]")  # what ends a key in a path


def _key(edit: Edit, label: str) -> str:
    """Return the key of an entry that a difference is of."""
    return _END.split(edit.path[len(label) + 1 :], 1)[0]


@dataclass(frozen=True, eq=False, repr=False)
class _Found:
    """An entry that is there: its element, its values, and what names it."""

    element: Element
    values: dict[str, Any]
    name: str | None


class Named(Protocol):
    """What is told by a name, or by where it stands where that is None."""

    @property
    def name(self) -> str | None:
        """Return the name."""


Entry = TypeVar("Entry", bound=Named)


@dataclass(frozen=True, eq=False, repr=False)
class Items(Field):
    """A list of things of one tag. A stated list is the whole list: what it lacks is removed.

    ``name`` returns what libvirt itself tells an entry by, None where that is its position alone.
    ``own`` says which elements are the user's and not libvirt's. ``fresh`` returns what a new entry
    has besides what was stated, ``attach`` when one comes or goes in a running guest. ``agree``
    takes when each key of an entry changes, and returns that for changes made at once.
    """

    key: str
    tag: str
    fields: tuple[Field, ...]
    name: Callable[[Mapping[str, Any]], str | None]
    at: str = "devices"
    make: Mapping[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    own: Callable[[Element, Element], bool] | None = None
    fresh: Callable[[Mapping[str, Any], Element], Mapping[str, Any]] | None = None
    attach: Callable[[Mapping[str, Any]], str] | None = None
    agree: Callable[[Mapping[str, str]], Mapping[str, str]] | None = None
    place: Place = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "place", place(self.at))

    def needed(self) -> str | None:
        """Return what has to be there for it."""
        return self.place.first

    def found(self, scope: Element) -> list[_Found]:
        """Return the entries that are there."""
        container = self.place.element(scope)
        if container is None:
            return []
        entries = []
        for element in elements(container, self.tag):
            if self.own is None or self.own(element, container):
                values = read_fields(element, self.fields)
                entries.append(_Found(element, values, self.name(values)))
        return entries

    def get(self, scope: Element) -> Any:
        """Return the values of each entry, None where there is no entry."""
        return [entry.values for entry in self.found(scope)] or None

    def masked(self, value: Any) -> Any:
        """Return a value as it may be shown."""
        if not isinstance(value, list):
            return value
        one = Group("", self.fields)
        return [one.masked(entry) for entry in value]

    def liveness(self, entry: Mapping[str, Any]) -> str:
        """Return when an entry comes or goes."""
        return NEXT_BOOT if self.attach is None else self.attach(entry)

    def pair(
        self, stated: Sequence[Mapping[str, Any]], there: Sequence[Entry]
    ) -> list[Entry | None]:
        """Return for each stated entry the one that it means, None where it is not there.

        Names go first; what is stated without one then takes those that are left, in order.
        """
        by_name: dict[str, list[Entry]] = {}
        for entry in there:
            if entry.name is not None:
                by_name.setdefault(entry.name, []).append(entry)
        names = [self.name(entry) for entry in stated]
        pairs: list[Entry | None] = []
        for name in names:
            alike = by_name.get(name) if name is not None else None
            pairs.append(alike.pop(0) if alike else None)
        taken = {id(entry) for entry in pairs if entry is not None}
        left = [entry for entry in there if id(entry) not in taken]
        for number, name in enumerate(names):
            if name is None and left:
                pairs[number] = left.pop(0)
        return pairs

    def patch(self, scope: Element, value: Any, edits: Edits, path: str) -> None:
        """Make the list what was stated; an entry that is there keeps all that was not stated."""
        stated: Sequence[Mapping[str, Any]] = value or []
        there = self.found(scope)
        pairs = self.pair(stated, there)
        kept = {id(entry) for entry in pairs if entry is not None}
        container = self.place.element(scope)
        for number, entry in enumerate(there):
            if id(entry) not in kept and container is not None:
                label = f"{path}[{entry.name or number}]"
                edits.add(label, entry.values, None, self.liveness(entry.values))
                remove(container, entry.element)
        for number, (wanted, known) in enumerate(zip(stated, pairs)):
            if known is not None:
                label = f"{path}[{known.name or number}]"
                self.change(known.element, wanted, edits, label)
                continue
            label = f"{path}[{self.name(wanted) or number}]"
            shown_entry = Group("", self.fields).masked(wanted)
            edits.add(label, None, shown_entry, self.liveness(wanted))
            self.add(scope, wanted, edits)
        self.place.prune(scope)

    def change(self, element: Element, wanted: Mapping[str, Any], edits: Edits, label: str) -> None:
        """Patch one entry, and let its keys agree when they change."""
        since = len(edits.found)
        patch_fields(element, self.fields, wanted, edits, label)
        if self.agree is None:
            return
        whens: dict[str, str] = {}
        for edit in edits.found[since:]:
            key = _key(edit, label)
            whens[key] = edit.when if whens.get(key, LIVE) == LIVE else whens[key]
        agreed = self.agree(whens)
        edits.settle(since, lambda edit: agreed[_key(edit, label)])

    def add(self, scope: Element, wanted: Mapping[str, Any], edits: Edits) -> None:
        """Make a new entry."""
        element = Fresh(self.tag, dict(self.make))
        more = {} if self.fresh is None else self.fresh(wanted, edits.root)
        patch_fields(element, self.fields, {**more, **wanted}, edits.aside(), "")
        insert(self.place.make(scope), element)

    def check(self, value: Any, path: str, problems: list[Problem]) -> Any:
        """Return the canonical form of the list; no entry may be named twice."""
        if value is None:
            return []
        if not isinstance(value, (list, tuple)):
            problems.append(Problem(path, "a list", shown(value)))
            return []
        entries = []
        first: dict[str, str] = {}
        for number, entry in enumerate(value):
            where = f"{path}[{number}]"
            canonical = check_fields(self.fields, entry, where, problems)
            entries.append(canonical)
            if not isinstance(entry, Mapping):
                continue
            problems += missing(self.needs, entry, where)
            told = all(canonical.get(key) is not None for key in self.needs)
            found = self.name(canonical) if told else None
            name = found if isinstance(found, str) else None  # a refused value may be anything
            if name is not None and name in first:
                found = f"{shown(name)}, which {first[name]} has already"
                problems.append(Problem(where, f"one entry of its own in {self.key}", found))
            elif name is not None:
                first[name] = where
        return entries


@dataclass(frozen=True, eq=False, repr=False)
class Values(Field):
    """A list of values, an element each: in an attribute, or its text where that is None.

    A stated list is the whole list; its order says nothing. Where there are ``least`` of them, it
    cannot be shorter.
    """

    key: str
    tag: str
    attribute: str | None
    codec: Codec = field(default_factory=Codec)
    at: str = ""
    when: str = NEXT_BOOT
    least: int = 0
    make: Mapping[str, str] = field(default_factory=dict)
    place: Place = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "place", place(self.at))

    def needed(self) -> str | None:
        """Return what has to be there for it."""
        return self.place.first or self.tag

    def found(self, scope: Element) -> list[tuple[Element, Any]]:
        """Return the elements that are there, with their values."""
        container = self.place.element(scope)
        if container is None:
            return []
        pairs = (
            (one, self.codec.get(one, self.attribute)) for one in elements(container, self.tag)
        )
        return [(one, value) for one, value in pairs if value is not None]

    def get(self, scope: Element) -> Any:
        """Return the values, None where there is none."""
        return [value for _, value in self.found(scope)] or None

    def patch(self, scope: Element, value: Any, edits: Edits, path: str) -> None:
        """Make the list what was stated."""
        stated: Sequence[Any] = value or []
        there = self.found(scope)
        gone = [one for one, have in there if not any(self.codec.same(w, have) for w in stated)]
        new = [w for w in stated if not any(self.codec.same(w, have) for _, have in there)]
        if not gone and not new:
            return
        edits.add(path, [have for _, have in there] or None, list(stated) or None, self.when)
        container = self.place.make(scope)
        for one in gone:
            remove(container, one)
        for wanted in new:
            element = Fresh(self.tag, dict(self.make))
            self.codec.put(element, self.attribute, wanted)
            insert(container, element)
        self.place.prune(scope)

    def check(self, value: Any, path: str, problems: list[Problem]) -> Any:
        """Return the canonical form of the list; no value may be there twice."""
        if value is None:
            value = []
        if not isinstance(value, (list, tuple)):
            problems.append(Problem(path, "a list", shown(value)))
            return []
        canonical: list[Any] = []
        for number, one in enumerate(value):
            try:
                checked = self.codec.check(one)
            except Refused as refused:
                where = f"{path}[{number}]"
                problems.append(Problem(where, refused.expected, shown(one), refused.remedy))
                continue
            if checked in canonical:
                problems.append(Problem(f"{path}[{number}]", "each value once", shown(one)))
            canonical.append(checked)
        if len(value) < self.least:
            problems.append(Problem(path, f"at least {self.least}", str(len(value))))
        return canonical


@dataclass(frozen=True, eq=False, repr=False)
class Map(Field):
    """Names with values, an element each; names that were not stated stay as they are."""

    key: str
    at: str
    tag: str
    name: str
    value: str | None
    names: Codec = field(default_factory=Codec)
    values: Codec = field(default_factory=Codec)
    when: When = NEXT_BOOT
    place: Place = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "place", place(self.at))

    def needed(self) -> str | None:
        """Return what has to be there for it."""
        return self.place.first

    def get(self, scope: Element) -> Any:
        """Return the values by name, None where there is none."""
        container = self.place.element(scope)
        if container is None:
            return None
        found = {
            element.get(self.name, ""): self.values.get(element, self.value)
            for element in elements(container, self.tag)
        }
        return found or None

    def patch(self, scope: Element, value: Any, edits: Edits, path: str) -> None:
        """Make the stated names what was stated; null for all takes them all away."""
        there = self.get(scope) or {}
        stated = dict.fromkeys(there) if value is None else value
        for name, wanted in stated.items():
            before = there.get(name)
            if (wanted is None and name not in there) or (
                wanted is not None and before is not None and self.same(wanted, before)
            ):
                continue
            when = self.when if isinstance(self.when, str) else self.when(scope, wanted)
            edits.add(join(path, name), before, wanted, when)
            self.put(self.place.make(scope), name, wanted)
        container_now = self.place.element(scope)
        if container_now is not None and not len(container_now):
            having = dict(self.place.steps[-1].having) if self.place.steps else {}
            if dict(container_now.attrib) == having:
                self.place.erase(scope)

    def same(self, wanted: Any, found: Any) -> bool:
        """Return whether what is found for a name is what was stated."""
        return self.values.same(wanted, found)

    def put(self, container: Element, name: str, wanted: Any) -> None:
        """Write the value of a name, or take it away."""
        there = (e for e in container.findall(self.tag) if e.get(self.name) == name)
        element = next(there, None)
        if wanted is None:
            if element is not None:
                remove(container, element)
            return
        if element is None:
            element = insert(container, Fresh(self.tag, {self.name: name}))
        self.values.put(element, self.value, wanted)

    def taken(self, wanted: Any) -> Any:
        """Return the canonical form of a name's value; Refused where it is none."""
        return self.values.check(wanted)

    def check(self, value: Any, path: str, problems: list[Problem]) -> Any:
        """Return the canonical form of the mapping."""
        if value is None:
            return None
        if not isinstance(value, Mapping):
            problems.append(Problem(path, "a mapping of names to values", shown(value)))
            return {}
        canonical: dict[str, Any] = {}
        for name, wanted in value.items():
            text = str(name) if type(name) is int else name
            where = join(path, text[:64] if isinstance(text, str) and text.isprintable() else "?")
            try:
                checked = str(self.names.check(text))
            except Refused as refused:
                problems.append(Problem(where, refused.expected, shown(name), refused.remedy))
                continue
            try:
                canonical[checked] = None if wanted is None else self.taken(wanted)
            except Refused as refused:
                problems.append(Problem(where, refused.expected, shown(wanted), refused.remedy))
        return canonical


@dataclass(frozen=True, eq=False, repr=False)
class Lists(Map):
    """Names with one value each, or with a list of them: an element for each value."""

    def get(self, scope: Element) -> Any:
        """Return the values by name, None where there is none."""
        container = self.place.element(scope)
        found: dict[str, list[Any]] = {}
        for element in () if container is None else elements(container, self.tag):
            values = found.setdefault(element.get(self.name, ""), [])
            values.append(self.values.get(element, self.value))
        return {name: _single(values) for name, values in found.items()} or None

    def same(self, wanted: Any, found: Any) -> bool:
        """Return whether what is found for a name is what was stated."""
        return bool(wanted == found)

    def put(self, container: Element, name: str, wanted: Any) -> None:
        """Write the values of a name, or take them away."""
        for element in container.findall(self.tag):
            if element.get(self.name) == name:
                remove(container, element)
        values = wanted if isinstance(wanted, list) else [] if wanted is None else [wanted]
        for one in values:
            element = insert(container, Fresh(self.tag, {self.name: name}))
            self.values.put(element, self.value, one)

    def taken(self, wanted: Any) -> Any:
        """Return the canonical form of a name's value; Refused where it is none."""
        if not isinstance(wanted, list):
            return self.values.check(wanted)
        if not wanted:
            raise Refused(f"{self.values.expected}, or a list of such values")
        return _single([self.values.check(one) for one in wanted])


def _single(values: list[Any]) -> Any:
    return values if len(values) > 1 else values[0]
