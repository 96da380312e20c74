# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The seed among a guest's disks: declared as documents, given to it as a read-only disk.

A disk on virtio needs no other controller and no other driver than the guest's own disks do.
cloud-init finds the seed by its label, whatever the bus is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Iterable, Iterator, Mapping, NamedTuple

from ...converge.action import NEXT_BOOT, Edit
from ...converge.errors import Problem, shown
from ...virt.identity import uuid_for

if TYPE_CHECKING:
    from ...seed.declaration import Declaration
    from ...seed.store import Seeds
    from ..engine import Observed

KEY = "cloud_init"
DISK = "seed"  # in a whole spec: the disk of the seed, None where there shall be none
_LAST = {"virtio": "vdz", "scsi": "sdz", "sata": "sdf", "ide": "hdd", "usb": "sdz"}


class Seeding(NamedTuple):
    """What a guest's seed will be, and what differs from the one that it has."""

    documents: dict[str, Any] | None
    disk: dict[str, Any] | None
    edits: tuple[Edit, ...] = ()


def split(
    seeds: Seeds, disks: Iterable[Mapping[str, Any]]
) -> tuple[list[Mapping[str, Any]], dict[str, Any] | None]:
    """Return the disks without the seed, and the seed's."""
    rest, found = [], None
    for disk in disks:
        if seeds.holds(disk.get("file")):
            found = dict(disk)
        else:
            rest.append(disk)
    return rest, found


def files(xml: str | None) -> set[str]:
    """Return the files that the disks of a domain have."""
    if not xml:
        return set()
    from ...virt.reader import read  # compiled on the host, so only where it is needed

    disks = read(xml).get("disks", ())
    return {disk["file"] for disk in disks if disk.get("file")}


def with_disk(
    seeds: Seeds, keys: Mapping[str, Any], disk: Mapping[str, Any] | None, xml: str | None
) -> dict[str, Any]:
    """Return the keys of a domain with the seed's disk behind the others, which are as they are."""
    there = keys.get("disks")
    if "disks" not in keys and xml:
        from ...virt.reader import read

        there = read(xml).get("disks")
    rest, _ = split(seeds, there or ())
    whole = [*rest, disk] if disk is not None else rest
    return {**keys, "disks": whole or None}


def _disk(declared: Declaration, former: Mapping[str, Any] | None, file: str) -> dict[str, Any]:
    bus = declared.bus
    if former is not None and former.get("bus") == bus:
        target = str(former["target"])
    else:
        target = _LAST[bus]
    return {
        "target": target,
        "bus": bus,
        "device": "disk" if bus == "virtio" else "cdrom",
        "file": file,
        "format": "raw",
        "readonly": True,
    }


def taken(declared: Declaration, disks: Any, path: str) -> Iterator[Problem]:
    """Yield the disk that has the target which the seed will have."""
    target = _LAST[declared.bus]
    for number, disk in enumerate(disks if isinstance(disks, list) else ()):
        if isinstance(disk, Mapping) and disk.get("target") == target:
            where = f"{path}.disks[{number}].target"
            yield Problem(where, "another target: this one is the seed's", shown(target))


def _macs(stated: Mapping[str, Any], seen: Observed | None, fleet: str) -> list[str] | None:
    """Return the MACs of the NICs that were stated, as they are or will be."""
    nics = stated.get("nics")
    if nics is None:
        return None
    from ...virt.nic import NICS
    from ...virt.patcher import nic_macs
    from ...virt.reader import domain_tree

    there = [] if seen is None else NICS.found(domain_tree(seen.detail.inactive))
    return nic_macs(nics, there, str(stated["name"]), fleet)


def _kept(
    seeds: Seeds, name: str, documents: dict[str, Any] | None, has: dict[str, Any]
) -> Seeding:
    """Return the seed that a guest keeps, in the folder of its name."""
    if seeds.holds(has["file"], name) or not documents:
        return Seeding(documents, has)
    disk = {**has, "file": seeds.next(name)}
    return Seeding(documents, disk, (Edit(f"{KEY}.file", has["file"], disk["file"], NEXT_BOOT),))


def seeding(
    seeds: Seeds, stated: Mapping[str, Any], seen: Observed | None, fleet: str
) -> Seeding | None:
    """Return what the seed of a guest will be, None where it never had one and needs none."""
    has = None if seen is None else seen.detail.seed
    former = None if has is None or seen is None else (seen.spec or {}).get(KEY)
    declared = stated.get(KEY)
    own = has is not None and seeds.holds(has["file"], str(stated["name"]))
    if KEY not in stated:
        return None if has is None else _kept(seeds, str(stated["name"]), former, has)
    if declared is None and has is None:
        return None
    from ...seed import documents as texts  # compiled on the host, so only where there are seeds
    from ...seed.declaration import Declaration

    if declared is None:
        gone = Edit(KEY, texts.masked(former or {}), None, NEXT_BOOT)
        return Seeding(None, None, (gone,))
    if not isinstance(declared, Declaration):  # as it was observed, for a guest that is made anew
        wanted = declared
        declared = Declaration()
    else:
        name = str(stated["name"])
        known = seen.uuid if seen is not None else uuid_for(name, fleet)
        uuid = str(stated.get("uuid") or known)
        macs = _macs(stated, seen, fleet)
        wanted = texts.documents(declared, name, uuid, macs, former)
    moved = has is not None and has.get("bus") != declared.bus
    if has is not None and own and former == wanted and not moved:
        return Seeding(wanted, has)
    disk = _disk(declared, has, seeds.next(str(stated["name"])))
    edits = [Edit(*change, NEXT_BOOT) for change in texts.changes(former or {}, wanted)]
    if has is not None and moved:
        edits.append(Edit(f"{KEY}.bus", has.get("bus"), declared.bus, NEXT_BOOT))
    if not edits:
        # It was not whole, or is the one of a name that the guest has no more.
        before = has["file"] if has is not None and not own else None
        edits.append(Edit(f"{KEY}.file", before, disk["file"], NEXT_BOOT))
    return Seeding(wanted, disk, tuple(edits))


def told(
    edits: Iterable[Edit],
    found: Seeding | None,
    has: Mapping[str, Any] | None,
    *,
    running: bool = False,
) -> list[Edit]:
    """Return a domain's differences, those of the seed's disk told as the seed's own.

    Of a ``running`` domain, which goes on with the seed that it was started with, it is one.
    """
    disk = None if found is None else found.disk
    labels = tuple(f"disks[{one['target']}]" for one in (has, disk) if one)
    kept: list[Edit] = []
    differs = False
    for edit in edits:
        if labels and edit.path.startswith(labels):
            differs = True
        else:
            kept.append(edit)
    if not running:
        return [*kept, *(found.edits if found else ())]
    if differs:
        before, after = (None if one is None else one["file"] for one in (has, disk))
        kept.append(Edit(KEY, before if before != after else None, after, NEXT_BOOT))
    return kept
