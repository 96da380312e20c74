# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""From what the probes found on a host to checks and a verdict.

Probing runs on the host and is kept small: Ansible ships its source with every call, and Python's
zipimport compiles all of it, twice. Judging is pure and runs on the controller.
"""

from __future__ import annotations

from typing import Any, Mapping, Sequence

from .checks import CHECKS, run
from .checks.require import check_names, required
from .features import states
from .observe import Host
from .probes import cgroups, cpuinfo, devices, memory, modules, pci, platform, registers, software
from .probes.vmxcap import decode
from .source import plain
from .verdict import judge

_LIMITS = {check.id: check.limit for check in CHECKS}
_VITAL = [check.id for check in CHECKS if check.vital]


def assess(
    data: Mapping[str, Any], ignore: Sequence[str] = (), require: Sequence[str] = ()
) -> dict[str, Any]:
    """Return ``host``, ``checks`` and ``verdict`` for the probes' plain values.

    ``host`` gets the state of every processor feature and the decoded VMX capabilities:
    ``vmx.hardware`` is what the processor has, ``vmx.guest`` what KVM could give to a guest.
    Raises InputError for names that no check and no feature has.
    """
    check_names(ignore, require)
    host = restore(data)
    results = [*run(host, ignore), *required(host, require)]
    given = (host.kvm or {}).get("feature_msrs", {})
    derived = {
        "features": plain(host.features),
        "vmx": {
            "hardware": decode(host.registers.msr),
            "guest": decode({int(index, 16): value for index, value in given.items()}),
        },
    }
    return {
        "host": {**data, **derived},
        "checks": results,
        "verdict": judge(results, _LIMITS, _VITAL),
    }


def restore(data: Mapping[str, Any]) -> Host:
    """Return the host whose plain values ``data`` holds, with its features derived."""
    host = Host(
        cpuinfo=_cpuinfo(data["cpuinfo"]),
        registers=_registers(data["registers"]),
        platform=_platform(data["platform"]),
        modules=modules.Modules(**{**data["modules"], "loaded": tuple(data["modules"]["loaded"])}),
        cpus=devices.Cpus(**data["cpus"]),
        memory=_memory(data["memory"]),
        pci=_pci(data["pci"]),
        cgroups=cgroups.Cgroups(**data["cgroups"]),
        devices=devices.Devices(**data["devices"]),
        secure=devices.Secure(**data["secure"]),
        software=software.Software(**data["software"]),
        kvm=data["kvm"],
    )
    host.features = states(host.cpuinfo, host.registers, host.modules, host.vendor)
    return host


def _cpuinfo(data: Mapping[str, Any]) -> cpuinfo.Cpuinfo:
    kinds = []
    for kind in data["kinds"]:
        vmx = kind["vmx_flags"]
        sets = {
            "flags": frozenset(kind["flags"]),
            "vmx_flags": None if vmx is None else frozenset(vmx),
        }
        kinds.append(cpuinfo.CpuKind(**{**kind, **sets}))
    facilities = frozenset(data["facilities"])
    return cpuinfo.Cpuinfo(**{**data, "kinds": kinds, "facilities": facilities})


def _registers(data: Mapping[str, Any]) -> registers.Registers:
    """Give registers and CPUs their numbers back, which are text as keys of JSON."""
    numbered = ("msr", "vmx", "svm", "feature_control", "vm_cr")
    changed = {name: {int(key): value for key, value in data[name].items()} for name in numbered}
    changed["cpuid"] = {int(leaf): tuple(values) for leaf, values in data["cpuid"].items()}
    return registers.Registers(**{**data, **changed})


def _platform(data: Mapping[str, Any]) -> platform.Platform:
    cmdline = data["cmdline"]
    pairs = None if cmdline is None else [(key, value) for key, value in cmdline]
    return platform.Platform(**{**data, "cmdline": pairs})


def _memory(data: Mapping[str, Any]) -> memory.Memory:
    nodes, pools = data["nodes"], data["hugepages"]
    made = [memory.Node(**{**node, "hugepages": _pools(node["hugepages"])}) for node in nodes or []]
    changed = {
        "nodes": None if nodes is None else made,
        "hugepages": None if pools is None else _pools(pools),
    }
    return memory.Memory(**{**data, **changed})


def _pools(data: Sequence[Mapping[str, Any]]) -> list[memory.HugePages]:
    return [memory.HugePages(**pool) for pool in data]


def _pci(data: Mapping[str, Any]) -> pci.Pci:
    found, nets = data["devices"], data["nets"]
    changed = {
        "iommu": pci.Iommu(**data["iommu"]),
        "devices": None if found is None else [pci.PciDevice(**device) for device in found],
        "nets": None if nets is None else [pci.NetDevice(**net) for net in nets],
    }
    return pci.Pci(**{**data, **changed})
