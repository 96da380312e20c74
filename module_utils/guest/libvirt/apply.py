# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is done to domains: each is changed only if it is still the one that was looked at."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import suppress
from threading import Lock
from typing import TYPE_CHECKING, Any, Callable, Iterable, Mapping, Sequence

from ...converge.action import LIVE
from ...converge.errors import VirtfleetError
from ...virt.connection import AT_ONCE
from ...virt.mark import NAMESPACE, PREFIX, Mark
from ...virt.marking import metadata, read_mark, write_mark
from ...virt.nic import ANTISPOOFING
from ...virt.patcher import patch
from ...virt.writer import write
from ..engine import PAUSED, SAVED, Failure, former_name
from ..spec import KEPT, digest
from .images import Image, capacity, create, grow, images
from .power import Power
from .seeding import DISK, KEY
from .seeding import files as files_in

if TYPE_CHECKING:
    from ...converge.action import Action
    from ...virt.connection import Connection
    from ..engine import Observed
    from .engine import LibvirtEngine

Specs = Mapping[str, Mapping[str, Any]]
Failures = Mapping[str, str]


class ChangedError(VirtfleetError):
    """The domain is not the one any more that was looked at."""


class Applier:
    """Carries out actions for an engine, over its connection."""

    def __init__(self, engine: LibvirtEngine, connection: Connection) -> None:
        self.engine = engine
        self.connection = connection
        self.fleet = engine.fleet
        self.seen = engine.seen
        self.filters: set[str] = set()  # that are known to be there
        self._filtering = Lock()  # guests are made several at once

    def _domain(self, name: str) -> Any:
        return self.connection.handle.lookupByName(name)

    def apply(self, actions: Sequence[Action], specs: Specs) -> list[Failure]:
        """Carry out the actions of one step and return those that failed."""
        engine = self.engine
        each = self.connection.each
        power = Power(self.connection, engine.stop_timeout, force=engine.force)
        failed: dict[tuple[str, str], str] = {}
        by_kind: dict[str, list[Action]] = {}
        for action in actions:
            by_kind.setdefault(action.action, []).append(action)

        def names(kind: str) -> list[str]:
            return [action.name for action in by_kind.get(kind, ())]

        def note(kind: str, failures: Failures) -> None:
            failed.update({(kind, name): why for name, why in failures.items()})

        note("stop", power.stop(names("stop")))
        note("adopt", each(names("adopt"), self._adopt))
        note("create", self._create_all(names("create"), specs))
        note("update", self._update(by_kind.get("update", ()), specs))
        note("replace", each(names("replace"), lambda name: self._renew(name, specs[name])))
        files = {action.name: files_of_action(action) for action in by_kind.get("delete", ())}
        note("delete", each(files, lambda name: self._delete(name, files[name])))
        self._drop_filters(name for name in files if ("delete", name) not in failed)
        note("save", each(names("save"), lambda name: self._domain(name).managedSave(0)))
        note("pause", each(names("pause"), lambda name: self._domain(name).suspend()))
        note("resume", each(names("resume"), lambda name: self._domain(name).resume()))
        note("restart", power.restart(names("restart")))
        paused = {action.name for action in by_kind.get("start", ()) if _starts_paused(action)}
        note("start", power.start(names("start"), paused))
        return [
            Failure(action, failed[action.action, action.name])
            for action in actions
            if (action.action, action.name) in failed
        ]

    def _filters(self, spec: Mapping[str, Any]) -> None:
        """Make the toolkit's own filters that NICs refer to, if they are not there."""
        names = {nic.get("filter") for nic in spec.get("nics") or ()} & ANTISPOOFING
        with self._filtering:
            if names - self.filters:
                from ...virt.nwfilter import ensure_standard  # compiled, so only where it is needed

                ensure_standard(self.connection, names)
                self.filters |= names

    def _drop_filters(self, gone: Iterable[str]) -> None:
        """Remove those of the toolkit's own filters that the last guest is gone from."""
        specs = [self.seen[name].spec or {} for name in gone]
        if any(nic.get("filter") for spec in specs for nic in spec.get("nics") or ()):
            from ...virt.nwfilter import drop_standard

            drop_standard(self.connection)

    def _define(self, xml: str) -> Any:
        return self.connection.handle.defineXMLFlags(
            xml, self.connection.libvirt.VIR_DOMAIN_DEFINE_VALIDATE
        )

    def _mark(self, spec: Mapping[str, Any], disks: Iterable[str] = ()) -> Mark:
        protected = bool(spec.get("protected", False))
        return Mark(self.fleet, str(spec["name"]), digest(spec), tuple(disks), protected)

    def _keys(self, spec: Mapping[str, Any], xml: str | None = None) -> dict[str, Any]:
        return self.engine.dialect().keys_of(spec, xml)

    def _seed(self, spec: Mapping[str, Any]) -> None:
        """Make the seed that a guest will have, if it is not there."""
        disk = spec.get(DISK)
        if disk is not None and not os.path.exists(disk["file"]):
            self.engine.seeds.make(disk["file"], spec[KEY])

    def _tidy(self, name: str, spec: Mapping[str, Any], live: str | None = None) -> None:
        """Remove the seeds that a guest has no more, neither now nor at its next boot."""
        if DISK in spec:
            disk = spec[DISK]
            used = files_in(live) | ({disk["file"]} if disk is not None else set())
            self.engine.seeds.tidy(name, used)

    def _written(self, name: str, spec: Mapping[str, Any], mark: Mark) -> str:
        keys = self._keys(spec)
        return write(keys, name, self.engine.machines().of(keys), fleet=self.fleet, mark=mark)

    def _create_all(self, names: Sequence[str], specs: Specs) -> Failures:
        """Make guests several at once, those that share an image one after the other.

        The first of them makes it, owns it, and the next finds it there.
        """
        files = {name: {image.file for image in images_of(specs[name], None)} for name in names}
        users = Counter(file for own in files.values() for file in own)
        sharing = [name for name in names if any(users[file] > 1 for file in files[name])]
        alone = [name for name in names if name not in sharing]

        def create(name: str) -> None:
            self._create(name, specs[name])

        each = self.connection.each
        return {**each(sharing, create), **each(alone, create, AT_ONCE)}

    def _create(self, name: str, spec: Mapping[str, Any]) -> None:
        """Define a domain and make its images.

        It owns them before they are there: a run that is killed leaves none that is nobody's.
        """
        mine = images_of(spec, None)
        mark = self._mark(spec, _missing(mine))
        self._seed(spec)
        self._filters(spec)
        domain = self._define(self._written(name, spec, mark))
        _fit(mine)
        if spec.get("autostart"):
            domain.setAutostart(1)
        self._tidy(name, spec)

    def _adopt(self, name: str) -> None:
        """Mark a domain as ours; what else was planned for it goes on from the marked one."""
        self._unchanged(self._domain(name), self.seen[name])
        self._put_mark(name, Mark(self.fleet, name))
        self.seen.update(self.engine.observer().observe([name]))

    def _rename(self, former: str, name: str) -> None:
        """Give a domain another name; what else was planned for it goes on from the renamed one.

        The mark goes first: a run that ends in between is completed by the next, which finds the
        domain under its former name.
        """
        domain = self._domain(former)
        self._unchanged(domain, self.seen[former])
        self._put_mark(former, self._marked(former)._replace(name=name))
        domain.rename(name, 0)
        del self.seen[former]
        self.seen.update(self.engine.observer().observe([name]))

    def _put_mark(self, name: str, mark: Mark) -> None:
        """Write the mark into the metadata, of the running domain too; nothing else is touched."""
        libvirt, domain = self.connection.libvirt, self._domain(name)
        flags = libvirt.VIR_DOMAIN_AFFECT_CONFIG
        if domain.isActive():
            flags |= libvirt.VIR_DOMAIN_AFFECT_LIVE
        kind = libvirt.VIR_DOMAIN_METADATA_ELEMENT
        domain.setMetadata(kind, metadata(mark), PREFIX, NAMESPACE, flags)

    def _unchanged(self, domain: Any, seen: Observed) -> str:
        """Return the persistent XML; ChangedError where it is not the one that was planned for."""
        self._still(domain, seen.detail.inactive)
        return str(seen.detail.inactive)

    def _still(self, domain: Any, expected: str) -> None:
        """Raise ChangedError where the persistent XML is another one by now."""
        if self._inactive(domain) != expected:
            raise ChangedError(
                "somebody else changed it since it was looked at",
                remedy="run again, to plan from what it is now",
            )

    def _inactive(self, domain: Any) -> str:
        libvirt = self.connection.libvirt
        flags = libvirt.VIR_DOMAIN_XML_SECURE | libvirt.VIR_DOMAIN_XML_INACTIVE
        return str(domain.XMLDesc(flags))

    def _update(self, actions: Sequence[Action], specs: Specs) -> dict[str, str]:
        """Change each guest once, however many actions it takes part in."""
        parts: dict[str, list[Action]] = {}
        for action in actions:
            parts.setdefault(action.name, []).append(action)

        def update(name: str) -> None:
            former = former_name(parts[name])
            if former is not None:
                self._rename(former, name)
            self._update_one(name, specs[name], parts[name])
            if former is not None:
                self.engine.seeds.tidy(former, files_in(self._inactive(self._domain(name))))

        return self.connection.each(parts, update)

    def _update_one(self, name: str, spec: Mapping[str, Any], actions: Sequence[Action]) -> None:
        seen, domain = self.seen[name], self._domain(name)
        now = self._unchanged(domain, seen)
        self._seed(spec)
        self._filters(spec)
        mine = images_of(spec, seen)
        missing = _missing(mine)
        if missing:
            now = self._own(name, missing)
        sizes = {image.path for image in mine}
        used = files_in(seen.detail.live)
        _fit(image for image in mine if image.file not in used)
        live = [
            change
            for action in actions
            for change in action.changes
            if action.when == LIVE and change.path not in (*KEPT, *sizes)
        ]
        if live and seen.detail.live is not None:
            from .live import apply_live  # compiled on the host, so only where it is needed

            running = domain.XMLDesc(self.connection.libvirt.VIR_DOMAIN_XML_SECURE)
            keys = self._keys(spec, running)
            apply_live(domain, self.connection.libvirt, running, keys, live, fleet=self.fleet)
        for image in mine:
            if image.file in used and (capacity(image.file, image.format) or 0) < image.size:
                flag = self.connection.libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES
                domain.blockResize(image.target, image.size, flag)
        wanted = patch(now, self._keys(spec, now), fleet=self.fleet).xml
        if wanted != now:
            self._still(domain, now)  # what was done live may have taken long
            self._define(wanted)
        if seen.state != SAVED:  # which goes on with the seed that it was saved with
            self._tidy(name, spec, seen.detail.live)
        changed = {change.path for action in actions for change in action.changes}
        if "autostart" in changed:
            domain.setAutostart(int(bool(spec["autostart"])))
        if "protected" in changed:
            mark = self._marked(name)
            self._put_mark(name, mark._replace(protected=bool(spec["protected"])))

    def _marked(self, name: str) -> Mark:
        return read_mark(self._inactive(self._domain(name))) or Mark(self.fleet, name)

    def _own(self, name: str, files: Sequence[str]) -> str:
        """Mark files as a guest's own before they are made; return its XML then."""
        mark = self._marked(name)
        disks = tuple(dict.fromkeys((*mark.disks, *files)))
        if disks != mark.disks:
            self._put_mark(name, mark._replace(disks=disks))
        return self._inactive(self._domain(name))

    def _renew(self, name: str, spec: Mapping[str, Any]) -> None:
        """Make a domain anew; the former one is put back if that fails.

        On the same architecture it keeps all else that its XML says, and its UEFI variables.
        """
        seen, domain = self.seen[name], self._domain(name)
        former = self._unchanged(domain, seen)
        mark = seen.detail.mark
        mine = images_of(spec, seen)
        disks = (*(mark.disks if mark else ()), *_missing(mine))
        new = self._mark(spec, dict.fromkeys(disks))
        kept = (seen.spec or {}).get("arch") == spec.get("arch")
        self._seed(spec)
        self._filters(spec)
        if kept:
            keys = self._keys(spec, former)
            xml = write_mark(patch(former, keys, fleet=self.fleet).xml, new)
        else:
            xml = self._written(name, spec, new)
        renewals = self.engine.renewals
        renewals.begin(name, xml)
        self._undefine(domain, keep_nvram=kept)
        try:
            made = self._define(xml)
        except self.connection.libvirt.libvirtError:
            renewals.begin(name, former)
            self._define(former)
            renewals.end(name)
            raise
        renewals.end(name)
        _fit(mine)
        if spec.get("autostart"):
            made.setAutostart(1)
        self._tidy(name, spec)

    def _delete(self, name: str, files: Sequence[str]) -> None:
        """Remove a domain, after the files that go with it: a second run finds the rest."""
        seen, domain = self.seen[name], self._domain(name)
        if domain.isActive():
            raise ChangedError("it runs again", remedy="run again, to plan from what it is now")
        self._unchanged(domain, seen)
        for file in files:
            with suppress(FileNotFoundError):
                os.unlink(file)
        self.engine.seeds.tidy(name, ())
        self._undefine(domain)

    def _undefine(self, domain: Any, *, keep_nvram: bool = False) -> None:
        """Undefine a domain with all that libvirt keeps of it, as far as this libvirt knows it."""
        libvirt = self.connection.libvirt
        basic = (
            libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
            | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
        )
        more = basic | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
        firmware = more | (
            libvirt.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM
            if keep_nvram
            else libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
        )
        tpm = getattr(libvirt, "VIR_DOMAIN_UNDEFINE_TPM", 0)
        for flags in (firmware | tpm, firmware, more):
            if self._knows(domain.undefineFlags, flags):
                return
        domain.undefineFlags(basic)

    def _knows(self, call: Callable[[int], Any], flags: int) -> bool:
        """Make a call with flags; return False where this libvirt does not know them."""
        libvirt = self.connection.libvirt
        try:
            call(flags)
        except libvirt.libvirtError as error:
            if error.get_error_code() in (libvirt.VIR_ERR_INVALID_ARG, libvirt.VIR_ERR_NO_SUPPORT):
                return False
            raise
        return True


def _missing(mine: Iterable[Image]) -> list[str]:
    """Return the files of the images that have to be made."""
    return [image.file for image in mine if not os.path.exists(image.file)]


def _fit(mine: Iterable[Image]) -> None:
    """Make the images that are not there, and grow those that no guest runs on."""
    for image in mine:
        have = capacity(image.file, image.format)
        if have is None:
            create(image)
        elif have < image.size:
            grow(image)


def files_of_action(action: Action) -> list[str]:
    """Return the files that the plan has taken away."""
    return [
        str(file) for change in action.changes if change.path == "files" for file in change.before
    ]


def _starts_paused(action: Action) -> bool:
    return any(change.path == "state" and change.after == PAUSED for change in action.changes)


def images_of(spec: Mapping[str, Any], seen: Observed | None) -> list[Image]:
    """Return the images of the disks that state a size."""
    return images(spec, ((seen.spec if seen else None) or {}).get("disks") or ())[0]
