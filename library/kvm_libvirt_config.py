# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Set libvirt's daemons: their files, who may connect, what confines their guests."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kvm_libvirt_config
short_description: Set libvirt's daemons without harming their guests
version_added: "0.1.0"
author: virtfleet contributors (@virtfleet)
description:
  - Sets keys in any number of files below C(/etc/libvirt), says who may connect to the daemons'
    sockets, and has guests confined, all in one call.
  - Settings stand in a block at the top of a file. Lines that say something else of the same keys
    are commented out where they stand; everything else stays as it is. What the file or the daemon
    says by itself already is not written. A setting that is no longer stated goes, and the lines
    that it replaced come back.
  - Daemons that run read the change at once, without guests noticing. A daemon whose unit would
    take its guests along (no C(KillMode=process)) is not restarted; that is told under
    RV(pending). C(virtlogd) and C(virtlockd), which hold something for guests, are reloaded.
options:
  state:
    description:
      - V(absent) takes away everything that this module set, and what it replaced comes back.
    type: str
    choices: [present, absent]
    default: present
  daemons:
    description:
      - The daemons that users connect to, that of QEMU first. V(libvirtd), or the modular ones
        (V(virtqemud), V(virtnetworkd), …) where the distribution has those.
    type: list
    elements: str
    default: [libvirtd]
  files:
    description:
      - File name to settings. Values are numbers, booleans (written as 1 and 0), strings or lists
        of strings.
    type: dict
    default: {}
  defaults:
    description:
      - What the daemons of this distribution do where a file says nothing, in the same shape. What
        equals it need not be written.
    type: dict
    default: {}
  socket_group:
    description:
      - The group that may connect, together with O(socket_mode). Without both the distribution's
        sockets stay as they are.
    type: str
  socket_mode:
    description:
      - The permissions of the sockets, as in V("0660"). The admin socket stays root's alone.
    type: str
  confinement:
    description:
      - What has to confine guests. It is written as C(security_driver) into C(qemu.conf), so that
        libvirt starts no guest without it. If it is not at work that is refused under
        RV(blocked), and not written.
    type: str
    choices: [apparmor, selinux]
  root:
    description:
      - A folder to treat as the root of the file system, to build an image or for a test. No
        daemon is asked or restarted there.
    type: path
    default: /
  host:
    description:
      - The name by which actions call this host.
    type: str
    default: localhost
attributes:
  check_mode:
    description: Says what a run would do, changing nothing. A host without libvirt has nothing yet.
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
- name: Let the group libvirt connect, and no guest run unconfined
  kvm_libvirt_config:
    daemons: [libvirtd]
    files:
      qemu.conf:
        seccomp_sandbox: true
        user: libvirt-qemu
    defaults:
      qemu.conf:
        user: libvirt-qemu
    socket_group: libvirt
    socket_mode: "0660"
    confinement: apparmor

- name: Take all of it back
  kvm_libvirt_config:
    state: absent
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
      object: file/etc/libvirt/qemu.conf
      action: update
      host: kvm1
      target: null
      when: live
      changes:
        - {path: seccomp_sandbox, before: null, after: 1}
      reason: its settings differ
      destructive: false
pending:
  description: Daemons that need a restart which would end guests.
  returned: always
  type: list
  elements: dict
blocked:
  description: A confinement that is not at work, with what would bring it there.
  returned: always
  type: list
  elements: dict
"""

from typing import TYPE_CHECKING, Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.converge.action import Plan
from ansible.module_utils.converge.errors import VirtfleetError
from ansible.module_utils.converge.result import result
from ansible.module_utils.system import libvirt_config
from ansible.module_utils.system.execution import alone, readable, runner
from ansible.module_utils.system.libvirt_desire import desire
from ansible.module_utils.system.operation import Executor

if TYPE_CHECKING:
    from ansible.module_utils.system.outcome import Outcome


def run(module: AnsibleModule) -> dict[str, Any]:
    """Bring the host to the state asked for; return the result."""
    root, command = module.params["root"], runner(module.run_command)
    desired = desire(module.params)

    def planned() -> Outcome:
        observed = libvirt_config.read(desired, root, command)
        return libvirt_config.plan(desired, observed, module.params["host"])

    outcome = planned()
    if outcome.steps and not module.check_mode:
        with alone(root, "kvm_libvirt_config"):
            outcome = planned()  # what was planned without the lock may be done by now
            Executor(root, command).apply(outcome.steps)
    plan = Plan.of([step.action for step in outcome.steps], outcome.pending, outcome.blocked)
    found = result(plan.actions, plan.pending, plan.blocked)
    return {**found, "diff": readable(found["diff"], outcome.steps)}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "daemons": {"type": "list", "elements": "str", "default": ["libvirtd"]},
            "files": {"type": "dict", "default": {}},
            "defaults": {"type": "dict", "default": {}},
            "socket_group": {"type": "str"},
            "socket_mode": {"type": "str"},
            "confinement": {"type": "str", "choices": ["apparmor", "selinux"]},
            "root": {"type": "path", "default": "/"},
            "host": {"type": "str", "default": "localhost"},
        },
        required_together=[["socket_group", "socket_mode"]],
        supports_check_mode=True,
    )
    try:
        found = run(module)
    except VirtfleetError as error:
        module.fail_json(msg=str(error), **error.data)
    except OSError as error:
        module.fail_json(msg=f"cannot read {error.filename}: {error.strerror}")
    for item in found["blocked"]:
        module.warn(f"{item['object']}: {item['reason']}: {item['remedy']}")
    module.exit_json(**found)


if __name__ == "__main__":
    main()
