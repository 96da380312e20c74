# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an image is made of. A recipe is data, and its digest names the image that comes of it."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar

REPOSITORY = Path(__file__).resolve().parents[3]
RELEASES = {"bookworm": "12", "trixie": "13"}
KINDS = ("bare", "ready")
USER = "admin"  # who logs in; sudo asks no password of this user
_BUILDER = Path(__file__).with_name("build.py")
_GUEST = Path(__file__).parent / "files" / "make-guest"
_CODE = _GUEST.with_name("virtlab_code.py")
_PYTHON = "/usr/lib/python3/dist-packages"

# A plain Debian as its installer leaves it, without anything of ours.
_BARE = [
    "systemd-sysv",
    "udev",
    "dbus",
    "libpam-systemd",
    "openssh-server",
    "sudo",
    "python3",
    "python3-apt",
    "ca-certificates",
    "linux-image-amd64",
    "initramfs-tools",
    "zstd",
    "kmod",
    "grub-pc",
    "iproute2",
    "iputils-ping",
    "procps",
    "less",
    "e2fsprogs",
    "util-linux-extra",
    "apparmor",
    "nftables",
]
_NETWORK = {"bookworm": ["ifupdown"], "trixie": ["systemd-resolved"]}
# What an image for guests has: the small kernel for clouds, and what takes the seed.
_CLOUD = [
    "cloud-init",
    "cloud-guest-utils",
    "linux-image-cloud-amd64",
    "qemu-guest-agent",
    "systemd-resolved",
]
_DATASOURCES = "datasource_list: [NoCloud, None]\n"
# What the tests need on a host to prove its state, and to serve storage to another one.
_TESTS = [
    "systemd-timesyncd",
    "nfs-kernel-server",
    "samba",
    "tgt",
    "lvm2",
    "nvme-cli",
    "pciutils",
    "dosfstools",
    "openvswitch-switch",
    # For the guest that they boot there.
    "busybox-static",
    "cpio",
    "dropbear-bin",
    "openssh-client",
    "qemu-guest-agent",
    # For a guest of another architecture.
    "qemu-system-arm",
]

# Only what the root disk needs: a tenth of the modules that an installer would put in, which an
# emulated processor unpacks at every boot.
_INITRAMFS_MODULES = "virtio_pci\nvirtio_blk\next4\n"
_INITRAMFS = "MODULES=list\nCOMPRESS=zstd\nFSTYPE=ext4\n"
_SSHD = "HostKey /etc/ssh/ssh_host_ed25519_key\nUseDNS no\nPasswordAuthentication no\n"

_IDENTITY = """\
#!/bin/sh
# The lab hands over at the first boot what makes this host itself: name, keys, addresses.
set -eu
modprobe qemu_fw_cfg
tar -x -C / --no-overwrite-dir -f /sys/firmware/qemu_fw_cfg/by_name/opt/virtlab/identity/raw
hostname -F /etc/hostname
touch /etc/virtlab-identity
"""
_IDENTITY_UNIT = """\
[Unit]
Description=What makes this host of the lab itself
DefaultDependencies=no
ConditionPathExists=!/etc/virtlab-identity
After=systemd-remount-fs.service systemd-tmpfiles-setup-dev.service
Before=network-pre.target ifupdown-pre.service networking.service systemd-networkd.service
Before=ssh.service sysinit.target
Wants=network-pre.target

[Service]
Type=oneshot
ExecStart=/usr/local/sbin/virtlab-identity

[Install]
WantedBy=sysinit.target
"""
# Without tsc=reliable Debian 12 takes the HPET as its clock, whose every reading leaves the
# emulated CPU. Retpolines and return thunks, of no use here, cost it half of its speed. And code
# at a new address is new code to QEMU, which translates a program that has moved all over again.
# Behind the emulated IOMMU an NVMe times out for a minute where its memory is translated. And
# who continues from a snapshot, or waits for a processor, has not hung: systemd kills no service.
CMDLINE = (
    "console=ttyS0 tsc=reliable mitigations=off norandmaps iommu.passthrough=1"
    " systemd.service_watchdogs=0"
)
_GRUB = """\
GRUB_DEFAULT=0
GRUB_TIMEOUT=0
GRUB_DISTRIBUTOR=Debian
GRUB_CMDLINE_LINUX_DEFAULT="quiet"
GRUB_CMDLINE_LINUX="{}"
GRUB_TERMINAL=serial
GRUB_SERIAL_COMMAND="serial --unit=0 --speed=115200"
GRUB_DISABLE_OS_PROBER=true
"""


# The guest that the tests boot from an image: with what makes it fast under emulation.
GUEST = ("trixie", CMDLINE)


@dataclass(frozen=True)
class Recipe:
    """An image: a Debian release, packages, files (path, text, mode), commands in it.

    ``size`` is that of its disk in bytes, ``cmdline`` what its kernel is told.
    """

    release: str
    kind: str
    packages: tuple[str, ...]
    files: tuple[tuple[str, str, int], ...] = ()
    commands: tuple[tuple[str, ...], ...] = ()
    size: int = 12 << 30
    cmdline: str = CMDLINE

    @property
    def digest(self) -> str:
        """What names the image: it differs as soon as the image could."""
        content = json.dumps([_BUILDER.read_text(), asdict(self)], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    @property
    def name(self) -> str:
        """The image's name in the cache."""
        return f"{self.release}-{self.kind}-{self.digest}"


def role_packages(release: str) -> list[str]:
    """Return the packages that the roles install on this release, as their own variables say."""
    loader = DataLoader()
    facts = {
        "os_family": "Debian",
        "distribution": "Debian",
        "distribution_major_version": RELEASES[release],
        "distribution_release": release,
    }
    found: set[str] = set()
    for path in sorted((REPOSITORY / "roles").glob("*/vars/Debian.yml")):
        variables = loader.load_from_file(str(path), trusted_as_template=True)
        templar = Templar(loader, {**variables, "ansible_facts": facts})
        for key in variables:
            if re.fullmatch(r"__\w+_packages(_of|_system)?", key):
                found.update(_flat(templar.template(variables[key])))
    return sorted(found)


def _flat(value: object) -> list[str]:
    """Return the names in a list, or in the lists of a mapping."""
    parts = value.values() if isinstance(value, dict) else [value]
    return [str(name) for part in parts for name in (part if isinstance(part, list) else [part])]


def golden(release: str, cmdline: str = "console=tty0 console=ttyS0") -> Recipe:
    """Return the recipe of an image for guests, which cloud-init makes what their seeds say."""
    packages = {*_BARE, *_CLOUD} - {"apparmor", "linux-image-amd64", "nftables", "python3-apt"}
    files = (
        ("/etc/default/grub", _GRUB.format(cmdline), 0o644),
        ("/etc/fstab", "LABEL=root / ext4 errors=remount-ro 0 1\n", 0o644),
        ("/etc/initramfs-tools/modules", _INITRAMFS_MODULES + "virtio_scsi\nsd_mod\n", 0o644),
        ("/etc/initramfs-tools/conf.d/virtlab", _INITRAMFS, 0o644),
        ("/etc/cloud/cloud.cfg.d/90-datasources.cfg", _DATASOURCES, 0o644),
        ("/etc/machine-id", "", 0o444),
        ("/etc/hostname", "", 0o644),
    )
    enable = ("systemctl", "enable", "systemd-networkd.service", "systemd-resolved.service")
    return Recipe(
        release,
        "golden",
        tuple(sorted(packages)),
        files,
        (enable,),
        size=3 << 30,
        cmdline=cmdline,
    )


def recipe(release: str, kind: str) -> Recipe:
    """Return the recipe of a release's ``bare`` or ``ready`` image."""
    packages = [*_BARE, *_NETWORK[release]]
    if kind == "ready":
        packages += [*role_packages(release), *_TESTS]
    files = [
        ("/usr/local/sbin/virtlab-identity", _IDENTITY, 0o755),
        ("/etc/systemd/system/virtlab-identity.service", _IDENTITY_UNIT, 0o644),
        ("/etc/default/grub", _GRUB.format(CMDLINE), 0o644),
        ("/etc/fstab", "LABEL=root / ext4 errors=remount-ro 0 1\n", 0o644),
        (f"/etc/sudoers.d/{USER}", f"{USER} ALL=(ALL) NOPASSWD: ALL\n", 0o440),
        ("/etc/ssh/sshd_config.d/virtlab.conf", _SSHD, 0o644),
        ("/etc/initramfs-tools/modules", _INITRAMFS_MODULES, 0o644),
        ("/etc/initramfs-tools/conf.d/virtlab", _INITRAMFS, 0o644),
        ("/etc/machine-id", "", 0o444),
        ("/etc/hostname", "", 0o644),
    ]
    commands = [
        ("useradd", "--create-home", "--shell", "/bin/bash", USER),
        ("systemctl", "enable", "virtlab-identity.service"),
        # Nothing that wakes up by itself in the middle of a test.
        ("systemctl", "mask", "apt-daily.timer", "apt-daily-upgrade.timer", "man-db.timer"),
        ("systemctl", "mask", "fstrim.timer", "dpkg-db-backup.timer", "e2scrub_all.timer"),
    ]
    if release == "trixie":
        commands.append(("systemctl", "enable", "systemd-networkd.service"))
    if kind == "ready":
        files.append(("/usr/local/sbin/make-guest", _GUEST.read_text(), 0o755))
        files.append((f"{_PYTHON}/virtlab_code.py", _CODE.read_text(), 0o644))
        files.append((f"{_PYTHON}/virtlab.pth", "import virtlab_code\n", 0o644))
        commands.append(("make-guest",))
        # They serve tests, which start them.
        commands += [
            ("systemctl", "disable", "nfs-server.service", "smbd.service", "nmbd.service"),
            ("systemctl", "disable", "tgt.service", "openvswitch-switch.service"),
        ]
    return Recipe(release, kind, tuple(sorted(set(packages))), tuple(files), tuple(commands))
