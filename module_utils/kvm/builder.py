# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds a machine: the one place that says in which order its parts come up.

The order is KVM's: platform (TSS, identity map, interrupt controllers, timer) before the vCPUs,
CPUID before the registers (Documentation/virt/kvm/api.rst). Memory comes before the platform: with
interrupt controllers in place every new slot waits milliseconds for a grace period.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Callable, NamedTuple, Protocol, TypeVar

from . import abi, cpu, pc
from .bus import Bus
from .errors import ConfigError, HostError
from .loader import Entry, Image, encode_cmdline, loader_for
from .memory import GuestMemory
from .serial import COM1_IRQ, COM1_PORT, Serial

if TYPE_CHECKING:
    from .device import Kvm, Vcpu, Vm


_ARCHITECTURE = os.uname().machine


class _Part(Protocol):
    """What a machine is made of and takes down again."""

    def close(self) -> None:
        """Give back what it holds."""


_P = TypeVar("_P", bound=_Part)


class MachineConfig(NamedTuple):
    """What a machine is made of: ``memory`` in bytes, ``brand`` as cpu.host_brand gives it."""

    kernel: Image
    memory: int
    vcpus: int = 1
    cmdline: str = ""
    initrd: Image | None = None
    brand: bytes = b""


class Machine:
    """A machine that is ready to run; a context manager that takes it down again."""

    def __init__(self, kvm: Kvm, config: MachineConfig, sink: Callable[[bytes], None]) -> None:
        if _ARCHITECTURE != "x86_64":
            raise HostError(f"the helper runs x86-64 guests only, this host is {_ARCHITECTURE}")
        loader = loader_for(config.kernel)
        cmdline = encode_cmdline(config.cmdline)
        loader.check(config.memory, cmdline, config.initrd)
        limit = kvm.max_vcpus()
        if not 1 <= config.vcpus <= limit:
            raise ConfigError(f"expected 1 to {limit} vCPUs, found {config.vcpus}")
        self.config = config
        self.bus = Bus()
        self.vcpus: list[Vcpu] = []
        self._parts: list[_Part] = []  # to be closed, the last one first
        try:
            self.vm: Vm = self._part(kvm.create_vm())
            self.memory = self._part(GuestMemory(config.memory))
            self.vm.add_memory(self.memory)
            self.vm.create_platform()
            entry = loader.load(self.memory, cmdline, config.initrd)
            self.serial = Serial(sink, lambda level: self.vm.irq_line(COM1_IRQ, level))
            self._add_devices()
            supported = kvm.supported_cpuid()
            for index in range(config.vcpus):
                vcpu = self._part(self.vm.create_vcpu(index))
                vcpu.set_cpuid(cpu.cpuid_for(supported, index, config.vcpus, config.brand))
                self.vcpus.append(vcpu)
            # The others wait in their local APIC until the boot CPU starts them.
            self._enter(self.vcpus[0], entry)
        except BaseException:
            self.close()
            raise

    def _part(self, part: _P) -> _P:
        self._parts.append(part)
        return part

    def _add_devices(self) -> None:
        keyboard = pc.I8042Data()
        self.bus.add_ports(COM1_PORT, 8, self.serial)
        self.bus.add_ports(pc.I8042_DATA, 1, keyboard)
        self.bus.add_ports(pc.I8042_COMMAND, 1, pc.I8042Command(keyboard))
        self.bus.add_ports(pc.CMOS_INDEX, 2, pc.Cmos(self.config.memory))
        self.bus.add_ports(pc.RESET_CONTROL, 1, pc.ResetControl())
        for port in pc.DEBUG_EXITS:
            self.bus.add_ports(port, 1, pc.DebugExit())

    @staticmethod
    def _enter(vcpu: Vcpu, entry: Entry) -> None:
        sregs = vcpu.sregs()
        if entry.mode == "real":
            cpu.enter_real_mode(sregs)
        else:
            cpu.enter_protected_mode(sregs)
        vcpu.set_sregs(sregs)
        vcpu.set_regs(
            abi.kvm_regs(
                rip=entry.rip,
                rsp=entry.rsp,
                rax=entry.rax,
                rbx=entry.rbx,
                rflags=cpu.RFLAGS_RESERVED,
            )
        )

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the vCPUs, give the memory back and close the VM."""
        while self._parts:
            self._parts.pop().close()
