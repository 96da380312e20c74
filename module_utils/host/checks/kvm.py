# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks of KVM itself: its module, its device, and what it did when it was asked for a VM."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..check import Check, Finding, failed, info, levels, passed, some, unknown, warned
from ..features import FEATURES

if TYPE_CHECKING:
    from ..observe import Host

_NOT_ASKED = "the KVM of another root is not asked"
API_VERSION = 12  # Documentation/virt/kvm/api.rst: it never changes
_NEEDED = ("user_memory", "irqfd", "ioeventfd", "immediate_exit")
_NEEDED_X86 = (
    "set_tss_addr",
    "set_identity_map_addr",
    "irqchip",
    "pit2",
    "ext_cpuid",
    "mp_state",
    "signal_msi",
)


def module(host: Host) -> Finding:
    """Look for the module that drives this processor."""
    modules = host.modules
    if not modules.readable:
        return unknown("/sys/module cannot be listed")
    if not host.x86:
        return _module_elsewhere(host)
    if modules.vendor_module is not None:
        return passed(modules.vendor_module)
    wanted = {"intel": "kvm_intel", "amd": "kvm_amd"}.get(host.vendor, "kvm_intel or kvm_amd")
    found = "kvm is loaded, but no module for this CPU" if "kvm" in modules.loaded else "not loaded"
    return failed(found, wanted, *_module_remedies(host, wanted))


def _module_elsewhere(host: Host) -> Finding:
    """Other architectures have KVM in one piece, but for POWER."""
    loaded = host.modules.vendor_module
    if host.cpuinfo.architecture == "ppc64":
        if loaded == "kvm_hv":
            return passed(loaded)
        return warned(loaded or "kvm_hv is not loaded", "kvm_hv", "modprobe kvm_hv")
    if "kvm" in host.modules.loaded or host.kvm_works:
        return passed("kvm")
    return unknown("no kvm under /sys/module: it may be built in without parameters")


def _module_remedies(host: Host, wanted: str) -> tuple[str, ...]:
    if not host.flag:
        return ()  # it cannot load before the CPU's own checks pass
    if wanted in host.modules.blacklisted:
        return (f"remove {wanted} from {host.modules.blacklisted[wanted]}, then modprobe {wanted}",)
    if host.modules.available.get(wanted) is False:
        kernel = f"{host.platform.kernel} has none (a cloud or minimal kernel?)"
        return (f"install a kernel with {wanted} and boot it: {kernel}",)
    return (f"modprobe {wanted}; if it fails, the kernel log says why (dmesg)",)


def device(host: Host) -> Finding:
    """Look for /dev/kvm."""
    if host.devices.kvm:
        return passed("/dev/kvm")
    if not host.devices.readable:
        return unknown("there is no /dev to look into")
    remedies: tuple[str, ...] = ()
    if host.modules.vendor_module is not None:
        remedies = (
            "give this container the device /dev/kvm"
            if host.platform.container
            else "mknod /dev/kvm c 10 232, or start udev: the module is there, its device is not",
        )
    elif host.platform.xen_dom0:
        remedies = ("boot the kernel without Xen: its domain 0 cannot run KVM",)
    elif host.platform.container:
        remedies = ("load the module outside of this container and give it the device /dev/kvm",)
    return failed("no /dev/kvm", "/dev/kvm", *remedies)


def access(host: Host) -> Finding:
    """See whether this user may open the device for reading and writing."""
    kvm = host.kvm
    if kvm is None:
        return unknown(_NOT_ASKED)
    if not kvm["present"]:
        return failed("no /dev/kvm to open", "read and write")
    if kvm["permitted"] is None:
        return unknown(kvm["error"] or "it was not tried")
    if kvm["permitted"]:
        return passed("read and write")
    return failed(
        "this user may not open /dev/kvm",
        "read and write",
        "run as root (become: true), or add the user to the group kvm",
    )


def api(host: Host) -> Finding:
    """See the version of the interface; 12 is the only one there ever was."""
    kvm = host.kvm
    if kvm is None:
        return unknown(_NOT_ASKED)
    version = kvm["api_version"]
    if version == API_VERSION:
        return passed(str(version))
    if version is not None:
        return failed(str(version), str(API_VERSION), "boot the kernel of a current distribution")
    if kvm["present"] and kvm["permitted"]:
        return failed(kvm["error"] or "no answer", str(API_VERSION), *_answer_remedies(host))
    return unknown(kvm["error"] or "/dev/kvm was not opened")


def _answer_remedies(host: Host) -> tuple[str, ...]:
    """Say nothing of a node without its module (ENODEV): the module's check does."""
    if host.modules.vendor_module is None and host.x86:
        return ()
    return ("let the device cgroup of this session have /dev/kvm, and stop other hypervisors",)


def machine(host: Host) -> Finding:
    """See whether a VM was really created."""
    kvm = host.kvm
    if kvm is None:
        return unknown(_NOT_ASKED)
    if kvm["vm_created"]:
        return passed("created and closed")
    if kvm["api_version"] is None:
        return unknown("not tried: " + (kvm["error"] or "/dev/kvm was not opened"))
    return failed(
        kvm["error"] or "KVM refused",
        "a VM is created",
        "stop other hypervisors that hold the CPU (VirtualBox, VMware), and look at the kernel log",
    )


def capabilities(host: Host) -> Finding:
    """Compare KVM's capabilities with what guests need."""
    found = _capabilities(host)
    if not found:
        return unknown(_NOT_ASKED if host.kvm is None else "KVM was not asked: " + _error(host))
    needed = _NEEDED + (_NEEDED_X86 if host.x86 else ())
    missing = tuple(name for name in needed if not found.get(name))
    if missing:
        return warned(f"missing: {some(missing)}", "all of them", "boot a newer kernel")
    return passed(f"all {len(needed)} that guests need, {sum(map(bool, found.values()))} in total")


def execution(host: Host) -> Finding | None:
    """See how privileged code of a guest runs: on the CPU, or instruction by instruction."""
    if not host.x86:
        return None
    ring0 = "unknown" if host.kvm is None else host.kvm["ring0"]
    if ring0 == "native":
        return passed("on the CPU")
    if ring0 == "emulated":
        return warned(
            "ring 0 is emulated, user code runs on the CPU",
            "on the CPU",
            "for stock kernels use a host (or an instance type) with VT-x or AMD-V",
        )
    return unknown(_NOT_ASKED if host.kvm is None else "no guest was run: " + _error(host))


def limits(host: Host) -> Finding:
    """Say how large a guest may be."""
    found = _capabilities(host)
    if not found:
        return unknown(_NOT_ASKED if host.kvm is None else "KVM was not asked: " + _error(host))
    most = found.get("max_vcpus") or found.get("nr_vcpus") or 4
    slots = found.get("nr_memslots") or 32
    return info(
        f"{most} vCPUs a guest ({found.get('nr_vcpus', 4)} recommended), {slots} memory slots"
    )


def _capabilities(host: Host) -> dict[str, int]:
    known: dict[str, Any] = (host.kvm or {}).get("capabilities") or {}
    return known.get("vm") or known.get("system") or {}


def _error(host: Host) -> str:
    return str((host.kvm or {}).get("error") or "no reason given")


def has_virtualization(host: Host) -> bool:
    """Whether there is hardware virtualization whose features could be told."""
    raw = host.registers.vmx if host.intel else host.registers.svm
    return host.flag or any(raw.values()) or host.modules.vendor_module in ("kvm_intel", "kvm_amd")


def feature(name: str, host: Host) -> Finding | None:
    """Say of one feature: hardware has it, module has it on."""
    state = host.features.get(name) if has_virtualization(host) else None
    if state is None:
        return None
    raise_to = warned if state.wanted else None
    if state.state == "on":
        return passed("on")
    if state.state == "off":
        where = "in /etc/modprobe.d/kvm.conf, then reload the module while no guest runs"
        remedy = f"{state.option} {where}"
        found = f"the hardware has it, the module has it off ({state.parameter})"
        return raise_to(found, "on", remedy) if raise_to else info(found, remedy)
    if state.state == "absent":
        found = "the hardware does not have it"
        return raise_to(found, "on", *_absent(host)) if raise_to else info(found)
    if state.hardware:
        return unknown("the hardware has it; the module is not loaded, or does not say")
    return unknown(
        "neither CPU registers nor the kernel tell",
        "as root: modprobe msr, and run the check again",
    )


def _absent(host: Host) -> tuple[str, ...]:
    if host.platform.hypervisor:
        return (f"let the hypervisor underneath ({host.platform.hypervisor}) pass it on",)
    return ("use a newer CPU",)


def _feature_checks() -> tuple[Check, ...]:
    """Make one check a name: vendors that have the same feature share it."""
    titles: dict[str, tuple[str, bool]] = {}
    for row in FEATURES:
        title, wanted = titles.get(row.name, (row.title, False))
        titles[row.name] = (
            title.split(" (")[0] if row.name in titles else title,
            wanted or row.wanted,
        )
    return tuple(
        Check(
            f"feature.{name}",
            title,
            "/dev/cpu/0/msr, /dev/cpu/0/cpuid, /proc/cpuinfo, /sys/module/kvm_*/parameters",
            levels("pass warn unknown" if wanted else "pass info unknown"),
            # A default argument keeps the name of this turn of the loop.
            lambda host, name=name: feature(name, host),  # type: ignore[misc]
            limit=f"guests go without: {title}" if wanted else "",
        )
        for name, (title, wanted) in titles.items()
    )


_DEVICE = "/dev/kvm (ioctl)"
CHECKS = (
    Check(
        "kvm.module",
        "KVM module",
        "/sys/module, /lib/modules, /etc/modprobe.d",
        levels("pass warn fail unknown"),
        module,
        limit="guests run slower",
    ),
    Check("kvm.device", "KVM device", "/dev/kvm", levels("pass fail unknown"), device, vital=True),
    Check("kvm.access", "KVM device accessible", "/dev/kvm", levels("pass fail unknown"), access),
    Check("kvm.api", "KVM interface version", _DEVICE, levels("pass fail unknown"), api),
    Check(
        "kvm.vm", "A VM can be created", _DEVICE, levels("pass fail unknown"), machine, vital=True
    ),
    Check(
        "kvm.capabilities",
        "KVM capabilities",
        _DEVICE,
        levels("pass warn unknown"),
        capabilities,
        limit="some guests do not run",
    ),
    Check(
        "kvm.execution",
        "Privileged guest code",
        _DEVICE,
        levels("pass warn unknown"),
        execution,
        limit="stock kernels do not boot",
    ),
    Check("kvm.limits", "Largest guest", _DEVICE, levels("info unknown"), limits),
)
FEATURE_CHECKS = _feature_checks()
