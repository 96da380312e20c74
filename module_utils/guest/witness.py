# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host remembers of a fleet: where each of its guests was last seen.

One small file, written at once, before anything of a plan is carried out: a host that goes away in
the middle of a run is then known to have had its part. Each plan has a number, one more than the
newest that any host knew. A host takes the plans of two runs with the same number from one of them
alone, so that of two runs at once neither makes a guest that the other makes elsewhere.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Mapping

from ..converge.errors import InputError, Problem, VirtfleetError, shown
from ..kvm.layout import make_folder

if TYPE_CHECKING:
    from ..kvm.layout import Layout


def _path(layout: Layout) -> str:
    return os.path.join(layout.state, "witness.json")


def read(layout: Layout) -> dict[str, Any]:
    """Return what is remembered, by fleet.

    Nothing where the file cannot be read: where nothing is known, less is done, never more.
    """
    try:
        with open(_path(layout), encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {fleet: one for fleet, one in found.items() if isinstance(one, dict)}


def check(witness: Mapping[Any, Any]) -> None:
    """Refuse what no plan of a fleet has made; InputError."""
    serial, guests = witness.get("serial"), witness.get("guests")
    if not isinstance(serial, int) or isinstance(serial, bool) or serial < 1:
        raise InputError([Problem("witness.serial", "a number above 0", shown(serial))])
    if not isinstance(guests, Mapping):
        raise InputError([Problem("witness.guests", "a mapping of guests to hosts", shown(guests))])


def write(layout: Layout, fleet: str, witness: Mapping[str, Any]) -> None:
    """Remember a fleet's witness with the time of now.

    VirtfleetError where the host knows the plan of another run that is not older.
    """
    known = read(layout)
    there = known.get(fleet, {})
    if int(there.get("serial", 0)) >= witness["serial"]:
        if there.get("run") == witness.get("run"):
            return
        raise VirtfleetError(
            f"the fleet {fleet} was planned by another run meanwhile ({there.get('when')})",
            remedy="plan again",
        )
    known[fleet] = {**witness, "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    make_folder(layout.state)
    path = _path(layout)
    half = f"{path}.new"
    try:
        with open(half, "w", encoding="utf-8") as file:
            json.dump(known, file, sort_keys=True)
            file.flush()
            os.fsync(file.fileno())
        os.replace(half, path)
    except OSError:
        with suppress(OSError):
            os.unlink(half)
        raise
