# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Guests as text: columns that line up in any width, consoles that control nothing."""

from __future__ import annotations

import random

import pytest
from ansible.module_utils.converge.text import width
from ansible.module_utils.guest.engine import Observed, describe
from ansible.module_utils.guest.ioctl.dialect import complete
from ansible.module_utils.guest.report import (
    MIN_WIDTH,
    console_lines,
    consoles,
    render,
    table,
)


def guest(name="web01", **more):
    return {
        "name": name,
        "state": "running",
        "spec": {"vcpus": 2, "memory": "1GiB"},
        "uptime": 200.5,
        "exit": None,
        **more,
    }


DIED = guest("db01", state="failed", uptime=None, exit={"status": 72, "reason": "triple fault"})


def test_the_table():
    stopped = guest("old", state="stopped", uptime=None, exit={"status": 0, "reason": "shut down"})
    assert table([guest(), DIED, stopped, guest("new", restart_required=True)]).splitlines() == [
        "guest  state    vcpus  memory  uptime    note",
        "web01  running  2      1GiB    3min 20s",
        "db01   failed   2      1GiB              triple fault (status 72)",
        "old    stopped  2      1GiB              shut down",
        "new    running  2      1GiB    3min 20s  restart required",
    ]


def test_no_guests():
    assert table([]) == "no guests\n"
    assert render([]) == "no guests\n"


def test_colours_on_request():
    text = table([guest(), DIED], colour=True)
    assert "\x1b[32mrunning\x1b[0m" in text
    assert "\x1b[31mfailed \x1b[0m" in text
    assert "\x1b" not in table([guest(), DIED])


def test_a_guest_that_was_just_started():
    assert table([guest(uptime=0.09)]).splitlines()[1].split()[-1] == "0s"


def test_what_is_not_ours_is_explained():
    text = table([guest("odd", state="stopped", spec=None, uptime=None, problem="not ours")])
    assert text.splitlines()[1].split() == ["odd", "stopped", "not", "ours"]


@pytest.mark.parametrize("total", [1, 20, 40, 41, 60, 80, 120, 200])
def test_no_line_is_wider_than_the_terminal(total):
    chance = random.Random(total)
    guests = [
        guest(
            "n" * chance.randrange(1, 63),
            state=chance.choice(["running", "stopped", "failed"]),
            uptime=chance.choice([None, 5.0, 10.0**6]),
            exit={"status": 70, "reason": "世界 " * chance.randrange(40)},
            console=["x" * 300, "世" * 100, "\x1b[31m" * 50 + "y" * 90],
        )
        for _ in range(20)
    ]
    for line in render(guests, total).splitlines():
        assert width(line) <= max(total, MIN_WIDTH), line


def test_columns_line_up_whatever_the_names():
    names = ["a", "n" * 63, "mid-size"]
    lines = table([guest(name) for name in names], 100).splitlines()
    assert len({line.index("running") for line in lines[1:]}) == 1
    assert lines[0].index("state") == lines[1].index("running")


def test_consoles():
    guests = [guest(console=["Hello", "> "]), guest("quiet", console=[]), guest("b", console=["x"])]
    assert consoles(guests) == ("console of web01\n│ Hello\n│ > \n\nconsole of b\n│ x\n")
    assert render(guests).endswith(consoles(guests))


def test_a_hostile_console_controls_nothing():
    evil = "\x1b[2J\x1b[H\x1b]0;owned\x07\rroot@host:~# \x9b5n\u202egnp.exe"
    text = render(
        [guest(name="e\x1b[0mvil", console=[evil], exit={"reason": "\x1bc"})], colour=False
    )
    assert not set(text) & {"\x1b", "\x07", "\r", "\x9b", "\u202e"}
    assert "root@host" in text


@pytest.mark.parametrize(
    ("content", "lines", "expected"),
    [
        (b"", 5, []),
        (b"one\r\ntwo\r\nthree\r\n", 2, ["two", "three"]),
        (b"one\ntwo", 0, []),
        (b"one\n\n\n\n", 3, ["one"]),
        (b"> ", 3, [">"]),
        (b"10%\r50%\r100%\r\n", 3, ["100%"]),
        (b"\xff\xfe\n", 3, ["��"]),
        (b"a\x1b[31mb\x07c\n", 3, ["ab^Gc"]),
        (b"x" * 3000, 3, ["x" * 500]),
    ],
)
def test_the_last_lines_of_a_console(content, lines, expected):
    assert console_lines(content, lines) == expected


def test_a_guest_as_plain_values():
    spec = complete({"name": "a", "engine": "ioctl", "kernel": "greeter", "autostart": True})
    seen = Observed(
        "a",
        "ioctl",
        "running",
        spec,
        "d",
        "local",
        "u",
        {"memory": "2GiB"},
        {"memory": "1GiB"},
        pid=7,
        uptime=1.5,
        helper="h",
    )
    assert describe(seen) == {
        "name": "a",
        "engine": "ioctl",
        "state": "running",
        "spec": spec,
        "digest": "d",
        "fleet": "local",
        "owned": True,
        "adoptable": False,
        "uuid": "u",
        "pid": 7,
        "uptime": 1.5,
        "exit": None,
        "autostart": True,
        "helper": "h",
        "restart_required": True,
        "problem": None,
    }
    assert describe(Observed("b", "ioctl", problem="odd"))["restart_required"] is False
