# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""multipathd's settings in a file of our own."""

from __future__ import annotations

import dataclasses

import pytest
from ansible.module_utils.system.operation import Run, Write
from ansible.module_utils.system.own_files import MARK
from ansible.module_utils.system.storage import multipath
from ansible.module_utils.system.storage.multipath import MAIN, OWN, Found, Wish

WISH = Wish(True, {"user_friendly_names": "yes"}, (("devnode", "^vd"),), (("wwid", "3600"),))
TEXT = """\
# Made by virtfleet; what is changed here is overwritten.
defaults {
\tuser_friendly_names "yes"
}
blacklist {
\tdevnode "^vd"
}
blacklist_exceptions {
\twwid "3600"
}
"""
THERE = Found("# the host's own\n", TEXT, enabled=True, active=True)
SYSTEMCTL = ("systemctl", "--quiet", "multipathd.service")


def did(outcome):
    operations = [one for step in outcome.steps for one in step.operations]
    return [one.argv[1] if isinstance(one, Run) else (one.path, one.content) for one in operations]


def test_a_bare_host_gets_both_files_and_the_daemon(context):
    outcome = multipath.plan(WISH, Found(), context)
    assert did(outcome) == [(MAIN, MARK), (OWN, TEXT), "enable", "start"]
    assert all(isinstance(one, (Run, Write)) for step in outcome.steps for one in step.operations)


@pytest.mark.parametrize(
    ("more", "done"),
    [
        ({}, []),
        ({"own": None}, [(OWN, TEXT), "reload"]),
        ({"own": "other"}, [(OWN, TEXT), "reload"]),
        ({"own": "other", "active": False}, [(OWN, TEXT), "start"]),
        ({"enabled": False}, ["enable"]),
        ({"main": None}, [(MAIN, MARK), "reload"]),
    ],
)
def test_only_what_differs_is_done(context, more, done):
    assert did(multipath.plan(WISH, dataclasses.replace(THERE, **more), context)) == done


@pytest.mark.parametrize(
    ("found", "done"),
    [
        (THERE, [(OWN, None), "reload"]),
        (
            dataclasses.replace(THERE, main=MARK),
            [(MAIN, None), (OWN, None), "reload"],
        ),
        (dataclasses.replace(THERE, own=None), []),
        (dataclasses.replace(THERE, active=False), [(OWN, None)]),
    ],
)
def test_the_way_back_takes_our_files_alone(away, found, done):
    assert did(multipath.plan(WISH, found, away)) == done


def test_it_is_left_alone_unless_it_was_asked_for(context, check):
    assert multipath.parse({"enabled": False, "user_friendly_names": True}, "m", check) == Wish()
    assert multipath.parse(None, "m", check) == Wish()
    assert multipath.plan(Wish(), THERE, context).steps == ()


def test_the_host_is_read(system):
    host = system(
        {MAIN: "a", OWN: "b"},
        {
            ("systemctl", "is-enabled", "--quiet", "multipathd.service"): (1, "", ""),
            ("systemctl", "is-active", "--quiet", "multipathd.service"): "",
        },
    )
    assert multipath.observe(host, WISH) == Found("a", "b", enabled=False, active=True)
    assert multipath.observe(system(), Wish()) == Found()


def test_settings_are_read(check):
    wish = multipath.parse(
        {
            "enabled": True,
            "user_friendly_names": True,
            "find_multipaths": "strict",
            "defaults": {"polling_interval": 10, "skip_kpartx": True},
            "blacklist": [{"devnode": "^vd"}],
            "blacklist_exceptions": [{"wwid": "3600"}],
        },
        "m",
        check,
    )
    assert check.problems == []
    assert wish.defaults == {
        "user_friendly_names": "yes",
        "find_multipaths": "strict",
        "polling_interval": "10",
        "skip_kpartx": "yes",
    }
    assert (wish.blacklist, wish.exceptions) == ((("devnode", "^vd"),), (("wwid", "3600"),))


@pytest.mark.parametrize(
    ("item", "path"),
    [
        ({"defaults": {"a b": 1}}, "m.defaults"),
        ({"defaults": {"verbosity": 'x"}'}}, "m.defaults.verbosity"),
        ({"blacklist": [{"devnodes": "x"}]}, "m.blacklist[0].devnodes"),
        ({"blacklist": [{"wwid": "a\nb"}]}, "m.blacklist[0].wwid"),
        ({"blacklist_exceptions": [{"wwid": 7}]}, "m.blacklist_exceptions[0].wwid"),
    ],
)
def test_what_is_wrong_is_named_with_its_path(check, item, path):
    multipath.parse({"enabled": True, **item}, "m", check)
    assert [problem.path for problem in check.problems] == [path]
