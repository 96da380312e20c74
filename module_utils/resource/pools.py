# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Storage pools. They bear no mark: one of ours is told by its UUID, or by the host's ledger."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, Iterator, Mapping, Sequence

from ..converge.errors import Problem, VirtfleetError, shown
from ..units import format_size
from ..virt.connection import said
from ..virt.identity import uuid_for
from .kind import Kind, Seen, Specs, Status

if TYPE_CHECKING:
    from ..virt.connection import Connection
    from ..virt.document import Element
    from .ledger import Ledger
    from .pool_definitions import PoolDefinitions

_MADE = ("dir", "netfs")  # building one of these makes a folder, and no more
_GIVEN = ("iscsi", "iscsi-direct", "scsi", "mpath")  # their volumes are there: they are always full
_PACKAGED = ("gluster", "iscsi-direct", "rbd", "zfs")  # distributions have their drivers apart
_ROOM = re.compile(r"\n *<(capacity|allocation|available) unit='bytes'>([0-9]+)</\1>")
FULL = 0.9  # of a pool's capacity, from where on it is told


class Pools(Kind):
    """The storage pools of one host."""

    word = "pool"
    plural = "pools"
    listed = "STORAGE_POOLS"
    flags = (*Kind.flags, "build", "refresh")

    def __init__(
        self, connection: Connection, fleet: str, ledger: Ledger, *, local: bool = True
    ) -> None:
        super().__init__(connection, fleet, ledger)
        self.local = local

    @property
    def definitions(self) -> PoolDefinitions:
        """What definitions say."""
        from .pool_definitions import PoolDefinitions

        return PoolDefinitions()

    def clashes(
        self, stated: Specs, seen: Mapping[str, Seen], *, check_mode: bool
    ) -> Iterator[Problem]:
        """Yield places that two pools would have, and what libvirt or the host has not."""
        places = {
            path: name
            for name, one in seen.items()
            if name not in stated and (path := _place(one.spec)) is not None
        }
        for name, keys in stated.items():
            spec = {**seen[name].spec, **keys} if name in seen else keys
            path = _place(spec)
            if path in places:
                found = f"{shown(path)}, which the pool {places[path]} has"
                yield Problem(f"{name}/path", "a place of its own", found)
            elif path is not None:
                places[path] = name
            if not check_mode and name not in seen:
                yield from self._unoffered(name, str(spec.get("type")))
            if self.local and not check_mode:
                yield from _disks(name, spec.get("type"), keys.get("devices") or ())

    def _unoffered(self, name: str, kind: str) -> Iterator[Problem]:
        """Yield that libvirt cannot have a new pool of this kind, as far as it says."""
        try:
            xml = self.connection.handle.getStoragePoolCapabilities(0)  # libvirt 5.2
        except (AttributeError, self.libvirt.libvirtError):
            return
        from ..virt.document import tree

        kinds = {one.get("type"): one.get("supported") for one in tree(xml).findall("pool")}
        if kinds.get(kind) == "no":
            known = ", ".join(sorted(str(word) for word, has in kinds.items() if has == "yes"))
            remedy = (
                "install its driver and restart libvirt, as the role kvm_storage does"
                if kind in _PACKAGED
                else None
            )
            yield Problem(f"{name}/type", f"a kind that this libvirt has ({known})", kind, remedy)

    def objects(self, flag: int = 0) -> list[Any]:
        """Return libvirt's pools, those that have a flag or all."""
        return list(self.connection.handle.listAllStoragePools(flag))

    def look(self, one: Any, status: Status) -> Seen:
        """Return what a pool is now."""
        live, room = _apart(one.XMLDesc(0)) if status.active else (None, {})
        inactive = self._stored(one) if status.persistent else str(live)
        uuid, name = one.UUIDString(), one.name()
        fleet = self._fleet(name, uuid)
        return Seen(
            name,
            uuid,
            inactive,
            live,
            autostart=status.autostart,
            persistent=status.persistent,
            owned=fleet is not None,
            fleet=fleet or "",
            new=self.is_new(name),
            spec=self.meaning(inactive)["spec"],
            more={key: room.get(key) for key in ("capacity", "allocation", "available")},
        )

    def _stored(self, one: Any) -> str:
        return _apart(self.stored(one, self.libvirt.VIR_STORAGE_XML_INACTIVE))[0]

    def _fleet(self, name: str, uuid: str) -> str | None:
        if uuid == uuid_for(name, self.fleet, self.word):
            return self.fleet
        return self.ledger.fleet_of(self.word, uuid)

    def users(self, seen: Seen) -> list[str]:
        """Return the running guests that have a disk of it."""
        from ..virt.document import tree
        from ..virt.pool import kind_of

        libvirt, handle = self.libvirt, self.connection.handle
        path = seen.spec.get("path") or kind_of(seen.spec).path
        found = set()
        for domain in handle.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE):
            with self.connection.passing():
                sources = tree(domain.XMLDesc(0)).findall("devices/disk/source")
                if any(_of_pool(source, seen, path) for source in sources):
                    found.add(domain.name())
        return sorted(found)

    def lookup(self, name: str) -> Any:
        """Return libvirt's object."""
        return self.connection.handle.storagePoolLookupByName(name)

    def define(self, xml: str) -> Any:
        """Make the definition the persistent one, and return libvirt's object."""
        flag = getattr(self.libvirt, "VIR_STORAGE_POOL_DEFINE_VALIDATE", 0)  # libvirt 7.7
        return self.connection.handle.storagePoolDefineXML(xml, flag)

    def start(self, name: str, asked: Mapping[str, Any]) -> None:
        """Make it active; where that fails, build what it lacks if that may be, and try again.

        What is there already is never built over: libvirt looks for that itself.
        """
        one = self.lookup(name)
        if one.isActive():
            return
        from ..virt.pool import kind_of

        spec = self.meaning(self._stored(one))["spec"]
        self._reach(name, spec)
        try:
            one.create()
        except self.libvirt.libvirtError as error:
            formats = kind_of(spec).formats
            if not asked.get("build", spec.get("type") in _MADE):
                remedy = "state build: true to have it made on an empty disk" if formats else None
                raise VirtfleetError(said(error), remedy=remedy) from error
            self._build(one, error, formats=formats)
            one.create()

    def _build(self, one: Any, reason: Exception, *, formats: bool) -> None:
        flags = self.libvirt.VIR_STORAGE_POOL_BUILD_NO_OVERWRITE if formats else 0
        try:
            one.build(flags)
        except self.libvirt.libvirtError as error:
            raise VirtfleetError(
                f"{said(reason)}; and it cannot be built: {said(error)}"
            ) from error

    def update_live(self, name: str) -> None:
        """Do nothing: libvirt changes no pool that is active."""

    def restart(self, name: str, asked: Mapping[str, Any]) -> None:
        """End it and make it active again, if its servers are there for that."""
        self._reach(name, self.meaning(self._stored(self.lookup(name)))["spec"])
        super().restart(name, asked)

    def refresh(self, name: str) -> None:
        """Have libvirt look anew at its volumes and its room, if it is active."""
        with self.connection.passing():
            one = self.lookup(name)
            if one.isActive():
                self._reach(name, self.meaning(_apart(one.XMLDesc(0))[0])["spec"])
                one.refresh()

    def _reach(self, name: str, spec: Mapping[str, Any]) -> None:
        """Raise VirtfleetError where a server of a pool does not answer this host."""
        if self.local and spec.get("hosts"):
            from .servers import answers

            answers(name, spec)

    def adopt(self, seen: Seen) -> None:
        """Note that it is ours; nothing of it changes."""
        self.ledger.note(self.word, seen.uuid, self.fleet)

    def gone(self, seen: Seen) -> None:
        """Let go of what was noted of it."""
        super().gone(seen)
        self.ledger.note(self.word, seen.uuid, None)

    def warnings(self, seen: Mapping[str, Seen]) -> list[str]:
        """Return the pools that are nearly full."""
        found = []
        for name, one in seen.items():
            if one.spec.get("type") in _GIVEN:
                continue
            capacity, available = one.more.get("capacity"), one.more.get("available")
            if capacity and available is not None and available < (1 - FULL) * capacity:
                left = f"{available * 100 // capacity} % of {format_size(capacity)} left"
                found.append(f"pool/{name}: nearly full, {left}")
        return found


def _disks(name: str, kind: object, devices: Sequence[str]) -> Iterator[Problem]:
    """Yield disks that are not there, or that libvirt would not know again."""
    for number, device in enumerate(devices):
        where = f"{name}/devices[{number}]"
        if not os.path.exists(device):
            yield Problem(where, "a disk that is there", shown(device))
        elif kind == "logical" and os.path.islink(device):
            # It compares with what LVM calls them, to the letter.
            remedy = "or make the group by kvm_storage_volume_groups, and leave devices out"
            expected = f"the name that LVM knows it by, {os.path.realpath(device)}"
            yield Problem(where, expected, shown(device), remedy)


def _apart(xml: str) -> tuple[str, dict[str, int]]:
    """Return a pool's XML without the bytes that it has, which are no part of its definition."""
    return _ROOM.sub("", xml), {key: int(value) for key, value in _ROOM.findall(xml)}


def _place(spec: Mapping[str, Any]) -> str | None:
    """Return the place that a pool has for itself, None where it may share it."""
    if spec.get("type") in ("dir", "fs", "netfs"):
        path = spec.get("path")
        return None if path is None else os.path.normpath(str(path))
    return None


def _of_pool(source: Element, seen: Seen, path: str | None) -> bool:
    """Return whether a disk's source is a volume of a pool."""
    if source.get("pool") is not None:
        return source.get("pool") == seen.name
    if seen.spec.get("type") == "rbd":
        from ..virt.volume import of_ceph

        return (of_ceph(source) or "").startswith(f"{seen.spec.get('source_name')}/")
    place = source.get("file") or source.get("dev") or ""
    shared = path in ("/dev", "/dev/mapper", "/dev/disk/by-path")  # of all disks of the host
    return path is not None and not shared and place.startswith(f"{path.rstrip('/')}/")
