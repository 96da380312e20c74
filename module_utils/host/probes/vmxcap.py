# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The VMX capability registers, decoded under the names that QEMU's vmxcap made known.

Intel SDM vol. 3D, appendix A. A control is "no" (always 0), "forced" (always 1), "yes" (free), or
"default" (1 for old software, free for one that reads the TRUE register). Other bits are yes or no,
fields are numbers.
"""

from __future__ import annotations

from typing import Dict, Mapping, Tuple, Union

from .registers import (
    BASIC,
    CR0_FIXED0,
    CR0_FIXED1,
    CR4_FIXED0,
    CR4_FIXED1,
    ENTRY,
    EPT_VPID,
    EXIT,
    MISC,
    PIN,
    PRIMARY,
    SECONDARY,
    TERTIARY,
    TRUE_ENTRY,
    TRUE_EXIT,
    TRUE_PIN,
    TRUE_PRIMARY,
    VMCS_ENUM,
    VMFUNC,
)

Value = Union[str, int]
Decoded = Dict[str, Dict[str, Value]]
Field = Tuple[int, int]

_TRUE = {PIN: TRUE_PIN, PRIMARY: TRUE_PRIMARY, EXIT: TRUE_EXIT, ENTRY: TRUE_ENTRY}

_CONTROLS: tuple[tuple[int, str, dict[int, str]], ...] = (
    (
        PIN,
        "pin-based controls",
        {
            0: "External interrupt exiting",
            3: "NMI exiting",
            5: "Virtual NMIs",
            6: "Activate VMX-preemption timer",
            7: "Process posted interrupts",
        },
    ),
    (
        PRIMARY,
        "primary processor-based controls",
        {
            2: "Interrupt window exiting",
            3: "Use TSC offsetting",
            7: "HLT exiting",
            9: "INVLPG exiting",
            10: "MWAIT exiting",
            11: "RDPMC exiting",
            12: "RDTSC exiting",
            15: "CR3-load exiting",
            16: "CR3-store exiting",
            17: "Activate tertiary controls",
            19: "CR8-load exiting",
            20: "CR8-store exiting",
            21: "Use TPR shadow",
            22: "NMI-window exiting",
            23: "MOV-DR exiting",
            24: "Unconditional I/O exiting",
            25: "Use I/O bitmaps",
            27: "Monitor trap flag",
            28: "Use MSR bitmaps",
            29: "MONITOR exiting",
            30: "PAUSE exiting",
            31: "Activate secondary control",
        },
    ),
    (
        SECONDARY,
        "secondary processor-based controls",
        {
            0: "Virtualize APIC accesses",
            1: "Enable EPT",
            2: "Descriptor-table exiting",
            3: "Enable RDTSCP",
            4: "Virtualize x2APIC mode",
            5: "Enable VPID",
            6: "WBINVD exiting",
            7: "Unrestricted guest",
            8: "APIC register emulation",
            9: "Virtual interrupt delivery",
            10: "PAUSE-loop exiting",
            11: "RDRAND exiting",
            12: "Enable INVPCID",
            13: "Enable VM functions",
            14: "VMCS shadowing",
            15: "Enable ENCLS exiting",
            16: "RDSEED exiting",
            17: "Enable PML",
            18: "EPT-violation #VE",
            19: "Conceal non-root operation from PT",
            20: "Enable XSAVES/XRSTORS",
            22: "Mode-based execute control (XS/XU)",
            23: "Sub-page write permissions",
            24: "GPA translation for PT",
            25: "TSC scaling",
            26: "User wait and pause",
            28: "ENCLV exiting",
            30: "Bus-lock detection",
            31: "Instruction timeout",
        },
    ),
    (
        EXIT,
        "VM-Exit controls",
        {
            2: "Save debug controls",
            9: "Host address-space size",
            12: "Load IA32_PERF_GLOBAL_CTRL",
            15: "Acknowledge interrupt on exit",
            18: "Save IA32_PAT",
            19: "Load IA32_PAT",
            20: "Save IA32_EFER",
            21: "Load IA32_EFER",
            22: "Save VMX-preemption timer value",
            23: "Clear IA32_BNDCFGS",
            24: "Conceal VM exits from PT",
            25: "Clear IA32_RTIT_CTL",
        },
    ),
    (
        ENTRY,
        "VM-Entry controls",
        {
            2: "Load debug controls",
            9: "IA-32e mode guest",
            10: "Entry to SMM",
            11: "Deactivate dual-monitor treatment",
            13: "Load IA32_PERF_GLOBAL_CTRL",
            14: "Load IA32_PAT",
            15: "Load IA32_EFER",
            16: "Load IA32_BNDCFGS",
            17: "Conceal VM entries from PT",
            18: "Load IA32_RTIT_CTL",
        },
    ),
)

_FIELDS: tuple[tuple[int, str, dict[Field, str]], ...] = (
    (
        BASIC,
        "Basic VMX Information",
        {
            (0, 30): "Revision",
            (32, 44): "VMCS size",
            (48, 48): "VMCS restricted to 32 bit addresses",
            (49, 49): "Dual-monitor support",
            (50, 53): "VMCS memory type",
            (54, 54): "INS/OUTS instruction information",
            (55, 55): "IA32_VMX_TRUE_*_CTLS support",
            (56, 56): "Skip checks on event error code",
        },
    ),
    (
        MISC,
        "Miscellaneous data",
        {
            (0, 4): "VMX-preemption timer scale (log2)",
            (5, 5): "Store EFER.LMA into IA-32e mode guest control",
            (6, 6): "HLT activity state",
            (7, 7): "Shutdown activity state",
            (8, 8): "Wait-for-SIPI activity state",
            (14, 14): "PT in VMX operation",
            (15, 15): "IA32_SMBASE support",
            (16, 24): "Number of CR3-target values",
            (25, 27): "MSR-load/store count recommendation",
            (28, 28): "IA32_SMM_MONITOR_CTL[2] can be set to 1",
            (29, 29): "VMWRITE to VM-exit information fields",
            (30, 30): "Inject event with insn length=0",
            (32, 63): "MSEG revision identifier",
        },
    ),
    (
        EPT_VPID,
        "VPID and EPT capabilities",
        {
            (0, 0): "Execute-only EPT translations",
            (6, 6): "Page-walk length 4",
            (7, 7): "Page-walk length 5",
            (8, 8): "Paging-structure memory type UC",
            (14, 14): "Paging-structure memory type WB",
            (16, 16): "2MB EPT pages",
            (17, 17): "1GB EPT pages",
            (20, 20): "INVEPT supported",
            (21, 21): "EPT accessed and dirty flags",
            (22, 22): "Advanced VM-exit information for EPT violations",
            (25, 25): "Single-context INVEPT",
            (26, 26): "All-context INVEPT",
            (32, 32): "INVVPID supported",
            (40, 40): "Individual-address INVVPID",
            (41, 41): "Single-context INVVPID",
            (42, 42): "All-context INVVPID",
            (43, 43): "Single-context-retaining-globals INVVPID",
        },
    ),
    (VMFUNC, "VM Functions", {(0, 0): "EPTP Switching"}),
)

_TERTIARY_NAME, _TERTIARY_BITS = (
    "tertiary processor-based controls",
    {4: "Enable IPI virtualization"},
)
_FIXED = {
    "CR0 bits fixed to 1": CR0_FIXED0,
    "CR0 bits that may be 1": CR0_FIXED1,
    "CR4 bits fixed to 1": CR4_FIXED0,
    "CR4 bits that may be 1": CR4_FIXED1,
}


def decode(msr: Mapping[int, int]) -> Decoded:
    """Return group → feature → value for the registers at hand; absent ones are left out."""
    decoded: Decoded = {}
    for index, group, fields in _FIELDS:
        if index in msr:
            decoded[group] = {name: _field(msr[index], *at) for at, name in fields.items()}
    for index, group, bits in _CONTROLS:
        if index in msr:
            true = msr.get(_TRUE.get(index, -1))
            decoded[group] = {name: _control(msr[index], true, bit) for bit, name in bits.items()}
    if TERTIARY in msr:  # 64 bits, all of them "may be 1"
        decoded[_TERTIARY_NAME] = {
            name: "yes" if msr[TERTIARY] >> bit & 1 else "no"
            for bit, name in _TERTIARY_BITS.items()
        }
    fixed: dict[str, Value] = {name: hex(msr[at]) for name, at in _FIXED.items() if at in msr}
    if VMCS_ENUM in msr:
        fixed["Highest VMCS encoding"] = msr[VMCS_ENUM] >> 1 & 0x1FF
    if fixed:
        decoded["fixed bits"] = fixed
    return decoded


def _field(value: int, low: int, high: int) -> Value:
    if low == high:
        return "yes" if value >> low & 1 else "no"
    return value >> low & ((1 << (high - low + 1)) - 1)


def _control(value: int, true: int | None, bit: int) -> str:
    """Low word: must be 1; high word: may be 1 (SDM A.3.1)."""
    must, may = value >> bit & 1, value >> 32 >> bit & 1
    if must:
        freed = true is not None and not true >> bit & 1 and true >> 32 >> bit & 1
        return "default" if freed else "forced"
    return "yes" if may else "no"
