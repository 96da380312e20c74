# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Write a fleet's file on the controller for hosts and guests that are there already."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import yaml
from ansible.plugins.action import ActionBase

runpy.run_path(str(Path(__file__).parents[1] / "shim.py"))

from ansible.module_utils.converge.errors import InputError, system_says
from ansible.module_utils.fleet.declare import declare
from ansible.module_utils.fleet.imported import imported, is_connection

_SPEC: dict[str, Any] = {
    "fleet": {"type": "str", "required": True},
    "observed": {"type": "str", "required": True},
    "dest": {"type": "str", "required": True},
    "adopted": {"type": "bool", "default": False},
}


class ActionModule(ActionBase):
    """The file of a fleet that was never declared."""

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Gather what was seen of the hosts, and write it; a file that is there stays."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        _, options = self.validate_argument_spec(argument_spec=_SPEC)
        variables = task_vars or {}
        found = {}
        for name in variables["ansible_play_hosts"]:
            host = variables["hostvars"][name]
            answer = host.get(options["observed"])
            if isinstance(answer, dict) and "guests" in answer:
                own = {key: host[key] for key in host if is_connection(str(key))}
                found[name] = {"variables": own, **answer}
        data, notes = imported(options["fleet"], found, adopted=options["adopted"])
        text = "---\n" + yaml.safe_dump(_plain(data), sort_keys=False, width=120)
        path = Path(options["dest"])
        if path.exists():
            message = f"{path} is there already: state another place, or move it away"
            return {**result, "failed": True, "msg": message}
        try:
            declare([(path.name, text.encode())])
            if not self._task.check_mode:
                path.write_text(text, encoding="utf-8")
        except OSError as error:
            return {**result, "failed": True, "msg": system_says(error)}
        except InputError as error:
            return {**result, "failed": True, "msg": str(error), **error.data}
        count = len(data["guests"])
        left = f", {len(notes)} left out" if notes else ""
        words = f"{count} guests of {len(found)} hosts in {path}{left}"
        diff = {"before": "", "after": text, "after_header": str(path)}
        answer = {"changed": True, "msg": words, "left_out": notes, "diff": diff}
        return {**result, **answer}


def _plain(value: Any) -> Any:
    """Return a value without what Ansible knows of it besides."""
    return json.loads(json.dumps(value, default=str))
