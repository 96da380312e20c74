# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a machine runs in: bare metal, every hypervisor, containers."""

from __future__ import annotations

import pytest
from ansible.module_utils.host.probes import platform

from .conftest import Link

RELEASE = "/proc/sys/kernel/osrelease"
DMI = "/sys/class/dmi/id"
TREE = "/proc/device-tree"

# files, CPUID's signature, cpuinfo's flag → hypervisor, kind
UNDERNEATH = {
    "bare metal": ({}, "", False, "", "none"),
    "bare metal, CPUID not readable": ({}, None, False, "", "none"),
    "bare metal of a maker": ({f"{DMI}/sys_vendor": "Xen AG"}, "", False, "", "none"),
    "bare metal instance": ({f"{DMI}/product_name": "c5.metal"}, None, False, "", "none"),
    "kvm": ({}, "KVMKVMKVM", True, "kvm", "full"),
    "hyperv": ({}, "Microsoft Hv", True, "hyperv", "full"),
    "an unknown signature": ({}, "HomeGrownHv", True, "HomeGrownHv", "full"),
    "only the flag": ({}, None, True, "unknown", "full"),
    "dmi": ({f"{DMI}/product_name": "VMware Virtual Platform"}, None, True, "vmware", "full"),
    "xen hvm": ({"/sys/hypervisor/type": "xen\n"}, "XenVMMXenVMM", True, "xen", "full"),
    "xen pv": ({"/sys/hypervisor/type": "xen\n"}, None, False, "xen", "para"),
    "xen pvh": (
        {"/sys/hypervisor/type": "xen\n", "/sys/hypervisor/guest_type": "PVH\n"},
        "XenVMMXenVMM",
        True,
        "xen",
        "para",
    ),
    "xen dom0": ({"/proc/xen/capabilities": "control_d\n"}, None, False, "xen", "para"),
    "arm kvm": ({f"{TREE}/hypervisor/compatible": "linux,kvm\0"}, None, None, "kvm", "full"),
    "powernv": ({f"{TREE}/compatible": "ibm,powernv\0ibm,p9\0"}, None, None, "", "none"),
    "pseries": ({f"{TREE}/compatible": "qemu,pseries\0"}, None, None, "pseries", "para"),
    "powervm": (
        {f"{TREE}/ibm,partition-name": "p1", f"{TREE}/hmc-managed?": ""},
        None,
        None,
        "powervm",
        "para",
    ),
    "s390x lpar": ({"/proc/sysinfo": "Manufacturer: IBM\n"}, None, None, "pr/sm", "full"),
    "s390x kvm": (
        {"/proc/sysinfo": "VM00 Control Program:   KVM/Linux\n"},
        None,
        None,
        "kvm",
        "full",
    ),
    "nothing tells": ({}, None, None, None, None),
}


@pytest.mark.parametrize("name", UNDERNEATH)
def test_hypervisor(tree, name):
    files, signature, flag, hypervisor, kind = UNDERNEATH[name]
    root = tree({"/proc/1/environ": "", **files})
    found = platform.probe(root, signature, flag)
    assert (found.hypervisor, found.virtualization_type) == (hypervisor, kind)
    assert found.xen_dom0 == (name == "xen dom0")
    assert bool(found.hypervisor_source) == (hypervisor is not None)


FIRST = {
    "/proc/self/ns/pid": Link("pid:[4026531836]"),
    "/proc/self/ns/uts": Link("uts:[4026531838]"),
}
OTHER = {
    "/proc/self/ns/pid": Link("pid:[4026532200]"),
    "/proc/self/ns/uts": Link("uts:[4026532199]"),
}
CONTAINERS = {
    "first namespaces": (FIRST, ""),
    "an image that booted as a machine": ({**FIRST, "/.dockerenv": ""}, ""),
    "docker": ({**OTHER, "/.dockerenv": ""}, "docker"),
    "podman": ({**OTHER, "/run/.containerenv": ""}, "podman"),
    "systemd says": ({**OTHER, "/run/systemd/container": "lxc\n"}, "lxc"),
    "init's environment": ({**OTHER, "/proc/1/environ": "A=b\0container=lxc\0"}, "lxc"),
    "none that is known": ({**OTHER, "/proc/1/environ": "A=b\0"}, ""),
    "not readable": (OTHER, None),
    "wsl": ({RELEASE: "5.15.90.1-microsoft-standard-WSL2\n"}, "wsl"),
    "openvz": ({"/proc/vz": None}, "openvz"),
    "openvz node": ({**FIRST, "/proc/vz": None, "/proc/bc": None}, ""),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_container(tree, name):
    files, expected = CONTAINERS[name]
    found = platform.probe(tree(files), "", False)
    assert found.container == expected
    assert (found.virtualization_type == "container") == bool(expected)


def test_facts(tree):
    root = tree(
        {
            RELEASE: "6.1.0-13-amd64\n",
            "/proc/sys/kernel/arch": "x86_64\n",
            "/etc/os-release": 'NAME="Debian GNU/Linux"\nVERSION_ID="12"\nID=debian\n',
            "/sys/devices/system/clocksource/clocksource0/current_clocksource": "tsc\n",
        }
    )
    found = platform.probe(root)
    assert (found.machine, found.kernel, found.kernel_version) == (
        "x86_64",
        "6.1.0-13-amd64",
        (6, 1),
    )
    assert (found.os, found.os_version, found.clocksource) == ("debian", "12", "tsc")
    assert found.cmdline is None


def test_nothing_is_there(tmp_path):
    found = platform.probe(str(tmp_path))
    assert found.machine is found.kernel is found.kernel_version is found.os is None


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("intel_iommu=on iommu=pt quiet", [("intel_iommu", "on"), ("iommu", "pt")]),
        ("nosmt token=secret", [("nosmt", "")]),
        (
            'kvm-intel.nested=1 kvm.ignore_msrs="1"',
            [("kvm-intel.nested", "1"), ("kvm.ignore_msrs", "1")],
        ),
        ("quiet -- iommu=off", []),
        ('mystery="a iommu=off b" mitigations=off', [("mitigations", "off")]),
    ],
)
def test_only_what_bears_on_virtualization_is_kept(line, expected):
    assert platform.parse_cmdline(f"BOOT_IMAGE=/vmlinuz {line}\n") == expected
