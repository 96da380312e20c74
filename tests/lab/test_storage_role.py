# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role kvm_storage: one host serves NFS, SMB and iSCSI, the other stores on them and on LVM."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playing import Ansible, Run
    from virtlab.host import Host

pytestmark = pytest.mark.module_of("the lab")

SERVER = "10.77.0.12"
SMB_SECRET, CHAP_SECRET = "smb-p4ssw0rd-smb", "chap-p4ssw0rd"
TARGET = "iqn.2026-01.org.example:guests"
DISK1, DISK2 = "/dev/disk/by-id/virtio-disk1", "/dev/disk/by-id/virtio-disk2"
STATED: dict[str, Any] = {
    "kvm_storage_directories": [{"path": "/srv/images", "mode": "0750"}],
    "kvm_storage_volume_groups": [
        {"name": "guests", "disks": [DISK1], "thin_pools": [{"name": "pool", "size": "80%"}]}
    ],
    "kvm_storage_mounts": [
        {"type": "nfs", "source": f"{SERVER}:/export/nfs", "path": "/srv/nfs"},
        {
            "type": "smb",
            "source": f"//{SERVER}/images",
            "path": "/srv/smb",
            "username": "storer",
            "password": SMB_SECRET,
        },
    ],
    "kvm_storage_iscsi": {
        "initiator_name": "iqn.2026-01.org.example:kvm1",
        "portals": [
            {
                "address": SERVER,
                "targets": [TARGET],
                "chap": {"user": "kvm1", "password": CHAP_SECRET},
            }
        ],
    },
}
SERVE = f"""
set -eu
mkdir -p /export/nfs /export/smb
echo from-nfs > /export/nfs/mark; echo from-smb > /export/smb/mark
echo '/export/nfs 10.77.0.0/24(rw,no_root_squash,no_subtree_check)' > /etc/exports
useradd --no-create-home storer
chown storer /export/smb
printf '[images]\\npath = /export/smb\\nread only = no\\n' > /etc/samba/smb.conf
printf '{SMB_SECRET}\\n{SMB_SECRET}\\n' | smbpasswd -s -a storer
truncate -s 64M /export/lun
cat > /etc/tgt/conf.d/lab.conf <<END
<target {TARGET}>
  backing-store /export/lun
  incominguser kvm1 {CHAP_SECRET}
</target>
END
systemctl start nfs-server smbd tgt
"""


@pytest.fixture(scope="module")
def served(kvm2: Host) -> Host:
    """Have the second host serve all three kinds."""
    kvm2.run("sudo sh", stdin=SERVE)
    return kvm2


def storage(host: Host) -> dict[str, str]:
    """Return what there is of storage, by the host's own tools."""
    return {
        "mounts": host.out("findmnt -n -l -o TARGET,FSTYPE,SOURCE -t nfs4,cifs || true"),
        "fstab": host.out("cat /etc/fstab"),
        "groups": host.out("sudo vgs --noheadings -o vg_name,lv_count"),
        "volumes": host.out("sudo lvs --noheadings -o vg_name,lv_name,lv_attr || true"),
        "sessions": host.out("sudo iscsiadm -m session 2>&1 || true"),
        "nodes": host.out("sudo iscsiadm -m node 2>&1 || true"),
        "folders": host.out("ls -ld /srv/* 2>/dev/null || true"),
        "signatures": host.out(f"sudo wipefs -n {DISK1} {DISK2}"),
    }


@pytest.fixture(scope="module")
def planned(ansible: Ansible, served: Host, kvm1: Host) -> Run:
    del served
    before = storage(kvm1)
    run = ansible.role("kvm_storage", "--limit", "kvm1", "--check", "--diff", **STATED)
    assert storage(kvm1) == before, "check mode touched something"
    return run


@pytest.fixture(scope="module")
def done(ansible: Ansible, planned: Run) -> Run:
    del planned
    return ansible.role("kvm_storage", "--limit", "kvm1", "--diff", **STATED)


def objects(run: Run) -> list[tuple[str, str]]:
    found = run.of("kvm_host_storage", "kvm1")["actions"]
    return [(action["object"], action["action"]) for action in found]


def test_what_was_planned_is_there(planned: Run, done: Run, kvm1: Host) -> None:
    assert objects(done) == objects(planned)
    now = storage(kvm1)
    assert "/srv/nfs nfs4 10.77.0.12:/export/nfs" in " ".join(now["mounts"].split())
    assert "/srv/smb cifs //10.77.0.12/images" in " ".join(now["mounts"].split())
    assert kvm1.out("sudo cat /srv/nfs/mark /srv/smb/mark").split() == ["from-nfs", "from-smb"]
    assert "guests" in now["groups"]
    assert [line.split()[:2] for line in now["volumes"].splitlines()] == [["guests", "pool"]]
    assert now["volumes"].split()[2].startswith("t"), "a thin pool"
    assert TARGET in now["sessions"]
    assert kvm1.out("stat -c %a /srv/images") == "750"


def test_secrets_are_seen_nowhere(done: Run, planned: Run, kvm1: Host) -> None:
    for run in (done, planned):
        for secret in (SMB_SECRET, CHAP_SECRET):
            assert secret not in run.output
            assert secret not in json.dumps(run.results)
    found = kvm1.out(f"sudo grep -rl -e {SMB_SECRET} -e {CHAP_SECRET} /etc /var/lib 2>/dev/null")
    assert found.splitlines()
    for path in found.splitlines():
        assert kvm1.out(f"sudo stat -c '%a %U' {path}") == "600 root", path
    assert kvm1.run("mount | grep -q p4ssw0rd", check=False).returncode == 1
    # sudo notes the commands of this very test.
    journal = "sudo journalctl --no-pager | grep p4ssw0rd | grep -v 'sudo.*COMMAND=' || true"
    assert kvm1.out(journal) == ""


def test_a_second_run_changes_nothing(ansible: Ansible, done: Run) -> None:
    del done
    assert ansible.role("kvm_storage", "--limit", "kvm1", **STATED).changed() == {}


def test_a_group_grows_by_a_disk(ansible: Ansible, done: Run, kvm1: Host) -> None:
    del done
    groups = [{**STATED["kvm_storage_volume_groups"][0], "disks": [DISK1, DISK2]}]
    stated: dict[str, Any] = {**STATED, "kvm_storage_volume_groups": groups}
    run = ansible.role("kvm_storage", "--limit", "kvm1", **stated)
    assert {name.partition("/")[0] for name, _ in objects(run)} <= {"volume_group", "thin_pool"}
    assert kvm1.out("sudo vgs --noheadings -o pv_count guests") == "2"
    assert ansible.role("kvm_storage", "--limit", "kvm1", **stated).changed() == {}


def test_a_disk_that_holds_data_is_refused(ansible: Ansible, served: Host) -> None:
    served.run(f"sudo mkfs.ext4 -q -L precious {DISK1}")
    stated: dict[str, Any] = {
        "kvm_storage_volume_groups": [{"name": "new", "disks": [DISK1, DISK2]}]
    }
    run = ansible.role("kvm_storage", "--limit", "kvm2", status=2, **stated)
    message = "\n".join(run.messages("kvm2"))
    assert "virtio-disk1" in message
    assert "ext4" in message
    assert "force" in message
    assert served.out(f"sudo blkid -s LABEL -o value {DISK1}") == "precious"
    assert "LVM" not in served.out(f"sudo wipefs -n {DISK2}")
    forced = [{"name": "new", "disks": [{"path": DISK1, "force": True}]}]
    ansible.role("kvm_storage", "--limit", "kvm2", kvm_storage_volume_groups=forced)
    assert "new" in served.out("sudo vgs --noheadings -o vg_name")


def test_a_wrong_chap_secret_is_said_without_it(ansible: Ansible, done: Run) -> None:
    del done
    portal = {**STATED["kvm_storage_iscsi"]["portals"][0]}
    portal["targets"], portal["chap"] = [TARGET], {"user": "kvm2", "password": "another-secret"}
    stated: dict[str, Any] = {
        "kvm_storage_iscsi": {"portals": [portal]},
        "kvm_storage_mount_timeout": "10s",
    }
    run = ansible.role("kvm_storage", "--limit", "kvm2", status=2, **stated)
    message = "\n".join(run.messages("kvm2"))
    assert TARGET in message
    assert "another-secret" not in run.output


@pytest.mark.one_of("a reboot")
def test_everything_is_back_after_a_reboot(ansible: Ansible, done: Run, kvm1: Host) -> None:
    del done
    kvm1.reboot()
    kvm1.run("for i in $(seq 60); do mountpoint -q /srv/smb && break; sleep 1; done")
    assert kvm1.out("sudo cat /srv/nfs/mark /srv/smb/mark").split() == ["from-nfs", "from-smb"]
    kvm1.run("for i in $(seq 60); do sudo iscsiadm -m session && break; sleep 1; done")
    assert TARGET in storage(kvm1)["sessions"]
    run = ansible.role("kvm_storage", "--limit", "kvm1", **STATED)
    assert run.changed() == {}


def test_a_server_that_is_away_is_named_in_time(
    ansible: Ansible, done: Run, kvm1: Host, kvm2: Host
) -> None:
    del done
    mount = {"type": "nfs", "source": f"{SERVER}:/export/other", "path": "/srv/other"}
    stated: dict[str, Any] = {"kvm_storage_mounts": [mount], "kvm_storage_mount_timeout": "10s"}
    kvm2.connect_cable(connected=False)
    try:
        run = ansible.role("kvm_storage", "--limit", "kvm1", status=2, patience=240, **stated)
    finally:
        kvm2.connect_cable(connected=True)
    assert "/srv/other" in "\n".join(run.messages("kvm1"))
    assert kvm1.run("mountpoint -q /srv/other", check=False).returncode
    # It stays declared until it is said that it shall not be there.
    ansible.role(
        "kvm_storage", "--limit", "kvm1", kvm_storage_mounts=[{**mount, "state": "absent"}]
    )
    assert "/srv/other" not in storage(kvm1)["fstab"]


def test_the_way_back_keeps_data_unless_it_may_go(
    ansible: Ansible, done: Run, kvm1: Host, kvm2: Host
) -> None:
    del done
    kvm1.run(f"for i in $(seq 30); do ping -c1 -W1 {SERVER} && break; done", check=False)
    ansible.role("kvm_storage", "--limit", "kvm1", **STATED, kvm_storage_state="absent")
    now = storage(kvm1)
    assert (now["mounts"], TARGET in now["sessions"], TARGET in now["nodes"]) == ("", False, False)
    assert "/srv/" not in now["fstab"]
    assert "guests" in now["groups"], "data stays unless its removal is asked for"
    grep = f"sudo grep -rl -e {SMB_SECRET} -e {CHAP_SECRET} /etc /var/lib 2>/dev/null || true"
    found = kvm1.out(grep)
    assert found == ""
    ansible.role(
        "kvm_storage",
        "--limit",
        "kvm1",
        **STATED,
        kvm_storage_state="absent",
        kvm_storage_remove_data=True,
    )
    assert "guests" not in storage(kvm1)["groups"]
    assert kvm2.out("cat /export/nfs/mark") == "from-nfs"
