# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A pool of Ceph, of a cluster of one node: kvm2 serves it and runs the guest.

The packages come from the archive, which takes minutes, so this is made by ``make soak`` alone.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from asking import BOOT, domains, in_guest, virsh

if TYPE_CHECKING:
    from playing import Ansible, Run
    from virtlab.host import Host

pytestmark = pytest.mark.soak

PACKAGES = "ceph-mon ceph-osd ceph-common"
# As docs.ceph.com has it (Manual Deployment), with the blocks of the one store in a file.
_CLUSTER = f"""
set -eu
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
apt-get -qq install --no-install-recommends {PACKAGES} > /dev/null
name=$(hostname) address=$1 id=$(cat /proc/sys/kernel/random/uuid)
cat > /etc/ceph/ceph.conf <<END
[global]
fsid = $id
mon_initial_members = $name
mon_host = $address
auth_cluster_required = cephx
auth_service_required = cephx
auth_client_required = cephx
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 8
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
bluestore_block_create = true
bluestore_block_size = 2147483648
osd_memory_target = 939524096
END
admin=/etc/ceph/ceph.client.admin.keyring
ceph-authtool --create-keyring /tmp/mon.keyring --gen-key -n mon. --cap mon 'allow *'
ceph-authtool --create-keyring $admin --gen-key -n client.admin \\
  --cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *'
ceph-authtool /tmp/mon.keyring --import-keyring $admin
monmaptool --create --add $name $address --fsid $id /tmp/monmap
chown ceph: /tmp/mon.keyring /tmp/monmap
install -d -o ceph -g ceph /var/lib/ceph/mon/ceph-$name
runuser -u ceph -- ceph-mon --mkfs -i $name --monmap /tmp/monmap --keyring /tmp/mon.keyring
systemctl start ceph-mon@$name
store=$(cat /proc/sys/kernel/random/uuid)
folder=/var/lib/ceph/osd/ceph-0
install -d -o ceph -g ceph $folder
key=$(ceph-authtool --gen-print-key)
echo "{{\\"cephx_secret\\": \\"$key\\"}}" | ceph osd new $store -i -
ceph-authtool --create-keyring $folder/keyring --name osd.0 --add-key $key
chown ceph: $folder/keyring
runuser -u ceph -- ceph-osd -i 0 --mkfs --osd-uuid $store
systemctl start ceph-osd@0
ceph osd pool create guests 8
ceph osd pool application enable guests rbd
ceph auth get-or-create client.libvirt mon 'profile rbd' osd 'profile rbd pool=guests'
"""


@pytest.fixture(scope="module")
def cluster(kvm2: Host) -> str:
    """Raise a cluster; return the key that guests log in with."""
    kvm2.run(f"sudo bash -s {kvm2.identity.cable_address}", stdin=_CLUSTER, patience=1500)
    return kvm2.out("sudo ceph auth print-key client.libvirt")


@pytest.fixture(scope="module")
def plays(cluster: str, kvm2: Host) -> list[dict[str, Any]]:
    """Return the play that has a pool and a volume of the cluster, and the secret to log in."""
    login = {"type": "ceph", "username": "libvirt", "usage": "client.libvirt secret"}
    pool = {
        "name": "cluster",
        "type": "rbd",
        "source_name": "guests",
        "hosts": [{"name": kvm2.identity.cable_address}],
        "auth": login,
    }
    return [
        {
            "hosts": "kvm2",
            "become": True,
            "gather_facts": False,
            "roles": ["kvm_storage"],
            "vars": {
                "kvm_storage_secrets": [
                    {"type": "ceph", "name": "client.libvirt secret", "value_base64": cluster}
                ],
                "kvm_storage_pools": [pool],
                "kvm_storage_volumes": [{"pool": "cluster", "name": "disk", "size": "64MiB"}],
            },
        }
    ]


@pytest.fixture(scope="module")
def done(ansible: Ansible, plays: list[dict[str, Any]], kvm2: Host, cluster: str) -> Run:
    planned = ansible.plays(plays, "--check", "--diff")
    assert "cluster" not in virsh(kvm2, "pool-list --all --name").split()
    assert kvm2.out("sudo rbd ls guests") == ""
    run = ansible.plays(plays, "--diff", "-vvv")
    assert all(cluster not in one.output + json.dumps(one.results) for one in (planned, run))
    return run


def test_a_pool_of_the_cluster_and_a_volume_on_it(
    done: Run, ansible: Ansible, plays: list[dict[str, Any]], kvm2: Host
) -> None:
    del done
    assert "cluster" in virsh(kvm2, "pool-list --name").split()
    assert kvm2.out("sudo rbd ls guests") == "disk"
    told = json.loads(kvm2.out("sudo rbd info guests/disk --format json"))
    assert told["size"] == 64 << 20
    assert ansible.plays(plays).changed() == {}


def test_a_guest_has_its_disk_there_and_it_grows(
    done: Run, ansible: Ansible, plays: list[dict[str, Any]], kvm2: Host
) -> None:
    del done
    disk = {"target": "vda", "volume": {"pool": "cluster", "volume": "disk"}}
    guest = {"name": "stored", "memory": "256MiB", **BOOT, "disks": [disk], "wait_for": "agent"}
    ansible.playbook("guests", "--limit", "kvm2", kvm_guest_specs=[guest])
    script = "cat /sys/block/vda/size; echo what stays > /dev/vda; sync; head -c 10 /dev/vda"
    assert in_guest(kvm2, "stored", script) == f"{128 << 10}\nwhat stays"
    kept = kvm2.out("sudo rbd export guests/disk - 2>/dev/null | head -c 10")
    assert kept == "what stays"
    again = ansible.playbook("guests", "--limit", "kvm2", kvm_guest_specs=[guest])
    assert again.changed() == {}
    (play,) = plays
    absent = [{"pool": "cluster", "name": "disk", "state": "absent"}]
    refused = ansible.plays(
        [{**play, "vars": {**play["vars"], "kvm_storage_volumes": absent}}], status=2
    )
    assert "guest/stored" in "".join(refused.messages("kvm2"))
    other = {**guest, "name": "second", "state": "stopped"}
    refused = ansible.playbook("guests", "--limit", "kvm2", status=2, kvm_guest_specs=[other])
    assert "which stored has" in "".join(refused.messages("kvm2"))
    assert kvm2.out("sudo rbd ls guests") == "disk"
    gone = {"kvm_guest_specs": [guest], "kvm_guest_state": "absent", "kvm_guest_force": True}
    ansible.playbook("guests", "--limit", "kvm2", kvm_guest_stop_timeout="5s", **gone)
    assert "stored" not in domains(kvm2)
    assert kvm2.out("sudo rbd ls guests") == "disk", "disks stay"
    plays[0]["vars"]["kvm_storage_volumes"][0]["size"] = "96MiB"
    ansible.plays(plays)
    told = json.loads(kvm2.out("sudo rbd info guests/disk --format json"))
    assert told["size"] == 96 << 20


def test_a_wrong_key_is_told_and_nothing_hangs(
    done: Run, ansible: Ansible, plays: list[dict[str, Any]], kvm2: Host
) -> None:
    del done
    (play,) = plays
    pool = {**play["vars"]["kvm_storage_pools"][0], "name": "closed"}
    wrong = {"type": "ceph", "name": "wrong", "value_base64": "QUJDREVGR0hJSktMTU5PUFFSU1RVVg=="}
    pool["auth"] = {**pool["auth"], "usage": "wrong"}
    settings = {"kvm_storage_secrets": [wrong], "kvm_storage_pools": [pool]}
    play = {**play, "vars": settings}
    run = ansible.plays([play], status=2, patience=600)
    (message,) = run.messages("kvm2")
    assert "closed" in message
    assert "closed" not in virsh(kvm2, "pool-list --name").split()


def test_all_of_it_goes_again(
    done: Run, ansible: Ansible, plays: list[dict[str, Any]], kvm2: Host
) -> None:
    del done
    ansible.plays(plays, kvm_storage_state="absent", patience=900)
    assert "cluster" not in virsh(kvm2, "pool-list --all --name").split()
