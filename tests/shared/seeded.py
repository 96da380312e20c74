# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The number that says which sample of the long tests one run makes."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Sequence

if TYPE_CHECKING:
    import pytest

VARIABLE = "LAB_SEED"


def seed() -> int:
    """Return LAB_SEED, or else the commit's own number: every commit has another sample."""
    stated = os.environ.get(VARIABLE)
    if stated:
        return int(stated)
    command = ["git", "rev-parse", "--short=8", "HEAD"]
    asked = subprocess.run(
        command,
        cwd=str(Path(__file__).parent),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    return int(asked.stdout[:8], 16) if asked.returncode == 0 else 1


def left_out(items: Sequence[pytest.Item], number: int) -> list[pytest.Item]:
    """Return the tests that the sample leaves out.

    Of the modules marked with the same ``module_of`` all but one, and of the tests with the same
    ``one_of`` too. What is chosen from is what was collected, so that what was asked for alone is
    made.
    """
    left: list[pytest.Item] = []
    for name, whole in (("module_of", True), ("one_of", False)):
        groups: dict[str, list[pytest.Item]] = {}
        for item in items:
            mark = item.get_closest_marker(name)
            if mark and item not in left:
                groups.setdefault(mark.args[0], []).append(item)
        for word, members in groups.items():
            left += _but_one(members, f"{number} {word}", whole=whole)
    return left


def _but_one(members: Sequence[pytest.Item], word: str, *, whole: bool) -> list[pytest.Item]:
    """Return all but one test, or ``whole`` module of tests."""
    names = [str(item.path) if whole else item.nodeid for item in members]
    chosen = random.Random(word).choice(sorted(set(names)))
    return [item for item, name in zip(members, names) if name != chosen]
