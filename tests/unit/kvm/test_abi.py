# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The kernel's interface: against numbers written down by hand, and against its own header."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import pytest
from ansible.module_utils.kvm import abi

# As the compiler sees <linux/kvm.h> on x86-64.
IOCTLS = {
    "GET_API_VERSION": 0xAE00,
    "CREATE_VM": 0xAE01,
    "CHECK_EXTENSION": 0xAE03,
    "GET_VCPU_MMAP_SIZE": 0xAE04,
    "GET_SUPPORTED_CPUID": 0xC008AE05,
    "GET_MSR_FEATURE_INDEX_LIST": 0xC004AE0A,
    "CREATE_VCPU": 0xAE41,
    "GET_DIRTY_LOG": 0x4010AE42,
    "SET_USER_MEMORY_REGION": 0x4020AE46,
    "SET_TSS_ADDR": 0xAE47,
    "SET_IDENTITY_MAP_ADDR": 0x4008AE48,
    "CREATE_IRQCHIP": 0xAE60,
    "IRQ_LINE": 0x4008AE61,
    "GET_IRQCHIP": 0xC208AE62,
    "SET_IRQCHIP": 0x8208AE63,
    "SET_GSI_ROUTING": 0x4008AE6A,
    "IRQFD": 0x4020AE76,
    "CREATE_PIT2": 0x4040AE77,
    "IOEVENTFD": 0x4040AE79,
    "RUN": 0xAE80,
    "GET_REGS": 0x8090AE81,
    "SET_REGS": 0x4090AE82,
    "GET_SREGS": 0x8138AE83,
    "SET_SREGS": 0x4138AE84,
    "GET_MSRS": 0xC008AE88,
    "SET_MSRS": 0x4008AE89,
    "SET_FPU": 0x41A0AE8D,
    "GET_LAPIC": 0x8400AE8E,
    "SET_LAPIC": 0x4400AE8F,
    "SET_CPUID2": 0x4008AE90,
    "KVMCLOCK_CTRL": 0xAEAD,
}
SIZES = {
    "kvm_regs": 144,
    "kvm_sregs": 312,
    "kvm_segment": 24,
    "kvm_dtable": 16,
    "kvm_userspace_memory_region": 32,
    "kvm_cpuid_entry2": 40,
    "kvm_msr_entry": 16,
    "kvm_pit_config": 64,
    "kvm_irq_level": 8,
    "kvm_lapic_state": 1024,
    "kvm_irqfd": 32,
    "kvm_ioeventfd": 64,
}
OFFSETS = {
    ("kvm_regs", "rip"): 128,
    ("kvm_regs", "rflags"): 136,
    ("kvm_segment", "limit"): 8,
    ("kvm_segment", "selector"): 12,
    ("kvm_segment", "type"): 14,
    ("kvm_segment", "unusable"): 22,
    ("kvm_sregs", "ss"): 5 * 24,
    ("kvm_sregs", "gdt"): 8 * 24,
    ("kvm_sregs", "cr0"): 8 * 24 + 2 * 16,
    ("kvm_sregs", "efer"): 8 * 24 + 2 * 16 + 5 * 8,
    ("kvm_userspace_memory_region", "userspace_addr"): 24,
    ("kvm_cpuid_entry2", "eax"): 12,
    ("kvm_msr_entry", "data"): 8,
    ("kvm_irqfd", "gsi"): 4,
    ("kvm_irqfd", "flags"): 8,
    ("kvm_irqfd", "resamplefd"): 12,
    ("kvm_ioeventfd", "datamatch"): 0,
    ("kvm_ioeventfd", "addr"): 8,
    ("kvm_ioeventfd", "len"): 16,
    ("kvm_ioeventfd", "fd"): 20,
    ("kvm_ioeventfd", "flags"): 24,
}
HEADER = Path("/usr/include/linux/kvm.h")
# What came after Linux 6.1, whose header Debian 12 has; from that of Linux 6.8.
NEWER = {
    "KVM_CAP_MEMORY_FAULT_INFO": 232,
    "KVM_CAP_GUEST_MEMFD": 234,
    "KVM_CAP_VM_TYPES": 235,
    "KVM_EXIT_MEMORY_FAULT": 39,
}


def test_the_table_names_every_ioctl_of_the_module():
    computed = {
        name
        for name, value in vars(abi).items()
        if name.isupper() and isinstance(value, int) and value >> 8 & 0xFF == abi.KVMIO
    }
    assert computed == set(IOCTLS)


@pytest.mark.parametrize("name", IOCTLS)
def test_ioctl_number(name):
    assert getattr(abi, name) == IOCTLS[name]


def test_the_table_names_every_structure_of_the_module():
    assert {name for name in vars(abi) if name.startswith("kvm_")} == set(SIZES)


@pytest.mark.parametrize("name", SIZES)
def test_structure_size(name):
    assert ctypes.sizeof(getattr(abi, name)) == SIZES[name]


@pytest.mark.parametrize(("structure", "field"), OFFSETS)
def test_field_offset(structure, field):
    assert getattr(getattr(abi, structure), field).offset == OFFSETS[structure, field]


@pytest.fixture(scope="module")
def header():
    if not HEADER.exists():
        pytest.skip(f"{HEADER} is missing: install linux-libc-dev")
    pairs = re.findall(r"^#define\s+(KVM_\w+)\s+(\d+)\b", HEADER.read_text(), re.MULTILINE)
    return {**NEWER, **{name: int(value) for name, value in pairs}}


@pytest.mark.parametrize("name", abi.CAPABILITIES)
def test_capability_number(header, name):
    assert abi.CAPABILITIES[name] == header[f"KVM_CAP_{name.upper()}"]


@pytest.mark.parametrize("number", abi.EXIT_NAMES)
def test_exit_reason(header, number):
    assert header[f"KVM_EXIT_{abi.EXIT_NAMES[number].upper()}"] == number


@pytest.mark.parametrize("name", [name for name in vars(abi) if name.startswith("EXIT_")])
def test_exit_constants_agree_with_the_names(name):
    value = getattr(abi, name)
    if isinstance(value, int):
        assert abi.EXIT_NAMES[value] == name[len("EXIT_") :].lower()


def test_every_capability_has_a_number_of_its_own():
    assert len(set(abi.CAPABILITIES.values())) == len(abi.CAPABILITIES)
