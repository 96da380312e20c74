# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules for readiness, run as Ansible runs them."""

from __future__ import annotations

import json
import runpy

import pytest
from ansible.module_utils.testing import patch_module_args


@pytest.fixture
def run(repository, capsys):
    def run_module(module, *, check=False, **options):
        main = runpy.run_path(str(repository / "library" / f"{module}.py"))["main"]
        arguments = {**options, "_ansible_check_mode": check}
        with patch_module_args(arguments), pytest.raises(SystemExit):
            main()
        return json.loads(capsys.readouterr().out)

    return run_module


@pytest.mark.parametrize("check", [True, False])
def test_host_info_probes(run, tmp_path, check):
    answer = run("kvm_host_info", check=check, root=str(tmp_path))
    assert answer["changed"] is False
    assert answer["host"]["cpuinfo"]["readable"] is False
    assert answer["host"]["kvm"] is None
    assert list(tmp_path.iterdir()) == []


def test_selftest_without_kvm(run, tmp_path):
    answer = run("kvm_selftest", device=str(tmp_path / "kvm"))
    assert answer["changed"] is False
    assert answer["measurements"] == []
    assert answer["verdict"]["state"] == "not_ready"
    assert "is missing" in answer["checks"][0]["found"]


def test_selftest_of_no_rounds(run):
    answer = run("kvm_selftest", rounds=0)
    assert answer["failed"] is True
    assert answer["msg"] == "rounds: expected at least 1, found 0"
