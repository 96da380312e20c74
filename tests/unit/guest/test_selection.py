# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Narrowing guests by names and patterns."""

from __future__ import annotations

import pytest
from ansible.module_utils.converge.errors import VirtfleetError
from ansible.module_utils.guest.selection import patterns, select, unmatched

SPECS = [{"name": name} for name in ("web01", "web02", "db01")]


@pytest.mark.parametrize(
    ("selection", "names", "missing"),
    [
        ("", ["web01", "web02", "db01"], []),
        ([], ["web01", "web02", "db01"], []),
        (" , ", ["web01", "web02", "db01"], []),
        ("db01", ["db01"], []),
        ("web*,db01", ["web01", "web02", "db01"], []),
        (["db*", "web02"], ["web02", "db01"], []),
        ("web0[2-9]", ["web02"], []),
        ("web?1 , nobody", ["web01"], ["nobody"]),
        ("WEB*", [], ["WEB*"]),
        ("web", [], ["web"]),
    ],
)
def test_select(selection, names, missing):
    assert [spec["name"] for spec in select(SPECS, selection)] == names
    assert unmatched(SPECS, selection) == missing


@pytest.mark.parametrize("selection", [None, 7, {"a": 1}, [1], True])
def test_what_is_no_selection_is_refused(selection):
    with pytest.raises(VirtfleetError, match="expected names or shell patterns"):
        patterns(selection)


def test_what_is_no_guest_matches_no_pattern():
    assert select([None, "web01", {}, {"name": 5}], "web*") == []
    assert select([None], "") == [None]
