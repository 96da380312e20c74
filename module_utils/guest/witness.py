# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host remembers of a fleet: where each of its guests was last seen.

One small file, written at once, before anything of a plan is carried out: a host that goes away in
the middle of a run is then known to have had its part. A plan stands on what was seen of the host,
and the host takes it only if it took no other since; one that makes new guests only if just those
are there that were seen. So of two runs at once neither makes a guest that the other makes
elsewhere. What the plans of a fleet say together is fleet.memory's.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Callable, Collection, Iterator, Mapping

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
    serial, guests, seen = (witness.get(key) for key in ("serial", "guests", "seen"))
    if not isinstance(serial, int) or isinstance(serial, bool) or serial < 1:
        raise InputError([Problem("witness.serial", "a number above 0", shown(serial))])
    if not isinstance(guests, Mapping):
        raise InputError([Problem("witness.guests", "a mapping of guests to hosts", shown(guests))])
    if not isinstance(seen, Mapping) or not isinstance(seen.get("run"), str):
        expected = "what the plan saw of the host, a mapping with run"
        raise InputError([Problem("witness.seen", expected, shown(seen))])


def claims(witness: Mapping[str, Any] | None) -> bool:
    """Return whether a plan makes guests that another run could make elsewhere."""
    return bool(witness and witness.get("new"))


def write(
    layout: Layout, fleet: str, witness: Mapping[str, Any], there: Callable[[], Collection[str]]
) -> None:
    """Remember a fleet's witness with the time of now; ``there`` returns the fleet's guests here.

    VirtfleetError where the plan no longer stands on what is so.
    """
    seen = witness["seen"]
    with _alone(layout):
        known = read(layout)
        last = known.get(fleet, {})
        if last.get("run", "") != witness.get("run"):
            if last.get("run", "") != seen["run"]:
                raise VirtfleetError(
                    f"the fleet {fleet} was planned by another run meanwhile ({last.get('when')})",
                    remedy="plan again",
                )
            if "guests" in seen:
                _expect(fleet, seen["guests"], there())
        kept = {key: value for key, value in witness.items() if key != "seen"}
        known[fleet] = {**kept, "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        _replace(_path(layout), known)


def _expect(fleet: str, seen: Collection[str], there: Collection[str]) -> None:
    """Refuse a plan that saw other guests."""
    other = sorted(set(seen) ^ set(there))
    if other:
        raise VirtfleetError(
            f"guests of the fleet {fleet} came or went here meanwhile: {', '.join(other)}",
            remedy="plan again",
        )


@contextmanager
def _alone(layout: Layout) -> Iterator[None]:
    """Hold what is remembered against other writers for the moment that it takes."""
    make_folder(layout.state)
    descriptor = os.open(f"{_path(layout)}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _replace(path: str, content: Mapping[str, Any]) -> None:
    half = f"{path}.new"
    try:
        with open(half, "w", encoding="utf-8") as file:
            json.dump(content, file, sort_keys=True)
            file.flush()
            os.fsync(file.fileno())
        os.replace(half, path)
    except OSError:
        with suppress(OSError):
            os.unlink(half)
        raise
