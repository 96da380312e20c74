# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""/dev/kvm, a VM and its vCPUs: thin context managers over file descriptors and ioctls.

Source: Documentation/virt/kvm/api.rst. A failing ioctl raises KvmError that says what was tried.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import struct
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Iterable, Sequence

from . import abi
from .errors import HostError, KvmError

if TYPE_CHECKING:
    from .memory import GuestMemory

DEVICE = "/dev/kvm"
_TSS_ADDRESS = 0xFFFB_D000  # three pages that Intel's real-mode emulation needs, below the BIOS
_IDENTITY_MAP_ADDRESS = 0xFFFB_C000
_PIT_CONFIG = abi.kvm_pit_config(flags=abi.PIT_SPEAKER_DUMMY)
_CPUID_ENTRY_SIZE = ctypes.sizeof(abi.kvm_cpuid_entry2)
_MAX_CPUID_ENTRIES = 256  # KVM_MAX_CPUID_ENTRIES

_LOAD = "load kvm_intel or kvm_amd; if that fails, enable VT-x or AMD-V in the firmware"
_BUSY = "another hypervisor holds the CPU's virtualization: stop its guests and unload its modules"


def _signed(value: int) -> int:
    """Return ``value`` as fcntl.ioctl wants its argument: a signed C int."""
    return value - (1 << 32) if value >= 1 << 31 else value


def _ioctl(descriptor: int, request: int, argument: Any, what: str) -> int:
    # Buffers are writable ones: of immutable ones fcntl takes 1,024 bytes and hides the result.
    try:
        return int(fcntl.ioctl(descriptor, request, argument))
    except OSError as error:
        busy = error.errno == errno.EBUSY and request == abi.CREATE_VM
        kind = HostError if busy or request == abi.CREATE_VM else KvmError
        raise kind(f"cannot {what}: {error.strerror}", _BUSY if busy else None) from error


class _Descriptor:
    """Owns a file descriptor and closes it once."""

    def __init__(self, descriptor: int) -> None:
        self.fd = descriptor

    def close(self) -> None:
        """Close the descriptor."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __exit__(self, *_: object) -> None:
        self.close()


class Kvm(_Descriptor):
    """The KVM device. Its API version is checked before anything else."""

    def __init__(self, path: str = DEVICE) -> None:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise HostError(f"{path} is missing", _LOAD) from error
        except PermissionError as error:
            raise HostError(
                f"{path} may not be opened by this user", "run as root or join the group kvm"
            ) from error
        except OSError as error:
            remedy = _BUSY if error.errno == errno.EBUSY else _LOAD
            raise HostError(f"cannot open {path}: {error.strerror}", remedy) from error
        super().__init__(descriptor)
        self.path = path
        try:
            version = fcntl.ioctl(descriptor, abi.GET_API_VERSION, 0)
        except OSError as error:
            self.close()
            raise HostError(f"{path} is not a KVM device: {error.strerror}") from error
        if version != abi.API_VERSION:
            self.close()
            raise HostError(f"{path}: expected KVM API {abi.API_VERSION}, found {version}")

    def __enter__(self) -> Kvm:
        return self

    def check_extension(self, capability: int) -> int:
        """Return KVM's answer for a capability: 0 where it is absent."""
        return fcntl.ioctl(self.fd, abi.CHECK_EXTENSION, capability)

    def max_vcpus(self) -> int:
        """Return how many vCPUs a VM may have here (api.rst, KVM_CAP_MAX_VCPUS)."""
        capabilities = abi.CAPABILITIES
        return (
            self.check_extension(capabilities["max_vcpus"])
            or self.check_extension(capabilities["nr_vcpus"])
            or 4
        )

    def vcpu_mmap_size(self) -> int:
        """Return the bytes of the area that a vCPU shares with this process."""
        return _ioctl(self.fd, abi.GET_VCPU_MMAP_SIZE, 0, "ask for the vCPU's shared area")

    def supported_cpuid(self) -> bytearray:
        """Return the CPUID that KVM can give to a guest, as a struct kvm_cpuid2."""
        buffer = bytearray(8 + _MAX_CPUID_ENTRIES * _CPUID_ENTRY_SIZE)
        struct.pack_into("I", buffer, 0, _MAX_CPUID_ENTRIES)
        _ioctl(self.fd, abi.GET_SUPPORTED_CPUID, buffer, "read the supported CPUID")
        (count,) = struct.unpack_from("I", buffer)
        del buffer[8 + count * _CPUID_ENTRY_SIZE :]
        return buffer

    def feature_msrs(self) -> dict[int, int]:
        """Return the feature MSRs and the values that a guest may be given; empty where unknown."""
        buffer = bytearray(4 + 4 * 1024)
        struct.pack_into("I", buffer, 0, 1024)
        try:
            fcntl.ioctl(self.fd, abi.GET_MSR_FEATURE_INDEX_LIST, buffer)
        except OSError:
            return {}
        (count,) = struct.unpack_from("I", buffer)
        values = {}
        for index in struct.unpack_from(f"{count}I", buffer, 4):
            # One at a time: the kernel stops at the first MSR that it cannot read.
            one = bytearray(struct.pack("IIIIQ", 1, 0, index, 0, 0))
            try:
                if fcntl.ioctl(self.fd, abi.GET_MSRS, one) == 1:
                    values[index] = struct.unpack_from("Q", one, 16)[0]
            except OSError:
                continue
        return values

    def create_vm(self) -> Vm:
        """Return a new VM. HostError if KVM refuses: busy, or too little memory."""
        return Vm(self, _ioctl(self.fd, abi.CREATE_VM, 0, "create a VM"))


class Vm(_Descriptor):
    """One virtual machine, without memory, devices or vCPUs at first."""

    def __init__(self, kvm: Kvm, descriptor: int) -> None:
        super().__init__(descriptor)
        self.kvm = kvm

    def __enter__(self) -> Vm:
        return self

    def check_extension(self, capability: int) -> int:
        """Return KVM's answer for a capability of this VM."""
        return fcntl.ioctl(self.fd, abi.CHECK_EXTENSION, capability)

    def reserve_pages(self) -> None:
        """Give KVM the pages that Intel's CPUs need for a guest without paging."""
        _ioctl(self.fd, abi.SET_TSS_ADDR, _signed(_TSS_ADDRESS), "set the TSS address")
        address = bytearray(struct.pack("Q", _IDENTITY_MAP_ADDRESS))
        _ioctl(self.fd, abi.SET_IDENTITY_MAP_ADDR, address, "set the identity map's address")

    def create_platform(self) -> None:
        """Give the VM the kernel's PIC, IOAPIC, local APICs and PIT; must precede the vCPUs."""
        self.reserve_pages()
        _ioctl(self.fd, abi.CREATE_IRQCHIP, 0, "create the interrupt controllers")
        _ioctl(self.fd, abi.CREATE_PIT2, _PIT_CONFIG, "create the timer")

    def add_memory(self, memory: GuestMemory) -> None:
        """Make every region of ``memory`` a slot of the VM."""
        for slot, region in enumerate(memory.regions):
            argument = abi.kvm_userspace_memory_region(
                slot=slot,
                flags=abi.MEM_READONLY if region.read_only else 0,
                guest_phys_addr=region.start,
                memory_size=region.size,
                userspace_addr=region.address,
            )
            _ioctl(self.fd, abi.SET_USER_MEMORY_REGION, argument, "add guest memory")

    def irq_line(self, irq: int, level: int) -> None:
        """Set the state of an interrupt line of the PIC and the IOAPIC."""
        fcntl.ioctl(self.fd, abi.IRQ_LINE, struct.pack("II", irq, level))

    def set_routing(self, entries: Sequence[bytes]) -> None:
        """Set where every interrupt of the VM goes: one struct kvm_irq_routing_entry each."""
        argument = bytearray(struct.pack("II", len(entries), 0) + b"".join(entries))
        _ioctl(self.fd, abi.SET_GSI_ROUTING, argument, "route interrupts")

    def irqfd(self, descriptor: int, gsi: int, *, assign: bool) -> None:
        """Let the eventfd ``descriptor`` raise the interrupt ``gsi``, or no longer."""
        flags = 0 if assign else abi.IRQFD_DEASSIGN
        argument = abi.kvm_irqfd(fd=descriptor, gsi=gsi, flags=flags)
        _ioctl(self.fd, abi.IRQFD, argument, f"tie an interrupt to eventfd {descriptor}")

    def ioeventfd(self, descriptor: int, address: int, *, assign: bool) -> None:
        """Let a write of any size to ``address`` signal the eventfd ``descriptor``."""
        flags = 0 if assign else abi.IOEVENTFD_DEASSIGN
        argument = abi.kvm_ioeventfd(addr=address, fd=descriptor, flags=flags)
        _ioctl(self.fd, abi.IOEVENTFD, argument, f"tie eventfd {descriptor} to {address:#x}")

    def create_vcpu(self, index: int) -> Vcpu:
        """Return the vCPU with the APIC id ``index``."""
        return Vcpu(self, _ioctl(self.fd, abi.CREATE_VCPU, index, f"create vCPU {index}"), index)


class Vcpu(_Descriptor):
    """One virtual CPU and the ``struct kvm_run`` that it shares with this process.

    ``run8`` … ``run64`` are views of that structure in elements of 8 … 64 bits: on the way of every
    exit they cost a tenth of what ctypes attributes do.
    """

    def __init__(self, vm: Vm, descriptor: int, index: int) -> None:
        super().__init__(descriptor)
        self.index = index
        try:
            self._map = mmap.mmap(descriptor, vm.kvm.vcpu_mmap_size())
        except OSError as error:
            self.close()
            raise KvmError(f"cannot map vCPU {index}: {error.strerror}") from error
        self.run8 = memoryview(self._map)
        self.run16 = self.run8.cast("H")
        self.run32 = self.run8.cast("I")
        self.run64 = self.run8.cast("Q")
        # Enters the guest; `run` is the same with errors and the exit reason looked after.
        self.enter = partial(fcntl.ioctl, descriptor, abi.RUN, 0)

    def __enter__(self) -> Vcpu:
        return self

    def close(self) -> None:
        """Unmap the shared area and close the vCPU."""
        if self.fd >= 0 and hasattr(self, "run8"):
            for view in (self.run64, self.run32, self.run16, self.run8):
                view.release()
            self._map.close()
        super().close()

    def run(self) -> int:
        """Enter the guest and return the exit reason; EXIT_INTR if a signal or a kick ended it."""
        try:
            self.enter()
        except OSError as error:
            self.check_interrupted(error)
            return abi.EXIT_INTR
        return self.run32[2]

    def check_interrupted(self, error: OSError) -> None:
        """Raise KvmError unless ``error`` only means that the entry was cut short.

        EINTR: a signal came, or a kick. EAGAIN: it was woken before the boot CPU started it.
        """
        if error.errno not in {errno.EINTR, errno.EAGAIN}:
            raise KvmError(f"cannot run vCPU {self.index}: {error.strerror}") from error

    def kick(self) -> None:
        """Make the present or the next KVM_RUN return at once (kvm_run.immediate_exit)."""
        self.run8[1] = 1

    def release(self) -> None:
        """Let KVM_RUN enter the guest again, which learns that it stood still.

        Without that a guest takes the pause for a CPU that hangs (api.rst, KVM_KVMCLOCK_CTRL).
        """
        self.run8[1] = 0
        with suppress(OSError):  # a guest that does not use KVM's clock
            fcntl.ioctl(self.fd, abi.KVMCLOCK_CTRL, 0)

    def regs(self) -> abi.kvm_regs:
        """Return the general registers."""
        regs = abi.kvm_regs()
        _ioctl(self.fd, abi.GET_REGS, regs, "read the registers")
        return regs

    def set_regs(self, regs: abi.kvm_regs) -> None:
        """Set the general registers."""
        _ioctl(self.fd, abi.SET_REGS, regs, "set the registers")

    def sregs(self) -> abi.kvm_sregs:
        """Return segments, tables and control registers."""
        sregs = abi.kvm_sregs()
        _ioctl(self.fd, abi.GET_SREGS, sregs, "read the special registers")
        return sregs

    def set_sregs(self, sregs: abi.kvm_sregs) -> None:
        """Set segments, tables and control registers."""
        _ioctl(self.fd, abi.SET_SREGS, sregs, "set the special registers")

    def set_cpuid(self, cpuid: bytearray) -> None:
        """Set what the guest's CPUID instruction answers: a struct kvm_cpuid2."""
        _ioctl(self.fd, abi.SET_CPUID2, cpuid, "set the CPUID")

    def set_msrs(self, values: Iterable[tuple[int, int]]) -> None:
        """Set model specific registers; KvmError names the first that KVM does not take."""
        pairs = list(values)
        argument = bytearray(struct.pack("II", len(pairs), 0))
        for index, data in pairs:
            argument += bytes(abi.kvm_msr_entry(index=index, data=data))
        count = _ioctl(self.fd, abi.SET_MSRS, argument, "set MSRs")
        if count < len(pairs):
            raise KvmError(f"KVM does not take MSR {pairs[count][0]:#x}")
