# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Readiness as text: one host, several hosts, every width, hostile words."""

from __future__ import annotations

import pytest
from ansible.module_utils.converge.text import width
from ansible.module_utils.host.report import Readiness, combine, matrix, render, table, wrap
from ansible.module_utils.host.verdict import judge


def check(identity, level, found="found it", remedy=None):
    return {
        "id": identity,
        "level": level,
        "title": f"Title of {identity}",
        "found": found,
        "remedy": remedy,
    }


def host(name, *checks):
    return Readiness(name, checks, judge(checks, {"b": "guests go without b"}))


GOOD = host("kvm1", check("a", "pass"), check("c", "info", remedy="an offer"))
POOR = host(
    "kvm2", check("a", "pass"), check("b", "warn", "it is off", "switch b on"), check("c", "info")
)
BAD = host("kvm3", check("a", "fail", "not there", "get an a"), check("c", "info"))


def test_one_host():
    assert table(POOR, 80) == (
        "readiness of kvm2\n"
        "pass     Title of a  found it\n"
        "warn     Title of b  it is off\n"
        "                     fix: switch b on\n"
        "info     Title of c  found it\n"
        "\n"
        "kvm2: LIMITED\n"
        "  guests go without b: it is off\n"
        "  1. switch b on\n"
    )


def test_a_ready_host_is_told_nothing_to_do():
    text = table(GOOD, 80)
    assert text.endswith("\nkvm1: READY\n  2 checks, nothing in the way\n")
    assert "offer" not in text


def test_several_hosts():
    assert matrix([GOOD, POOR, BAD], 80) == (
        "readiness of 3 hosts\n"
        "   kvm1     kvm2     kvm3\n"
        "a  pass     pass     fail\n"
        "b  -        warn     -\n"
        "\n"
        "1 further check passes or tells a fact on every host\n"
        "\n"
        "kvm1: READY\n"
        "  2 checks, nothing in the way\n"
        "kvm2: LIMITED\n"
        "  guests go without b: it is off\n"
        "kvm3: NOT READY\n"
        "  Title of a: not there\n"
        "\n"
        "remedies\n"
        "- switch b on (kvm2)\n"
        "- get an a (kvm3)\n"
    )


def test_columns_that_do_not_fit_go_below():
    hosts = [host(f"hypervisor-{number:02}", check("a", "warn")) for number in range(20)]
    text = matrix(hosts, 60)
    assert all(width(line) <= 60 for line in text.splitlines())
    assert text.count("\na  warn") == 7  # three columns a block
    assert all(text.count(one.name) >= 2 for one in hosts)


def test_the_same_remedy_for_all_is_told_once():
    hosts = [host(name, check("b", "warn", "off", "switch b on")) for name in ("x", "y")]
    assert matrix(hosts, 80).count("switch b on (every host)") == 1


def test_render_chooses():
    assert render([]) == ""
    assert render([GOOD]) == table(GOOD)
    assert render([GOOD, BAD]) == matrix([GOOD, BAD])


def test_colours_change_nothing_but_colours():
    for hosts in ([POOR], [GOOD, POOR, BAD]):
        coloured = render(hosts, 80, colour=True)
        assert "\x1b[33m" in coloured
        bare = coloured
        for code in ("0", "1", "2", "31", "32", "33", "36"):
            bare = bare.replace(f"\x1b[{code}m", "")
        assert bare == render(hosts, 80)


@pytest.mark.parametrize("total", [10, 60, 72, 100, 140])
def test_no_line_is_too_wide(total):
    long = "a very long finding about /sys/devices/system/node/node0/" + "x" * 90 + " and more"
    hosts = [host(name, check("a", "fail", long, long)) for name in ("kvm1", "n" * 200)]
    for text in (render(hosts, total), *(render([one], total) for one in hosts)):
        assert max(width(line) for line in text.splitlines()) <= max(total, 60)


def test_hostile_words_are_harmless():
    evil = "\x1b[2Jred\x07\r\n\u202e"
    text = render([host(evil, check("a", "warn", evil, evil))])
    assert "\x1b" not in text
    assert "\r" not in text
    assert "\u202e" not in text


def test_combine():
    info = {"checks": [check("a", "pass")], "verdict": GOOD.verdict}
    selftest = {"checks": list(POOR.checks), "verdict": POOR.verdict}
    assert combine("x", info).verdict["state"] == "ready"
    both = combine("x", info, selftest)
    assert (len(both.checks), both.verdict["state"], both.name) == (4, "limited", "x")


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", [""]),
        ("one two three", ["one two", "three"]),
        ("x" * 20, ["x" * 8, "x" * 8, "xxxx"]),
        ("漢字漢字漢字", ["漢字漢字", "漢字"]),
    ],
)
def test_wrap(text, lines):
    assert wrap(text, 8) == lines
