# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The boot loader in use: what its entries hand to the kernel, and how that is changed.

Three are known: GRUB with grub.d snippets (Debian, Ubuntu), GRUB with grubby and boot entries
(EL), systemd-boot with kernel-install(8). Which one it is, is told by what is on the disk and by
what it leaves in /proc/cmdline: a kernel that something else started is not ours to configure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Sequence

from ..host.source import exists, names, text, word
from . import own_files
from .operation import Operation, Run, Write

GRUB, GRUBBY, SYSTEMD_BOOT = "grub", "grubby", "systemd-boot"
GRUB_FILE = "/etc/default/grub.d/virtfleet.cfg"
KERNEL_FILE = "/etc/kernel/cmdline"
_GRUB_CONFIG = "/boot/grub/grub.cfg"
_ENTRIES = ("/boot/loader/entries", "/efi/loader/entries", "/boot/efi/loader/entries")
_LINUX = re.compile(r"^[ \t]*linux(?:16|efi)?[ \t]+(\S.*)$", re.MULTILINE)
_OPTIONS = re.compile(r"^options[ \t]+(.*)$", re.MULTILINE)
_STATED = re.compile(r'GRUB_CMDLINE_LINUX="\$GRUB_CMDLINE_LINUX (.*)"')
_LOADERS_OWN = ("BOOT_IMAGE=", "initrd=")  # what a loader adds by itself


@dataclass(frozen=True)
class Observed:
    """The running kernel's arguments, and the loader that will hand over the next ones.

    ``running`` is None where no kernel runs (an image). ``kind`` is None where no loader is known,
    and ``why`` says what was found instead. ``entries`` are the arguments of each boot entry.
    ``base`` is what KERNEL_FILE says, or would have to say if it has to be made.
    """

    running: tuple[str, ...] | None = None
    kind: str | None = None
    why: str = ""
    entries: tuple[tuple[str, ...], ...] = ()
    stated: tuple[str, ...] = ()  # arguments in our own GRUB snippet
    base: tuple[str, ...] = ()
    kernels: tuple[tuple[str, str], ...] = ()  # (version, image), for kernel-install


def read(root: str, snippet: str | None) -> Observed:
    """Return the boot loader under ``root``; ``snippet`` is what GRUB_FILE holds."""
    line = word(root, "/proc/cmdline")
    running = None if line is None else tuple(line.split())
    match = _STATED.search(snippet or "")
    stated = tuple(match.group(1).split()) if match else ()
    by_grub = running is None or any(arg.startswith("BOOT_IMAGE=") for arg in running)
    entries = _entries(root)
    if exists(root, "/usr/sbin/grubby") and entries:
        return Observed(running, GRUBBY, entries=entries)
    if exists(root, "/usr/sbin/update-grub") and exists(root, _GRUB_CONFIG):
        if not by_grub:
            why = "GRUB is installed, but the running kernel was not started by it"
            return Observed(running, None, why, stated=stated)
        config = text(root, _GRUB_CONFIG) or ""
        lines = tuple(tuple(args.split()[1:]) for args in _LINUX.findall(config))
        return Observed(running, GRUB, entries=lines, stated=stated)
    if entries and (exists(root, "/usr/bin/kernel-install") or exists(root, "/bin/kernel-install")):
        base = word(root, KERNEL_FILE)
        kept = tuple(base.split()) if base is not None else _inherited(running, entries)
        return Observed(running, SYSTEMD_BOOT, entries=entries, base=kept, kernels=_kernels(root))
    why = "no boot loader is known here (GRUB, grubby or systemd-boot was expected)"
    return Observed(running, None, why, stated=stated)


def _entries(root: str) -> tuple[tuple[str, ...], ...]:
    """Return the arguments of each Linux entry of the Boot Loader Specification."""
    found = []
    for folder in _ENTRIES:
        for name in names(root, folder) or []:
            content = text(root, f"{folder}/{name}") or "" if name.endswith(".conf") else ""
            if re.search(r"^linux[ \t]", content, re.MULTILINE):
                found.append(tuple(" ".join(_OPTIONS.findall(content)).split()))
    return tuple(found)


def _inherited(
    running: tuple[str, ...] | None, entries: tuple[tuple[str, ...], ...]
) -> tuple[str, ...]:
    """Return what kernel-install takes where KERNEL_FILE is missing: the running arguments."""
    source = running if running is not None else entries[0]
    return tuple(arg for arg in source if not arg.startswith(_LOADERS_OWN))


def _kernels(root: str) -> tuple[tuple[str, str], ...]:
    found = []
    for version in names(root, "/lib/modules") or []:
        for image in (f"/lib/modules/{version}/vmlinuz", f"/boot/vmlinuz-{version}"):
            if exists(root, image):
                found.append((version, image))
                break
    return tuple(found)


def snippet(arguments: Sequence[str]) -> str | None:
    """Return the text of GRUB_FILE: our arguments after those that are there."""
    if not arguments:
        return None
    line = f'GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX {" ".join(arguments)}"'
    return own_files.content([line])


def operations(
    observed: Observed, arguments: Sequence[str], removed: Sequence[str]
) -> tuple[Operation, ...]:
    """Return what makes every entry carry the arguments, and no more those that are removed."""
    if observed.kind == GRUB:
        return (Write(GRUB_FILE, snippet(arguments)), Run(("update-grub",)))
    if observed.kind == GRUBBY:
        command = ["grubby", "--update-kernel=ALL"]
        command += [f"--remove-args={' '.join(removed)}"] if removed else []
        command += [f"--args={' '.join(arguments)}"] if arguments else []
        return (Run(tuple(command)),)
    kept = [arg for arg in observed.base if arg not in removed and arg not in arguments]
    content = " ".join([*kept, *arguments]) + "\n"
    installs = tuple(
        Run(("kernel-install", "add", version, image)) for version, image in observed.kernels
    )
    return (Write(KERNEL_FILE, content), *installs)
