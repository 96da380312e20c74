# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""VMX capability registers with made values (Intel SDM vol. 3D, appendix A)."""

from __future__ import annotations

import pytest
from ansible.module_utils.host.probes import registers as r
from ansible.module_utils.host.probes.vmxcap import decode


def control(must, may):
    return may << 32 | must


@pytest.mark.parametrize(
    ("plain", "true", "expected"),
    [
        ((0, 0), None, "no"),
        ((0, 1), None, "yes"),
        ((1, 1), None, "forced"),
        ((1, 1), (0, 1), "default"),
        ((1, 1), (1, 1), "forced"),
        ((0, 1), (0, 1), "yes"),
    ],
)
@pytest.mark.parametrize(
    ("index", "true_index", "group", "bit", "name"),
    [
        (r.PIN, r.TRUE_PIN, "pin-based controls", 5, "Virtual NMIs"),
        (r.PRIMARY, r.TRUE_PRIMARY, "primary processor-based controls", 15, "CR3-load exiting"),
        (r.EXIT, r.TRUE_EXIT, "VM-Exit controls", 2, "Save debug controls"),
        (r.ENTRY, r.TRUE_ENTRY, "VM-Entry controls", 2, "Load debug controls"),
    ],
)
def test_controls(plain, true, expected, index, true_index, group, bit, name):
    msr = {index: control(plain[0] << bit, plain[1] << bit)}
    if true is not None:
        msr[true_index] = control(true[0] << bit, true[1] << bit)
    decoded = decode(msr)
    assert decoded[group][name] == expected
    assert set(decoded) == {group}


def test_secondary_controls_have_no_true_register():
    found = decode({r.SECONDARY: control(0, 1 << 1 | 1 << 14)})[
        "secondary processor-based controls"
    ]
    assert [name for name, value in found.items() if value == "yes"] == [
        "Enable EPT",
        "VMCS shadowing",
    ]


def test_tertiary_controls_are_64_bits_that_may_be_1():
    group = "tertiary processor-based controls"
    assert decode({r.TERTIARY: 1 << 4})[group] == {"Enable IPI virtualization": "yes"}
    assert decode({r.TERTIARY: 1 << 36})[group] == {"Enable IPI virtualization": "no"}


def test_basic_information():
    value = 4 | 1024 << 32 | 6 << 50 | 1 << 54 | 1 << 55
    found = decode({r.BASIC: value})["Basic VMX Information"]
    assert (found["Revision"], found["VMCS size"], found["VMCS memory type"]) == (4, 1024, 6)
    assert found["IA32_VMX_TRUE_*_CTLS support"] == "yes"
    assert found["Dual-monitor support"] == "no"


def test_miscellaneous_data():
    found = decode({r.MISC: 7 | 1 << 6 | 4 << 16 | 0x1234 << 32})["Miscellaneous data"]
    assert found["VMX-preemption timer scale (log2)"] == 7
    assert found["HLT activity state"] == "yes"
    assert found["Number of CR3-target values"] == 4
    assert found["MSEG revision identifier"] == 0x1234


def test_ept_and_vpid():
    found = decode({r.EPT_VPID: 1 << 6 | 1 << 17 | 1 << 21 | 1 << 41})["VPID and EPT capabilities"]
    assert [name for name, value in found.items() if value == "yes"] == [
        "Page-walk length 4",
        "1GB EPT pages",
        "EPT accessed and dirty flags",
        "Single-context INVVPID",
    ]


def test_vm_functions_and_fixed_bits():
    msr = {r.VMFUNC: 1, r.CR0_FIXED0: 0x80000021, r.CR4_FIXED1: 0x3727FF, r.VMCS_ENUM: 0x2E}
    found = decode(msr)
    assert found["VM Functions"] == {"EPTP Switching": "yes"}
    assert found["fixed bits"] == {
        "CR0 bits fixed to 1": "0x80000021",
        "CR4 bits that may be 1": "0x3727ff",
        "Highest VMCS encoding": 0x17,
    }


def test_nothing_read():
    assert decode({}) == {}
