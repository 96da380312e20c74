# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Bring a host's storage to what is declared, without losing what a disk holds."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kvm_host_storage
short_description: Make LVM, iSCSI, multipath, mounts and folders of a host as declared
version_added: "0.1.0"
author: virtfleet contributors (@virtfleet)
description:
  - Brings all of a host's storage to what is declared, in one call, now and for every boot.
  - A disk that holds anything (a partition table, a file system, LVM, RAID, swap or any other
    signature) is refused unless it was forced; one that is in use is refused always. A refusal
    stops the run before anything is changed.
  - No secret stands on a command line or in the result. What iSCSI needs is written into the
    records of open-iscsi, what SMB needs into a file below C(/etc/virtfleet/credentials/), both
    readable by root alone.
  - Sizes are whole numbers with a binary unit, such as V(10GiB).
requirements:
  - systemd and util-linux; lvm2, open-iscsi, multipath-tools, NFS and SMB helpers for what of
    these is declared
options:
  state:
    description:
      - V(present) makes it as declared.
      - V(absent) unmounts, logs out and takes away what this module wrote for what is declared.
        Empty folders go, others stay. Volume groups stay, unless O(remove_data) is set.
    type: str
    choices: [present, absent]
    default: present
  remove_data:
    description: With O(state=absent), whether volume groups go too, with all volumes in them.
    type: bool
    default: false
  directories:
    description: Folders to be there.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: The absolute path.
        type: str
        required: true
      owner:
        description: The name of the user that owns it.
        type: str
      group:
        description: The name of the group that owns it.
        type: str
      mode:
        description: Its mode as octal text, such as V(0750).
        type: str
  volume_groups:
    description:
      - LVM volume groups. A disk that is added here is added to the group; one that is taken away
        here stays in it and is told as pending.
      - A group that this module did not make is adopted if all of its disks are declared.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: The name of the group.
        type: str
        required: true
      disks:
        description:
          - Paths of whole disks or partitions, best below C(/dev/disk/by-id/).
          - In place of a path, C({path, force}) says for one disk whether it may be wiped.
        type: list
        elements: raw
        required: true
      force:
        description: Whether the disks may be wiped, whatever they hold. Never one that is in use.
        type: bool
        default: false
      thin_pools:
        description: Thin pools in the group, made in this order. They grow and never shrink.
        type: list
        elements: dict
        default: []
        suboptions:
          name:
            description: The name of the pool.
            type: str
            required: true
          size:
            description: A size, or a share of the group such as V(80%).
            type: str
            required: true
          metadata_size:
            description: The size of its metadata; a thousandth of the data by itself.
            type: str
          chunk_size:
            description: The size of a chunk, a multiple of 64KiB. It counts when the pool is made.
            type: str
  mounts:
    description:
      - Mounts in fstab, marked as ours by the option C(x-virtfleet).
      - A host boots without a mount that is not available.
    type: list
    elements: dict
    default: []
    suboptions:
      type:
        description: V(nfs), V(smb), or a file system of a device such as V(ext4) or V(xfs).
        type: str
        required: true
      source:
        description: C(server:/path), C(//server/share), or a device by path, UUID or label.
        type: str
        required: true
      path:
        description: Where it is mounted. The folder is made if it is missing.
        type: str
        required: true
      options:
        description: Options of the mount, one an item.
        type: list
        elements: str
        default: []
      username:
        description: The user at the server, for V(smb).
        type: str
      password:
        description: The password of that user.
        type: str
      domain:
        description: The domain of that user.
        type: str
      state:
        description: Whether it is mounted, or unmounted and taken out of fstab.
        type: str
        choices: [present, absent]
        default: present
  timeout:
    description: How long a mount may take, now and at boot, and how long a login.
    type: str
    default: 30s
  iscsi:
    description: Sessions of open-iscsi.
    type: dict
    suboptions:
      initiator_name:
        description: The name of this host. Without it the host keeps the name that it has.
        type: str
      portals:
        description: The portals to log in at.
        type: list
        elements: dict
        default: []
        suboptions:
          address:
            description: The IP address of the portal.
            type: str
            required: true
          port:
            description: Its TCP port.
            type: int
            default: 3260
          targets:
            description: The names of the targets.
            type: list
            elements: str
            required: true
          chap:
            description: What the host and, if it is mutual, the target prove themselves with.
            type: dict
            suboptions:
              user:
                description: The name of this host for the target.
                type: str
                required: true
              password:
                description: Its secret, 12 to 255 characters.
                type: str
                required: true
              mutual_user:
                description: The name of the target for this host.
                type: str
              mutual_password:
                description: The target's secret, 12 to 255 characters and another one.
                type: str
      database:
        description: The folder that holds the records of open-iscsi.
        type: path
        default: /etc/iscsi
      service:
        description: The unit that logs in at boot.
        type: str
        default: open-iscsi.service
  multipath:
    description: Settings of multipathd, written beside the ones of the host.
    type: dict
    suboptions:
      enabled:
        description: Whether it runs with these settings. V(false) leaves it as it is.
        type: bool
        default: false
      user_friendly_names:
        description: Whether devices are named C(mpatha) and so on.
        type: bool
      find_multipaths:
        description: Which devices are taken for paths.
        type: str
        choices: ["off", "on", "greedy", "smart", "strict"]
      defaults:
        description: Further keywords of the section C(defaults).
        type: dict
        default: {}
      blacklist:
        description: Rules by C(devnode), C(wwid), C(property) or C(protocol).
        type: list
        elements: dict
        default: []
      blacklist_exceptions:
        description: The same, for what is taken all the same.
        type: list
        elements: dict
        default: []
  host:
    description: The name by which actions call this host.
    type: str
    default: localhost
attributes:
  check_mode:
    description: Says what a run would do, changing nothing.
    support: full
  diff_mode:
    description: Says what differs; secrets are hidden.
    support: full
"""

EXAMPLES = r"""
- name: A thin pool on a new disk
  kvm_host_storage:
    volume_groups:
      - name: guests
        disks: [/dev/disk/by-id/nvme-eui.0025385b71b0a1c2]
        thin_pools:
          - name: pool
            size: 80%

- name: A share of a server, with its credentials
  kvm_host_storage:
    mounts:
      - type: smb
        source: //192.0.2.5/images
        path: /srv/images
        username: kvm
        password: "{{ smb_password }}"

- name: A target that wants to know who comes
  kvm_host_storage:
    iscsi:
      initiator_name: iqn.2026-01.org.example:kvm1
      portals:
        - address: 192.0.2.5
          targets: [iqn.2026-01.org.example:guests]
          chap:
            user: kvm1
            password: "{{ chap_password }}"
"""

RETURN = r"""
actions:
  description: What was done, in check mode what would be.
  returned: always
  type: list
  elements: dict
  sample:
    - id: a1
      step: 5
      object: volume_group/guests
      action: create
      host: kvm1
      target: null
      when: live
      changes: []
      reason: it is missing
      destructive: false
pending:
  description:
    - What is outstanding. Its kinds are V(remount_required), V(not_declared), V(cannot_shrink) and
      V(data_kept).
  returned: always
  type: list
  elements: dict
blocked:
  description: What was refused; the module fails with it.
  returned: always
  type: list
  elements: dict
"""

import os
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.converge import lock
from ansible.module_utils.converge.action import Plan
from ansible.module_utils.converge.errors import VirtfleetError
from ansible.module_utils.converge.result import result
from ansible.module_utils.system.storage import run
from ansible.module_utils.system.storage.facet import NOT_FOUND, System

_STATE = "/var/lib/virtfleet"
_LIST: dict[str, Any] = {"type": "list", "elements": "dict", "default": []}

DIRECTORY = {
    "path": {"type": "str", "required": True},
    "owner": {"type": "str"},
    "group": {"type": "str"},
    "mode": {"type": "str"},
}
THIN_POOL = {
    "name": {"type": "str", "required": True},
    "size": {"type": "str", "required": True},
    "metadata_size": {"type": "str"},
    "chunk_size": {"type": "str"},
}
VOLUME_GROUP = {
    "name": {"type": "str", "required": True},
    "disks": {"type": "list", "elements": "raw", "required": True},
    "force": {"type": "bool", "default": False},
    "thin_pools": {**_LIST, "options": THIN_POOL},
}
MOUNT = {
    "type": {"type": "str", "required": True},
    "source": {"type": "str", "required": True},
    "path": {"type": "str", "required": True},
    "options": {"type": "list", "elements": "str", "default": []},
    "username": {"type": "str"},
    "password": {"type": "str", "no_log": True},
    "domain": {"type": "str"},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
}
CHAP = {
    "user": {"type": "str", "required": True},
    "password": {"type": "str", "required": True, "no_log": True},
    "mutual_user": {"type": "str"},
    "mutual_password": {"type": "str", "no_log": True},
}
PORTAL = {
    "address": {"type": "str", "required": True},
    "port": {"type": "int", "default": 3260},
    "targets": {"type": "list", "elements": "str", "required": True},
    "chap": {
        "type": "dict",
        "options": CHAP,
        "required_together": [("mutual_user", "mutual_password")],
    },
}
ISCSI = {
    "initiator_name": {"type": "str"},
    "portals": {**_LIST, "options": PORTAL},
    "database": {"type": "path", "default": "/etc/iscsi"},
    "service": {"type": "str", "default": "open-iscsi.service"},
}
MULTIPATH = {
    "enabled": {"type": "bool", "default": False},
    "user_friendly_names": {"type": "bool"},
    "find_multipaths": {"type": "str", "choices": ["off", "on", "greedy", "smart", "strict"]},
    "defaults": {"type": "dict", "default": {}},
    "blacklist": _LIST,
    "blacklist_exceptions": _LIST,
}
ARGUMENTS: dict[str, Any] = {
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "remove_data": {"type": "bool", "default": False},
    "directories": {**_LIST, "options": DIRECTORY},
    "volume_groups": {**_LIST, "options": VOLUME_GROUP},
    "mounts": {**_LIST, "options": MOUNT},
    "timeout": {"type": "str", "default": "30s"},
    "iscsi": {"type": "dict", "options": ISCSI},
    "multipath": {"type": "dict", "options": MULTIPATH},
    "host": {"type": "str", "default": "localhost"},
}


class Run:
    """One run of the module: read, desire, plan, apply, result."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.host = module.params["host"]
        self.way = {
            "absent": module.params["state"] == "absent",
            "remove_data": module.params["remove_data"],
        }
        self.system = System("/", self.command)
        self.storage = run.parse(module.params)
        self.turns = run.facets(self.storage, self.system, absent=self.way["absent"])

    def command(self, argv: Any) -> tuple[int, str, str]:
        """Run a command in the C locale; one that is not installed has the status of a shell's."""
        environment = {"LC_ALL": "C", "LVM_SUPPRESS_FD_WARNINGS": "1"}
        try:
            status, out, error = self.module.run_command(
                list(argv), environ_update=environment, handle_exceptions=False
            )
        except FileNotFoundError:
            return NOT_FOUND, "", f"{argv[0]} is not installed"
        return int(status), out, error

    def outcome(self) -> Any:
        """Return what was done, in check mode what would be."""
        found = run.survey(self.turns, self.host, **self.way)
        if self.module.check_mode or not found.steps:
            return found
        os.makedirs(_STATE, exist_ok=True)
        with lock.exclusive(os.path.join(_STATE, "lock"), lock.holder("kvm_host_storage")):
            # What was planned without the lock may be done by now.
            run.survey(self.turns, self.host, **self.way)
            return run.Applier(self.system, self.storage).apply(self.turns, self.host, **self.way)

    def result(self) -> dict[str, Any]:
        """Bring the host to the state asked for; return the result."""
        found = self.outcome()
        plan = Plan.of((step.action for step in found.steps), found.pending)
        return result(plan.actions, plan.pending)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    # A command that asks before it overwrites something, as LVM does, gets no answer.
    with open(os.devnull, encoding="ascii") as nothing:
        os.dup2(nothing.fileno(), 0)
    try:
        found = Run(module).result()
    except VirtfleetError as error:
        module.fail_json(msg=str(error), **error.data)
    except OSError as error:
        module.fail_json(msg=f"cannot change {error.filename}: {error.strerror}")
    for item in found["pending"]:
        module.warn(f"{item['object']}: {item['reason']}; {item['remedy']}")
    module.exit_json(**found)


if __name__ == "__main__":
    main()
