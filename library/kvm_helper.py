# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Install the ioctl helper on a host, or take it away."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kvm_helper
short_description: Install the ioctl helper that runs small KVM guests
version_added: "0.1.0"
author: virtfleet contributors (@virtfleet)
description:
  - Brings the C(kvm-helper) command to a host, or takes it away. It is pure Python, so nothing is
    compiled but its own bytecode.
  - A version is a folder below C(/usr/lib/virtfleet/helper/), named by the digest of its archive.
    C(/usr/local/bin/kvm-helper) points at the one that new guests start on. Guests that run keep
    the version they started on, which is told under RV(pending); a version that nobody uses any
    more is removed.
  - Where systemd is the init, the template unit C(virtfleet-guest@.service) comes with it.
  - An action plugin on the controller makes the archive, and sends it only to hosts that do not
    have it.
options:
  state:
    description:
      - V(present) installs the version that belongs to this checkout.
      - V(absent) removes all of them. It is refused while there are guests, running or not.
    type: str
    choices: [present, absent]
    default: present
  root:
    description:
      - A folder to treat as the root of the file system, to build an image or for a test. Nothing
        is started or reloaded there.
    type: path
    default: /
  host:
    description:
      - The name by which actions call this host. The action plugin gives the inventory's name.
    type: str
    default: localhost
  digest:
    description: The digest of the archive. The action plugin gives it.
    type: str
  archive:
    description:
      - The archive's path on the host. The action plugin gives it when the host needs it.
    type: path
attributes:
  check_mode:
    description: Says what a run would do, changing nothing.
    support: full
  diff_mode:
    description: Says what differs.
    support: full
"""

EXAMPLES = r"""
- name: Install the helper
  kvm_helper:

- name: Put the helper into an image that is being built
  kvm_helper:
    root: /srv/build/image

- name: Take the helper away
  kvm_helper:
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
      object: command/kvm-helper
      action: update
      host: kvm1
      target: null
      when: now
      changes: []
      reason: its version differs
      destructive: false
pending:
  description: Older versions that stay because guests run on them.
  returned: always
  type: list
  elements: dict
blocked:
  description: What was refused; this module rather fails.
  returned: always
  type: list
  elements: dict
digest:
  description: The version that is installed when the task is done; none with O(state=absent).
  returned: always
  type: str
archive_wanted:
  description:
    - Whether nothing was done because the host needs the archive first. The action plugin then
      sends it, so that a task never returns this.
  returned: always
  type: bool
"""

import os
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.converge import lock
from ansible.module_utils.converge.action import NOW, Action, Change, Pending, Plan
from ansible.module_utils.converge.errors import VirtfleetError
from ansible.module_utils.converge.result import result
from ansible.module_utils.kvm import install
from ansible.module_utils.kvm.errors import KvmError
from ansible.module_utils.kvm.layout import Layout

_SHORT = 12  # digits of a digest that people are shown


def to_actions(steps: list[install.Step], host: str) -> tuple[Action, ...]:
    """Return the steps as actions."""
    actions = (
        Action(
            step=step.order,
            object=step.object,
            action=step.action,
            host=host,
            when=NOW,
            reason=step.reason,
            changes=tuple(Change(*change) for change in step.changes),
        )
        for step in steps
    )
    return Plan.of(actions).actions


def to_pending(older: dict[str, tuple[str, ...]], host: str) -> list[Pending]:
    """Return the older versions in use as something outstanding."""
    return [
        Pending(
            object=f"helper/{version}",
            kind="older_helper",
            host=host,
            reason=f"{', '.join(guests)} started on version {version[:_SHORT]} and runs on it",
            remedy="restart the guest when it suits",
        )
        for version, guests in sorted(older.items())
    ]


def readable(diffs: list[dict[str, str]], steps: list[install.Step]) -> list[dict[str, str]]:
    """Return the diffs with the unit as the text that it is."""
    texts = {
        step.object: {"before": before or "", "after": after or ""}
        for step in steps
        for path, before, after in step.changes
        if path == "content"
    }
    return [{**entry, **texts.get(entry["after_header"], {})} for entry in diffs]


def read_archive(path: str | None) -> bytes | None:
    """Return the archive that the action plugin sent, if it did."""
    if path is None:
        return None
    with open(path, "rb") as file:
        return file.read()


class Run:
    """One run of the module: read, desire, plan, apply, result."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.host = module.params["host"]
        self.layout = Layout(module.params["root"])
        systemd = install.supervised(self.layout.root)
        self.desired = install.desire(
            module.params["state"], module.params["digest"], systemd=systemd
        )

    def reload(self) -> None:
        """Let systemd read its units again; below another root there is none to do so."""
        if self.layout.root == "/":
            self.module.run_command(["systemctl", "daemon-reload"], check_rc=True)

    def plan(self) -> tuple[list[install.Step], dict[str, Any]]:
        """Return the steps, and the result if they are carried out."""
        observed = install.observe(self.layout)
        steps = install.plan(self.desired, observed)
        pending = to_pending(install.outdated(self.desired, observed), self.host)
        found = result(
            to_actions(steps, self.host),
            pending,
            digest=self.desired.version,
            archive_wanted=False,
        )
        return steps, {**found, "diff": readable(found["diff"], steps)}

    def run(self) -> dict[str, Any]:
        """Bring the host to the state asked for; return the result."""
        steps, found = self.plan()
        path = self.module.params["archive"]
        if self.module.check_mode or not steps:
            return found
        if install.needs_archive(steps) and path is None:
            return {**found, "changed": False, "actions": [], "diff": [], "archive_wanted": True}
        archive = read_archive(path)
        os.makedirs(self.layout.state, exist_ok=True)
        with lock.exclusive(os.path.join(self.layout.state, "lock"), lock.holder("kvm_helper")):
            # What was planned without the lock may be done by now.
            steps, found = self.plan()
            install.apply(self.layout, self.desired, steps, archive, self.reload)
        return found


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "root": {"type": "path", "default": "/"},
            "host": {"type": "str", "default": "localhost"},
            "digest": {"type": "str"},
            "archive": {"type": "path"},
        },
        supports_check_mode=True,
    )
    try:
        found = Run(module).run()
    except VirtfleetError as error:
        module.fail_json(msg=str(error), **error.data)
    except KvmError as error:
        module.fail_json(msg=f"{error}: {error.remedy}" if error.remedy else str(error))
    except OSError as error:
        module.fail_json(msg=f"cannot change {error.filename}: {error.strerror}")
    module.exit_json(**found)


if __name__ == "__main__":
    main()
