# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Fail where the run has changed anything so far, or would."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

from ansible import constants
from ansible.plugins.action import ActionBase

runpy.run_path(str(Path(__file__).parents[1] / "shim.py"))

from ansible.module_utils.converge.tally import so_far

_WIDTH = 100


class ActionModule(ActionBase):
    """The gate of a pipeline."""

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Fail with what there is to do as the message."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        self.validate_argument_spec(argument_spec={})
        if "kvm_report" not in (constants.config.get_config_value("CALLBACKS_ENABLED") or ()):
            message = (
                "the callback kvm_report counts changes, and callbacks_enabled does not name it"
            )
            return {**result, "failed": True, "msg": message}
        tally = so_far()
        if tally.changes():
            message = f"expected nothing to do, found {tally.line()}\n{tally.render(_WIDTH)}"
            return {**result, "failed": True, "msg": message, **tally.to_dict()}
        return {**result, "changed": False, "msg": tally.line()}
