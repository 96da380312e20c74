# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Features that a host can be required to have, by name, and the names that options may hold.

Most are the states of checks and processor features; the others ask the probes directly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Iterable, Optional, Sequence, Tuple

from ...converge.errors import InputError, Problem, shown
from ..check import FAIL, PASS, UNKNOWN, Check, Finding, as_dict
from ..features import FEATURES
from ..probes.cgroups import CONTROLLERS
from . import BY_ID, cpu, io

if TYPE_CHECKING:
    from ..observe import Host

# There or not (None: not known), what was found, what would help.
Answer = Tuple[Optional[bool], str, Optional[str]]


@dataclass(eq=False, repr=False)
class Requirement:
    """A feature that ``require`` may name."""

    title: str
    source: str
    test: Callable[[Host], Answer]


def _feature(names: Iterable[str]) -> Callable[[Host], Answer]:
    """Any of these processor features is on."""
    wanted = tuple(names)

    def answer(host: Host) -> Answer:
        found = {name: host.features[name] for name in wanted if name in host.features}
        if not found:
            return False, f"this CPU's vendor has no {' or '.join(wanted)}", None
        on = [name for name, state in found.items() if state.state == "on"]
        if on:
            return True, f"{on[0]} is on", None
        name, state = next(iter(found.items()))
        if any(state.state == "unknown" for state in found.values()):
            return (
                None,
                f"{name}: neither CPU registers nor the kernel tell",
                "as root: modprobe msr",
            )
        words = (
            "the hardware has it, the module has it off" if state.state == "off" else "not there"
        )
        remedy = f"{state.option} in /etc/modprobe.d/kvm.conf" if state.state == "off" else None
        return False, f"{name}: {words}", remedy

    return answer


def _checks(*checks: Check) -> Callable[[Host], Answer]:
    """All of these checks pass; the first that does not is the answer."""

    def answer(host: Host) -> Answer:
        last = Finding(UNKNOWN, "it does not apply to this machine")
        for check in checks:
            last = check.test(host) or last
            if last.level != PASS:
                break
        remedy = "; or ".join(last.remedies) or None
        return {PASS: True, UNKNOWN: None}.get(last.level, False), last.found, remedy

    return answer


def _fact(
    test: Callable[[Host], bool | None], yes: str, no: str, remedy: str | None = None
) -> Callable[[Host], Answer]:
    def answer(host: Host) -> Answer:
        there = test(host)
        return there, "it could not be read" if there is None else yes if there else no, remedy

    return answer


def _flags(*flags: str) -> Callable[[Host], bool | None]:
    def test(host: Host) -> bool | None:
        return host.cpuinfo.flags >= set(flags) if host.cpuinfo.kinds else None

    return test


def _baseline(level: int) -> Callable[[Host], Answer]:
    def answer(host: Host) -> Answer:
        finding = cpu.baseline(host)
        if finding is None or finding.level == UNKNOWN:
            return None, "this CPU has no x86-64 level that could be read", None
        reached = finding.found.split(" ")[0]
        return int(reached[-1]) >= level, reached, "give this machine a newer CPU model"

    return answer


def _sriov(host: Host) -> Answer:
    finding = io.sriov(host)
    if host.pci.devices is None:
        return None, finding.found, None
    able = any(device.total_vfs for device in host.pci.devices)
    return able, finding.found, "enable SR-IOV in the firmware setup and in the card's own"


def _active_vfs(host: Host) -> bool | None:
    return None if host.pci.devices is None else any(d.active_vfs for d in host.pci.devices)


def _pages(size: int | None) -> Callable[[Host], bool | None]:
    def test(host: Host) -> bool | None:
        pools = host.memory.hugepages
        return None if pools is None else any(p.total and size in (None, p.size) for p in pools)

    return test


def _like(*identities: str, title: str = "") -> Requirement:
    """Require what these checks look for."""
    rows = [BY_ID[identity] for identity in identities]
    sources = ", ".join(dict.fromkeys(row.source for row in rows))
    return Requirement(title or rows[-1].title, sources, _checks(*rows))


def _processor(title: str, *names: str) -> Requirement:
    return Requirement(
        title, "/proc/cpuinfo, /dev/cpu/0, /sys/module/kvm_*/parameters", _feature(names)
    )


def _table() -> dict[str, Requirement]:
    table = {row.name: _processor(row.title.split(" (")[0], row.name) for row in FEATURES}
    table.update(
        {
            "slat": _processor("Second-level paging (EPT or NPT)", "ept", "npt"),
            "virtual_apic": _processor("Virtual APIC (APICv or AVIC)", "apicv", "avic"),
            "tagged_tlb": _processor("Tagged TLB (VPID or ASID)", "vpid", "flush_by_asid"),
            "hardware_virtualization": _like("cpu.virtualization"),
            "kvm": _like("kvm.device", "kvm.access", "kvm.api", "kvm.vm", title="KVM works"),
            "native_execution": _like("kvm.execution"),
            "uniform_cpus": _like("cpu.uniform"),
            "mitigations": _like("cpu.vulnerabilities"),
            "tsc": _like("cpu.clock"),
            "iommu": _like("iommu.hardware", "iommu.enabled", title="IOMMU"),
            "interrupt_remapping": _like("iommu.enabled", "iommu.interrupt_remapping"),
            "vfio": _like("device.vfio"),
            "vhost_net": _like("device.vhost_net"),
            "vhost_vsock": _like("device.vhost_vsock"),
            "tun": _like("device.tun"),
            "secure_guests": _like("secure.guests"),
            "bare_metal": _like("platform.hypervisor", "platform.container", title="Bare metal"),
            "cgroups": _like(
                *(f"cgroup.{name}" for name in CONTROLLERS),
                title="Control groups that libvirt uses",
            ),
        }
    )
    table.update(_facts())
    return table


def _facts() -> dict[str, Requirement]:
    pci, memory_source = "/sys/bus/pci/devices", "/sys/kernel/mm"
    reserve = "reserve some: sysctl vm.nr_hugepages, or hugepages= on the kernel command line"
    return {
        "aes": Requirement(
            "AES instructions", "/proc/cpuinfo", _fact(_flags("aes"), "aes", "no aes flag")
        ),
        "x2apic": Requirement(
            "x2APIC", "/proc/cpuinfo", _fact(_flags("x2apic"), "x2apic", "no x2apic flag")
        ),
        "x86_64_v2": Requirement("x86-64-v2", "/proc/cpuinfo", _baseline(2)),
        "x86_64_v3": Requirement("x86-64-v3", "/proc/cpuinfo", _baseline(3)),
        "x86_64_v4": Requirement("x86-64-v4", "/proc/cpuinfo", _baseline(4)),
        "sriov": Requirement("Virtual functions (SR-IOV)", pci, _sriov),
        "sriov_active": Requirement(
            "Active virtual functions",
            pci,
            _fact(_active_vfs, "active", "none active", "state them in kvm_host_virtual_functions"),
        ),
        "hugepages": Requirement(
            "Reserved huge pages",
            memory_source,
            _fact(_pages(None), "reserved", "none reserved", reserve),
        ),
        "hugepages_1gb": Requirement(
            "Reserved huge pages of 1 GiB",
            memory_source,
            _fact(_pages(1 << 30), "reserved", "none reserved", reserve),
        ),
        "ksm": Requirement(
            "Same-page merging (KSM)",
            memory_source,
            _fact(lambda h: h.memory.ksm, "on", "off", "echo 1 > /sys/kernel/mm/ksm/run"),
        ),
        "numa": Requirement(
            "More than one NUMA node",
            "/sys/devices/system/node",
            _fact(
                lambda h: None if h.memory.nodes is None else len(h.memory.nodes) > 1, "yes", "no"
            ),
        ),
        "smt_off": Requirement(
            "Threads (SMT) off",
            "/sys/devices/system/cpu/smt",
            _fact(
                lambda h: None if h.cpus.smt_active is None else not h.cpus.smt_active,
                "off",
                "on",
                "add nosmt to the kernel command line",
            ),
        ),
        "cgroup_v2": Requirement(
            "Control groups v2 alone",
            "/proc/mounts",
            _fact(
                lambda h: None if h.cgroups.version is None else h.cgroups.version == "v2",
                "v2",
                "not v2 alone",
                "add systemd.unified_cgroup_hierarchy=1 to the kernel command line",
            ),
        ),
        "qemu": Requirement(
            "QEMU",
            "package data",
            _fact(lambda h: h.software.qemu != "", "installed", "not installed"),
        ),
        "libvirt": Requirement(
            "libvirt's daemon",
            "package data",
            _fact(lambda h: h.software.libvirt_daemon != "", "installed", "not installed"),
        ),
    }


REQUIRABLE: dict[str, Requirement] = _table()
FEATURE_NAMES = tuple(sorted(REQUIRABLE))


def required(host: Host, names: Iterable[str]) -> list[dict[str, Any]]:
    """Return a row ``require.<name>`` for every feature named."""
    return [_row(host, name, REQUIRABLE[name]) for name in dict.fromkeys(names)]


def _row(host: Host, name: str, requirement: Requirement) -> dict[str, Any]:
    there, found, remedy = requirement.test(host)
    level = UNKNOWN if there is None else PASS if there else FAIL
    finding = Finding(level, found, "there", (remedy,) if remedy and not there else ())
    return as_dict(f"require.{name}", f"Required: {requirement.title}", requirement.source, finding)


def check_names(ignore: Sequence[str], require: Sequence[str]) -> None:
    """Raise InputError with every unknown name at once, and the nearest known ones to each."""
    problems = _problems("checks_ignore", "the name of a check", ignore, tuple(BY_ID))
    problems += _problems("require", "the name of a feature", require, FEATURE_NAMES)
    if problems:
        raise InputError(problems)


def _problems(
    option: str, expected: str, names: Sequence[str], known: tuple[str, ...]
) -> list[Problem]:
    return [
        Problem(f"{option}[{index}]", expected, shown(name), _nearest(name, known))
        for index, name in enumerate(names)
        if name not in known
    ]


def _nearest(name: str, known: tuple[str, ...]) -> str:
    import difflib  # costs milliseconds that only a mistake should pay

    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    return f"did you mean {' or '.join(near)}?" if near else "docs/readiness.md lists them"
