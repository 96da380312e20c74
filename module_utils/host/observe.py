# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""All probes of one machine, read in one go: what runs on a host."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Callable, Dict

from .probes import cgroups, cpuinfo, devices, memory, modules, pci, platform, registers, software
from .source import at, plain

if TYPE_CHECKING:
    from .features import State
    from .probes.cgroups import Cgroups
    from .probes.cpuinfo import Cpuinfo
    from .probes.devices import Cpus, Devices, Secure
    from .probes.memory import Memory
    from .probes.modules import Modules
    from .probes.pci import Pci
    from .probes.platform import Platform
    from .probes.registers import Registers
    from .probes.software import Software

# Zhaoxin (Centaur, Shanghai) has Intel's extension, Hygon AMD's.
_VENDORS = {
    "GenuineIntel": "intel",
    "CentaurHauls": "intel",
    "Shanghai": "intel",
    "AuthenticAMD": "amd",
    "HygonGenuine": "amd",
}

KvmProbe = Callable[[], Dict[str, Any]]

UDEV_PATIENCE = 60.0


@dataclass(eq=False, repr=False)
class Host:
    """What every probe found; ``kvm`` is the helper's own view, None where it was not asked.

    ``features`` are derived from the probes by whoever judges them (readiness.py).
    """

    cpuinfo: Cpuinfo
    registers: Registers
    platform: Platform
    modules: Modules
    cpus: Cpus
    memory: Memory
    pci: Pci
    cgroups: Cgroups
    devices: Devices
    secure: Secure
    software: Software
    kvm: dict[str, Any] | None = None
    features: dict[str, State] = field(default_factory=dict)

    @property
    def x86(self) -> bool:
        """Whether the x86 checks apply."""
        return self.cpuinfo.architecture == "x86"

    @property
    def vendor(self) -> str:
        """Whose virtualization this CPU would have: intel (VMX), amd (SVM), "" for neither."""
        return _VENDORS.get((self.cpuinfo.vendor or self.registers.vendor or "").strip(), "")

    @property
    def intel(self) -> bool:
        """Whether VMX is what this CPU would have."""
        return self.vendor == "intel"

    @property
    def amd(self) -> bool:
        """Whether SVM is what this CPU would have."""
        return self.vendor == "amd"

    @property
    def extension(self) -> str:
        """What the maker calls the feature, for messages."""
        return "VT-x" if self.intel else "AMD-V" if self.amd else "VT-x or AMD-V"

    @property
    def flag(self) -> bool:
        """Whether every CPU shows the flag of hardware virtualization in /proc/cpuinfo."""
        return bool(self.cpuinfo.flags & {"vmx", "svm", "sie"})

    @property
    def kvm_works(self) -> bool:
        """Whether a VM was really created."""
        return self.kvm is not None and bool(self.kvm.get("vm_created"))


def wait_for_kvm(root: str = "/", patience: float = UDEV_PATIENCE) -> bool:
    """Wait while /dev/kvm is missing and udev brings up devices; say whether it is there.

    A host answers over SSH before udev has loaded all modules, which a slow device can hold up.
    ``patience`` is in seconds. ``/run/udev/queue`` is what udevadm-settle(8) looks at.
    """
    give_up = time.monotonic() + patience
    while not os.path.exists(at(root, "/dev/kvm")):
        if not os.path.exists(at(root, "/run/udev/queue")) or time.monotonic() > give_up:
            return False
        time.sleep(0.1)
    return True


def observe(root: str = "/", kvm_probe: KvmProbe | None = None) -> Host:
    """Read the machine under ``root``; ``kvm_probe`` is asked where given."""
    cpu = cpuinfo.probe(root)
    raw = registers.probe(root)
    flag = cpu.hypervisor if cpu.architecture == "x86" else None
    return Host(
        cpuinfo=cpu,
        registers=raw,
        platform=platform.probe(root, raw.hypervisor, flag),
        modules=modules.probe(root),
        cpus=devices.probe_cpus(root),
        memory=memory.probe(root),
        pci=pci.probe(root),
        cgroups=cgroups.probe(root),
        devices=devices.probe(root),
        secure=devices.probe_secure(root),
        software=software.probe(root),
        kvm=None if kvm_probe is None else kvm_probe(),
    )


def to_dict(host: Host) -> dict[str, Any]:
    """Return the probes as plain values, as they travel from the host to where they are judged."""
    result: dict[str, Any] = plain(host)
    del result["features"]
    return result
