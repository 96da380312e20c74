# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What planning and applying must know of a kind of object: how it is read, written, and used."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Iterator, Mapping

from ..virt.document import Document, Element, Fresh, insert, tree
from ..virt.fields import Edits, patch_fields, read_fields

if TYPE_CHECKING:
    from ..converge.action import Edit
    from ..converge.errors import Problem
    from ..virt.connection import Connection
    from ..virt.fields import Field
    from .ledger import Ledger

ACTIVE = "active"
INACTIVE = "inactive"
PRESENT = "present"
ABSENT = "absent"
STATES = (ACTIVE, INACTIVE, PRESENT, ABSENT)

Specs = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, eq=False, repr=False)
class Seen:
    """An object that is there.

    ``inactive`` is its XML at its next start and ``live`` that with which it is active, None where
    it is not. ``persistent`` is whether it stays when it ends. ``owned`` is whether this toolkit
    made it or took it over, for ``fleet``; one that is ``new`` was made by a run that was killed
    before it was done with it.
    """

    name: str
    uuid: str
    inactive: str
    live: str | None = None
    autostart: bool = False
    persistent: bool = True
    owned: bool = False
    fleet: str = ""
    new: bool = False
    spec: Mapping[str, Any] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def active(self) -> bool:
        """Whether it is in use or can be."""
        return self.live is not None

    def to_dict(self, *, starts: bool = True) -> dict[str, Any]:
        """Return plain values; what never ``starts`` has no state."""
        state = {
            "state": ACTIVE if self.active else INACTIVE,
            "autostart": self.autostart,
            "persistent": self.persistent,
        }
        return {
            "name": self.name,
            "uuid": self.uuid,
            **(state if starts else {}),
            "owned": self.owned,
            "fleet": self.fleet,
            "spec": dict(self.spec),
            **self.more,
        }


class Kind(ABC):
    """One kind of libvirt's objects, on one connection and for one fleet."""

    word: str
    plural: str
    fields: tuple[Field, ...]
    flags: tuple[str, ...] = ("autostart", "adopt", "replace", "restart")  # asked besides
    outlives_a_restart = False  # whether guests go on standing on it while it is started anew
    starts = True  # whether it is started and ended; what does neither is in use by being there

    def __init__(self, connection: Connection, fleet: str, ledger: Ledger) -> None:
        self.connection = connection
        self.libvirt = connection.libvirt
        self.fleet = fleet
        self.ledger = ledger

    # What is declared.

    @abstractmethod
    def contradictions(self, stated: Mapping[str, Any], path: str) -> Iterator[Problem]:
        """Yield what contradicts itself, whatever the host is."""

    @abstractmethod
    def lacking(self, stated: Mapping[str, Any], path: str) -> Iterator[Problem]:
        """Yield what a new one cannot do without."""

    @abstractmethod
    def clashes(
        self, stated: Specs, seen: Mapping[str, Seen], *, check_mode: bool
    ) -> Iterator[Problem]:
        """Yield what could not work on this host; paths begin with the object's name."""

    # What there is.

    @abstractmethod
    def objects(self) -> list[Any]:
        """Return libvirt's objects of this kind."""

    @abstractmethod
    def look(self, one: Any) -> Seen:
        """Return what one of libvirt's objects is now."""

    def observe(self) -> dict[str, Seen]:
        """Return all objects by name; what another process removed meanwhile is left out."""
        self.ledger.forget()
        found = {}
        for one in self.objects():
            with self.connection.passing():
                seen = self.look(one)
                found[seen.name] = seen
        return found

    def again(self, name: str) -> Seen | None:
        """Return what an object is by now, None where it is gone."""
        found = []
        with self.connection.passing():
            found.append(self.look(self.lookup(name)))
        return found[0] if found else None

    @abstractmethod
    def users(self, seen: Seen) -> list[str]:
        """Return the running guests that would lose what they stand on if it ended."""

    def stored(self, one: Any, flag: int) -> str:
        """Return the definition with which an object starts next; some drivers know but one."""
        try:
            return str(one.XMLDesc(flag))
        except self.libvirt.libvirtError as error:
            if error.get_error_code() != self.libvirt.VIR_ERR_INVALID_ARG:
                raise
            return str(one.XMLDesc(0))

    def read(self, root: Element) -> dict[str, Any]:
        """Return a definition by the keys of a spec."""
        return read_fields(root, self.fields)

    # What differs, and what is written.

    def differences(self, xml: str, stated: Mapping[str, Any]) -> list[Edit]:
        """Return what differs between what was stated and a definition that libvirt wrote."""
        root = tree(xml)
        edits = Edits(root, stated)
        patch_fields(root, self.fields, stated, edits, "")
        return edits.found

    def patched(self, xml: str, stated: Mapping[str, Any]) -> str:
        """Return a definition with all that was stated."""
        document = Document(xml, f"{self.word} XML")
        patch_fields(document.root, self.fields, stated, Edits(document.root, stated), "")
        return document.text()

    def skeleton(self, name: str) -> str:
        """Return a definition with nothing but a name."""
        document = Document(f"<{self.word}>\n  <name/>\n</{self.word}>\n")
        document.root[0].text = name
        return document.text()

    @abstractmethod
    def written(self, name: str, stated: Mapping[str, Any]) -> str:
        """Return the definition of a new object."""

    # What is done.

    @abstractmethod
    def lookup(self, name: str) -> Any:
        """Return libvirt's object."""

    @abstractmethod
    def define(self, xml: str) -> Any:
        """Make the definition the persistent one, and return libvirt's object."""

    def start(self, name: str, asked: Mapping[str, Any]) -> None:
        """Make it active; only asked of a kind that starts."""
        raise NotImplementedError

    def update_live(self, name: str) -> None:
        """Bring what libvirt can change at once from the stored definition to the active one.

        Only asked of what is active.
        """
        raise NotImplementedError

    def restart(self, name: str, asked: Mapping[str, Any]) -> None:
        """End it and make it active again."""
        self.lookup(name).destroy()
        self.start(name, asked)

    @abstractmethod
    def adopt(self, seen: Seen) -> None:
        """Make it ours."""

    def gone(self, seen: Seen) -> None:
        """Let go of what was noted of an object that is gone."""
        self.finish(seen.name)

    def begin(self, name: str) -> None:
        """Note that an object is being made: its definition alone does not say all of it."""
        self.ledger.note(f"new {self.word}", name, self.fleet)

    def finish(self, name: str) -> None:
        """Note that an object is made."""
        self.ledger.note(f"new {self.word}", name, None)

    def is_new(self, name: str) -> bool:
        """Return whether a run that was killed has not made all of an object."""
        return self.ledger.fleet_of(f"new {self.word}", name) is not None

    def warnings(self, seen: Mapping[str, Seen]) -> list[str]:
        """Return what a user should know of objects that are as declared."""
        del seen
        return []


def put_uuid(root: Element, uuid: str) -> None:
    """Give a definition its UUID, where it has none."""
    if root.find("uuid") is None:
        made = insert(root, Fresh("uuid"))
        made.text = uuid
