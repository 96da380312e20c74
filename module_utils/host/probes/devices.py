# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Device nodes that guests' devices lean on, and what the machine has for encrypted guests."""

from __future__ import annotations

from dataclasses import dataclass

from ..source import exists, names, number, switch, word


@dataclass(eq=False, repr=False)
class Devices:
    """Device nodes; ``readable`` is false where there is no /dev at all."""

    readable: bool
    kvm: bool = False
    vhost_net: bool = False
    vhost_vsock: bool = False
    tun: bool = False
    vfio: bool = False
    sev: bool = False
    vfio_groups: int = 0


@dataclass(eq=False, repr=False)
class Secure:
    """SEV, TDX and Secure Execution as the running modules have them; None: not told."""

    sev: bool | None = None
    sev_es: bool | None = None
    sev_snp: bool | None = None
    tdx: bool | None = None
    ultravisor: bool = False  # s390x: /sys/firmware/uv


@dataclass(eq=False, repr=False)
class Cpus:
    """Threads and weaknesses of the processor (/sys/devices/system/cpu)."""

    smt: str | None  # on, off, forceoff, notsupported, notimplemented
    smt_active: bool | None
    online: str | None
    core_types: str | None  # hybrid x86: which CPUs are performance cores
    vulnerabilities: dict[str, str] | None


def probe(root: str = "/") -> Devices:
    """Read which device nodes the machine under ``root`` has."""
    if not exists(root, "/dev"):
        return Devices(readable=False)
    return Devices(
        readable=True,
        kvm=exists(root, "/dev/kvm"),
        vhost_net=exists(root, "/dev/vhost-net"),
        vhost_vsock=exists(root, "/dev/vhost-vsock"),
        tun=exists(root, "/dev/net/tun"),
        vfio=exists(root, "/dev/vfio/vfio"),
        sev=exists(root, "/dev/sev"),
        vfio_groups=sum(name.isdigit() for name in names(root, "/dev/vfio") or []),
    )


def probe_secure(root: str = "/") -> Secure:
    """Read which kinds of encrypted guests the modules under ``root`` offer."""
    amd, intel = "/sys/module/kvm_amd/parameters", "/sys/module/kvm_intel/parameters"
    return Secure(
        sev=switch(word(root, f"{amd}/sev")),
        sev_es=switch(word(root, f"{amd}/sev_es")),
        sev_snp=switch(word(root, f"{amd}/sev_snp")),
        tdx=switch(word(root, f"{intel}/tdx")),
        ultravisor=exists(root, "/sys/firmware/uv"),
    )


def probe_cpus(root: str = "/") -> Cpus:
    """Read what the kernel says of threads, hybrid cores and weaknesses."""
    folder = "/sys/devices/system/cpu"
    active = number(root, f"{folder}/smt/active")
    found = names(root, f"{folder}/vulnerabilities")
    weak = None
    if found is not None:
        read = {name: word(root, f"{folder}/vulnerabilities/{name}") for name in found}
        weak = {name: value for name, value in read.items() if value is not None}
    return Cpus(
        smt=word(root, f"{folder}/smt/control"),
        smt_active=None if active is None else active == 1,
        online=word(root, f"{folder}/online"),
        core_types=word(root, "/sys/devices/cpu_core/cpus"),
        vulnerabilities=weak,
    )
