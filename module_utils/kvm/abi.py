# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The kernel's KVM interface: ioctl numbers, structures and exit reasons (x86-64).

Sources: Documentation/virt/kvm/api.rst, include/uapi/linux/kvm.h, arch/x86/include/uapi/asm/kvm.h.
Structures stand under their C names. Numbers are computed from direction, number and size as
include/uapi/asm-generic/ioctl.h does, and given to fcntl.ioctl, which takes them unsigned.
"""

from __future__ import annotations

import ctypes
from typing import Any

KVMIO = 0xAE
_NONE, _WRITE, _READ = 0, 1, 2


def ioctl_number(direction: int, kind: int, number: int, size: int) -> int:
    """Return an ioctl's number: ``direction`` 0, 1 to or 2 from the kernel, ``size`` in bytes."""
    return direction << 30 | size << 16 | kind << 8 | number


def _ioc(direction: int, number: int, size: int) -> int:
    return ioctl_number(direction, KVMIO, number, size)


def _fields(kind: Any, names: str) -> list[tuple[str, Any]]:
    return [(name, kind) for name in names.split()]


class kvm_regs(ctypes.Structure):  # noqa: N801 - the C name
    """struct kvm_regs: the general registers, 144 bytes."""

    _fields_ = _fields(
        ctypes.c_uint64,
        "rax rbx rcx rdx rsi rdi rsp rbp r8 r9 r10 r11 r12 r13 r14 r15 rip rflags",
    )


class kvm_segment(ctypes.Structure):  # noqa: N801
    """struct kvm_segment: one segment register with its hidden part, 24 bytes."""

    _fields_ = [
        ("base", ctypes.c_uint64),
        ("limit", ctypes.c_uint32),
        ("selector", ctypes.c_uint16),
        ("type", ctypes.c_uint8),
        ("present", ctypes.c_uint8),
        ("dpl", ctypes.c_uint8),
        ("db", ctypes.c_uint8),
        ("s", ctypes.c_uint8),
        ("l", ctypes.c_uint8),
        ("g", ctypes.c_uint8),
        ("avl", ctypes.c_uint8),
        ("unusable", ctypes.c_uint8),
        ("padding", ctypes.c_uint8),
    ]


class kvm_dtable(ctypes.Structure):  # noqa: N801
    """struct kvm_dtable: GDTR or IDTR, 16 bytes."""

    _fields_ = [
        ("base", ctypes.c_uint64),
        ("limit", ctypes.c_uint16),
        ("padding", ctypes.c_uint16 * 3),
    ]


class kvm_sregs(ctypes.Structure):  # noqa: N801
    """struct kvm_sregs: segments, tables and control registers, 312 bytes."""

    _fields_ = [
        *_fields(kvm_segment, "cs ds es fs gs ss tr ldt"),
        ("gdt", kvm_dtable),
        ("idt", kvm_dtable),
        *_fields(ctypes.c_uint64, "cr0 cr2 cr3 cr4 cr8 efer apic_base"),
        ("interrupt_bitmap", ctypes.c_uint64 * 4),
    ]


class kvm_userspace_memory_region(ctypes.Structure):  # noqa: N801
    """struct kvm_userspace_memory_region: one memory slot, 32 bytes."""

    _fields_ = [
        ("slot", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("guest_phys_addr", ctypes.c_uint64),
        ("memory_size", ctypes.c_uint64),
        ("userspace_addr", ctypes.c_uint64),
    ]


class kvm_cpuid_entry2(ctypes.Structure):  # noqa: N801
    """struct kvm_cpuid_entry2: one CPUID leaf, 40 bytes."""

    _fields_ = [
        *_fields(ctypes.c_uint32, "function index flags eax ebx ecx edx"),
        ("padding", ctypes.c_uint32 * 3),
    ]


class kvm_msr_entry(ctypes.Structure):  # noqa: N801
    """struct kvm_msr_entry: one model specific register, 16 bytes."""

    _fields_ = [
        ("index", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("data", ctypes.c_uint64),
    ]


class kvm_pit_config(ctypes.Structure):  # noqa: N801
    """struct kvm_pit_config, 64 bytes."""

    _fields_ = [("flags", ctypes.c_uint32), ("pad", ctypes.c_uint32 * 15)]


class kvm_irq_level(ctypes.Structure):  # noqa: N801
    """struct kvm_irq_level: the state of one interrupt line, 8 bytes."""

    _fields_ = [("irq", ctypes.c_uint32), ("level", ctypes.c_uint32)]


class kvm_lapic_state(ctypes.Structure):  # noqa: N801
    """struct kvm_lapic_state: the local APIC's register page, 1024 bytes."""

    _fields_ = [("regs", ctypes.c_uint8 * 1024)]


class kvm_irqfd(ctypes.Structure):  # noqa: N801
    """struct kvm_irqfd: an eventfd that raises an interrupt, 32 bytes."""

    _fields_ = [*_fields(ctypes.c_uint32, "fd gsi flags resamplefd"), ("pad", ctypes.c_uint8 * 16)]


class kvm_ioeventfd(ctypes.Structure):  # noqa: N801
    """struct kvm_ioeventfd: an eventfd that a guest's write signals, 64 bytes."""

    _fields_ = [
        *_fields(ctypes.c_uint64, "datamatch addr"),
        ("len", ctypes.c_uint32),
        ("fd", ctypes.c_int32),
        ("flags", ctypes.c_uint32),
        ("pad", ctypes.c_uint8 * 36),
    ]


# Heads of the structures that end in an array: what the ioctl number counts.
_CPUID2_HEAD = 8  # struct kvm_cpuid2: nent, padding
_MSRS_HEAD = 8  # struct kvm_msrs: nmsrs, pad
_MSR_LIST_HEAD = 4  # struct kvm_msr_list: nmsrs
_ROUTING_HEAD = 8  # struct kvm_irq_routing: nr, flags


def _size(structure: type[ctypes.Structure]) -> int:
    return ctypes.sizeof(structure)


GET_API_VERSION = _ioc(_NONE, 0x00, 0)
CREATE_VM = _ioc(_NONE, 0x01, 0)
CHECK_EXTENSION = _ioc(_NONE, 0x03, 0)
GET_VCPU_MMAP_SIZE = _ioc(_NONE, 0x04, 0)
GET_SUPPORTED_CPUID = _ioc(_READ | _WRITE, 0x05, _CPUID2_HEAD)
GET_MSR_FEATURE_INDEX_LIST = _ioc(_READ | _WRITE, 0x0A, _MSR_LIST_HEAD)
CREATE_VCPU = _ioc(_NONE, 0x41, 0)
GET_DIRTY_LOG = _ioc(_WRITE, 0x42, 16)
SET_USER_MEMORY_REGION = _ioc(_WRITE, 0x46, _size(kvm_userspace_memory_region))
SET_TSS_ADDR = _ioc(_NONE, 0x47, 0)
SET_IDENTITY_MAP_ADDR = _ioc(_WRITE, 0x48, 8)
CREATE_IRQCHIP = _ioc(_NONE, 0x60, 0)
IRQ_LINE = _ioc(_WRITE, 0x61, _size(kvm_irq_level))
GET_IRQCHIP = _ioc(_READ | _WRITE, 0x62, 520)
SET_IRQCHIP = _ioc(_READ, 0x63, 520)
SET_GSI_ROUTING = _ioc(_WRITE, 0x6A, _ROUTING_HEAD)
IRQFD = _ioc(_WRITE, 0x76, _size(kvm_irqfd))
CREATE_PIT2 = _ioc(_WRITE, 0x77, _size(kvm_pit_config))
IOEVENTFD = _ioc(_WRITE, 0x79, _size(kvm_ioeventfd))
RUN = _ioc(_NONE, 0x80, 0)
GET_REGS = _ioc(_READ, 0x81, _size(kvm_regs))
SET_REGS = _ioc(_WRITE, 0x82, _size(kvm_regs))
GET_SREGS = _ioc(_READ, 0x83, _size(kvm_sregs))
SET_SREGS = _ioc(_WRITE, 0x84, _size(kvm_sregs))
GET_MSRS = _ioc(_READ | _WRITE, 0x88, _MSRS_HEAD)
SET_MSRS = _ioc(_WRITE, 0x89, _MSRS_HEAD)
SET_FPU = _ioc(_WRITE, 0x8D, 416)
GET_LAPIC = _ioc(_READ, 0x8E, _size(kvm_lapic_state))
SET_LAPIC = _ioc(_WRITE, 0x8F, _size(kvm_lapic_state))
SET_CPUID2 = _ioc(_WRITE, 0x90, _CPUID2_HEAD)
KVMCLOCK_CTRL = _ioc(_NONE, 0xAD, 0)

API_VERSION = 12
MEM_READONLY = 1 << 1  # kvm_userspace_memory_region.flags
PIT_SPEAKER_DUMMY = 1  # kvm_pit_config.flags: port 0x61 is the kernel's too
IRQFD_DEASSIGN = 1
IOEVENTFD_DEASSIGN = 1 << 2
ROUTING_IRQCHIP, ROUTING_MSI = 1, 2  # kvm_irq_routing_entry.type
CPUID_SIGNIFICANT_INDEX = 1  # kvm_cpuid_entry2.flags: the leaf has subleaves

EXIT_UNKNOWN = 0
EXIT_IO = 2
EXIT_HLT = 5
EXIT_MMIO = 6
EXIT_SHUTDOWN = 8
EXIT_FAIL_ENTRY = 9
EXIT_INTR = 10
EXIT_INTERNAL_ERROR = 17
EXIT_SYSTEM_EVENT = 24

# KVM_EXIT_* by number, for messages.
EXIT_NAMES = {
    0: "unknown",
    1: "exception",
    2: "io",
    3: "hypercall",
    4: "debug",
    5: "hlt",
    6: "mmio",
    7: "irq_window_open",
    8: "shutdown",
    9: "fail_entry",
    10: "intr",
    11: "set_tpr",
    12: "tpr_access",
    16: "nmi",
    17: "internal_error",
    18: "osi",
    23: "epr",
    24: "system_event",
    26: "ioapic_eoi",
    27: "hyperv",
    29: "x86_rdmsr",
    30: "x86_wrmsr",
    31: "dirty_ring_full",
    32: "ap_reset_hold",
    33: "x86_bus_lock",
    34: "xen",
    37: "notify",
    39: "memory_fault",
}

# KVM_INTERNAL_ERROR_* by suberror.
INTERNAL_ERRORS = {
    1: "an instruction that KVM cannot emulate",
    2: "simultaneous exceptions",
    3: "a failed delivery of an event",
    4: "an exit reason that KVM does not expect",
}

# KVM_CAP_* that say what a host can do, by number. Those of the VM descriptor answer per VM.
CAPABILITIES = {
    "irqchip": 0,
    "hlt": 1,
    "user_memory": 3,
    "set_tss_addr": 4,
    "ext_cpuid": 7,
    "nr_vcpus": 9,
    "nr_memslots": 10,
    "mp_state": 14,
    "sync_mmu": 16,
    "irq_inject_status": 26,
    "destroy_memory_region_works": 21,
    "irq_routing": 25,
    "mce": 31,
    "irqfd": 32,
    "pit2": 33,
    "set_boot_cpu_id": 34,
    "ioeventfd": 36,
    "ioeventfd_any_length": 122,
    "tsc_deadline_timer": 72,
    "set_identity_map_addr": 37,
    "adjust_clock": 39,
    "vcpu_events": 41,
    "pit_state2": 35,
    "debugregs": 50,
    "x86_robust_singlestep": 51,
    "enable_cap": 54,
    "xsave": 55,
    "xcrs": 56,
    "tsc_control": 60,
    "max_vcpus": 66,
    "readonly_mem": 81,
    "signal_msi": 77,
    "ext_emul_cpuid": 95,
    "hyperv_synic": 123,
    "split_irqchip": 121,
    "immediate_exit": 136,
    "x2apic_api": 129,
    "max_vcpu_id": 128,
    "x86_smm": 117,
    "multi_address_space": 118,
    "x86_disable_exits": 143,
    "nested_state": 157,
    "manual_dirty_log_protect2": 168,
    "pmu_event_filter": 173,
    "dirty_log_ring": 192,
    "x86_bus_lock_exit": 193,
    "vm_types": 235,
    "exit_hypercall": 201,
    "memory_fault_info": 232,
    "guest_memfd": 234,
}
