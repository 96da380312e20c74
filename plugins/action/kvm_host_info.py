# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Judge on the controller what the probes of kvm_host_info found on the host."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

runpy.run_path(str(Path(__file__).parents[1] / "shim.py"))

from ansible.module_utils.converge.errors import InputError
from ansible.module_utils.host.checks.require import check_names
from ansible.module_utils.host.readiness import assess

_SPEC: dict[str, Any] = {
    "root": {"type": "path", "default": "/"},
    "checks_ignore": {"type": "list", "elements": "str", "default": []},
    "require": {"type": "list", "elements": "str", "default": []},
}


class ActionModule(ActionBase):
    """The controller's side of the kvm_host_info module."""

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Refuse unknown names before the host is touched, let it probe, and judge."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        _, options = self.validate_argument_spec(argument_spec=_SPEC)
        ignore, require = options["checks_ignore"], options["require"]
        try:
            check_names(ignore, require)
        except InputError as error:
            return {**result, "failed": True, "msg": str(error), **error.data}
        answer = self._execute_module(module_args=options, task_vars=task_vars)
        if answer.get("failed") or "host" not in answer:
            return {**result, **answer}
        return {**result, **answer, **assess(answer["host"], ignore, require)}
