# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the definitions of one kind of object say: pure functions of text and plain values.

The tables behind them are compiled on the host, which takes longer than a run with nothing to do
needs for all else: a kind imports them where an answer is not known yet.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Collection, Iterator, Mapping, Sequence

from ..converge.errors import Problem, shown, unknown
from ..virt.document import Document, Element, Fresh, insert, tree
from ..virt.fields import Edits, Field, check_fields, patch_fields, read_fields
from ..virt.identity import uuid_for

if TYPE_CHECKING:
    from ..converge.action import Edit

Stated = Mapping[str, Any]


class Definitions(ABC):
    """The definitions of one kind; ``word`` is the kind and the root of their XML."""

    word: str
    fields: tuple[Field, ...]

    @abstractmethod
    def contradictions(self, stated: Stated, path: str) -> Iterator[Problem]:
        """Yield what contradicts itself, whatever the host is."""

    @abstractmethod
    def lacking(self, stated: Stated, path: str) -> Iterator[Problem]:
        """Yield what a new one cannot do without."""

    @abstractmethod
    def write(self, name: str, fleet: str, stated: Stated) -> str:
        """Return the definition of a new object of a fleet."""

    def check(
        self,
        entry: Mapping[Any, Any],
        path: str,
        problems: list[Problem],
        *,
        new: bool,
        others: Sequence[str],
    ) -> dict[str, Any]:
        """Return the keys of an entry in canonical form; ``others`` are known and read elsewhere.

        One that is ``new`` needs what its kind cannot do without.
        """
        rest = dict(entry)
        keys = {one.key for one in self.fields}
        before = len(problems)
        for key in [key for key in rest if key not in keys]:
            text = key if isinstance(key, str) and key.isprintable() else shown(key)
            known = (*others, *sorted(keys))
            problems.append(unknown(f"{path}.{text[:64]}", key, "a known key", known))
            del rest[key]
        stated = check_fields(self.fields, rest, path, problems)
        if len(problems) == before:
            problems += self.contradictions(stated, path)
            if new:
                problems += self.lacking(stated, path)
        return stated

    def read(self, xml: str) -> dict[str, Any]:
        """Return what a definition says: by the keys of a spec, and what else is asked of it."""
        root = tree(xml)
        return {"spec": read_fields(root, self.fields), **self.more(root)}

    def more(self, root: Element) -> dict[str, Any]:
        """Return what else is asked of a definition, as plain values."""
        del root
        return {}

    def differences(self, xml: str, stated: Stated) -> list[Edit]:
        """Return what differs between what was stated and a definition that libvirt wrote."""
        root = tree(xml)
        edits = Edits(root, stated)
        patch_fields(root, self.fields, stated, edits, "")
        return edits.found

    def patched(self, xml: str, stated: Stated) -> str:
        """Return a definition with all that was stated."""
        document = Document(xml, f"{self.word} XML")
        patch_fields(document.root, self.fields, stated, Edits(document.root, stated), "")
        return document.text()

    def _begun(self, name: str, fleet: str, stated: Stated) -> Document:
        """Return a definition with nothing but a name and a UUID."""
        document = Document(f"<{self.word}>\n  <name/>\n</{self.word}>\n")
        document.root[0].text = name
        uuid = stated.get("uuid") or uuid_for(name, fleet, self.word)
        insert(document.root, Fresh("uuid")).text = uuid
        return document


def present(stated: Stated, but: Collection[str] = ()) -> dict[str, Any]:
    """Return the keys of a new object that say something."""
    return {
        key: value
        for key, value in stated.items()
        if key not in but and value not in (None, [], {})
    }
