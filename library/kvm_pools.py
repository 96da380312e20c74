# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Make the storage pools of a host what was declared."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kvm_pools
short_description: Make the storage pools of a host what was declared
version_added: "0.1.0"
description:
  - All of a host in one call. Everything is checked before anything is touched, and all that is
    wrong is reported at once.
  - Only what is stated is compared. A key that is left out keeps the value that it has.
  - libvirt changes no pool while it is active. What differs waits for its next start, is reported
    in RV(pending), and is done at once with V(restart).
  - What a pool stores is never touched. A pool is only ever built on an empty disk, and only if
    that is asked for.
  - Only pools that this toolkit made, or that it was asked to take over, are changed or removed,
    and none that running guests have disks of.
options:
  pools:
    description:
      - The pools, each a mapping. The keys are described in C(docs/pools.md).
      - V(state) is one of V(active) (the default), V(inactive), V(present) (it exists) and
        V(absent). V(autostart) starts it when the host boots, as by default.
      - V(build) lets libvirt make what a pool lacks when it is started first, a folder (as by
        default), a file system, a partition table or a volume group.
      - V(adopt) takes over one that is there, V(restart) starts it anew where something waits for
        that, V(replace) makes it anew where another V(type) or V(uuid) is stated.
      - V(refresh) has libvirt look anew at an active one before its room is returned, in check mode
        not. That is no change.
      - V(type) is one of V(dir), V(fs), V(netfs), V(logical), V(disk), V(iscsi), V(iscsi-direct),
        V(scsi), V(mpath), V(rbd), V(gluster) and V(zfs).
    type: list
    elements: dict
    default: []
  fleet:
    description: The fleet that they belong to. Those of another fleet are not touched.
    type: str
    default: local
  prune:
    description: Remove those of the fleet that O(pools) does not name. What guests run on stays.
    type: bool
    default: false
  host:
    description: The name of the host in the actions. The system's own name by default.
    type: str
  root:
    description: A folder that stands in front of every place that the module knows by itself, for
      tests.
    type: path
    default: /
  uri:
    description: The libvirt that has them, such as V(qemu:///system) or
      V(qemu+ssh://kvm2/system).
    type: str
    default: qemu:///system
attributes:
  check_mode:
    description: Can run in check mode and return what it would do.
    support: full
  diff_mode:
    description: Returns what differs when run with C(--diff).
    support: full
  platform:
    description: The systems that it works on.
    support: full
    platforms: posix
author:
  - virtfleet contributors (@virtfleet)
seealso:
  - module: kvm_networks
"""

EXAMPLES = r"""
- name: Keep volumes in a folder
  kvm_pools:
    pools:
      - name: data
        type: dir
        path: /srv/data

- name: Keep volumes on a share
  kvm_pools:
    pools:
      - name: shared
        type: netfs
        hosts:
          - name: nas.example
        dir: /export/guests
        format: nfs
        path: /srv/shared

- name: Remove the pool, and leave what it stores
  kvm_pools:
    pools:
      - name: data
        state: absent
"""

RETURN = r"""
actions:
  description: What was carried out, in check mode what would be. There is a change exactly if there
    are actions.
  returned: always
  type: list
  elements: dict
  contains:
    id:
      description: The number of the action in this plan.
      type: str
      sample: a1
    step:
      description: Actions of one step are independent of each other. A step begins when the one
        before is done.
      type: int
    object:
      description: What it is done to.
      type: str
      sample: pool/data
    action:
      description: What is done. V(create), V(update), V(replace), V(start), V(stop), V(restart),
        V(adopt) or V(delete).
      type: str
    host:
      description: The host that carries it out.
      type: str
    target:
      description: Always null.
      type: str
    when:
      description: V(live) for what takes effect at once, V(next_boot) for what waits for its next
        start, V(now) where it is not active.
      type: str
    changes:
      description: The values that change, each with its path and its values before and after.
      type: list
      elements: dict
    reason:
      description: Why it is done.
      type: str
    destructive:
      description: Whether data is lost.
      type: bool
pending:
  description: What is known to be outstanding, and is no change. V(restart_required) for what is
    active with an older definition.
  returned: always
  type: list
  elements: dict
blocked:
  description: What was asked for and refused, with the reason and what would unblock it.
  returned: always
  type: list
  elements: dict
pools:
  description: The declared ones as they are now, those that are there.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: Its name.
      type: str
    uuid:
      description: Its identity, which it keeps.
      type: str
    state:
      description: V(active) or V(inactive).
      type: str
    autostart:
      description: Whether it is started when the host boots.
      type: bool
    persistent:
      description: Whether it stays when it ends.
      type: bool
    owned:
      description: Whether this toolkit made it or took it over.
      type: bool
    fleet:
      description: The fleet that it belongs to.
      type: str
    spec:
      description: Its definition, in the shape in which the module takes it.
      type: dict
    capacity:
      description: The bytes that it has, null where it is not active.
      type: int
    allocation:
      description: The bytes that are in use, null where it is not active.
      type: int
    available:
      description: The bytes that are left, null where it is not active.
      type: int
problems:
  description: What is wrong with the input, by the paths of its keys.
  returned: when the input was refused
  type: list
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.converge.errors import VirtfleetError
from ansible.module_utils.resource.local import converge_resources


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "pools": {"type": "list", "elements": "dict", "default": []},
            "fleet": {"type": "str", "default": "local"},
            "prune": {"type": "bool", "default": False},
            "host": {"type": "str"},
            "root": {"type": "path", "default": "/"},
            "uri": {"type": "str", "default": "qemu:///system"},
        },
        supports_check_mode=True,
    )
    try:
        outcome = converge_resources("pools", module.params, module.run_command, module.check_mode)
    except VirtfleetError as error:
        module.fail_json(msg=str(error), **error.data)
    for item in outcome["blocked"]:
        module.warn(f"{item['object']} is blocked: {item['reason']}; {item['remedy']}")
    for text in outcome.pop("warnings"):
        module.warn(text)
    module.exit_json(**outcome)


if __name__ == "__main__":
    main()
