# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Folders: made, their rights set, and on the way back only empty ones removed."""

from __future__ import annotations

import pytest
from ansible.module_utils.system.storage import folders
from ansible.module_utils.system.storage.folders import Found, Wish

THERE = Found(True, "root", "root", "0755")


def commands(outcome):
    return [operation.argv for step in outcome.steps for operation in step.operations]


@pytest.mark.parametrize(
    ("wish", "found", "argv"),
    [
        (Wish("/srv"), None, ("--mode", "0755")),
        (
            Wish("/srv", "root", "kvm", "0770"),
            None,
            ("--mode", "0770", "--owner", "root", "--group", "kvm"),
        ),
        (Wish("/srv", mode="0750"), THERE, ("--mode", "0750")),
        (Wish("/srv", group="kvm"), THERE, ("--mode", "0755", "--group", "kvm")),
    ],
)
def test_what_differs_is_set_and_nothing_else(context, wish, found, argv):
    outcome = folders.plan([wish], {"/srv": found} if found else {}, context)
    assert commands(outcome) == [("install", "--directory", *argv, "/srv")]
    assert outcome.steps[0].action.action == ("update" if found else "create")


@pytest.mark.parametrize("wish", [Wish("/srv"), Wish("/srv", "root", "root", "0755")])
def test_nothing_is_done_when_it_is_so(context, wish):
    assert folders.plan([wish], {"/srv": THERE}, context).steps == ()


def test_a_file_in_the_way_is_left_alone(context):
    found = {"/srv": Found(False, "root", "root", "0644")}
    outcome = folders.plan([Wish("/srv")], found, context)
    assert outcome.steps == ()
    assert [item.reason for item in outcome.blocked] == ["what stands there is no folder"]


def test_the_way_back_removes_empty_folders_the_inner_first(away):
    empty = Found(True, "root", "root", "0755", empty=True)
    wishes = [Wish("/srv/a"), Wish("/srv/b"), Wish("/srv/b/c"), Wish("/srv/none")]
    outcome = folders.plan(wishes, {"/srv/a": THERE, "/srv/b": empty, "/srv/b/c": empty}, away)
    assert commands(outcome) == [("rmdir", "/srv/b/c"), ("rmdir", "/srv/b")]
    assert [(item.object, item.kind) for item in outcome.pending] == [
        ("directory/srv/a", "data_kept")
    ]


def test_the_host_is_read(system, tmp_path):
    host = system({"/srv/full/file": "x"})
    (tmp_path / "srv/empty").mkdir(mode=0o700)
    names = ("/srv/full", "/srv/empty", "/srv/full/file", "/srv/none")
    found = folders.observe(host, [Wish(name) for name in names])
    assert set(found) == set(names[:3])
    assert [state.folder for state in found.values()] == [True, True, False]
    assert [state.empty for state in found.values()] == [False, True, False]
    assert found["/srv/empty"].mode == "0700"
    assert found["/srv/empty"].owner == folders._name(folders.pwd.getpwuid, tmp_path.stat().st_uid)


def test_an_account_without_a_name_is_its_number():
    assert folders._name(folders.pwd.getpwuid, 4000000000) == "4000000000"


def test_folders_are_read(check):
    item = {"path": "/srv//images/", "owner": "root", "group": None, "mode": "750"}
    assert folders.parse([item], "d", check) == (Wish("/srv/images", "root", None, "0750"),)
    assert check.problems == []


@pytest.mark.parametrize(
    ("item", "path"),
    [
        ({"path": "srv"}, "d[0].path"),
        ({"path": "/srv/../etc"}, "d[0].path"),
        ({"path": "/srv", "mode": "u=rw"}, "d[0].mode"),
        ({"path": "/srv", "mode": "888"}, "d[0].mode"),
        ({"path": "/srv", "owner": "--x"}, "d[0].owner"),
        ({"path": "/srv", "group": "a b"}, "d[0].group"),
    ],
)
def test_what_is_wrong_is_named_with_its_path(check, item, path):
    folders.parse([item], "d", check)
    assert [problem.path for problem in check.problems] == [path]
