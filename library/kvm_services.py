# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Enable, start, stop and disable any number of systemd's units in one call."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kvm_services
short_description: Enable, start or disable several units of systemd at once
version_added: "0.1.0"
author: virtfleet contributors (@virtfleet)
description:
  - Asks systemd for all units in one call, and changes those that differ.
  - A service that ends by itself when nobody needs it, as libvirt's daemons do, belongs under
    O(enabled), and its socket under O(started).
  - A unit that is masked stays masked. Stated as enabled it is told under RV(blocked).
options:
  enabled:
    description: Units that start at boot. Whether they run now does not matter.
    type: list
    elements: str
    default: []
  started:
    description: Units that start at boot, and run now.
    type: list
    elements: str
    default: []
  disabled:
    description: Units that neither start at boot nor run now. One that does not exist is right.
    type: list
    elements: str
    default: []
  host:
    description: The name by which actions call this host.
    type: str
    default: localhost
attributes:
  check_mode:
    description: Says what a run would do, changing nothing. A unit that is not there yet counts as
      one that this run installs.
    support: full
  diff_mode:
    description: Says what differs.
    support: full
  platform:
    description: The systems that it works on.
    support: full
    platforms: posix
"""

EXAMPLES = r"""
- name: Let libvirt listen on its local socket, and on no other
  kvm_services:
    enabled: [libvirtd.service]
    started: [libvirtd.socket, libvirtd-ro.socket]
    disabled: [libvirtd-tcp.socket]
"""

RETURN = r"""
actions:
  description: What was done, in check mode what would be.
  returned: always
  type: list
  elements: dict
  sample:
    - id: a1
      step: 1
      object: unit/libvirtd.socket
      action: start
      host: kvm1
      target: null
      when: now
      changes:
        - {path: active, before: false, after: true}
      reason: active differs
      destructive: false
pending:
  description: Nothing; what is outstanding with a unit is told by its own module.
  returned: always
  type: list
  elements: dict
blocked:
  description: Units that are masked and stated as enabled.
  returned: always
  type: list
  elements: dict
"""

from typing import TYPE_CHECKING, Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.converge.action import Plan
from ansible.module_utils.converge.errors import VirtfleetError
from ansible.module_utils.converge.result import result
from ansible.module_utils.system import services
from ansible.module_utils.system.execution import alone, runner
from ansible.module_utils.system.operation import Executor

if TYPE_CHECKING:
    from ansible.module_utils.system.outcome import Outcome


def run(module: AnsibleModule) -> dict[str, Any]:
    """Bring the units to the state asked for; return the result."""
    command = runner(module.run_command)
    desired = services.desire(module.params)

    def planned() -> Outcome:
        observed = services.read(desired, command)
        gone = [] if module.check_mode else services.missing(desired, observed)
        if gone:
            raise VirtfleetError(
                f"systemd does not know {', '.join(gone)}",
                remedy="install the package that brings it, or leave it out",
                missing=gone,
            )
        return services.plan(desired, observed, module.params["host"])

    outcome = planned()
    if outcome.steps and not module.check_mode:
        with alone("/", "kvm_services"):
            outcome = planned()  # what was planned without the lock may be done by now
            Executor("/", command).apply(outcome.steps)
    plan = Plan.of([step.action for step in outcome.steps], outcome.pending, outcome.blocked)
    return result(plan.actions, plan.pending, plan.blocked)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **{name: {"type": "list", "elements": "str", "default": []} for name in services.LISTS},
            "host": {"type": "str", "default": "localhost"},
        },
        supports_check_mode=True,
    )
    try:
        found = run(module)
    except VirtfleetError as error:
        module.fail_json(msg=str(error), **error.data)
    for item in found["blocked"]:
        module.warn(f"{item['object']}: {item['reason']}: {item['remedy']}")
    module.exit_json(**found)


if __name__ == "__main__":
    main()
