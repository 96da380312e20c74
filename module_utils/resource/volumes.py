# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Volumes: made, cloned, stood on others, grown and removed, one after the other in each pool.

libvirt refuses a pool two things at once, so pools are worked on side by side and volumes are not.
A volume bears no mark: what this toolkit made stands in the host's ledger by its key, from before
it is made, so that a run that is killed leaves none that is nobody's.
"""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Iterable, Iterator, Mapping, Sequence

from ..converge.action import NOW, Action, Blocked, Change, Plan, differs
from ..converge.compare import leaves
from ..converge.errors import InputError, Problem, VirtfleetError, shown, unknown
from ..converge.lock import exclusive, holder
from ..converge.result import accept, result, summary
from ..kvm.layout import make_folder
from ..units import UnitError, parse_size
from ..virt import volume
from ..virt.document import Document, Fresh, insert, tree
from ..virt.fields import Edits, check_fields, patch_fields, read_fields

if TYPE_CHECKING:
    from ..kvm.layout import Layout
    from ..virt.connection import Connection
    from .ledger import Ledger

PRESENT, ABSENT = "present", "absent"
_ASKED = ("pool", "name", "state", "from", "preallocate", "wipe", "adopt")
_NAME = re.compile(r"[^/\s][^/]{0,254}")
_PREALLOCATE = ("metadata", "full")
_WORKERS = 4  # pools at once
# Pools that give a volume no less than was asked for, and often more: whole extents.
_ROUNDED = ("logical", "disk", "zfs", "rbd")
_GROWING = ("dir", "fs", "netfs", "gluster", "rbd", "logical")
_FILES = ("dir", "fs", "netfs", "gluster")  # where a new volume is qcow2 unless stated


@dataclass(frozen=True)
class Declared:
    """One volume as the user wants it."""

    pool: str
    name: str
    where: str
    state: str = PRESENT
    stated: Mapping[str, Any] = field(default_factory=dict)
    source: str | None = None  # the volume that it is a copy of
    preallocate: str | None = None
    wipe: bool = False
    adopt: bool = False

    @property
    def object(self) -> str:
        """Its name in actions."""
        return f"{self.pool}/{self.name}"


@dataclass(frozen=True, eq=False, repr=False)
class Seen:
    """A volume that is there; ``size`` in bytes, ``key`` what libvirt tells it by."""

    key: str
    path: str
    size: int
    spec: Mapping[str, Any]
    fleet: str | None = None  # whose it is, None where it is nobody's

    def to_dict(self, one: Declared) -> dict[str, Any]:
        """Return plain values."""
        spec = dict(self.spec)
        owned = {"owned": self.fleet is not None, "fleet": self.fleet or ""}
        return {"pool": one.pool, "name": one.name, "path": self.path, "spec": spec, **owned}


@dataclass(frozen=True, eq=False, repr=False)
class Observation:
    """What planning knows: the types of active pools, volumes, and what stands on each path.

    ``running`` are those of the users that run.
    """

    pools: Mapping[str, str]
    volumes: Mapping[str, Seen]
    users: Mapping[str, Sequence[str]] = field(default_factory=dict)
    running: Mapping[str, Sequence[str]] = field(default_factory=dict)


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
        wipe, adopt = self.flag(entry, "wipe", where), self.flag(entry, "adopt", where)
        if len(self.problems) == count:
            self.problems += volume.contradictions(stated, where)
            for key, what in (("backing", "backing to stand on"), ("encryption", "encryption")):
                if source is not None and stated.get(key):
                    self.problems.append(Problem(f"{where}.from", f"a copy, or {what}", "both"))
        if pool is None or name is None:
            return None
        return Declared(
            pool, name, where, str(state), stated, source, preallocate, wipe=wipe, adopt=adopt
        )


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
                changes = [Change(path, None, value) for path, value in leaves(shown_keys)]
                self.act(1, one, "create", "it is not there", changes)
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
        size = _bytes(one.stated.get("size"))
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


def _bytes(text: Any) -> int | None:
    try:
        return None if text is None else parse_size(text)
    except UnitError:
        return None


def _concerns_users(one: Declared, seen: Seen | None) -> bool:
    """Return whether it matters what stands on a volume: it shall go, or become larger."""
    if seen is None:
        return False
    return one.state == ABSENT or (_bytes(one.stated.get("size")) or 0) > seen.size


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


class Volumes:
    """The volumes of one host, over one connection."""

    def __init__(self, connection: Connection, fleet: str, ledger: Ledger, run: Any = None) -> None:
        self.connection = connection
        self.run = run
        self.libvirt = connection.libvirt
        self.fleet = fleet
        self.ledger = ledger

    def observe(self, declared: Sequence[Declared]) -> Observation:
        """Return what there is of the declared volumes, and what stands on them."""
        self.ledger.forget()
        active = self.libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE
        pools = {one.name(): one for one in self.connection.handle.listAllStoragePools(active)}
        types = {}
        volumes: dict[str, Seen] = {}
        for one in declared:
            pool = pools.get(one.pool)
            if pool is None:
                continue
            if one.pool not in types:
                types[one.pool] = tree(pool.XMLDesc(0)).get("type", "")
            seen = self._look(pool, one.name)
            if seen is not None:
                volumes[one.object] = seen
        asks = any(_concerns_users(one, volumes.get(one.object)) for one in declared)
        users, running = self._users(pools.values()) if asks else ({}, {})
        return Observation(types, volumes, users, running)

    def _look(self, pool: Any, name: str) -> Seen | None:
        found = None
        with self.connection.passing():
            found = pool.storageVolLookupByName(name)
        if found is None:
            return None
        spec = read_fields(tree(found.XMLDesc(0)), volume.FIELDS)
        key = found.key()
        fleet = self.ledger.fleet_of("volume", key)
        return Seen(key, found.path(), int(found.info()[1]), spec, fleet)

    def _users(self, pools: Iterable[Any]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
        """Return, by path, the guests and volumes that stand on it, and the guests that run."""
        users: dict[str, list[str]] = {}
        running: dict[str, list[str]] = {}
        by_name = {pool.name(): pool for pool in pools}
        for pool in by_name.values():
            for one in pool.listAllVolumes():
                below = tree(one.XMLDesc(0)).find("backingStore/path")
                if below is not None and below.text:
                    users.setdefault(below.text, []).append(f"volume/{pool.name()}/{one.name()}")
        for domain in self.connection.handle.listAllDomains():
            with self.connection.passing():
                name, active = f"guest/{domain.name()}", domain.isActive()
                for path in self._paths(domain, by_name):
                    users.setdefault(path, []).append(name)
                    if active:
                        running.setdefault(path, []).append(name)
        return users, running

    def _paths(self, domain: Any, pools: Mapping[str, Any]) -> set[str]:
        """Return the paths that a domain has, and would have when it is started anew."""
        flags = [0]
        if domain.isPersistent():
            flags.append(self.libvirt.VIR_DOMAIN_XML_INACTIVE)
        found = set()
        for flag in flags:
            for source in tree(domain.XMLDesc(flag)).findall("devices/disk/source"):
                path = source.get("file") or source.get("dev")
                pool = pools.get(source.get("pool", ""))
                if path is None and pool is not None:
                    with self.connection.passing():
                        path = pool.storageVolLookupByName(source.get("volume")).path()
                if path is not None:
                    found.add(path)
        return found

    def problems(self, declared: Sequence[Declared], seen: Observation) -> Iterator[Problem]:
        """Yield what volumes refer to that is not there."""
        made = {one.object for one in declared if one.state == PRESENT}
        for one in declared:
            if one.pool not in seen.pools:
                if one.state == PRESENT:
                    remedy = "kvm_pools makes and starts it (the role kvm_storage)"
                    expected = "a pool that is there and active"
                    yield Problem(f"{one.where}.pool", expected, shown(one.pool), remedy)
                continue
            if one.state != PRESENT or one.object in seen.volumes:
                continue
            if one.source is None and one.stated.get("size") is None:
                yield Problem(f"{one.where}.size", "a size, as it is new", "nothing")
            if one.source is not None and f"{one.pool}/{one.source}" not in made:
                pool = self.connection.handle.storagePoolLookupByName(one.pool)
                if self._look(pool, one.source) is None:
                    expected = f"a volume of the pool {one.pool}"
                    yield Problem(f"{one.where}.from", expected, shown(one.source))

    def left(self, declared: Sequence[Declared], seen: Observation) -> list[str]:
        """Return the keys of removed volumes that a run which was killed left in the ledger."""
        found = []
        for one in declared:
            gone = one.state == ABSENT and one.object not in seen.volumes
            if gone and one.pool in seen.pools:
                pool = self.connection.handle.storagePoolLookupByName(one.pool)
                key = self._expected_key(pool, one)
                if key is not None and self.ledger.fleet_of("volume", key) == self.fleet:
                    found.append(key)
        return found

    # What is done.

    def apply(
        self, actions: Sequence[Action], declared: Sequence[Declared], seen: Observation
    ) -> dict[str, str]:
        """Carry out actions, pools side by side; return why those failed that did, by id."""
        by_object = {f"volume/{one.object}": one for one in declared}
        pools: dict[str, list[Action]] = {}
        for action in actions:
            pools.setdefault(by_object[action.object].pool, []).append(action)

        def work(name: str) -> dict[str, str]:
            # What stands on another was declared after it, and goes before it.
            mine = [a for a in pools[name] if a.action != "delete"]
            mine += [a for a in reversed(pools[name]) if a.action == "delete"]
            by_id = {action.id: action for action in mine}

            def one(identity: str) -> None:
                action = by_id[identity]
                self._one(action, by_object[action.object], seen)

            return self.connection.each(by_id, one)

        failures: dict[str, str] = {}
        with ThreadPoolExecutor(max_workers=_WORKERS) as workers:
            for found in workers.map(work, pools):
                failures.update(found)
        return failures

    def _one(self, action: Action, one: Declared, seen: Observation) -> None:
        pool = self.connection.handle.storagePoolLookupByName(one.pool)
        if action.action == "create":
            self._create(pool, one, seen.pools.get(one.pool, ""))
            return
        found = pool.storageVolLookupByName(one.name)
        if action.action == "adopt":
            self.ledger.note("volume", found.key(), self.fleet)
        elif action.action == "grow":
            size = parse_size(one.stated["size"])
            if seen.pools.get(one.pool) == "logical":
                self._extend(found.path(), size)
                pool.refresh()
            else:
                found.resize(size)
        elif action.action == "delete":
            key = found.key()
            if one.wipe:
                found.wipe()
            found.delete()
            self.ledger.note("volume", key, None)

    def _extend(self, path: str, size: int) -> None:
        """Make a logical volume larger, which libvirt cannot."""
        if self.run is None:
            raise VirtfleetError(
                "a volume of a group is made larger on its own host only",
                remedy="run the module there, with uri: qemu:///system",
            )
        status, _, error = self.run(["lvextend", "--size", f"{size}b", path])
        if status:
            raise VirtfleetError(f"lvextend: {error.strip() or status}")

    def _create(self, pool: Any, one: Declared, kind: str) -> None:
        libvirt = self.libvirt
        source = None if one.source is None else pool.storageVolLookupByName(one.source)
        xml = self.written(one, kind, None if source is None else source.XMLDesc(0))
        flags = 0
        if one.preallocate == "metadata":
            flags |= libvirt.VIR_STORAGE_VOL_CREATE_PREALLOC_METADATA
        expected = self._expected_key(pool, one)
        if expected is not None:
            self.ledger.note("volume", expected, self.fleet)
        try:
            if source is None:
                made = pool.createXML(xml, flags)
            else:
                made = pool.createXMLFrom(xml, source, flags)
        except libvirt.libvirtError:
            if expected is not None:
                self.ledger.note("volume", expected, None)
            raise
        if made.key() != expected:
            self.ledger.note("volume", made.key(), self.fleet)
        size = _bytes(one.stated.get("size"))
        if source is not None and size is not None and int(made.info()[1]) < size:
            made.resize(size)

    @staticmethod
    def _expected_key(pool: Any, one: Declared) -> str | None:
        """Return the key that a volume of a folder will have: its path."""
        path = tree(pool.XMLDesc(0)).find("target/path")
        return None if path is None or not path.text else os.path.join(path.text, one.name)

    def written(self, one: Declared, kind: str, source: str | None = None) -> str:
        """Return the definition of a new volume; a copy has the size of its source at least."""
        document = Document("<volume>\n  <name/>\n</volume>\n", "volume XML")
        document.root[0].text = one.name
        keys = {key: value for key, value in one.stated.items() if value not in (None, [], {})}
        if source is not None:
            before = read_fields(tree(source), volume.FIELDS)
            keys = {"format": before.get("format"), **keys, "size": before["size"]}
            keys = {key: value for key, value in keys.items() if value is not None}
        if kind in _FILES:
            keys.setdefault("format", "qcow2")
        if keys.get("format") == "qcow2":
            keys.setdefault("compat", "1.1")  # libvirt's own default is from before 2011
        if one.preallocate == "full":
            keys.setdefault("allocation", keys["size"])
        elif keys.get("format", "raw") == "raw" and kind in _FILES:
            keys.setdefault("allocation", "0B")
        patch_fields(document.root, volume.FIELDS, keys, Edits(document.root, keys), "")
        if document.root.find("target") is None:
            insert(document.root, Fresh("target"))  # libvirt's schema wants one
        return document.text()


def converge(
    volumes: Volumes,
    layout: Layout,
    entries: Sequence[object],
    host: str,
    *,
    check_mode: bool,
) -> dict[str, Any]:
    """Make the volumes the declared ones, and return the module's result.

    Raises InputError with nothing changed, BusyError while another run changes this host's
    volumes, and ApplyError where actions failed.
    """
    declared = read(entries)
    seen = volumes.observe(declared)
    # In check mode an earlier task of the same run may yet make pools.
    problems = [] if check_mode else list(volumes.problems(declared, seen))
    if problems:
        raise InputError(problems)
    planned = plan(declared, host, volumes.fleet, seen)
    done: Sequence[Action] = planned.actions
    failed: list[tuple[Action, str]] = []
    if not check_mode and (done or volumes.left(declared, seen)):
        make_folder(layout.state)
        with exclusive(os.path.join(layout.state, "lock"), holder("kvm_volumes")):
            seen = volumes.observe(declared)
            for key in volumes.left(declared, seen):
                volumes.ledger.note("volume", key, None)
            planned = plan(declared, host, volumes.fleet, seen)
            failed = _apply(volumes, planned, declared, seen)
        lost = {action.id for action, _ in failed}
        done = [action for action in planned.actions if action.id not in lost]
        seen = volumes.observe(declared)
    there = [(one, seen.volumes[one.object]) for one in declared if one.object in seen.volumes]
    outcome = result(
        done,
        planned.pending,
        planned.blocked,
        msg=summary(done),
        volumes=[found.to_dict(one) for one, found in there],
    )
    return accept(outcome, failed)


def _apply(
    volumes: Volumes, planned: Plan, declared: Sequence[Declared], seen: Observation
) -> list[tuple[Action, str]]:
    failed: list[tuple[Action, str]] = []
    for step in planned.steps():
        given_up = {action.object for action, _ in failed}
        actions = [action for action in step if action.object not in given_up]
        found = volumes.apply(actions, declared, seen)
        failed += [(action, found[action.id]) for action in actions if action.id in found]
    return failed
