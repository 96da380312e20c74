# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Make the network filters of a host's libvirt what was declared."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kvm_nwfilters
short_description: Make the network filters of a host's libvirt what was declared
version_added: "0.1.0"
description:
  - A filter says what the NICs that name it may send and receive. All of a host in one call;
    everything is checked before anything is touched, and all that is wrong is reported at once.
  - Only what is stated is compared. libvirt brings a change to the guests that run at once.
  - Only filters that this toolkit made, or that it was asked to take over, are changed or removed,
    and none that a guest or another filter refers to is removed.
options:
  nwfilters:
    description:
      - The filters, each a mapping. The keys are described in C(docs/networks.md).
      - V(state) is V(present) (the default) or V(absent). V(adopt) takes over one that is there,
        V(replace) makes it anew where another V(uuid) is stated.
      - V(rules) is a list; each has V(action) (V(drop), V(accept), V(reject), V(return),
        V(continue)), V(direction) (V(in) to the guest, V(out) from it, V(inout)), V(priority)
        (V(500)), and one protocol with what it matches.
      - V(filters) are other filters that it refers to, each with V(filter) and V(parameters).
      - V(chain) (V(root)) and V(priority) say where it stands among others.
    type: list
    elements: dict
    default: []
  fleet:
    description: The fleet that they belong to. Those of another fleet are not touched.
    type: str
    default: local
  prune:
    description: Remove those of the fleet that O(nwfilters) does not name. What guests have stays.
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
  - module: kvm_guests
"""

EXAMPLES = r"""
- name: Let guests be asked on HTTPS alone, by anybody
  kvm_nwfilters:
    nwfilters:
      - name: web
        filters:
          - filter: virtfleet-antispoof
        rules:
          - {action: accept, direction: in, tcp: {dstportstart: 443}}
          - {action: accept, direction: out, all: {state: "ESTABLISHED,RELATED"}}
          - {action: drop, direction: in, all: {}}
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
      sample: nwfilter/web
    action:
      description: What is done. V(create), V(update), V(replace), V(adopt) or V(delete).
      type: str
    host:
      description: The host that carries it out.
      type: str
    target:
      description: Always null.
      type: str
    when:
      description: Always V(now). Guests that run have the change at once.
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
nwfilters:
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
    owned:
      description: Whether this toolkit made it or took it over.
      type: bool
    fleet:
      description: The fleet that it belongs to.
      type: str
    spec:
      description: Its definition, in the shape in which the module takes it.
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
            "nwfilters": {"type": "list", "elements": "dict", "default": []},
            "fleet": {"type": "str", "default": "local"},
            "prune": {"type": "bool", "default": False},
            "host": {"type": "str"},
            "root": {"type": "path", "default": "/"},
            "uri": {"type": "str", "default": "qemu:///system"},
        },
        supports_check_mode=True,
    )
    try:
        outcome = converge_resources(
            "nwfilters", module.params, module.run_command, module.check_mode
        )
    except VirtfleetError as error:
        module.fail_json(msg=str(error), **error.data)
    for item in outcome["blocked"]:
        module.warn(f"{item['object']} is blocked: {item['reason']}; {item['remedy']}")
    for text in outcome.pop("warnings"):
        module.warn(text)
    module.exit_json(**outcome)


if __name__ == "__main__":
    main()
