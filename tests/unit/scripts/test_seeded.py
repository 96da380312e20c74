# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The sample of the long tests: one of each group, the same for the same number."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import seeded

NUMBERS = range(50)


def item(nodeid: str, **marks: str) -> SimpleNamespace:
    """Stand in for a collected test, with marks by name."""
    path = Path(nodeid.partition("::")[0])
    found = {name: SimpleNamespace(args=(word,)) for name, word in marks.items()}
    return SimpleNamespace(nodeid=nodeid, path=path, get_closest_marker=found.get)


PLAIN = item("a.py::plain")
FAULTS = [item(f"a.py::fault{number}", one_of="fault") for number in range(3)]
MODULES = [item(f"{name}.py::{n}", module_of="role") for name in "bcd" for n in range(2)]
ITEMS = [PLAIN, *FAULTS, *MODULES]


def kept(items, number):
    left = seeded.left_out(items, number)
    return [one for one in items if one not in left]


def test_one_of_each_group_is_made_and_all_that_has_none():
    for number in NUMBERS:
        found = kept(ITEMS, number)
        assert PLAIN in found
        assert len([one for one in found if one in FAULTS]) == 1
        modules = [one for one in found if one in MODULES]
        assert len(modules) == 2
        assert len({one.path for one in modules}) == 1
        assert kept(list(reversed(ITEMS)), number) == list(reversed(found))


def test_every_one_has_its_turn():
    made = [one for number in NUMBERS for one in kept(ITEMS, number)]
    assert all(one in made for one in ITEMS)


def test_what_is_asked_for_alone_is_made():
    for one in ITEMS:
        assert kept([one], 7) == [one]


def test_a_module_that_is_left_out_takes_no_turn_of_a_group():
    both = [item(f"{name}.py::x", module_of="role", one_of="fault") for name in "bc"]
    for number in NUMBERS:
        assert len(kept(both, number)) == 1
