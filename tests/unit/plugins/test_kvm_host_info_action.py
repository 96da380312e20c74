# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's side of kvm_host_info: names are checked before, results judged after."""

from __future__ import annotations

import runpy
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.errors import AnsibleError
from ansible.module_utils.host.observe import observe, to_dict


@pytest.fixture
def run(repository, tmp_path):
    """Return a function that runs the action with a host behind it that gives ``answer``."""
    path = repository / "plugins" / "action" / "kvm_host_info.py"
    made: Any = runpy.run_path(str(path))["ActionModule"]
    probed = {"changed": False, "host": to_dict(observe(str(tmp_path)))}

    def run_action(answer=None, **arguments):
        calls = []

        class Action(made):
            def __init__(self):
                self._task = SimpleNamespace(
                    args=arguments, async_val=0, check_mode=True, diff=False
                )
                self._connection = SimpleNamespace(_shell=SimpleNamespace(tmpdir=None))

            def _execute_module(self, *, module_args, task_vars):
                calls.append(module_args)
                return dict(answer or probed)

        return Action().run(task_vars={}), calls

    return run_action


def test_judged(run):
    answer, calls = run(require=["ept"], checks_ignore=["device.tun"])
    assert answer["changed"] is False
    assert answer["verdict"]["state"] == "not_ready"
    assert answer["checks"][-1]["id"] == "require.ept"
    assert "features" in answer["host"]
    assert len(calls) == 1


def test_unknown_names_never_reach_the_host(run):
    answer, calls = run(require=["eptt"], checks_ignore=["kvm.devise"])
    assert answer["failed"] is True
    assert [problem["path"] for problem in answer["problems"]] == ["checks_ignore[0]", "require[0]"]
    assert "did you mean ept" in answer["msg"]
    assert calls == []


@pytest.mark.parametrize("wrong", [{"requires": ["ept"]}, {"require": {"ept": True}}])
def test_wrong_options_never_reach_the_host(run, wrong):
    with pytest.raises(AnsibleError):
        run(**wrong)


@pytest.mark.parametrize(
    "answer", [{"failed": True, "msg": "no python"}, {"ansible_job_id": "1", "started": 1}]
)
def test_what_is_no_result_is_passed_on(run, answer):
    found, _ = run(answer)
    assert answer.items() <= found.items()
    assert "checks" not in found
