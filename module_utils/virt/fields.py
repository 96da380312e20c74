# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The kinds of entries of the table: each reads, patches and checks one key of a spec.

``get`` returns what is there, None for nothing. ``patch`` makes it what was stated and notes each
difference; null takes it away. ``check`` returns the canonical value and collects problems.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Callable, Mapping, Sequence, Union

from ..converge.action import LIVE, NEXT_BOOT, REPLACE, Edit
from ..converge.compare import join
from ..converge.errors import Problem, shown, unknown
from ..converge.secrets import HIDDEN
from .codecs import Codec, Present, Refused, Secret, Size
from .document import Element, remove
from .place import Place, place

WHENS = (LIVE, NEXT_BOOT, REPLACE)
_UNSHOWN = "a value that is not shown"

# When a change takes effect: always the same, or by the element it is made in and the new value.
When = Union[str, Callable[[Element, Any], str]]


def live_if_set(_scope: Element, value: Any) -> str:
    """Return live for a value; what is to be none waits, as libvirt leaves a neutral value there.

    Only a guest that is started without it shows none.
    """
    return NEXT_BOOT if value is None else LIVE


def together(keys: Sequence[str], whens: Mapping[str, str]) -> dict[str, str]:
    """Return when each key changes, where all of some keys wait if one of them does."""
    some = [key for key in keys if key in whens]
    waits = any(whens[key] != LIVE for key in some)
    return {**whens, **dict.fromkeys(some, NEXT_BOOT)} if waits else dict(whens)


class Edits:
    """The differences found on the way through one domain."""

    def __init__(self, root: Element, stated: Mapping[str, Any] | None = None) -> None:
        self.root = root
        self.stated = stated or {}
        self.found: list[Edit] = []

    def add(self, path: str, before: Any, after: Any, when: str) -> None:
        """Note one difference."""
        self.found.append(Edit(path, before, after, when))

    def aside(self) -> Edits:
        """Return another list, for what is part of a difference that is noted as a whole."""
        return Edits(self.root)

    def when(self) -> str:
        """Return when all that was found has taken effect."""
        return LIVE if all(edit.when == LIVE for edit in self.found) else NEXT_BOOT

    def settle(self, since: int, when: Callable[[Edit], str]) -> None:
        """Say anew when those that were found since then take effect."""
        self.found[since:] = [edit._replace(when=when(edit)) for edit in self.found[since:]]


def clear(element: Element, names: Sequence[str]) -> None:
    """Take children and @attributes of an element away."""
    for name in names:
        if name.startswith("@"):
            element.attrib.pop(name[1:], None)
            continue
        for child in element.findall(name):
            remove(element, child)


@dataclass(frozen=True, eq=False, repr=False)
class Variant:
    """The attribute of the scope that says which of several keys holds (a disk's file, block …).

    ``clears`` are the children and @attributes that described the former one; what is ``stale``
    goes with every change of the source.
    """

    value: str
    attribute: str = "type"
    default: str = "file"
    clears: tuple[str, ...] = ("source",)
    stale: tuple[str, ...] = ()

    def holds(self, scope: Element) -> bool:
        """Return whether the scope is of this variant."""
        return scope.get(self.attribute, self.default) == self.value

    def choose(self, scope: Element) -> None:
        """Make the scope one of this variant."""
        if self.holds(scope) and self.attribute in scope.attrib:
            return
        if not self.holds(scope):
            clear(scope, self.clears)
        scope.set(self.attribute, self.value)


class Field:
    """One key of a spec."""

    key: str
    variant: Variant | None = None

    def get(self, scope: Element) -> Any:
        """Return what is there, None for nothing."""
        raise NotImplementedError

    def needed(self) -> str | None:
        """Return the child or @attribute of its scope without which `get` finds nothing.

        None where it may find something without any one of them.
        """
        return None

    def patch(self, scope: Element, value: Any, edits: Edits, path: str) -> None:
        """Make it what was stated."""
        raise NotImplementedError

    def check(self, value: Any, path: str, problems: list[Problem]) -> Any:
        """Return the canonical form of what was stated."""
        raise NotImplementedError

    def masked(self, value: Any) -> Any:
        """Return a value as it may be shown."""
        return value


def read_fields(scope: Element, fields: Sequence[Field]) -> dict[str, Any]:
    """Return what is there of all fields."""
    found: dict[str, Any] = {}
    there = {child.tag for child in scope}
    there.update(f"@{name}" for name in scope.attrib)
    for needed, one in _needing(fields):
        if needed is None or needed in there:
            value = one.get(scope)
            if value is not None:
                found[one.key] = one.masked(value)
    return {key: value for key, value in found.items() if value != HIDDEN}


_NEEDING: dict[int, tuple[Sequence[Field], list[tuple[str | None, Field]]]] = {}


def _needing(fields: Sequence[Field]) -> list[tuple[str | None, Field]]:
    """Return each field with what it needs to be there.

    Most of the table is not there in most domains: this is what reading them lives on.
    """
    known = _NEEDING.get(id(fields))
    if known is None or known[0] is not fields:
        known = _NEEDING[id(fields)] = (fields, [(one.needed(), one) for one in fields])
    return known[1]


def patch_fields(
    scope: Element, fields: Sequence[Field], stated: Mapping[str, Any], edits: Edits, path: str
) -> None:
    """Patch what was stated, in the table's order; ValueError for a key that it does not have."""
    strange = set(stated) - {one.key for one in fields}
    if strange:
        raise ValueError(f"unchecked keys below {path or 'the guest'}: {sorted(strange)}")
    chosen = {
        one.variant.value
        for one in fields
        if one.variant is not None and stated.get(one.key) is not None
    }
    for one in fields:  # what goes with the variant that is left
        if one.variant is None or one.variant.value in chosen or not chosen or one.key in stated:
            continue
        before = one.get(scope)
        if before is not None:
            when = one.liveness(scope, None) if isinstance(one, (Leaf, Group)) else NEXT_BOOT
            edits.add(join(path, one.key), one.masked(before), None, when)
    for one in fields:
        if one.key in stated:
            one.patch(scope, stated[one.key], edits, join(path, one.key))


def check_fields(
    fields: Sequence[Field], stated: Any, path: str, problems: list[Problem]
) -> dict[str, Any]:
    """Return the canonical form of a mapping; every key that no field has is a problem."""
    if not isinstance(stated, Mapping):
        keys = ", ".join(one.key for one in fields)
        problems.append(Problem(path, f"a mapping ({keys})", shown(stated)))
        return {}
    known = {one.key: one for one in fields}
    canonical: dict[str, Any] = {}
    for key, value in stated.items():
        if key not in known:
            text = key if isinstance(key, str) and key.isprintable() else shown(key)
            where = join(path, text[:64])
            problems.append(unknown(where, key, "a known key", tuple(known)))
        else:
            canonical[key] = known[key].check(value, join(path, key), problems)
    return canonical


def missing(keys: Sequence[str], stated: Mapping[Any, Any], path: str) -> list[Problem]:
    """Return a problem for each of the keys that is not stated."""
    return [
        Problem(join(path, key), "a value", "nothing") for key in keys if stated.get(key) is None
    ]


def _checked(codec: Codec, value: Any, path: str, problems: list[Problem]) -> Any:
    """Return a value's canonical form; what is refused is a problem, and comes back as it is."""
    try:
        return codec.check(value)
    except Refused as refused:
        found = _UNSHOWN if isinstance(codec, Secret) else shown(value)
        problems.append(Problem(path, refused.expected, found, refused.remedy))
        return value


@dataclass(frozen=True, eq=False, repr=False)
class Leaf(Field):
    """One value at one place.

    ``absent`` is what it means where nothing is there; ``make`` are the attributes of an element
    made for it; ``clears`` the children and @attributes of the element that its change makes
    meaningless. Where it may be ``blank``, an empty text is stated for none; where it is
    ``silent``, libvirt writes what absence means, and that is not read.
    """

    key: str
    at: str
    codec: Codec = field(default_factory=Codec)
    when: When = NEXT_BOOT
    absent: Any = None
    make: Mapping[str, str] = field(default_factory=dict)
    clears: tuple[str, ...] = ()
    required: bool = False
    blank: bool = False
    silent: bool = False
    variant: Variant | None = None
    place: Place = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "place", place(self.at))

    def needed(self) -> str | None:
        """Return what has to be there for it."""
        if self.place.steps or self.place.attribute is None:
            return self.place.first
        return f"@{self.place.attribute}"

    def get(self, scope: Element) -> Any:
        """Return the value, None where there is none."""
        if self.variant is not None and not self.variant.holds(scope):
            return None
        element = self.place.element(scope)
        found = None if element is None else self.codec.get(element, self.place.attribute)
        return None if self.silent and found == self.absent else found

    def same(self, value: Any, found: Any) -> bool:
        """Return whether what is there is what was stated."""
        if value is None:
            return found is None or found == self.absent  # libvirt writes some defaults out
        effective = self.absent if found is None else found
        return effective is not None and self.codec.same(value, effective)

    def masked(self, value: Any) -> Any:
        """Return a value as it may be shown: no password."""
        return HIDDEN if isinstance(self.codec, Secret) and value is not None else value

    def put(self, scope: Element, value: Any) -> None:
        """Write the value."""
        element = self.place.make(scope, self.make)
        for name, text in self.make.items():
            element.attrib.setdefault(name, text)
        self.codec.put(element, self.place.attribute, value)

    def erase(self, scope: Element) -> None:
        """Take the value away, with an element that was made for it alone."""
        element = self.place.element(scope)
        if element is None:
            return
        if isinstance(self.codec, Size) and self.codec.unit_in is not None:
            element.attrib.pop(self.codec.unit_in, None)
        left = set(element.attrib) - {self.place.attribute}
        alone = bool(self.make) and not len(element) and left <= set(self.make)
        if self.place.attribute is not None and alone:
            Place(self.place.steps).erase(scope)
        else:
            self.place.erase(scope)

    def clear(self, element: Element, _value: Any) -> None:
        """Take away what the former value gave meaning to and the new one does not."""
        clear(element, self.clears)

    def liveness(self, scope: Element, value: Any) -> str:
        """Return when a change to the value takes effect."""
        return self.when if isinstance(self.when, str) else self.when(scope, value)

    def patch(self, scope: Element, value: Any, edits: Edits, path: str) -> None:
        """Make it what was stated."""
        before = self.get(scope)
        if self.same(value, before):
            return
        edits.add(path, self.masked(before), self.masked(value), self.liveness(scope, value))
        gone = value is None or (value is False and isinstance(self.codec, Present))
        if self.variant is not None:
            clear(scope, self.variant.stale)
            if not gone:
                self.variant.choose(scope)
        element = self.place.element(scope)
        if element is not None:
            self.clear(element, value)
        if gone:
            self.erase(scope)
        else:
            self.put(scope, value)

    def check(self, value: Any, path: str, problems: list[Problem]) -> Any:
        """Return the canonical form of what was stated."""
        if (value is None and not self.required) or (self.blank and value == ""):
            return None
        return _checked(self.codec, value, path, problems)


@dataclass(frozen=True, eq=False, repr=False)
class Aside(Field):
    """A value that a domain's XML does not have: it is checked here, and made by somebody else."""

    key: str
    codec: Codec = field(default_factory=Codec)

    def get(self, scope: Element) -> Any:
        """Return None: the XML does not say it."""
        del scope

    def patch(self, scope: Element, value: Any, edits: Edits, path: str) -> None:
        """Leave the XML as it is."""

    def check(self, value: Any, path: str, problems: list[Problem]) -> Any:
        """Return the canonical form of what was stated."""
        return None if value is None else _checked(self.codec, value, path, problems)


@dataclass(frozen=True, eq=False, repr=False)
class Selected(Field):
    """True where the scope is of a variant that needs no source (a NIC's ``user``)."""

    key: str
    variant: Variant
    when: str = NEXT_BOOT

    def get(self, scope: Element) -> Any:
        """Return True or None."""
        return True if self.variant.holds(scope) else None

    def patch(self, scope: Element, value: Any, edits: Edits, path: str) -> None:
        """Make the scope one of this variant."""
        if value and not self.variant.holds(scope):
            edits.add(path, None, True, self.when)
            self.variant.choose(scope)

    def check(self, value: Any, path: str, problems: list[Problem]) -> Any:
        """Accept true alone: another variant is chosen by its own key."""
        if value is not True:
            problems.append(Problem(path, "true", shown(value), "state another source instead"))
        return value


@dataclass(frozen=True, eq=False, repr=False)
class Group(Field):
    """Keys that belong together, below one element (``at``) or below the scope itself.

    Where the element is a thing of its own (a device), ``thing``, it is there even with nothing
    stated of it, and it is made and removed as a whole; ``fresh`` returns what a new one has
    besides what was stated. One that is ``required`` cannot be taken away; what it ``needs`` is
    stated with every one. One that is no thing goes ``when`` its parts can; the parts of a variant
    change with the whole, and each such change makes meaningless what it ``clears`` there.
    """

    key: str
    fields: tuple[Field, ...]
    at: str = ""
    thing: bool = False
    make: Mapping[str, str] = field(default_factory=dict)
    fresh: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None
    when: When = NEXT_BOOT
    required: bool = False
    needs: tuple[str, ...] = ()
    clears: tuple[str, ...] = ()
    variant: Variant | None = None
    place: Place = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "place", place(self.at))

    def needed(self) -> str | None:
        """Return what has to be there for it."""
        return self.place.first

    def get(self, scope: Element) -> Any:
        """Return what is there of the fields, None for nothing."""
        if self.variant is not None and not self.variant.holds(scope):
            return None
        element = self.place.element(scope)
        if element is None:
            return None
        found = read_fields(element, self.fields)
        return found if found or self.thing else None

    def masked(self, value: Any) -> Any:
        """Return a value as it may be shown."""
        if not isinstance(value, Mapping):
            return value
        by_key = {one.key: one for one in self.fields}
        return {key: by_key[key].masked(inside) for key, inside in value.items()}

    def liveness(self, scope: Element, value: Any) -> str:
        """Return when the thing as a whole comes or goes."""
        return self.when if isinstance(self.when, str) else self.when(scope, value)

    def remove(self, scope: Element, edits: Edits, path: str) -> None:
        """Take away all that is there of it."""
        before = self.get(scope)
        element = self.place.element(scope)
        if before is None or element is None:
            return
        if self.thing or self.make or self.variant is not None:
            edits.add(path, before, None, self.liveness(scope, None))
            Place(self.place.steps).erase(scope)
            return
        parts = edits.aside()
        nothing = {one.key: None for one in self.fields if one.get(element) is not None}
        patch_fields(element, self.fields, nothing, parts, path)
        self.place.prune(scope)
        edits.add(path, before, None, parts.when())

    def patch(self, scope: Element, value: Any, edits: Edits, path: str) -> None:
        """Make the fields what was stated."""
        if value is None:
            self.remove(scope, edits, path)
            return
        if self.variant is not None and not self.variant.holds(scope):
            self.variant.choose(scope)
        element = self.place.element(scope)
        if element is None and self.thing:
            edits.add(path, None, self.masked(value), self.liveness(scope, value))
            made = self.place.make(scope, self.make)
            whole = {**(self.fresh(value) if self.fresh else {}), **value}
            patch_fields(made, self.fields, whole, edits.aside(), path)
            return
        made_here = element is None
        if element is None:
            element = self.place.make(scope, self.make)
        known = len(edits.found)
        patch_fields(element, self.fields, value, edits, path)
        if self.variant is not None and len(edits.found) > known:
            clear(scope, self.variant.stale)
            clear(element, self.clears)
            when = self.liveness(scope, value)
            edits.settle(known, lambda _edit: when)
        if made_here and len(edits.found) == known:
            self.place.erase(scope)
        elif not self.thing:
            self.place.prune(scope)

    def check(self, value: Any, path: str, problems: list[Problem]) -> Any:
        """Return the canonical form of what was stated."""
        if value is None and not self.required:
            return None
        canonical = check_fields(self.fields, value, path, problems)
        if isinstance(value, Mapping):
            problems += missing(self.needs, value, path)
        return canonical
