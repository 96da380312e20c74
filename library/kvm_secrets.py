# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Make the secrets of a host's libvirt what was declared."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kvm_secrets
short_description: Make the secrets of a host's libvirt what was declared
version_added: "0.1.0"
description:
  - Keeps what pools and QEMU log in with (Ceph, iSCSI), or open encrypted disks and TLS keys with,
    as secrets of libvirt, all of a host in one call.
  - Everything in O(secrets) is checked before anything is touched, and all that is wrong is
    reported at once.
  - A value is compared where libvirt tells it, and shown nowhere. It is best kept in Ansible's
    vault.
  - Only secrets that this toolkit made, or that it was asked to take over, are changed or removed.
    One that a guest or a pool needs is not removed.
options:
  secrets:
    description:
      - The secrets, each a mapping.
      - V(type) is V(ceph), V(iscsi), V(volume), V(tls) or V(vtpm), and V(name) what it is told by
        there. Of a V(volume) that is its path.
      - V(value) is the secret as text, V(value_base64) as base64. Ceph's keys are base64 already,
        and are stated as V(value_base64). Without one, the value that is there stays.
      - V(private) keeps libvirt from telling the value to anybody again, this toolkit included.
        It is set then when the secret is made, and later only with V(renew).
      - V(ephemeral) keeps it in memory alone. It has to be set again when libvirt was started anew.
      - V(description) is for people.
      - V(state) is V(present) (the default) or V(absent). V(adopt) takes over a secret that this
        toolkit did not make.
    type: list
    elements: dict
    default: []
  fleet:
    description: The fleet that the secrets belong to. Those of another fleet are not touched.
    type: str
    default: local
  host:
    description: The name of the host in the actions. The system's own name by default.
    type: str
  root:
    description: A folder that stands in front of every place that the module knows by itself.
    type: path
    default: /
  uri:
    description: The libvirt whose secrets they are.
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
  - module: kvm_guests
"""

EXAMPLES = r"""
- name: Let guests log in to a Ceph cluster
  kvm_secrets:
    secrets:
      - type: ceph
        name: client.libvirt secret
        value_base64: "{{ vault_ceph_key }}"
        private: true
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
      sample: secret/ceph/client.libvirt secret
    action:
      description: V(create), V(update), V(adopt) or V(delete).
      type: str
    host:
      description: The host that carries it out.
      type: str
    target:
      description: Always null.
      type: str
    when:
      description: V(live) for a secret that changes, V(now) otherwise.
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
secrets:
  description: The declared secrets that are there, without their values.
  returned: always
  type: list
  elements: dict
  contains:
    type:
      description: Its kind.
      type: str
    name:
      description: What it is told by.
      type: str
    uuid:
      description: Its UUID, by which pools and disks may name it too.
      type: str
    has_value:
      description: Whether it has a value, null where libvirt does not tell.
      type: bool
    private:
      description: Whether libvirt keeps the value to itself.
      type: bool
    ephemeral:
      description: Whether it is in memory alone.
      type: bool
    description:
      description: What was noted for people.
      type: str
    owned:
      description: Whether this toolkit made it or took it over.
      type: bool
    fleet:
      description: The fleet that it belongs to.
      type: str
problems:
  description: What is wrong with the input, by the paths of its keys.
  returned: when the input was refused
  type: list
"""

from ansible.module_utils.converge.errors import VirtfleetError
from ansible.module_utils.converge.secrets import echoed
from ansible.module_utils.quiet import QuietModule
from ansible.module_utils.resource.local import converge_resources


def main() -> None:
    """Run the module."""
    # Its arguments hold secrets that no argument spec can name.
    module = QuietModule(
        argument_spec={
            # Names may be seen, and values never stand in what is returned.
            "secrets": {"type": "list", "elements": "dict", "default": [], "no_log": False},
            "fleet": {"type": "str", "default": "local"},
            "host": {"type": "str"},
            "root": {"type": "path", "default": "/"},
            "uri": {"type": "str", "default": "qemu:///system"},
        },
        supports_check_mode=True,
    )
    options = module.take("secrets", echoed)
    try:
        outcome = converge_resources("secrets", options, module.run_command, module.check_mode)
    except VirtfleetError as error:
        module.fail_json(msg=str(error), **error.data)
    for item in outcome["blocked"]:
        module.warn(f"{item['object']} is blocked: {item['reason']}; {item['remedy']}")
    module.exit_json(**outcome)


if __name__ == "__main__":
    main()
