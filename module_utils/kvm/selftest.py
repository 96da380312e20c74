# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs small guests and measures what this host's KVM costs and gives.

Times are of whole round trips as a user-space monitor in Python sees them. The two ratios are the
speed of the same machine code at ring 3 in the guest over its speed in this process, on one CPU, in
alternation: 1.0 is native speed.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import statistics
import threading
import time
from contextlib import ExitStack, contextmanager
from typing import Any, Callable, Iterator

from . import abi, cpu
from .device import DEVICE, Kvm, Vcpu, Vm
from .errors import HostError, InputFileError, KvmError
from .memory import PAGE, GuestMemory
from .probe import ring0

_MIB = 1 << 20
_CODE = 0x1000  # where guest code is loaded
_TABLES = 0x2000  # page tables of the long-mode guest: three pages
_BUFFER = 2 * _MIB  # what the memory walk reads, from here
_WALKED = 32 * _MIB  # more than the caches and the TLB's reach of most CPUs
_EXITS = 2000  # round trips in one sample
_HALT = 0.001  # seconds until a vCPU is surely asleep
_WAKE_TIMEOUT = 2.0


def assemble(listing: str) -> bytes:
    """Return the code in the first column of ``listing``; the second one is its assembly."""
    return b"".join(bytes.fromhex(line[:32]) for line in listing.strip("\n").split("\n"))


# 32-bit code, no paging. The exits are the loops' bodies.
PIO_LOOP = """
e6 f4                             out 0xf4, al
eb fc                             jmp .-2
"""
MMIO_LOOP = """
a2 00 00 00 d0                    mov ds:[0xd0000000], al
eb f9                             jmp .-5
"""
# 16-bit code: an interrupt handler may end in iret everywhere only in real mode. An interrupt that
# comes before the halt waits for it, or nothing would end it.
HALT_LOOP = """
b0 11                             mov al, 0x11
e6 20                             out 0x20, al
b0 20                             mov al, 0x20
e6 21                             out 0x21, al
b0 04                             mov al, 4
e6 21                             out 0x21, al
b0 01                             mov al, 1
e6 21                             out 0x21, al
b0 ef                             mov al, 0xef
e6 21                             out 0x21, al
fa                                cli
e6 f4                             out 0xf4, al
fb                                sti
f4                                hlt
eb f9                             jmp .-5
"""
HANDLER = """
50                                push ax
b0 20                             mov al, 0x20
e6 20                             out 0x20, al
58                                pop ax
cf                                iret
"""
# 64-bit code at ring 3: rdi is how often, rsi the buffer. Four dependent integer operations a turn.
INTEGER_LOOP = """
48 89 f0                          mov rax, rsi
48 69 c0 6d 4e c6 41              imul rax, rax, 0x41c64e6d
48 05 39 30 00 00                 add rax, 0x3039
48 31 f8                          xor rax, rdi
48 c1 c0 0d                       rol rax, 13
48 ff cf                          dec rdi
75 e7                             jne .-23
"""
# Reads at pseudo-random places of 32 MiB, each depending on the one before.
MEMORY_LOOP = """
31 c0                             xor eax, eax
31 d2                             xor edx, edx
69 c0 0d 66 19 00                 imul eax, eax, 0x19660d
05 5f f3 6e 3c                    add eax, 0x3c6ef35f
01 d0                             add eax, edx
25 f8 ff ff 01                    and eax, 0x1fffff8
48 8b 14 06                       mov rdx, [rsi + rax]
48 ff cf                          dec rdi
75 e5                             jne .-25
"""
_GUEST_END = b"\xe6\xf4"  # out 0xf4, al
_NATIVE_END = b"\xc3"  # ret


class Bench:
    """One VM with one vCPU for small programs."""

    def __init__(self, kvm: Kvm, memory: int = _MIB) -> None:
        with ExitStack() as stack:
            self.vm: Vm = stack.enter_context(kvm.create_vm())
            self.memory = GuestMemory(memory)
            stack.callback(self.memory.close)
            self.vm.add_memory(self.memory)
            self.vm.create_platform()
            self.vcpu: Vcpu = stack.enter_context(self.vm.create_vcpu(0))
            self._stack = stack.pop_all()

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def enter(self, code: bytes, mode: Callable[[abi.kvm_sregs], None], **regs: int) -> None:
        """Load ``code`` and set the vCPU to its start in the given mode."""
        self.memory.write(_CODE, code)
        sregs = self.vcpu.sregs()
        mode(sregs)
        self.vcpu.set_sregs(sregs)
        flags = regs.pop("rflags", cpu.RFLAGS_RESERVED)
        self.vcpu.set_regs(abi.kvm_regs(rip=_CODE, rsp=_CODE, rflags=flags, **regs))

    def run_to(self, reason: int) -> None:
        """Run until an exit, which must be ``reason``."""
        found = self.vcpu.run()
        while found == abi.EXIT_INTR:
            found = self.vcpu.run()
        if found != reason:
            name = abi.EXIT_NAMES.get(found, str(found))
            raise KvmError(f"expected the exit {abi.EXIT_NAMES[reason]}, found {name}")


def _measurement(name: str, title: str, unit: str, samples: list[float]) -> dict[str, Any]:
    return {
        "id": name,
        "title": title,
        "unit": unit,
        "value": statistics.median(samples),
        "min": min(samples),
        "max": max(samples),
        "samples": len(samples),
    }


def _first_instruction(device: str, rounds: int) -> dict[str, Any]:
    """Time from opening the device to the first instruction's exit."""
    samples = []
    code = assemble(PIO_LOOP)
    for _ in range(rounds):
        begin = time.perf_counter()
        with Kvm(device) as kvm, Bench(kvm) as bench:
            bench.enter(code, cpu.enter_protected_mode)
            bench.run_to(abi.EXIT_IO)
            samples.append((time.perf_counter() - begin) * 1e6)
    title = "open /dev/kvm to first instruction"
    return _measurement("open_to_first_instruction", title, "us", samples)


def _round_trip(
    kvm: Kvm, rounds: int, name: str, title: str, listing: str, reason: int
) -> dict[str, Any]:
    """Time a loop whose body is one exit."""
    samples = []
    with Bench(kvm) as bench:
        bench.enter(assemble(listing), cpu.enter_protected_mode)
        bench.run_to(reason)
        for _ in range(rounds):
            begin = time.perf_counter()
            for _ in range(_EXITS):
                bench.run_to(reason)
            samples.append((time.perf_counter() - begin) / _EXITS * 1e6)
    return _measurement(name, title, "us", samples)


def _wake_up(kvm: Kvm, rounds: int) -> dict[str, Any]:
    """Time from an interrupt for a halted vCPU to its next exit to user space."""
    awake = threading.Event()
    ended = threading.Event()
    times = [0.0]
    with Bench(kvm) as bench:
        handler = _CODE + 0x100
        bench.enter(assemble(HALT_LOOP), cpu.enter_real_mode)
        bench.memory.write(handler, assemble(HANDLER))
        bench.memory.write(0x24 * 4, handler.to_bytes(4, "little"))  # IRQ 4 in the vector table

        def vcpu_thread() -> None:
            while not ended.is_set():
                reason = bench.vcpu.run()
                if bench.vcpu.run16[17] == 0xF4 and reason == abi.EXIT_IO:
                    times[0] = time.perf_counter()
                    awake.set()
                elif reason not in {abi.EXIT_IO, abi.EXIT_INTR}:
                    return

        def expect_exit() -> None:
            if not awake.wait(_WAKE_TIMEOUT):
                raise KvmError("a halted vCPU does not wake up at an interrupt")

        thread = threading.Thread(target=vcpu_thread, daemon=True)
        thread.start()
        samples = []
        try:
            expect_exit()  # an interrupt before the guest has set up the PIC would be lost
            for _ in range(rounds):
                time.sleep(_HALT)
                awake.clear()
                begin = time.perf_counter()
                bench.vm.irq_line(4, 1)
                bench.vm.irq_line(4, 0)
                expect_exit()
                samples.append((times[0] - begin) * 1e6)
        finally:
            ended.set()
            bench.vcpu.kick()
            bench.vm.irq_line(4, 1)  # the kick is seen at the next entry: wake it up
            thread.join(_WAKE_TIMEOUT)
    return _measurement("hlt_wakeup", "interrupt to wake-up of a halted vCPU", "us", samples)


def _enter_ring3(sregs: abi.kvm_sregs) -> None:
    """Set 64-bit mode at ring 3 with the page tables of `_identity_map`."""
    cpu.enter_protected_mode(sregs)
    for segment in (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss):
        segment.dpl, segment.selector = 3, 0x23
    sregs.cs.dpl, sregs.cs.selector, sregs.cs.l, sregs.cs.db = 3, 0x1B, 1, 0
    sregs.cr3 = _TABLES
    sregs.cr4 |= 1 << 5  # PAE
    sregs.cr0 = 0x8000_0033  # PG, NE, ET, MP, PE
    sregs.efer |= 0x500  # LMA, LME


def _identity_map(memory: GuestMemory) -> None:
    """Map the first GiB to itself for ring 3, in pages of 2 MiB."""
    present = 0x07  # present, writable, for ring 3
    memory.write(_TABLES, (_TABLES + PAGE | present).to_bytes(8, "little"))
    memory.write(_TABLES + PAGE, (_TABLES + 2 * PAGE | present).to_bytes(8, "little"))
    large = [(page << 21 | 0x80 | present).to_bytes(8, "little") for page in range(512)]
    memory.write(_TABLES + 2 * PAGE, b"".join(large))


@contextmanager
def _native(code: bytes) -> Iterator[Callable[[int, int], Any]]:
    """Give ``code`` as a function of this process."""
    page = mmap.mmap(-1, PAGE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    anchor = ctypes.c_char.from_buffer(page)
    try:
        prototype = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint64)
        yield prototype(ctypes.addressof(anchor))
    finally:
        del anchor
        page.close()


@contextmanager
def _one_cpu() -> Iterator[None]:
    """Keep this thread on the CPU that it is on, or any one of those it may use."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _speed(
    kvm: Kvm, rounds: int, name: str, title: str, listing: str, turns: int
) -> dict[str, Any]:
    """Compare the speed of the same code in the guest and here, in alternation."""
    code = assemble(listing)
    samples: list[float] = []
    with Bench(kvm, _BUFFER + _WALKED) as bench, _native(code + _NATIVE_END) as native, _one_cpu():
        # Newer kernels refuse long mode to a vCPU whose CPUID does not have it.
        bench.vcpu.set_cpuid(kvm.supported_cpuid())
        _identity_map(bench.memory)
        region = bench.memory.regions[0]
        region.map[_BUFFER:] = bytes(_WALKED)  # both sides find the pages there
        regs = {"rdi": turns, "rsi": _BUFFER, "rflags": cpu.RFLAGS_RESERVED | 3 << 12}  # IOPL 3

        def guest() -> float:
            bench.enter(code + _GUEST_END, _enter_ring3, **regs)
            begin = time.perf_counter()
            bench.run_to(abi.EXIT_IO)
            return time.perf_counter() - begin

        def here() -> float:
            begin = time.perf_counter()
            native(turns, region.address + _BUFFER)
            return time.perf_counter() - begin

        guest()
        here()
        samples += [here() / guest() for _ in range(rounds)]
    return _measurement(name, title, "ratio", samples)


def _steps(kvm: Kvm, rounds: int) -> dict[str, Callable[[], dict[str, Any]]]:
    """Return the measurements by id."""

    def exits(name: str, title: str, listing: str, reason: int) -> Callable[[], dict[str, Any]]:
        return lambda: _round_trip(kvm, rounds, name, title, listing, reason)

    def speed(name: str, title: str, listing: str, turns: int) -> Callable[[], dict[str, Any]]:
        return lambda: _speed(kvm, rounds, name, title, listing, turns)

    walk = "memory walk, guest over native"
    return {
        "open_to_first_instruction": lambda: _first_instruction(kvm.path, rounds),
        "pio_exit": exits("pio_exit", "port exit, round trip", PIO_LOOP, abi.EXIT_IO),
        "mmio_exit": exits("mmio_exit", "MMIO exit, round trip", MMIO_LOOP, abi.EXIT_MMIO),
        "hlt_wakeup": lambda: _wake_up(kvm, 3 * rounds),
        "integer_ratio": speed(
            "integer_ratio", "integer loop, guest over native", INTEGER_LOOP, 4_000_000
        ),
        "memory_ratio": speed("memory_ratio", walk, MEMORY_LOOP, 200_000),
    }


def _linux(kvm: Kvm, result: dict[str, Any]) -> None:
    """Boot the host's own kernel, and note in the result how that went."""
    from .selftest_linux import boot, kernel_of

    try:
        seconds = boot(kvm, kernel_of(os.uname().release))
    except (HostError, InputFileError) as error:
        result["facts"]["linux_boot"] = str(error)
    except KvmError as error:
        result["errors"]["linux_boot"] = str(error)
    else:
        title = "power-on to the first process of Linux"
        result["measurements"].append(_measurement("linux_boot", title, "ms", [seconds * 1e3]))


def selftest(device: str = DEVICE, rounds: int = 9, *, linux: bool = True) -> dict[str, Any]:
    """Measure, and return ``ok``, ``error``, ``measurements``, ``facts`` and ``errors``.

    A host without a usable KVM gives ``ok`` false and the reason. What KVM cannot do here although
    it works is a fact: its measurement is missing, and ``facts`` says why under the same id. What
    it should do and did not is in ``errors``. With ``linux`` the host's own kernel is booted, too.
    """
    result: dict[str, Any] = {"ok": False, "error": None, "measurements": [], "facts": {}}
    result["errors"] = {}
    try:
        with Kvm(device) as kvm:
            result["facts"]["ring0"] = ring0(kvm)
            result["ok"] = True
            for name, step in _steps(kvm, rounds).items():
                try:
                    result["measurements"].append(step())
                except (KvmError, OSError) as error:  # noqa: PERF203 - six turns
                    result["facts"][name] = str(error)
            if linux:
                _linux(kvm, result)
            else:
                result["facts"]["linux_boot"] = "it was not asked for"
    except KvmError as error:
        result["error"] = f"{error}; {error.remedy}" if error.remedy else str(error)
    return result
