# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks of the system around KVM: what it runs in, its kernel, control groups, software."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..check import Check, Finding, info, levels, passed, some, unknown, warned
from ..probes.cgroups import CONTROLLERS

if TYPE_CHECKING:
    from ..observe import Host

OLDEST_KERNEL = (5, 14)  # of the supported distributions: EL 9
# What stands in the way of guests or of their devices.
_IN_THE_WAY = {
    ("iommu", "off"),
    ("intel_iommu", "off"),
    ("amd_iommu", "off"),
    ("intremap", "off"),
    ("nox2apic", ""),
    ("noapic", ""),
    ("nolapic", ""),
    ("acpi", "off"),
    ("mitigations", "off"),
    ("maxcpus", "1"),
}


def hypervisor(host: Host) -> Finding:
    """Say what is underneath: nothing, or a hypervisor that must pass virtualization on."""
    platform = host.platform
    if platform.hypervisor is None:
        return unknown("neither CPUID, DMI nor the device tree tell", "as root: modprobe cpuid")
    if not platform.hypervisor:
        return passed("bare metal")
    if platform.xen_dom0:
        return warned(
            "the control domain (domain 0) of Xen",
            "Linux without Xen underneath",
            "boot the kernel without Xen: its domain 0 cannot run KVM",
        )
    kind = "paravirtualized" if platform.virtualization_type == "para" else "nested"
    return info(f"{kind}: this machine is a guest of {platform.hypervisor}")


def container(host: Host) -> Finding:
    """Modules, devices and limits of a container are made outside of it."""
    name = host.platform.container
    if name is None:
        return unknown("the namespaces and environment of process 1 cannot be read", "run as root")
    if not name:
        return passed("none")
    remedy = (
        "set nestedVirtualization=true in .wslconfig, or use a machine that runs Linux itself"
        if name == "wsl"
        else "run on the host of the container"
    )
    return warned(name, "none", remedy)


def kernel(host: Host) -> Finding:
    """Compare the kernel with the oldest of the supported distributions."""
    version = host.platform.kernel_version
    if version is None:
        return unknown("/proc/sys/kernel/osrelease cannot be read")
    if version >= OLDEST_KERNEL:
        return passed(str(host.platform.kernel))
    oldest = "{}.{}".format(*OLDEST_KERNEL)
    return warned(str(host.platform.kernel), f"{oldest} or newer", "upgrade the distribution")


def distribution(host: Host) -> Finding:
    """Name the distribution."""
    if host.platform.os is None:
        return unknown("/etc/os-release cannot be read")
    return info(f"{host.platform.os} {host.platform.os_version or ''}".strip())


def cmdline(host: Host) -> Finding:
    """List the kernel's parameters that bear on virtualization, those in the way first."""
    stated = host.platform.cmdline
    if stated is None:
        return unknown("/proc/cmdline cannot be read")
    bad = tuple(_parameter(pair) for pair in stated if pair in _IN_THE_WAY)
    if bad:
        return warned(some(bad), "none of these", f"drop {some(bad)} from the kernel command line")
    return info(some(tuple(map(_parameter, stated))) or "nothing that bears on virtualization")


def _parameter(pair: tuple[str, str]) -> str:
    return "=".join(filter(None, pair))


def qemu(host: Host) -> Finding:
    """Say which QEMU is installed."""
    return _version(host.software.qemu)


def libvirt(host: Host) -> Finding:
    """Say which libvirt is installed."""
    daemon = host.software.libvirt_daemon
    found = _version(host.software.libvirt)
    if host.software.libvirt and daemon:
        return info(f"{host.software.libvirt} ({daemon} daemon)")
    if host.software.libvirt:
        return info(f"{host.software.libvirt} (library alone, no daemon)")
    return found


def _version(version: str | None) -> Finding:
    if version is None:
        return unknown("installed, but its version could not be read")
    return info(version or "not installed (guests of the bundled helper do not need it)")


def cgroup_version(host: Host) -> Finding:
    """Say which hierarchies are mounted."""
    words = {"hybrid": "v1 and v2 at once", "none": "nothing mounted"}
    version = host.cgroups.version
    return (
        unknown("/proc/mounts cannot be read")
        if version is None
        else info(words.get(version, version))
    )


def controller(name: str, host: Host) -> Finding:
    """See whether a controller is there, as libvirt counts it."""
    where = host.cgroups.controllers.get(name)
    if where:
        return passed(where)
    if where is None:
        return unknown(
            "/proc/mounts cannot be read"
            if host.cgroups.version is None
            else "the kernel did not tell whether it takes device programs (root only)"
        )
    remedy = f"mount it, or boot a kernel with it and without cgroup_disable={name}"
    return warned("not there", "v1 or v2", remedy)


def _controller_checks() -> tuple[Check, ...]:
    return tuple(
        Check(
            f"cgroup.{name}",
            f"Control group {name}",
            "/proc/mounts, cgroup.controllers" + (", bpf(2)" if name == "devices" else ""),
            levels("pass warn unknown"),
            # A default argument keeps the name of this turn of the loop.
            lambda host, name=name: controller(name, host),  # type: ignore[misc]
            limit=f"libvirt cannot use the control group {name}",
        )
        for name in CONTROLLERS
    )


CHECKS = (
    Check(
        "platform.hypervisor",
        "Runs on",
        "/dev/cpu/0/cpuid, /sys/hypervisor, /proc (xen, device-tree, sysinfo), /sys/class/dmi",
        levels("pass warn info unknown"),
        hypervisor,
        limit="KVM does not run in domain 0 of Xen",
    ),
    Check(
        "platform.container",
        "Container",
        "/proc/self/ns, /proc/1/environ, /run/systemd/container, /.dockerenv, /proc/vz",
        levels("pass warn unknown"),
        container,
        limit="modules and devices are not this machine's to set",
    ),
    Check(
        "platform.kernel",
        "Kernel",
        "/proc/sys/kernel/osrelease",
        levels("pass warn unknown"),
        kernel,
        limit="an old kernel: features and fixes of KVM are missing",
    ),
    Check("platform.os", "Distribution", "/etc/os-release", levels("info unknown"), distribution),
    Check(
        "platform.cmdline",
        "Kernel command line",
        "/proc/cmdline",
        levels("warn info unknown"),
        cmdline,
        limit="the kernel was told to leave something off",
    ),
    Check("software.qemu", "QEMU", "/var/lib/dpkg, qemu --version", levels("info unknown"), qemu),
    Check("software.libvirt", "libvirt", "libvirt.so.0", levels("info unknown"), libvirt),
    Check(
        "cgroup.version", "Control groups", "/proc/mounts", levels("info unknown"), cgroup_version
    ),
    *_controller_checks(),
)
