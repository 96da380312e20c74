# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a value stands below an element: ``clock/timer[name=rtc]@present``.

Steps are tags; what stands in brackets are attributes that tell one of several elements, and that a
new element gets. What follows @ is an attribute; without it the value is the element itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Mapping

from .document import Element, Fresh, empty, insert, remove
from .order import MEANT_EMPTY

_STEP = re.compile(r"([A-Za-z:_-]+)((?:\[[a-z]+=[^\]]+\])*)")
_HAVING = re.compile(r"\[([a-z]+)=([^\]]+)\]")


@dataclass(frozen=True, eq=False, repr=False)
class Step:
    """One tag of the way, with the attributes that tell it from its like."""

    tag: str
    having: tuple[tuple[str, str], ...] = ()

    def find(self, parent: Element) -> Element | None:
        """Return the first child that it means."""
        if not self.having:
            return parent.find(self.tag)
        for child in parent.findall(self.tag):
            if all(child.get(name) == value for name, value in self.having):
                return child
        return None


@dataclass(frozen=True, eq=False, repr=False)
class Place:
    """A way down from an element, and the attribute at its end."""

    steps: tuple[Step, ...] = ()
    attribute: str | None = None

    @property
    def first(self) -> str | None:
        """The child of the scope that it leads through, None where it is the scope itself."""
        return self.steps[0].tag if self.steps else None

    def element(self, scope: Element) -> Element | None:
        """Return the element at the end, None where it is not there."""
        found: Element | None = scope
        for step in self.steps:
            if found is None:
                return None
            found = step.find(found)
        return found

    def make(self, scope: Element, attributes: Mapping[str, str] | None = None) -> Element:
        """Return the element at the end, made (with the attributes) where it is not there."""
        here = scope
        for number, step in enumerate(self.steps):
            found = step.find(here)
            if found is None:
                last = number == len(self.steps) - 1
                given = dict(attributes or {}) if last else {}
                found = insert(here, Fresh(step.tag, {**dict(step.having), **given}))
            here = found
        return here

    def prune(self, scope: Element) -> None:
        """Remove from the end upwards what has become empty; the scope itself stays."""
        way = [scope]
        for step in self.steps:
            found = step.find(way[-1])
            if found is None:
                break
            way.append(found)
        for parent, child in zip(way[-2::-1], way[:0:-1]):
            if not empty(child) or child.tag in MEANT_EMPTY:
                return
            remove(parent, child)

    def erase(self, scope: Element) -> None:
        """Remove what stands here, and what has become empty by that."""
        element = self.element(scope)
        if element is None:
            return
        if self.attribute is not None:
            element.attrib.pop(self.attribute, None)
            having = {name for name, _ in self.steps[-1].having} if self.steps else set()
            if not having or len(element) or set(element.attrib) - having:
                self.prune(scope)
                return
            # What is left only says which of its like it was.
        if self.steps:
            above = Place(self.steps[:-1])
            parent = above.element(scope)
            if parent is not None:
                remove(parent, element)
                above.prune(scope)


def place(text: str) -> Place:
    """Return the place that a text such as ``os/type@arch`` means; ValueError for another."""
    way, _, attribute = text.partition("@")
    if "]" in attribute:  # an @ cannot stand in brackets, so this is a mistake of the table
        raise ValueError(text)
    steps = []
    for part in re.split(r"/(?![^\[]*\])", way) if way else ():
        match = _STEP.fullmatch(part)
        if match is None:
            raise ValueError(text)
        steps.append(Step(match.group(1), tuple(_HAVING.findall(match.group(2)))))
    return Place(tuple(steps), attribute or None)
