# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Make the guests of a host what was declared."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kvm_guests
short_description: Make the KVM guests of a host what was declared
version_added: "0.1.0"
description:
  - Creates, updates, starts, stops and removes guests, all of a host in one call.
  - Everything in O(guests) is checked before anything is touched, and all that is wrong is reported
    at once.
  - Only what is stated is compared. A key that is left out keeps the value that the guest has, or
    takes its default when the guest is made.
  - What takes effect only when a running guest is started anew is written to its definition and
    reported in RV(pending) until that happens.
    A guest is never restarted unless that is asked for.
  - Only guests that this toolkit made, or that it was asked to take over, are changed or removed.
options:
  guests:
    description:
      - The guests, each a mapping. The keys are described in C(docs/guests.md).
      - V(name) is an RFC 1123 label. V(engine) is V(libvirt) (the default) or V(ioctl), the bundled
        helper.
      - V(state) is one of V(present) (it exists), V(running) (the default), V(stopped),
        V(restarted) (it is started anew now) and V(absent), for a guest of libvirt V(paused) and
        V(saved) too.
      - V(protected) keeps it from being removed, V(autostart) starts it when the host boots.
      - V(was) is the name that it had before. The guest of that name is this one, and gets its name
        when it does not run.
      - The other keys of a guest of libvirt are described in C(docs/libvirt-guests.md). What it is
        told at its first boot (V(cloud_init)) is described in C(docs/first-boot.md).
      - Those of a guest of the helper are the following. V(kernel) is an absolute path,
        C(image:NAME) for an image that the host keeps, or one of the words V(greeter) (the guest
        program that the helper brings along) and V(host) (the kernel that the host runs itself).
        V(initrd) is an absolute path or C(image:NAME).
      - V(memory) is a size with a unit (V(128MiB) by default), V(vcpus) a whole number (V(1)),
        V(cmdline) the kernel's command line.
      - V(log) holds V(max_size) (V(1MiB)) and V(keep) (V(3)) of the console's log.
    type: list
    elements: dict
    default: []
  fleet:
    description: The fleet that the guests belong to. Guests of another fleet are not touched.
    type: str
    default: local
  prune:
    description: Remove the guests of the fleet that O(guests) does not name. Protected ones stay.
    type: bool
    default: false
  expect:
    description:
      - By name, the digest that M(kvm_guests_info) returned for a guest when it was planned; empty
        for a guest that was not there.
      - A guest that has another one by now is not touched and reported in RV(blocked).
    type: dict
    default: {}
  witness:
    description:
      - What the host is to remember of the fleet, as M(kvm_fleet_plan) returns it, with what was
        seen of this host as V(seen). It is written before anything is done, and only where the host
        is still as it was seen.
    type: dict
  host:
    description: The name of the host in the actions. The system's own name by default.
    type: str
  stop_timeout:
    description: How long a guest may take to stop, as a duration with a unit.
    type: str
    default: 30s
  force:
    description: Kill a guest that does not stop in time.
    type: bool
    default: false
  machines:
    description:
      - By architecture and family the version of machine types that new guests get, such as
        V(pc-q35-7.2) for V(q35) of V(x86_64). M(kvm_fleet_plan) returns the newest that all hosts
        know.
      - What the host does not know, and what is left out, is the newest that it has.
    type: dict
  antispoofing:
    description:
      - Give each new NIC on a bridge of the host, or on a network that leads to one, a filter that
        lets the guest send from its own MAC alone, and from the IPv4 addresses that its V(ip) in
        O(guests) states alone, where it states some and no V(dhcp4).
      - A NIC that states V(filter) has that one, or none with V(filter=null).
    type: bool
    default: true
  root:
    description:
      - A folder that stands in front of every place that the module knows by itself, for building
        images and for tests.
      - Paths of kernels are not below it, and nothing is started at boot there.
    type: path
    default: /
  uri:
    description:
      - Where libvirt is asked for its guests, such as V(qemu:///system) or V(qemu+ssh://kvm2/system).
      - It is not asked at all where nothing concerns it.
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
  - module: kvm_guests_info
"""

EXAMPLES = r"""
- name: Run a guest that greets on its console
  kvm_guests:
    guests:
      - name: hello
        engine: ioctl
        kernel: greeter
        memory: 16MiB

- name: Give it more memory, which it gets with its next start
  kvm_guests:
    guests:
      - name: hello
        engine: ioctl
        memory: 32MiB

- name: Remove it
  kvm_guests:
    guests:
      - name: hello
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
      sample: guest/hello
    action:
      description: What is done, such as V(create), V(update), V(start), V(stop), V(restart) or
        V(delete).
      type: str
    host:
      description: The host that carries it out.
      type: str
    target:
      description: The other host of a move.
      type: str
    when:
      description: V(live) for a running guest, V(next_boot) for its definition alone, V(now) where
        nothing runs.
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
  description:
    - What is known to be outstanding, and is no change. V(restart_required) for a guest that runs
      with an older definition, V(older_helper)
      for one that runs with another helper than the installed one, V(rename_waits) for one that
      keeps its former name until it does not run, V(not_autostarted) where nothing starts it at
      boot.
  returned: always
  type: list
  elements: dict
blocked:
  description: What was asked for and refused, with the reason and what would unblock it.
  returned: always
  type: list
  elements: dict
guests:
  description: The declared guests as they are now, as RV(ignore:guests) of M(kvm_guests_info) but
    without their consoles, and with V(vcpus) and V(memory) instead of their definitions. Those that
    were waited for have their addresses.
  returned: always
  type: list
  elements: dict
problems:
  description: What is wrong with the input, by the paths of its keys.
  returned: when the input was refused
  type: list
  elements: dict
"""

from ansible.module_utils.converge.errors import VirtfleetError
from ansible.module_utils.converge.secrets import echoed
from ansible.module_utils.guest.local import converge_guests
from ansible.module_utils.quiet import QuietModule


def main() -> None:
    """Run the module."""
    # Its arguments hold secrets that no argument spec can name.
    module = QuietModule(
        argument_spec={
            "guests": {"type": "list", "elements": "dict", "default": []},
            "fleet": {"type": "str", "default": "local"},
            "prune": {"type": "bool", "default": False},
            "expect": {"type": "dict", "default": {}},
            "witness": {"type": "dict"},
            "host": {"type": "str"},
            "stop_timeout": {"type": "str", "default": "30s"},
            "force": {"type": "bool", "default": False},
            "antispoofing": {"type": "bool", "default": True},
            "machines": {"type": "dict"},
            "root": {"type": "path", "default": "/"},
            "uri": {"type": "str", "default": "qemu:///system"},
        },
        supports_check_mode=True,
    )
    options = module.take("guests", echoed)
    try:
        outcome = converge_guests(options, module.run_command, module.check_mode)
    except VirtfleetError as error:
        module.fail_json(msg=str(error), **error.data)
    for text in outcome.pop("warnings"):
        module.warn(text)
    for item in outcome["blocked"]:
        module.warn(f"{item['object']} is blocked: {item['reason']}; {item['remedy']}")
    module.exit_json(**outcome)


if __name__ == "__main__":
    main()
