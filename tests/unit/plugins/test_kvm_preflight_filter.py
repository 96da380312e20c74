# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter that joins what a preflight found."""

from __future__ import annotations

import runpy

import pytest
from ansible.errors import AnsibleFilterError

INFO = {
    "host": {"cpuinfo": {}},
    "checks": [{"id": "a"}],
    "verdict": {"state": "ready", "limits": [], "remedies": [], "summary": "ready: 1 check"},
}
SELFTEST = {
    "checks": [{"id": "selftest.guest"}],
    "measurements": [{"id": "pio_exit"}],
    "facts": {"ring0": "native"},
    "verdict": {"state": "limited", "limits": ["slow"], "remedies": [], "summary": "limited: slow"},
}


@pytest.fixture
def join(repository):
    path = repository / "plugins" / "filter" / "kvm_preflight.py"
    return runpy.run_path(str(path))["FilterModule"]().filters()["kvm_preflight_result"]


def test_both(join):
    found = join(INFO, SELFTEST)
    assert [check["id"] for check in found["checks"]] == ["a", "selftest.guest"]
    assert found["verdict"]["state"] == "limited"
    assert (found["measurements"], found["facts"]) == (SELFTEST["measurements"], SELFTEST["facts"])
    assert found["host"] == INFO["host"]


@pytest.mark.parametrize("selftest", [None, {}, {"skipped": True}])
def test_without_a_selftest(join, selftest):
    found = join(INFO, selftest)
    assert found["verdict"] == INFO["verdict"]
    assert "measurements" not in found


@pytest.mark.parametrize("wrong", [None, {}, "text"])
def test_what_is_no_result_is_an_error(join, wrong):
    with pytest.raises(AnsibleFilterError, match="expected the result of kvm_host_info"):
        join(wrong)
