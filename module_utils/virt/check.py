# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""All that is wrong with what was stated of one guest, at once and before anything is touched."""

from __future__ import annotations

from typing import Any, Mapping, Sequence

from ..converge.compare import join
from ..converge.errors import Problem, VirtfleetError, shown, unknown
from .document import Document
from .domain import FIELDS, KEYS, XML
from .relations import RULES, for_new


def _fragment(value: Any, path: str, problems: list[Problem]) -> Any:
    """Return the fragment of ``xml:`` where it can be merged."""
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        problems.append(Problem(path, "XML as text", shown(value)))
        return None
    from .merge import fragment  # compiled on the host, so only where there is one

    try:
        fragment(value, path)
    except VirtfleetError as error:
        expected, _, found = error.message.partition(": ")[2].partition(", found ")
        expected = expected[len("expected ") :] if expected.startswith("expected ") else expected
        problems.append(Problem(path, expected, found or "it", error.remedy))
    return value


def _contradictions(stated: Mapping[str, Any], path: str) -> list[Problem]:
    """Return what a fragment would set otherwise than the keys do: every run would change it."""
    from .patcher import patch_root
    from .writer import Capabilities, write

    keys = {key: value for key, value in stated.items() if key != XML}
    # The contradictions are the same on every machine.
    root = Document(write(stated, "guest", Capabilities("q35"))).root
    return [
        Problem(
            join(path, XML),
            f"nothing that {edit.path} says already",
            "a fragment that says otherwise",
            "state it in one place",
        )
        for edit in patch_root(root, keys, name="guest")
    ]


def check(
    stated: Mapping[Any, Any],
    path: str,
    problems: list[Problem],
    *,
    new: bool = False,
    also: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the canonical form of what was stated of one guest, its problems added to the list.

    ``path`` is where the guest stands in the input (``guests[2]``). Sizes come in their largest
    unit, lists of CPUs as ranges, UUIDs and MACs in lower case; null means "none of it". A ``new``
    guest has to state the sources of its disks and NICs. ``also`` are keys that others read.
    """
    count = len(problems)
    known = {one.key: one for one in FIELDS}
    canonical: dict[str, Any] = {}
    for key, value in stated.items():
        if key == XML:
            found = _fragment(value, join(path, XML), problems)
            if found is not None:
                canonical[XML] = found
        elif key in known:
            canonical[key] = known[key].check(value, join(path, key), problems)
        else:
            text = key if isinstance(key, str) and key.isprintable() else shown(key)
            problems.append(unknown(join(path, text[:64]), key, "a known key", (*KEYS, XML, *also)))
    if len(problems) > count:
        return canonical
    for rule in RULES:
        problems += rule(canonical, path)
    if new:
        problems += for_new(canonical, path)
    if XML in canonical and len(problems) == count:
        problems += _contradictions(canonical, path)
    return canonical
