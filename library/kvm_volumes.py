# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Make the volumes of a host's pools what was declared."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kvm_volumes
short_description: Make the volumes of a host's pools what was declared
version_added: "0.1.0"
description:
  - Makes, clones, grows and removes volumes, all of a host in one call. Everything is checked
    before anything is touched, and all that is wrong is reported at once.
  - In each pool one thing is done after the other, as libvirt wants it, and pools are worked on
    side by side.
  - A volume is never made smaller, and never made anew over another one.
  - Only volumes that this toolkit made, or that it was asked to take over, are changed or removed,
    and none that a guest has or that another volume stands on.
  - A pool of type V(netfs) whose server does not answer is an error, before anything in it is asked
    for.
options:
  volumes:
    description:
      - The volumes, each a mapping. The keys are described in C(docs/pools.md).
      - V(pool) and V(name) say which it is, V(size) how large it is as a size with a unit.
      - V(format), V(cluster_size), V(compat), V(lazy_refcounts), V(nocow), V(allocation) and
        V(permissions) are of a new one. V(preallocate) is V(metadata) or V(full).
      - V(from) makes it a copy of another volume of its pool, V(backing) lets it stand on a file
        (V(path) and V(format)), which has to be there or be made by the same call.
      - V(state) is V(present) or V(absent), V(wipe) overwrites it before it goes. V(adopt) takes
        over one that is there.
      - V(upload) fills a new one with a file of this host (V(path), and V(checksum) if it shall be
        verified); without a V(size) it is as large as what is in the file. V(download) is a file
        of this host (V(path)) that what is in the volume is brought into, where that file is not
        there yet; V(checksum), V(sha256) or V(sha512), asks for its checksum.
      - Both go over libvirt's streams, holes stay holes, and how far they are stands in the host's
        log under C(ansible-kvm_volumes).
    type: list
    elements: dict
    default: []
  fleet:
    description: The fleet that they belong to. Those of another fleet are not touched.
    type: str
    default: local
  host:
    description: The name of the host in the actions. The system's own name by default.
    type: str
  root:
    description: A folder that stands in front of every place that the module knows by itself, for
      tests.
    type: path
    default: /
  uri:
    description: The libvirt that has them, such as V(qemu:///system).
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
  - module: kvm_pools
"""

EXAMPLES = r"""
- name: Have a disk for data, and a copy of another one
  kvm_volumes:
    volumes:
      - pool: data
        name: db01.qcow2
        size: 100GiB
        preallocate: metadata
      - pool: data
        name: db01-copy.qcow2
        from: db01.qcow2

- name: Have a disk that begins as what a file has
  kvm_volumes:
    volumes:
      - pool: data
        name: appliance.qcow2
        size: 40GiB
        upload:
          path: /srv/transfer/appliance.qcow2
          checksum: sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08

- name: Remove the copy
  kvm_volumes:
    volumes:
      - pool: data
        name: db01-copy.qcow2
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
      description: A step begins when the one before is done.
      type: int
    object:
      description: What it is done to.
      type: str
      sample: volume/data/db01.qcow2
    action:
      description: V(create), V(grow), V(adopt), V(update) (its content is sent or brought) or
        V(delete).
      type: str
    host:
      description: The host that carries it out.
      type: str
    target:
      description: Always null.
      type: str
    when:
      description: Always V(now).
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
  description: Always empty.
  returned: always
  type: list
  elements: dict
blocked:
  description: What was asked for and refused, with the reason and what would unblock it.
  returned: always
  type: list
  elements: dict
volumes:
  description: The declared volumes that are there.
  returned: always
  type: list
  elements: dict
  contains:
    pool:
      description: Its pool.
      type: str
    name:
      description: Its name.
      type: str
    path:
      description: Where the host has it.
      type: str
    checksum:
      description: The checksum of what this call has brought from it, where that was asked for.
      type: str
      sample: sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
    owned:
      description: Whether this toolkit made it or took it over.
      type: bool
    fleet:
      description: The fleet that it belongs to.
      type: str
    spec:
      description: What it is, in the shape in which the module takes it.
      type: dict
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
            "volumes": {"type": "list", "elements": "dict", "default": []},
            "fleet": {"type": "str", "default": "local"},
            "host": {"type": "str"},
            "root": {"type": "path", "default": "/"},
            "uri": {"type": "str", "default": "qemu:///system"},
        },
        supports_check_mode=True,
    )
    try:
        outcome = converge_resources(
            "volumes", module.params, module.run_command, module.check_mode, module.log
        )
    except VirtfleetError as error:
        module.fail_json(msg=str(error), **error.data)
    for item in outcome["blocked"]:
        module.warn(f"{item['object']} is blocked: {item['reason']}; {item['remedy']}")
    module.exit_json(**outcome)


if __name__ == "__main__":
    main()
