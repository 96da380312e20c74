# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which hosts one run tries a module on: a sample that its seed repeats. `make soak` tries all."""

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


def of_other_hosts(items: Sequence[pytest.Item], seed: int) -> list[pytest.Item]:
    """Return the tests of a host that their module does not work on."""
    return [item for item in items if _host_of(item) not in {None, *hosts(item, seed)}]


def _host_of(item: pytest.Item) -> str | None:
    named = item.callspec.params.get("host") if hasattr(item, "callspec") else None
    return None if named is None else str(named)
