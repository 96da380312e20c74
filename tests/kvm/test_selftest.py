# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The self-test on the real /dev/kvm: what it measures, and that a refusal is a fact."""

from __future__ import annotations

import json
import os

import pytest
from ansible.module_utils.kvm import abi, selftest
from ansible.module_utils.kvm.errors import KvmError

pytestmark = pytest.mark.kvm

UNITS = {
    "open_to_first_instruction": "us",
    "pio_exit": "us",
    "mmio_exit": "us",
    "hlt_wakeup": "us",
    "integer_ratio": "ratio",
    "memory_ratio": "ratio",
}


@pytest.fixture(scope="module")
def result():
    return selftest.selftest(rounds=3)


def test_it_succeeds_and_is_plain_data(result):
    assert (result["ok"], result["error"]) == (True, None)
    assert json.loads(json.dumps(result)) == result
    assert set(result) == {"ok", "error", "measurements", "facts"}


def test_every_measurement_is_there_or_a_fact_says_why(result):
    measured = {one["id"]: one["unit"] for one in result["measurements"]}
    assert measured.items() <= UNITS.items()
    assert set(UNITS) == set(measured) | set(result["facts"]) - {"ring0"}


def test_measurements_have_values_spread_and_samples(result):
    for one in result["measurements"]:
        assert set(one) == {"id", "title", "unit", "value", "min", "max", "samples"}
        assert 0 < one["min"] <= one["value"] <= one["max"]
        assert one["samples"] == (9 if one["id"] == "hlt_wakeup" else 3)
        # Wide limits, that hold under any load: a wrong unit or a wrong sign passes neither.
        low, high = (0.01, 20) if one["unit"] == "ratio" else (0.1, 1e6)
        assert low < one["value"] < high, one


def test_what_ring_0_is_is_a_fact(result, ring0):
    assert result["facts"]["ring0"] == ring0
    assert ring0 in {"native", "emulated", "unknown"}


def test_what_kvm_cannot_do_here_is_a_fact_and_no_failure(monkeypatch):
    """MMIO exits that never come stand for something that a KVM does not do."""
    run_to = selftest.Bench.run_to

    def without_mmio(bench, reason):
        if reason == abi.EXIT_MMIO:
            raise KvmError("expected the exit mmio, found internal_error")
        run_to(bench, reason)

    monkeypatch.setattr(selftest.Bench, "run_to", without_mmio)
    found = selftest.selftest(rounds=1)
    assert (found["ok"], found["error"]) == (True, None)
    assert found["facts"]["mmio_exit"] == "expected the exit mmio, found internal_error"
    assert "mmio_exit" not in {one["id"] for one in found["measurements"]}


def test_it_leaves_nothing_open_and_the_cpus_as_they_were():
    before = (set(os.listdir("/proc/self/fd")), os.sched_getaffinity(0))
    selftest.selftest(rounds=1)
    assert (set(os.listdir("/proc/self/fd")), os.sched_getaffinity(0)) == before


def test_the_command(helper):
    done = helper.run("selftest", "--json")
    assert done.status == 0
    found = json.loads(done.out)
    assert {one["id"] for one in found["measurements"]} <= set(UNITS)


def test_the_command_without_kvm(helper):
    done = helper.run("selftest", "--device", "/nowhere/kvm")
    assert done.status == 78
    assert "/nowhere/kvm is missing; load kvm_intel or kvm_amd" in done.err
