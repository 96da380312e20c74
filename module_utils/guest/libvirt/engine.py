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
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Collection, Iterator, Mapping, Sequence

from ...converge.errors import VirtfleetError
from ...seed.store import Seeds
from ...virt.connection import LOCAL_URI, LOST, ConnectError, Connection, said
from ..engine import RUNNING, SAVED, STOPPED, Host, Observed
from .dialect import ENGINE, LibvirtDialect
from .observe import Observer
from .renewals import Renewals
from .seeding import files as files_in

if TYPE_CHECKING:
    from ...converge.action import Action
    from ...converge.answers import Answers
    from ...converge.errors import Problem
    from ...virt.document import Element
    from ..engine import Failure
    from ..spec import Declared
    from .capabilities import HostCapabilities

Specs = Mapping[str, Mapping[str, Any]]


def _tree(xml: str) -> Element:
    from ...virt.document import tree  # compiled on the host, so only where it is needed

    return tree(xml)


def _folder(word: str, uri: str) -> str:
    """Return the folder of a libvirt's own: one of a host knows nothing of the others."""
    return word if uri == LOCAL_URI else f"{word}-{sha256(uri.encode()).hexdigest()[:8]}"


class LibvirtEngine:
    """Guests that libvirt keeps.

    Where libvirt is ``optional``, none at all reads as no guests. So it is in check mode, where an
    earlier task of the same run would install it. The files of ``local`` guests lie on this very
    host, which the URI says where it is not said here; their seeds below ``state``. ``chosen`` are
    by architecture and family of machines the versions that new guests get.
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
        local: bool | None = None,
        state: str = "/var/lib/virtfleet",
        antispoofing: bool = True,
    ) -> None:
        self.uri = uri
        self.fleet = fleet
        self.stop_timeout = stop_timeout
        self.force = force
        self.chosen: Mapping[str, Mapping[str, str]] = {}
        self.optional = optional
        self._connection: Connection | None = None
        self._absent = False
        self.seen: dict[str, Observed] = {}
        self.warnings: list[str] = []
        # Asked of each guest: the host is asked once.
        self.machines = lru_cache(maxsize=None)(self._read_capabilities)
        self.memory = lru_cache(maxsize=None)(self._read_memory)
        self.local = uri.startswith("qemu:///") if local is None else local
        self._met: dict[str, list[str]] = {}
        self.seeds = Seeds(os.path.join(state, _folder("seeds", uri)))
        self.renewals = Renewals(os.path.join(state, _folder("renewals", uri)))
        self._dialect = LibvirtDialect(
            self.machines,
            self.memory,
            self.seeds,
            volume=lru_cache(maxsize=None)(self._find_volume),
            bridged=lru_cache(maxsize=None)(self._leads_to_a_bridge),
            filters=lru_cache(maxsize=None)(self._has_filters if antispoofing else bool),
            fleet=fleet,
            local=self.local,
        )

    def remember(self, answers: Answers) -> None:
        """Have what was found out before asked of the answers."""
        self._dialect.answers = answers

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
            if connection.is_lost():
                raise VirtfleetError(f"{LOST} ({said(error)})") from error
            raise VirtfleetError(f"libvirt: {said(error)}") from error

    def _domain(self, name: str) -> Any:
        return self._open().handle.lookupByName(name)

    # What there is.

    def host(self, name: str) -> Host:
        """Return the facts of this host, under its inventory name."""
        return Host(name, f"/boot/vmlinuz-{os.uname().release}", supervised=True)

    def _read_capabilities(self) -> HostCapabilities:
        from .capabilities import HostCapabilities, read_capabilities

        connection = self.connection()
        if connection is None:
            return HostCapabilities()
        handle = connection.handle
        with self._told():
            found = read_capabilities(handle.getCapabilities(), self.memory())
        return found.among(self.chosen)

    def _read_memory(self) -> int | None:
        """Return the whole MiB that this host has, in bytes; None without libvirt."""
        connection = self.connection()
        if connection is None:
            return None
        with self._told():
            return int(connection.handle.getInfo()[1]) << 20

    def _find_volume(self, pool: str, name: str) -> dict[str, Any] | None:
        """Return the source of a disk on a volume; None where that cannot be said."""
        connection = self.connection()
        if connection is None:
            return None
        from .volumes import find  # compiled on the host, so only where it is needed

        return find(connection.libvirt, connection.handle, pool, name)

    def _leads_to_a_bridge(self, network: str) -> bool:
        """Return whether guests of a network are on a bridge of the host, among strangers."""
        connection = self.connection()
        if connection is None:
            return False
        try:
            root = _tree(connection.handle.networkLookupByName(network).XMLDesc(0))
        except connection.libvirt.libvirtError:
            return False  # an earlier task may make it yet; preflight says what is missing
        forward = root.find("forward")
        on_bridge = forward is not None and forward.get("mode") == "bridge"
        return on_bridge and root.find("bridge") is not None and root.find("virtualport") is None

    def _has_filters(self) -> bool:
        """Return whether this libvirt has network filters, and warn where it has none."""
        connection = self.connection()
        if connection is None:
            return True  # an earlier task installs it
        try:
            connection.handle.numOfNWFilters()
        except connection.libvirt.libvirtError as error:
            if connection.is_lost():
                raise
            self.warnings.append(
                f"guests on bridges may send from any address: this libvirt has no network filters"
                f" ({said(error)}); install its driver nwfilter, or state antispoofing: false"
            )
            return False
        return True

    def capabilities(self) -> dict[str, Any]:
        """Return what libvirt can do here, as plain values."""
        if self.connection() is None:
            return {"available": False}
        return {"available": True, "uri": self.uri, **self.machines().to_dict()}

    def room(self) -> dict[str, Any] | None:
        """Return what this host has for guests, None without libvirt."""
        from .room import room

        connection = self.connection()
        if connection is None:
            return None
        with self._told():
            return room(connection)

    def dialect(self) -> LibvirtDialect:
        """Return how guests are declared on this host."""
        return self._dialect

    def observer(self, known: Mapping[str, Observed] | None = None) -> Observer:
        """Return what reads domains; what is ``known`` and the same it does not read again."""
        return Observer(self._open(), self.seeds, self._dialect.answers, known)

    def observe(self, names: Collection[str] | None = None) -> dict[str, Observed]:
        """Return the domains of this host by name, those of the names or all."""
        connection = self.connection()
        known, self.seen = self.seen, {}
        if connection is not None:
            with self._told():
                observer = self.observer(known)
                self.seen = observer.observe(names)
                for name, xml in self.renewals.pending().items():
                    wanted = names is None or name in names
                    if wanted and name not in self.seen and not self._is_there(name):
                        self.seen[name] = observer.guest(name, STOPPED, xml)
        return self.seen

    def _is_there(self, name: str) -> bool:
        found = []
        with self._open().passing():
            found.append(self._domain(name))
        return bool(found)

    def console(self, name: str, limit: int) -> bytes:
        """Return nothing: what a domain writes to its console goes where its definition says."""
        del name, limit
        return b""

    def status(self, name: str) -> dict[str, Any] | None:
        """Return what a running domain uses."""
        from .usage import usage

        libvirt = self._open().libvirt
        try:
            ((_, values),) = self._open().handle.domainListGetStats([self._domain(name)], 0)
        except libvirt.libvirtError:
            return None
        return usage(values)

    def running(self, seen: Observed) -> tuple[dict[str, Any] | None, bool]:
        """Return what runs, and whether it differs from what a start would bring."""
        if seen.detail is None or seen.detail.live is None:
            return None, False
        return self._dialect.running(seen)

    def addresses(self, name: str) -> list[str]:
        """Return the addresses of a running guest: leased, told by its agent, or seen by ARP."""
        from .waiting import addresses_of

        seen, libvirt = self.seen.get(name), self._open().libvirt
        if seen is None or seen.state != RUNNING:
            return []
        # A lease may be hidden while its file is written anew: what was seen in waiting counts too.
        met = self._met.get(name, [])
        try:
            return addresses_of(libvirt, self._domain(name)) or met
        except libvirt.libvirtError:
            return met  # it went away in the meantime

    # What could not work.

    def preflight(
        self, actions: Sequence[Action], specs: Specs, *, check_mode: bool
    ) -> list[Problem]:
        """Return why actions of the plan could not work."""
        connection = self.connection()
        if connection is None or not actions:
            return []
        from .preflight import Preflight  # compiled on the host, so only where it is needed

        with self._told():
            preflight = Preflight(self, connection, check_mode=check_mode)
            return preflight.problems(actions, specs)

    def _used_seeds(self, *, anew: bool) -> dict[str, set[str] | None]:
        """Return the seeds that each guest with a folder of seeds has, None where that is unknown.

        One that runs has the seed that it was started with too, and what one with saved memory
        will go on with is not told. One that got another name may yet have a seed of the former.
        What was observed may be old by now: it is asked ``anew``.
        """
        guests = self.seeds.guests() if self.local else []
        connection = self.connection() if guests else None
        if connection is None:
            return {}
        with self._told():
            domains = connection.handle.listAllDomains()
            there = {domain.name() for domain in domains}
            lost = [name for name in guests if name not in there]
            held = self._files_of(domains) if lost else set()
            ours = [name for name in guests if name in self.seen]
            seen = self.seen
            if anew and ours:
                seen = self.observer().observe(ours)
        found: dict[str, set[str] | None] = {name: None for name in guests if name in there}
        found.update(dict.fromkeys(lost, held))
        for name in ours:
            one = seen.get(name)
            if one is not None and one.detail is not None and one.state != SAVED:
                used = {one.detail.seed["file"]} if one.detail.seed is not None else set()
                # All of a running guest's XML is read only where there is something else.
                if self.seeds.unused(name, used):
                    used |= files_in(one.detail.live)
                found[name] = used
        return found

    def _files_of(self, domains: Sequence[Any]) -> set[str]:
        """Return the files that domains have, now or at their next boot."""
        connection, found = self._open(), set()
        for domain in domains:
            for flags in (0, connection.libvirt.VIR_DOMAIN_XML_INACTIVE):
                with connection.passing():
                    found |= files_in(domain.XMLDesc(flags))
        return found

    def unfinished(self) -> bool:
        """Return whether a guest or an image was left half made, or a seed that no guest has.

        All else is seen as a difference.
        """
        if self.renewals.pending() or any(map(os.path.exists, self._halves())):
            return True
        seeds = self._used_seeds(anew=False).items()
        return any(used is not None and self.seeds.unused(name, used) for name, used in seeds)

    def sweep(self) -> None:
        """Finish guests that were being made anew, and clear away what nobody has.

        That is half-made images, and seeds.
        """
        for name, xml in self.renewals.pending().items():
            with self._told():
                if not self._is_there(name):
                    self._open().handle.defineXML(xml)
            self.renewals.end(name)
        for half in self._halves():
            with suppress(FileNotFoundError):
                os.unlink(half)
        for name, used in self._used_seeds(anew=True).items():
            if used is not None:
                self.seeds.tidy(name, used)

    def _halves(self) -> list[str]:
        """Return where images of guests would be left: each is its guest's before it is made."""
        details = (seen.detail for seen in self.seen.values() if seen.detail is not None)
        marks = [detail.mark for detail in details if detail.mark is not None]
        files = [file for mark in marks for file in mark.disks]
        if not (files and self.local):
            return []
        from .images import unfinished

        return [unfinished(file) for file in files]

    # What is done.

    def apply(self, actions: Sequence[Action], specs: Specs) -> list[Failure]:
        """Carry out the actions of one step and return those that failed."""
        from .apply import Applier

        with self._told():
            return Applier(self, self._open()).apply(actions, specs)

    def settle(self, guests: Sequence[Declared]) -> dict[str, str]:
        """Wait for what is asked of the guests; return the reason for each that is not there."""
        from .waiting import wait_for

        with self._told():
            return wait_for(self._open(), guests, self._met)
