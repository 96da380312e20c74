# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The self-test on the real /dev/kvm: what it measures, and that a refusal is a fact."""

from __future__ import annotations

import gc
import json
import os

import pytest
from ansible.module_utils.kvm import abi, selftest, selftest_linux
from ansible.module_utils.kvm.device import Kvm
from ansible.module_utils.kvm.errors import KvmError
from ansible.module_utils.kvm.programs import PROGRAMS

pytestmark = pytest.mark.kvm

UNITS = {
    "open_to_first_instruction": "us",
    "pio_exit": "us",
    "mmio_exit": "us",
    "hlt_wakeup": "us",
    "integer_ratio": "ratio",
    "memory_ratio": "ratio",
    "linux_boot": "ms",
}


@pytest.fixture(scope="module")
def result():
    return selftest.selftest(rounds=3)


def test_it_succeeds_and_is_plain_data(result):
    assert (result["ok"], result["error"]) == (True, None)
    assert json.loads(json.dumps(result)) == result
    assert set(result) == {"ok", "error", "errors", "measurements", "facts"}
    assert result["errors"] == {}


def test_every_measurement_is_there_or_a_fact_says_why(result):
    measured = {one["id"]: one["unit"] for one in result["measurements"]}
    assert measured.items() <= UNITS.items()
    assert set(UNITS) == set(measured) | set(result["facts"]) - {"ring0"}


def test_measurements_have_values_spread_and_samples(result):
    for one in result["measurements"]:
        assert set(one) == {"id", "title", "unit", "value", "min", "max", "samples"}
        assert 0 < one["min"] <= one["value"] <= one["max"]
        assert one["samples"] == {"hlt_wakeup": 9, "linux_boot": 1}.get(one["id"], 3)
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


def test_where_ring_0_is_emulated_no_kernel_is_tried(monkeypatch, ring0, images, tmp_path):
    if ring0 != "emulated":
        pytest.skip("ring 0 is not emulated here: what a kernel does is proven in the lab")
    kernel = tmp_path / "vmlinuz"
    kernel.write_bytes(images.bzimage())
    monkeypatch.setattr(selftest_linux, "kernel_of", lambda _: str(kernel))
    found = selftest.selftest(rounds=1)
    assert (found["ok"], found["errors"]) == (True, {})
    assert "interprets privileged code" in found["facts"]["linux_boot"]


def test_linux_is_left_out_where_nobody_asks_for_it():
    found = selftest.selftest(rounds=1, linux=False)
    assert found["facts"]["linux_boot"] == "it was not asked for"
    assert "linux_boot" not in {one["id"] for one in found["measurements"]}


def test_a_kernel_that_does_not_come_up_is_told_with_its_console(monkeypatch, tmp_path):
    monkeypatch.setattr(selftest_linux, "_TIMEOUT", 0.5)
    kernel = tmp_path / "vmlinuz"
    kernel.write_bytes(PROGRAMS["greeter"])
    with Kvm() as kvm, pytest.raises(KvmError) as raised:
        selftest_linux.boot(kvm, str(kernel))
    assert str(raised.value).startswith(f"{kernel} did not come up: timed out; its console: ")


def test_it_leaves_nothing_open_and_the_cpus_as_they_were():
    gc.collect()  # what an error of the tests before still holds
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
