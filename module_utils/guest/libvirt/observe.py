# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What domains there are and how they are: a few listings, and the XML of those asked for."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Collection, Mapping, NamedTuple, Sequence

from ...virt.mark import Mark
from ..engine import ACTIVE, FAILED, PAUSED, RUNNING, SAVED, STOPPED, Observed
from ..spec import digest
from .dialect import ENGINE
from .seeding import KEY, split

if TYPE_CHECKING:
    from ...converge.answers import Answers
    from ...seed.store import Seeds
    from ...virt.connection import Connection
    from ...virt.document import Element

_FOREIGN = Mark("", "")


class Detail(NamedTuple):
    """What the engine needs of a domain: its XML at the next boot, and as it runs.

    ``seed`` is the disk of its seed at the next boot.
    """

    inactive: str
    live: str | None
    mark: Mark | None
    seed: dict[str, Any] | None = None


def _states(libvirt: Any) -> dict[int, str]:
    """Return our words for libvirt's states (virDomainState)."""
    return {
        libvirt.VIR_DOMAIN_RUNNING: RUNNING,
        libvirt.VIR_DOMAIN_BLOCKED: RUNNING,
        libvirt.VIR_DOMAIN_SHUTDOWN: RUNNING,
        libvirt.VIR_DOMAIN_PAUSED: PAUSED,
        libvirt.VIR_DOMAIN_PMSUSPENDED: PAUSED,
        libvirt.VIR_DOMAIN_SHUTOFF: STOPPED,
        libvirt.VIR_DOMAIN_CRASHED: FAILED,
    }


def state_of(libvirt: Any, domain: Any) -> str:
    """Return the state of one domain."""
    return _states(libvirt).get(domain.state()[0], STOPPED)


def owned_files(root: Element, mark: Mark | None) -> tuple[str, ...]:
    """Return the files of the disks that a domain owns.

    Never a medium, a disk that others may share, or one that is not written to.
    """
    if mark is None:
        return ()
    found = []
    for disk in root.findall("devices/disk"):
        source = disk.find("source")
        file = None if source is None else source.get("file")
        kept = any(disk.find(tag) is not None for tag in ("readonly", "shareable"))
        if file in mark.disks and disk.get("device", "disk") == "disk" and not kept:
            found.append(str(file))
    return tuple(found)


def _passing(domain: Any, state: str) -> Observed:
    return Observed(
        name=domain.name(),
        engine=ENGINE,
        state=state,
        owned=False,
        uuid=domain.UUIDString(),
        problem="it runs without a definition of its own (a transient domain)",
        remedy="define it (virsh define), or stop it and declare it again",
    )


def _read(xml: str) -> dict[str, Any]:
    """Return what a domain's XML says, as plain values."""
    from ...virt.marking import mark_of  # compiled on the host, so only where needed
    from ...virt.reader import domain_tree, read_root

    root = domain_tree(xml)
    mark = mark_of(root)
    return {
        "keys": read_root(root),
        "mark": None if mark is None else mark._asdict(),
        "files": owned_files(root, mark),
    }


class Observer:
    """Reads the domains of one connection; what is ``known`` and the same is not read again."""

    def __init__(
        self,
        connection: Connection,
        seeds: Seeds,
        answers: Answers,
        known: Mapping[str, Observed] | None = None,
    ) -> None:
        self.connection = connection
        self.seeds = seeds
        self.answers = answers
        self.libvirt = connection.libvirt
        self._secure = self.libvirt.VIR_DOMAIN_XML_SECURE
        self._stored = self._secure | self.libvirt.VIR_DOMAIN_XML_INACTIVE
        self.known = known or {}

    def _listed(self, flag: int) -> set[str]:
        return {domain.name() for domain in self.connection.handle.listAllDomains(flag)}

    def observe(self, names: Collection[str] | None = None) -> dict[str, Observed]:
        """Return the domains by name, those of the names or all."""
        libvirt, handle = self.libvirt, self.connection.handle
        flags = libvirt.VIR_DOMAIN_STATS_STATE
        stats = handle.getAllDomainStats(flags)
        wanted = [
            (domain, values) for domain, values in stats if names is None or domain.name() in names
        ]
        if not wanted:
            return {}
        autostarted = self._listed(libvirt.VIR_CONNECT_LIST_DOMAINS_AUTOSTART)
        saved = self._listed(libvirt.VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE)
        passing = self._listed(libvirt.VIR_CONNECT_LIST_DOMAINS_TRANSIENT)
        words = _states(libvirt)
        states, asked = {}, []
        for domain, values in wanted:
            name = domain.name()
            state = words.get(values.get("state.state", -1), STOPPED)
            states[name] = SAVED if state == STOPPED and name in saved else state
            if name not in passing:
                asked.append((domain, self._stored))
                if state in ACTIVE:
                    asked.append((domain, self._secure))
        texts = self._texts(asked)
        found = {}
        for domain, _ in wanted:
            name = domain.name()
            if name in passing:
                found[name] = _passing(domain, states[name])
                continue
            inactive, live = (texts.get((name, flag)) for flag in (self._stored, self._secure))
            # What another process has removed meanwhile has none.
            if inactive is not None and (live is not None or states[name] not in ACTIVE):
                autostart = name in autostarted
                found[name] = self.guest(name, states[name], inactive, live, autostart=autostart)
        return found

    def _texts(self, asked: Sequence[tuple[Any, int]]) -> dict[tuple[str, int], str]:
        """Return the XML of domains, by name and flags, of those that are still there."""
        questions = [partial(domain.XMLDesc, flags) for domain, flags in asked]
        keys = [(domain.name(), flags) for domain, flags in asked]
        found = zip(keys, self.connection.ask(questions))
        return {key: text for key, text in found if text is not None}

    def guest(
        self,
        name: str,
        state: str,
        inactive: str,
        live: str | None = None,
        *,
        autostart: bool = False,
    ) -> Observed:
        """Return a guest by its XML at its next boot, and the one that it runs with."""
        known = self.known.get(name)
        if (
            known is not None
            and known.spec is not None
            and (known.state, known.detail.inactive, known.detail.live) == (state, inactive, live)
            and known.spec["autostart"] == autostart
        ):
            return known
        found = self._meaning(inactive)
        stated = found["mark"]
        mark = None if stated is None else Mark(**{**stated, "disks": tuple(stated["disks"])})
        spec = {
            "name": name,
            "engine": ENGINE,
            "autostart": autostart,
            "protected": mark is not None and mark.protected,
            **found["keys"],
        }
        seed = self._take_seed(spec)
        return Observed(
            name=name,
            engine=ENGINE,
            state=state,
            spec=spec,
            digest=digest(spec),
            fleet=(mark or _FOREIGN).fleet,
            uuid=spec.get("uuid", ""),
            owned=mark is not None,
            files=tuple(found["files"]),
            detail=Detail(inactive, live, mark, seed),
        )

    def _meaning(self, xml: str) -> dict[str, Any]:
        """Return what a domain's XML says; read once, as long as it is the same."""
        found: dict[str, Any] | None = self.answers.find("domain", xml)
        if found is None:
            found = _read(xml)
            self.answers.keep(found, "domain", xml)
        return found

    def _take_seed(self, spec: dict[str, Any]) -> dict[str, Any] | None:
        """Take the seed out of a spec's disks, and put its documents there instead."""
        rest, disk = split(self.seeds, spec.get("disks") or ())
        if disk is None:
            return None
        spec["disks"] = rest
        if not rest:
            del spec["disks"]
        spec[KEY] = self.seeds.documents(disk["file"]) or {}
        return disk
