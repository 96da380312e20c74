# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading small files: everything has an answer, nothing raises."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from ansible.module_utils.host import source


def test_what_is_there(tree):
    root = tree(
        {"/a/text": "two words\n", "/a/number": "42\n", "/a/hex": "0x1f\n", "/a/nul": "x\0"}
    )
    assert source.text(root, "/a/text") == "two words\n"
    assert source.word(root, "/a/text") == "two words"
    assert source.word(root, "/a/nul") == "x"
    assert source.number(root, "/a/number") == 42
    assert source.number(root, "/a/hex", 16) == 31
    assert source.names(root, "/a") == ["hex", "nul", "number", "text"]
    assert source.exists(root, "/a")


def test_what_is_not_there_or_not_readable(tree):
    root = tree({"/a/text": "words", "/a/folder": None})
    assert source.text(root, "/a/none") is source.number(root, "/a/none") is None
    assert source.number(root, "/a/text") is None
    assert source.text(root, "/a/folder") is None
    assert source.names(root, "/a/text") is source.names(root, "/b") is None
    assert source.target(root, "/a/text") is None
    assert not source.exists(root, "/b")


def test_large_files_are_read_to_the_end(tree):
    content = "0123456789" * 30_000
    assert source.text(tree({"/proc/cpuinfo": content}), "/proc/cpuinfo") == content


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("Y", True),
        ("N", False),
        ("1", True),
        ("0", False),
        ("128", True),
        ("-1", None),
        (None, None),
    ],
)
def test_switch(value, expected):
    assert source.switch(value) is expected


@pytest.mark.parametrize(
    ("numbers", "text"), [([], ""), ([3], "3"), ([0, 1, 2, 3, 8], "0-3,8"), ([2, 0, 4], "0,2,4")]
)
def test_lists_of_the_kernel(numbers, text):
    assert source.ranges(numbers) == text
    assert source.expand(text) == sorted(numbers)


@pytest.mark.parametrize("text", [None, "\n", "x", "1-x"])
def test_what_is_no_list(text):
    assert source.expand(text) == []


def test_plain():
    @dataclass
    class Thing:
        flags: frozenset
        pairs: list

    thing = {1: Thing(frozenset({"b", "a"}), [("x", 1)])}
    assert source.plain(thing) == {"1": {"flags": ["a", "b"], "pairs": [["x", 1]]}}
