# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The machine types that all hosts of a fleet know, so that a guest can go to any of them. Pure."""

from __future__ import annotations

import re
from typing import Any, Iterable, Mapping

Machines = Mapping[str, Mapping[str, str]]


def _order(version: str) -> tuple[int, ...]:
    """Return what orders the versions of one family: pc-q35-10.0 comes after pc-q35-9.2."""
    return tuple(int(number) for number in re.findall(r"\d+", version))


def common(rooms: Iterable[Mapping[str, Any]]) -> Machines:
    """Return by architecture and family (q35) the newest version that every host knows.

    ``rooms`` are of the hosts that were looked at; one without machines has no libvirt, and says
    nothing of others. A family of which no version is common has none.
    """
    found: dict[str, dict[str, list[set[str]]]] = {}
    for room in rooms:
        for arch, families in (room.get("machines") or {}).items():
            for family, versions in families.items():
                found.setdefault(arch, {}).setdefault(family, []).append(set(versions))
    newest: dict[str, dict[str, str]] = {}
    for arch, families in sorted(found.items()):
        for family, known in sorted(families.items()):
            shared = set.intersection(*known)
            if shared:
                newest.setdefault(arch, {})[family] = max(sorted(shared), key=_order)
    return newest
