# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What of the long tests one run makes: a sample that its seed repeats. `make soak` makes all."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pytest

HOSTS = ("kvm1", "kvm2")


def hosts(node: pytest.Item, seed: int) -> tuple[str, ...]:
    """Return the names of the hosts that a test works on: both, or one if its module is sampled."""
    if node.config.getoption("--soak") or not node.get_closest_marker("sampled"):
        return HOSTS
    return (random.Random(f"{seed} {node.path.stem}").choice(HOSTS),)


def left_out(items: Sequence[pytest.Item], seed: int) -> list[pytest.Item]:
    """Return the tests that the sample leaves out.

    Those of a host that their module does not work on; of the modules marked with the same
    ``module_of`` all but one, and of the tests with the same ``one_of`` too. What is chosen from
    is what was collected, so that what was asked for alone is made.
    """
    left = [item for item in items if _host_of(item) not in {None, *hosts(item, seed)}]
    for name, whole in (("module_of", True), ("one_of", False)):
        groups: dict[str, list[pytest.Item]] = {}
        for item in items:
            mark = item.get_closest_marker(name)
            if mark and item not in left and not item.config.getoption("--soak"):
                groups.setdefault(mark.args[0], []).append(item)
        for word, members in groups.items():
            left += _but_one(members, f"{seed} {word}", whole=whole)
    return left


def _host_of(item: pytest.Item) -> str | None:
    named = item.callspec.params.get("host") if hasattr(item, "callspec") else None
    return None if named is None else str(named)


def _but_one(members: Sequence[pytest.Item], seed: str, *, whole: bool) -> list[pytest.Item]:
    """Return all but one test, or ``whole`` module of tests."""
    names = [str(item.path) if whole else item.nodeid for item in members]
    chosen = random.Random(seed).choice(sorted(set(names)))
    return [item for item, name in zip(members, names, strict=True) if name != chosen]
