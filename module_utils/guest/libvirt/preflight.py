# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Why actions on domains could not work: looked at before anything is touched."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Collection, Iterator, Mapping, Sequence

from ...converge.errors import Problem
from ...seed.store import INSTALL, TOOLS, tool
from ...virt.connection import said
from ...virt.patcher import patch
from ...virt.reader import read
from ..engine import former_name
from .apply import files_of_action, images_of
from .dialect import domain_keys
from .images import ImageError, chain, unfit
from .offer import KEYS as OFFERED
from .offer import Offer, read_offer, unoffered
from .references import Surroundings, absent, may_come, shared
from .seeding import DISK, KEY

if TYPE_CHECKING:
    from ...converge.action import Action
    from ...virt.connection import Connection
    from .engine import LibvirtEngine

Specs = Mapping[str, Mapping[str, Any]]

_KEY = re.compile(r"[.\[]")  # where the first key of a path ends
_REFERRING = ("disks", "nics", "kernel", "initrd", "dtb", "fw_cfg", "vsock", KEY)
_VIRT_TYPES = {"tcg": "qemu"}


class Preflight:
    """Looks at one host for an engine, over its connection."""

    def __init__(self, engine: LibvirtEngine, connection: Connection, *, check_mode: bool) -> None:
        self.engine = engine
        self.check_mode = check_mode
        self.connection = connection
        self.seen = dict(engine.seen)
        self.former: set[str] = set()  # names that guests will have no more
        self.offers: dict[tuple[Any, ...], Offer] = {}

    def problems(self, actions: Sequence[Action], specs: Specs) -> list[Problem]:
        """Return why actions of the plan could not work."""
        self._follow_names(actions)
        problems = list(self._unseeded(actions, specs))
        wanted: dict[str, Mapping[str, Any]] = {}
        for action in actions:
            if action.action in ("create", "replace"):
                wanted[action.name] = specs[action.name]
                problems += self._accelerated(action.name, specs[action.name])
            elif action.action == "update":
                touched = {_KEY.split(change.path, 1)[0] for change in action.changes}
                if touched & {*_REFERRING, *OFFERED}:
                    wanted[action.name] = self._whole(action.name, specs[action.name])
        doomed = {
            action.name: files_of_action(action) for action in actions if action.action == "delete"
        }
        if wanted:
            problems += self._referring(wanted, specs)
            problems += [p for name in wanted for p in self._unoffered(name, wanted[name])]
        if any(doomed.values()):
            problems += self._needed(doomed)
        return problems

    def _follow_names(self, actions: Sequence[Action]) -> None:
        """See guests that will be renamed under the names that they get."""
        for action in actions:
            former = former_name([action])
            if former is not None:
                self.seen[action.name] = self.seen.pop(former)
                self.former.add(former)

    def _chain(self, file: str, kind: str) -> list[str]:
        """Return the files that an image stands on, as far as can be told."""
        found: list[str] = []
        if self.engine.local:
            # What came before an image that cannot be read is known; QEMU tells what that one is.
            with suppress(ImageError, OSError):
                found.extend(chain(file, kind))
        return found

    def _holds(self, pool: str, volume: str) -> bool:
        """Return whether a pool has a volume, as far as can be told."""
        libvirt, handle = self.connection.libvirt, self.connection.handle
        try:
            found = handle.storagePoolLookupByName(pool)
            return not found.isActive() or volume in found.listVolumes()
        except libvirt.libvirtError:
            return True  # whatever it is comes up again

    def _unseeded(self, actions: Sequence[Action], specs: Specs) -> Iterator[Problem]:
        """Yield the guests whose seeds cannot be made here; in check mode the tool may come yet."""
        if self.check_mode or tool() is not None:
            return
        for name in dict.fromkeys(action.name for action in actions):
            disk = specs.get(name, {}).get(DISK)
            if disk is not None and not os.path.exists(disk["file"]):
                yield Problem(f"{name}.{KEY}", f"one of {', '.join(TOOLS)}", "none", INSTALL)

    def _needed(self, doomed: Mapping[str, Sequence[str]]) -> list[Problem]:
        """Return the files that shall go with their guests and that others have, or stand on."""
        holders: dict[str, str] = {}
        for name, spec in self._others(doomed).items():
            for disk in spec.get("disks") or ():
                file = disk.get("file")
                if file and file not in holders:
                    for one in (file, *chain(file, disk.get("format", "raw"))):
                        holders.setdefault(one, name)
        remedy = "leave remove_disks out, or remove that guest too"
        return [
            Problem(
                f"{name}.remove_disks", "disks of its own", f"{file}, on which {holder} is", remedy
            )
            for name, files in doomed.items()
            for file, holder in ((file, holders.get(file)) for file in files)
            if holder is not None
        ]

    def _others(self, names: Collection[str]) -> dict[str, Mapping[str, Any]]:
        """Return the specs of all other domains of this host."""
        known = {name: seen.spec or {} for name, seen in self.seen.items()}
        there = {domain.name() for domain in self.connection.handle.listAllDomains()}
        unread = there - set(known) - self.former
        if unread:
            found = self.engine.observer().observe(unread)
            known.update((name, seen.spec or {}) for name, seen in found.items())
        placed = self.engine.dialect().placed
        return {name: placed(spec, None) for name, spec in known.items() if name not in names}

    def _accelerated(self, name: str, spec: Mapping[str, Any]) -> list[Problem]:
        """Return that a new guest's accelerator is not there."""
        arch = self.engine.machines().archs.get(spec["arch"])
        if arch is None or spec["accel"] in arch.accels:
            return []
        known = " or ".join(arch.accels)
        remedy = f"state accel: {arch.accels[0]}" if arch.accels else None
        return [Problem(f"{name}.accel", f"{known} for {spec['arch']}", spec["accel"], remedy)]

    def _unoffered(self, name: str, spec: Mapping[str, Any]) -> Iterator[Problem]:
        """Yield what a guest shall have that QEMU does not have for its machine."""
        arch, machine = spec.get("arch"), spec.get("machine")
        accel = _VIRT_TYPES.get(spec.get("accel", ""), spec.get("accel"))
        question = (spec.get("emulator"), arch, machine, accel)
        if question not in self.offers:
            try:
                xml = self.connection.handle.getDomainCapabilities(*question)
            except self.connection.libvirt.libvirtError as error:
                if error.get_error_code() != self.connection.libvirt.VIR_ERR_INVALID_ARG:
                    return  # the test driver; whatever else it is comes up again
                yield Problem(f"{name}.machine", "a machine that QEMU has here", said(error))
                return
            self.offers[question] = read_offer(xml)
        yield from unoffered(name, spec, self.offers[question])

    def _whole(self, name: str, spec: Mapping[str, Any]) -> dict[str, Any]:
        """Return all that an updated guest will have."""
        seen = self.seen[name]
        keys = domain_keys(spec)  # whose seed is looked at by itself
        whole = read(patch(seen.detail.inactive, keys, fleet=self.engine.fleet).xml)
        return {**whole, KEY: spec.get(KEY, (seen.spec or {}).get(KEY))}

    def _referring(self, wanted: Mapping[str, Mapping[str, Any]], specs: Specs) -> list[Problem]:
        """Return what guests refer to that is not there, or is another's."""
        sized = {name: images_of(specs[name], self.seen.get(name)) for name in wanted}
        made = {image.file for mine in sized.values() for image in mine}
        handle = self.connection.handle
        host = Surroundings(
            networks={network.name() for network in handle.listAllNetworks()},
            pools={pool.name() for pool in handle.listAllStoragePools()},
            holds=self._holds,
            chain=self._chain,
            exists=lambda path: not self.engine.local or path in made or os.path.exists(path),
        )
        problems = [
            problem
            for name, mine in sized.items()
            for problem in unfit(name, mine, check_mode=self.check_mode)
        ]
        problems += [p for name, spec in wanted.items() for p in absent(name, spec, host)]
        if self.check_mode:
            self.engine.warnings += [
                f"{p.path}: {p.found} is not there yet, expected {p.expected} when this is run"
                for p in problems
                if may_come(p)
            ]
            problems = [p for p in problems if not may_come(p)]
        return problems + list(shared(wanted, self._others(wanted)))
