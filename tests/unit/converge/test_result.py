# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The result of a module is made from its plan alone."""

from __future__ import annotations

from ansible.module_utils.converge.action import Action, Blocked, Change, Pending
from ansible.module_utils.converge.result import diff, result, summary


def action(verb, name, *changes):
    return Action(1, f"guest/{name}", verb, "h", "now", "why", tuple(changes))


def test_changed_is_whether_there_are_actions():
    pending = [Pending("guest/a", "restart_required", "h", "why", "what")]
    blocked = [Blocked("guest/b", "h", "why", "what")]
    assert result([action("start", "a")])["changed"] is True
    outcome = result([], pending, blocked, guests=[1])
    assert outcome["changed"] is False
    assert [item["object"] for item in outcome["pending"] + outcome["blocked"]] == [
        "guest/a",
        "guest/b",
    ]
    assert outcome["guests"] == [1]


def test_the_diff_has_a_line_for_each_value_of_an_object():
    found = diff(
        [
            action("create", "a", Change("memory", None, "1GiB"), Change("cmdline", None, "")),
            action("update", "b", Change("vcpus", 1, 2), Change("cmdline", "x\ny", "z")),
            action("start", "a", Change("state", None, "running")),
            action("restart", "c"),
            action("delete", "d", Change("log.keep", 3, None)),
        ]
    )
    assert [(d["before_header"], d["before"], d["after"]) for d in found] == [
        ("guest/a", "", 'memory: 1GiB\ncmdline: ""\nstate: running\n'),
        ("guest/b", 'vcpus: 1\ncmdline: "x\\ny"\n', "vcpus: 2\ncmdline: z\n"),
        ("guest/d", "log.keep: 3\n", ""),
    ]


def test_a_summary_counts():
    actions = [action("create", "a"), action("create", "b"), action("start", "a")]
    assert summary(actions) == "create 2, start 1"
    assert summary([]) == "nothing to do"
