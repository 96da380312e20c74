# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Made hosts: trees that look like /proc, /sys and /dev, and a machine that lacks nothing."""

from __future__ import annotations

import os
from typing import Any, Callable

import pytest
from ansible.module_utils.host.features import states
from ansible.module_utils.host.observe import Host
from ansible.module_utils.host.probes import cpuinfo
from ansible.module_utils.host.probes.cgroups import CONTROLLERS, Cgroups
from ansible.module_utils.host.probes.devices import Cpus, Devices, Secure
from ansible.module_utils.host.probes.memory import HugePages, Memory, Node
from ansible.module_utils.host.probes.modules import Modules
from ansible.module_utils.host.probes.pci import Iommu, NetDevice, Pci, PciDevice
from ansible.module_utils.host.probes.platform import Platform
from ansible.module_utils.host.probes.registers import Registers
from ansible.module_utils.host.probes.software import Software

GIB = 1 << 30
KVM_INTEL = {
    "ept": "Y",
    "eptad": "Y",
    "vpid": "Y",
    "unrestricted_guest": "Y",
    "flexpriority": "Y",
    "enable_apicv": "Y",
    "enable_shadow_vmcs": "Y",
    "pml": "Y",
    "ple_gap": "128",
    "preemption_timer": "Y",
    "vnmi": "Y",
    "enable_ipiv": "N",
    "nested": "Y",
}
CAPABILITIES = (
    "user_memory irqfd ioeventfd immediate_exit set_tss_addr set_identity_map_addr irqchip pit2 "
    "ext_cpuid mp_state signal_msi"
)


class Link(str):
    """The target of a symbolic link to make."""

    __slots__ = ()


@pytest.fixture
def tree(tmp_path):
    """Return a function that makes files below a root: path → text, Link, or None for a folder."""

    def make(files: dict[str, str | None]) -> str:
        for path, content in files.items():
            full = os.path.join(str(tmp_path), path.lstrip("/"))
            os.makedirs(full if content is None else os.path.dirname(full), exist_ok=True)
            if isinstance(content, Link):
                os.symlink(content, full)
            elif content is not None:
                with open(full, "w", encoding="utf-8") as handle:
                    handle.write(content)
        return str(tmp_path)

    return make


@pytest.fixture
def cpuinfo_of(cases):
    """Return a function that parses one of the samples."""

    def parse(name: str) -> cpuinfo.Cpuinfo:
        path = cases / "host" / "cpuinfo" / f"{name}.txt"
        return cpuinfo.parse(path.read_text(encoding="utf-8"))

    return parse


def kvm_view(**changes: Any) -> dict[str, Any]:
    """Return what the helper sees of a KVM that works."""
    found: dict[str, Any] = {
        "device": "/dev/kvm",
        "present": True,
        "permitted": True,
        "error": None,
        "api_version": 12,
        "capabilities": {
            "system": {},
            "vm": {
                **dict.fromkeys(CAPABILITIES.split(), 1),
                "max_vcpus": 710,
                "nr_vcpus": 96,
                "nr_memslots": 32764,
            },
        },
        "vm_created": True,
        "vcpu_mmap_size": 12288,
        "cpuid": [],
        "feature_msrs": {},
        "ring0": "native",
        "machine": "x86_64",
    }
    found.update(changes)
    return found


@pytest.fixture
def make_host(cpuinfo_of) -> Callable[..., Host]:
    """Return a function that makes a bare-metal host that lacks nothing, with CPUs of a sample."""

    def make(sample: str = "intel_vmx_flags") -> Host:
        huge = [HugePages(2 << 20, 512, 512)]
        nodes = [
            Node(0, "0-1", 64 * GIB, 60 * GIB, [10, 21], huge),
            Node(1, "2-3", 64 * GIB, 60 * GIB, [21, 10], huge),
        ]
        parameters = {"kvm_intel": dict(KVM_INTEL), "kvm": {}}
        host = Host(
            cpuinfo=cpuinfo_of(sample),
            registers=Registers(cpuid_problem="no cpuid here", msr_problem="no msr here"),
            platform=Platform(
                machine="x86_64",
                kernel="6.1.0-13-amd64",
                os="debian",
                os_version="12",
                hypervisor="",
                virtualization_type="none",
                container="",
                cmdline=[("intel_iommu", "on")],
                clocksource="tsc",
            ),
            modules=Modules(loaded=("kvm", "kvm_intel", "vfio_pci"), parameters=parameters),
            cpus=Cpus("on", True, "0-3", None, {"l1tf": "Mitigation: PTE Inversion"}),
            memory=Memory(
                total=128 * GIB,
                available=120 * GIB,
                nodes=nodes,
                hugepages=[HugePages(2 << 20, 1024, 1024)],
                ksm=False,
                ksm_across_nodes=True,
                ksm_supported=True,
                thp="madvise",
                swap=8 * GIB,
                swap_used=0,
                swappiness=60,
            ),
            pci=Pci(
                iommu=Iommu(["DMAR"], 40, 90, 8, ["dmar0"], True, True),
                count=90,
                devices=[PciDevice("0000:3b:00.0", "0x8086", "0x158b", "i40e", 0, 64, 4, "12")],
                nets=[NetDevice("eno1", "0000:3b:00.0", "i40e", 8, 8, {"max_combined": 64})],
            ),
            cgroups=Cgroups("v2", dict.fromkeys(CONTROLLERS, "v2"), "/sys/fs/cgroup"),
            devices=Devices(True, kvm=True, vhost_net=True, vhost_vsock=True, tun=True, vfio=True),
            secure=Secure(),
            software=Software("7.2.15", "/usr/bin/qemu-system-x86_64", "9.0.0", "monolithic"),
            kvm=kvm_view(),
        )
        refresh(host)
        return host

    return make


def refresh(host: Host) -> None:
    """Derive the features anew from the changed probes."""
    host.features = states(host.cpuinfo, host.registers, host.modules, host.vendor)
