# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What planning and applying must know of a kind of object: how it is read, written, and used."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Callable, Iterator, Mapping, Sequence

from ..converge.answers import Answers

if TYPE_CHECKING:
    from ..converge.action import Edit
    from ..converge.errors import Problem
    from ..virt.connection import Connection
    from .definitions import Definitions
    from .ledger import Ledger

ACTIVE = "active"
INACTIVE = "inactive"
PRESENT = "present"
ABSENT = "absent"
STATES = (ACTIVE, INACTIVE, PRESENT, ABSENT)

Specs = Mapping[str, Mapping[str, Any]]
_EQUAL = "equal"  # the answer to what differs


@dataclass(frozen=True, eq=False, repr=False)
class Seen:
    """An object that is there.

    ``inactive`` is its XML at its next start and ``live`` that with which it is active, None where
    it is not. ``persistent`` is whether it stays when it ends. ``owned`` is whether this toolkit
    made it or took it over, for ``fleet``; one that is ``new`` was made by a run that was killed
    before it was done with it. ``unplugged`` are devices of guests that it was started anew under
    and that were not plugged in again, None where nothing is noted of any.
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
    unplugged: Sequence[str] | None = None
    spec: Mapping[str, Any] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def active(self) -> bool:
        """Whether it is in use or can be."""
        return self.live is not None

    @property
    def left_over(self) -> bool:
        """Whether a run that was killed left a note of it that goes with this one."""
        return self.new or (self.unplugged is not None and not self.unplugged)

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


@dataclass(frozen=True)
class Status:
    """How an object is besides its definition."""

    active: bool = False
    persistent: bool = True
    autostart: bool = False


class Kind(ABC):
    """One kind of libvirt's objects, on one connection and for one fleet.

    What its definitions were found to say before is asked of its ``answers``.
    """

    word: str
    plural: str
    marked = False  # whether its definitions say whose it is
    flags: tuple[str, ...] = ("autostart", "adopt", "replace", "restart")  # asked besides
    outlives_a_restart = False  # whether guests go on standing on it while it is started anew
    listed = ""  # what libvirt calls them in the flags of listings, if they start
    starts = True  # whether it is started and ended; what does neither is in use by being there

    def __init__(self, connection: Connection, fleet: str, ledger: Ledger) -> None:
        self.connection = connection
        self.libvirt = connection.libvirt
        self.fleet = fleet
        self.ledger = ledger
        self.answers = Answers()

    @property
    @abstractmethod
    def definitions(self) -> Definitions:
        """What definitions say: imported when it is first asked."""

    # What is declared.

    def checked(
        self,
        entry: Mapping[Any, Any],
        path: str,
        problems: list[Problem],
        *,
        new: bool,
        others: Sequence[str],
    ) -> dict[str, Any]:
        """Return the keys of an entry in canonical form; see `Definitions.check`."""
        question = ("entry", new, entry)
        known: dict[str, Any] | None = self.answers.find(*question)
        if known is not None:
            return known
        before = len(problems)
        found = self.definitions.check(entry, path, problems, new=new, others=others)
        if len(problems) == before:
            self.answers.keep(found, *question)
        return found

    @abstractmethod
    def clashes(
        self, stated: Specs, seen: Mapping[str, Seen], *, check_mode: bool
    ) -> Iterator[Problem]:
        """Yield what could not work on this host of what is stated for objects that change.

        Paths begin with the object's name.
        """

    # What there is.

    @abstractmethod
    def objects(self, flag: int = 0) -> list[Any]:
        """Return libvirt's objects of this kind, those that have a flag or all."""

    @abstractmethod
    def look(self, one: Any, status: Status) -> Seen:
        """Return what one of libvirt's objects is now."""

    def observe(self) -> dict[str, Seen]:
        """Return all objects by name; what another process removed meanwhile is left out."""
        self.ledger.forget()
        found = {}
        ones = self.objects()
        status = self._statuses() if ones and self.starts else lambda _name: Status()
        for one in ones:
            with self.connection.passing():
                found[one.name()] = self.look(one, status(one.name()))
        return found

    def _statuses(self) -> Callable[[str], Status]:
        """Return what tells how objects are, by a few listings."""
        prefix = f"VIR_CONNECT_LIST_{self.listed}_"
        active, persistent, autostarted = (
            {one.name() for one in self.objects(getattr(self.libvirt, prefix + word))}
            for word in ("ACTIVE", "PERSISTENT", "AUTOSTART")
        )
        return lambda name: Status(name in active, name in persistent, name in autostarted)

    def _status(self, one: Any) -> Status:
        """Return how one object is."""
        if not self.starts:
            return Status()
        persistent = bool(one.isPersistent())
        return Status(bool(one.isActive()), persistent, persistent and bool(one.autostart()))

    def again(self, name: str) -> Seen | None:
        """Return what an object is by now, None where it is gone."""
        found = []
        with self.connection.passing():
            one = self.lookup(name)
            found.append(self.look(one, self._status(one)))
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

    def meaning(self, xml: str) -> dict[str, Any]:
        """Return what a definition says (see `Definitions.read`), read once as it is the same."""
        found: dict[str, Any] | None = self.answers.find("definition", xml)
        if found is None:
            found = self.definitions.read(xml)
            self.answers.keep(found, "definition", xml)
        return found

    # What differs.

    def differences(self, xml: str, stated: Mapping[str, Any]) -> Sequence[Edit]:
        """Return what differs between what was stated and a definition that libvirt wrote."""
        question = ("differences", stated, xml)
        if self.answers.find(*question) == _EQUAL:
            return ()
        found = self.definitions.differences(xml, stated)
        if not found:
            self.answers.keep(_EQUAL, *question)
        return found

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

    def plug_in(self, name: str) -> None:
        """Plug in what was unplugged; only asked of a kind that guests are plugged into."""
        raise NotImplementedError

    def refresh(self, name: str) -> None:
        """Have libvirt look anew at what it holds; only asked of a kind with this flag."""
        raise NotImplementedError

    @abstractmethod
    def adopt(self, seen: Seen) -> None:
        """Make it ours."""

    def claim(self, name: str, uuid: str | None) -> None:
        """Note that what gets a UUID of its own is ours, where neither that nor a mark tells it."""
        if not uuid or self.marked:
            return
        from ..virt.identity import uuid_for

        if uuid != uuid_for(name, self.fleet, self.word):
            self.ledger.note(self.word, uuid, self.fleet)

    def gone(self, seen: Seen) -> None:
        """Let go of what was noted of an object that is gone."""
        self.finish(seen.name)

    def begin(self, name: str) -> None:
        """Note that an object is being made: its definition alone does not say all of it."""
        self.ledger.note(f"new {self.word}", name, self.fleet)

    def finish(self, name: str) -> None:
        """Note that an object is made."""
        self.ledger.note(f"new {self.word}", name, None)

    def tidy(self, seen: Seen) -> None:
        """Let go of what a run that was killed left noted of an object."""
        if seen.new:
            self.finish(seen.name)

    def is_new(self, name: str) -> bool:
        """Return whether a run that was killed has not made all of an object."""
        return self.ledger.fleet_of(f"new {self.word}", name) is not None

    def warnings(self, seen: Mapping[str, Seen]) -> list[str]:
        """Return what a user should know of objects that are as declared."""
        del seen
        return []
