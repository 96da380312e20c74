# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Volumes: made, cloned, filled, brought, grown and removed, one after the other in each pool.

libvirt refuses a pool two things at once, so pools are worked on side by side and volumes are not.
A volume bears no mark: what this toolkit made stands in the host's ledger by its key, from before
it is made, so that a run that is killed leaves none that is nobody's. While a file is written into
a volume that stands there too, so that what was cut off is not taken for whole.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Callable, Collection, Iterator, Mapping, Sequence

from ..converge.errors import InputError, Problem, VirtfleetError, shown
from ..converge.lock import exclusive, holder
from ..converge.result import accept, result, summary
from ..image.store import look
from ..kvm.layout import make_folder
from ..units import format_size, parse_size
from ..virt import volume
from ..virt.document import Document, Fresh, insert, tree
from ..virt.fields import Edits, patch_fields, read_fields
from ..virt.volume import of_ceph
from .content import Streams
from .volume_plan import (
    ABSENT,
    FILES,
    PRESENT,
    Observation,
    Seen,
    concerns_users,
    plan,
    read,
    size_of,
)

if TYPE_CHECKING:
    from ..converge.action import Action, Plan
    from ..kvm.layout import Layout
    from ..virt.connection import Connection
    from .ledger import Ledger
    from .volume_plan import Content, Declared

_WORKERS = 4  # pools at once
_LOCAL = ("dir", "fs", "netfs", "logical")  # where what a volume stands on is a file of the host
_FILLING = "volume being filled"  # in the ledger


def _of_files(one: Declared, seen: Observation) -> Iterator[Problem]:
    """Yield what is wrong with the files that a volume is filled with and brought into."""
    there = seen.volumes.get(one.object)
    if one.upload is not None and (there is None or there.unfinished):
        where = f"{one.where}.upload.path"
        kind, form = seen.pools.get(one.pool, ""), one.stated.get("format", "raw")
        if kind not in FILES and form != "raw":
            yield Problem(f"{one.where}.format", f"raw in a pool of type {kind}", shown(form))
        if not os.path.isfile(one.upload.path):
            yield Problem(where, "a file that is there", shown(one.upload.path))
        elif kind in FILES:
            try:
                found = _content(one)["format"]
            except VirtfleetError as error:
                yield Problem(where, "an image that can be used", str(error))
                return
            if found != one.stated.get("format", found):
                expected = f"a file that is {one.stated['format']}"
                yield Problem(where, expected, f"one that is {found}")
    if one.download is not None and one.download.path not in seen.brought:
        folder = os.path.dirname(one.download.path)
        if not os.path.isdir(folder):
            yield Problem(f"{one.where}.download.path", "a folder that is there", shown(folder))


def _content(one: Declared) -> dict[str, Any]:
    """Return format and size in bytes of what a volume is filled with.

    A file that shall be raw is not asked what it is: a guest may have written there.
    """
    if one.upload is None:
        return {}
    if one.stated.get("format") == "raw":
        return {"format": "raw", "size": os.path.getsize(one.upload.path)}
    return look(one.upload.path)


class Volumes:
    """The volumes of one host, over one connection.

    ``run`` runs a command on that host, None where the host is another one.
    """

    def __init__(
        self,
        connection: Connection,
        fleet: str,
        ledger: Ledger,
        run: Any = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.connection = connection
        self.streams = Streams(connection, say)
        self.checksums: dict[str, str] = {}  # of what was brought
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
                types[one.pool] = self._reached(pool)
            seen = self._look(pool, one.name)
            if seen is not None:
                volumes[one.object] = seen
        asks = any(concerns_users(one, volumes.get(one.object)) for one in declared)
        users, running = self._users(pools, types) if asks else ({}, {})
        files = {one.download.path for one in declared if one.download is not None}
        brought = frozenset(path for path in files if os.path.lexists(path))
        return Observation(types, volumes, users, running, brought)

    def _reached(self, pool: Any) -> str:
        """Return the type of an active pool; VirtfleetError where its share cannot be reached.

        What asks a share whose server is away for a file hangs until it is back, libvirt too.
        """
        root = tree(pool.XMLDesc(0))
        kind = root.get("type", "")
        if kind == "netfs" and self.run is not None:
            from ..virt.pool import FIELDS
            from .servers import answers

            answers(pool.name(), read_fields(root, FIELDS))
        return kind

    def _look(self, pool: Any, name: str) -> Seen | None:
        found = None
        with self.connection.passing():
            found = pool.storageVolLookupByName(name)
        if found is None:
            return None
        spec = read_fields(tree(found.XMLDesc(0)), volume.FIELDS)
        key = found.key()
        filling = self.ledger.fleet_of(_FILLING, f"{pool.name()}/{name}")
        fleet = self.ledger.fleet_of("volume", key) or filling
        size = int(found.info()[1])
        return Seen(key, found.path(), size, spec, fleet, unfinished=filling is not None)

    def _users(
        self, pools: Mapping[str, Any], reached: Collection[str]
    ) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
        """Return, by path, the guests and volumes that stand on it, and the guests that run.

        Pools come by their names, with those that were ``reached`` already.
        """
        users: dict[str, list[str]] = {}
        running: dict[str, list[str]] = {}
        for name, pool in pools.items():
            if name not in reached:
                self._reached(pool)
            for one in pool.listAllVolumes():
                below = tree(one.XMLDesc(0)).find("backingStore/path")
                if below is not None and below.text:
                    users.setdefault(below.text, []).append(f"volume/{name}/{one.name()}")
        for domain in self.connection.handle.listAllDomains():
            with self.connection.passing():
                guest, active = f"guest/{domain.name()}", domain.isActive()
                for path in self._paths(domain, pools):
                    users.setdefault(path, []).append(guest)
                    if active:
                        running.setdefault(path, []).append(guest)
        return users, running

    def _paths(self, domain: Any, pools: Mapping[str, Any]) -> set[str]:
        """Return the paths that a domain has, and would have when it is started anew."""
        flags = [0]
        if domain.isPersistent():
            flags.append(self.libvirt.VIR_DOMAIN_XML_INACTIVE)
        found = set()
        for flag in flags:
            for source in tree(domain.XMLDesc(flag)).findall("devices/disk/source"):
                path = source.get("file") or source.get("dev") or of_ceph(source)
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
            if one.state == PRESENT:
                yield from _of_files(one, seen)
            if one.state != PRESENT or one.object in seen.volumes:
                continue
            yield from self._backing(one, declared, seen)
            new = one.source is None and one.upload is None
            if new and one.stated.get("size") is None:
                yield Problem(f"{one.where}.size", "a size, as it is new", "nothing")
            if one.source is not None and f"{one.pool}/{one.source}" not in made:
                pool = self.connection.handle.storagePoolLookupByName(one.pool)
                if self._look(pool, one.source) is None:
                    expected = f"a volume of the pool {one.pool}"
                    yield Problem(f"{one.where}.from", expected, shown(one.source))

    def _backing(
        self, one: Declared, declared: Sequence[Declared], seen: Observation
    ) -> Iterator[Problem]:
        """Yield that a new volume would stand on a file of this host that nobody has or makes."""
        path = str((one.stated.get("backing") or {}).get("path") or "")
        here = self.run is not None and seen.pools[one.pool] in _LOCAL and os.path.isabs(path)
        if not here or os.path.exists(path):
            return
        made = [
            self._expected_key(self.connection.handle.storagePoolLookupByName(other.pool), other)
            for other in declared
            if other.state == PRESENT and other.pool in seen.pools
        ]
        if os.path.normpath(path) not in made:
            where = f"{one.where}.backing.path"
            yield Problem(where, "a file that is there, or a volume declared here", shown(path))

    def left(self, declared: Sequence[Declared], seen: Observation) -> list[tuple[str, str]]:
        """Return what the ledger has of removed volumes since a run was killed: kind and name."""
        found = []
        for one in declared:
            gone = one.state == ABSENT and one.object not in seen.volumes
            if not gone or one.pool not in seen.pools:
                continue
            pool = self.connection.handle.storagePoolLookupByName(one.pool)
            noted = [("volume", self._expected_key(pool, one)), (_FILLING, one.object)]
            for kind, name in noted:
                if name is not None and self.ledger.fleet_of(kind, name) == self.fleet:
                    found.append((kind, name))
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
        if seen.pools.get(one.pool) == "netfs":
            self._reached(pool)
        if action.action == "create":
            self._create(pool, one, seen.pools.get(one.pool, ""))
            return
        found = pool.storageVolLookupByName(one.name)
        if action.action == "adopt":
            self.ledger.note("volume", found.key(), self.fleet)
        elif action.action == "update":
            self._update(pool, found, one, {change.path for change in action.changes})
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
            self.ledger.note(_FILLING, one.object, None)

    def _update(self, pool: Any, found: Any, one: Declared, paths: set[str]) -> None:
        """Bring what is in a volume, or fill what was filled in part."""
        if "download.path" in paths and one.download is not None:
            target = one.download
            what = f"volume/{one.object} to {target.path}"
            done = self.streams.bring(found, target.path, target.algorithm, what)
            self.checksums[one.object] = done
        elif one.upload is not None:
            self.ledger.note("volume", found.key(), self.fleet)
            self._fill(pool, found, one, one.upload)

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
        if one.upload is not None:
            self.ledger.note(_FILLING, one.object, self.fleet)
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
        if one.upload is not None:
            self._fill(pool, made, one, one.upload)
            return
        size = size_of(one.stated.get("size"))
        if source is not None and size is not None and int(made.info()[1]) < size:
            made.resize(size)

    def _fill(self, pool: Any, made: Any, one: Declared, content: Content) -> None:
        """Write a file into a new volume; one that could not be filled does not stay."""
        what = f"volume/{one.object} from {content.path}"
        try:
            self.streams.send(made, content.path, content.checksum, what)
        except (VirtfleetError, self.libvirt.libvirtError):
            with suppress(self.libvirt.libvirtError):  # else it stays, noted as unfinished
                made.delete()
                self.ledger.note("volume", made.key(), None)
                self.ledger.note(_FILLING, one.object, None)
            raise
        self._reached(pool)
        pool.refresh()  # what it is and how large stands in what came
        size = size_of(one.stated.get("size"))
        made = pool.storageVolLookupByName(one.name)
        if size is not None and int(made.info()[1]) < size:
            made.resize(size)
        self.ledger.note(_FILLING, one.object, None)

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
        if one.upload is not None:
            found = _content(one)
            size = max(found["size"], size_of(keys.get("size")) or 0)
            keys["size"] = format_size(size)
            keys.setdefault("format", found["format"])
        if kind in FILES:
            keys.setdefault("format", "qcow2")
        if keys.get("format") == "qcow2":
            keys.setdefault("compat", "1.1")  # libvirt's own default is from before 2011
        if one.preallocate == "full":
            keys.setdefault("allocation", keys["size"])
        elif keys.get("format", "raw") == "raw" and kind in FILES:
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
            for kind, name in volumes.left(declared, seen):
                volumes.ledger.note(kind, name, None)
            planned = plan(declared, host, volumes.fleet, seen)
            failed = _apply(volumes, planned, declared, seen)
        lost = {action.id for action, _ in failed}
        done = [action for action in planned.actions if action.id not in lost]
        seen = _look_again(volumes, declared, seen, failed=bool(failed))
    there = [(one, seen.volumes[one.object]) for one in declared if one.object in seen.volumes]
    outcome = result(
        done,
        planned.pending,
        planned.blocked,
        msg=summary(done),
        volumes=[
            {**found.to_dict(one), "checksum": volumes.checksums.get(one.object, "")}
            for one, found in there
        ],
    )
    return accept(outcome, failed)


def _look_again(
    volumes: Volumes, declared: Sequence[Declared], former: Observation, *, failed: bool
) -> Observation:
    """Return what there is now; what failed tells more than that this cannot be seen."""
    try:
        return volumes.observe(declared)
    except (VirtfleetError, volumes.libvirt.libvirtError):
        if not failed:
            raise
        return former


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
