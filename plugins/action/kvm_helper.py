# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Make the helper's archive on the controller and send it to hosts that do not have it."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

runpy.run_path(str(Path(__file__).parents[1] / "shim.py"))

from ansible.module_utils.kvm import archive

_OURS = {"host", "digest", "archive"}


class ActionModule(ActionBase):
    """The controller's side of the kvm_helper module."""

    TRANSFERS_FILES = True

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Ask by digest first; transfer the archive only when it is wanted."""
        task_vars = task_vars or {}
        result: dict[str, Any] = super().run(tmp, task_vars)
        given = _OURS & set(self._task.args)
        if given:
            names = ", ".join(sorted(given))
            raise AnsibleActionFail(f"kvm_helper gives {names} itself: leave it out of the task")
        content = archive.build()
        arguments = {
            **self._task.args,
            "host": task_vars.get("inventory_hostname", "localhost"),
            "digest": archive.digest(content),
        }
        try:
            answer = self._execute_module(module_args=arguments, task_vars=task_vars)
            if answer.get("archive_wanted"):
                path = self._send(content)
                arguments["archive"] = path
                answer = self._execute_module(module_args=arguments, task_vars=task_vars)
        finally:
            self._remove_tmp_path(self._connection._shell.tmpdir)  # noqa: SLF001 - as Ansible does
        answer.pop("archive_wanted", None)
        return {**result, **answer}

    def _send(self, content: bytes) -> str:
        """Write the archive into the task's temporary folder on the host; return its path."""
        folder = self._connection._shell.tmpdir or self._make_tmp_path()  # noqa: SLF001
        path: str = self._connection._shell.join_path(folder, "helper.pyz")  # noqa: SLF001
        self._transfer_data(path, content)
        self._fixup_perms2((folder, path))
        return path
