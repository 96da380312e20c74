# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sizes and durations, there and back."""

from __future__ import annotations

import random

import pytest
from ansible.module_utils.units import (
    UnitError,
    format_duration,
    format_size,
    parse_duration,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0B", 0),
        ("1B", 1),
        ("4096B", 4096),
        ("1KiB", 1024),
        ("128MiB", 128 << 20),
        ("2 GiB", 2 << 30),
        ("3TiB", 3 << 40),
        ("007MiB", 7 << 20),
    ],
)
def test_a_size_is_read(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        128,
        128.0,
        True,
        None,
        [],
        "",
        "128",
        "MiB",
        "1.5GiB",
        "-1MiB",
        "128MB",
        "128M",
        "128mib",
        "128MiB ",
        " 128MiB",
        "128  MiB",
        "128MiB\n",
        "1e3MiB",
        "0x10MiB",
        "१MiB",
        "9999999999999999MiB",
        "128MiB; reboot",
    ],
)
def test_what_is_no_size_is_refused(text):
    with pytest.raises(UnitError, match=r"expected|unknown unit"):
        parse_size(text)


def test_an_unknown_unit_is_named():
    with pytest.raises(UnitError, match=r"unknown unit 'MB'.*KiB, MiB"):
        parse_size("128MB")


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0B"),
        (1, "1B"),
        (1023, "1023B"),
        (1024, "1KiB"),
        (1536, "1536B"),
        (2048 << 20, "2GiB"),
        (1 << 40, "1TiB"),
        ((1 << 40) + (1 << 30), "1025GiB"),
    ],
)
def test_a_size_is_written_in_its_largest_unit(size, text):
    assert format_size(size) == text


def test_every_size_comes_back():
    chance = random.Random(4)
    for _ in range(2000):
        size = chance.getrandbits(chance.randrange(1, 50)) << chance.choice((0, 10, 20))
        if size < 10**15:
            assert parse_size(format_size(size)) == size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0s", 0), ("500ms", 0.5), ("30s", 30), ("2 min", 120), ("1h", 3600), ("1.5h", 5400)],
)
def test_a_duration_is_read(text, seconds):
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    [30, None, "", "30", "s", "-1s", "1m", "1d", "1.s", ".5s", "1s ", "1,5s", "inf s", "nans"],
)
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(UnitError, match=r"expected|unknown unit"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0us"),
        (0.00084, "840us"),
        (0.0125, "12.5ms"),
        (1, "1s"),
        (42.9, "42s"),
        (200, "3min 20s"),
        (3600, "1h 0min"),
        (18120, "5h 2min"),
        (273600, "3d 4h"),
    ],
)
def test_a_duration_is_written_for_people(seconds, text):
    assert format_duration(seconds) == text
