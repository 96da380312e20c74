# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Samples of /proc/cpuinfo from every kind of machine."""

from __future__ import annotations

import pytest
from ansible.module_utils.host.probes import cpuinfo

# sample: architecture, CPUs, kinds, vendor, virtualization flags on every CPU, vmx flags shown,
# hypervisor flag
SAMPLES = {
    "intel_vmx_flags": ("x86", 4, 1, "GenuineIntel", {"vmx"}, True, False),
    "intel_old_kernel": ("x86", 2, 1, "GenuineIntel", {"vmx"}, False, False),
    "intel_firmware_disabled": ("x86", 2, 1, "GenuineIntel", set(), False, False),
    "intel_hybrid": ("x86", 4, 1, "GenuineIntel", {"vmx"}, True, False),
    "intel_disagreeing": ("x86", 4, 3, "GenuineIntel", set(), True, False),
    "amd_epyc": ("x86", 2, 1, "AuthenticAMD", {"svm"}, False, False),
    "amd_firmware_disabled": ("x86", 2, 1, "AuthenticAMD", set(), False, False),
    "nested_intel": ("x86", 2, 1, "GenuineIntel", {"vmx"}, True, True),
    "vm_without_flags": ("x86", 2, 1, "GenuineIntel", set(), False, True),
    "pvm": ("x86", 2, 1, "AuthenticAMD", set(), False, True),
    "arm64": ("arm", 4, 1, "0x41", set(), False, False),
    "arm64_big_little": ("arm", 4, 2, "0x41", set(), False, False),
    "s390x": ("s390x", 2, 1, "IBM/S390", {"sie"}, False, False),
    "power9": ("ppc64", 2, 1, None, set(), False, False),
    "riscv64": ("riscv", 2, 1, "0x489", set(), False, False),
    "unknown": (None, 0, 0, None, set(), False, False),
}


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_samples(cpuinfo_of, name):
    found = cpuinfo_of(name)
    summary = (
        found.architecture,
        found.count,
        len(found.kinds),
        found.vendor,
        set(found.flags & {"vmx", "svm", "sie"}),
        found.vmx_flags is not None,
        found.hypervisor,
    )
    assert summary == SAMPLES[name]
    assert found.readable


def test_every_sample_is_in_the_table(cases):
    assert {path.stem for path in (cases / "host" / "cpuinfo").iterdir()} == set(SAMPLES)


def test_details_of_intel(cpuinfo_of):
    found = cpuinfo_of("intel_vmx_flags")
    (kind,) = found.kinds
    assert (kind.cpus, kind.count, kind.family, kind.model) == ("0-3", 4, "6", "106")
    assert (kind.stepping, kind.microcode, kind.physical_bits) == ("6", "0xd0003a5", 46)
    assert kind.name == "Intel(R) Xeon(R) Gold 6330 CPU @ 2.00GHz"
    assert (found.sockets, found.cores) == (2, 4)
    assert {"ept", "apicv", "shadow_vmcs", "posted_intr"} <= (found.vmx_flags or set())


def test_cpus_that_disagree_are_kinds(cpuinfo_of):
    kinds = cpuinfo_of("intel_disagreeing").kinds
    assert [(kind.cpus, kind.microcode) for kind in kinds] == [
        ("0-1", "0x2006906"),
        ("2", "0x2006e05"),
        ("3", "0x2006e05"),
    ]
    assert ["vmx" in kind.flags for kind in kinds] == [True, True, False]


def test_details_of_s390x(cpuinfo_of):
    found = cpuinfo_of("s390x")
    assert "158" in found.facilities
    assert (found.kinds[0].cpus, found.kinds[0].model) == ("0-1", "8561")


def test_power_leaves_gaps_between_cpus(cpuinfo_of):
    assert cpuinfo_of("power9").kinds[0].cpus == "0,4"


def test_probe(tree):
    assert cpuinfo.probe(tree({"/proc/cpuinfo": "flags : vmx\nprocessor : 0\n"})).count == 1


def test_no_file(tmp_path):
    found = cpuinfo.probe(str(tmp_path))
    assert (found.readable, found.count, found.vendor, found.vmx_flags) == (False, 0, None, None)


@pytest.mark.parametrize("junk", ["", "\n\n\n", ":::\n", "flags\t:\n\nflags\t:\n", "cpu : POWER\n"])
def test_junk_is_no_error(junk):
    assert cpuinfo.parse(junk).count == 0
