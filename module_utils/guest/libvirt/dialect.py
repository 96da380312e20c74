# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a guest of libvirt is declared: the keys of virt/'s table, and what differs from a domain.

The table is compiled on the host, which takes as long as a hundred guests do: it is imported where
it is needed, and that is not where all answers are known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Mapping, Sequence

from ...converge.action import LIVE, NEXT_BOOT, REPLACE, Change, Edit
from ...converge.answers import Answers
from ...converge.compare import compare
from ...converge.errors import Problem, shown, unknown
from ...converge.secrets import concealed
from ...units import UnitError, format_size, parse_duration, parse_size
from ..engine import ACTIVE, Differences
from ..spec import (
    ABSENT,
    ASKED,
    CALLED,
    KEPT,
    PAUSED,
    PRESENT,
    RESTARTED,
    RUNNING,
    SAVED,
    STOPPED,
    WAS,
    Reader,
)
from . import seeding
from .antispoofing import guarded

if TYPE_CHECKING:
    from ...seed.store import Seeds
    from ..engine import Observed
    from .capabilities import HostCapabilities

ENGINE = "libvirt"
WAITS = ("running", "agent", "address", "ssh")
_COMMON = (*CALLED, "engine", *KEPT, seeding.KEY, seeding.DISK)
_EQUAL = "equal"  # the answer to what differs


def guest_keys() -> tuple[str, ...]:
    """Return every key that a guest's entry may have."""
    from ...virt.domain import KEYS, XML

    return (*CALLED, "engine", *ASKED, *KEPT, seeding.KEY, *KEYS, XML)


def domain_keys(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a spec says of the domain's XML, but for the disk of its seed."""
    return {key: value for key, value in spec.items() if key not in _COMMON}


class _Asked(Reader):
    """Reads what is asked for besides the definition."""

    def wait_for(self, path: str, value: object) -> str:
        """Return what is waited for."""
        if not (isinstance(value, str) and value in WAITS):
            self.problems.append(unknown(path, value, "what can be waited for", WAITS))
        return str(value)

    def wait_timeout(self, path: str, value: object) -> float:
        """Return for how many seconds."""
        try:
            return parse_duration(value)
        except UnitError:
            self.refuse(path, "a duration with a unit such as 30s", value)
            return 0.0


class LibvirtDialect:
    """The dialect of libvirt's guests on one host.

    ``host`` returns what it can run: asked only when a guest is made. ``memory`` returns how many
    bytes it has, None where that is not known, and ``volume`` where a volume of a pool lies. The
    images and seeds of guests are looked at where they are ``local``. ``bridged`` tells whether a
    network leads to a bridge of the host, ``filters`` whether NICs there get a filter. What was
    found out before is asked of its ``answers``.
    """

    engine = ENGINE
    states = (PRESENT, RUNNING, STOPPED, PAUSED, RESTARTED, SAVED, ABSENT)
    autostarts = True

    def __init__(
        self,
        host: Callable[[], HostCapabilities],
        memory: Callable[[], int | None],
        seeds: Seeds,
        *,
        volume: Callable[[str, str], dict[str, Any] | None] = lambda _pool, _name: None,
        bridged: Callable[[str], bool] = lambda _network: False,
        filters: Callable[[], bool] = lambda: False,
        fleet: str = "local",
        local: bool = True,
    ) -> None:
        self.host = host
        self.memory = memory
        self.seeds = seeds
        self.answers = Answers()
        self.volume = volume
        self.bridged = bridged
        self.filters = filters
        self.fleet = fleet
        self.local = local
        self._known: dict[str, tuple[Observed, dict[str, Any], Differences]] = {}

    @property
    def keys(self) -> Sequence[str]:
        """Every key that an entry may have."""
        return guest_keys()

    def read(
        self,
        entry: Mapping[Any, Any],
        path: str,
        problems: list[Problem],
        *,
        new: bool,
        removed: bool,
    ) -> dict[str, Any]:
        """Return the keys of an entry in canonical form."""
        reader = _Asked(problems)
        found: dict[str, Any] = {}
        for key in ASKED:
            if key in entry:
                read: Callable[[str, object], Any] = getattr(reader, key, reader.flag)
                found[key] = read(f"{path}.{key}", entry[key])
        before = len(problems)
        rest = {key: value for key, value in entry.items() if key not in ASKED}
        rest, first_boot = _first_boot(rest, path, problems)
        stated = {**self._checked(rest, path, problems, new=new), **first_boot}
        if len(problems) == before and not removed:
            self._limits(stated, path, problems)
            if not self.local:
                problems += _out_of_reach(stated, path)
        return {**found, **stated}

    def _checked(
        self, entry: Mapping[Any, Any], path: str, problems: list[Problem], *, new: bool
    ) -> dict[str, Any]:
        """Return the table's keys of an entry in canonical form."""
        question = ("entry", new, entry)
        known: dict[str, Any] | None = self.answers.find(*question)
        if known is not None:
            return known
        from ...virt.check import check

        before = len(problems)
        found = check(entry, path, problems, new=new, also=(seeding.KEY,))
        if self.answers.path and len(problems) == before and self.masked(found) == found:
            self.answers.keep(found, *question)
        return found

    def _limits(self, stated: Mapping[str, Any], path: str, problems: list[Problem]) -> None:
        """Refuse what the host does not have."""
        memory = stated.get("memory")
        most = None if memory is None else self.memory()
        if most is not None and parse_size(memory) > most:
            expected = f"at most the {format_size(most)} of memory that this host has"
            problems.append(Problem(f"{path}.memory", expected, shown(memory)))
        arch = stated.get("arch")
        archs = {} if arch is None else self.host().archs
        if archs and arch not in archs:
            known = tuple(sorted(archs))
            problems.append(unknown(f"{path}.arch", arch, "one that QEMU has here", known))

    def complete(self, stated: Mapping[str, Any], seen: Observed | None) -> dict[str, Any]:
        """Return the whole spec of a new guest; of one that is there what is stated of it."""
        stated = self._whole(stated, seen)
        if seen is not None:
            return self._seeded(dict(stated), stated, seen)
        common = {"name": stated["name"], "engine": ENGINE}
        from ...virt.writer import complete  # compiled on the host, so only for a new guest

        common.update((key, stated.get(key, default)) for key, default in KEPT.items())
        keys = domain_keys(stated)
        return self._seeded({**common, **complete(keys, self.host().of(keys))}, stated, None)

    def _seeded(
        self, spec: dict[str, Any], stated: Mapping[str, Any], seen: Observed | None
    ) -> dict[str, Any]:
        """Add to a whole spec what its seed will be."""
        spec.pop(seeding.KEY, None)
        found = seeding.seeding(self.seeds, stated, seen, self.fleet)
        if found is not None:
            spec[seeding.DISK] = found.disk
            if found.documents is not None:
                spec[seeding.KEY] = found.documents
        return spec

    def placed(self, stated: Mapping[str, Any], seen: Observed | None) -> Mapping[str, Any]:
        """Return what was stated with the files and devices of volumes in place of their names.

        AppArmor's profiles are made from a domain's XML and know no pools: QEMU is kept from a
        volume that only its name is written of (libvirt: virt-aa-helper). One that a domain names
        already is left as it is.
        """
        disks = stated.get("disks") or ()
        if not any(disk.get("volume") for disk in disks):
            return stated
        there = ((None if seen is None else seen.spec) or {}).get("disks") or ()
        named = {disk.get("target"): disk["volume"] for disk in there if disk.get("volume")}
        return {**stated, "disks": [self._place(disk, named) for disk in disks]}

    def _place(self, disk: Mapping[str, Any], named: Mapping[Any, Any]) -> Mapping[str, Any]:
        source = disk.get("volume")
        # How a LUN is reached is libvirt's to choose where a mode is stated.
        if not source or source.get("mode") or _named(source, named.get(disk.get("target"))):
            return disk
        found = self.volume(source["pool"], source["volume"])
        if found is None:
            return disk
        stated = {key: value for key, value in disk.items() if key != "volume"}
        return {**found, **stated}

    def _whole(self, stated: Mapping[str, Any], seen: Observed | None) -> Mapping[str, Any]:
        """Return what was stated, with what follows from it.

        That is where volumes lie, the filters of the NICs that are on bridges, and the identity of
        a guest that had another name before: it follows from that one, whenever it is made.
        """
        stated = guarded(self.placed(stated, seen), seen, self.bridged, self.filters)
        if WAS not in stated:
            return stated
        from ...virt.identity import uuid_for
        from ...virt.patcher import with_macs
        from ...virt.reader import domain_tree

        there = domain_tree("<domain/>" if seen is None else seen.detail.inactive)
        whole = with_macs(there, stated, stated[WAS], self.fleet)
        return whole if seen is not None else {"uuid": uuid_for(stated[WAS], self.fleet), **whole}

    def keys_of(self, spec: Mapping[str, Any], xml: str | None) -> dict[str, Any]:
        """Return what a whole spec says of the XML of a domain that is there, or will be."""
        keys = domain_keys(spec)
        if seeding.DISK not in spec:
            return keys
        return seeding.with_disk(self.seeds, keys, spec[seeding.DISK], xml)

    def masked(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """Return a spec as it may be shown: without passwords."""
        from ...seed.documents import masked
        from ...virt.domain import FIELDS, XML

        masks: dict[str, Callable[[Any], Any]] = {one.key: one.masked for one in FIELDS}
        masks[XML] = concealed
        masks[seeding.KEY] = masked
        return {
            key: masks[key](value) if key in masks and value is not None else value
            for key, value in spec.items()
            if key != seeding.DISK
        }

    def differences(self, stated: Mapping[str, Any], seen: Observed) -> Differences:
        """Return what differs from the domain, running and at its next boot.

        A plan is made twice, before and under the lock: for the same question the answer is kept.
        """
        known = self._known.get(seen.name)
        if known is not None and known[0] is seen and known[1] == stated:
            return known[2]
        found = self._differences(stated, seen)
        self._known[seen.name] = (seen, dict(stated), found)
        return found

    def running(self, seen: Observed) -> tuple[dict[str, Any], bool]:
        """Return the definition that a domain runs with, and whether it waits for a start anew."""
        from ...virt.patcher import differences
        from ...virt.reader import domain_tree, read_root

        root = domain_tree(seen.detail.live)
        live = read_root(root)
        stored = domain_keys(seen.spec or {})
        gone = {key: None for key in live if key not in stored}
        keys = seeding.with_disk(self.seeds, {**gone, **stored}, seen.detail.seed, None)
        found = differences(seen.detail.live, keys, fleet=self.fleet)
        if live.get("disks"):
            live["disks"] = seeding.split(self.seeds, live["disks"])[0]
        return live, any(edit.when == NEXT_BOOT for edit in _unexpanded(found, stored))

    def _edits(self, xml: str, keys: Mapping[str, Any]) -> Sequence[Edit]:
        """Return what differs between the keys of a domain and its XML."""
        question = ("differences", self.fleet, keys, xml)
        if self.answers.find(*question) == _EQUAL:
            return ()
        from ...virt.patcher import differences

        found = differences(xml, keys, fleet=self.fleet)
        if not found:
            self.answers.keep(_EQUAL, *question)
        return found

    def _differences(self, stated: Mapping[str, Any], seen: Observed) -> Differences:
        stated = self._whole(stated, seen)
        common = {key: stated[key] for key in KEPT if key in stated}
        kept = [Edit(c.path, c.before, c.after, LIVE) for c in compare(common, seen.spec)]
        seed, has = seeding.seeding(self.seeds, stated, seen, self.fleet), seen.detail.seed
        plain = domain_keys(stated)

        def differing(xml: str, *, running: bool) -> list[Edit]:
            keys = plain
            if seed is not None:
                keys = seeding.with_disk(self.seeds, plain, seed.disk, xml)
            return seeding.told(self._edits(xml, keys), seed, has, running=running)

        stored = differing(seen.detail.inactive, running=False)
        grown, refused = _sizes(plain, seen)
        if seen.state not in ACTIVE or seen.detail.live is None:
            return Differences((*kept, *stored, *grown), refused=refused)
        running = _unexpanded(differing(seen.detail.live, running=True), plain)
        edits, restart = _settled(stored, running)
        return Differences((*kept, *edits, *grown), restart, refused)


def _named(source: Mapping[str, Any], there: Mapping[str, Any] | None) -> bool:
    """Return whether a disk names this very volume already."""
    keys = ("pool", "volume")
    return there is not None and all(source.get(key) == there.get(key) for key in keys)


# What libvirt replaces by the model that it has found when it starts a guest with host-model.
_EXPANDED = ("cpu.mode", "cpu.match", "cpu.check", "cpu.model", "cpu.fallback", "cpu.vendor")


def _unexpanded(running: Sequence[Edit], stated: Mapping[str, Any]) -> list[Edit]:
    """Leave out that a guest with the host's model runs with the one that this meant."""
    cpu = stated.get("cpu") or {}
    expanded = any(edit.path == "cpu.mode" and edit.before == "custom" for edit in running)
    if cpu.get("mode") != "host-model" or not expanded:
        return list(running)
    return [edit for edit in running if edit.path not in _EXPANDED]


def _first_boot(
    entry: Mapping[Any, Any], path: str, problems: list[Problem]
) -> tuple[dict[Any, Any], dict[str, Any]]:
    """Return an entry without what is for its first boot, and that."""
    nics = entry.get("nics")
    rest = {key: value for key, value in entry.items() if key != seeding.KEY}
    ips: list[Any] | None = None
    if isinstance(nics, list):
        ips = [nic.get("ip") if isinstance(nic, Mapping) else None for nic in nics]
        rest["nics"] = [
            {key: value for key, value in nic.items() if key != "ip"}
            if isinstance(nic, Mapping)
            else nic
            for nic in nics
        ]
    if seeding.KEY not in entry:
        for number, ip in enumerate(ips or ()):
            if ip is not None:
                expected = "cloud_init beside it, which brings it into the guest"
                problems.append(Problem(f"{path}.nics[{number}].ip", expected, "none"))
        return rest, {}
    from ...seed.declaration import read

    declared = read(entry[seeding.KEY], ips, path, problems)
    if declared is not None:
        problems += seeding.taken(declared, entry.get("disks"), path)
    return rest, {seeding.KEY: declared}


def _out_of_reach(stated: Mapping[str, Any], path: str) -> list[Problem]:
    """Return what another host would have to make: the sizes of disks, and a seed."""
    keys = [
        f"{path}.disks[{number}].size"
        for number, disk in enumerate(stated.get("disks") or ())
        if disk.get("size") is not None
    ]
    if stated.get(seeding.KEY) is not None:
        keys.append(f"{path}.{seeding.KEY}")
    return [Problem(key, "the libvirt of this host", "another one's") for key in keys]


def _sizes(
    stated: Mapping[str, Any], seen: Observed
) -> tuple[tuple[Edit, ...], tuple[tuple[str, str], ...]]:
    """Return which images have to be made or grown, and why some cannot be."""
    if all(disk.get("size") is None for disk in stated.get("disks") or ()):
        return (), ()
    from .images import ImageError, capacity, images

    there = (seen.spec or {}).get("disks") or ()
    wanted, without = images(stated, there)
    refused = [
        (f"disks[{target}].size: its image is no file", "leave size out, and grow it where it is")
        for target in without
    ]
    edits = []
    files = {disk.get("target"): disk.get("file") for disk in there}
    for image in wanted:
        try:
            have = capacity(image.file, image.format)
        except (ImageError, OSError) as error:
            refused.append((f"{image.path}: {error}", "see that the format is the image's own"))
            continue
        has = files.get(image.target) == image.file
        size = format_size(image.size)
        if have is not None and have > image.size:
            reason = f"{image.path}: its image of {format_size(have)} would shrink to {size}"
            refused.append((reason, "state at least that: an image is never made smaller"))
        elif has and (have is None or have < image.size):
            before = None if have is None else format_size(have)
            edits.append(Edit(image.path, before, size, LIVE))
            if have is None and seen.state in ACTIVE:
                reason = f"{image.path}: it runs, and {image.file} is gone"
                refused.append((reason, "save what it still has, and stop it"))
            elif seen.state == SAVED:
                reason = f"{image.path}: its saved memory knows the disk as it is"
                refused.append((reason, "ask for state: running first"))
    return tuple(edits), tuple(refused)


def _settled(
    stored: Sequence[Edit], running: Sequence[Edit]
) -> tuple[tuple[Edit, ...], tuple[Change, ...]]:
    """Return what to do, and what only a start anew brings.

    What differs in the running domain and can be changed there is changed there, and made
    persistent. What differs in the persistent definition alone is written there.
    """
    unstored = {edit.path for edit in stored}
    # Memory that was asked back already comes when the guest's balloon gives it, if it has one.
    asked = {"memory"} - unstored
    live = [edit for edit in running if edit.when == LIVE and edit.path not in asked]
    done = {edit.path for edit in live}
    later = [
        Edit(edit.path, edit.before, edit.after, REPLACE if edit.when == REPLACE else NEXT_BOOT)
        for edit in stored
        if edit.path not in done
    ]
    restart = [
        Change(edit.path, edit.before, edit.after)
        for edit in running
        if edit.when == NEXT_BOOT or edit.path in asked
    ]
    return (*live, *later), tuple(restart)
