# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measurements against thresholds."""

from __future__ import annotations

import pytest
from ansible.module_utils.host.selftest import GUEST, THRESHOLDS, assess, names


def measured(identity, value, unit="us"):
    return {
        "id": identity,
        "title": identity,
        "unit": unit,
        "value": value,
        "min": value * 0.9,
        "max": value * 1.1,
        "samples": 9,
    }


def selftest(*measurements, ok=True, error=None, errors=None, **facts):
    found = {"ok": ok, "error": error, "measurements": list(measurements), "facts": facts}
    return {**found, "errors": errors or {}}


def row(result, identity, **thresholds):
    found = assess(result, thresholds)["checks"]
    return next(check for check in found if check["id"] == identity)


@pytest.mark.parametrize(
    ("value", "threshold", "level"), [(8.9, 50, "pass"), (50, 50, "pass"), (51, 50, "warn")]
)
def test_times_are_at_most(value, threshold, level):
    found = row(selftest(measured("pio_exit", value)), "selftest.pio_exit", pio_exit=threshold)
    assert found["level"] == level
    assert found["expected"] == ("at most 50 us" if level == "warn" else "")


@pytest.mark.parametrize(
    ("value", "threshold", "level"),
    [(0.97, 0.95, "pass"), (0.95, 0.95, "pass"), (0.5, 0.9, "warn")],
)
def test_ratios_are_at_least(value, threshold, level):
    result = selftest(measured("integer_ratio", value, "ratio"))
    found = row(result, "selftest.integer_ratio", integer_ratio=threshold)
    assert found["level"] == level
    assert found["expected"] == (f"at least {threshold:g}" if level == "warn" else "")


def test_what_is_shown():
    found = row(selftest(measured("pio_exit", 8.9)), "selftest.pio_exit")
    assert found["found"] == "8.90 us (8.01 to 9.79 in 9 samples)"
    found = row(
        selftest(measured("open_to_first_instruction", 730)), "selftest.open_to_first_instruction"
    )
    assert found["found"] == "730 us (657 to 803 in 9 samples)"


def test_what_kvm_cannot_do_is_a_fact():
    found = row(selftest(hlt_wakeup="it does not wake up"), "selftest.hlt_wakeup")
    assert (found["level"], found["found"]) == (
        "info",
        "this KVM cannot do it: it does not wake up",
    )


def test_what_was_not_measured_is_unknown():
    assert row(selftest(), "selftest.mmio_exit")["level"] == "unknown"


@pytest.mark.parametrize(
    ("facts", "words"),
    [({"ring0": "native"}, "on the CPU"), ({"ring0": "emulated"}, "emulated"), ({}, "not known")],
)
def test_a_guest_ran(facts, words):
    found = row(selftest(**facts), GUEST)
    assert found["level"] == "pass"
    assert words in found["found"]


def test_no_guest_ran():
    found = assess(selftest(ok=False, error="/dev/kvm is missing"), {})
    assert [(check["id"], check["level"]) for check in found["checks"]] == [(GUEST, "fail")]
    assert found["verdict"]["state"] == "not_ready"
    assert "/dev/kvm is missing" in found["verdict"]["summary"]


def test_names_and_thresholds_belong_together():
    assert {name.partition(".")[2] for name in names()} == {"guest", *THRESHOLDS, "linux"}
    assert [check["id"] for check in assess(selftest(), {})["checks"]] == list(names())


LINUX = {
    "it came up": (
        {"measurements": [measured("linux_boot", 812.4, "ms")]},
        ("pass", "812 ms from power-on to its first process"),
    ),
    "nobody asked": (
        {"linux_boot": "it was not asked for"},
        ("info", "not tried: it was not asked for"),
    ),
    "it did not": (
        {"errors": {"linux_boot": "/boot/vmlinuz did not come up: timed out"}},
        ("warn", "/boot/vmlinuz did not come up: timed out"),
    ),
    "nobody knows": ({}, ("unknown", "not tried")),
}


@pytest.mark.parametrize("case", LINUX)
def test_whether_linux_boots(case):
    given, (level, words) = LINUX[case]
    given = dict(given)
    result = selftest(*given.pop("measurements", ()), **given)
    found = row(result, "selftest.linux")
    assert (found["level"], found["found"]) == (level, words)
    limits = assess(result, {})["verdict"]["limits"]
    assert any("the helper boots no Linux" in limit for limit in limits) == (level == "warn")
