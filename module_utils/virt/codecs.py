# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How one value stands in the XML, and what may be stated for it.

A codec reads and writes an attribute, or an element's text where the attribute is None. `check`
returns the canonical value or raises Refused. Reading is lenient: what a newer libvirt wrote and
we do not know comes back as the text it is, so that it is shown and never mistaken for nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Mapping

from ..converge.errors import nearest
from ..units import UnitError, format_size, parse_size
from .document import Element, illegal, is_element, text_of

MAX_TEXT = 4095  # bytes of one line; a path's limit is the same (PATH_MAX without the final NUL)
MAX_CPU = 4095  # QEMU's machines have far fewer


class Refused(ValueError):  # noqa: N818 (it is an answer, not a fault)
    """A value that must not be stated: what was expected, and a remedy where one is known."""

    def __init__(self, expected: str, remedy: str | None = None) -> None:
        super().__init__(expected)
        self.expected = expected
        self.remedy = remedy


def _quote(value: object) -> str | None:
    """Return the remedy where YAML probably made a number or a truth value of a word."""
    return "quote it" if isinstance(value, (bool, int, float)) else None


def one_line(value: object, expected: str = "text", limit: int = MAX_TEXT) -> str:
    """Return one line of text that XML can say and libvirt gives back the same."""
    if not isinstance(value, str):
        raise Refused(expected, _quote(value))
    if any(ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0 for char in value):
        raise Refused(f"{expected}: one line without control characters")
    if illegal(value):
        raise Refused(f"{expected}, of characters that XML allows")
    if len(value.encode()) > limit:
        raise Refused(f"{expected}: at most {limit} bytes")
    if not value or value != value.strip():
        remedy = None if value else "state null for none"
        raise Refused(f"{expected}: not empty, no space at its ends", remedy)
    return value


def write_text(element: Element, attribute: str | None, text: str) -> None:
    """Write an attribute, or all of an element's text: comments that part it go."""
    if attribute is not None:
        element.set(attribute, text)
        return
    for child in list(element):
        if not is_element(child):
            element.remove(child)
    element.text = text


@dataclass(frozen=True, eq=False, repr=False)
class Codec:
    """Text of one line, as it is."""

    expected: str = "text"

    def decode(self, raw: str) -> Any:
        """Return the value that the XML's text stands for."""
        return raw

    def encode(self, value: Any) -> str:
        """Return the XML's text for a value."""
        return str(value)

    def check(self, value: Any) -> Any:
        """Return the canonical form of a stated value; Refused where it is none."""
        return one_line(value, self.expected)

    def same(self, stated: Any, found: Any) -> bool:
        """Return whether what is found is what was stated."""
        return type(stated) is type(found) and bool(stated == found)

    def get(self, element: Element, attribute: str | None) -> Any:
        """Return the value at an element, None where there is none."""
        raw = text_of(element) if attribute is None else element.get(attribute)
        return self.decode(raw) if raw else None

    def put(self, element: Element, attribute: str | None, value: Any) -> None:
        """Write a value at an element."""
        write_text(element, attribute, self.encode(value))


class Lines(Codec):
    """Text that may have line breaks and tabs."""

    def check(self, value: Any) -> str:
        """Return the canonical value."""
        if not isinstance(value, str):
            raise Refused(self.expected, _quote(value))
        if not value.strip():
            raise Refused(f"{self.expected}: not empty", "state null for none")
        plain = value.replace("\n", "").replace("\t", "")
        if plain.strip():
            one_line(plain.strip(), self.expected, 1 << 16)
        return value


class Secret(Codec):
    """A password: written, compared, and never shown."""


@dataclass(frozen=True, eq=False, repr=False)
class Pattern(Codec):
    """Text of a certain form."""

    pattern: str = ".+"
    lower: bool = False

    def decode(self, raw: str) -> str:
        """Return the value that the text stands for."""
        return raw.lower() if self.lower else raw

    def check(self, value: Any) -> str:
        """Return the canonical value."""
        text = one_line(value, self.expected)
        if not re.fullmatch(self.pattern, text, re.ASCII):
            raise Refused(self.expected)
        return self.decode(text)


@dataclass(frozen=True, eq=False, repr=False)
class Words(Codec):
    """One of several words; ``xml`` has those that libvirt calls otherwise."""

    words: tuple[str, ...] = ()
    xml: Mapping[str, str] = field(default_factory=dict)

    def decode(self, raw: str) -> str:
        """Return the value that the text stands for."""
        for word, text in self.xml.items():
            if text == raw:
                return word
        return raw

    def encode(self, value: Any) -> str:
        """Return the text for a value."""
        return self.xml.get(value, str(value))

    def check(self, value: Any) -> str:
        """Return the canonical value."""
        if isinstance(value, str) and value in self.words:
            return value
        guess = nearest(value, self.words)
        remedy = f"did you mean {guess}?" if guess else _quote(value)
        raise Refused(f"{self.expected} ({', '.join(self.words)})", remedy)


@dataclass(frozen=True, eq=False, repr=False)
class Whole(Codec):
    """A whole number in a range; ``base`` 16 is written as libvirt does, 0x0003."""

    expected: str = "a whole number"
    low: int = 0
    high: int = (1 << 32) - 1
    base: int = 10

    def decode(self, raw: str) -> Any:
        """Return the value that the text stands for."""
        text = raw.strip()
        try:
            return int(text, 0 if text.lower().startswith("0x") else self.base)
        except ValueError:
            return raw

    def encode(self, value: Any) -> str:
        """Return the text for a value."""
        return f"0x{value:04x}" if self.base == 16 and isinstance(value, int) else str(value)

    def check(self, value: Any) -> int:
        """Return the canonical value."""
        if type(value) is not int or not self.low <= value <= self.high:
            raise Refused(f"{self.expected}, {self.low} to {self.high}")
        return value


@dataclass(frozen=True, eq=False, repr=False)
class Flag(Codec):
    """A truth value in libvirt's words."""

    yes: str = "yes"
    no: str = "no"

    def decode(self, raw: str) -> Any:
        """Return the value that the text stands for."""
        return {self.yes: True, self.no: False}.get(raw, raw)

    def encode(self, value: Any) -> str:
        """Return the text for a value."""
        if isinstance(value, bool):
            return self.yes if value else self.no
        return str(value)

    def check(self, value: Any) -> bool:
        """Return the canonical value."""
        if not isinstance(value, bool):
            raise Refused("true or false")
        return value


class OfElement(Codec):
    """A value that an element holds in several places; its attribute is always None."""

    def take(self, element: Element) -> Any:
        """Return the value that the element holds, None for none."""
        raise NotImplementedError

    def give(self, element: Element, value: Any) -> None:
        """Make the element hold the value."""
        raise NotImplementedError

    def get(self, element: Element, attribute: str | None) -> Any:
        """Return what is there, None for nothing."""
        if attribute is not None:
            raise ValueError(attribute)
        return self.take(element)

    def put(self, element: Element, attribute: str | None, value: Any) -> None:
        """Write the value."""
        if attribute is not None:
            raise ValueError(attribute)
        self.give(element, value)


class Present(OfElement):
    """True where the element is there, whatever it holds."""

    def take(self, element: Element) -> bool:
        """Return the value that the element holds, None for none."""
        return element is not None

    def give(self, element: Element, value: Any) -> None:
        """Do nothing: being there is all of it."""

    def check(self, value: Any) -> bool:
        """Return the canonical value."""
        if not isinstance(value, bool):
            raise Refused("true or false")
        return value


# libvirt's units (virScaleInteger): a bare letter and ...iB are powers of 1024, ...B of 1000.
_LETTERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5, "e": 6}


def _factor(unit: str) -> int | None:
    text = unit.strip().lower()
    if text in ("b", "byte", "bytes"):
        return 1
    base = 1024
    if text.endswith("ib"):
        text = text[:-2]
    elif text.endswith("b"):
        text, base = text[:-1], 1000
    power = _LETTERS.get(text)
    return None if power is None else int(base**power)


@dataclass(frozen=True, eq=False, repr=False)
class Size(Codec):
    """A size, "2GiB"; ``unit_in`` names the attribute with libvirt's unit, ``unit`` its default."""

    expected: str = "a whole number with a unit (B, KiB, MiB, GiB, TiB)"
    unit: str = "KiB"
    unit_in: str | None = "unit"
    low: int = 1
    high: int = 1 << 60

    def get(self, element: Element, attribute: str | None) -> Any:
        """Return what is there, None for nothing."""
        raw = text_of(element) if attribute is None else element.get(attribute)
        if not raw or not raw.strip():
            return None
        unit = self.unit if self.unit_in is None else element.get(self.unit_in, self.unit)
        factor = _factor(unit)
        text = raw.strip()
        if factor is None or not (text.isascii() and text.isdigit()):
            return raw
        return format_size(int(text) * factor)

    def put(self, element: Element, attribute: str | None, value: Any) -> None:
        """Write the value."""
        size = parse_size(value)
        unit = self.unit if self.unit_in is None else element.get(self.unit_in, self.unit)
        factor = _factor(unit)
        if factor is None or size % factor:
            unit, factor = "KiB", 1024
        if self.unit_in is not None:
            element.set(self.unit_in, unit)
        write_text(element, attribute, str(size // factor))

    def check(self, value: Any) -> str:
        """Return the canonical value."""
        try:
            size = parse_size(value)
        except UnitError:
            raise Refused(self.expected) from None
        if not self.low <= size <= self.high:
            raise Refused(f"{format_size(self.low)} to {format_size(self.high)}")
        step = _factor(self.unit) or 1
        if size % step:
            raise Refused(f"a multiple of {format_size(step)}")
        return format_size(size)


_RANGE = re.compile(r"(\^?)([0-9]{1,4})(?:-([0-9]{1,4}))?", re.ASCII)


def cpu_set(text: str) -> set[int] | None:
    """Return the numbers of a list such as "0-3,^2,8", None where it is not one."""
    found: set[int] = set()
    out: set[int] = set()
    for part in text.replace(" ", "").split(","):
        match = _RANGE.fullmatch(part)
        if match is None:
            return None
        first = int(match.group(2))
        last = int(match.group(3) or first)
        if last < first or last > MAX_CPU:
            return None
        (out if match.group(1) else found).update(range(first, last + 1))
    return found - out


def format_cpu_set(numbers: set[int]) -> str:
    """Return numbers as libvirt writes them: "0-1,3,8"."""
    parts: list[str] = []
    ordered = sorted(numbers)
    start = 0
    for place, number in enumerate(ordered):
        if place + 1 < len(ordered) and ordered[place + 1] == number + 1:
            continue
        first = ordered[start]
        parts.append(str(first) if first == number else f"{first}-{number}")
        start = place + 1
    return ",".join(parts)


@dataclass(frozen=True, eq=False, repr=False)
class CpuSet(Codec):
    """A list of CPUs or nodes: "0-3,8"; a single number may be stated as one."""

    expected: str = 'a list of numbers such as "0-3,8"'

    def decode(self, raw: str) -> str:
        """Return the value that the text stands for."""
        found = cpu_set(raw)
        return format_cpu_set(found) if found else raw

    def check(self, value: Any) -> str:
        """Return the canonical value."""
        text = str(value) if type(value) is int else one_line(value, self.expected)
        found = cpu_set(text)
        if not found:
            raise Refused(f"{self.expected}, up to {MAX_CPU}")
        return format_cpu_set(found)


class Alias(Pattern):
    """A machine type; its family alone (q35) is met by each of its versions (pc-q35-7.2)."""

    def same(self, stated: Any, found: Any) -> bool:
        """Return whether what is found is what was stated."""
        if stated == found:
            return True
        stem = {"q35": "pc-q35", "pc": "pc-i440fx"}.get(stated, stated)
        return (
            isinstance(found, str) and re.fullmatch(f"{re.escape(stem)}-[0-9].*", found) is not None
        )
