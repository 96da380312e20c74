# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a hostile guest writes is shown, and not obeyed; columns line up."""

from __future__ import annotations

import random

import pytest
from ansible.module_utils.converge.text import fit, pad, plain, width


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain text", "plain text"),
        ("grüße, 世界", "grüße, 世界"),
        ("\x1b[32mgreen\x1b[0m", "green"),
        ("\x1b[2J\x1b[1;1Hcleared", "cleared"),
        ("\x1b]0;a title\x07text", "text"),
        ("\x1b]8;;http://example.org\x1b\\link", "link"),
        ("\x1bc reset", "^[c reset"),
        ("\x1b[", "^[["),
        ("bell \x07 back \x08 null \x00 del \x7f", "bell ^G back ^H null ^@ del ^?"),
        ("a\rb", "a^Mb"),
        ("a\nb", "a^Jb"),
        ("a\tb", "a       b"),
        ("c1 \x9b31m", "c1 �31m"),
        ("bidi \u202ecod.exe", "bidi �cod.exe"),
        ("hidden \u200b\u2028", "hidden ��"),
        ("surrogate \udcff", "surrogate �"),
    ],
)
def test_plain(text, expected):
    assert plain(text) == expected


def test_plain_holds_against_noise():
    chance = random.Random(3)
    alphabet = "\x1b[]0;?m\x07\x08\r\n\t\x9b\u202eab世\\" * 2 + "".join(map(chr, range(256)))
    for _ in range(2000):
        text = plain("".join(chance.choice(alphabet) for _ in range(chance.randrange(80))))
        assert all(char.isprintable() or char in "\xa0\ufffd" for char in text), repr(text)
        assert plain(text) == text


@pytest.mark.parametrize(
    ("text", "cells"), [("", 0), ("abc", 3), ("世界", 4), ("e\u0301", 1), ("\uff57", 2), ("│", 1)]
)
def test_width_in_cells(text, cells):
    assert width(text) == cells


@pytest.mark.parametrize(
    ("text", "cells", "expected"),
    [
        ("abcdef", 6, "abcdef"),
        ("abcdef", 5, "abcd…"),
        ("abcdef", 1, "…"),
        ("abcdef", 0, ""),
        ("世界", 3, "世…"),
        ("世界", 2, "…"),
    ],
)
def test_fit(text, cells, expected):
    assert fit(text, cells) == expected


def test_pad_fills_exactly():
    for text in ("", "abc", "世界世界", "e\u0301"):
        for cells in range(12):
            assert width(pad(text, cells)) == cells
