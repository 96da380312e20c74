# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one comparator."""

from __future__ import annotations

import random

import pytest
from ansible.module_utils.converge.action import Change
from ansible.module_utils.converge.compare import compare, leaves

CASES = {
    "the same": ({"memory": "1GiB"}, {"memory": "1GiB"}, []),
    "a value differs": ({"memory": "2GiB"}, {"memory": "1GiB"}, [("memory", "1GiB", "2GiB")]),
    "what is not stated is no difference": ({"a": 1}, {"a": 1, "b": 2, "c": {"d": 3}}, []),
    "nothing stated": ({}, {"a": 1}, []),
    "it is not there yet": ({"a": 1}, {}, [("a", None, 1)]),
    "nothing is there at all": ({"a": {"b": 1}}, None, [("a.b", None, 1)]),
    "a path": ({"log": {"keep": 3}}, {"log": {"keep": 1, "x": 2}}, [("log.keep", 1, 3)]),
    "an empty mapping states nothing": ({"log": {}}, {"log": {"keep": 1}}, []),
    "a mapping where a value was": ({"log": {"keep": 3}}, {"log": 7}, [("log.keep", None, 3)]),
    "a value where a mapping was": ({"log": 7}, {"log": {"k": 1}}, [("log", {"k": 1}, 7)]),
    "none and nothing are the same": ({"a": None}, {}, []),
    "none is a value": ({"a": None}, {"a": 1}, [("a", 1, None)]),
    "lists by value": ({"a": [1, 2]}, {"a": [1, 2]}, []),
    "a list and a tuple": ({"a": [1, 2]}, {"a": (1, 2)}, []),
    "the order of a list": ({"a": [1, 2]}, {"a": [2, 1]}, [("a", [2, 1], [1, 2])]),
    "a longer list": ({"a": [1, 2]}, {"a": [1]}, [("a", [1], [1, 2])]),
    "mappings in lists as a whole": (
        {"a": [{"x": 1}]},
        {"a": [{"x": 1, "y": 2}]},
        [("a", [{"x": 1, "y": 2}], [{"x": 1}])],
    ),
    "true is not one": ({"a": True}, {"a": 1}, [("a", 1, True)]),
    "zero is not false": ({"a": 0}, {"a": False}, [("a", False, 0)]),
    "true is not one in a list": ({"a": [True]}, {"a": [1]}, [("a", [1], [True])]),
    "one is one point zero": ({"a": 1}, {"a": 1.0}, []),
    "text is no number": ({"a": "1"}, {"a": 1}, [("a", 1, "1")]),
    "the order of the declaration": (
        {"b": 1, "a": 1},
        {"a": 0, "b": 0},
        [("b", 0, 1), ("a", 0, 1)],
    ),
}


@pytest.mark.parametrize(("declared", "observed", "expected"), CASES.values(), ids=CASES.keys())
def test_compare(declared, observed, expected):
    assert compare(declared, observed) == [Change(*change) for change in expected]


def test_a_path_before_the_tree():
    assert compare({"keep": 1}, {"keep": 2}, "log") == [Change("log.keep", 2, 1)]


def random_tree(chance, depth=3):
    kind = chance.randrange(6 if depth else 4)
    if kind >= 4:
        return {chance.choice("abcd"): random_tree(chance, depth - 1) for _ in range(3)}
    return (chance.randrange(3), chance.choice("xyz"), bool(chance.randrange(2)), None)[kind]


def overlay(declared, observed):
    """Return what was observed after the declaration was carried out."""
    if not isinstance(declared, dict):
        return declared
    base = dict(observed) if isinstance(observed, dict) else {}
    base.update({key: overlay(value, base.get(key)) for key, value in declared.items()})
    return base


def test_what_was_carried_out_differs_no_more():
    chance = random.Random(1)
    for _ in range(3000):
        declared = {key: random_tree(chance) for key in "pq"}
        observed = {key: random_tree(chance) for key in "pqr"}
        assert compare(observed, observed) == []
        assert compare(declared, overlay(declared, observed)) == []


def test_leaves_are_what_compare_sees_against_nothing():
    chance = random.Random(2)
    for _ in range(500):
        tree = {key: random_tree(chance) for key in "pq"}
        found = [(path, value) for path, value in leaves(tree) if value is not None]
        assert found == [(change.path, change.after) for change in compare(tree, None)]
