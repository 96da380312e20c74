# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Plan a whole fleet on the controller, once, from what was seen of every host."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any
from uuid import uuid4

from ansible.errors import AnsibleError
from ansible.parsing.vault import EncryptedString, VaultHelper
from ansible.plugins.action import ActionBase

runpy.run_path(str(Path(__file__).parents[1] / "shim.py"))

from ansible.module_utils.converge.errors import VirtfleetError, system_says
from ansible.module_utils.fleet.machines import common
from ansible.module_utils.fleet.plan import FleetPlan, Wish, capacity, plan
from ansible.module_utils.fleet.saved import check, is_open, saved

_SPEC: dict[str, Any] = {
    "fleet": {"type": "dict", "required": True},
    "observed": {"type": "str", "required": True},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "prune": {"type": "bool", "default": False},
    "allow_removals": {"type": "bool", "default": False},
    "capacity": {"type": "bool", "default": False},
    "save": {"type": "str", "default": ""},
    "saved": {"type": "str", "default": ""},
}


class ActionModule(ActionBase):
    """The plan of a fleet."""

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Gather what is declared and what was seen, and plan."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        _, options = self.validate_argument_spec(argument_spec=_SPEC)
        variables = task_vars or {}
        try:
            wish = self._wish(variables, options)
            hosts = variables["hostvars"]
            # A host that could not be reached, or is not among those of this run, has no answer.
            seen = {name: _answer(hosts, name, options["observed"]) for name in wish.hypervisors}
            told = _told(plan(wish, seen))
            told["machines"] = common((answer or {}).get("room") or {} for answer in seen.values())
            if options["capacity"]:
                told["capacity"] = capacity(wish, seen, options["fleet"]["sizes"])
            self._keep(told, variables, options)
        except VirtfleetError as error:
            return {**result, "failed": True, "msg": str(error), **error.data}
        except KeyError as error:
            raise AnsibleError(f"this is no fleet of the inventory: {error} is missing") from None
        return {**result, **told}

    def _wish(self, variables: dict[str, Any], options: dict[str, Any]) -> Wish:
        """Return what is declared, of the variables of hosts and guests."""
        hosts, groups = variables["hostvars"], variables["groups"]
        fleet, absent = options["fleet"], options["state"] == "absent"
        return Wish(
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
            left_out=frozenset(groups.get("hypervisors", ()))
            - set(variables["ansible_play_hosts_all"]),
            run=str(uuid4()),
        )

    def _keep(
        self, told: dict[str, Any], variables: dict[str, Any], options: dict[str, Any]
    ) -> None:
        """Hold the plan to one that was saved, and save it, where that is asked for."""
        if not options["saved"] and not options["save"]:
            return
        hosts = variables["hostvars"]
        names = variables["groups"].get("guests", ())
        specs = {}
        for name in names:
            raw = hosts.raw_get(name)["kvm_guest_spec"]
            whole = hosts[name]["kvm_guest_spec"] if _is_template(raw) else raw
            specs[name] = _settled(raw, whole)
        now = saved(told, specs, options["fleet"]["name"])
        if options["saved"]:
            check(_read(Path(options["saved"])), now)
        if options["save"]:
            path = Path(options["save"])
            half = path.with_name(f"{path.name}.new")
            try:
                half.write_text(f"{json.dumps(now, indent=1)}\n", encoding="utf-8")
                half.replace(path)
            except OSError as error:
                raise VirtfleetError(f"the plan cannot be saved: {system_says(error)}") from None

    def _guest(self, hosts: Any, name: str, *, absent: bool) -> dict[str, Any]:
        """Return a guest as the plan takes it, of its variables in the inventory."""
        found = _parts(hosts.raw_get(name), absent=absent)
        # To fill in templates takes time, and most guests have none in what is asked for.
        if _is_template(found):
            found = _parts(hosts[name], absent=absent)
        return {"name": name, **found}


def _parts(own: Any, *, absent: bool) -> dict[str, Any]:
    """Return what the plan has to know of a guest, of its variables."""
    spec, asked = own["kvm_guest_spec"], own["kvm_guest_asked"]
    return {
        "host": asked["host"],
        "asked": dict(asked["asked"]),
        "state": "absent" if absent else spec.get("state", "running"),
        "adopt": spec.get("adopt", False),
        "was": spec.get("was"),
    }


def _settled(raw: Any, whole: Any, path: tuple[str | int, ...] = ()) -> Any:
    """Return a declaration with its templates filled in, where what they make is no secret.

    What is in a vault stays there: ``whole`` fills in what is looked at alone.
    """
    if isinstance(raw, EncryptedString):
        return VaultHelper.get_ciphertext(raw, with_tags=False)
    if not _is_template(raw):
        return _sealed(raw)
    if isinstance(raw, dict):
        return {key: _settled(one, whole, (*path, key)) for key, one in raw.items()}
    if isinstance(raw, (list, tuple)):
        return [_settled(one, whole, (*path, number)) for number, one in enumerate(raw)]
    if not is_open([part for part in path if isinstance(part, str)]):
        return raw
    for part in path:
        whole = whole[part]
    return [raw, whole]


def _sealed(value: Any) -> Any:
    """Return a declaration as it stands in git: what is in a vault stays there."""
    if isinstance(value, dict):
        return {key: _sealed(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_sealed(one) for one in value]
    if isinstance(value, EncryptedString):
        return VaultHelper.get_ciphertext(value, with_tags=False)
    return value


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise VirtfleetError(f"the plan cannot be read: {system_says(error)}") from None
    except ValueError:
        raise VirtfleetError(f"{path} is no plan that playbooks/plan.yml saved") from None


def _is_template(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_is_template(one) for one in value.values())
    if isinstance(value, (list, tuple)):
        return any(_is_template(one) for one in value)
    return isinstance(value, str) and ("{{" in value or "{%" in value)


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
