# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Memory and vCPUs: what the guest has now, and the most it can get while it runs.

libvirt writes the most first (<memory>, the text of <vcpu>) and what there is now beside it
(<currentMemory>, ``current``), which it leaves out or repeats where both are the same. A spec says
what there is, and a maximum only where there is room above it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..converge.action import LIVE, NEXT_BOOT
from ..units import parse_size
from .codecs import Size, Whole
from .document import Element, Fresh, insert
from .fields import Edits, Leaf

MEMORY = Size(low=1 << 20, high=1 << 50)
VCPUS = Whole("a whole number", 1, 8192)


class _Memory:
    """<memory> and <currentMemory>, both sizes."""

    @staticmethod
    def now(root: Element) -> Any:
        """Return what there is now."""
        element = root.find("currentMemory")
        found = None if element is None else MEMORY.get(element, None)
        return _Memory.most(root) if found is None else found

    @staticmethod
    def most(root: Element) -> Any:
        """Return the most that there can be."""
        element = root.find("memory")
        return None if element is None else MEMORY.get(element, None)

    @staticmethod
    def write(root: Element, now: Any, most: Any) -> None:
        """Write both."""
        for tag, value, needed in (
            ("memory", most, True),
            ("currentMemory", now, now != most),
        ):
            element = root.find(tag)
            if element is None and needed:
                element = insert(root, Fresh(tag))
            if element is not None and MEMORY.get(element, None) != value:
                MEMORY.put(element, None, value)

    @staticmethod
    def number(value: Any) -> int:
        """Return a value as a number."""
        return parse_size(value)

    @staticmethod
    def adjustable(root: Element) -> bool:
        """Return whether the guest gives memory back and takes it: whether it has a balloon."""
        balloon = root.find("devices/memballoon")
        return balloon is None or balloon.get("model") != "none"


class _Vcpus:
    """<vcpu current='2'>8</vcpu>."""

    @staticmethod
    def now(root: Element) -> Any:
        """Return what there is now."""
        element = root.find("vcpu")
        found = None if element is None else VCPUS.get(element, "current")
        return _Vcpus.most(root) if found is None else found

    @staticmethod
    def most(root: Element) -> Any:
        """Return the most that there can be."""
        element = root.find("vcpu")
        return 1 if element is None else VCPUS.get(element, None)

    @staticmethod
    def write(root: Element, now: Any, most: Any) -> None:
        """Write both."""
        element = root.find("vcpu")
        if element is None:
            element = insert(root, Fresh("vcpu", {"placement": "static"}))
        VCPUS.put(element, None, most)
        if now != most:
            VCPUS.put(element, "current", now)
        else:
            element.attrib.pop("current", None)

    @staticmethod
    def number(value: Any) -> int:
        """Return a value as a number."""
        return int(value)

    @staticmethod
    def adjustable(root: Element) -> bool:
        """Return whether there are vCPUs that may come and go: those it has at boot may not."""
        return bool(_Vcpus.now(root) != _Vcpus.most(root))


@dataclass(frozen=True, eq=False, repr=False)
class Amount(Leaf):
    """What the guest has now; without a stated maximum the maximum goes along with it."""

    most_key: str = ""
    amount: Any = _Memory

    def get(self, scope: Element) -> Any:
        """Return what there is now."""
        return self.amount.now(scope)

    def liveness(self, scope: Element, value: Any) -> str:
        """Return live for what is within the maximum that the guest was started with."""
        most = self.amount.most(scope)
        within = most is not None and self.amount.number(value) <= self.amount.number(most)
        return LIVE if within and self.amount.adjustable(scope) else NEXT_BOOT

    def patch(self, scope: Element, value: Any, edits: Edits, path: str) -> None:
        """Make it what was stated."""
        now, most = self.amount.now(scope), self.amount.most(scope)
        if now is not None and self.codec.same(value, now):
            return
        edits.add(path, now, value, self.liveness(scope, value))
        if edits.stated.get(self.most_key) is None:
            grows = most is not None and self.amount.number(value) > self.amount.number(most)
            if most is None or most == now or grows:
                most = value
        self.amount.write(scope, value, value if most is None else most)


@dataclass(frozen=True, eq=False, repr=False)
class Most(Leaf):
    """The maximum, where it is more than what there is now."""

    amount: Any = _Memory

    def get(self, scope: Element) -> Any:
        """Return the maximum, None where it is what there is now."""
        most = self.amount.most(scope)
        return None if most == self.amount.now(scope) else most

    def patch(self, scope: Element, value: Any, edits: Edits, path: str) -> None:
        """Make it what was stated; null for no room above what there is."""
        now, most = self.amount.now(scope), self.amount.most(scope)
        wanted = now if value is None else value
        if wanted is None or wanted == most:
            return
        edits.add(path, self.get(scope), value, NEXT_BOOT)
        if now is not None and self.amount.number(now) > self.amount.number(wanted):
            now = wanted
        self.amount.write(scope, now, wanted)


FIELDS = (
    Amount("memory", "", MEMORY, required=True, most_key="max_memory", amount=_Memory),
    Most("max_memory", "", MEMORY, amount=_Memory),
    Amount("vcpus", "", VCPUS, required=True, most_key="max_vcpus", amount=_Vcpus),
    Most("max_vcpus", "", VCPUS, amount=_Vcpus),
)
