# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Boots the host's own kernel as a guest, up to its first process and down again by ACPI.

That process is all that is in its initramfs: it says that it runs and turns the machine off.
Sources: Documentation/driver-api/early-userspace/buffer-format.rst, elf(5), reboot(2).
"""

from __future__ import annotations

import os
import struct
import time
from typing import TYPE_CHECKING, Mapping

from .builder import Machine, MachineConfig
from .errors import EXIT_OK, HostError, KvmError
from .loader import Image, read_image
from .runner import Runner

if TYPE_CHECKING:
    from .device import Kvm

_MIB = 1 << 20
_MEMORY = 256 * _MIB  # of which a stock kernel touches a third
_TIMEOUT = 120.0  # seconds, twenty times what an emulated host takes that is idle
_CMDLINE = "console=ttyS0 quiet panic=-1"
_GREETING = b"virtfleet: Linux is up\n"
_SHOWN = 2000  # bytes of a console that ended badly
_BASE = 0x400000  # where the first process is loaded
_EXECUTABLE = 0o100755
_DIRECTORY = 0o040755
_CHARACTERS = 0o020600
_FILE = 0o100644


def kernel_of(host_release: str, root: str = "/") -> str:
    """Return the file of the kernel of that release, as distributions name it; HostError if none.

    ``root`` is where the files of the host are.
    """
    places = [f"boot/vmlinuz-{host_release}", f"lib/modules/{host_release}/vmlinuz"]
    for place in places:
        path = os.path.join(root, place)
        if os.path.exists(path):
            return path
    raise HostError(f"the kernel {host_release} has no image here: no /{' and no /'.join(places)}")


def _process() -> bytes:
    """Return an ELF64 file that says the greeting and turns the machine off."""
    begin = _BASE + 64 + 56  # behind the two headers
    code = b"".join(
        (
            b"\xbf" + struct.pack("<I", 1),  # mov edi, 1
            b"\xbe" + struct.pack("<I", begin),  # mov esi, greeting
            b"\xba" + struct.pack("<I", len(_GREETING)),  # mov edx, its length
            b"\xb8" + struct.pack("<I", 1),  # mov eax, SYS_write
            b"\x0f\x05",  # syscall
            b"\xbf" + struct.pack("<I", 0xFEE1DEAD),  # mov edi, LINUX_REBOOT_MAGIC1
            b"\xbe" + struct.pack("<I", 672274793),  # mov esi, LINUX_REBOOT_MAGIC2
            b"\xba" + struct.pack("<I", 0x4321FEDC),  # mov edx, LINUX_REBOOT_CMD_POWER_OFF
            b"\xb8" + struct.pack("<I", 169),  # mov eax, SYS_reboot
            b"\x0f\x05",  # syscall
            b"\xf4",  # hlt: a fault that ends the process, and the kernel in a panic
        )
    )
    content = _GREETING + code
    entry, size = begin + len(_GREETING), 64 + 56 + len(content)
    header = struct.pack("<4sBBBB8x", b"\x7fELF", 2, 1, 1, 0)
    header += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, entry, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    header += struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x1000)
    return header + content


def _entry(name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)) -> bytes:
    """Return an entry of an archive in cpio's format newc."""
    fields = (0, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)


def initramfs(process: bytes | None = None, files: Mapping[str, bytes] | None = None) -> bytes:
    """Return an archive with a console, the first process (ours by default) and further files."""
    return b"".join(
        (
            _entry("dev", _DIRECTORY),
            _entry("dev/console", _CHARACTERS, device=(5, 1)),
            _entry("init", _EXECUTABLE, process or _process()),
            *(_entry(name, _FILE, data) for name, data in (files or {}).items()),
            _entry("TRAILER!!!", 0),
        )
    )


def boot(kvm: Kvm, kernel: str) -> float:
    """Boot the kernel in the file ``kernel``; return the seconds until its first process.

    HostError where this KVM runs no kernel, InputFileError where the file cannot be read, KvmError
    for a guest that came to another end. Must be called on the process's main thread.
    """
    said = bytearray()
    up: list[float] = []

    def sink(data: bytes) -> None:
        said.extend(data)
        if not up and _GREETING.rstrip() in said:
            up.append(time.monotonic())

    config = MachineConfig(
        kernel=read_image(kernel),
        memory=_MEMORY,
        cmdline=_CMDLINE,
        initrd=Image("the initramfs of the self-test", initramfs()),
    )
    begin = time.monotonic()
    with Machine(kvm, config, sink) as machine:
        outcome = Runner(machine).run(_TIMEOUT)
    if up and outcome.status == EXIT_OK and not outcome.reset:
        return up[0] - begin
    end = said[-_SHOWN:].decode(errors="replace").strip()
    words = "came up, but" if up else "did not come up:"
    raise KvmError(f"{kernel} {words} {outcome.reason}; its console: {end or 'nothing'}")
