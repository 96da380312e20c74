# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds a machine: the one place that says in which order its parts come up.

The order is KVM's: platform (TSS, identity map, interrupt controllers, timer) before the vCPUs,
CPUID before the registers (Documentation/virt/kvm/api.rst). Memory comes before the platform: with
interrupt controllers in place every new slot waits milliseconds for a grace period.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Callable, NamedTuple, Protocol, Sequence, TypeVar

from . import abi, cpu, pc
from .bus import Bus
from .errors import ConfigError, HostError
from .loader import Entry, Flat, Image, Multiboot, encode_cmdline, loader_for
from .memory import PLAIN, Backing, GuestMemory, Region
from .pc import SCI_IRQ
from .serial import COM1_IRQ, COM1_PORT, Serial

if TYPE_CHECKING:
    from .device import Kvm, Vcpu, Vm
    from .events import Worker
    from .pci import Function
    from .virtio.device import VirtioDevice
    from .virtio.pci import Transport


_ARCHITECTURE = os.uname().machine


class _Part(Protocol):
    """What a machine is made of and takes down again."""

    def close(self) -> None:
        """Give back what it holds."""


_P = TypeVar("_P", bound=_Part)


class MachineConfig(NamedTuple):
    """What a machine is made of: ``memory`` in bytes, ``brand`` as cpu.host_brand gives it.

    ``native`` is what `runs_natively` says, None where nobody has asked yet.

    ``devices`` are made anew for every machine, over what they stand on; ``regions`` are what those
    have in the guest's memory, whose own comes from ``backing``. ``functions`` are what else there
    is on the PCI bus, made for the address of their BAR.
    """

    kernel: Image
    memory: int
    vcpus: int = 1
    cmdline: str = ""
    initrd: Image | None = None
    brand: bytes = b""
    devices: Sequence[Callable[[], VirtioDevice]] = ()
    backing: Backing = PLAIN
    regions: Sequence[Region] = ()
    functions: Sequence[Callable[[int], Function]] = ()
    native: bool | None = None


def runs_natively(kvm: Kvm) -> bool:
    """Return whether a guest's kernel runs on the CPU, and is not interpreted by KVM."""
    if any(os.path.exists(f"/sys/module/{name}") for name in ("kvm_intel", "kvm_amd")):
        return True
    from .probe import ring0  # a VM more, where the module does not tell

    return ring0(kvm) != "emulated"


def _check_native(kvm: Kvm, wanted: bool, known: bool | None) -> None:
    """Raise HostError where a kernel would stand still at what KVM's emulator does not know."""
    if wanted and not (runs_natively(kvm) if known is None else known):
        raise HostError(
            "this host's KVM interprets privileged code instead of running it (as under a PVM"
            " hypervisor): no Linux kernel boots here",
            "use a host with kvm_intel or kvm_amd, or the engine libvirt with accel: tcg",
        )


class Machine:
    """A machine that is ready to run; a context manager that takes it down again."""

    def __init__(self, kvm: Kvm, config: MachineConfig, sink: Callable[[bytes], None]) -> None:
        if _ARCHITECTURE != "x86_64":
            raise HostError(f"the helper runs x86-64 guests only, this host is {_ARCHITECTURE}")
        images = [config.kernel, *([config.initrd] if config.initrd is not None else [])]
        for image in images:
            image.check_whole()
        loader = loader_for(config.kernel)
        cmdline = encode_cmdline(config.cmdline)
        loader.check(config.memory, cmdline, config.initrd)
        _check_native(kvm, loader.wants_native, config.native)
        limit = kvm.max_vcpus()
        if not 1 <= config.vcpus <= limit:
            raise ConfigError(f"expected 1 to {limit} vCPUs, found {config.vcpus}")
        self.config = config
        self.bus = Bus()
        self.vcpus: list[Vcpu] = []
        self.devices: list[VirtioDevice] = []
        self.transports: list[Transport] = []
        self.functions: list[Function] = []
        self.workers: list[Worker] = []
        self._parts: list[_Part] = []  # to be closed, the last one first
        try:
            self.vm: Vm = self._part(kvm.create_vm())
            self.memory = self._part(GuestMemory(config.memory, config.backing, config.regions))
            self.vm.add_memory(self.memory)
            self.vm.create_platform()
            entry = loader.load(self.memory, cmdline, config.initrd)
            for image in images:
                image.forget()
            self.power = pc.PowerManagement(lambda level: self.vm.irq_line(SCI_IRQ, level))
            self.serial = Serial(sink, lambda level: self.vm.irq_line(COM1_IRQ, level))
            self._add_devices()
            linux = not isinstance(loader, (Flat, Multiboot))
            if linux or config.devices or config.functions:
                self._add_platform()
            supported = kvm.supported_cpuid()
            if kvm.check_extension(abi.CAPABILITIES["tsc_deadline_timer"]):
                cpu.add_tsc_deadline(supported)
            for index in range(config.vcpus):
                vcpu = self._part(self.vm.create_vcpu(index))
                vcpu.set_cpuid(cpu.cpuid_for(supported, index, config.vcpus, config.brand))
                if linux:
                    vcpu.set_msrs(cpu.FIRMWARE_MSRS)
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

    def _add_platform(self) -> None:
        """Add what a kernel for a modern PC looks for: ACPI's tables and registers, PCI."""
        from . import acpi  # what follows costs the start of a bare program milliseconds
        from .events import Interrupts, Worker
        from .pci import BAR_SIZE, CONFIG_PORTS, WINDOW, PciBus
        from .virtio.pci import Transport

        self.bus.add_ports(pc.POWER_MANAGEMENT, 6, self.power)
        tables = acpi.tables(self.config.vcpus, WINDOW, self.memory.high_window())
        self.memory.write(acpi.RSDP_ADDRESS, tables)
        pci = PciBus()
        self.bus.add_ports(CONFIG_PORTS, 8, pci)
        self.bus.add_ports(pc.RESET_CONTROL, 1, pc.ResetControl())
        interrupts = Interrupts(self.vm)
        shared = None
        for make in self.config.devices:
            device = make()
            # A worker outlives the transports that it serves.
            if device.blocking:
                device.worker = self._part(Worker(device.name))
                self.workers.append(device.worker)
            elif len(device.in_kernel) < len(device.limits):
                if shared is None:
                    shared = self._part(Worker("virtio"))
                    self.workers.append(shared)
                device.worker = shared
            bar = WINDOW[0] + len(self.devices) * BAR_SIZE
            transport = self._part(Transport(device, self.vm, self.memory, interrupts, bar))
            pci.add(transport)
            transport.place(self.bus)
            self.devices.append(device)
            self.transports.append(transport)
        # Behind the devices, whose places on the bus make their names in the guest.
        for number, plug in enumerate(self.config.functions, len(self.devices)):
            function = plug(WINDOW[0] + number * BAR_SIZE)
            function.place(self.bus)
            pci.add(function)
            self.functions.append(function)

    def _enter(self, vcpu: Vcpu, entry: Entry) -> None:
        sregs = vcpu.sregs()
        if entry.mode == "real":
            cpu.enter_real_mode(sregs)
        elif entry.mode == "long":
            for address, table in cpu.long_mode_tables(entry.top):
                self.memory.write(address, table)
            cpu.enter_long_mode(sregs)
        else:
            cpu.enter_protected_mode(sregs)
        vcpu.set_sregs(sregs)
        vcpu.set_regs(
            abi.kvm_regs(
                rip=entry.rip,
                rsp=entry.rsp,
                rax=entry.rax,
                rbx=entry.rbx,
                rsi=entry.rsi,
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
