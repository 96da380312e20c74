# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Errors: all problems at once, each with its path, and values that cannot spoil the message."""

from __future__ import annotations

import pytest
from ansible.module_utils.converge.errors import (
    InputError,
    Problem,
    VirtfleetError,
    nearest,
    shown,
    unknown,
)


def test_an_error_carries_its_remedy_and_data():
    error = VirtfleetError("it is broken", remedy="mend it", part="wheel")
    assert str(error) == "it is broken: mend it"
    assert (error.message, error.remedy, error.data) == (
        "it is broken",
        "mend it",
        {"part": "wheel"},
    )
    assert str(VirtfleetError("it is broken")) == "it is broken"


def test_one_problem_is_one_line():
    error = InputError([Problem("guests[2].memory", "a size", "128", "add a unit")])
    assert str(error) == "guests[2].memory: expected a size, found 128: add a unit"


def test_many_problems_are_all_told_at_once():
    error = InputError([Problem("a", "x", "y"), Problem("b", "x", "z", "r")])
    assert str(error).splitlines() == [
        "2 problems in the input, nothing was changed:",
        "a: expected x, found y",
        "b: expected x, found z: r",
    ]
    assert error.data == {
        "problems": [
            {"path": "a", "expected": "x", "found": "y", "remedy": None},
            {"path": "b", "expected": "x", "found": "z", "remedy": "r"},
        ]
    }


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "'a'"),
        (12, "12"),
        (None, "None"),
        ("a\nb\x1b[2J", r"'a\nb\x1b[2J'"),
        ("n" * 300, "'" + "n" * 59 + "… (302 characters)"),
    ],
)
def test_found_values_are_shown_safely(value, text):
    assert shown(value) == text


@pytest.mark.parametrize(
    ("word", "guess"),
    [("memroy", "memory"), ("cpus", "vcpus"), ("zebra", None), (17, None), ("m" * 10**5, None)],
)
def test_the_nearest_known_word(word, guess):
    assert nearest(word, ["memory", "vcpus", "kernel"]) == guess


def test_an_unknown_word_names_the_known_ones():
    problem = unknown("guests[0].memroy", "memroy", "a known key", ("memory", "vcpus"))
    assert str(problem) == (
        "guests[0].memroy: expected a known key (memory, vcpus), found 'memroy': "
        "did you mean memory?"
    )
