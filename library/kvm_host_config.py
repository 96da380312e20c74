# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Set the kernel side of a KVM host: modules, options, arguments, memory, access."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kvm_host_config
short_description: Set the kernel side of a KVM host
version_added: "0.1.0"
author: virtfleet contributors (@virtfleet)
description:
  - Sets all that makes a machine's kernel a good KVM host in one call, now and for every boot.
  - The files it writes hold exactly what is stated. What is not stated any more leaves them; the
    live value stays until the next boot, or until O(state=absent).
  - What cannot be done now is told under RV(pending) and is no change. Nothing is rebooted, and no
    module is loaded again while anything uses it.
  - Everything is checked against the host before anything is touched.
options:
  state:
    description:
      - V(present) brings the host to what is stated.
      - V(absent) removes the files that this module wrote, and puts live values back to what they
        were before it changed them, unless somebody else changed them since. Modules stay loaded,
        with the settings below C(/proc/sys) that came with them in the same run, and the group
        stays.
    type: str
    choices: [present, absent]
    default: present
  modules:
    description:
      - Kernel modules that are loaded now and at boot.
      - V(vendor) stands for the KVM module of the processor.
    type: list
    elements: str
    default: []
  module_options:
    description:
      - Parameters by kernel module, V(vendor) included. Booleans are compared by what they mean.
      - A parameter that can be written is set at once. For another one the module is loaded again,
        if nothing uses it.
    type: dict
    default: {}
  cmdline:
    description:
      - Arguments for the kernel's command line, made persistent through the boot loader in use
        (GRUB of Debian and Ubuntu, grubby, systemd-boot). Their order is kept.
    type: list
    elements: str
    default: []
  sysctl:
    description:
      - Settings below C(/proc/sys), named as sysctl names them.
    type: dict
    default: {}
  hugepages:
    description:
      - Pools of huge pages.
    type: list
    elements: dict
    default: []
    suboptions:
      size:
        description:
          - The size of a page, such as V(2MiB) or V(1GiB).
        type: str
        required: true
      count:
        description:
          - How many pages there shall be.
        type: int
        required: true
      node:
        description:
          - The NUMA node that they shall be on. Without it they are spread over the machine.
        type: int
  virtual_functions:
    description:
      - Virtual functions of PCI devices (SR-IOV), made now and by a rule of udev at every boot.
      - A device takes another number only while it has none. Where guests hold some of them, that
        waits for a reboot and is told under RV(pending).
    type: list
    elements: dict
    default: []
    suboptions:
      device:
        description:
          - The PCI address of the device, or the name of its network interface.
        type: str
        required: true
      count:
        description:
          - How many functions there shall be.
        type: int
        required: true
      probe:
        description:
          - Whether the host's own drivers take functions that come. V(false) keeps them for
            guests. Not stated, it stays as it is.
        type: bool
  ksm:
    description:
      - Kernel samepage merging.
    type: dict
    suboptions:
      run:
        description:
          - Whether pages are merged. Switched off, what is merged stays so.
        type: bool
      pages_to_scan:
        description:
          - How many pages are looked at before it sleeps.
        type: int
      sleep:
        description:
          - How long it sleeps, such as V(20ms).
        type: str
      merge_across_nodes:
        description:
          - Whether pages of different NUMA nodes are merged.
        type: bool
  thp:
    description:
      - Transparent huge pages.
    type: dict
    suboptions:
      enabled:
        description:
          - What memory they are used for.
        type: str
        choices: [always, madvise, never]
      defrag:
        description:
          - When memory is freed up and moved for them.
        type: str
        choices: [always, defer, defer+madvise, madvise, never]
  governor:
    description:
      - The frequency governor of all CPUs.
    type: str
  device_access:
    description:
      - Who may open C(/dev/kvm). A udev rule is written where the distribution's own says
        something else.
    type: dict
    suboptions:
      group:
        description:
          - The group of the device. It is made where it is missing.
        type: str
        default: kvm
      mode:
        description:
          - The mode of the device, as an octal number in quotes.
        type: str
        default: "0660"
  root:
    description:
      - A folder to treat as the root of the file system, to build an image or for a test. No
        command is run there.
    type: path
    default: /
  host:
    description:
      - The name by which actions call this host.
    type: str
    default: localhost
attributes:
  check_mode:
    description: Says what a run would do, changing nothing.
    support: full
  diff_mode:
    description: Says what differs; files are shown as text.
    support: full
"""

EXAMPLES = r"""
- name: Make the machine a KVM host
  kvm_host_config:
    host: "{{ inventory_hostname }}"
    modules: [vendor, vhost_net, br_netfilter]
    module_options:
      vendor:
        nested: true
      kvm:
        halt_poll_ns: 200000
    cmdline:
      - amd_iommu=on
      - iommu=pt
    sysctl:
      vm.swappiness: 10
      net.bridge.bridge-nf-call-iptables: 0
    hugepages:
      - size: 2MiB
        count: 512
        node: 0
    virtual_functions:
      - device: enp65s0f0
        count: 8
        probe: false
    ksm:
      run: true
      sleep: 20ms
    thp:
      enabled: madvise
    device_access:
      group: kvm
      mode: "0660"

- name: Take all of it away
  kvm_host_config:
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
      step: 4
      object: sysctl/vm.swappiness
      action: update
      host: kvm1
      target: null
      when: live
      changes:
        - path: value
          before: "60"
          after: "10"
      reason: value differs
      destructive: false
pending:
  description:
    - What is known to be outstanding. The kinds are C(reboot_required), C(reload_required),
      C(hugepages_short), C(unmerge_required), C(blacklisted) and C(not_available).
  returned: always
  type: list
  elements: dict
blocked:
  description: What was refused, such as arguments for a kernel whose boot loader is not known.
  returned: always
  type: list
  elements: dict
reboot_required:
  description: Whether something waits for a reboot.
  returned: always
  type: bool
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.converge.errors import VirtfleetError
from ansible.module_utils.converge.result import result
from ansible.module_utils.system import config, execution, options
from ansible.module_utils.system.outcome import REBOOT


class Run:
    """One run of the module: read, desire, plan, apply, result."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.absent = module.params["state"] == "absent"
        self.stated = options.Options() if self.absent else options.parse(module.params)
        self.root = module.params["root"]
        command = execution.runner(module.run_command)
        self.host = config.Host(self.root, module.params["host"], command)

    def plan(self) -> config.Planned:
        """Return what is to be done."""
        return self.host.plan(self.stated, absent=self.absent)

    def run(self) -> dict[str, Any]:
        """Bring the host to the state asked for; return the result."""
        planned = self.plan()
        missed: tuple[Any, ...] = ()
        if planned.keeps and not self.module.check_mode:
            with execution.alone(self.root, "kvm_host_config"):
                # What was planned without the lock may be done by now.
                planned = self.plan()
                missed = self.host.apply(planned)
        plan = planned.plan()
        pending = (*plan.pending, *missed)
        found = result(
            plan.actions,
            pending,
            plan.blocked,
            reboot_required=any(item.kind == REBOOT for item in pending),
        )
        return {**found, "diff": execution.readable(found["diff"], planned.steps)}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "modules": {"type": "list", "elements": "str", "default": []},
            "module_options": {"type": "dict", "default": {}},
            "cmdline": {"type": "list", "elements": "str", "default": []},
            "sysctl": {"type": "dict", "default": {}},
            "hugepages": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "size": {"type": "str", "required": True},
                    "count": {"type": "int", "required": True},
                    "node": {"type": "int"},
                },
            },
            "virtual_functions": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "device": {"type": "str", "required": True},
                    "count": {"type": "int", "required": True},
                    "probe": {"type": "bool"},
                },
            },
            "ksm": {
                "type": "dict",
                "options": {
                    "run": {"type": "bool"},
                    "pages_to_scan": {"type": "int"},
                    "sleep": {"type": "str"},
                    "merge_across_nodes": {"type": "bool"},
                },
            },
            "thp": {
                "type": "dict",
                "options": {
                    "enabled": {"type": "str", "choices": ["always", "madvise", "never"]},
                    "defrag": {
                        "type": "str",
                        "choices": ["always", "defer", "defer+madvise", "madvise", "never"],
                    },
                },
            },
            "governor": {"type": "str"},
            "device_access": {
                "type": "dict",
                "options": {
                    "group": {"type": "str", "default": "kvm"},
                    "mode": {"type": "str", "default": "0660"},
                },
            },
            "root": {"type": "path", "default": "/"},
            "host": {"type": "str", "default": "localhost"},
        },
        supports_check_mode=True,
    )
    try:
        found = Run(module).run()
    except VirtfleetError as error:
        module.fail_json(msg=str(error), **error.data)
    except OSError as error:
        module.fail_json(msg=f"cannot change {error.filename}: {error.strerror}")
    module.exit_json(**found)


if __name__ == "__main__":
    main()
