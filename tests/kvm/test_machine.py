# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Machines on the real /dev/kvm, run inside the test: modes, interrupts, devices, endings.

The guests are programs.py's, a few instructions each; a guest that comes to its debug exit has
checked for itself what its program is about.
"""

from __future__ import annotations

import os
import runpy
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ansible.module_utils.kvm import abi, builder, cpu, probe, selftest
from ansible.module_utils.kvm.builder import Machine, MachineConfig
from ansible.module_utils.kvm.bus import Device
from ansible.module_utils.kvm.device import Kvm
from ansible.module_utils.kvm.disk import Raw
from ansible.module_utils.kvm.errors import HostError, KvmError
from ansible.module_utils.kvm.loader import Image
from ansible.module_utils.kvm.runner import Outcome, Runner
from ansible.module_utils.kvm.virtio.block import Block
from ansible.module_utils.kvm.virtio.console import Port, VirtioConsole
from ansible.module_utils.kvm.virtio.entropy import Entropy

if TYPE_CHECKING:
    from types import SimpleNamespace

pytestmark = pytest.mark.kvm

MIB, GIB = 1 << 20, 1 << 30


class Booted:
    """A machine that was run to its end."""

    def __init__(self, content: bytes, *, stdin: bytes = b"", **config: Any) -> None:
        self.content = content
        self.stdin = stdin
        self.config = {"memory": 4 * MIB, "brand": cpu.host_brand(), **config}
        self.output = b""
        self.exits: dict[str, int] = {}
        self.counts: list[dict[str, int]] = []
        self.devices: list[tuple[int, int, Device]] = []

    def _take(self, data: bytes) -> None:
        self.output += data

    def run(self, timeout: float = 10.0) -> Outcome:
        config = MachineConfig(kernel=Image("guest", self.content), **self.config)
        with Kvm() as kvm, Machine(kvm, config, self._take) as machine:
            for base, size, device in self.devices:
                machine.bus.add_mmio(base, size, device)
            machine.serial.receive(self.stdin)
            runner = Runner(machine)
            outcome = runner.run(timeout)
            self.exits = runner.counts()
            self.counts = [dict(device.counts) for device in machine.devices]
        assert not runner.stuck
        return outcome


# program, settings → status, reason, output
ENDS: dict[str, tuple[str, dict[str, Any], int, str, bytes]] = {
    "real mode at 0000:7c00": ("real", {}, 43, "debug exit with value 0x15", b"R"),
    "32-bit protected mode": ("protected", {}, 45, "debug exit with value 0x16", b""),
    "64-bit mode": ("long", {}, 47, "debug exit with value 0x17", b""),
    "PIT and PIC": ("timer", {}, 51, "debug exit with value 0x19", b""),
    "serial port's interrupt": (
        "serial_irq",
        {"stdin": b"A"},
        0x83,
        "debug exit with value 0x41",
        b">",
    ),
    "string I/O": (
        "strings",
        {"stdin": b"12345678"},
        53,
        "debug exit with value 0x1a",
        b"ready: 12345678",
    ),
    "keyboard controller": ("reset_i8042", {}, 0, "reset through the keyboard controller", b""),
    "reset register": ("reset_cf9", {}, 0, "reset through port 0xcf9", b""),
    "one vCPU more, which has to wait": ("real", {"vcpus": 2}, 43, "debug exit", b"R"),
    "command line and module": (
        "multiboot",
        {"cmdline": "hello ", "initrd": Image("module", b"from the module" * 400)},
        3,
        "debug exit with value 0x1",
        b"hello " + b"from the module" * 400,
    ),
    "64-bit mode as Linux is entered": (
        "linux64",
        {"cmdline": "hello ", "initrd": Image("initrd", b"from the initrd" * 400)},
        7,  # three pieces of memory
        "debug exit with value 0x3",
        b"hello " + b"from the initrd" * 400,
    ),
    "64-bit mode with memory above 4 GiB": (
        "linux64",
        {"memory": 4 * GIB, "vcpus": 3},
        9,
        "debug exit with value 0x4",
        b"",
    ),
    "PVH": (
        "pvh",
        {"cmdline": "hello ", "initrd": Image("initrd", b"from the initrd" * 400)},
        7,
        "debug exit with value 0x3",
        b"hello " + b"from the initrd" * 400,
    ),
    "power off through ACPI": ("power_off", {}, 0, "turned itself off", b""),
    "nothing given": ("multiboot", {}, 1, "debug exit with value 0x0", b""),
    "triple fault": ("triple_fault", {}, 72, "triple fault: vCPU 0 at 0x100019", b""),
}


@pytest.mark.parametrize("case", ENDS)
def test_a_program_comes_to_its_end(program, case):
    name, settings, status, reason, output = ENDS[case]
    booted = Booted(program(name), **settings)
    outcome = booted.run()
    assert (outcome.status, booted.output) == (status, output), outcome
    assert outcome.reason.startswith(reason)


def test_a_bzimage_is_entered_at_its_64_bit_entry(images, monkeypatch):
    """A program of a few instructions, which need not be a CPU's own to run."""
    monkeypatch.setattr(builder, "_check_native", lambda *_: None)
    code: bytes = runpy.run_path(str(Path(__file__).parent / "programs.py"))["PROGRAMS"]["linux64"]
    content = images.bzimage(bytes(0x200) + code, pref_address=MIB, init_size=8192)
    booted = Booted(content, memory=16 * MIB, cmdline="hello ", initrd=Image("initrd", b"initrd"))
    assert booted.run().status == 7
    assert booted.output == b"hello initrd"


def test_a_guest_asks_the_entropy_device_and_polls(program):
    booted = Booted(program("virtio_polled"), devices=(Entropy,))
    assert booted.run().status == 57
    assert booted.counts == [{"bytes": 64}]
    # Each register once; the notification is KVM's, and no exit.
    assert booted.exits["mmio"] == 11


def test_a_guest_reads_a_sector_and_is_interrupted(program, tmp_path):
    path = tmp_path / "disk"
    path.write_bytes(bytes(7 * 512) + b"\x1d" * 512 + bytes(8 * 512))
    disk = Raw(str(path), read_only=False)
    booted = Booted(program("virtio_msix"), devices=(lambda: Block(disk),))
    assert booted.run().status == 59
    assert booted.counts == [{"reads": 1, "read_bytes": 512}]
    assert booted.exits["mmio"] == 14
    disk.close()


def test_two_vcpus_both_at_work(program):
    """The boot CPU waits for the sum that the other one adds up after INIT and SIPI."""
    booted = Booted(program("smp"), vcpus=2)
    assert booted.run().status == 49
    assert booted.output == b"ab"


def test_eight_vcpus(program):
    booted = Booted(program("smp"), vcpus=8)
    assert booted.run().status == 49
    assert set(booted.output) == set(b"ab")


def test_a_second_vcpu_is_needed(program):
    """With one alone nobody adds up, and the boot CPU waits for ever."""
    assert Booted(program("smp"), vcpus=1).run(timeout=0.1).status == 124


@pytest.mark.parametrize("port", [0xF4, 0x501])
@pytest.mark.parametrize("width", [1, 2, 4])
@pytest.mark.parametrize("value", [0, 1, 0x7F, 0x80, 0xFFFF_FFFF])
def test_debug_exit(port, width, value):
    out = {1: b"\xee", 2: b"\xef", 4: b"\x66\xef"}[width]  # out dx, al|ax|eax in 16-bit code
    code = b"\xba" + port.to_bytes(2, "little")  # mov dx, port
    code += b"\x66\xb8" + value.to_bytes(4, "little") + out  # mov eax, value
    given = value & (1 << 8 * width) - 1
    outcome = Booted(code, memory=MIB).run()
    assert outcome == Outcome((given << 1 | 1) & 0xFF, f"debug exit with value {given:#x}")


class Recorder(Device):
    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []

    def read(self, offset, size):
        self.seen.append(("read", offset, size))
        return 0x8765_4321

    def write(self, offset, size, value):
        self.seen.append(("write", offset, size, value))


def test_mmio_of_every_size_and_where_nothing_is(program):
    device = Recorder()
    booted = Booted(program("mmio"))
    booted.devices.append((0xD000_0000, 0x1000, device))
    # The program's last read is of an empty address: all ones, plus one, is its exit value.
    assert booted.run() == Outcome(1, "debug exit with value 0x0")
    assert device.seen == [
        ("read", 0x10, 4),
        ("write", 0x14, 4, 0x8765_4321),
        ("read", 0x20, 2),
        ("write", 0x22, 2, 0x4321),
        ("read", 0x30, 1),
        ("write", 0x31, 1, 0x21),
    ]
    assert booted.exits["mmio"] == 8


def test_64_bit_mode_at_ring_3_set_from_outside():
    code = bytes.fromhex("48 89 f8  48 f7 e6  48 c1 e8 20  e6 f4")
    # mov rax, rdi; mul rsi; shr rax, 32; out 0xf4, al
    with Kvm() as kvm, selftest.Bench(kvm) as bench:
        selftest._identity_map(bench.memory)
        flags = cpu.RFLAGS_RESERVED | 3 << 12  # ring 3 may do I/O
        bench.enter(code, selftest._enter_ring3, rdi=0x12_3456_789A, rsi=0x10, rflags=flags)
        bench.run_to(abi.EXIT_IO)
        regs, sregs = bench.vcpu.regs(), bench.vcpu.sregs()
    assert regs.rax == 0x12_3456_789A * 0x10 >> 32
    assert (sregs.cs.selector & 3, sregs.cs.l, sregs.efer & 0x500) == (3, 1, 0x500)


def test_an_instruction_that_kvm_cannot_emulate(program, ring0):
    if ring0 != "emulated":
        pytest.skip(f"ring 0 is {ring0} here: the CPU itself carries the instruction out")
    outcome = Booted(program("popcnt"), memory=MIB).run()
    assert outcome.status == 70
    assert outcome.reason.startswith("KVM internal error: an instruction that KVM cannot emulate (")
    assert "(66 f3 0f b8 c1" in outcome.reason
    assert outcome.reason.endswith("vCPU 0 at 0x7c00")
    assert "rip=0x7c00" in outcome.detail


def test_a_triple_fault_shows_the_registers(program):
    outcome = Booted(program("triple_fault")).run()
    assert "rip=0x100019" in outcome.detail
    assert "rax=0x2badb002" in outcome.detail
    assert "cs=0x8/0x0" in outcome.detail


@pytest.mark.parametrize("name", ["spin", "halt", "flood"])
@pytest.mark.parametrize("vcpus", [1, 2])
def test_a_guest_that_never_ends_is_brought_out(program, name, vcpus):
    begin = time.monotonic()
    assert Booted(program(name), vcpus=vcpus, memory=MIB).run(timeout=0.1).status == 124
    assert time.monotonic() - begin < 2


def test_a_halted_guest_costs_nothing(program):
    before = time.process_time()
    booted = Booted(program("halt"), memory=MIB)
    booted.run(timeout=0.5)
    assert time.process_time() - before < 0.25
    assert sum(booted.exits.values()) < 10


def info_line(output: bytes, key: bytes) -> bytes:
    (line,) = [line for line in output.splitlines() if line.strip().startswith(key)]
    return line.split(None, 1)[1]


@pytest.mark.parametrize(
    ("memory", "shown"),
    [
        (2 * MIB, b"2 MiB"),
        (128 * MIB, b"128 MiB"),
        (3 * GIB, b"3072 MiB"),
        (40 * GIB, b"40960 MiB"),
    ],
)
def test_the_greeter_sees_its_memory_which_costs_only_what_is_used(program, memory, shown):
    resident = resident_size()
    booted = Booted(program("greeter"), memory=memory, vcpus=3, stdin=b"exit 9\r")
    assert booted.run().status == 19
    assert info_line(booted.output, b"memory") == shown
    assert b"(vCPUs: 3" in booted.output
    assert resident_size() - resident < 64 * MIB


def resident_size() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_the_greeter_knows_the_cpu_and_the_time(program):
    booted = Booted(program("greeter"), stdin=b"exit 0\r", cmdline="a=1 b=2")
    before = time.gmtime()
    booted.run()
    brand = cpu.host_brand().strip(b"\0 ")
    assert info_line(booted.output, b"cpu").startswith(brand)
    shown = info_line(booted.output, b"time").decode()
    seen = time.strptime(shown, "%Y-%m-%d %H:%M:%S UTC")
    assert 0 <= time.mktime(seen) - time.mktime(before) <= 5
    assert info_line(booted.output, b"cmdline") == b"a=1 b=2"


def left_over() -> tuple[set[str], int, int]:
    """Return this process's open descriptors, its threads, and its mappings of vCPUs."""
    maps = Path("/proc/self/maps").read_text()
    descriptors = set()
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # that of the listing itself
            descriptors.add(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
    return descriptors, threading.active_count(), maps.count("anon_inode:kvm-vcpu")


def own_mappings() -> int:
    """Return the bytes of this process's address space."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("name", ["real", "reset_cf9", "triple_fault", "spin", "halt", "flood"])
def test_every_end_leaves_nothing_behind(program, name):
    Booted(program(name)).run(timeout=0.02)  # what Python keeps for the next time is there now
    before, size = left_over(), own_mappings()
    for _ in range(5):
        Booted(program(name), memory=GIB, vcpus=2).run(timeout=0.02)
    assert left_over() == before
    assert own_mappings() - size < GIB


@pytest.mark.parametrize("name", ["virtio_polled", "virtio_msix", "power_off", "linux64"])
def test_devices_leave_nothing_behind(program, tmp_path, name):
    """Whether their guest has set them up or not, and with a request on its way or not."""
    path = tmp_path / "disk"
    path.write_bytes(bytes(16 * 512))
    disk = Raw(str(path), read_only=False)
    devices = (Entropy, lambda: VirtioConsole([Port("", lambda _: None)]), lambda: Block(disk))
    if name == "virtio_msix":
        devices = devices[::-1]
    Booted(program(name), devices=devices).run()
    before = left_over()
    for _ in range(5):
        assert Booted(program(name), devices=devices, vcpus=2).run().status in {57, 1, 0, 7}
    assert left_over() == before
    disk.close()


def test_as_many_devices_as_fit(program):
    assert Booted(program("virtio_polled"), devices=(Entropy,) * 31).run().status == 57
    before = left_over()
    with pytest.raises(KvmError, match="31 devices at most") as refused:
        Booted(program("virtio_polled"), devices=(Entropy,) * 32).run()
    assert refused.value.status == 78
    assert left_over() == before


NOT_BUILT: dict[str, dict[str, Any]] = {
    "memory too small": {"memory": MIB},
    "memory that is no number of pages": {"memory": 4 * MIB + 1},
    "memory that no host has": {"memory": 1 << 62},
    "no vCPU": {"vcpus": 0},
    "too many vCPUs": {"vcpus": 1 << 20},
    "command line too long": {"cmdline": "x" * 5000},
    "initrd too large": {"initrd": Image("initrd", bytes(8 * MIB))},
}


@pytest.mark.parametrize("case", NOT_BUILT)
def test_a_machine_that_cannot_be_built_leaves_nothing_behind(program, case):
    before = left_over()
    with pytest.raises(KvmError) as refused:
        Booted(program("greeter"), **NOT_BUILT[case]).run()
    assert refused.value.status == 78
    assert left_over() == before


def test_a_machine_that_fails_half_way_leaves_nothing_behind(program, monkeypatch):
    """The second vCPU cannot be made: a KVM that is short of memory is put in its place."""
    create = abi.CREATE_VCPU
    from ansible.module_utils.kvm import device  # only to reach its fcntl

    real = device.fcntl.ioctl

    def short_of_memory(descriptor, request, argument=0):
        if request == create and argument == 1:
            raise OSError(12, "Cannot allocate memory")
        return real(descriptor, request, argument)

    monkeypatch.setattr(device.fcntl, "ioctl", short_of_memory)
    before = left_over()
    with pytest.raises(KvmError, match="cannot create vCPU 1: Cannot allocate memory"):
        Booted(program("greeter"), vcpus=2).run()
    assert left_over() == before


def test_many_machines_at_once(program):
    content = program("real")
    with Kvm() as kvm:
        machines = []
        for _ in range(20):
            config = MachineConfig(kernel=Image("guest", content), memory=MIB)
            machines.append(Machine(kvm, config, lambda _: None))
        statuses = [Runner(machine).run(10.0).status for machine in machines]
        for machine in machines:
            machine.close()
    assert statuses == [43] * 20


def test_a_host_that_cannot_run_linux_says_so_before_it_hangs(images: SimpleNamespace) -> None:
    with Kvm() as kvm:
        if probe.ring0(kvm) != "emulated":
            pytest.skip("this KVM runs a guest's kernel; the lab's hosts boot one")
    with pytest.raises(HostError, match="no Linux kernel boots here"):
        Booted(images.bzimage(), memory=128 * MIB).run()
