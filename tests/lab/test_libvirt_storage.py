# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""libvirt's pools of many kinds, volumes on them, and secrets: on kvm1, kvm2 serves."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest
from asking import BOOT, in_guest, journal, virsh
from serving import CHAP, CLOSED, DISK1, DISK2, SECRET, TARGET, iscsi, pools, serve

if TYPE_CHECKING:
    from playing import Ansible, Run
    from virtlab.host import Host

pytestmark = pytest.mark.module_of("the lab")

OTHERS: list[dict[str, Any]] = [
    {"name": "paths", "type": "mpath"},
    {"name": "later", "type": "dir", "path": "/srv/later", "state": "inactive", "autostart": False},
]
# The disk of a bus that the kernel makes up, which is no longer there after a reboot.
BUS = "modprobe scsi_debug dev_size_mb=8 && ls -d /sys/bus/pseudo/drivers/scsi_debug/adapter0/host*"


@pytest.fixture(scope="module")
def served(kvm2: Host) -> Host:
    """Have the second host serve storage."""
    serve(kvm2)
    return kvm2


@pytest.fixture(scope="module")
def declared(served: Host, kvm1: Host) -> list[dict[str, Any]]:
    """Give the pools of all kinds."""
    number = kvm1.out(f"sudo sh -c '{BUS}'").rpartition("/host")[2]
    adapter = {"type": "scsi_host", "name": f"host{number}"}
    # Its disk has no path that udev knows, which is where libvirt looks by default.
    place = {"path": "/dev/disk/by-id", "autostart": False}
    bus = {"name": "bus", "type": "scsi", "adapter": adapter, **place}
    return [*pools(served), *OTHERS, bus]


def seen(host: Host) -> dict[str, str]:
    """Return what there is, by other tools than ours."""
    return {
        "pools": virsh(host, "pool-list --all"),
        "disks": host.out("sudo blkid -p /dev/vdb /dev/vdc || true; sudo vgs --noheadings || true"),
        "mounts": host.out("findmnt -rno TARGET -t ext4,nfs4,cifs"),
        "folders": host.out("ls /srv"),
    }


def verbs(run: Run, module: str) -> list[str]:
    found = run.of(module, "kvm1")["actions"]
    return [f"{a['object']} {a['action']} {a['when']}" for a in found]


def role(**variables: Any) -> list[dict[str, Any]]:
    common = {"hosts": "kvm1", "become": True, "gather_facts": False, "roles": ["kvm_storage"]}
    return [{**common, "vars": variables}]


def of_pools(*declared: dict[str, Any]) -> list[dict[str, Any]]:
    return role(kvm_storage_secrets=[SECRET], kvm_storage_pools=[*declared])


@pytest.fixture(scope="module")
def planned(ansible: Ansible, declared: list[dict[str, Any]], kvm1: Host) -> Run:
    before = seen(kvm1)
    run = ansible.plays(of_pools(*declared), "--check", "--diff")
    assert seen(kvm1) == before, "check mode touched something"
    return run


@pytest.fixture(scope="module")
def done(ansible: Ansible, planned: Run, declared: list[dict[str, Any]]) -> Run:
    del planned
    run = ansible.plays(of_pools(*declared), "--diff", "-vvv")
    assert CHAP not in run.output + json.dumps(run.results)
    return run


def test_the_pools_that_were_planned_are_there(
    planned: Run, done: Run, served: Host, kvm1: Host
) -> None:
    assert verbs(planned, "kvm_pools") == verbs(done, "kvm_pools")
    active = set(virsh(kvm1, "pool-list --name").split())
    assert active == {"folder", "files", "volumes", "nfs", "smb", "luns", "paths", "bus"}
    assert kvm1.out("findmnt -no FSTYPE /srv/files") == "ext4"
    source = f"{served.identity.cable_address}:/export/nfs"
    assert kvm1.out("findmnt -no SOURCE /srv/nfs") == source
    assert kvm1.out("findmnt -no FSTYPE /srv/smb") == "cifs"
    assert kvm1.out("sudo vgs --noheadings -o vg_name").strip() == "vg0"
    assert TARGET in kvm1.out("sudo iscsiadm -m session")
    for pool in ("luns", "bus"):
        assert len(virsh(kvm1, f"vol-list {pool} | grep unit").splitlines()) == 1
    for pool, kind in (("nfs", "qcow2"), ("smb", "raw"), ("files", "qcow2")):
        virsh(kvm1, f"vol-create-as {pool} try.img 1M --format {kind}")
    virsh(kvm1, "vol-create-as volumes try 4M")
    assert "try" in kvm1.out("sudo lvs --noheadings -o lv_name vg0")


VOLUMES: list[dict[str, Any]] = [
    {"pool": "folder", "name": "disk.qcow2", "size": "16MiB", "preallocate": "metadata"},
    {"pool": "folder", "name": "copy.qcow2", "from": "disk.qcow2", "size": "24MiB"},
    {
        "pool": "folder",
        "name": "top.qcow2",
        "size": "16MiB",
        "backing": {"path": "/srv/folder/disk.qcow2", "format": "qcow2"},
    },
    {"pool": "files", "name": "flat.img", "size": "8MiB", "format": "raw"},
    {"pool": "volumes", "name": "logical", "size": "10MiB"},
    {
        "pool": "files",
        "name": "luks.img",
        "size": "8MiB",
        "format": "raw",
        "encryption": {"usage": "/srv/files/luks.img"},
    },
]
OPENS = {"type": "volume", "name": "/srv/files/luks.img", "value": "a word that opens it"}


def of_volumes(*volumes: dict[str, Any], state: str = "present") -> list[dict[str, Any]]:
    declared = [{**volume, "state": state} for volume in volumes]
    return role(kvm_storage_secrets=[OPENS], kvm_storage_volumes=declared)


def test_secrets_are_kept_and_told_to_nobody(ansible: Ansible, done: Run, kvm1: Host) -> None:
    del done
    word = "a word that nobody may see"
    shared = {"type": "ceph", "name": "client.lab secret", "value": word}
    private = {"type": "iscsi", "name": "another", "value": word, "private": True}
    plays = role(kvm_storage_secrets=[shared, private])
    before = virsh(kvm1, "secret-list")
    planned = ansible.plays(plays, "--check", "--diff")
    assert virsh(kvm1, "secret-list") == before
    run = ansible.plays(plays, "--diff", "-vvv")
    assert verbs(planned, "kvm_secrets") == verbs(run, "kvm_secrets")
    assert all(word not in one.output + json.dumps(one.results) for one in (planned, run))
    (uuid, other) = (one["uuid"] for one in run.of("kvm_secrets", "kvm1")["secrets"])
    kept = base64.b64decode(virsh(kvm1, f"secret-get-value {uuid}"))
    assert kept.decode() == word
    asked = f"sudo virsh --connect qemu:///system secret-get-value {other}"
    assert "private" in kvm1.run(asked, check=False).stderr
    assert word not in journal(kvm1)
    assert ansible.plays(plays).changed() == {}
    ansible.plays(plays, kvm_storage_state="absent")
    assert virsh(kvm1, "secret-list") == before
    assert ansible.plays(plays, kvm_storage_state="absent").changed() == {}


def guest_on_volumes(ansible: Ansible, host: Host) -> None:
    """Let a guest run on volumes by their names, which the host's AppArmor allows it to open."""
    disks = [
        {"target": "vda", "volume": {"pool": "folder", "volume": "top.qcow2"}, "format": "qcow2"},
        {"target": "vdb", "volume": {"pool": "volumes", "volume": "logical"}, "format": "raw"},
        {"target": "vdc", "volume": {"pool": "files", "volume": "luks.img"}, "format": "raw"},
    ]
    spec = {"name": "web", "memory": "192MiB", **BOOT, "disks": disks, "wait_for": "agent"}
    plays = role()
    variables = {"kvm_guest_force": True, "kvm_guest_stop_timeout": "2s"}
    plays[0] |= {"roles": ["kvm_guest"], "vars": {**variables, "kvm_guest_specs": [spec]}}
    ansible.plays(plays)
    sizes = in_guest(host, "web", "cat /sys/block/vd[abc]/size").split()
    assert sizes == [str(16 << 11), str(20 << 11), str(8 << 11)]
    in_guest(host, "web", "echo what nobody else may read > /dev/vdc; sync")
    assert in_guest(host, "web", "head -n 1 /dev/vdc") == "what nobody else may read"
    host.run("sudo sync")
    assert host.run("sudo grep -q 'may read' /srv/files/luks.img", check=False).returncode == 1
    assert "LUKS" in host.out("sudo head -c 4 /srv/files/luks.img")
    assert ansible.plays(plays).changed() == {}
    ansible.plays(plays, kvm_guest_state="absent")


def test_volumes_are_made_grown_and_removed(ansible: Ansible, done: Run, kvm1: Host) -> None:
    del done
    planned = ansible.plays(of_volumes(*VOLUMES), "--check")
    assert "disk.qcow2" not in virsh(kvm1, "vol-list folder")
    run = ansible.plays(of_volumes(*VOLUMES))
    assert verbs(planned, "kvm_volumes") == verbs(run, "kvm_volumes")
    assert "24.00 MiB" in virsh(kvm1, "vol-info copy.qcow2 folder")
    top = kvm1.out("sudo qemu-img info /srv/folder/top.qcow2")
    assert "backing file: /srv/folder/disk.qcow2" in top
    assert kvm1.out("sudo stat -c %s /srv/files/flat.img") == str(8 << 20)
    assert "12.00m" in kvm1.out("sudo lvs --noheadings --units m vg0/logical")
    assert ansible.plays(of_volumes(*VOLUMES)).changed() == {}
    larger = [{**VOLUMES[1], "size": "32MiB"}, {**VOLUMES[4], "size": "20MiB"}]
    run = ansible.plays(of_volumes(*larger))
    assert [verb.split()[1] for verb in verbs(run, "kvm_volumes")] == ["grow", "grow"]
    assert "32.00 MiB" in virsh(kvm1, "vol-info copy.qcow2 folder")
    assert "20.00m" in kvm1.out("sudo lvs --noheadings --units m vg0/logical")
    guest_on_volumes(ansible, kvm1)
    refused = ansible.plays(of_volumes(VOLUMES[0], state="absent"), status=2)
    assert "volume/folder/top.qcow2" in "\n".join(refused.messages("kvm1"))
    ansible.plays(of_volumes(*VOLUMES, state="absent"))
    assert ansible.plays(of_volumes(*VOLUMES, state="absent")).changed() == {}
    gone = role(kvm_storage_secrets=[{**OPENS, "state": "absent"}])
    ansible.plays(gone)
    assert "luks.img" not in virsh(kvm1, "secret-list")
    for pool in ("folder", "files", "volumes"):
        left = virsh(kvm1, f"vol-list {pool}")
        assert not any(volume["name"] in left for volume in VOLUMES)


def test_what_is_in_a_volume_is_sent_and_brought(ansible: Ansible, done: Run, kvm1: Host) -> None:
    """Into a folder and a volume group, from a file with holes, and out of the latter again."""
    del done
    kvm1.run(
        "head -c 2M /dev/urandom > /tmp/raw.img && truncate -s 12M /tmp/raw.img"
        " && qemu-img convert -O qcow2 /tmp/raw.img /tmp/whole.qcow2"
    )
    sums = [kvm1.out(f"sha256sum /tmp/{name}").split()[0] for name in ("raw.img", "whole.qcow2")]
    raw = {"path": "/tmp/raw.img", "checksum": f"sha256:{sums[0]}"}
    logical = {"pool": "volumes", "name": "sent", "format": "raw", "upload": raw}
    file: dict[str, Any] = {
        "pool": "folder",
        "name": "sent.qcow2",
        "size": "16MiB",
        "upload": {"path": "/tmp/whole.qcow2"},
    }
    wrong = {**file, "name": "wrong", "upload": {**file["upload"], "checksum": "0" * 64}}
    refused = ansible.plays(of_volumes(logical, file, wrong), status=2)
    assert "expected sha256:0000" in "\n".join(refused.messages("kvm1"))
    assert "sent.qcow2" in virsh(kvm1, "vol-list folder")
    assert "wrong" not in virsh(kvm1, "vol-list folder")
    kvm1.run("sudo cmp --bytes 12582912 /tmp/raw.img /dev/vg0/sent")
    info = json.loads(kvm1.out("sudo qemu-img info --output json /srv/folder/sent.qcow2"))
    assert (info["format"], info["virtual-size"]) == ("qcow2", 16 << 20)
    kvm1.run("sudo qemu-img compare /tmp/raw.img /srv/folder/sent.qcow2")
    brought = {**logical, "download": {"path": "/srv/folder/brought.img", "checksum": "sha256"}}
    run = ansible.plays(of_volumes(brought, file))
    assert verbs(run, "kvm_volumes") == ["volume/volumes/sent update now"]
    found = kvm1.out("sudo sha256sum /srv/folder/brought.img").split()[0]
    assert [v["checksum"] for v in run.of("kvm_volumes", "kvm1")["volumes"]] == [
        f"sha256:{found}",
        "",
    ]
    kvm1.run("sudo cmp --bytes 12582912 /tmp/raw.img /srv/folder/brought.img")
    assert ansible.plays(of_volumes(brought, file)).changed() == {}
    ansible.plays(of_volumes(logical, file, state="absent"))
    kvm1.run("sudo rm /srv/folder/brought.img")


def test_a_second_run_changes_nothing(
    ansible: Ansible, done: Run, declared: list[dict[str, Any]]
) -> None:
    del done
    run = ansible.plays(of_pools(*declared), "--diff")
    assert run.changed() == {}, run.output
    assert run.of("kvm_pools", "kvm1")["pending"] == []


def test_bad_input_is_told_at_once_and_nothing_is_touched(
    ansible: Ansible, done: Run, served: Host, kvm1: Host
) -> None:
    del done
    before = seen(kvm1)
    linked = {"name": "linked", "type": "logical", "source_name": "x", "devices": [DISK2]}
    (message,) = ansible.plays(of_pools(linked), status=2).messages("kvm1")
    assert "the name that LVM knows it by, /dev/vdc" in message
    nfs = pools(served)[3]
    away = {**nfs, "name": "away", "hosts": [{"name": "10.77.0.99"}], "path": "/srv/away"}
    (message,) = ansible.plays(of_pools(away), status=2).messages("kvm1")
    assert "start pool/away: 10.77.0.99 does not answer on port 2049" in message
    # A login with another secret than the server's, which nobody gets to read.
    wrong = {**SECRET, "name": "closed", "value": "not-the-w0rd"}
    closed = iscsi("closed", served, CLOSED, "closed")
    run = ansible.plays(role(kvm_storage_secrets=[wrong], kvm_storage_pools=[closed]), status=2)
    (message,) = run.messages("kvm1")
    assert "start pool/closed" in message
    assert "authorization" in message
    assert wrong["value"] not in run.output
    gone = [{"name": name, "state": "absent"} for name in ("away", "closed")]
    ansible.plays(of_pools(*gone))
    ansible.plays(role(kvm_storage_secrets=[{**wrong, "state": "absent"}]))
    assert seen(kvm1) == before


def test_a_disk_with_data_is_never_built_over(ansible: Ansible, served: Host) -> None:
    kvm2 = served
    kvm2.run(f"for disk in {DISK1} {DISK2}; do sudo mkfs.ext4 -q -L precious $disk; done")
    pools = [
        {
            "name": "vg",
            "type": "logical",
            "source_name": "vg9",
            "devices": ["/dev/vdb"],
            "build": True,
        },
        {"name": "gpt", "type": "disk", "devices": [DISK2], "format": "gpt", "build": True},
    ]
    play = {**of_pools(*pools)[0], "hosts": "kvm2"}
    (message,) = ansible.plays([play], status=2).messages("kvm2")
    assert message.count("cannot be built") == 2
    assert kvm2.out(f"sudo blkid {DISK1} {DISK2}").count("precious") == 2
    kvm2.run(f"sudo wipefs -q -a {DISK2}")
    play = {**of_pools(pools[1])[0], "hosts": "kvm2"}
    ansible.plays([play])
    virsh(kvm2, "vol-create-as gpt vdc1 8M")
    assert "vdc1" in kvm2.out("lsblk -no NAME")
    assert ansible.plays([play]).changed() == {}
    gone = of_pools(*({"name": pool["name"], "state": "absent"} for pool in pools))[0]
    ansible.plays([{**gone, "hosts": "kvm2"}])
    assert "precious" in kvm2.out(f"sudo blkid {DISK1}")


@pytest.mark.one_of("a reboot")
def test_all_of_it_is_back_after_a_reboot(done: Run, kvm1: Host) -> None:
    del done
    kvm1.reboot()
    active = set(virsh(kvm1, "pool-list --name").split())
    assert {"folder", "files", "volumes", "nfs", "smb", "luns", "paths"} <= active


def test_the_way_back_leaves_what_is_stored(
    ansible: Ansible, done: Run, kvm1: Host, declared: list[dict[str, Any]]
) -> None:
    del done
    ansible.plays(of_pools(*declared), kvm_storage_state="absent")
    assert virsh(kvm1, "pool-list --all --name") == ""
    assert kvm1.out("sudo vgs --noheadings -o vg_name").strip() == "vg0"
    assert "ext4" in kvm1.out(f"sudo blkid -p {DISK1}")
    assert ansible.plays(of_pools(*declared), kvm_storage_state="absent").changed() == {}
