# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Kernel, distribution, command line, clock, and what the machine itself runs in.

The hypervisor underneath and its kind are told as lscpu tells them (full, para, container), from
CPUID, Xen's own files, the device tree, s390x's sysinfo and DMI, in that order.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field

from ..source import exists, target, text, word

# CPUID leaf 0x40000000, as each hypervisor signs it.
_SIGNATURES = {
    "KVMKVMKVM": "kvm",
    "Linux KVM Hv": "kvm",
    "TCGTCGTCGTCG": "qemu",
    "VMwareVMware": "vmware",
    "Microsoft Hv": "hyperv",
    "XenVMMXenVMM": "xen",
    "VBoxVBoxVBox": "virtualbox",
    "bhyve bhyve ": "bhyve",
    "ACRNACRNACRN": "acrn",
    " lrpepyh  vr": "parallels",
    " prl hyperv ": "parallels",
    "UnisysSpar64": "spar",
    "QNXQVMBSQG": "qnx",
    "Jailhouse": "jailhouse",
}
_DMI = (
    ("QEMU", "qemu"),
    ("VMware", "vmware"),
    ("VirtualBox", "virtualbox"),
    ("innotek", "virtualbox"),
    ("Xen", "xen"),
    ("KVM", "kvm"),
    ("Google Compute Engine", "kvm"),
    ("OpenStack", "kvm"),
    ("Amazon EC2", "kvm"),
    ("Parallels", "parallels"),
    ("Virtual Machine", "hyperv"),
    ("Bochs", "qemu"),
    ("BHYVE", "bhyve"),
    ("Apple Virtualization", "apple"),
)
# The first namespaces have fixed numbers (linux: include/linux/proc_ns.h).
_INITIAL = {"pid": "pid:[4026531836]", "uts": "uts:[4026531838]"}
# Only what bears on virtualization is kept: a command line may carry someone's secret.
_PARAMETERS = frozenset(
    {
        "iommu",
        "intel_iommu",
        "amd_iommu",
        "intremap",
        "mitigations",
        "nosmt",
        "nox2apic",
        "noapic",
        "nolapic",
        "acpi",
        "maxcpus",
        "nr_cpus",
        "mem",
        "clearcpuid",
        "isolcpus",
        "nohz_full",
        "rcu_nocbs",
        "default_hugepagesz",
        "hugepagesz",
        "hugepages",
        "transparent_hugepage",
        "prot_virt",
        "mem_encrypt",
        "nested_pvm",
        "systemd.unified_cgroup_hierarchy",
        "cgroup_no_v1",
        "cgroup_disable",
        "pcie_acs_override",
        "l1tf",
        "tsx",
    }
)
_MODULES = ("kvm.", "kvm-", "kvm_", "vfio.", "vfio-", "vfio_")


@dataclass(eq=False, repr=False)
class Platform:
    """The machine as a place for a hypervisor to be; None is what could not be told."""

    machine: str | None
    kernel: str | None
    os: str | None
    os_version: str | None
    hypervisor: str | None = None  # "" on bare metal
    hypervisor_source: str | None = None
    virtualization_type: str | None = None  # none, full, para, container
    container: str | None = None  # "" outside of one
    xen_dom0: bool = False
    cmdline: list[tuple[str, str]] | None = field(default=None)
    clocksource: str | None = None

    @property
    def kernel_version(self) -> tuple[int, int] | None:
        """The first two numbers of the kernel's release."""
        match = re.match(r"(\d+)\.(\d+)", self.kernel or "")
        return (int(match.group(1)), int(match.group(2))) if match else None


def probe(
    root: str = "/", signature: str | None = None, hypervisor_flag: bool | None = None
) -> Platform:
    """Read what the machine under ``root`` is.

    ``signature`` is CPUID's word for the hypervisor underneath ("" for none, None if not read),
    ``hypervisor_flag`` whether cpuinfo shows the flag of that name (None where it has no flags).
    """
    kernel = word(root, "/proc/sys/kernel/osrelease")
    name, version = _os_release(text(root, "/etc/os-release") or "")
    cmdline = text(root, "/proc/cmdline")
    running = os.uname().machine if root == "/" else None  # before Linux 6.1
    platform = Platform(
        machine=word(root, "/proc/sys/kernel/arch") or running,
        kernel=kernel,
        os=name,
        os_version=version,
        container=_container(root, kernel),
        cmdline=None if cmdline is None else parse_cmdline(cmdline),
        clocksource=word(root, "/sys/devices/system/clocksource/clocksource0/current_clocksource"),
    )
    _hypervisor(root, platform, signature, hypervisor_flag)
    return platform


def parse_cmdline(content: str) -> list[tuple[str, str]]:
    """Return the parameters that bear on virtualization, in order; a bare one has the value ""."""
    found = []
    for part in re.findall(r'(?:[^\s"]|"[^"]*")+', content):
        if part == "--":  # what follows is init's
            break
        key, _, value = part.partition("=")
        if key in _PARAMETERS or key.startswith(_MODULES):
            found.append((key, value.strip('"')))
    return found


def _os_release(content: str) -> tuple[str | None, str | None]:
    fields: dict[str, str] = {}
    for line in content.splitlines():
        key, equals, value = line.partition("=")
        if equals:
            fields[key.strip()] = value.strip().strip("\"'")
    return fields.get("ID"), fields.get("VERSION_ID")


def _container(root: str, kernel: str | None) -> str | None:
    """Name the container the machine is, "" for none, None if not known."""
    if kernel is not None and "microsoft" in kernel.lower():
        return "wsl"
    if exists(root, "/proc/vz") and not exists(root, "/proc/bc"):
        return "openvz"
    # The mark of an image stays behind when it boots as a machine: the namespaces tell.
    namespaces = [target(root, f"/proc/self/ns/{name}") for name in _INITIAL]
    if namespaces == list(_INITIAL.values()):
        return ""
    return _container_mark(root)


def _container_mark(root: str) -> str | None:
    """Look for what container managers leave (systemd: Container Interface)."""
    for path, name in (("/.dockerenv", "docker"), ("/run/.containerenv", "podman")):
        if exists(root, path):
            return name
    stated = word(root, "/run/systemd/container")
    environment = text(root, "/proc/1/environ")
    match = re.search(r"(?:^|\0)container=([^\0]+)", environment or "")
    if stated or match:
        return stated or (match and match.group(1))
    return None if environment is None else ""


def _hypervisor(root: str, platform: Platform, signature: str | None, flag: bool | None) -> None:
    """Fill in what is underneath; the first source that knows it is believed."""
    name, source = _name(root, signature, flag)
    platform.hypervisor, platform.hypervisor_source = name, source
    capabilities = word(root, "/proc/xen/capabilities")
    if capabilities is not None and "control_d" in capabilities:
        platform.hypervisor, platform.hypervisor_source = "xen", "/proc/xen/capabilities"
        platform.xen_dom0 = True
    if platform.container:
        platform.virtualization_type = "container"
    elif platform.hypervisor == "":
        platform.virtualization_type = "none"
    elif platform.hypervisor == "xen":
        guest_type = word(root, "/sys/hypervisor/guest_type")
        para = guest_type in ("PV", "PVH") or (guest_type is None and not signature)
        platform.virtualization_type = "para" if para else "full"
    elif platform.hypervisor in ("powervm", "pseries"):
        platform.virtualization_type = "para"
    elif platform.hypervisor is not None:
        platform.virtualization_type = "full"


def _name(root: str, signature: str | None, flag: bool | None) -> tuple[str | None, str | None]:
    if signature:
        return _SIGNATURES.get(signature, signature.strip() or "unknown"), "CPUID leaf 0x40000000"
    if word(root, "/sys/hypervisor/type") == "xen" or exists(root, "/proc/xen"):
        return "xen", "/sys/hypervisor/type"
    for finder in (_device_tree, _sysinfo, _dmi):
        name, source = finder(root)
        if name is not None:
            # DMI names the maker of bare metal too, so it alone must not speak against the CPU.
            if finder is _dmi and signature == "" and flag is False:
                break
            return name, source
    if signature == "" and not flag:
        return "", "CPUID leaf 1"
    if flag:
        return "unknown", "/proc/cpuinfo"
    return ("", "/proc/cpuinfo") if flag is False else (None, None)


def _device_tree(root: str) -> tuple[str | None, str | None]:
    tree = "/proc/device-tree"
    compatible = word(root, f"{tree}/hypervisor/compatible")
    if compatible is not None:
        name = "kvm" if "linux,kvm" in compatible else "xen" if "xen" in compatible else compatible
        return name, f"{tree}/hypervisor/compatible"
    top = (text(root, f"{tree}/compatible") or "").split("\0")
    if "ibm,powernv" in top:
        return "", f"{tree}/compatible"
    if "qemu,pseries" in top:
        return "pseries", f"{tree}/compatible"
    if exists(root, f"{tree}/ibm,partition-name") and exists(root, f"{tree}/hmc-managed?"):
        return "powervm", f"{tree}/ibm,partition-name"
    return None, None


def _sysinfo(root: str) -> tuple[str | None, str | None]:
    """s390x: PR/SM is always underneath; a "Control Program" line names one between."""
    content = text(root, "/proc/sysinfo")
    if content is None:
        return None, None
    match = re.search(r"Control Program:\s*(\S+)", content)
    if match is None:
        return "pr/sm", "/proc/sysinfo"
    return ("kvm" if match.group(1).startswith("KVM") else match.group(1).lower()), "/proc/sysinfo"


def _dmi(root: str) -> tuple[str | None, str | None]:
    folder = "/sys/class/dmi/id"
    for name in ("product_name", "sys_vendor", "board_vendor", "bios_vendor"):
        value = word(root, f"{folder}/{name}") or ""
        if ".metal" in value:  # instance types without a hypervisor
            return None, None
        for part, hypervisor in _DMI:
            if part in value:
                return hypervisor, f"{folder}/{name}"
    return None, None
