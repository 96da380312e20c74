# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Volumes as they are declared and as they are, and what has to be done about it. Pure."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Iterable, Iterator, Mapping, Sequence

from ..converge.action import NOW, Action, Blocked, Change, Plan, differs
from ..converge.compare import leaves
from ..converge.errors import InputError, Problem, shown, unknown
from ..image.checksum import DIGITS, parse
from ..units import UnitError, parse_size
from ..virt import volume
from ..virt.fields import check_fields

if TYPE_CHECKING:
    from ..image.checksum import Checksum

PRESENT, ABSENT = "present", "absent"
_ASKED = ("pool", "name", "state", "from", "upload", "download", "preallocate", "wipe", "adopt")
_NAME = re.compile(r"[^/\s][^/]{0,254}")
_PREALLOCATE = ("metadata", "full")
# Pools that give a volume no less than was asked for, and often more: whole extents.
_ROUNDED = ("logical", "disk", "zfs", "rbd")
_GROWING = ("dir", "fs", "netfs", "gluster", "rbd", "logical")
FILES = ("dir", "fs", "netfs", "gluster")  # where a new volume is qcow2 unless stated


@dataclass(frozen=True)
class Content:
    """A file that a new volume is filled with."""

    path: str
    checksum: Checksum | None = None

    def to_dict(self) -> dict[str, str]:
        """Return plain values."""
        sums = {"checksum": str(self.checksum)} if self.checksum else {}
        return {"path": self.path, **sums}


@dataclass(frozen=True)
class Target:
    """A file that what is in a volume is brought into; its checksum is told by the algorithm."""

    path: str
    algorithm: str | None = None


@dataclass(frozen=True)
class Declared:
    """One volume as the user wants it."""

    pool: str
    name: str
    where: str
    state: str = PRESENT
    stated: Mapping[str, Any] = field(default_factory=dict)
    source: str | None = None  # the volume that it is a copy of
    upload: Content | None = None  # what a new one is filled with
    download: Target | None = None
    preallocate: str | None = None
    wipe: bool = False
    adopt: bool = False

    @property
    def object(self) -> str:
        """Its name in actions."""
        return f"{self.pool}/{self.name}"


@dataclass(frozen=True, eq=False, repr=False)
class Seen:
    """A volume that is there; ``size`` in bytes, ``key`` what libvirt tells it by.

    An ``unfinished`` one was not filled to its end.
    """

    key: str
    path: str
    size: int
    spec: Mapping[str, Any]
    fleet: str | None = None  # whose it is, None where it is nobody's
    unfinished: bool = False

    def to_dict(self, one: Declared) -> dict[str, Any]:
        """Return plain values."""
        spec = dict(self.spec)
        owned = {"owned": self.fleet is not None, "fleet": self.fleet or ""}
        return {"pool": one.pool, "name": one.name, "path": self.path, "spec": spec, **owned}


@dataclass(frozen=True, eq=False, repr=False)
class Observation:
    """What planning knows: the types of active pools, volumes, and what stands on each path.

    ``running`` are those of the users that run, ``brought`` the files that are there of those that
    volumes are brought into.
    """

    pools: Mapping[str, str]
    volumes: Mapping[str, Seen]
    users: Mapping[str, Sequence[str]] = field(default_factory=dict)
    running: Mapping[str, Sequence[str]] = field(default_factory=dict)
    brought: frozenset[str] = frozenset()


class _Reader:
    """Reads entries, collecting what is wrong with them."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def word(self, entry: Mapping[Any, Any], key: str, where: str) -> str | None:
        value = entry.get(key)
        if isinstance(value, str) and _NAME.fullmatch(value) and value.isprintable():
            return value
        expected = f"the name of a {'pool' if key == 'pool' else 'volume'}"
        self.problems.append(Problem(f"{where}.{key}", expected, shown(value)))
        return None

    def flag(self, entry: Mapping[Any, Any], key: str, where: str) -> bool:
        value = entry.get(key, False)
        if not isinstance(value, bool):
            self.problems.append(Problem(f"{where}.{key}", "true or false", shown(value)))
        return value is True

    def path(self, entry: Mapping[Any, Any], key: str, where: str) -> str:
        value = entry.get(key)
        if isinstance(value, str) and os.path.isabs(value) and value.isprintable():
            return os.path.normpath(value)
        self.problems.append(Problem(f"{where}.{key}", "the absolute path of a file", shown(value)))
        return ""

    def part(self, entry: Mapping[Any, Any], key: str, where: str) -> Mapping[Any, Any] | None:
        """Return what a key says of a file: its path, and something about its checksum."""
        value, where = entry.get(key), f"{where}.{key}"
        if value is None:
            return None
        if not isinstance(value, Mapping):
            self.problems.append(Problem(where, "a mapping (path, checksum)", shown(value)))
            return None
        known = ("path", "checksum")
        for word in value:
            if word not in known:
                text = word if isinstance(word, str) and word.isprintable() else shown(word)
                self.problems.append(unknown(f"{where}.{text[:64]}", word, "a known key", known))
        return value

    def content(self, entry: Mapping[Any, Any], where: str) -> Content | None:
        """Return what a volume is filled with."""
        value = self.part(entry, "upload", where)
        if value is None:
            return None
        stated = value.get("checksum")
        checksum = None if stated is None else parse(stated)
        if stated is not None and checksum is None:
            expected = "sha256: or sha512: and the digits of it"
            self.problems.append(Problem(f"{where}.upload.checksum", expected, shown(stated)))
        return Content(self.path(value, "path", f"{where}.upload"), checksum)

    def target(self, entry: Mapping[Any, Any], where: str) -> Target | None:
        """Return what a volume is brought into."""
        value = self.part(entry, "download", where)
        if value is None:
            return None
        stated = value.get("checksum")
        if stated is not None and stated not in DIGITS:
            path = f"{where}.download.checksum"
            self.problems.append(unknown(path, stated, "an algorithm", tuple(DIGITS)))
        return Target(self.path(value, "path", f"{where}.download"), stated)

    def entry(self, where: str, entry: object) -> Declared | None:
        if not isinstance(entry, Mapping):
            self.problems.append(Problem(where, "a mapping that describes a volume", shown(entry)))
            return None
        pool, name = self.word(entry, "pool", where), self.word(entry, "name", where)
        known = (*_ASKED, *volume.KEYS)
        for key in entry:
            if key not in known:
                text = key if isinstance(key, str) and key.isprintable() else shown(key)
                self.problems.append(unknown(f"{where}.{text[:64]}", key, "a known key", known))
        state = entry.get("state", PRESENT)
        if state not in (PRESENT, ABSENT):
            self.problems.append(unknown(f"{where}.state", state, "a state", (PRESENT, ABSENT)))
        preallocate = entry.get("preallocate")
        if preallocate is not None and preallocate not in _PREALLOCATE:
            problem = unknown(f"{where}.preallocate", preallocate, "a word", _PREALLOCATE)
            self.problems.append(problem)
        count = len(self.problems)
        rest = {key: value for key, value in entry.items() if key in volume.KEYS}
        stated = check_fields(volume.FIELDS, rest, where, self.problems)
        source = None if entry.get("from") is None else self.word(entry, "from", where)
        upload, download = self.content(entry, where), self.target(entry, where)
        wipe, adopt = self.flag(entry, "wipe", where), self.flag(entry, "adopt", where)
        if len(self.problems) == count:
            self.problems += volume.contradictions(stated, where)
            self.problems += _contradictions(source, upload, stated, where)
            if download is not None and state == ABSENT:
                expected = "nothing of a volume that shall not be there"
                self.problems.append(Problem(f"{where}.download", expected, shown(download.path)))
        if pool is None or name is None:
            return None
        return Declared(
            pool,
            name,
            where,
            str(state),
            stated,
            source,
            upload,
            download,
            preallocate,
            wipe=wipe,
            adopt=adopt,
        )


def _contradictions(
    source: str | None, upload: Content | None, stated: Mapping[str, Any], where: str
) -> Iterator[Problem]:
    """Yield what a volume cannot have been filled with at once."""
    ways = {
        "from": ("a copy", source is not None),
        "upload": ("a file's content", upload is not None),
        "backing": ("backing to stand on", bool(stated.get("backing"))),
        "encryption": ("encryption", bool(stated.get("encryption"))),
    }
    used = [key for key, (_, there) in ways.items() if there]
    if len(used) > 1 and used != ["backing", "encryption"]:
        words = ", or ".join(ways[key][0] for key in used)
        yield Problem(f"{where}.{used[0]}", words, "both" if len(used) == 2 else "all of them")


def read(entries: Sequence[object]) -> list[Declared]:
    """Return what the list declares; InputError with every problem in it."""
    reader = _Reader()
    declared: list[Declared] = []
    first: dict[str, str] = {}
    for number, entry in enumerate(entries):
        one = reader.entry(f"volumes[{number}]", entry)
        if one is None:
            continue
        if one.object in first:
            found = f"{one.object}, which {first[one.object]} is already"
            reader.problems.append(Problem(f"{one.where}.name", "a volume of its own", found))
        first.setdefault(one.object, one.where)
        declared.append(one)
    if reader.problems:
        raise InputError(reader.problems)
    return declared


class _Planner:
    """Plans volume by volume. Pure."""

    def __init__(self, host: str, fleet: str, seen: Observation) -> None:
        self.host = host
        self.fleet = fleet
        self.seen = seen
        self.actions: list[Action] = []
        self.blocked: list[Blocked] = []

    def act(
        self,
        step: int,
        one: Declared,
        action: str,
        reason: str,
        changes: Iterable[Change] = (),
        *,
        destructive: bool = False,
    ) -> None:
        made = Action(
            step,
            f"volume/{one.object}",
            action,
            self.host,
            NOW,
            reason,
            tuple(changes),
            destructive=destructive,
        )
        self.actions.append(made)

    def block(self, one: Declared, reason: str, remedy: str) -> None:
        self.blocked.append(Blocked(f"volume/{one.object}", self.host, reason, remedy))

    def plan(self, one: Declared, going: Mapping[str, Declared]) -> None:
        seen = self.seen.volumes.get(one.object)
        if seen is None:
            if one.state == PRESENT:
                shown_keys = {**one.stated, **({"from": one.source} if one.source else {})}
                if one.upload is not None:
                    shown_keys["upload"] = one.upload.to_dict()
                changes = [Change(path, None, value) for path, value in leaves(shown_keys)]
                self.act(1, one, "create", "it is not there", changes)
                self.bring(one)
        elif seen.fleet is None and not (one.adopt and one.state == PRESENT):
            remedy = "state adopt: true to take it over as it is, or choose another name"
            self.block(one, "it was not made by this toolkit", remedy)
        elif seen.fleet not in (None, self.fleet):
            self.block(one, f"it belongs to the fleet {seen.fleet!r}", "choose another name")
        elif one.state == ABSENT:
            self.remove(one, seen, going)
        else:
            self.settle(one, seen)

    def remove(self, one: Declared, seen: Seen, going: Mapping[str, Declared]) -> None:
        users = [user for user in self.seen.users.get(seen.path, ()) if user not in going]
        if users:
            reason = f"declared absent, and these have it or stand on it: {', '.join(users)}"
            self.block(one, reason, "remove those first, or in the same run")
            return
        changes = [Change(path, value, None) for path, value in leaves(dict(seen.spec))]
        self.act(2, one, "delete", "declared absent", changes, destructive=True)

    def settle(self, one: Declared, seen: Seen) -> None:
        nature = [
            Change(path, before, after) for path, before, after in _nature(one.stated, seen.spec)
        ]
        if nature:
            remedy = "remove the volume first, with what is in it, or state what it is"
            self.block(one, f"{differs(nature)}, which only a new volume can have", remedy)
            return
        if seen.fleet is None:
            self.act(1, one, "adopt", "it is not ours yet, and that is asked for")
        if not self.fill(one, seen):
            return
        self.bring(one, seen)
        size = size_of(one.stated.get("size"))
        if size is None or size == seen.size:
            return
        rounded = self.seen.pools.get(one.pool) in _ROUNDED
        if size < seen.size:
            if not rounded:
                reason = f"size: {seen.spec.get('size')} would shrink to {one.stated['size']}"
                self.block(one, reason, "state at least that: a volume is never made smaller")
            return
        kind = self.seen.pools.get(one.pool, "")
        if kind not in _GROWING:
            reason = f"size differs, and no volume of a pool of type {kind} can be made larger"
            self.block(one, reason, "make a new volume, and copy what is in this one")
            return
        running = self.seen.running.get(seen.path, ())
        if running:
            reason = f"size differs, and a guest runs on it: {', '.join(running)}"
            self.block(one, reason, "grow it as the guest's disk, or stop the guest first")
            return
        change = Change("size", seen.spec.get("size"), one.stated["size"])
        self.act(1, one, "grow", "size differs", [change])

    def fill(self, one: Declared, seen: Seen) -> bool:
        """Plan that what a run left half filled is filled; return whether the volume is usable."""
        if not seen.unfinished:
            return True
        if one.upload is None:
            remedy = "state the upload again to have all of it, or remove the volume"
            self.block(one, "a run that ended early has filled it in part", remedy)
            return False
        changes = [
            Change(f"upload.{path}", None, value) for path, value in leaves(one.upload.to_dict())
        ]
        reason = "a run that ended early has filled it in part"
        self.act(1, one, "update", reason, changes)
        return True

    def bring(self, one: Declared, seen: Seen | None = None) -> None:
        """Plan that what is in a volume is brought into a file, where that is not there yet."""
        if one.download is None or one.download.path in self.seen.brought:
            return
        running = self.seen.running.get(seen.path, ()) if seen is not None else ()
        if running:
            reason = f"its content is asked for, and a guest writes to it: {', '.join(running)}"
            self.block(one, reason, "stop the guest first")
            return
        change = Change("download.path", None, one.download.path)
        self.act(2, one, "update", "the file is not there", [change])


def size_of(text: Any) -> int | None:
    """Return a stated size in bytes, None for none."""
    try:
        return None if text is None else parse_size(text)
    except UnitError:
        return None


def concerns_users(one: Declared, seen: Seen | None) -> bool:
    """Return whether it matters what is on a volume: it shall go, grow, or be brought."""
    if seen is None:
        return False
    if one.download is not None:
        return True
    return one.state == ABSENT or (size_of(one.stated.get("size")) or 0) > seen.size


def _nature(stated: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield what differs of what a volume is. What libvirt does not tell is no difference."""
    # Which secret opens it libvirt knows only of those that it made itself.
    if "encryption" in stated and bool(stated["encryption"]) != bool(found.get("encryption")):
        yield "encryption", found.get("encryption"), stated["encryption"]
    for key in ("format", "cluster_size", "backing"):
        if stated.get(key) is None or found.get(key) is None:
            if key == "backing" and stated.get(key) and found.get("format") == "qcow2":
                yield key, None, stated[key]
            continue
        want, have = stated[key], found[key]
        if key == "backing":
            want, have = want.get("path"), have.get("path")
        if want != have:
            yield key, have, want


def plan(declared: Sequence[Declared], host: str, fleet: str, seen: Observation) -> Plan:
    """Return what has to be done for volumes. Pure."""
    planner = _Planner(host, fleet, seen)
    going = {f"volume/{one.object}": one for one in declared if one.state == ABSENT}
    for one in declared:
        planner.plan(one, going)
    return Plan.of(planner.actions, (), planner.blocked)
