# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs on a KVM host, beside the helper's unpacked package and guest.c's program: one measurement.

`on_host.py prepare`, then `on_host.py SIDE WHAT` with SIDE helper or qemu prints figures: `boot`
is milliseconds from the start of the process to the guest's first process, `memory` the MiB of PSS
beyond the guest's own memory, and words such as random=5 are what guest.c does, slowly_send=5 with
a network without vhost-net. `on_host.py exits` prints the helper's exits up to the first process.
"""

from __future__ import annotations

import importlib
import json
import lzma
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "helper"))
linux = importlib.import_module("virtfleet.kvm.selftest_linux")

MEMORY = 256 << 20
MODULES = ("virtio_pci", "virtio_blk", "virtio_net")
DISK_SIZE = 256 << 20
BRIDGE, TAP, ADDRESS = "br-bench", "tap-bench", "10.9.0.1"
DRAIN, SOURCE = 5001, 5002  # ports: what takes all, and what gives without end
QUIET = "console=ttyS0 quiet panic=-1"
ENTRY = (
    f"import sys; sys.path.insert(0, {str(HERE / 'helper')!r});"
    " from virtfleet.kvm.cli import main; sys.exit(main(sys.argv[1:]))"
)


def modules() -> dict[str, bytes]:
    """Return the modules of the devices in the order in which they are loaded."""
    command = ["/sbin/modprobe", "--all", "--show-depends", *MODULES]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    paths = [line.split()[1] for line in shown.splitlines() if line.startswith("insmod ")]
    found = {}
    for number, path in enumerate(dict.fromkeys(paths)):
        data = Path(path).read_bytes()
        found[f"m{number:02}"] = lzma.decompress(data) if path.endswith(".xz") else data
    return found


def prepare() -> None:
    """Make the initial file systems, the disk and the bridge."""
    (HERE / "boot.img").write_bytes(linux.initramfs())
    guest = (HERE / "guest").read_bytes()
    (HERE / "work.img").write_bytes(linux.initramfs(guest, modules()))
    (HERE / "disk.raw").write_bytes(os.urandom(1 << 20) * (DISK_SIZE >> 20))
    for command in (
        f"link add {BRIDGE} type bridge",
        f"address add {ADDRESS}/24 dev {BRIDGE}",
        f"link set {BRIDGE} up",
        f"tuntap add {TAP} mode tap",
        f"link set {TAP} master {BRIDGE} up",
    ):
        subprocess.run(["/sbin/ip", *command.split()], check=True)
    subprocess.run(["/sbin/modprobe", "vhost_net"], check=True)


def helper(initrd: str, words: str, *devices: str) -> list[str]:
    """Return the helper's command line."""
    command = [
        sys.executable,
        "-ESsc",
        ENTRY,
        "run",
        "--kernel",
        linux.kernel_of(os.uname().release),
    ]
    command += ["--initrd", str(HERE / initrd), "--memory", f"{MEMORY >> 20}MiB"]
    return [*command, "--cmdline", f"{QUIET} {words}", *devices]


def qemu(initrd: str, words: str, *devices: str) -> list[str]:
    """Return that of QEMU's machine for such guests, with all off that the guest does not need."""
    machine = "microvm,acpi=on,pit=off,pic=off,rtc=off"
    if devices:
        machine += ",pcie=on"
    command = ["qemu-system-x86_64", "-M", machine, "-accel", "kvm", "-cpu", "host"]
    command += ["-m", f"{MEMORY >> 20}M", "-nodefaults", "-no-user-config", "-no-reboot"]
    command += [
        "-display",
        "none",
        "-serial",
        "stdio",
        "-kernel",
        linux.kernel_of(os.uname().release),
    ]
    return [*command, "-initrd", str(HERE / initrd), "-append", f"{QUIET} {words}", *devices]


def disk(side: str) -> list[str]:
    """Return the arguments for the disk."""
    path = HERE / "disk.raw"
    if side == "helper":
        return ["--disk", str(path)]
    drive = f"file={path},format=raw,if=none,id=d,aio=threads,cache=writeback"
    return [
        "-object",
        "iothread,id=t",
        "-drive",
        drive,
        "-device",
        "virtio-blk-pci,drive=d,iothread=t",
    ]


def nic(side: str, *, vhost: bool) -> list[str]:
    """Return the arguments for the network."""
    word = "on" if vhost else "off"
    if side == "helper":
        return ["--nic", f"bridge={BRIDGE}" + ("" if vhost else ",vhost=off")]
    netdev = f"tap,id=n,ifname={TAP},script=no,downscript=no,vhost={word}"
    return ["-netdev", netdev, "-device", "virtio-net-pci,netdev=n"]


def start(command: list[str]) -> subprocess.Popen[bytes]:
    """Start a side with its serial port on a pipe."""
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def read_to(process: subprocess.Popen[bytes], pattern: bytes) -> re.Match[bytes]:
    """Read its console up to a pattern."""
    assert process.stdout
    said = b""
    while True:
        more = os.read(process.stdout.fileno(), 4096)
        said += more
        found = re.search(pattern, said)
        if found:
            return found
        assert more, f"it ended: {said[-2000:].decode(errors='replace')}"


def serve(port: int) -> None:
    """Take what guests send to a port, or give what they take."""
    listener = socket.create_server((ADDRESS, port))
    buffer = bytearray(1 << 17)

    def run() -> None:
        while True:
            peer, _ = listener.accept()
            with suppress(ConnectionError), peer:
                while peer.recv_into(buffer) if port == DRAIN else peer.send(buffer):
                    pass

    threading.Thread(target=run, daemon=True).start()


def proportional(pid: int) -> float:
    """Return the MiB of PSS of a process without its largest mapping, the guest's memory."""
    sizes = []
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        word, _, rest = line.partition(":")
        if word == "Size":
            sizes.append([int(rest.split()[0]), 0])
        elif word == "Pss":
            sizes[-1][1] = int(rest.split()[0])
    assert max(sizes)[0] >= MEMORY >> 10
    sizes.remove(max(sizes))
    return sum(pss for _, pss in sizes) / 1024


def boots(command: list[str]) -> float:
    """Return the milliseconds until the guest's first process says that it runs."""
    begin = time.monotonic()
    with start(command) as process:
        read_to(process, b"Linux is up")
        return (time.monotonic() - begin) * 1e3


def idles(command: list[str]) -> float:
    """Return the MiB that it takes beyond the guest's memory while the guest does nothing."""
    with start(command) as process:
        read_to(process, b"bench: idle 1")
        time.sleep(1)
        found = proportional(process.pid)
        process.send_signal(signal.SIGTERM)
    return found


def works(command: list[str]) -> list[float]:
    """Return the figures that the guest says."""
    with start(command) as process:
        said = read_to(process, rb"(bench: \w+ [0-9.]+\s+)+(?=.*reboot: )|bench: FAILED.*\n")[0]
    figures = re.findall(rb"bench: \w+ ([0-9.]+)", said)
    assert figures, said.decode()
    return [float(figure) for figure in figures]


def exits() -> dict[str, dict[str, int]]:
    """Return the helper's exits until the guest's first process says that it runs, by kind."""
    package = "virtfleet.kvm"
    builder, loader, runner, device = (
        importlib.import_module(f"{package}.{name}")
        for name in ("builder", "loader", "runner", "device")
    )
    said = bytearray()
    found: dict[str, dict[str, int]] = {}

    def sink(data: bytes) -> None:
        said.extend(data)
        if not found and b"Linux is up" in said:
            found["reason"] = dict(run.counts())
            found["port"] = {f"{port:#x}": n for port, n in machine.bus.port_exits.copy().items()}
            found["mmio"] = {f"{at:#x}": n for at, n in machine.bus.mmio_exits.copy().items()}

    config = builder.MachineConfig(
        kernel=loader.read_image(linux.kernel_of(os.uname().release)),
        initrd=loader.read_image(str(HERE / "boot.img")),
        memory=MEMORY,
        cmdline=QUIET,
    )
    with device.Kvm() as kvm, builder.Machine(kvm, config, sink) as machine:
        run = runner.Runner(machine)
        outcome = run.run(120.0)
    assert found, f"{outcome}: {said[-2000:].decode(errors='replace')}"
    return found


def measure(side: str, what: str) -> list[float]:
    """Return the figures that were asked for."""
    command = {"helper": helper, "qemu": qemu}[side]
    if what == "boot":
        return [boots(command("boot.img", ""))]
    if what == "memory":
        return [idles(command("work.img", "idle=1", *disk(side)))]
    if "send" not in what and "receive" not in what:
        return works(command("work.img", what, *disk(side)))
    serve(DRAIN)
    serve(SOURCE)
    slow = "slowly_" in what
    return works(command("work.img", what.replace("slowly_", ""), *nic(side, vhost=not slow)))


if __name__ == "__main__":
    if sys.argv[1] == "prepare":
        prepare()
    elif sys.argv[1] == "exits":
        sys.stdout.write(json.dumps(exits()))
    else:
        sys.stdout.write(" ".join(map(str, measure(sys.argv[1], " ".join(sys.argv[2:])))) + "\n")
