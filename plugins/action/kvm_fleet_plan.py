# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Plan a whole fleet on the controller, once, from what was seen of every host."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase

runpy.run_path(str(Path(__file__).parents[1] / "shim.py"))

from ansible.module_utils.converge.errors import VirtfleetError
from ansible.module_utils.fleet.plan import FleetPlan, Wish, plan

_SPEC: dict[str, Any] = {
    "fleet": {"type": "dict", "required": True},
    "observed": {"type": "str", "required": True},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "prune": {"type": "bool", "default": False},
    "allow_removals": {"type": "bool", "default": False},
}


class ActionModule(ActionBase):
    """The plan of a fleet."""

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Gather what is declared and what was seen, and plan."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        _, options = self.validate_argument_spec(argument_spec=_SPEC)
        variables = task_vars or {}
        hosts, groups = variables["hostvars"], variables["groups"]
        absent = options["state"] == "absent"
        fleet = options["fleet"]
        try:
            wish = Wish(
                fleet["name"],
                [self._guest(hosts, name, absent=absent) for name in groups.get("guests", ())],
                {
                    name: hosts.get(name, {}).get("kvm_fleet_place") or {}
                    for name in groups.get("hypervisors", ())
                },
                fleet["pools"],
                fleet["placement"],
                prune=(fleet["prune"] or options["prune"]) and not absent,
                most_removals=fleet["most_removals"],
                allow_removals=options["allow_removals"] or absent,
            )
            # A host that could not be reached, or is not among those of this run, has no answer.
            seen = {name: _answer(hosts, name, options["observed"]) for name in wish.hypervisors}
            found = plan(wish, seen)
        except VirtfleetError as error:
            return {**result, "failed": True, "msg": str(error), **error.data}
        except KeyError as error:
            raise AnsibleError(f"this is no fleet of the inventory: {error} is missing") from None
        return {**result, **_told(found)}

    def _guest(self, hosts: Any, name: str, *, absent: bool) -> dict[str, Any]:
        """Return a guest as the plan takes it, of its variables in the inventory."""
        variables = hosts.raw_get(name)
        spec = variables["kvm_guest_spec"]
        parts = {
            **variables["kvm_guest_asked"],
            "state": "absent" if absent else spec.get("state", "running"),
            "adopt": spec.get("adopt", False),
        }
        if _is_template(parts):
            parts = _filled(hosts, name, parts)
        return {"name": name, **parts}


def _is_template(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_is_template(one) for one in value.values())
    if isinstance(value, (list, tuple)):
        return any(_is_template(one) for one in value)
    return isinstance(value, str) and ("{{" in value or "{%" in value)


def _filled(hosts: Any, name: str, parts: dict[str, Any]) -> dict[str, Any]:
    """Return what a guest asks for with its templates filled in by its own variables."""
    own = hosts[name]
    spec = own["kvm_guest_spec"]
    asked = own["kvm_guest_asked"]
    return {
        **parts,
        "asked": dict(asked["asked"]),
        "state": parts["state"] if parts["state"] == "absent" else spec.get("state", "running"),
        "adopt": spec.get("adopt", False),
    }


def _answer(hosts: Any, name: str, variable: str) -> dict[str, Any] | None:
    """Return what was seen of a host, None where it did not answer."""
    answer = hosts.get(name, {}).get(variable)
    if not isinstance(answer, dict) or answer.get("failed") or answer.get("unreachable"):
        return None
    return answer if "guests" in answer else None


def _told(found: FleetPlan) -> dict[str, Any]:
    """Return the plan as a result."""
    plain = found.to_dict()
    count = len(plain["new"])
    words = f"{len(plain['hosts'])} guests on {len(plain['parts'])} hosts, {count} of them new"
    if plain["blocked"]:
        words += f", {len(plain['blocked'])} blocked"
    return {"changed": False, "msg": words, **plain}
