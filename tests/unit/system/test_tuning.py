# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""KSM, THP and the governor: what is put, what the machine lacks, what cannot change now."""

from __future__ import annotations

import pytest
from ansible.module_utils.system import tuning
from ansible.module_utils.system.tuning import Observed

ACROSS = "/sys/kernel/mm/ksm/merge_across_nodes"
SCALED = Observed(("policy0", "policy4"), frozenset({"performance", "powersave"}))


def test_a_machine_is_read_and_only_common_governors_count(tmp_path):
    base = tmp_path / "sys/devices/system/cpu/cpufreq"
    for policy, governors in {
        "policy0": "performance powersave ondemand\n",
        "policy4": "performance powersave\n",
    }.items():
        (base / policy).mkdir(parents=True)
        (base / policy / "scaling_available_governors").write_text(governors)
    (base / "boost").write_text("1")
    (tmp_path / "sys/kernel/mm/ksm").mkdir(parents=True)
    (tmp_path / "sys/kernel/mm/ksm/pages_shared").write_text("7\n")
    assert tuning.read(str(tmp_path)) == Observed(SCALED.policies, SCALED.governors, 7)


def test_a_machine_without_any_of_it(tmp_path):
    assert tuning.read(str(tmp_path)) == Observed()


@pytest.mark.parametrize(
    ("governor", "observed", "wrong"),
    [
        ("performance", SCALED, False),
        ("ondemand", SCALED, True),
        ("ondemand", Observed(), False),
        (None, SCALED, False),
    ],
)
def test_a_governor_that_the_driver_lacks_is_named(governor, observed, wrong):
    assert bool(tuning.check_known(governor, observed)) is wrong


def put(ksm=(), thp=(), governor=None, observed=SCALED):
    found = tuning.settings(dict(ksm), dict(thp), governor, observed)
    return [(item.object, item.path.rpartition("/")[2], item.value) for item in found]


def test_what_is_stated_is_put_in_an_order_that_the_kernel_takes():
    ksm = {"run": True, "pages_to_scan": 200, "sleep": "20ms", "merge_across_nodes": False}
    assert put(ksm, {"enabled": "madvise", "defrag": "defer+madvise"}, "performance") == [
        ("ksm", "merge_across_nodes", "0"),
        ("ksm", "pages_to_scan", "200"),
        ("ksm", "sleep_millisecs", "20"),
        ("ksm", "run", "1"),
        ("thp", "enabled", "madvise"),
        ("thp", "defrag", "defer+madvise"),
        ("governor", "scaling_governor", "performance"),
        ("governor", "scaling_governor", "performance"),
    ]


@pytest.mark.parametrize(
    ("stated", "found"),
    [
        ({}, []),
        ({"ksm": {"run": None, "sleep": None}}, []),
        ({"ksm": {"run": False}}, [("ksm", "run", "0")]),
        ({"ksm": {"sleep": "0ms"}}, [("ksm", "sleep_millisecs", "0")]),
        ({"ksm": {"sleep": "1.5s"}}, [("ksm", "sleep_millisecs", "1500")]),
        ({"thp": {"enabled": "never", "defrag": None}}, [("thp", "enabled", "never")]),
        ({"governor": "performance", "observed": Observed()}, []),
    ],
)
def test_only_what_is_stated_is_put(stated, found):
    assert put(**stated) == found


@pytest.mark.parametrize(
    ("live", "shared", "held"),
    [("1", 5, True), ("1", 0, False), ("0", 5, False), (None, 5, False)],
)
def test_merging_across_nodes_does_not_change_while_pages_are_merged(live, shared, held):
    observed = Observed(ksm_shared=shared)
    wanted = tuning.settings({"merge_across_nodes": False, "run": True}, {}, None, observed)
    can, told = tuning.withhold(wanted, {ACROSS: live}, None, observed, "kvm1")
    assert (ACROSS in [item.path for item in can]) is not held
    assert [item.kind for item in told.pending] == (["unmerge_required"] if held else [])
    assert len(can) == len(wanted) - held


@pytest.mark.parametrize(
    ("governor", "observed", "kinds"),
    [
        ("performance", Observed(), ["not_available"]),
        ("performance", SCALED, []),
        (None, Observed(), []),
    ],
)
def test_a_machine_without_frequency_scaling_is_told(governor, observed, kinds):
    _, told = tuning.withhold([], {}, governor, observed, "kvm1")
    assert [item.kind for item in told.pending] == kinds


def test_at_boot_the_governor_is_for_all_policies_that_there_will_be():
    (found,) = tuning.at_boot("performance")
    assert (found.path, found.value) == (
        "/sys/devices/system/cpu/cpufreq/policy*/scaling_governor",
        "performance",
    )
    assert tuning.at_boot(None) == []
