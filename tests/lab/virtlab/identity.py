# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What makes a host itself: name, keys, addresses, UUID and MACs, handed over at its first boot."""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .recipe import USER

if TYPE_CHECKING:
    from pathlib import Path

# QEMU's user network (docs/system/devices/net) and the lab's own, which nothing else ever joins.
MANAGEMENT = "enp0s2"
CABLE = "enp0s3"
_GATEWAY, _RESOLVER, _SELF = "10.0.2.2", "10.0.2.3", "10.0.2.15"
CABLE_NETWORK = "10.77.0"


@dataclass(frozen=True)
class Identity:
    """One host of a lab; ``index`` counts from 1."""

    name: str
    index: int
    release: str

    @property
    def uuid(self) -> str:
        """The machine's UUID."""
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"virtlab:{self.index}/{self.name}"))

    def mac(self, nic: int) -> str:
        """Return the MAC of a NIC: a local one, derived from the name."""
        digest = hashlib.sha256(f"{self.uuid}/{nic}".encode()).digest()[:5]
        return ":".join(f"{byte:02x}" for byte in b"\x02" + digest)

    @property
    def cable_address(self) -> str:
        """The address in the network between the hosts."""
        return f"{CABLE_NETWORK}.{10 + self.index}"


def make_key(path: Path, comment: str) -> str:
    """Make an Ed25519 key pair at ``path``, if there is none, and return the public part."""
    public = path.with_name(f"{path.name}.pub")
    if not public.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return public.read_text().strip()


def _ifupdown(identity: Identity) -> dict[str, tuple[str, int]]:
    text = (
        "auto lo\niface lo inet loopback\n\n"
        f"auto {MANAGEMENT}\niface {MANAGEMENT} inet static\n"
        f"  address {_SELF}/24\n  gateway {_GATEWAY}\n\n"
        f"auto {CABLE}\niface {CABLE} inet static\n"
        f"  address {identity.cable_address}/24\n\n"
        "source /etc/network/interfaces.d/*\n"
    )
    return {
        "etc/network/interfaces": (text, 0o644),
        "etc/resolv.conf": (f"nameserver {_RESOLVER}\n", 0o644),
    }


def _networkd(identity: Identity) -> dict[str, tuple[str, int]]:
    management = (
        f"[Match]\nName={MANAGEMENT}\n\n[Network]\nAddress={_SELF}/24\n"
        f"Gateway={_GATEWAY}\nDNS={_RESOLVER}\nLinkLocalAddressing=no\n"
    )
    cable = (
        f"[Match]\nName={CABLE}\n\n[Network]\nAddress={identity.cable_address}/24\n"
        "LinkLocalAddressing=no\n"
    )
    return {
        f"etc/systemd/network/50-{MANAGEMENT}.network": (management, 0o644),
        f"etc/systemd/network/50-{CABLE}.network": (cable, 0o644),
    }


def archive(identity: Identity, key: Path, public: str, authorized: str) -> bytes:
    """Return the tar archive that the host unpacks over its root at the first boot."""
    network = _ifupdown if identity.release == "bookworm" else _networkd
    files = {
        "etc/hostname": (f"{identity.name}\n", 0o644),
        "etc/hosts": (f"127.0.0.1 localhost\n127.0.1.1 {identity.name}\n", 0o644),
        "etc/ssh/ssh_host_ed25519_key": (key.read_text(), 0o600),
        "etc/ssh/ssh_host_ed25519_key.pub": (f"{public}\n", 0o644),
        **network(identity),
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, (text, mode) in files.items():
            _add(tar, path, text.encode(), mode, 0)
        folder = tarfile.TarInfo(f"home/{USER}/.ssh")
        folder.type, folder.mode, folder.uid, folder.gid = tarfile.DIRTYPE, 0o700, 1000, 1000
        tar.addfile(folder)
        path = f"home/{USER}/.ssh/authorized_keys"
        _add(tar, path, f"{authorized}\n".encode(), 0o600, 1000)
    return buffer.getvalue()


def _add(tar: tarfile.TarFile, path: str, content: bytes, mode: int, owner: int) -> None:
    entry = tarfile.TarInfo(path)
    entry.size, entry.mode, entry.uid, entry.gid = len(content), mode, owner, owner
    tar.addfile(entry, io.BytesIO(content))
