# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks of the processors: can they virtualize, did the firmware let them, are they alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..check import (
    POWER_OFF,
    Check,
    Finding,
    failed,
    info,
    levels,
    passed,
    some,
    unknown,
    warned,
)
from ..probes.registers import LOCKED, SVM_DISABLED, VMX_OUTSIDE_SMX
from ..source import expand, ranges

if TYPE_CHECKING:
    from ..observe import Host
    from ..probes.cpuinfo import CpuKind

_MACHINES = ("aarch64", "s390x", "ppc64le", "ppc64", "riscv64", "loongarch64")
_WITHOUT_FLAG = ("ppc64", "arm", "riscv")
_READ_RAW = "as root: modprobe -a cpuid msr, and run the check again"
# What kernels flip at run time is no difference between processors.
_VOLATILE = frozenset({"aperfmperf", "cpuid_fault"})

# Linux' names of what the x86-64 psABI lists for its levels (lzcnt is abm, SSE3 is pni).
_BASELINES: tuple[tuple[str, frozenset[str]], ...] = (
    ("x86-64-v2", frozenset({"cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"})),
    (
        "x86-64-v3",
        frozenset({"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"}),
    ),
    ("x86-64-v4", frozenset({"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"})),
)


def architecture(host: Host) -> Finding:
    """Tell x86-64 from what KVM runs on too, and from what it does not."""
    machine = host.platform.machine
    if machine is None:
        return unknown("neither /proc/sys/kernel/arch nor uname tells the machine's architecture")
    if machine == "x86_64":
        return passed(machine)
    if machine in _MACHINES:
        return warned(
            machine,
            "x86_64",
            "use an x86-64 host for guests of the bundled helper; libvirt guests run",
        )
    return failed(machine, "a 64-bit machine", "install a 64-bit kernel, or use a 64-bit machine")


def firmware(host: Host) -> Finding | None:
    """Tell a CPU whose firmware locked virtualization off from one that never had it (kvm-ok)."""
    if not host.x86 or not host.vendor:
        return None
    name, module = host.extension, host.modules.vendor_module
    menu = "Intel Virtualization Technology" if host.intel else "SVM Mode"
    remedy = f"enable {name} ({menu}) in the firmware setup, {POWER_OFF}"
    finding = _registers_against(host, name, remedy)
    if finding is not None:
        return finding
    if host.registers.feature_control if host.intel else host.registers.vm_cr:
        return passed(f"{name} is on (model-specific register)")
    if module in ("kvm_intel", "kvm_amd"):
        return passed(f"{name} is on ({module} does not load otherwise)")
    return _firmware_without_registers(host, name, remedy)


def _registers_against(host: Host, name: str, remedy: str) -> Finding | None:
    """Return what the registers hold against virtualization, None if nothing."""
    locked, count = _locked_out(host), host.cpuinfo.count
    if locked:
        found = f"{name} is switched off by the firmware on {_where(locked, count)}"
        return failed(found, f"{name} on", remedy)
    unlocked = [cpu for cpu, value in host.registers.feature_control.items() if not value & LOCKED]
    if host.intel and unlocked and not host.flag:
        found = f"the firmware left {name} off and unlocked on {_where(unlocked, count)}"
        return warned(found, f"{name} on", remedy)
    return None


def _firmware_without_registers(host: Host, name: str, remedy: str) -> Finding:
    has, registers = _hardware_has(host), host.registers
    if host.flag:
        if (host.platform.kernel_version or (0, 0)) >= _flag_is_cleared_since(host):
            return passed(f"{name} is on (the kernel would hide the flag otherwise)")
        return unknown(registers.msr_problem or "the register cannot be read", _READ_RAW)
    if has:
        found = f"the CPU has {name} (CPUID), the kernel does not offer it: the firmware has it off"
        return failed(found, f"{name} on", remedy)
    if has is None:
        reason = f"no flag in /proc/cpuinfo, and CPUID cannot be read ({registers.cpuid_problem})"
        return unknown(reason, _READ_RAW)
    return info(f"this CPU shows no {name} (CPUID): there is nothing for the firmware to switch on")


def _flag_is_cleared_since(host: Host) -> tuple[int, int]:
    """Linux clears vmx of a locked-out CPU since 5.6, svm since 6.8."""
    return (5, 6) if host.intel else (6, 8)


def _locked_out(host: Host) -> list[int]:
    if host.intel:
        found = host.registers.feature_control.items()
        return [cpu for cpu, value in found if value & LOCKED and not value & VMX_OUTSIDE_SMX]
    return [cpu for cpu, value in host.registers.vm_cr.items() if value & SVM_DISABLED]


def _where(cpus: list[int], count: int) -> str:
    return "every CPU" if len(cpus) == count else f"CPUs {ranges(cpus)}"


def _hardware_has(host: Host) -> bool | None:
    """Return what raw CPUID says of virtualization, None where it was not read."""
    found = host.registers.vmx if host.intel else host.registers.svm
    return any(found.values()) if found else None


def virtualization(host: Host) -> Finding:
    """Look for the flag of hardware virtualization, and see KVM work without it where it does."""
    cpuinfo = host.cpuinfo
    if not cpuinfo.readable or cpuinfo.architecture is None:
        reason = "has no form that is known" if cpuinfo.readable else "cannot be read"
        return unknown(f"/proc/cpuinfo {reason}")
    if cpuinfo.architecture in _WITHOUT_FLAG:
        return _virtualization_without_flag(host)
    expected = "sie" if cpuinfo.architecture == "s390x" else "vmx or svm"
    has = sorted({"vmx", "svm", "sie"} & {flag for kind in cpuinfo.kinds for flag in kind.flags})
    if has:
        return passed(f"{' '.join(has)} on {cpuinfo.count} CPUs")
    return _no_flag(host, expected)


def _virtualization_without_flag(host: Host) -> Finding:
    if host.cpuinfo.architecture == "ppc64":
        return passed("POWER always can")
    if host.devices.kvm or host.kvm_works:
        return passed("KVM is there")
    return unknown(
        "this architecture's /proc/cpuinfo does not tell, and there is no /dev/kvm",
        "boot the kernel at EL2 (ARM) or in HS mode (RISC-V)",
    )


def _no_flag(host: Host, expected: str) -> Finding:
    """Tell apart: KVM works all the same, it was not tried, there is nothing to try."""
    found, module = f"no {expected} flag", host.modules.vendor_module
    if host.kvm_works:
        works = f"{found}, yet KVM works" + (f" ({module})" if module else "")
        return warned(works, f"{expected} on every CPU")
    if host.kvm is None and (host.devices.kvm or module):
        return unknown(f"{found}, but there is KVM here: whether it works was not tried")
    return failed(found, f"{expected} on every CPU", *_no_flag_remedies(host))


def _no_flag_remedies(host: Host) -> tuple[str, ...]:
    has = _hardware_has(host)
    if has and host.x86:
        return ()  # the firmware's check says what to do
    below = host.platform.hypervisor
    if below:
        nested = f"switch nested virtualization on in the hypervisor underneath ({below})"
        return (f"{nested} and give this machine the host's CPU model",)
    if has is False:
        return ("use a machine with VT-x or AMD-V: this CPU does not have it",)
    firmware_setup = f"enable {host.extension} in the firmware setup, {POWER_OFF}"
    return (firmware_setup, "use another machine, if this CPU does not have it")


def uniform(host: Host) -> Finding:
    """Compare the CPUs with one another."""
    kinds = host.cpuinfo.kinds
    if not kinds:
        return unknown("/proc/cpuinfo names no CPU in a form that is known")
    different = _different(kinds)
    if different is not None:
        return different
    performance = expand(host.cpus.core_types)
    efficient = set(expand(host.cpus.online)) - set(performance)
    if performance and efficient:
        return info(
            f"hybrid: performance cores {ranges(performance)}, efficient {ranges(efficient)}"
        )
    return passed(f"{host.cpuinfo.count} CPUs alike ({kinds[0].name or kinds[0].vendor or '?'})")


def _different(kinds: list[CpuKind]) -> Finding | None:
    """Return in what the CPUs differ, the worst first; None where they do not."""
    flags = _differing_flags(kinds)
    vital = sorted(set(flags) & {"vmx", "svm", "sie"})
    if vital:
        return failed(
            f"{vital[0]} is missing on CPUs {flags[vital[0]]}",
            "the same on every CPU",
            "update the firmware; if that does not help, take those CPUs offline",
        )
    remedy = "update firmware and microcode, so that every CPU runs the same"
    listed: tuple[str, ...] = ()
    if flags:
        what = "flags differ"
        listed = tuple(f"{flag} (not on CPUs {cpus})" for flag, cpus in sorted(flags.items()))
    elif len({kind.microcode for kind in kinds}) > 1:
        what = "microcode differs"
        listed = tuple(f"{kind.microcode} on CPUs {kind.cpus}" for kind in kinds)
    elif len({(kind.family, kind.model, kind.stepping) for kind in kinds}) > 1:
        what, remedy = "several kinds", "pin a guest's vCPUs to CPUs of one kind"
        listed = tuple(f"{kind.name or kind.model or '?'} on CPUs {kind.cpus}" for kind in kinds)
    if not listed:
        return None
    return warned(f"{what}: {some(listed, 4)}", "the same on every CPU", remedy)


def _differing_flags(kinds: list[CpuKind]) -> dict[str, str]:
    """Return each flag that not every CPU has, with the CPUs that lack it."""
    sets = [kind.flags | (kind.vmx_flags or frozenset()) for kind in kinds]
    uneven = frozenset.union(*sets) - frozenset.intersection(*sets) - _VOLATILE
    return {
        flag: ",".join(kind.cpus for kind, has in zip(kinds, sets) if flag not in has)
        for flag in uneven
    }


def baseline(host: Host) -> Finding | None:
    """Name the x86-64 level: distributions demand one of their guests."""
    if not host.x86:
        return None
    if not host.cpuinfo.flags:
        return unknown("/proc/cpuinfo shows no flags")
    reached = "x86-64-v1"
    for name, needed in _BASELINES:
        if not needed <= host.cpuinfo.flags:
            break
        reached = name
    if reached == "x86-64-v1":
        missing = tuple(sorted(_BASELINES[0][1] - host.cpuinfo.flags))
        return warned(
            f"{reached} ({some(missing)} missing)",
            "x86-64-v2",
            "give this machine the host's CPU model"
            if host.platform.hypervisor
            else "use a newer CPU",
        )
    return info(reached)


def _newer_cpu(host: Host) -> str:
    below = host.platform.hypervisor
    return "give this machine the host's CPU model" if below else "use a newer CPU"


def smt(host: Host) -> Finding:
    """Say whether guests may share a core's threads."""
    words = {
        "on": "on: vCPUs of two guests may share a core",
        "off": "off",
        "forceoff": "off for good (kernel command line)",
        "notsupported": "this CPU has none",
        "notimplemented": "this kernel does not control it",
    }
    control = host.cpus.smt
    if control is None:
        return unknown("no /sys/devices/system/cpu/smt/control on this kernel")
    return info(words.get(control, control))


def vulnerabilities(host: Host) -> Finding:
    """List what is known of this CPU and not mitigated."""
    found = host.cpus.vulnerabilities
    if found is None:
        return unknown("no /sys/devices/system/cpu/vulnerabilities on this kernel")
    # "KVM: Vulnerable" and "Mitigation: …; SMT vulnerable" count by their first word alone.
    weak = tuple(
        name for name, value in found.items() if value.startswith(("Vulnerable", "KVM: Vulnerable"))
    )
    if not weak:
        return passed(f"all {len(found)} that the kernel knows are mitigated or do not apply")
    return warned(
        f"open: {some(weak)}",
        "every one mitigated",
        "update microcode and kernel, and drop mitigations=off from the kernel command line",
    )


def clock(host: Host) -> Finding:
    """Guests' clocks are cheap and exact only where the host's is the TSC."""
    source = host.platform.clocksource
    if source is None:
        return unknown("no current_clocksource under /sys/devices/system/clocksource")
    if source in ("tsc", "arch_sys_counter", "stp", "timebase", "tod", "riscv_clocksource"):
        return passed(source)
    if source in ("hpet", "acpi_pm", "jiffies", "pit"):
        return warned(
            source,
            "tsc",
            "update the firmware; the kernel log says why it gave up the TSC (dmesg)",
        )
    return info(f"{source} (given by the hypervisor underneath)")


_CPUINFO = "/proc/cpuinfo"
CHECKS = (
    Check(
        "cpu.architecture",
        "Architecture",
        "/proc/sys/kernel/arch, uname",
        levels("pass warn fail unknown"),
        architecture,
        limit="guests of the bundled helper do not run",
    ),
    Check(
        "cpu.firmware",
        "Virtualization in the firmware",
        "/dev/cpu/*/msr (0x3a, 0xc0010114), /dev/cpu/*/cpuid, /proc/cpuinfo, /sys/module",
        levels("pass warn fail info unknown"),
        firmware,
        limit="KVM may not start",
    ),
    Check(
        "cpu.virtualization",
        "Hardware virtualization",
        _CPUINFO,
        levels("pass warn fail unknown"),
        virtualization,
        limit="guests run without hardware virtualization",
        vital=True,
    ),
    Check(
        "cpu.uniform",
        "CPUs alike",
        _CPUINFO,
        levels("pass warn fail info unknown"),
        uniform,
        limit="a guest may meet CPUs that differ",
    ),
    Check(
        "cpu.baseline",
        "Instruction set level",
        _CPUINFO,
        levels("warn info unknown"),
        baseline,
        limit="guests of current enterprise distributions do not start",
    ),
    Check("cpu.smt", "Threads (SMT)", "/sys/devices/system/cpu/smt", levels("info unknown"), smt),
    Check(
        "cpu.vulnerabilities",
        "CPU vulnerabilities",
        "/sys/devices/system/cpu/vulnerabilities",
        levels("pass warn unknown"),
        vulnerabilities,
        limit="guests may spy on one another through the CPU",
    ),
    Check(
        "cpu.clock",
        "Clock source",
        "/sys/devices/system/clocksource",
        levels("pass warn info unknown"),
        clock,
        limit="guests read their clock slowly",
    ),
)
