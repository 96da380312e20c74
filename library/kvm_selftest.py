# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Ansible module: run small guests on a host and measure what its KVM costs and gives."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kvm_selftest
short_description: Run small KVM guests and measure them
version_added: "0.1.0"
description:
  - Runs small guests through C(/dev/kvm), with nothing installed on the host, and measures the way
    into a guest and out of it, and its speed against the same code run natively on the same CPU.
  - Each measurement becomes a check that is held against a threshold. What a host's KVM cannot do
    is told as a fact, not as a failure.
  - Boots the host's own kernel as a guest too, up to its first process and down again by ACPI.
  - Never changes anything on the host. Takes a second or two and one CPU, and what the
    boot takes.
author:
  - virtfleet contributors (@virtfleet)
options:
  device:
    description: The KVM device.
    type: path
    default: /dev/kvm
  rounds:
    description: How many samples of each measurement are taken. More of them take longer.
    type: int
    default: 9
  linux:
    description: Whether the host's own kernel is booted, with 256 MiB of memory at most.
    type: bool
    default: true
  open_to_first_instruction:
    description: Microseconds from opening the device to a guest's first instruction, at most.
    type: float
    default: 20000
  pio_exit:
    description: Microseconds of the round trip of a port access, at most.
    type: float
    default: 50
  mmio_exit:
    description: Microseconds of the round trip of an access to emulated memory, at most.
    type: float
    default: 50
  hlt_wakeup:
    description: Microseconds from an interrupt to the wake-up of a halted vCPU, at most.
    type: float
    default: 500
  integer_ratio:
    description: Speed of an integer loop in the guest over its native speed, at least.
    type: float
    default: 0.9
  memory_ratio:
    description: Speed of a walk through 32 MiB in the guest over its native speed, at least.
    type: float
    default: 0.8
attributes:
  check_mode:
    description: Can run in check mode and return what it would otherwise.
    support: full
  diff_mode:
    description: Shows what would change.
    support: none
seealso:
  - module: kvm_host_info
requirements:
  - Python 3.8 or newer on the host
  - An x86-64 host, and read and write access to the KVM device
"""

EXAMPLES = r"""
- name: Run guests and measure
  kvm_selftest:
  become: true
  register: selftest

- name: Demand 95 percent of native speed
  kvm_selftest:
    integer_ratio: 0.95
    memory_ratio: 0.95
  become: true
  register: selftest
  failed_when: selftest.verdict.state != 'ready'
"""

RETURN = r"""
measurements:
  description: What was measured. The value is the median of the samples.
  returned: success
  type: list
  elements: dict
  contains:
    id:
      description: Name of the measurement, that of the option with its threshold.
      type: str
      sample: pio_exit
    title:
      description: What is measured.
      type: str
      sample: port exit, round trip
    unit:
      description:
        - V(us) for microseconds, V(ms) for milliseconds, V(ratio) for the guest's speed over the
          native one.
      type: str
      sample: us
    value:
      description: The median.
      type: float
      sample: 8.9
    min:
      description: The smallest sample.
      type: float
      sample: 8.7
    max:
      description: The largest sample.
      type: float
      sample: 10.4
    samples:
      description: How many there were.
      type: int
      sample: 9
facts:
  description:
    - C(ring0) says whether privileged guest code runs V(native) on the CPU or is V(emulated).
    - A measurement that this KVM cannot carry out stands here under its name, with the reason.
  returned: success
  type: dict
  sample:
    ring0: native
errors:
  description: What should have worked and did not, under the name of its measurement.
  returned: success
  type: dict
  sample: {}
checks:
  description: The measurements against their thresholds, as M(kvm_host_info) returns its checks.
  returned: success
  type: list
  elements: dict
  sample:
    - id: selftest.pio_exit
      level: pass
      title: Port exit, round trip
      found: 8.90 us (8.70 to 10.4 in 9 samples)
      expected: ""
      remedy: null
      source: /dev/kvm (guests of the self-test)
verdict:
  description: The checks in one word, as M(kvm_host_info) returns it.
  returned: success
  type: dict
  sample:
    state: ready
    limits: []
    remedies: []
    summary: "ready: 7 checks, nothing in the way"
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.host.selftest import THRESHOLDS, assess
from ansible.module_utils.kvm.selftest import selftest


def main() -> None:
    """Run the module."""
    spec = {name: {"type": "float", "default": value} for name, value in THRESHOLDS.items()}
    module = AnsibleModule(
        argument_spec={
            "device": {"type": "path", "default": "/dev/kvm"},
            "rounds": {"type": "int", "default": 9},
            "linux": {"type": "bool", "default": True},
            **spec,
        },
        supports_check_mode=True,
    )
    options = module.params
    if options["rounds"] < 1:
        module.fail_json(msg=f"rounds: expected at least 1, found {options['rounds']}")
    measured = selftest(options["device"], options["rounds"], linux=options["linux"])
    module.exit_json(changed=False, **assess(measured, options))


if __name__ == "__main__":
    main()
