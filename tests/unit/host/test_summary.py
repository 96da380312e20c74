# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The summary of a run: a line for each host, none where there is nothing to add."""

from __future__ import annotations

import pytest
from ansible.module_utils.converge.text import width
from ansible.module_utils.host.summary import (
    CHANGED,
    FAILED,
    STOPPED,
    UNCHANGED,
    UNREACHABLE,
    Ending,
    first_line,
    render,
)

FLEET = [
    Ending("kvm1", CHANGED),
    Ending("kvm2", UNCHANGED, reboot="iommu=pt is not in effect"),
    Ending("kvm3-long", FAILED, "\n  no space left\nsecond line"),
    Ending("kvm4", UNREACHABLE, "no route to host"),
    Ending("kvm5", FAILED, "refused", reboot=""),
    Ending("kvm6", STOPPED, "others failed"),
]


def test_every_host_has_a_line():
    assert render(FLEET).splitlines() == [
        "hosts",
        "kvm1       changed",
        "kvm2       unchanged    needs a reboot: iommu=pt is not in effect",
        "kvm3-long  failed       no space left",
        "kvm4       unreachable  no route to host",
        "kvm5       failed       refused; needs a reboot",
        "kvm6       stopped      others failed",
    ]


@pytest.mark.parametrize("endings", [[], FLEET[:1], [Ending("kvm1", UNCHANGED)]])
def test_where_the_recap_says_it_all_there_is_nothing(endings):
    assert render(endings) == ""


@pytest.mark.parametrize("ending", FLEET[1:], ids=lambda ending: ending.host)
def test_a_single_host_with_something_to_say_is_shown(ending):
    assert ending.host in render([ending])


@pytest.mark.parametrize("total", [0, 60, 80])
def test_lines_are_cut_to_the_width(total):
    endings = [Ending("k" * 80, FAILED, "reason " * 40), Ending("漢" * 40, UNREACHABLE, "漢" * 90)]
    lines = render(endings, total).splitlines()
    assert all(width(line) <= max(total, 60) for line in lines)
    assert all("…" in line for line in lines[1:])


def test_what_a_host_said_is_made_harmless():
    assert "\x1b" not in render([Ending("kvm1", FAILED, "\x1b[2Jgone\x1b]0;title\x07")])


def test_colour_changes_no_text():
    plain, coloured = render(FLEET), render(FLEET, colour=True)
    assert "\x1b[31mfailed" in coloured
    for code in ("\x1b[0m", "\x1b[1m", "\x1b[31m", "\x1b[32m", "\x1b[33m"):
        coloured = coloured.replace(code, "")
    assert coloured == plain


@pytest.mark.parametrize(
    ("message", "line"), [("", ""), ("\n\n  one\ntwo", "one"), ("one", "one"), ("  \n", "")]
)
def test_the_first_line_that_says_something_counts(message, line):
    assert first_line(message) == line
