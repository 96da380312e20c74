# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The helper against C that makes the same ioctls, and against QEMU's smallest machine."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
from comparing import Side, compare, first_byte, say

pytestmark = pytest.mark.kvm

PYTHON = "/usr/bin/python3"
EXITS = 20_000
MOST_CPU = 60.0  # milliseconds of the helper's own until its guest runs
# mov ecx, NNNN; out 0x80, al; dec ecx; jnz .-6; mov al, 0; out 0xf4, al
EXIT_LOOP = b"\x66\xb9NNNN\xe6\x80\x66\x49\x75\xfa\xb0\x00\xe6\xf4"
# mov dx, 0x3f8; mov al, '!'; out dx, al; mov al, 0; out 0xf4, al: a sign of life, then status 1.
SIGN = bytes.fromhex("baf803b021eeb000e6f4")
SIGN_AND_HALT = bytes.fromhex("baf803b021eef4ebfd")  # mov dx, 0x3f8; mov al, '!'; out; hlt for ever

# What a process of the helper does: build a machine, enter it, and go on through exits.
OURS = f"""
import sys, time
from virtfleet.kvm import cpu
from virtfleet.kvm.builder import Machine, MachineConfig
from virtfleet.kvm.device import Kvm
from virtfleet.kvm.loader import Image
from virtfleet.kvm.runner import Runner

exits = int(sys.argv[1])
code = bytes.fromhex("{EXIT_LOOP.hex()}").replace(b"NNNN", (exits + 1).to_bytes(4, "little"))
config = MachineConfig(Image("loop", code), 1 << 20, brand=cpu.host_brand())
begin = time.perf_counter()
with Kvm() as kvm, Machine(kvm, config, print) as machine:
    vcpu = machine.vcpus[0]
    vcpu.run()
    first = time.perf_counter() - begin
    runner = Runner(machine)
    begin = time.perf_counter()
    outcome = runner.run()
    spent = time.perf_counter() - begin
    assert outcome.status == 1 and runner.exits[2] == exits + 1, outcome
print(first * 1e6, spent / max(exits, 1) * 1e6)
"""


@pytest.fixture(scope="module")
def in_c(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("c") / "exits"
    source = Path(__file__).parent / "exits.c"
    compiler = shutil.which("gcc")
    assert compiler, "the benchmarks need gcc"
    subprocess.run([compiler, "-O2", "-Wall", "-Werror", "-o", program, source], check=True)
    return program


@pytest.fixture(scope="module")
def helper(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """Unpack the helper as an installation does, byte-compiled."""
    folder = tmp_path_factory.mktemp("helper")
    builder = [sys.executable, str(repository / "module_utils/kvm/archive.py")]
    subprocess.run([*builder, str(folder / "helper.pyz")], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(
        [PYTHON, "-m", "zipfile", "-e", folder / "helper.pyz", folder / "in"], check=True
    )
    subprocess.run([PYTHON, "-m", "compileall", "-q", folder / "in"], check=True)
    return folder / "in"


def _figures(command: list[str]) -> tuple[float, float]:
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    first, each = done.stdout.split()
    return float(first), float(each)


def test_open_to_first_exit(helper: Path, in_c: Path) -> None:
    def ours() -> float:
        command = [PYTHON, "-c", f"import sys; sys.path.insert(0, {str(helper)!r})\n{OURS}", "0"]
        return _figures(command)[0]

    peer = Side("C, the same machine by the same ioctls", lambda: _figures([str(in_c), "0"])[0])
    compare("open /dev/kvm to first exit", "us", Side("helper", ours), peer, 1.5, rounds=31)


def test_port_exits(helper: Path, in_c: Path) -> None:
    def ours() -> float:
        code = f"import sys; sys.path.insert(0, {str(helper)!r})\n{OURS}"
        return _figures([PYTHON, "-c", code, str(EXITS)])[1]

    peer = Side("C", lambda: _figures([str(in_c), str(EXITS)])[1])
    mine, theirs = compare("port exit", "us an exit", Side("helper", ours), peer, 1 / 0.75)
    added = statistics.median(a - b for a, b in zip(mine, theirs, strict=True))
    say(f"  {'added by Python, median of the pairs':<44} {added:10.2f}  bound 2.00")
    assert added <= 2.0


def _run(helper: Path, image: Path) -> list[str]:
    code = f"import sys; sys.path.insert(0, {str(helper)!r})\n"
    code += "from virtfleet.kvm.cli import main; sys.exit(main(sys.argv[1:]))"
    return [PYTHON, "-ESsc", code, "run", "--kernel", str(image), "--memory", "16MiB"]


def _cpu_time(command: list[str]) -> float:
    """Return the CPU time in ms that a process had used when its guest had said something."""
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.read(1) == b"!"
            # The clock of another process, as clock_getcpuclockid(3) gives it.
            return time.clock_gettime(~process.pid << 3 | 2) * 1e3
        finally:
            process.kill()


def test_cpu_time_before_the_first_instruction(helper: Path, tmp_path: Path) -> None:
    """All that the helper's process has computed, its interpreter's start included."""
    path = tmp_path / "sign.bin"
    path.write_bytes(SIGN_AND_HALT)
    command = _run(helper, path)
    samples = [_cpu_time(command) for _ in range(21)]
    median = statistics.median(samples)
    say(f"\nCPU time until the guest's first byte [ms, {len(samples)} runs]")
    say(f"  {'helper':<44} {median:10.2f}  ({min(samples):.2f} to {max(samples):.2f}), bound 60.00")
    assert median <= MOST_CPU


def test_first_instruction_against_qemu(helper: Path, tmp_path: Path) -> None:
    """The same flat image, entered at its start by us and from its reset vector by QEMU."""
    image = bytearray(SIGN.ljust(64 << 10, b"\xf4"))
    image[0xFFF0:0xFFF3] = b"\xe9\x0d\x00"  # jmp to the image's first byte, 16 bytes on
    path = tmp_path / "once.bin"
    path.write_bytes(image)
    mine = _run(helper, path)
    # This KVM may lack the MSR behind arch-capabilities; without it every KVM takes the machine.
    theirs = ["qemu-system-x86_64", "-M", "microvm,pit=on,pic=on,rtc=on", "-accel", "kvm"]
    theirs += ["-cpu", "host,arch-capabilities=off", "-m", "16M", "-nodefaults", "-no-user-config"]
    theirs += [
        "-display",
        "none",
        "-serial",
        "stdio",
        "-bios",
        str(path),
        "-device",
        "isa-debug-exit,iobase=0xf4",
    ]
    ours, peer = (
        Side("helper", lambda: first_byte(mine, 1)),
        Side("QEMU microvm", lambda: first_byte(theirs, 1)),
    )
    compare("process start to the first instructions", "ms", ours, peer, 1.0, rounds=11)
