# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""One verdict from many checks, and one from several verdicts."""

from __future__ import annotations

import pytest
from ansible.module_utils.host.verdict import join, judge


def result(identity, level, remedy=None):
    return {"id": identity, "level": level, "title": identity, "found": "x", "remedy": remedy}


LIMITS = {"a": "guests go without a"}


@pytest.mark.parametrize(
    ("results", "state"),
    [
        ([], "ready"),
        ([result("a", "pass"), result("b", "info"), result("c", "unknown")], "ready"),
        ([result("a", "warn")], "limited"),
        ([result("vital", "unknown")], "limited"),
        ([result("a", "warn"), result("b", "fail")], "not_ready"),
        ([result("require.a", "unknown")], "not_ready"),
        ([result("require.a", "pass")], "ready"),
    ],
)
def test_states(results, state):
    verdict = judge(results, LIMITS, ["vital"])
    assert verdict["state"] == state
    assert verdict["summary"].startswith(state.replace("_", " "))


def test_limits_and_remedies():
    results = [result("a", "warn", "do a"), result("b", "warn", "do a"), result("vital", "unknown")]
    verdict = judge(results, LIMITS, ["vital"])
    assert verdict["limits"] == ["guests go without a: x", "b: x", "vital is not known: x"]
    assert verdict["remedies"] == ["do a"]
    assert verdict["summary"] == "limited: guests go without a: x, and 2 more limits"


def test_remedies_of_failures_come_alone_and_in_order():
    results = [
        result("a", "warn", "do a"),
        result("b", "fail", "do b"),
        result("c", "fail", "do c"),
    ]
    assert judge(results, LIMITS)["remedies"] == ["do b", "do c"]


def test_a_long_list_of_failures_is_counted():
    summary = judge([result(name, "fail") for name in "abcde"], {})["summary"]
    assert summary == "not ready: a: x; b: x; c: x; and 2 more"


def test_join():
    ready = judge([result("a", "pass")], {})
    limited = judge([result("a", "warn", "do a")], LIMITS)
    broken = judge([result("b", "fail", "do b")], {})
    assert join([ready]) == ready
    assert join([ready, ready])["summary"] == ready["summary"]
    assert join([ready, limited])["state"] == "limited"
    both = join([limited, broken])
    assert (both["state"], both["remedies"]) == ("not_ready", ["do b"])
    assert both["limits"] == limited["limits"]
    assert join([broken, broken])["summary"] == "not ready: b: x; not ready: b: x"
