# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hardware has it, module has it on: every combination of evidence."""

from __future__ import annotations

import pytest
from ansible.module_utils.host.features import FEATURES, evaluate
from ansible.module_utils.host.probes.cpuinfo import Cpuinfo, CpuKind
from ansible.module_utils.host.probes.modules import Modules
from ansible.module_utils.host.probes.registers import BASIC, SECONDARY, Registers

BY_NAME = {(row.vendor, row.name): row for row in FEATURES}
EPT = BY_NAME["intel", "ept"]
NPT = BY_NAME["amd", "npt"]


def cpu(flags, vmx_flags=None):
    vmx = None if vmx_flags is None else frozenset(vmx_flags.split())
    none = (None,) * 7
    kind = CpuKind("0", 1, *none, flags=frozenset(flags.split()), vmx_flags=vmx)
    return Cpuinfo(readable=True, architecture="x86", count=1, kinds=[kind])


def modules(**parameters):
    return Modules(parameters={"kvm_intel": parameters, "kvm_amd": parameters})


@pytest.mark.parametrize(
    ("flags", "vmx_flags", "msr", "parameters", "expected"),
    [
        ("vmx", "ept", {}, {"ept": "Y"}, ("on", True, True)),
        ("vmx", "ept", {}, {"ept": "N"}, ("off", True, False)),
        ("vmx", "vpid", {}, {"ept": "N"}, ("absent", False, False)),
        ("vmx", "ept", {}, {}, ("unknown", True, None)),
        # An old kernel: what it shows counts, what it does not show may be there.
        ("vmx ept", None, {}, {"ept": "N"}, ("off", True, False)),
        ("vmx", None, {}, {"ept": "N"}, ("unknown", None, False)),
        # The module switches off what the CPU lacks, so on is proof.
        ("vmx", None, {}, {"ept": "Y"}, ("on", True, True)),
        # The register is believed before the flags.
        ("vmx", "", {BASIC: 1, SECONDARY: 1 << 33}, {"ept": "N"}, ("off", True, False)),
        ("vmx", "ept", {BASIC: 1}, {"ept": "N"}, ("absent", False, False)),
        ("", None, {}, {}, ("unknown", None, None)),
    ],
)
def test_intel(flags, vmx_flags, msr, parameters, expected):
    found = evaluate(EPT, cpu(flags, vmx_flags), Registers(msr=msr), modules(**parameters))
    assert (found.state, found.hardware, found.module) == expected


@pytest.mark.parametrize(
    ("flags", "cpuid", "parameters", "expected"),
    [
        ("svm npt", {}, {"npt": "1"}, ("on", True, True)),
        ("svm npt", {}, {"npt": "0"}, ("off", True, False)),
        ("svm", {}, {"npt": "0"}, ("absent", False, False)),
        # Firmware has SVM off: the kernel hides its features, CPUID does not.
        ("", {}, {}, ("unknown", None, None)),
        ("", {0x8000000A: (0, 0, 0, 1)}, {}, ("unknown", True, None)),
        ("svm npt", {0x8000000A: (0, 0, 0, 0)}, {"npt": "N"}, ("absent", False, False)),
    ],
)
def test_amd(flags, cpuid, parameters, expected):
    found = evaluate(NPT, cpu(flags), Registers(cpuid=cpuid), modules(**parameters))
    assert (found.state, found.hardware, found.module) == expected


def test_a_feature_without_a_switch_is_on_where_it_is():
    found = evaluate(
        BY_NAME["intel", "tsc_scaling"], cpu("vmx", "tsc_scaling"), Registers(), modules()
    )
    assert (found.state, found.parameter, found.option) == ("on", None, None)


def test_apicv_needs_all_of_its_parts():
    apicv = BY_NAME["intel", "apicv"]
    parts = {BASIC: 0, 0x482: 1 << 53, SECONDARY: 3 << 40}
    assert evaluate(apicv, cpu("vmx"), Registers(msr=parts), modules()).hardware is False
    parts[0x481] = 1 << 39
    assert evaluate(apicv, cpu("vmx"), Registers(msr=parts), modules()).hardware is True


def test_counts_are_switches_too():
    row = BY_NAME["intel", "pause_filter"]
    found = evaluate(row, cpu("vmx", "ple"), Registers(), modules(ple_gap="0"))
    assert (found.state, found.option) == ("off", "options kvm_intel ple_gap=128")


def test_no_feature_is_there_twice():
    assert len(BY_NAME) == len(FEATURES)
