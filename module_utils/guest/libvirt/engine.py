# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The libvirt engine: one connection a call, that reads domains and carries out what was planned.

An existing domain is never written anew: its own XML is patched, and only if it is still the one
that was looked at. What changes live is changed in the running domain first and made persistent
then, so that a run that ends in between leaves a difference that the next one sees.
"""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Callable, Collection, Iterable, Iterator, Mapping, Sequence

from ...converge.action import LIVE
from ...converge.errors import Problem, VirtfleetError
from ...virt.connection import LOCAL_URI, ConnectError, Connection, attempt, said
from ...virt.mark import NAMESPACE, PREFIX, Mark, metadata
from ...virt.patcher import patch
from ...virt.reader import read
from ...virt.writer import write
from ..engine import PAUSED, RUNNING, Failure, Host, Observed
from ..spec import KEPT, digest
from .capabilities import HostCapabilities, read_capabilities
from .dialect import ENGINE, LibvirtDialect, domain_keys
from .observe import Observer
from .power import Power
from .references import Surroundings, absent, shared

if TYPE_CHECKING:
    from ...converge.action import Action, Change
    from ..spec import Declared

Specs = Mapping[str, Mapping[str, Any]]
Failures = Mapping[str, str]


class ChangedError(VirtfleetError):
    """The domain is not the one any more that was looked at."""


class LibvirtEngine:
    """Guests that libvirt keeps.

    Where libvirt is ``optional``, none at all reads as no guests. So it is in check mode, where an
    earlier task of the same run would install it.
    """

    name = ENGINE

    def __init__(
        self,
        uri: str = LOCAL_URI,
        *,
        fleet: str = "local",
        stop_timeout: float = 30.0,
        force: bool = False,
        optional: bool = False,
    ) -> None:
        self.uri = uri
        self.fleet = fleet
        self.stop_timeout = stop_timeout
        self.force = force
        self.optional = optional
        self._connection: Connection | None = None
        self._absent = False
        self._seen: dict[str, Observed] = {}
        self._capabilities = lru_cache(maxsize=None)(self._read_capabilities)
        self._dialect = LibvirtDialect(self._capabilities, fleet=fleet)

    # The connection.

    def connection(self) -> Connection | None:
        """Return the connection, None where there is no libvirt and need be none."""
        if self._connection is None and not self._absent:
            try:
                self._connection = Connection(self.uri)
            except ConnectError as error:
                if not (self.optional and error.missing):
                    raise
                self._absent = True
        return self._connection

    def close(self) -> None:
        """End the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _open(self) -> Connection:
        connection = self.connection()
        if connection is None:
            raise ConnectError(f"no connection to {self.uri}")
        return connection

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn what libvirt says into an error of ours; a lost connection is said to be one."""
        connection = self._open()
        try:
            yield
        except connection.libvirt.libvirtError as error:
            lost = connection.is_lost()
            remedy = "libvirt went away in the middle: run again, once it is back" if lost else None
            raise VirtfleetError(f"libvirt: {said(error)}", remedy=remedy) from error

    def _domain(self, name: str) -> Any:
        return self._open().handle.lookupByName(name)

    # What there is.

    def host(self, name: str) -> Host:
        """Return the facts of this host, under its inventory name."""
        return Host(name, f"/boot/vmlinuz-{os.uname().release}", supervised=True)

    def _read_capabilities(self) -> HostCapabilities:
        connection = self.connection()
        if connection is None:
            return HostCapabilities()
        handle = connection.handle
        with self._told():
            return read_capabilities(handle.getCapabilities(), handle.getInfo()[1] << 20)

    def capabilities(self) -> dict[str, Any]:
        """Return what libvirt can do here, as plain values."""
        if self.connection() is None:
            return {"available": False}
        return {"available": True, "uri": self.uri, **self._capabilities().to_dict()}

    def dialect(self) -> LibvirtDialect:
        """Return how guests are declared on this host."""
        return self._dialect

    def observe(self, names: Collection[str] | None = None) -> dict[str, Observed]:
        """Return the domains of this host by name, those of the names or all."""
        connection = self.connection()
        known, self._seen = self._seen, {}
        if connection is not None:
            with self._told():
                self._seen = Observer(connection, known).observe(names)
        return self._seen

    def console(self, name: str, limit: int) -> bytes:
        """Return nothing: what a domain writes to its console goes where its definition says."""
        del name, limit
        return b""

    def status(self, name: str) -> dict[str, Any] | None:
        """Return what libvirt counts of a running domain."""
        libvirt = self._open().libvirt
        try:
            ((_, values),) = self._open().handle.domainListGetStats([self._domain(name)], 0)
        except libvirt.libvirtError:
            return None
        return dict(values)

    def addresses(self, name: str) -> list[str]:
        """Return the addresses of a running guest: leased, told by its agent, or seen by ARP."""
        from .waiting import addresses_of

        seen, libvirt = self._seen.get(name), self._open().libvirt
        if seen is None or seen.state != RUNNING:
            return []
        try:
            return addresses_of(libvirt, self._domain(name))
        except libvirt.libvirtError:
            return []  # it went away in the meantime

    # What could not work.

    def preflight(
        self, actions: Sequence[Action], specs: Specs, *, check_mode: bool
    ) -> list[Problem]:
        """Return why actions of the plan could not work."""
        del check_mode
        if self.connection() is None:
            return []
        problems = []
        wanted: dict[str, Mapping[str, Any]] = {}
        for action in actions:
            if action.action in ("create", "replace"):
                wanted[action.name] = specs[action.name]
                problems += self._accelerated(action.name, specs[action.name])
            elif action.action == "update" and any(map(_refers, action.changes)):
                wanted[action.name] = self._whole(action.name, specs[action.name])
        if wanted:
            with self._told():
                problems += self._referring(wanted)
        return problems

    def _accelerated(self, name: str, spec: Mapping[str, Any]) -> list[Problem]:
        """Return that a new guest's accelerator is not there."""
        arch = self._capabilities().archs.get(spec["arch"])
        if arch is None or spec["accel"] in arch.accels:
            return []
        known = " or ".join(arch.accels)
        remedy = f"state accel: {arch.accels[0]}" if arch.accels else None
        return [Problem(f"{name}.accel", f"{known} for {spec['arch']}", spec["accel"], remedy)]

    def _whole(self, name: str, spec: Mapping[str, Any]) -> dict[str, Any]:
        """Return all that an updated guest will have."""
        xml = self._seen[name].detail.inactive
        return read(patch(xml, domain_keys(spec), fleet=self.fleet).xml)

    def _referring(self, wanted: Mapping[str, Mapping[str, Any]]) -> list[Problem]:
        """Return what guests refer to that is not there, or is another's."""
        connection = self._open()
        handle = connection.handle
        local = self.uri.startswith("qemu:///")
        host = Surroundings(
            networks={network.name() for network in handle.listAllNetworks()},
            pools={pool.name() for pool in handle.listAllStoragePools()},
            exists=os.path.exists if local else lambda _path: True,
        )
        problems = [p for name, spec in wanted.items() for p in absent(name, spec, host)]
        there = {domain.name() for domain in handle.listAllDomains()}
        known = {name: seen.spec or {} for name, seen in self._seen.items()}
        unread = there - set(known)
        if unread:
            found = Observer(connection).observe(unread)
            known.update((name, seen.spec or {}) for name, seen in found.items())
        others = {name: spec for name, spec in known.items() if name not in wanted}
        return problems + list(shared(wanted, others))

    def unfinished(self) -> bool:
        """Return False: a step that was cut off is seen as a difference."""
        return False

    def sweep(self) -> None:
        """Clear nothing away."""

    # What is done.

    def apply(self, actions: Sequence[Action], specs: Specs) -> list[Failure]:
        """Carry out the actions of one step and return those that failed."""
        with self._told():
            return self._apply(actions, specs)

    def _apply(self, actions: Sequence[Action], specs: Specs) -> list[Failure]:
        power = Power(self._open(), self.stop_timeout, force=self.force)
        failed: dict[tuple[str, str], str] = {}
        by_kind: dict[str, list[Action]] = {}
        for action in actions:
            by_kind.setdefault(action.action, []).append(action)

        def names(kind: str) -> list[str]:
            return [action.name for action in by_kind.get(kind, ())]

        def note(kind: str, failures: Failures) -> None:
            failed.update({(kind, name): why for name, why in failures.items()})

        note("stop", power.stop(names("stop")))
        note("adopt", self._each(names("adopt"), self._adopt))
        note("create", self._each(names("create"), lambda name: self._create(name, specs[name])))
        note("update", self._update(by_kind.get("update", ()), specs))
        note("replace", self._each(names("replace"), lambda name: self._renew(name, specs[name])))
        files = {action.name: _files(action) for action in by_kind.get("delete", ())}
        note("delete", self._each(files, lambda name: self._delete(name, files[name])))
        note("save", self._each(names("save"), lambda name: self._domain(name).managedSave(0)))
        note("pause", self._each(names("pause"), lambda name: self._domain(name).suspend()))
        note("resume", self._each(names("resume"), lambda name: self._domain(name).resume()))
        note("restart", power.restart(names("restart")))
        paused = {action.name for action in by_kind.get("start", ()) if _starts_paused(action)}
        note("start", power.start(names("start"), paused))
        return [
            Failure(action, failed[action.action, action.name])
            for action in actions
            if (action.action, action.name) in failed
        ]

    def _each(self, names: Iterable[str], work: Callable[[str], Any]) -> dict[str, str]:
        """Do it for each, and return why it failed for those for which it did."""
        libvirt = self._open().libvirt
        found = {name: attempt(libvirt, work, name) for name in names}
        return {name: why for name, why in found.items() if why is not None}

    def _define(self, xml: str) -> Any:
        connection = self._open()
        return connection.handle.defineXMLFlags(xml, connection.libvirt.VIR_DOMAIN_DEFINE_VALIDATE)

    def _mark(self, spec: Mapping[str, Any], disks: Iterable[str] = ()) -> Mark:
        protected = bool(spec.get("protected", False))
        return Mark(self.fleet, str(spec["name"]), digest(spec), tuple(disks), protected)

    def _written(self, name: str, spec: Mapping[str, Any], mark: Mark) -> str:
        keys = domain_keys(spec)
        return write(keys, name, self._capabilities().of(keys), fleet=self.fleet, mark=mark)

    def _create(self, name: str, spec: Mapping[str, Any]) -> None:
        domain = self._define(self._written(name, spec, self._mark(spec)))
        if spec.get("autostart"):
            domain.setAutostart(1)

    def _adopt(self, name: str) -> None:
        """Mark a domain as ours; what else was planned for it goes on from the marked one."""
        self._unchanged(self._domain(name), self._seen[name])
        self._put_mark(name, Mark(self.fleet, name))
        self._seen.update(Observer(self._open()).observe([name]))

    def _put_mark(self, name: str, mark: Mark) -> None:
        """Write the mark into the metadata, of the running domain too; nothing else is touched."""
        libvirt, domain = self._open().libvirt, self._domain(name)
        flags = libvirt.VIR_DOMAIN_AFFECT_CONFIG
        if domain.isActive():
            flags |= libvirt.VIR_DOMAIN_AFFECT_LIVE
        kind = libvirt.VIR_DOMAIN_METADATA_ELEMENT
        domain.setMetadata(kind, metadata(mark), PREFIX, NAMESPACE, flags)

    def _unchanged(self, domain: Any, seen: Observed) -> str:
        """Return the persistent XML; ChangedError where it is not the one that was planned for."""
        libvirt = self._open().libvirt
        now = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE | libvirt.VIR_DOMAIN_XML_INACTIVE)
        if now != seen.detail.inactive:
            raise ChangedError(
                "somebody else changed it since it was looked at",
                remedy="run again, to plan from what it is now",
            )
        return str(now)

    def _update(self, actions: Sequence[Action], specs: Specs) -> dict[str, str]:
        """Change each guest once, however many actions it takes part in."""
        parts: dict[str, list[Action]] = {}
        for action in actions:
            parts.setdefault(action.name, []).append(action)
        return self._each(parts, lambda name: self._update_one(name, specs[name], parts[name]))

    def _update_one(self, name: str, spec: Mapping[str, Any], actions: Sequence[Action]) -> None:
        seen, domain = self._seen[name], self._domain(name)
        keys = domain_keys(spec)
        now = self._unchanged(domain, seen)
        live = [
            change
            for action in actions
            for change in action.changes
            if action.when == LIVE and change.path not in KEPT
        ]
        if live and seen.detail.live is not None:
            from .live import apply_live  # compiled on the host, so only where it is needed

            running = domain.XMLDesc(self._open().libvirt.VIR_DOMAIN_XML_SECURE)
            apply_live(domain, self._open().libvirt, running, keys, live, fleet=self.fleet)
        wanted = patch(now, keys, fleet=self.fleet).xml
        if wanted != now:
            self._define(wanted)
        changed = {change.path for action in actions for change in action.changes}
        if "autostart" in changed:
            domain.setAutostart(int(bool(spec["autostart"])))
        if "protected" in changed:
            mark = seen.detail.mark or Mark(self.fleet, name)
            protected = bool(spec["protected"])
            self._put_mark(name, Mark(mark.fleet, mark.name, mark.digest, mark.disks, protected))

    def _renew(self, name: str, spec: Mapping[str, Any]) -> None:
        """Make a domain anew; the former one is put back if that fails."""
        seen, domain = self._seen[name], self._domain(name)
        former = self._unchanged(domain, seen)
        mark = seen.detail.mark
        xml = self._written(name, spec, self._mark(spec, mark.disks if mark else ()))
        self._undefine(domain)
        try:
            made = self._define(xml)
        except self._open().libvirt.libvirtError:
            self._define(former)
            raise
        if spec.get("autostart"):
            made.setAutostart(1)

    def _delete(self, name: str, files: Sequence[str]) -> None:
        """Remove a domain, after the files that go with it: a second run finds the rest."""
        domain = self._domain(name)
        if domain.isActive():
            raise ChangedError("it runs again", remedy="run again, to plan from what it is now")
        for file in files:
            with suppress(FileNotFoundError):
                os.unlink(file)
        self._undefine(domain)

    def _undefine(self, domain: Any) -> None:
        """Undefine a domain with all that libvirt keeps of it, as far as this libvirt knows it."""
        libvirt = self._open().libvirt
        basic = (
            libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
            | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
        )
        more = basic | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
        firmware = more | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
        tpm = getattr(libvirt, "VIR_DOMAIN_UNDEFINE_TPM", 0)
        for flags in (firmware | tpm, firmware, more):
            if self._knows(domain.undefineFlags, flags):
                return
        domain.undefineFlags(basic)

    def _knows(self, call: Callable[[int], Any], flags: int) -> bool:
        """Make a call with flags; return False where this libvirt does not know them."""
        libvirt = self._open().libvirt
        try:
            call(flags)
        except libvirt.libvirtError as error:
            if error.get_error_code() in (libvirt.VIR_ERR_INVALID_ARG, libvirt.VIR_ERR_NO_SUPPORT):
                return False
            raise
        return True

    # What is waited for.

    def settle(self, guests: Sequence[Declared]) -> dict[str, str]:
        """Wait for what is asked of the guests; return the reason for each that is not there."""
        from .waiting import wait_for

        with self._told():
            return wait_for(self._open(), guests)


def _refers(change: Change) -> bool:
    return change.path.startswith(("disks", "nics", "kernel", "initrd"))


def _files(action: Action) -> list[str]:
    """Return the files that the plan has taken away."""
    return [
        str(file) for change in action.changes if change.path == "files" for file in change.before
    ]


def _starts_paused(action: Action) -> bool:
    return any(change.path == "state" and change.after == PAUSED for change in action.changes)
