# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Storage that one host of the lab serves to the other, and pools of libvirt on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from virtlab.host import Host

TARGET = "iqn.2026-01.org.example:pool"
CLOSED = f"{TARGET}-closed"  # whose secret the tests state wrongly
CHAP = "chap-w0rd-of-the-lab"
DISK1, DISK2 = "/dev/disk/by-id/virtio-disk1", "/dev/disk/by-id/virtio-disk2"
SECRET = {"type": "iscsi", "name": "array", "value": CHAP}
_SERVE = f"""
set -eu
mkdir -p /export/nfs /export/smb
chmod 777 /export/smb
echo '/export/nfs 10.77.0.0/24(rw,no_root_squash,no_subtree_check)' > /etc/exports
printf '[global]\\nmap to guest = Bad User\\n' > /etc/samba/smb.conf
printf '[images]\\npath = /export/smb\\nread only = no\\nguest ok = yes\\n' >> /etc/samba/smb.conf
for name in lun closed; do truncate -s 64M /export/$name; done
cat > /etc/tgt/conf.d/lab.conf <<END
<target {TARGET}>
  backing-store /export/lun
  incominguser lab {CHAP}
</target>
<target {CLOSED}>
  backing-store /export/closed
  incominguser lab {CHAP}
</target>
END
systemctl start nfs-server smbd tgt
"""


def serve(host: Host) -> None:
    """Have a host serve NFS, SMB and iSCSI."""
    host.run("sudo sh", stdin=_SERVE)


def pools(server: Host) -> list[dict[str, Any]]:
    """Return pools of six kinds; those of iSCSI log in with ``SECRET``."""
    address = server.identity.cable_address
    hosts = [{"name": address}]
    return [
        {"name": "folder", "type": "dir", "path": "/srv/folder"},
        {
            "name": "files",
            "type": "fs",
            "devices": [DISK1],
            "format": "ext4",
            "path": "/srv/files",
            "build": True,
        },
        {
            "name": "volumes",
            "type": "logical",
            "source_name": "vg0",
            "devices": ["/dev/vdc"],
            "build": True,
        },
        {
            "name": "nfs",
            "type": "netfs",
            "hosts": hosts,
            "dir": "/export/nfs",
            "format": "nfs",
            "path": "/srv/nfs",
            "mount_options": ["soft"],
        },
        {
            "name": "smb",
            "type": "netfs",
            "hosts": hosts,
            "dir": "images",
            "format": "cifs",
            "path": "/srv/smb",
        },
        iscsi("luns", server),
    ]


def iscsi(name: str, server: Host, target: str = TARGET, usage: str = "array") -> dict[str, Any]:
    """Return a pool on a target of the server, which a secret of this usage logs in to."""
    return {
        "name": name,
        "type": "iscsi",
        "hosts": [{"name": server.identity.cable_address}],
        "target": target,
        "auth": {"type": "chap", "username": "lab", "usage": usage},
    }
