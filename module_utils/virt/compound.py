# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Codecs of values that stand in several attributes or children of one element."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Sequence

from .codecs import OfElement, Refused, Words, one_line
from .document import Element, Fresh, insert, remove

_PCI = re.compile(r"(?:([0-9a-f]{1,8}):)?([0-9a-f]{1,2}):([0-9a-f]{1,2})\.([0-7])", re.ASCII)


def _whole(raw: str | None) -> Any:
    return int(raw) if raw is not None and raw.isascii() and raw.isdigit() else raw


@dataclass(frozen=True, eq=False, repr=False)
class Pci(OfElement):
    """A PCI address, "0000:03:00.0", on an <address> element."""

    expected: str = "a PCI address such as 0000:03:00.0"

    def take(self, element: Element) -> Any:
        """Return the value that the element holds, None for none."""
        parts = [element.get(name, "0") for name in ("domain", "bus", "slot", "function")]
        try:
            domain, bus, slot, function = (int(part, 0) for part in parts)
        except ValueError:
            return ":".join(parts)
        return f"{domain:04x}:{bus:02x}:{slot:02x}.{function:x}"

    def give(self, element: Element, value: Any) -> None:
        """Make the element hold the value."""
        match = _PCI.fullmatch(value)
        if match is None:
            raise ValueError(value)
        domain, bus, slot, function = (int(part or "0", 16) for part in match.groups())
        element.set("domain", f"0x{domain:04x}")
        element.set("bus", f"0x{bus:02x}")
        element.set("slot", f"0x{slot:02x}")
        element.set("function", f"0x{function:x}")

    def check(self, value: Any) -> str:
        """Return the canonical value."""
        text = one_line(value, self.expected).lower()
        match = _PCI.fullmatch(text)
        if match is None or int(match.group(3), 16) > 0x1F:
            raise Refused(self.expected)
        domain, bus, slot, function = (int(part or "0", 16) for part in match.groups())
        return f"{domain:04x}:{bus:02x}:{slot:02x}.{function:x}"


@dataclass(frozen=True, eq=False, repr=False)
class Pair(OfElement):
    """Two numbers of an element as one text: a USB device by vendor:product or bus.device."""

    attributes: tuple[tuple[str | None, str], ...] = ()  # (child, attribute) of each half
    sign: str = ":"
    hexadecimal: bool = True

    def _number(self, text: str) -> str:
        number = int(text, 16 if self.hexadecimal or text.startswith("0x") else 10)
        return f"{number:04x}" if self.hexadecimal else str(number)

    def take(self, element: Element) -> Any:
        """Return the value that the element holds, None for none."""
        halves = []
        for child, name in self.attributes:
            place = element if child is None else element.find(child)
            raw = None if place is None else place.get(name)
            if raw is None:
                return None
            halves.append(raw)
        try:
            return self.sign.join(self._number(half) for half in halves)
        except ValueError:
            return self.sign.join(halves)

    def give(self, element: Element, value: Any) -> None:
        """Make the element hold the value."""
        prefix = "0x" if self.hexadecimal else ""
        for (child, name), half in zip(self.attributes, value.split(self.sign)):
            place = element if child is None else element.find(child)
            if place is None:
                place = insert(element, Fresh(str(child)))
            place.set(name, f"{prefix}{half}")

    def check(self, value: Any) -> str:
        """Return the canonical value."""
        text = one_line(value, self.expected)
        halves = text.split(self.sign)
        digits = "[0-9a-fA-F]{1,4}" if self.hexadecimal else "[0-9]{1,3}"
        if len(halves) != 2 or not all(re.fullmatch(digits, half) for half in halves):
            raise Refused(self.expected)
        return self.sign.join(self._number(half.lower()) for half in halves)


@dataclass(frozen=True, eq=False, repr=False)
class Tags(OfElement):
    """The VLAN tags of a <vlan> element; more than one make a trunk."""

    expected: str = "a VLAN tag or a list of them, 1 to 4094"

    def take(self, element: Element) -> Any:
        """Return the value that the element holds, None for none."""
        return [_whole(tag.get("id")) for tag in element.findall("tag")] or None

    def give(self, element: Element, value: Any) -> None:
        """Make the element hold the value."""
        there = {_whole(tag.get("id")): tag for tag in element.findall("tag")}
        for number, tag in there.items():
            if number not in value:
                remove(element, tag)
        for number in value:
            if number not in there:
                insert(element, Fresh("tag", {"id": str(number)}))
        if len(value) > 1:
            element.set("trunk", "yes")
        elif element.get("trunk"):
            del element.attrib["trunk"]

    def same(self, stated: Any, found: Any) -> bool:
        """Return whether what is found is what was stated."""
        return isinstance(found, list) and set(stated) == set(found)

    def check(self, value: Any) -> list[int]:
        """Return the canonical value."""
        tags: Sequence[Any] = value if isinstance(value, (list, tuple)) else [value]
        if not tags or any(type(tag) is not int or not 1 <= tag <= 4094 for tag in tags):
            raise Refused(self.expected)
        return sorted(set(tags))


@dataclass(frozen=True, eq=False, repr=False)
class Several(OfElement):
    """A list of words, each an element of its own with the word in one attribute."""

    tag: str = ""
    attribute: str = ""
    words: tuple[str, ...] = ()

    def take(self, element: Element) -> Any:
        """Return the value that the element holds, None for none."""
        return [child.get(self.attribute) for child in element.findall(self.tag)] or None

    def give(self, element: Element, value: Any) -> None:
        """Make the element hold the value."""
        for child in element.findall(self.tag):
            remove(element, child)
        for word in value:
            insert(element, Fresh(self.tag, {self.attribute: word}))

    def check(self, value: Any) -> list[str]:
        """Return the canonical value."""
        if not isinstance(value, (list, tuple)) or not value:
            raise Refused(f"a list of {', '.join(self.words)}")
        one = Words(self.expected, self.words)
        checked = [one.check(word) for word in value]
        if len(set(checked)) < len(checked):
            raise Refused("each word once")
        return checked


@dataclass(frozen=True, eq=False, repr=False)
class Chosen(OfElement):
    """A number in one attribute, or "auto" where another says that libvirt chooses it."""

    expected: str = "a number"
    number: str = "port"
    auto: str = "autoport"
    low: int = 1
    high: int = 65535

    def take(self, element: Element) -> Any:
        """Return the value that the element holds, None for none."""
        raw = element.get(self.number)
        if element.get(self.auto) == "yes" or raw == "-1":
            return "auto"
        return _whole(raw)

    def give(self, element: Element, value: Any) -> None:
        """Make the element hold the value."""
        if value == "auto":
            element.attrib.pop(self.number, None)
            element.set(self.auto, "yes")
        else:
            element.set(self.number, str(value))
            element.set(self.auto, "no")

    def check(self, value: Any) -> Any:
        """Return the canonical value."""
        if value in ("auto", None):
            return "auto"
        if type(value) is not int or not self.low <= value <= self.high:
            raise Refused(f"auto or {self.expected}, {self.low} to {self.high}")
        return value
