# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds a base image with mmdebstrap, natively. What stands here is part of every image's digest.

An image is a folder: ``disk.qcow2`` with a boot sector, GRUB in the gap behind it (it boots from
its own disk) and a root file system; ``vmlinuz`` and ``initrd.img`` beside it to boot directly.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .recipe import Recipe

SECTOR = 512
PARTITION_START = 2048  # sectors: 1 MiB, the gap holds GRUB's core
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_GRUB = "/usr/lib/grub/i386-pc"
_GRUB_MODULES = [
    "biosdisk",
    "part_msdos",
    "ext2",
    "normal",
    "linux",
    "configfile",
    "search",
    "search_label",
    "search_fs_uuid",
    "echo",
    "test",
    "serial",
    "terminal",
    "minicmd",
    "gzio",
    "ls",
    "all_video",
]
# What GRUB 2.06 cannot read yet is left out.
_FEATURES = "^metadata_csum_seed,^orphan_file"


class ImageError(Exception):
    """An image could not be built; the message says which step failed and what it printed."""


def run(*command: str, **settings: str) -> str:
    """Run a command and return what it printed; ImageError with its last lines if it fails."""
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        errors="replace",
        check=False,
        env={**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive", **settings},
    )
    if done.returncode:
        tail = "\n".join(done.stdout.splitlines()[-25:])
        raise ImageError(f"{' '.join(command[:3])} … ended with status {done.returncode}:\n{tail}")
    return done.stdout


def mirrors() -> tuple[str, str]:
    """Return the addresses of Debian's archive and of its security archive that apt uses here."""
    form = "$(CREATED_BY) $(SITE) $(CODENAME) $(COMPONENT)"
    archive = security = ""
    for line in run("apt-get", "indextargets", "--format", form).splitlines():
        kind, site, codename, component = (line.split() + [""] * 4)[:4]
        if kind == "Packages" and component == "main":
            if codename.endswith("-security"):
                security = security or site
            elif "-" not in codename:
                archive = archive or site
    if not archive:
        raise ImageError("apt knows no archive of Debian here: expected one in its sources")
    return archive, security


def sources(release: str) -> list[str]:
    """Return a release's lines for apt, from the archives that apt uses here."""
    archive, security = mirrors()
    lines = [f"deb [signed-by={KEYRING}] {archive} {release} main"]
    lines.append(f"deb [signed-by={KEYRING}] {archive} {release}-updates main")
    if security:
        lines.append(f"deb [signed-by={KEYRING}] {security} {release}-security main")
    return lines


def build(recipe: Recipe, folder: Path) -> None:
    if os.geteuid() != 0:
        raise ImageError("images are built as root: run this as root, or with sudo")
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    with tempfile.TemporaryDirectory(dir=part) as scratch:
        root = Path(scratch) / "root"
        _bootstrap(recipe, root)
        _finish(recipe, root)
        _disk(root, part, recipe.size)
    part.rename(folder)


def _bootstrap(recipe: Recipe, root: Path) -> None:
    seed = "grub-pc grub-pc/install_devices_empty boolean true"
    hook = f'--essential-hook=echo {seed} | chroot "$1" debconf-set-selections'
    options = [
        "--mode=root",
        "--variant=minbase",
        f"--include={','.join(recipe.packages)}",
        '--aptopt=Acquire::Languages "none"',
        '--aptopt=Acquire::Retries "5"',
        "--dpkgopt=force-unsafe-io",
        "--dpkgopt=path-exclude=/usr/share/doc/*",
        "--dpkgopt=path-exclude=/usr/share/man/*",
        "--dpkgopt=path-exclude=/usr/share/locale/*",
        f"--keyring={KEYRING}",
    ]
    run("mmdebstrap", *options, hook, recipe.release, str(root), *sources(recipe.release))


def _finish(recipe: Recipe, root: Path) -> None:
    for path, text, mode in recipe.files:
        target = root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)
    for key in (root / "etc/ssh").glob("ssh_host_*"):
        key.unlink()
    for command in recipe.commands:
        run("chroot", str(root), *command)
    run("chroot", str(root), "update-initramfs", "-u", "-k", "all")
    _grub(root, recipe.cmdline)


def _kernel(root: Path) -> str:
    names = sorted(path.name for path in (root / "boot").glob("vmlinuz-*"))
    if not names:
        raise ImageError("the image has no kernel")
    return names[-1].removeprefix("vmlinuz-")


def _grub(root: Path, cmdline: str) -> None:
    version = _kernel(root)
    folder = root / "boot/grub"
    shutil.copytree(root / _GRUB.lstrip("/"), folder / "i386-pc", dirs_exist_ok=True)
    core = ["grub-mkimage", "-O", "i386-pc", "-o", "/boot/grub/core.img"]
    run("chroot", str(root), *core, "-p", "(hd0,msdos1)/boot/grub", *_GRUB_MODULES)
    # update-grub makes a new one in the running machine.
    (folder / "grub.cfg").write_text(
        "set timeout=0\n"
        "serial --unit=0 --speed=115200\n"
        "terminal_output serial\n"
        'menuentry "Debian" {\n'
        f"  linux /boot/vmlinuz-{version} root=LABEL=root ro {cmdline} quiet\n"
        f"  initrd /boot/initrd.img-{version}\n"
        "}\n"
    )


def _disk(root: Path, part: Path, size: int) -> None:
    version = _kernel(root)
    shutil.copy(root / f"boot/vmlinuz-{version}", part / "vmlinuz")
    shutil.copy(root / f"boot/initrd.img-{version}", part / "initrd.img")
    raw = root.parent / "disk.raw"
    start = PARTITION_START * SECTOR
    with raw.open("wb") as file:
        file.truncate(size)
    blocks = (size - start) // 4096
    make = ["mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-L", "root"]
    make += ["-m", "0", "-O", _FEATURES]  # a full disk is full for root too
    run(*make, "-E", f"offset={start},lazy_itable_init=1", "-d", str(root), str(raw), str(blocks))
    boot = (root / _GRUB.lstrip("/") / "boot.img").read_bytes()
    core = (root / "boot/grub/core.img").read_bytes()
    if len(core) > start - SECTOR:
        raise ImageError(f"GRUB's core takes {len(core)} bytes, the gap has {start - SECTOR}")
    with raw.open("r+b") as file:
        file.write(boot_sector(boot, size // SECTOR))
        file.write(core)
    run("qemu-img", "convert", "-O", "qcow2", str(raw), str(part / "disk.qcow2"))


def boot_sector(boot: bytes, sectors: int) -> bytes:
    """Return GRUB's boot sector with a table of one bootable Linux partition behind the gap.

    GRUB's own first sector expects its core in the sector that follows (grub: boot.S).
    """
    size = sectors - PARTITION_START
    entry = struct.pack(
        "<B3sB3sII", 0x80, b"\xfe\xff\xff", 0x83, b"\xfe\xff\xff", PARTITION_START, size
    )
    return boot[:440] + b"vlab\0\0" + entry.ljust(64, b"\0") + b"\x55\xaa"
