# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's side of kvm_helper: the archive travels only to hosts that want it."""

from __future__ import annotations

import runpy
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail
from ansible.module_utils.kvm import archive


@pytest.fixture
def plugin(repository):
    """Return the plugin with a host behind it that notes what reaches it."""
    path = repository / "plugins" / "action" / "kvm_helper.py"
    made: Any = runpy.run_path(str(path))["ActionModule"]

    class Plugin(made):
        def __init__(self, arguments, *, wanted):
            self._task = SimpleNamespace(args=arguments, async_val=0, check_mode=False, diff=False)
            shell = SimpleNamespace(tmpdir="/tmp/x", join_path=lambda *parts: "/".join(parts))
            self._connection = SimpleNamespace(_shell=shell, become=None)
            self.wanted = wanted
            self.calls = []
            self.sent = {}
            self.removed = []

        def _execute_module(self, *, module_args, task_vars):
            self.calls.append(dict(module_args))
            wanted = self.wanted and "archive" not in module_args
            return {"changed": not wanted and self.wanted, "archive_wanted": wanted}

        def _transfer_data(self, path, data):
            self.sent[path] = data

        def _fixup_perms2(self, paths):
            assert set(self.sent) <= set(paths)

        def _remove_tmp_path(self, path):
            self.removed.append(path)

    return Plugin


def test_a_host_that_has_it_is_asked_once(plugin):
    action = plugin({"state": "present"}, wanted=False)
    result = action.run(task_vars={"inventory_hostname": "kvm1"})
    digest = archive.digest(archive.build())
    assert action.calls == [{"state": "present", "host": "kvm1", "digest": digest}]
    assert action.sent == {}
    assert "archive_wanted" not in result


def test_a_host_that_wants_it_gets_it(plugin):
    action = plugin({}, wanted=True)
    result = action.run(task_vars={"inventory_hostname": "kvm1"})
    assert action.sent == {"/tmp/x/helper.pyz": archive.build()}
    assert [call.get("archive") for call in action.calls] == [None, "/tmp/x/helper.pyz"]
    assert result["changed"] is True
    assert "archive_wanted" not in result
    assert action.removed == ["/tmp/x"]


@pytest.mark.parametrize("name", ["digest", "archive", "host"])
def test_what_the_plugin_gives_cannot_be_given(plugin, name):
    with pytest.raises(AnsibleActionFail, match=f"gives {name} itself"):
        plugin({name: "x"}, wanted=False).run(task_vars={})
