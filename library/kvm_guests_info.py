# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Look at the guests of a host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kvm_guests_info
short_description: Look at the KVM guests of a host
version_added: "0.1.0"
description:
  - Returns the guests of a host as they are, in the shape in which M(kvm_guests) takes them, and
    what the host can do for guests.
  - Changes nothing. Without root the consoles and the reasons of exits cannot be read.
options:
  names:
    description: The guests to look at. All of them by default; those that are not there are left
      out.
    type: list
    elements: str
    default: []
  console_lines:
    description: How many of the last lines of each console to return.
    type: int
    default: 0
  status:
    description: Ask each running guest for its own view over its control socket.
    type: bool
    default: false
  brief:
    description:
      - Return what the plan of a fleet has to know, and no more. Guests without their definitions,
        consoles and addresses, RV(room) and RV(witness), and no RV(capabilities).
    type: bool
    default: false
  host:
    description: The name of the host. The system's own name by default.
    type: str
  root:
    description: A folder that stands in front of every place that the module knows by itself, for
      building images and for tests.
    type: path
    default: /
  uri:
    description: Where libvirt is asked for its guests.
    type: str
    default: qemu:///system
  engines:
    description: The engines whose guests are looked at. A host without libvirt has none of its
      guests.
    type: list
    elements: str
    choices: [ioctl, libvirt]
    default: [ioctl, libvirt]
attributes:
  check_mode:
    description: Can run in check mode and return what it would do.
    support: full
  diff_mode:
    description: Returns what differs when run with C(--diff).
    support: none
  platform:
    description: The systems that it works on.
    support: full
    platforms: posix
author:
  - virtfleet contributors (@virtfleet)
seealso:
  - module: kvm_guests
"""

EXAMPLES = r"""
- name: Look at all guests and the ends of their consoles
  kvm_guests_info:
    console_lines: 10
  register: found
"""

RETURN = r"""
guests:
  description: The guests, sorted by name.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: The guest's name.
      type: str
    engine:
      description: What runs it.
      type: str
    state:
      description: V(running), V(stopped), or V(failed) if it ended by itself and not well. A guest
        of libvirt can be V(paused) or V(saved) too.
      type: str
    spec:
      description: Its definition, in the shape in which M(kvm_guests) takes it.
      type: dict
    live:
      description: The definition that it runs with, in the same shape. Null where it does not run.
      type: dict
    owned:
      description: Whether this toolkit made it or took it over.
      type: bool
    adoptable:
      description: Whether M(kvm_guests) would take it over with V(adopt).
      type: bool
    digest:
      description: A digest of the definition.
      type: str
    fleet:
      description: The fleet that it belongs to.
      type: str
    uuid:
      description: Its identity, which it keeps.
      type: str
    pid:
      description: The process that it runs in.
      type: int
    uptime:
      description: For how many seconds it has run.
      type: float
    exit:
      description: How it ended last, with status, reason, detail, and the times of its start and
        end. Only while it does not run.
      type: dict
    autostart:
      description: Whether it is started when the host boots.
      type: bool
    helper:
      description: The digest of the helper that it runs with.
      type: str
    restart_required:
      description: Whether it runs with an older definition than it would be started with now.
      type: bool
    addresses:
      description: The addresses of a running guest of libvirt, from leases, its agent or ARP.
      type: list
      elements: str
    problem:
      description: Why what lies there under its name cannot be used.
      type: str
    console:
      description: The last lines of its console. What would control a terminal is shown instead.
      type: list
      elements: str
    status:
      description: What a guest of the helper says of itself, and what one of libvirt uses (seconds
        of CPU, bytes of memory, traffic of disks and NICs), if O(status) asks for that.
      type: dict
room:
  description:
    - What the host has for guests, all in all. Its processors, its memory in bytes, and of libvirt
      the huge pages by their size (bytes), the NUMA nodes, the CPU models that guests can have,
      the versions of each family of machine types, and the active pools with the bytes that they
      have, have free and have promised to volumes.
  returned: with O(brief)
  type: dict
witness:
  description: By fleet, what the host remembers of it. The number of the plan and its time, the
    hosts that were ever looked at, and the host of each guest.
  returned: with O(brief)
  type: dict
capabilities:
  description: By engine, what this host can do for guests.
  returned: without O(brief)
  type: dict
  sample:
    ioctl:
      helper: null
      kernels: [greeter, host]
      memory: 25769803776
      supervised: true
      vcpus: 1024
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.converge.errors import VirtfleetError
from ansible.module_utils.guest.local import look_at_guests


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "names": {"type": "list", "elements": "str", "default": []},
            "console_lines": {"type": "int", "default": 0},
            "status": {"type": "bool", "default": False},
            "brief": {"type": "bool", "default": False},
            "host": {"type": "str"},
            "root": {"type": "path", "default": "/"},
            "uri": {"type": "str", "default": "qemu:///system"},
            "engines": {
                "type": "list",
                "elements": "str",
                "choices": ["ioctl", "libvirt"],
                "default": ["ioctl", "libvirt"],
            },
        },
        supports_check_mode=True,
    )
    try:
        found = look_at_guests(module.params, module.run_command)
    except VirtfleetError as error:
        module.fail_json(msg=str(error), **error.data)
    module.exit_json(changed=False, **found)


if __name__ == "__main__":
    main()
