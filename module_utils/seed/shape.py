# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Shapes that values are held against: of which kind they may be, and what may stand in them.

Anything in a seed may be a secret, so a problem names keys and kinds, and never shows a value.
"""

from __future__ import annotations

import re
from typing import Any, Callable, Iterable, Iterator, Mapping, NamedTuple, Sequence

from ..converge.errors import Problem, nearest, shown, unknown

_TEXT, _BOOLEAN, _WHOLE, _NUMBER = "text", "true or false", "a whole number", "a number"
_LIST, _MAPPING, _NOTHING = "a list", "a mapping", "nothing"
_QUOTED = (_BOOLEAN, _WHOLE, _NUMBER, "a date")  # what YAML makes of some words without quotes
_MANY = 25  # known keys that are too many to be told
# A key of another form may be a value that lost its place, as in `{password:secret}`.
_PLAIN = re.compile(r"[A-Za-z][\w/+-]{0,40}")
_NAME = re.compile(r"/[\w/:.,@+-]{0,63}|[\w@/+. -]{1,64}")


class Shape(NamedTuple):
    """What a value may be.

    ``items`` is for each entry of a list and ``size`` for their number, ``keys`` for the known keys
    of a mapping and ``others`` for all the rest; where neither is given, anything may stand in it.
    Of each group in ``required`` one key has to be there. A text is one of the ``words``, or passes
    the ``test``, where they are given; ``called`` says in words what it has to be, and ``remedy``
    what to do about a value of another kind.
    """

    kinds: tuple[str, ...]
    items: Shape | None = None
    size: tuple[int, int] | None = None
    keys: Mapping[str, Shape] | None = None
    others: Shape | None = None
    required: tuple[tuple[str, ...], ...] = ()
    words: tuple[str, ...] = ()
    test: Callable[[str], Any] | None = None
    called: str | None = None
    remedy: str | None = None

    def __or__(self, other: Shape) -> Shape:
        """Return the shape of what has this one or the other, which is of other kinds."""
        own: dict[str, Any] = {name: one for name, one in zip(self._fields, self) if one}
        return other._replace(**{**own, "kinds": (*self.kinds, *other.kinds)})


TEXT, BOOLEAN = Shape((_TEXT,)), Shape((_BOOLEAN,))
WHOLE, NUMBER = Shape((_WHOLE,)), Shape((_NUMBER,))
LIST, MAPPING, NOTHING = Shape((_LIST,)), Shape((_MAPPING,)), Shape((_NOTHING,))
SCALAR = TEXT | BOOLEAN | NUMBER
ANY = SCALAR | LIST | MAPPING | NOTHING


def word(*words: str) -> Shape:
    """Return the shape of a text that is one of some words."""
    return Shape((_TEXT,), words=words)


def form(pattern: str, called: str) -> Shape:
    """Return the shape of a text that a pattern matches as a whole."""
    return Shape((_TEXT,), test=lambda text: re.fullmatch(pattern, text), called=called)


def each(items: Shape, least: int = 0, most: int | None = None) -> Shape:
    """Return the shape of a list, whose entries are as many as is said, where it is said."""
    return Shape((_LIST,), items=items, size=None if most is None else (least, most))


def keyed(
    keys: Mapping[str, Shape], *required: str | tuple[str, ...], others: Shape | None = None
) -> Shape:
    """Return the shape of a mapping with known keys, and others where a shape for them is given."""
    groups = tuple((one,) if isinstance(one, str) else one for one in required)
    return Shape((_MAPPING,), keys=keys, others=others, required=groups)


def named(inside: Shape) -> Shape:
    """Return the shape of a mapping whose keys are names of the user's own."""
    return Shape((_MAPPING,), others=inside)


_KINDS: Sequence[tuple[Any, str]] = (  # a boolean is an int too
    (type(None), _NOTHING),
    (bool, _BOOLEAN),
    ((str, bytes), _TEXT),
    (int, _WHOLE),
    (float, _NUMBER),
    (Mapping, _MAPPING),
    ((list, tuple), _LIST),
)


def kind(value: Any) -> str:
    """Return in words of which kind a value is."""
    for types, found in _KINDS:
        if isinstance(value, types):
            return found
    return "a date" if type(value).__name__ in {"date", "datetime"} else "something else"


def below(path: str, key: Any) -> str:
    """Return the path of a key, quoted where it would read as several and left out where odd."""
    name = str(key)
    if not _NAME.fullmatch(name):
        return path
    return f'{path}["{name}"]' if "." in name else f"{path}.{name}"


def plain(key: Any) -> bool:
    """Return whether a key looks like the name of a key, and may be shown."""
    return isinstance(key, str) and _PLAIN.fullmatch(key) is not None


def stranger(path: str, key: Any, known: Iterable[str]) -> Problem:
    """Return the problem that a mapping has a key that is none of the known ones."""
    words = tuple(known)
    if not plain(key):
        return Problem(path, "known keys alone", "another one that is not shown")
    where = below(path, key)
    if len(words) <= _MANY:
        return unknown(where, key, "a known key", words)
    guess = nearest(key, words)
    return Problem(where, "a known key", shown(key), f"did you mean {guess}?" if guess else None)


def _expected(shape: Shape) -> str:
    words = [
        (shape.called or _one_of(shape.words) or one) if one == _TEXT else one
        for one in shape.kinds
        if one != _NOTHING
    ] or [_NOTHING]
    return f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else words[0]


def _one_of(words: Sequence[str]) -> str:
    return f"one of ({', '.join(words)})" if len(words) > 1 else "".join(words)


def _in_text(shape: Shape, value: Any, path: str) -> Iterator[Problem]:
    if not isinstance(value, str):  # bytes, of YAML's !!binary
        return
    if shape.words and value not in shape.words:
        guess = nearest(value, shape.words)
        remedy = f"did you mean {guess}?" if guess else None
        yield Problem(path, _expected(shape), "another text", remedy)
    elif shape.test is not None and not shape.test(value):
        yield Problem(path, _expected(shape), "another text")


def _in_list(shape: Shape, value: Sequence[Any], path: str) -> Iterator[Problem]:
    if shape.size is not None and not shape.size[0] <= len(value) <= shape.size[1]:
        least, most = shape.size
        wanted = f"{least}" if least == most else f"{least} to {most}"
        yield Problem(path, f"a list of {wanted} entries", f"{len(value)}")
    elif shape.items is not None:
        for number, one in enumerate(value):
            yield from problems(shape.items, one, f"{path}[{number}]")


def _in_mapping(shape: Shape, value: Mapping[Any, Any], path: str) -> Iterator[Problem]:
    if shape.keys is None and shape.others is None:
        return
    known = shape.keys or {}
    for key, inside in value.items():
        wanted = known.get(key, shape.others)
        if wanted is None:
            yield stranger(path, key, known)
        else:
            yield from problems(wanted, inside, below(path, key))
    for group in shape.required:
        if not any(key in value for key in group):
            expected = "a value" if len(group) == 1 else f"one of {', '.join(group)}"
            yield Problem(below(path, group[0]), expected, "nothing")


_INSIDE: Mapping[str, Callable[[Shape, Any, str], Iterator[Problem]]] = {
    _TEXT: _in_text,
    _LIST: _in_list,
    _MAPPING: _in_mapping,
}


def problems(shape: Shape, value: Any, path: str) -> Iterator[Problem]:
    """Yield what a value at a path has against its shape."""
    found = kind(value)
    if found in shape.kinds or (found == _WHOLE and _NUMBER in shape.kinds):
        inside = _INSIDE.get(found)
        if inside is not None:
            yield from inside(shape, value, path)
        return
    quoted = "quote it" if found in _QUOTED and _TEXT in shape.kinds else None
    yield Problem(path, _expected(shape), found, shape.remedy or quoted)
