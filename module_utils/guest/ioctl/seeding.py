# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The seed of a guest of the helper: its documents are kept with it, the definition has its file.

A definition may be read by everybody, and a seed may hold secrets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Mapping, NamedTuple

from ...converge.action import NEXT_BOOT, Edit
from ...converge.errors import Problem
from ...seed import documents as texts
from ...seed.declaration import Declaration
from ...virt.identity import uuid_for
from ..spec import WAS

if TYPE_CHECKING:
    from ...seed.store import Seeds
    from ..engine import Observed

KEY = "cloud_init"
FILE = "seed"


class Seeding(NamedTuple):
    """What a guest's seed will be, and what differs from the one that it has."""

    documents: dict[str, Any] | None
    file: str | None
    edits: tuple[Edit, ...] = ()


def read(
    entry: Mapping[Any, Any], path: str, problems: list[Problem]
) -> tuple[dict[Any, Any], dict[str, Any]]:
    """Return an entry without what is for its first boot, and that."""
    nics = entry.get("nics")
    rest = {key: value for key, value in entry.items() if key != KEY}
    ips: list[Any] | None = None
    if isinstance(nics, list):
        ips = [nic.get("ip") if isinstance(nic, Mapping) else None for nic in nics]
        rest["nics"] = [
            {key: value for key, value in nic.items() if key != "ip"}
            if isinstance(nic, Mapping)
            else nic
            for nic in nics
        ]
    if KEY not in entry:
        for number, ip in enumerate(ips or ()):
            if ip is not None:
                expected = "cloud_init beside it, which brings it into the guest"
                problems.append(Problem(f"{path}.nics[{number}].ip", expected, "none"))
        return rest, {}
    from ...seed import declaration

    declared = declaration.read(entry[KEY], ips, path, problems)
    if declared is not None and declared.bus != "virtio":
        problems.append(Problem(f"{path}.{KEY}.bus", "virtio, as its other disks", declared.bus))
    return rest, {KEY: declared}


def seeding(
    seeds: Seeds | None,
    stated: Mapping[str, Any],
    seen: Observed | None,
    fleet: str,
    whole: Mapping[str, Any],
) -> Seeding | None:
    """Return what the seed of a guest will be, None where it has none and needs none.

    ``whole`` is its whole spec, whose NICs have MACs.
    """
    there = {} if seen is None else seen.spec or {}
    file, former = there.get(FILE), there.get(KEY)
    name = str(stated["name"])
    # One of a name that the guest has no more goes to the folder of its own.
    moved = file is not None and seeds is not None and not seeds.holds(file, name)
    if KEY not in stated:
        if not (moved and seeds and former):
            return None if file is None else Seeding(former, file)
        other = seeds.next(name)
        return Seeding(former, other, (Edit(f"{KEY}.file", file, other, NEXT_BOOT),))
    declared = stated[KEY]
    if declared is None:
        if file is None:
            return None
        gone = Edit(KEY, texts.masked(former or {}), None, NEXT_BOOT)
        return Seeding(None, None, (gone,))
    if isinstance(declared, Declaration):
        first = str(stated.get(WAS) or name)
        uuid = seen.uuid if seen is not None and seen.uuid else uuid_for(first, fleet)
        macs = [nic["mac"] for nic in whole.get("nics") or ()] if "nics" in stated else None
        wanted = texts.documents(declared, name, uuid, macs, former)
    else:  # as it was observed, for a guest that is made anew
        wanted = dict(declared)
    if file is not None and former == wanted and not moved:
        return Seeding(wanted, file)
    made = None if seeds is None else seeds.next(name)
    edits = [Edit(*change, NEXT_BOOT) for change in texts.changes(former or {}, wanted)]
    if not edits:
        edits.append(Edit(f"{KEY}.file", file if moved else None, made, NEXT_BOOT))
    return Seeding(wanted, made, tuple(edits))


def masked(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return a spec as it may be shown: without what may be secret in a seed."""
    found = {key: value for key, value in spec.items() if key not in (KEY, FILE, WAS)}
    if spec.get(KEY) is not None:
        found[KEY] = texts.masked(spec[KEY])
    return found
