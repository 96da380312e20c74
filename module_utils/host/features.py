# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Processor features for virtualization: does the hardware have it, does the module have it on.

Evidence for the hardware, the first that is there: the processor's own registers, Intel's
``vmx flags`` line, the ``flags`` line, and a module parameter that is on (kvm_intel and kvm_amd
switch off at load what the CPU lacks, so on means that the hardware has it).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Tuple

from .probes.registers import EPT_VPID, PIN, PRIMARY, SECONDARY, TERTIARY, allows
from .source import switch

if TYPE_CHECKING:
    from .probes.cpuinfo import Cpuinfo
    from .probes.modules import Modules
    from .probes.registers import Registers

# A bit of a VMX capability register, or of a CPUID leaf's register (0 eax … 3 edx).
VmxBits = Tuple[Tuple[int, int], ...]
CpuidBit = Tuple[int, int, int]


@dataclass(eq=False, repr=False)
class Feature:
    """One feature of one vendor.

    ``wanted`` features make a host limited where they are off or absent; the others are facts.
    """

    name: str
    title: str
    vendor: str
    flags: tuple[str, ...]  # any of these in cpuinfo
    parameter: tuple[str, str] | None = None
    vmx: VmxBits = ()  # all of these
    cpuid: CpuidBit | None = None
    wanted: bool = False
    on: str = "1"  # what to set the parameter to


@dataclass(eq=False, repr=False)
class State:
    """``state`` is on, off (the hardware has it, the module has it off), absent or unknown.

    ``option`` is the line for modprobe.d that would switch it on.
    """

    title: str
    hardware: bool | None
    module: bool | None
    parameter: str | None
    state: str
    source: str
    wanted: bool
    option: str | None = None


_APICV = ((PRIMARY, 21), (SECONDARY, 8), (SECONDARY, 9), (PIN, 7))


def _intel(
    name: str,
    title: str,
    flags: str,
    parameter: str = "",
    vmx: VmxBits = (),
    *,
    wanted: bool = False,
) -> Feature:
    module = ("kvm_intel", parameter) if parameter else None
    return Feature(name, title, "intel", tuple(flags.split()), module, vmx, None, wanted)


def _amd(
    name: str,
    title: str,
    flags: str,
    parameter: str = "",
    bit: int | None = None,
    *,
    leaf: tuple[int, int] = (0x8000000A, 3),
    wanted: bool = False,
) -> Feature:
    """SVM's features are leaf 0x8000000A EDX, encryption's 0x8000001F EAX (AMD APM vol. 3, E.4)."""
    module = ("kvm_amd", parameter) if parameter else None
    cpuid = None if bit is None else (*leaf, bit)
    return Feature(name, title, "amd", tuple(flags.split()), module, (), cpuid, wanted)


_ENCRYPTION = (0x8000001F, 0)

FEATURES: tuple[Feature, ...] = (
    _intel("ept", "Extended page tables (EPT)", "ept", "ept", ((SECONDARY, 1),), wanted=True),
    _intel("ept_1gb", "EPT pages of 1 GiB", "ept_1gb", "", ((EPT_VPID, 17),)),
    _intel("ept_ad", "EPT accessed and dirty flags", "ept_ad", "eptad", ((EPT_VPID, 21),)),
    _intel("vpid", "Tagged TLB (VPID)", "vpid", "vpid", ((SECONDARY, 5),), wanted=True),
    _intel(
        "unrestricted_guest",
        "Unrestricted guest (real mode on the CPU)",
        "unrestricted_guest",
        "unrestricted_guest",
        ((SECONDARY, 7),),
        wanted=True,
    ),
    _intel(
        "tpr_shadow",
        "TPR shadow and APIC-access page (FlexPriority)",
        "flexpriority tpr_shadow",
        "flexpriority",
        ((PRIMARY, 21), (SECONDARY, 0)),
    ),
    _intel("apicv", "Virtual APIC (APICv)", "apicv", "enable_apicv", _APICV),
    _intel(
        "posted_interrupts",
        "Posted interrupts",
        "posted_intr",
        "enable_apicv",
        ((PIN, 7),),
    ),
    _intel("shadow_vmcs", "Shadow VMCS", "shadow_vmcs", "enable_shadow_vmcs", ((SECONDARY, 14),)),
    _intel("pml", "Page-modification log (PML)", "pml", "pml", ((SECONDARY, 17),)),
    Feature(
        "pause_filter",
        "PAUSE-loop exiting (PLE)",
        "intel",
        ("ple",),
        ("kvm_intel", "ple_gap"),
        ((SECONDARY, 10),),
        on="128",
    ),
    _intel(
        "preemption_timer",
        "VMX preemption timer",
        "preemption_timer",
        "preemption_timer",
        ((PIN, 6),),
    ),
    _intel("vnmi", "Virtual NMIs", "vnmi", "vnmi", ((PIN, 5),)),
    _intel("tsc_scaling", "TSC scaling", "tsc_scaling", "", ((SECONDARY, 25),)),
    _intel(
        "mode_based_exec",
        "Mode-based execute control",
        "ept_mode_based_exec mode_based_ept_exec",
        "",
        ((SECONDARY, 22),),
    ),
    _intel(
        "ipi_virtualization",
        "IPI virtualization",
        "ipi_virt",
        "enable_ipiv",
        ((TERTIARY, 4),),
    ),
    Feature(
        "nested",
        "Nested guests (VMX for guests)",
        "intel",
        ("vmx",),
        ("kvm_intel", "nested"),
        cpuid=(0x1, 2, 5),
    ),
    _intel("tdx", "Trust domains (TDX)", "tdx_host_platform", "tdx"),
    _amd("npt", "Nested page tables (NPT)", "npt", "npt", 0, wanted=True),
    _amd("lbrv", "Last-branch virtualization", "lbrv", "lbrv", 1),
    _amd("nrip_save", "Next-RIP save", "nrip_save", "nrips", 3),
    _amd("tsc_scaling", "TSC scaling", "tsc_scale", "tsc_scaling", 4),
    _amd("vmcb_clean", "VMCB clean bits", "vmcb_clean", "", 5),
    _amd("flush_by_asid", "TLB flush by ASID", "flushbyasid", "", 6),
    _amd("decode_assists", "Decode assists", "decodeassists", "", 7),
    Feature(
        "pause_filter",
        "PAUSE filter",
        "amd",
        ("pausefilter",),
        ("kvm_amd", "pause_filter_count"),
        cpuid=(0x8000000A, 3, 10),
        on="3000",
    ),
    _amd("avic", "Virtual APIC (AVIC)", "avic", "avic", 13),
    _amd("vls", "Virtual VMLOAD/VMSAVE", "v_vmsave_vmload", "vls", 15),
    _amd("vgif", "Virtual GIF", "vgif", "vgif", 16),
    _amd("x2avic", "Virtual x2APIC (x2AVIC)", "x2avic", "avic", 18),
    _amd("vnmi", "Virtual NMIs", "vnmi", "vnmi", 25),
    _amd("nested", "Nested guests (SVM for guests)", "svm", "nested", 2, leaf=(0x80000001, 2)),
    _amd("sev", "Encrypted guests (SEV)", "sev", "sev", 1, leaf=_ENCRYPTION),
    _amd("sev_es", "Encrypted guest state (SEV-ES)", "sev_es", "sev_es", 3, leaf=_ENCRYPTION),
    _amd("sev_snp", "Secure nested paging (SEV-SNP)", "sev_snp", "sev_snp", 4, leaf=_ENCRYPTION),
)


def states(
    cpuinfo: Cpuinfo, registers: Registers, modules: Modules, vendor: str
) -> dict[str, State]:
    """Return the state of every feature of ``vendor`` (intel, amd; others have none)."""
    return {
        feature.name: evaluate(feature, cpuinfo, registers, modules)
        for feature in FEATURES
        if feature.vendor == vendor
    }


def evaluate(feature: Feature, cpuinfo: Cpuinfo, registers: Registers, modules: Modules) -> State:
    """Return what is known of one feature."""
    option = path = None
    module = None
    if feature.parameter:
        owner, name = feature.parameter
        module = switch(modules.parameter(owner, name))
        path = f"/sys/module/{owner}/parameters/{name}"
        option = f"options {owner} {name}={feature.on}"
    hardware, source = _hardware(feature, cpuinfo, registers)
    if module and path and not hardware:
        hardware, source = True, path
    return State(
        title=feature.title,
        hardware=hardware,
        module=module,
        parameter=path,
        state=_state(hardware, module, has_parameter=path is not None),
        source=source,
        wanted=feature.wanted,
        option=option,
    )


def _state(hardware: bool | None, module: bool | None, *, has_parameter: bool) -> str:
    if hardware is False:
        return "absent"
    if hardware is None:
        return "unknown"
    if not has_parameter:
        return "on"
    return {True: "on", False: "off", None: "unknown"}[module]


def _hardware(feature: Feature, cpuinfo: Cpuinfo, registers: Registers) -> tuple[bool | None, str]:
    if feature.vmx:
        bits = [allows(registers.msr, index, bit) for index, bit in feature.vmx]
        if None not in bits:
            return all(bits), "/dev/cpu/0/msr"
    elif feature.cpuid and feature.cpuid[0] in registers.cpuid:
        leaf, register, bit = feature.cpuid
        return bool(registers.cpuid[leaf][register] >> bit & 1), f"CPUID {leaf:#x}"
    return _shown(feature, cpuinfo)


def _shown(feature: Feature, cpuinfo: Cpuinfo) -> tuple[bool | None, str]:
    """Return what /proc/cpuinfo shows; absence counts only where the kernel would show it."""
    if feature.vmx:
        if cpuinfo.vmx_flags is not None and "vmx" in cpuinfo.flags:
            return _any(feature, cpuinfo.vmx_flags), "/proc/cpuinfo vmx flags"
        complete = False  # kernels before 5.6 show a handful on the flags line
    elif feature.cpuid:
        complete = "svm" in cpuinfo.flags  # without it the kernel hides what depends on it
    else:
        complete = bool(cpuinfo.kinds)
    there = _any(feature, cpuinfo.flags)
    return (there if there or complete else None), "/proc/cpuinfo flags"


def _any(feature: Feature, flags: frozenset[str]) -> bool:
    return any(flag in flags for flag in feature.flags)
