# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks of what devices of guests need: IOMMU, VFIO, SR-IOV, vhost, tun."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..check import Check, Finding, failed, info, levels, passed, some, unknown, warned

if TYPE_CHECKING:
    from ..observe import Host
    from ..probes.pci import NetDevice

_NO_DEV = "there is no /dev to look into"
_TABLES = {"intel": "DMAR", "amd": "IVRS", "arm": "IORT"}
_BOOT = {"DMAR": "intel_iommu=on iommu=pt", "IVRS": "iommu=pt"}


def _table(host: Host) -> str | None:
    """Return the ACPI table that would announce an IOMMU here; None where ACPI has no say."""
    return _TABLES.get(host.vendor if host.x86 else host.cpuinfo.architecture or "")


def iommu_hardware(host: Host) -> Finding | None:
    """Look for the firmware's table of the IOMMU."""
    if host.cpuinfo.architecture in ("ppc64", "s390x"):
        # s390x often has no PCI at all, and then no need of it (virt-host-validate skips it too).
        without_pci = host.cpuinfo.architecture == "s390x" and not host.pci.count
        return None if without_pci else passed("part of the platform")
    iommu, table = host.pci.iommu, _table(host)
    if table is not None and table in (iommu.tables or ()):
        return passed(f"ACPI table {table}")
    if iommu.groups:
        return passed(f"{iommu.groups} groups, without an ACPI table")
    if table is None:
        return unknown("it is not known which table announces an IOMMU on this CPU")
    if iommu.tables is None:
        return unknown("/sys/firmware/acpi/tables cannot be listed")
    return _no_table(host, table)


def _no_table(host: Host, table: str) -> Finding:
    below = host.platform.hypervisor
    if below:
        remedy = f"let the hypervisor underneath ({below}) give this machine a virtual IOMMU"
    else:
        name = {"DMAR": "VT-d", "IVRS": "AMD IOMMU (AMD-Vi)"}.get(table, "the SMMU")
        remedy = f"enable {name} in the firmware setup"
    return warned(f"no ACPI table {table}", f"ACPI table {table}", remedy)


def iommu_enabled(host: Host) -> Finding | None:
    """See whether the kernel uses the IOMMU: then it has groups."""
    iommu = host.pci.iommu
    if iommu.groups is None:
        return unknown("no /sys/kernel/iommu_groups (a kernel without IOMMU support)")
    if iommu.groups:
        return passed(
            f"{iommu.groups} groups, {iommu.devices} devices, largest group {iommu.largest_group}"
        )
    if host.x86 and not iommu.tables:
        return None  # nothing to enable: the hardware's check says it
    stated = dict(host.platform.cmdline or [])
    for name in ("iommu", "intel_iommu", "amd_iommu"):
        if stated.get(name) == "off":
            return warned(
                f"off ({name}=off)", "on", f"drop {name}=off from the kernel command line"
            )
    add = _BOOT.get(_table(host) or "")
    if add is None:
        return warned("no groups", "on", "boot a kernel with the driver of this platform's IOMMU")
    return warned("no groups", "on", f"add {add} to the kernel command line and reboot")


def interrupt_remapping(host: Host) -> Finding | None:
    """Without it a guest with a device could raise any interrupt on the host."""
    iommu = host.pci.iommu
    if not host.x86 or not iommu.groups:
        return None
    if dict(host.platform.cmdline or []).get("intremap") == "off":
        return warned("off (intremap=off)", "on", "drop intremap=off from the kernel command line")
    if iommu.interrupt_remapping is None:
        return unknown("the remapping units under /sys/class/iommu do not tell")
    if iommu.interrupt_remapping:
        posted = ", posted interrupts" if iommu.posted_interrupts else ""
        return passed(f"every unit has it{posted}")
    return warned(
        "not on every remapping unit",
        "on every unit",
        "use a machine whose chipset has it; allow_unsafe_interrupts gives guests a way out",
    )


def vfio(host: Host) -> Finding:
    """Look for the driver that hands devices to guests."""
    if not host.devices.readable:
        return unknown(_NO_DEV)
    if host.devices.vfio or "vfio_pci" in host.modules.loaded:
        return passed(f"ready, {host.devices.vfio_groups} groups in use")
    return info("not loaded (libvirt loads it with the first device)", "modprobe vfio-pci")


def sriov(host: Host) -> Finding:
    """List devices that can split into virtual functions."""
    if host.pci.devices is None:
        return unknown("/sys/bus/pci/devices cannot be listed")
    able = [device for device in host.pci.devices if device.total_vfs]
    if not able:
        return info("no device with virtual functions")
    listed = tuple(
        f"{one.address} {one.active_vfs or 0} of {one.total_vfs} ({one.driver or 'no driver'})"
        for one in able
    )
    return info(some(listed, 4))


def net_queues(host: Host) -> Finding:
    """List the queues of network hardware; VMDq pools are told by no driver."""
    if host.pci.nets is None:
        return unknown("/sys/class/net cannot be listed")
    if not host.pci.nets:
        return info("no network hardware")
    return info(some(tuple(_net(net) for net in host.pci.nets), 4))


def _net(net: NetDevice) -> str:
    most = (net.channels or {}).get("max_combined") or (net.channels or {}).get("max_rx")
    possible = f" of {most}" if most else ""
    return (
        f"{net.name} {net.rx_queues}{possible} rx, {net.tx_queues} tx ({net.driver or 'no driver'})"
    )


def vhost_net(host: Host) -> Finding:
    """Look for the kernel's own back end of virtio networks."""
    if not host.devices.readable:
        return unknown(_NO_DEV)
    if host.devices.vhost_net:
        return passed("/dev/vhost-net")
    return warned("no /dev/vhost-net", "/dev/vhost-net", "modprobe vhost_net")


def vhost_vsock(host: Host) -> Finding:
    """Look for sockets between host and guests."""
    if not host.devices.readable:
        return unknown(_NO_DEV)
    if host.devices.vhost_vsock:
        return passed("/dev/vhost-vsock")
    return info("no /dev/vhost-vsock", "modprobe vhost_vsock")


def tun(host: Host) -> Finding:
    """Look for the device that guests' network interfaces are made of."""
    if not host.devices.readable:
        return unknown(_NO_DEV)
    if host.devices.tun:
        return passed("/dev/net/tun")
    return failed("no /dev/net/tun", "/dev/net/tun", "modprobe tun")


def secure_guests(host: Host) -> Finding:
    """See whether guests can be encrypted against the host."""
    secure = host.secure
    if host.cpuinfo.architecture == "s390x":
        return _secure_execution(host)
    if not host.cpuinfo.readable:
        return unknown("/proc/cpuinfo cannot be read")
    if "sev" in host.cpuinfo.flags and not secure.tdx:
        return _sev(host)
    if secure.tdx:
        return passed("TDX")
    return info("this CPU shows none (SEV, TDX)")


def _sev(host: Host) -> Finding:
    """Follow SEV from the flag to the module to the device, as virt-host-validate does."""
    secure = host.secure
    if secure.sev is None:
        found = "the CPU has SEV, the running kernel does not offer it"
        return warned(found, "SEV", "modprobe kvm_amd")
    if not secure.sev:
        remedy = "options kvm_amd sev=1 in /etc/modprobe.d/kvm.conf, then reload the module"
        return warned("the CPU has SEV, kvm_amd has it off", "SEV", remedy)
    if not host.devices.sev:
        remedy = "enable SEV (SMEE, SEV ASID space) in the firmware setup"
        return warned("no /dev/sev", "/dev/sev", remedy)
    more = {"SEV-ES": secure.sev_es, "SEV-SNP": secure.sev_snp}
    return passed(", ".join(["SEV", *(name for name, on in more.items() if on)]))


def _secure_execution(host: Host) -> Finding:
    """IBM Secure Execution: facility 158, the ultravisor, and prot_virt on the command line."""
    if "158" not in host.cpuinfo.facilities:
        return info("this machine has no Secure Execution (facility 158)")
    if not host.secure.ultravisor:
        return warned(
            "no /sys/firmware/uv",
            "Secure Execution",
            "boot a kernel that has Secure Execution",
        )
    stated = dict(host.platform.cmdline or []).get("prot_virt", "")
    if stated[:1].lower() in ("1", "y") or stated[:2].lower() == "on":
        return passed("Secure Execution")
    return warned(
        "prot_virt is not set",
        "prot_virt=1",
        "add prot_virt=1 to the kernel command line and reboot",
    )


CHECKS = (
    Check(
        "iommu.hardware",
        "IOMMU in the firmware",
        "/sys/firmware/acpi/tables (DMAR, IVRS, IORT)",
        levels("pass warn unknown"),
        iommu_hardware,
        limit="no device of the host can be given to a guest",
    ),
    Check(
        "iommu.enabled",
        "IOMMU in the kernel",
        "/sys/kernel/iommu_groups, /proc/cmdline",
        levels("pass warn unknown"),
        iommu_enabled,
        limit="no device of the host can be given to a guest",
    ),
    Check(
        "iommu.interrupt_remapping",
        "Interrupt remapping",
        "/sys/class/iommu/*/intel-iommu/ecap",
        levels("pass warn unknown"),
        interrupt_remapping,
        limit="guests with devices are not isolated",
    ),
    Check(
        "device.vfio",
        "Device assignment (VFIO)",
        "/dev/vfio, /sys/module",
        levels("pass info unknown"),
        vfio,
    ),
    Check(
        "sriov.devices",
        "Virtual functions (SR-IOV)",
        "/sys/bus/pci/devices",
        levels("info unknown"),
        sriov,
    ),
    Check(
        "net.queues",
        "Network queues",
        "/sys/class/net, ethtool",
        levels("info unknown"),
        net_queues,
    ),
    Check(
        "device.vhost_net",
        "vhost-net",
        "/dev/vhost-net",
        levels("pass warn unknown"),
        vhost_net,
        limit="slower guest networks",
    ),
    Check(
        "device.vhost_vsock",
        "vhost-vsock",
        "/dev/vhost-vsock",
        levels("pass info unknown"),
        vhost_vsock,
    ),
    Check(
        "device.tun",
        "Guest network interfaces (tun)",
        "/dev/net/tun",
        levels("pass fail unknown"),
        tun,
    ),
    Check(
        "secure.guests",
        "Encrypted guests",
        "/proc/cpuinfo, /sys/module/kvm_*/parameters, /dev/sev, /sys/firmware/uv, /proc/cmdline",
        levels("pass warn info unknown"),
        secure_guests,
        limit="no encrypted guests",
    ),
)
