# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Make a host's bridges, bonds and VLANs what was declared, with an automatic way back."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kvm_host_network
short_description: Bridges, bonds and VLANs of a host, rolled back when the host gets out of reach
version_added: "0.1.0"
author: virtfleet contributors (@virtfleet)
description:
  - Makes the interfaces of a host what was declared, live and at boot, with the network manager
    that the host has.
  - The change is applied by a watchdog on the host, after the module has answered. An action plugin
    on the controller then connects anew and confirms it, twice, once for what is live and once for
    the files that make it last. Without a confirmation in time the watchdog brings the former
    network back.
  - A reboot before the first confirmation brings the former network back too, since no lasting file
    was written yet.
  - Only what is stated is compared. What was stated once and is not any more is kept; an empty list
    takes away.
  - A port carries no addresses of its own. Addresses and default route of a port must be stated for
    its bridge or bond, or be given up with an empty list.
options:
  interfaces:
    description: The interfaces, in any order.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: The name of the interface, of at most 15 characters.
        type: str
        required: true
      type:
        description:
          - What it is. V(ethernet) is a device that is there already, for its MTU and addresses.
        type: str
        choices: [bridge, bond, vlan, ethernet]
        required: true
      state:
        description: V(absent) takes an interface away that this module made, and gives back what
          its ports were. Others are left alone.
        type: str
        choices: [present, absent]
        default: present
      ports:
        description:
          - The ports of a bridge or bond. What else is a port, such as the interface of a guest, is
            left alone.
        type: list
        elements: str
      vlan_filtering:
        description:
          - Whether a bridge filters by VLAN. Its ports then carry all VLANs with their tags, and
            VLAN 1 without.
        type: bool
      stp:
        description: Whether a bridge takes part in the spanning tree protocol.
        type: bool
      mode:
        description: The mode of a bond, by its name in the kernel's documentation.
        type: str
        choices: [balance-rr, active-backup, balance-xor, broadcast, 802.3ad, balance-tlb,
                 balance-alb]
      miimon:
        description: How often a bond looks at its links, in milliseconds.
        type: int
      link:
        description: The interface that carries a VLAN.
        type: str
      id:
        description: The id of a VLAN, from 1 to 4094.
        type: int
      mtu:
        description: The MTU in bytes. That of a bridge or bond holds for its ports as well.
        type: int
      addresses:
        description: The addresses with their prefixes, of IPv4 and IPv6. What is not in the list
          goes.
        type: list
        elements: str
      gateway:
        description: The default router, at most one of IPv4 and one of IPv6.
        type: list
        elements: str
      dhcp:
        description: Whether IPv4 is configured by DHCP.
        type: bool
      dns:
        description: The name servers.
        type: list
        elements: str
  state:
    description: V(absent) takes away all interfaces that this module made, and brings the former
      network back.
    type: str
    choices: [present, absent]
    default: present
  manager:
    description:
      - Who makes the interfaces at boot. V(auto) takes the one that has them now.
    type: str
    choices: [auto, ifupdown, networkd, networkmanager]
    default: auto
  adopt:
    description:
      - Whether configuration of others for the same interfaces is taken over. Stanzas of ifupdown
        are commented out, files of systemd-networkd renamed; RV(actions) shows it, and
        O(state=absent) gives it back. Without it such configuration is an error.
    type: bool
    default: false
  rollback_timeout:
    description: How long the host may be out of reach before its former network comes back, as a
      duration with a unit, from 5s to 10min.
    type: str
    default: 60s
  bridge_netfilter:
    description:
      - Whether what bridges pass on goes through the host's packet filter. V(false) keeps the
        host's rules away from the guests' traffic. Nothing is changed if it is not stated;
        O(state=absent) takes it away.
    type: bool
  root:
    description:
      - A folder to treat as the root of the file system, to build an image or for a test. Only
        files are written there.
    type: path
    default: /
  host:
    description:
      - The name by which actions call this host. The action plugin gives the inventory's name.
    type: str
    default: localhost
  confirm:
    description: The change to confirm. The action plugin gives it.
    type: str
  final:
    description: Whether it is the last confirmation. The action plugin gives it.
    type: bool
    default: false
attributes:
  check_mode:
    description: Says what a run would do, changing nothing.
    support: full
  diff_mode:
    description: Says what differs.
    support: full
"""

EXAMPLES = r"""
- name: Put a bridge over the interface that this very session comes by
  kvm_host_network:
    adopt: true
    interfaces:
      - name: br0
        type: bridge
        ports: [eth0]
        addresses: [192.0.2.11/24, "2001:db8::11/64"]
        gateway: [192.0.2.1, "2001:db8::1"]

- name: A bond, a VLAN on it, and a bridge for the guests of that VLAN
  kvm_host_network:
    interfaces:
      - {name: bond0, type: bond, ports: [eth1, eth2], mode: 802.3ad, miimon: 100, mtu: 9000}
      - {name: bond0.20, type: vlan, link: bond0, id: 20}
      - {name: br20, type: bridge, ports: [bond0.20], stp: false}

- name: Bring the former network back
  kvm_host_network:
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
      object: interface/br0
      action: create
      host: kvm1
      target: null
      when: live
      changes: [{path: ports, before: null, after: [eth0]}]
      reason: it is missing
      destructive: false
pending:
  description: What is outstanding, such as name servers that nothing hands to the resolver.
  returned: always
  type: list
  elements: dict
blocked:
  description: What was refused, such as taking a bridge away from under a guest.
  returned: always
  type: list
  elements: dict
manager:
  description: The network manager that the files are for; null where there is nothing to manage.
  returned: always
  type: str
change:
  description:
    - The id of the change, which is a folder below C(/var/lib/virtfleet/network/) on the host;
      null without one.
  returned: when something was or would be looked for
  type: str
state:
  description: How far a change is. The action plugin asks for it, so that a task never returns it.
  returned: with O(confirm)
  type: str
"""

import os
from typing import Any, Sequence

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.converge import lock
from ansible.module_utils.converge.action import Action, Plan
from ansible.module_utils.converge.errors import InputError, Problem, VirtfleetError
from ansible.module_utils.converge.result import result
from ansible.module_utils.system.network import change, ledger, managers, netfilter, observe
from ansible.module_utils.system.network.backend import MANAGERS
from ansible.module_utils.system.network.plan import ChangePlan, Observed, Request, plan
from ansible.module_utils.system.network.spec import ABSENT, MODES, PRESENT, TYPES, parse
from ansible.module_utils.system.operation import Executor, Step
from ansible.module_utils.units import UnitError, parse_duration

_TIMEOUT = (5.0, 600.0)  # seconds
_STATE = "/var/lib/virtfleet"


def timeout(text: str) -> float:
    """Return the seconds of a rollback_timeout; InputError for anything else."""
    low, high = _TIMEOUT
    try:
        seconds = parse_duration(text)
    except UnitError as error:
        raise InputError(
            [Problem("rollback_timeout", "a duration such as 60s", str(error))]
        ) from None
    if not low <= seconds <= high:
        raise InputError([Problem("rollback_timeout", f"{low:g}s to {high:g}s", text)])
    return seconds


def readable(diffs: list[dict[str, str]], actions: Sequence[Action]) -> list[dict[str, str]]:
    """Return the diffs with files as the texts that they are."""
    texts = {
        action.object: {"before": item.before or "", "after": item.after or ""}
        for action in actions
        for item in action.changes
        if item.path == "content"
    }
    return [{**entry, **texts.get(entry["after_header"], {})} for entry in diffs]


class Run:
    """One run of the module: read, desire, plan, apply, result."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.root: str = module.params["root"]
        self.host: str = module.params["host"]
        self.state: str = module.params["state"]
        self.request = Request(
            interfaces=tuple(parse(module.params["interfaces"])),
            host=self.host,
            state=self.state,
            adopt=module.params["adopt"],
            timeout=timeout(module.params["rollback_timeout"]),
        )

    def run_command(self, argv: Any) -> tuple[int, str, str]:
        """Run a command; one that is not there ends with status 127."""
        try:
            status, out, error = self.module.run_command(list(argv), handle_exceptions=False)
        except OSError as failure:
            return 127, "", f"{argv[0]}: {failure.strerror}"
        return status, out, error

    def observe(self) -> Observed | None:
        """Return what there is; None where nothing is ours and nothing is asked for."""
        known = ledger.read(self.root)
        files = managers.files(self.root)
        ours = known.interfaces or managers.ours(files)
        if not ours and (self.state == ABSENT or not self.request.interfaces):
            return None
        live = observe.read(self.run_command) if self.root == "/" else None
        name = self.module.params["manager"]
        if name == managers.AUTO:
            concerned = [n for i in self.request.interfaces for n in (i.name, *i.uses)]
            name = managers.detect(self.root, self.run_command, live, concerned)
        backend = managers.make(name, self.which)
        return Observed(backend, live, known, files, managers.resolver(self.root, name))

    def which(self, name: str) -> str | None:
        """Return where a program is, None where it is not."""
        found: str | None = self.module.get_bin_path(name)
        return found

    def plan(self) -> tuple[ChangePlan, list[Step], dict[str, Any]]:
        """Return the change, the steps that need no way back, and the result of both."""
        observed = self.observe()
        planned = ChangePlan() if observed is None else plan(self.request, observed)
        value = self.module.params["bridge_netfilter"]
        touched = value is not None or self.state == ABSENT
        steps: list[Step] = []
        if touched:
            wanted = None if self.state == ABSENT else value
            steps = netfilter.plan(self.root, wanted, self.host)
        actions = Plan.of([*(step.action for step in steps), *planned.actions]).actions
        manager = None if observed is None else observed.backend.name
        found = result(actions, planned.pending, planned.blocked, manager=manager, change=None)
        return planned, steps, {**found, "diff": readable(found["diff"], actions)}

    def run(self) -> dict[str, Any]:
        """Bring the host on the way to the state asked for; return the result."""
        planned, steps, found = self.plan()
        if self.module.check_mode or not found["changed"]:
            return found
        folder = self.root.rstrip("/") + _STATE
        os.makedirs(folder, exist_ok=True)
        with lock.exclusive(os.path.join(folder, "lock"), lock.holder("kvm_host_network")):
            if self.root == "/":
                change.settle()
            # What was planned without the lock may be done by now.
            planned, steps, found = self.plan()
            executor = Executor(self.root, self.run_command)
            executor.apply(steps)
            if self.root != "/":
                for operation in planned.persist:
                    executor.execute(operation)
            elif planned.actions:
                found["change"] = self.start(planned)
        return found

    def start(self, planned: ChangePlan) -> str:
        """Start the watchdog of the change, which applies it; return its id."""
        change.prune()
        name = change.prepare(planned, self.request.timeout)
        begin = change.starter(self.run_command, systemd=os.path.isdir("/run/systemd/system"))
        begin(name, os.path.join(change.FOLDER, name))
        return name


def main() -> None:
    """Run the module."""
    interface = {
        "name": {"type": "str", "required": True},
        "type": {"type": "str", "choices": list(TYPES), "required": True},
        "state": {"type": "str", "choices": [PRESENT, ABSENT], "default": PRESENT},
        "ports": {"type": "list", "elements": "str"},
        "vlan_filtering": {"type": "bool"},
        "stp": {"type": "bool"},
        "mode": {"type": "str", "choices": list(MODES)},
        "miimon": {"type": "int"},
        "link": {"type": "str"},
        "id": {"type": "int"},
        "mtu": {"type": "int"},
        "addresses": {"type": "list", "elements": "str"},
        "gateway": {"type": "list", "elements": "str"},
        "dhcp": {"type": "bool"},
        "dns": {"type": "list", "elements": "str"},
    }
    module = AnsibleModule(
        argument_spec={
            "interfaces": {"type": "list", "elements": "dict", "default": [], "options": interface},
            "state": {"type": "str", "choices": [PRESENT, ABSENT], "default": PRESENT},
            "manager": {"type": "str", "choices": [managers.AUTO, *MANAGERS], "default": "auto"},
            "adopt": {"type": "bool", "default": False},
            "rollback_timeout": {"type": "str", "default": "60s"},
            "bridge_netfilter": {"type": "bool"},
            "root": {"type": "path", "default": "/"},
            "host": {"type": "str", "default": "localhost"},
            "confirm": {"type": "str"},
            "final": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    try:
        if module.params["confirm"] is not None:
            answer = change.confirm(module.params["confirm"], final=module.params["final"])
            found: dict[str, Any] = {"changed": False, **answer}
        else:
            found = Run(module).run()
    except VirtfleetError as error:
        module.fail_json(msg=str(error), **error.data)
    except OSError as error:
        module.fail_json(msg=f"cannot change {error.filename}: {error.strerror}")
    module.exit_json(**found)


if __name__ == "__main__":
    main()
