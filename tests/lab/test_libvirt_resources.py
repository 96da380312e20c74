# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""libvirt's networks and pools: five networks on both hosts, and pools of seven kinds on one."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest
from asking import BOOT, in_guest, journal, virsh

if TYPE_CHECKING:
    from playing import Ansible, Run
    from virtlab.host import Host
    from virtlab.lab import Lab

SERVER = "10.77.0.12"
TARGET = "iqn.2026-01.org.example:pool"
DISK1, DISK2 = "/dev/disk/by-id/virtio-disk1", "/dev/disk/by-id/virtio-disk2"
MAC = "02:00:00:00:00:21"
RANGE = {"start": "10.20.0.100", "end": "10.20.0.199"}
WEB_LEASE = {"mac": MAC, "name": "web", "ip": "10.20.0.21"}
LAN: dict[str, Any] = {
    "name": "lan",
    "mode": "nat",
    "domain": "lan.test",
    "dns": {"hosts": [{"ip": "10.20.0.1", "names": ["gate.lan.test"]}]},
    "ips": [
        {"address": "10.20.0.1", "prefix": 24, "dhcp": {"ranges": [RANGE], "hosts": [WEB_LEASE]}},
        {"address": "10.22.0.1", "prefix": 24},
    ],
}
OTHERS: list[dict[str, Any]] = [
    {"name": "routed", "mode": "route", "ips": [{"address": "10.21.0.1", "prefix": 24}]},
    {
        "name": "closed",
        "mode": "isolated",
        "bridge": "closed0",
        "ips": [{"address": "fd20::1", "prefix": 64}],
    },
    {
        "name": "office",
        "mode": "bridge",
        "bridge": "host0",
        "portgroups": [{"name": "slow", "bandwidth": {"inbound": {"average": 1000}}}],
    },
    {"name": "direct", "mode": "bridge", "interfaces": ["enp0s3"], "autostart": False},
]
POOLS: list[dict[str, Any]] = [
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
        "hosts": [{"name": SERVER}],
        "dir": "/export/nfs",
        "format": "nfs",
        "path": "/srv/nfs",
        "mount_options": ["soft"],
    },
    {
        "name": "smb",
        "type": "netfs",
        "hosts": [{"name": SERVER}],
        "dir": "images",
        "format": "cifs",
        "path": "/srv/smb",
    },
    {"name": "luns", "type": "iscsi", "hosts": [{"name": SERVER}], "target": TARGET},
    {"name": "paths", "type": "mpath"},
    {"name": "later", "type": "dir", "path": "/srv/later", "state": "inactive", "autostart": False},
]
SERVE = f"""
set -eu
mkdir -p /export/nfs /export/smb
chmod 777 /export/smb
echo '/export/nfs 10.77.0.0/24(rw,no_root_squash,no_subtree_check)' > /etc/exports
printf '[global]\\nmap to guest = Bad User\\n' > /etc/samba/smb.conf
printf '[images]\\npath = /export/smb\\nread only = no\\nguest ok = yes\\n' >> /etc/samba/smb.conf
truncate -s 64M /export/lun
cat > /etc/tgt/conf.d/lab.conf <<END
<target {TARGET}>
  backing-store /export/lun
</target>
END
systemctl start nfs-server smbd tgt
"""
GUEST: dict[str, Any] = {
    "name": "web",
    "memory": "256MiB",
    **BOOT,
    "nics": [{"network": "lan", "mac": MAC}],
    "wait_for": "address",
}


@pytest.fixture(scope="module")
def stood(lab: Lab) -> Lab:
    """Have one host serve storage, and each have a bridge that the networks refer to."""
    lab["kvm2"].run("sudo sh", stdin=SERVE)
    for host in lab.hosts.values():
        host.run("sudo ip link add host0 type bridge && sudo ip link set host0 up")
    return lab


def plays(networks: list[dict[str, Any]], pools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    common = {"become": True, "gather_facts": False}
    first = {"hosts": "hypervisors", "roles": ["kvm_network"], **common}
    second = {"hosts": "kvm1", "roles": ["kvm_storage"], **common}
    return [
        {**first, "vars": {"kvm_network_networks": networks}},
        {**second, "vars": {"kvm_storage_pools": pools}},
    ]


def of_networks(*networks: dict[str, Any]) -> list[dict[str, Any]]:
    return plays([*networks], [])[:1]


def of_pools(*pools: dict[str, Any]) -> list[dict[str, Any]]:
    return plays([], [*pools])[1:]


def seen(host: Host) -> dict[str, str]:
    """Return what there is, by other tools than ours."""
    return {
        "networks": virsh(host, "net-list --all"),
        "pools": virsh(host, "pool-list --all"),
        "disks": host.out("sudo blkid -p /dev/vdb /dev/vdc || true; sudo vgs --noheadings || true"),
        "mounts": host.out("findmnt -rno TARGET -t ext4,nfs4,cifs"),
        "folders": host.out("ls /srv"),
    }


def verbs(run: Run, module: str, host: str) -> list[str]:
    return [f"{a['object']} {a['action']} {a['when']}" for a in run.of(module, host)["actions"]]


@pytest.fixture(scope="module")
def before(stood: Lab) -> dict[str, dict[str, str]]:
    return {host.name: seen(host) for host in stood.hosts.values()}


@pytest.fixture(scope="module")
def planned(ansible: Ansible, stood: Lab, before: dict[str, dict[str, str]]) -> Run:
    run = ansible.plays(plays([LAN, *OTHERS], POOLS), "--check", "--diff")
    for host in stood.hosts.values():
        assert seen(host) == before[host.name], "check mode touched something"
    return run


@pytest.fixture(scope="module")
def done(ansible: Ansible, planned: Run) -> Run:
    del planned
    return ansible.plays(plays([LAN, *OTHERS], POOLS))


def test_the_networks_that_were_planned_are_there(planned: Run, done: Run, host: Host) -> None:
    assert verbs(planned, "kvm_networks", host.name) == verbs(done, "kvm_networks", host.name)
    names = {"lan", "routed", "closed", "office", "direct"}
    assert set(virsh(host, "net-list --name").split()) >= names
    started = set(virsh(host, "net-list --autostart --all --name").split())
    assert started & names == names - {"direct"}
    assert "<forward mode='nat'" in virsh(host, "net-dumpxml lan")
    assert bridged(host, "lan")
    assert "masquerade" in host.out("sudo nft list ruleset; sudo iptables-save -t nat").lower()


def bridged(host: Host, network: str) -> bool:
    bridge = virsh(host, f"net-info {network} | awk '/Bridge/{{print $2}}'")
    return "10.20.0.1/24" in host.out(f"ip -br address show dev {bridge}")


def test_the_pools_that_were_planned_are_there(planned: Run, done: Run, kvm1: Host) -> None:
    assert verbs(planned, "kvm_pools", "kvm1") == verbs(done, "kvm_pools", "kvm1")
    active = set(virsh(kvm1, "pool-list --name").split())
    assert active == {"folder", "files", "volumes", "nfs", "smb", "luns", "paths"}
    assert kvm1.out("findmnt -no FSTYPE /srv/files") == "ext4"
    assert kvm1.out("findmnt -no SOURCE /srv/nfs") == f"{SERVER}:/export/nfs"
    assert kvm1.out("findmnt -no FSTYPE /srv/smb") == "cifs"
    assert kvm1.out("sudo vgs --noheadings -o vg_name").strip() == "vg0"
    assert TARGET in kvm1.out("sudo iscsiadm -m session")
    assert len(virsh(kvm1, "vol-list luns | grep unit").splitlines()) == 1
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
]


def of_volumes(*volumes: dict[str, Any], state: str = "present") -> list[dict[str, Any]]:
    declared = [{**volume, "state": state} for volume in volumes]
    common = {"hosts": "kvm1", "become": True, "gather_facts": False, "roles": ["kvm_storage"]}
    return [{**common, "vars": {"kvm_storage_volumes": declared}}]


def test_secrets_are_kept_and_told_to_nobody(ansible: Ansible, done: Run, kvm1: Host) -> None:
    del done
    word = "a word that nobody may see"
    shared = {"type": "ceph", "name": "client.lab secret", "value": word}
    private = {"type": "iscsi", "name": "array", "value": word, "private": True}
    plays = of_volumes()
    plays[0]["vars"] = {"kvm_storage_secrets": [shared, private]}
    before = virsh(kvm1, "secret-list")
    planned = ansible.plays(plays, "--check", "--diff")
    assert virsh(kvm1, "secret-list") == before
    run = ansible.plays(plays, "--diff", "-vvv")
    assert verbs(planned, "kvm_secrets", "kvm1") == verbs(run, "kvm_secrets", "kvm1")
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
    ]
    spec = {"name": "web", "memory": "192MiB", **BOOT, "disks": disks, "wait_for": "agent"}
    plays = of_volumes()
    variables = {"kvm_guest_force": True, "kvm_guest_stop_timeout": "2s"}
    plays[0] |= {"roles": ["kvm_guest"], "vars": {**variables, "kvm_guest_specs": [spec]}}
    ansible.plays(plays)
    sizes = in_guest(host, "web", "cat /sys/block/vda/size /sys/block/vdb/size").split()
    assert sizes == [str(16 << 11), str(20 << 11)]
    assert ansible.plays(plays).changed() == {}
    ansible.plays(plays, kvm_guest_state="absent")


def test_volumes_are_made_grown_and_removed(ansible: Ansible, done: Run, kvm1: Host) -> None:
    del done
    planned = ansible.plays(of_volumes(*VOLUMES), "--check")
    assert "disk.qcow2" not in virsh(kvm1, "vol-list folder")
    run = ansible.plays(of_volumes(*VOLUMES))
    assert verbs(planned, "kvm_volumes", "kvm1") == verbs(run, "kvm_volumes", "kvm1")
    assert "24.00 MiB" in virsh(kvm1, "vol-info copy.qcow2 folder")
    top = kvm1.out("sudo qemu-img info /srv/folder/top.qcow2")
    assert "backing file: /srv/folder/disk.qcow2" in top
    assert kvm1.out("sudo stat -c %s /srv/files/flat.img") == str(8 << 20)
    assert "12.00m" in kvm1.out("sudo lvs --noheadings --units m vg0/logical")
    assert ansible.plays(of_volumes(*VOLUMES)).changed() == {}
    larger = [{**VOLUMES[1], "size": "32MiB"}, {**VOLUMES[4], "size": "20MiB"}]
    run = ansible.plays(of_volumes(*larger))
    assert [verb.split()[1] for verb in verbs(run, "kvm_volumes", "kvm1")] == ["grow", "grow"]
    assert "32.00 MiB" in virsh(kvm1, "vol-info copy.qcow2 folder")
    assert "20.00m" in kvm1.out("sudo lvs --noheadings --units m vg0/logical")
    guest_on_volumes(ansible, kvm1)
    refused = ansible.plays(of_volumes(VOLUMES[0], state="absent"), status=2)
    assert "volume/folder/top.qcow2" in "\n".join(refused.messages("kvm1"))
    ansible.plays(of_volumes(*VOLUMES, state="absent"))
    assert ansible.plays(of_volumes(*VOLUMES, state="absent")).changed() == {}
    for pool in ("folder", "files", "volumes"):
        left = virsh(kvm1, f"vol-list {pool}")
        assert not any(volume["name"] in left for volume in VOLUMES)


def test_a_second_run_changes_nothing(ansible: Ansible, done: Run, lab: Lab) -> None:
    del done
    run = ansible.plays(plays([LAN, *OTHERS], POOLS), "--diff")
    assert run.changed() == {}, run.output
    for host in lab.hosts.values():
        assert run.of("kvm_networks", host.name)["pending"] == []
    assert run.of("kvm_pools", "kvm1")["pending"] == []


@pytest.fixture(scope="module")
def guest(ansible: Ansible, done: Run) -> Run:
    del done
    return ansible.playbook("guests", kvm_guest_specs=[GUEST])


def test_a_guest_gets_the_address_that_is_kept_for_it(guest: Run, host: Host) -> None:
    (found,) = guest.of("kvm_guests", host.name)["guests"]
    assert WEB_LEASE["ip"] in found["addresses"]


DB_LEASE = {"mac": "02:00:00:00:00:22", "name": "db", "ip": "10.20.0.22"}
CHANGED: dict[str, Any] = {
    **LAN,
    "dns": {"hosts": [*LAN["dns"]["hosts"], {"ip": "10.20.0.77", "names": ["new.lan.test"]}]},
    "ips": [
        {
            **LAN["ips"][0],
            "dhcp": {
                "ranges": [{"start": "10.20.0.50", "end": "10.20.0.90"}],
                "hosts": [WEB_LEASE, DB_LEASE],
            },
        },
        LAN["ips"][1],
    ],
}


def test_leases_and_names_change_while_it_runs(ansible: Ansible, guest: Run, lab: Lab) -> None:
    del guest
    planned = ansible.plays(of_networks(CHANGED), "--check")
    run = ansible.plays(of_networks(CHANGED))
    assert ansible.plays(of_networks(CHANGED)).changed() == {}
    for host in lab.hosts.values():
        assert verbs(run, "kvm_networks", host.name) == ["network/lan update live"]
        assert verbs(planned, "kvm_networks", host.name) == ["network/lan update live"]
        assert run.of("kvm_networks", host.name)["pending"] == []
        for inactive in ("", "--inactive"):
            xml = virsh(host, f"net-dumpxml lan {inactive}")
            for text in ("10.20.0.77", "10.20.0.22", "10.20.0.50", "10.20.0.21"):
                assert text in xml, (text, inactive)
            assert "10.20.0.100" not in xml
        said = in_guest(host, "web", "nslookup new.lan.test 10.20.0.1")
        assert "10.20.0.77" in said


def test_what_waits_is_told_and_done_with_guests_kept_connected(
    ansible: Ansible, guest: Run, lab: Lab
) -> None:
    del guest
    wide = {**CHANGED, "mtu": 1400}
    run = ansible.plays(of_networks(wide))
    for host in lab.hosts.values():
        assert verbs(run, "kvm_networks", host.name) == ["network/lan update next_boot"]
        (pending,) = run.of("kvm_networks", host.name)["pending"]
        assert pending["kind"] == "restart_required"
        assert "1400" not in virsh(host, "net-dumpxml lan")
    run = ansible.plays(of_networks({**wide, "restart": True}))
    for host in lab.hosts.values():
        assert verbs(run, "kvm_networks", host.name) == ["network/lan restart now"]
        assert "<mtu size='1400'/>" in virsh(host, "net-dumpxml lan")
        # Its port takes twice the bridge's delay until it forwards.
        script = "for n in 1 2 3 4 5 6 7 8; do ping -c 1 -W 2 10.20.0.1 && break; done"
        assert "1 packets received" in in_guest(host, "web", script)
    again = ansible.plays(of_networks({**wide, "restart": True}))
    assert again.changed() == {}


def test_what_guests_are_on_is_not_taken_away(ansible: Ansible, guest: Run, kvm2: Host) -> None:
    del guest
    gone = of_networks({"name": "lan", "state": "absent"})
    run = ansible.plays(gone, "--limit", "kvm2", status=2)
    assert "guests run on it: web" in "\n".join(run.messages("kvm2"))
    assert "lan" in virsh(kvm2, "net-list --name").split()


def test_bad_input_is_told_at_once_and_nothing_is_touched(
    ansible: Ansible, done: Run, kvm1: Host
) -> None:
    del done
    before = seen(kvm1)
    limit = ("--limit", "kvm1")
    wrong: list[dict[str, Any]] = [
        {"name": "a", "mode": "nat", "ips": [{"address": "10.20.0.5", "prefix": 25}]},
        {"name": "b", "mode": "bridge", "bridge": "host7"},
        {"name": "c", "mode": "isolated", "bridge": "closed0"},
    ]
    (message,) = ansible.plays(of_networks(*wrong), *limit, status=2).messages("kvm1")
    assert "which meets 10.20.0.0/24 of the network lan" in message
    assert "a network device that is there, found 'host7'" in message
    assert "which the network closed has" in message
    linked = {"name": "linked", "type": "logical", "source_name": "x", "devices": [DISK2]}
    (message,) = ansible.plays(of_pools(linked), *limit, status=2).messages("kvm1")
    assert "the name that LVM knows it by, /dev/vdc" in message
    away = {**POOLS[3], "name": "away", "hosts": [{"name": "10.77.0.99"}], "path": "/srv/away"}
    (message,) = ansible.plays(of_pools(away), *limit, status=2).messages("kvm1")
    assert "start pool/away: 10.77.0.99 does not answer on port 2049" in message
    ansible.plays(of_pools({"name": "away", "state": "absent"}), *limit)
    assert seen(kvm1) == before


def test_a_disk_with_data_is_never_built_over(ansible: Ansible, stood: Lab, kvm2: Host) -> None:
    del stood
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


def test_all_of_it_is_back_after_a_reboot(done: Run, kvm1: Host) -> None:
    del done
    kvm1.run("sudo ip link show host0")
    kvm1.reboot()
    assert {"lan", "routed", "closed"} <= set(virsh(kvm1, "net-list --name").split())
    active = set(virsh(kvm1, "pool-list --name").split())
    assert {"folder", "files", "volumes", "nfs", "smb", "luns", "paths"} <= active


def test_the_way_back_leaves_what_is_stored(ansible: Ansible, done: Run, lab: Lab) -> None:
    del done
    ansible.playbook(
        "guests", kvm_guest_specs=[GUEST], kvm_guest_state="absent", kvm_guest_force=True
    )
    absent = {"kvm_network_state": "absent", "kvm_storage_state": "absent"}
    ansible.plays(plays([CHANGED, *OTHERS], POOLS), **absent)
    for host in lab.hosts.values():
        assert set(virsh(host, "net-list --all --name").split()) == {"default"}
    assert virsh(lab["kvm1"], "pool-list --all --name") == ""
    assert lab["kvm1"].out("sudo vgs --noheadings -o vg_name").strip() == "vg0"
    assert "ext4" in lab["kvm1"].out(f"sudo blkid -p {DISK1}")
    assert ansible.plays(plays([CHANGED, *OTHERS], POOLS), **absent).changed() == {}
    assert json.loads(lab["kvm2"].out("ip -j link show host0"))[0]["ifname"] == "host0"
