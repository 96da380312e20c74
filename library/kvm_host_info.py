# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Ansible module: what a host is, whether it is ready for KVM guests, and if not, what to do."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kvm_host_info
short_description: Check whether a host is ready for KVM guests
version_added: "0.1.0"
description:
  - Reads what a host is and can do (processors, KVM, IOMMU, memory, devices, control groups,
    what it runs in) and judges it by checks with stable names.
  - Opens C(/dev/kvm), creates a VM and closes it again, so that the verdict rests on what works
    and not on flags alone.
  - Where C(/dev/kvm) is missing while udev is still bringing up devices, as shortly after a boot,
    it waits for them, for a minute at most.
  - Never changes anything on the host. What cannot be read is reported as V(unknown) with the
    reason.
  - Every check and every feature name is described in C(docs/readiness.md).
author:
  - virtfleet contributors (@virtfleet)
options:
  root:
    description:
      - Folder that C(/proc), C(/sys), C(/dev), C(/etc), C(/usr) and C(/var) are read under.
      - For any other folder than V(/) the running kernel is not asked, so that the results of the
        C(kvm.) checks are V(unknown).
    type: path
    default: /
  checks_ignore:
    description:
      - Names of checks that do not count for the verdict.
      - They stay in the list, as V(info) with what they would have said.
    type: list
    elements: str
    default: []
  require:
    description:
      - Names of features that must be there, such as V(ept), V(iommu) or V(sriov).
      - Each adds a check C(require.<name>). The host is V(not_ready) if one is missing or cannot
        be told.
    type: list
    elements: str
    default: []
attributes:
  action:
    description: Has an action plugin of the same name, some of which runs on the controller.
    support: full
    details: The host is probed, the controller judges. Unknown names are refused before that.
  check_mode:
    description: Can run in check mode and return what it would otherwise.
    support: full
  diff_mode:
    description: Shows what would change.
    support: none
notes:
  - Run it as root for the whole picture. Without, C(/dev/kvm) may be forbidden, and model-specific
    registers are not read.
requirements:
  - Python 3.8 or newer on the host
"""

EXAMPLES = r"""
- name: See whether the host is ready
  kvm_host_info:
  become: true
  register: readiness

- name: Demand an IOMMU and virtual functions, and do without the control group blkio
  kvm_host_info:
    require:
      - iommu
      - sriov
    checks_ignore:
      - cgroup.blkio
  become: true
  register: readiness

- name: Stop with the reason and the remedies
  ansible.builtin.fail:
    msg: "{{ readiness.verdict.summary }}: {{ readiness.verdict.remedies | join('; ') }}"
  when: readiness.verdict.state == 'not_ready'
"""

RETURN = r"""
host:
  description:
    - What the probes read, by source. Values that could not be read are null.
    - The keys are C(cpuinfo), C(registers), C(platform), C(modules), C(cpus), C(memory), C(pci),
      C(cgroups), C(devices), C(secure), C(software), C(kvm) (the bundled helper's own view),
      C(features) (state of every processor feature) and C(vmx) (decoded capability registers).
  returned: success
  type: dict
  sample:
    platform:
      machine: x86_64
      kernel: 6.1.0-13-amd64
      hypervisor: ""
checks:
  description: What every check that applies to the host found, in the order of the table.
  returned: success
  type: list
  elements: dict
  contains:
    id:
      description: Stable name of the check.
      type: str
      sample: kvm.device
    level:
      description: One of V(pass), V(warn), V(fail), V(info) and V(unknown).
      type: str
      sample: fail
    title:
      description: What the check is about.
      type: str
      sample: KVM device
    found:
      description: What was found; for V(unknown) the reason.
      type: str
      sample: no /dev/kvm
    expected:
      description: What would pass, empty where nothing is wrong.
      type: str
      sample: /dev/kvm
    remedy:
      description: What to do, null where nothing is to be done or another check says it.
      type: str
      sample: null
    source:
      description: What was read.
      type: str
      sample: /dev/kvm
verdict:
  description: The checks in one word.
  returned: success
  type: dict
  contains:
    state:
      description: V(ready), V(limited) or V(not_ready).
      type: str
      sample: limited
    limits:
      description: What guests go without.
      type: list
      elements: str
      sample: ["slower guest networks: no /dev/vhost-net"]
    remedies:
      description: What to do, the most likely first.
      type: list
      elements: str
      sample: ["modprobe vhost_net"]
    summary:
      description: The verdict in a sentence.
      type: str
      sample: "limited: slower guest networks: no /dev/vhost-net"
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.host.observe import observe, to_dict, wait_for_kvm
from ansible.module_utils.kvm.probe import probe


def main() -> None:
    """Run the module: its part on the host. The action plugin of the same name judges."""
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "default": "/"},
            "checks_ignore": {"type": "list", "elements": "str", "default": []},
            "require": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    root = module.params["root"]
    # Only the running system's KVM can be asked, and only that may still be on its way.
    if root == "/":
        wait_for_kvm()
    host = observe(root, probe if root == "/" else None)
    module.exit_json(changed=False, host=to_dict(host))


if __name__ == "__main__":
    main()
