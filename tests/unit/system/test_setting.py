# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Values that the kernel keeps: how they are shown, compared, put and written for the boot."""

from __future__ import annotations

import pytest
from ansible.module_utils.system import setting
from ansible.module_utils.system.operation import Put
from ansible.module_utils.system.setting import Setting

THP = "/sys/kernel/mm/transparent_hugepage/defrag"
RUN = "/sys/kernel/mm/ksm/run"
PARAMETER = "/sys/module/kvm/parameters/x"


@pytest.mark.parametrize(
    ("path", "raw", "shown"),
    [
        ("/proc/sys/a", "4096\t87380  6291456\n", "4096 87380 6291456"),
        ("/proc/sys/a", None, None),
        (THP, "always defer [defer+madvise] madvise never\n", "defer+madvise"),
        (THP, "odd\n", "odd"),
        (RUN, "1\n", "1"),
        (RUN, "0\n", "0"),
        (RUN, "2\n", "0"),
        (PARAMETER, "Y\n", "Y"),
    ],
)
def test_the_kernels_text_is_read_as_it_would_be_written(path, raw, shown):
    assert setting.shown(raw, setting.form_of(path)) == shown


@pytest.mark.parametrize(
    ("value", "live", "same"),
    [
        ("1", "Y", True),
        ("0", "N", True),
        ("Y", "1", True),
        ("n", "N", True),
        ("1", "N", False),
        ("0", "Y", False),
        ("1", "1", True),
        ("2", "1", False),
        ("0x10", "16", True),
        ("-1", "-1", True),
        ("-1", "1", False),
        ("auto", "auto", True),
        ("auto", "Y", False),
        ("auto", "1", False),
        ("1", "auto", False),
    ],
)
def test_parameters_are_compared_by_what_they_mean(value, live, same):
    assert setting.same_parameter(value, live) is same


def plan(settings, live, refused=()):
    return setting.plan(settings, live, dict(refused), "kvm1")


ONE = Setting("ksm", "pages", "/a", "5")
TWO = Setting("ksm", "sleep", "/b", "6")


def test_what_differs_is_one_action_an_object():
    outcome = plan([ONE, TWO, Setting("thp", "x", "/c", "7")], {"/a": "1", "/b": "1", "/c": "7"})
    (step,) = outcome.steps
    assert step.operations == (Put("/a", "5"), Put("/b", "6"))
    assert step.action.reason == "pages, sleep differs"
    assert [(c.path, c.before, c.after) for c in step.action.changes] == [
        ("pages", "1", "5"),
        ("sleep", "1", "6"),
    ]
    assert outcome.pending == ()


def test_a_file_that_is_not_there_is_told_unless_it_comes():
    outcome = plan([ONE, Setting("s", "v", "/d", "1", comes=True)], {"/a": None, "/d": None})
    assert [step.action.object for step in outcome.steps] == ["s"]
    assert [(item.object, item.kind) for item in outcome.pending] == [("ksm", "not_available")]


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/proc/sys/a", "not_available"),
        (PARAMETER, "not_available"),
        ("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "hugepages_short"),
    ],
)
def test_what_the_kernel_refused_is_told_until_something_else_is_asked(path, kind):
    wanted = Setting("o", "k", path, "9")
    outcome = plan([wanted], {path: "7"}, {path: "9"})
    assert outcome.steps == ()
    (pending,) = outcome.pending
    assert (pending.kind, bool(pending.remedy)) == (kind, True)
    assert [(c.path, c.before, c.after) for c in pending.changes] == [("k", "7", "9")]
    assert plan([wanted], {path: "7"}, {path: "8"}).steps
    assert plan([wanted], {path: "9"}, {path: "9"}) == setting.Outcome()


def test_lines_for_the_boot_have_each_pattern_once():
    policies = [Setting("g", p, f"/cpu/{p}", "x", boot_path="/cpu/*") for p in ("p0", "p1")]
    assert setting.boot_lines([ONE, *policies]) == ["w /a - - - - 5", "w /cpu/* - - - - x"]
