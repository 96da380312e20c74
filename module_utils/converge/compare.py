# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one comparator: every plan, in check mode and in a real run, sees differences through it."""

from __future__ import annotations

from typing import Any, Iterator, Mapping

from .action import Change


def join(path: str, key: str) -> str:
    """Return the path of ``key`` below ``path``."""
    return f"{path}.{key}" if path else key


def _same(declared: Any, observed: Any) -> bool:
    """Return whether two values are the same; True and 1 are not, although Python finds so."""
    if isinstance(declared, bool) != isinstance(observed, bool):
        return False
    if isinstance(declared, (list, tuple)) and isinstance(observed, (list, tuple)):
        pairs = zip(declared, observed)
        return len(declared) == len(observed) and all(_same(one, two) for one, two in pairs)
    if isinstance(declared, Mapping) and isinstance(observed, Mapping):
        return declared.keys() == observed.keys() and all(
            _same(declared[key], observed[key]) for key in declared
        )
    return bool(declared == observed)


def compare(declared: Any, observed: Any, path: str = "") -> list[Change]:
    """Return what differs between what was declared and what was observed.

    Only what was stated is compared: keys that the declaration does not name are no difference.
    Lists are compared by value, as a whole. What is not there is None.
    """
    if not isinstance(declared, Mapping):
        return [] if _same(declared, observed) else [Change(path, observed, declared)]
    inside = observed if isinstance(observed, Mapping) else {}
    changes: list[Change] = []
    for key, value in declared.items():
        changes += compare(value, inside.get(key), join(path, str(key)))
    return changes


def leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each value of a tree that is no mapping, with its path."""
    if not isinstance(tree, Mapping):
        yield path, tree
        return
    for key, value in tree.items():
        yield from leaves(value, join(path, str(key)))
