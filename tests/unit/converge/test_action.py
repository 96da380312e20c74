# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fixed shape of an action, and of what stands beside it."""

from __future__ import annotations

import pytest
from ansible.module_utils.converge.action import Action, Blocked, Change, Pending, Plan


def action(step=1, verb="update", name="web01", **more):
    return Action(
        step=step,
        object=f"guest/{name}",
        action=verb,
        host="kvm1",
        when="live",
        reason="memory differs",
        **more,
    )


def test_the_shape_is_the_documented_one():
    made = action(step=2, changes=(Change("memory", "2GiB", "4GiB"),), id="a7")
    assert made.to_dict() == {
        "id": "a7",
        "step": 2,
        "object": "guest/web01",
        "action": "update",
        "host": "kvm1",
        "target": None,
        "when": "live",
        "changes": [{"path": "memory", "before": "2GiB", "after": "4GiB"}],
        "reason": "memory differs",
        "destructive": False,
    }
    assert list(made.to_dict()) == [
        "id",
        "step",
        "object",
        "action",
        "host",
        "target",
        "when",
        "changes",
        "reason",
        "destructive",
    ]


def test_the_name_is_the_object_without_its_kind():
    assert action(name="db-1").name == "db-1"


@pytest.mark.parametrize(("field", "value"), [("action", "explode"), ("when", "later")])
def test_no_other_action_can_be_made(field, value):
    values = {"step": 1, "object": "guest/a", "action": "start", "host": "h", "when": "now"}
    with pytest.raises(ValueError, match="no such action"):
        Action(**{**values, "reason": "", field: value})


def test_a_plan_numbers_in_the_order_of_steps():
    made = Plan.of([action(2, name="b"), action(1, name="c"), action(2, name="a")])
    assert [(a.id, a.step, a.name) for a in made.actions] == [
        ("a1", 1, "c"),
        ("a2", 2, "b"),
        ("a3", 2, "a"),
    ]
    assert [[a.name for a in step] for step in made.steps()] == [["c"], ["b", "a"]]


def test_pending_and_blocked_are_plain_values():
    pending = Pending("guest/a", "restart_required", "h", "why", "what", (Change("vcpus", 1, 2),))
    assert pending.to_dict() == {
        "object": "guest/a",
        "kind": "restart_required",
        "host": "h",
        "changes": [{"path": "vcpus", "before": 1, "after": 2}],
        "reason": "why",
        "remedy": "what",
    }
    assert Blocked("guest/a", "h", "why", "what").to_dict() == {
        "object": "guest/a",
        "host": "h",
        "reason": "why",
        "remedy": "what",
    }
