# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A whole host declared in one run: networks, pools, images, and guests that come up on them.

One of the guests is a Debian with cloud-init, which the same run configures over SSH.
"""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from asking import BOOT, command_lines, configuring, in_guest, journal, virsh
from playing import Ansible
from serving import SECRET as LOGIN
from serving import pools, serve
from virtlab import images
from virtlab.recipe import GUEST, golden

if TYPE_CHECKING:
    from pathlib import Path

    from playing import Run
    from virtlab.host import Host
    from virtlab.lab import Lab

pytestmark = pytest.mark.module_of("the lab")
SECRET = "a word that nobody else may read"  # noqa: S105
ADDRESS = "10.30.0.20"
IGNITION = "/srv/ignition.json"
SEEDS = "/var/lib/virtfleet/seeds"
NETWORK: dict[str, Any] = {
    "name": "first",
    "mode": "isolated",
    "ips": [{"address": "10.30.0.1", "prefix": 24}],
}
OTHERS: list[dict[str, Any]] = [
    {"name": "lan", "mode": "nat", "ips": [{"address": "10.31.0.1", "prefix": 24}]},
    {"name": "routed", "mode": "route", "ips": [{"address": "10.32.0.1", "prefix": 24}]},
    {"name": "open", "mode": "open", "ips": [{"address": "10.33.0.1", "prefix": 24}]},
]
TINY = "/srv/tiny.img"
BOX: dict[str, Any] = {
    "name": "box",
    "memory": "192MiB",
    **BOOT,
    "disks": [
        {"target": "vda", "file": "/srv/files/box.qcow2", "size": "16MiB", "image": "tiny"},
        {"target": "vdb", "volume": {"pool": "volumes", "volume": "data"}, "format": "raw"},
    ],
    "nics": [{"network": "lan"}],
    "wait_for": "agent",
}
CLOUD: dict[str, Any] = {
    "user": "ops",
    "user_data": {
        "write_files": [{"path": "/etc/word", "content": SECRET, "permissions": "0600"}],
        # One kind of key is enough, and the tests shall know it before the guest is there.
        "ssh_deletekeys": True,
    },
}


class Site:
    """A fleet of one host, with keys that are made here: the user's, and the guest's own."""

    def __init__(self, folder: Path, host: Host, server: Host, variables: dict[str, Any]) -> None:
        self.folder = folder
        self.variables = {k: v for k, v in variables.items() if k.startswith("ansible_")}
        self.image = images.ensure([golden(*GUEST)])[golden(*GUEST)]
        self.key, self.host_key = folder / "ops", folder / "guest"
        for path in (self.key, self.host_key):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", path.name]
            subprocess.run([*command, "-f", str(path)], check=True)
        self.known = folder / "known_hosts"
        self.known.write_text(f"{ADDRESS} {public(self.host_key)}\n")
        self.hypervisor, self.server = host, server

    def guest(self, **more: Any) -> dict[str, Any]:
        """Return the guest as a fleet has it; ``more`` are further keys of its cloud_init."""
        keys = {
            "ed25519_private": self.host_key.read_text(),
            "ed25519_public": public(self.host_key),
        }
        user_data = {**CLOUD["user_data"], "ssh_keys": keys}
        cloud = {**CLOUD, "ssh_keys": [public(self.key)], "user_data": user_data, **more}
        return {
            "size": "small",
            "image": "golden",
            "pool": "folder",
            "network": {"network": "first", "ip": {"addresses": [f"{ADDRESS}/24"]}},
            "cloud_init": cloud,
            "fw_cfg": {"opt/com.coreos/config": IGNITION},
            "wait_for": "ssh",  # its agent answers before
            "wait_timeout": "900s",
            "groups": ["web"],
            "vars": {
                "ansible_ssh_private_key_file": str(self.key),
                "ansible_ssh_extra_args": f"-o UserKnownHostsFile={self.known}"
                " -o IdentitiesOnly=yes",
                "ansible_python_interpreter": "/usr/bin/python3",
                # A guest of an emulated host takes its time for sudo.
                "ansible_ssh_timeout": 60,
            },
        }

    def inventory(self, **more: Any) -> Path:
        """Write the fleet's file and return its folder."""

        def named(entries: list[dict[str, Any]]) -> dict[str, Any]:
            return {
                entry["name"]: {key: value for key, value in entry.items() if key != "name"}
                for entry in entries
            }

        fleet = {
            "plugin": "kvm_fleet",
            "fleet": "lab",
            "hypervisors": {
                self.hypervisor.name: {
                    **self.variables,
                    "kvm_storage_secrets": [LOGIN],
                    "kvm_storage_volumes": [{"pool": "volumes", "name": "data", "size": "8MiB"}],
                }
            },
            "networks": named([NETWORK, *OTHERS]),
            "pools": named(pools(self.server)),
            "images": {
                "golden": {"file": str(self.image / "disk.qcow2")},
                "tiny": {"path": TINY},
            },
            "sizes": {"small": {"memory": "384MiB", "disk": "4GiB"}},
            "guests": {"web01": self.guest(**more), **named([BOX])},
        }
        folder = self.folder / "inventory"
        folder.mkdir(exist_ok=True)
        (folder / "fleet.yml").write_text(yaml.safe_dump(fleet, sort_keys=False))
        return folder

    def run(self, plays: list[dict[str, Any]], *arguments: str, **more: Any) -> Run:
        """Run plays on the fleet; ``more`` are further keys of the guest's cloud_init."""
        return Ansible(self.inventory(**more)).plays(plays, *arguments)


MADE = {
    "hosts": "hypervisors",
    "become": True,
    "gather_facts": False,
    "roles": ["kvm_network", "kvm_storage", "kvm_image", "kvm_guest"],
}
LINE = {"path": "/etc/motd", "line": "made by Ansible", "create": True, "mode": "0644"}
CONFIGURED = configuring("web", {"ansible.builtin.lineinfile": LINE})


def public(key: Path) -> str:
    return " ".join(key.with_name(f"{key.name}.pub").read_text().split()[:2])


@pytest.fixture(scope="module")
def site(lab: Lab, kvm1: Host, kvm2: Host, tmp_path_factory: pytest.TempPathFactory) -> Site:
    serve(kvm1)
    kvm2.run(f"sudo truncate -s 4M {TINY}; echo tiny | sudo dd of={TINY} conv=notrunc")
    return Site(tmp_path_factory.mktemp("site"), kvm2, kvm1, lab.variables(kvm2))


@pytest.fixture(scope="module")
def planned(site: Site, kvm2: Host) -> Run:
    kvm2.run(f"sudo install -m 600 /dev/stdin {IGNITION}", stdin='{"ignition": {}}')
    run = site.run([MADE], "--check", "--diff")
    assert kvm2.run(f"sudo test -e {SEEDS}", check=False).returncode, "check mode made a seed"
    for listing in ("list --all --name", "pool-list --all --name", "net-list --name"):
        assert virsh(kvm2, listing) == "", "check mode made something"
    return run


@pytest.fixture(scope="module")
def done(planned: Run, site: Site) -> Run:
    del planned
    return site.run([MADE, CONFIGURED], "--diff", "-vvv")


def test_it_is_what_its_seed_says(planned: Run, done: Run, kvm2: Host) -> None:
    def told(run: Run) -> list[str]:
        actions = run.of("kvm_guests", "kvm2")["actions"]
        return [a["action"] for a in actions if a["object"] == "guest/web01"]

    assert told(planned) == told(done) == ["create", "start"]
    assert in_guest(kvm2, "web01", "hostname") == "web01"
    assert in_guest(kvm2, "web01", "cat /etc/word") == SECRET
    assert f"{ADDRESS}/24" in in_guest(kvm2, "web01", "ip -4 -brief address")
    assert "(ALL) NOPASSWD: ALL" in in_guest(kvm2, "web01", "sudo -l -U ops")
    given = "/sys/firmware/qemu_fw_cfg/by_name/opt/com.coreos/config/raw"
    assert in_guest(kvm2, "web01", f"modprobe qemu_fw_cfg; cat {given}") == '{"ignition": {}}'
    # The root file system has grown with the disk that was asked for.
    assert int(in_guest(kvm2, "web01", "df --output=size -BM / | tail -1").rstrip("M")) > 3500


def test_all_that_guests_stand_on_is_there(done: Run, kvm2: Host) -> None:
    """Pools of six kinds, four networks, two images, and a guest on what the run has made."""
    del done
    active = set(virsh(kvm2, "pool-list --name").split())
    assert active == {"folder", "files", "volumes", "nfs", "smb", "luns"}
    assert set(virsh(kvm2, "net-list --name").split()) == {"first", "lan", "routed", "open"}
    assert set(virsh(kvm2, "list --name").split()) == {"web01", "box"}
    assert in_guest(kvm2, "box", "head -n 1 /dev/vda") == "tiny"
    assert in_guest(kvm2, "box", "cat /sys/block/vdb/size") == str(8 << 11)


def test_ansible_reached_it_in_the_same_run(done: Run, kvm2: Host) -> None:
    found = [entry["result"] for entry in done.results if entry["host"] == "web01"]
    facts = [result["ansible_facts"] for result in found if "ansible_facts" in result]
    assert [one["ansible_hostname"] for one in facts] == ["web01"]
    assert done.changed()["web01"] == ["Configure it"]
    assert "made by Ansible" in in_guest(kvm2, "web01", "cat /etc/motd")


def test_no_secret_is_told_or_readable(done: Run, planned: Run, site: Site, kvm2: Host) -> None:
    private = site.host_key.read_text().splitlines()[2]
    for run in (planned, done):
        for secret in (SECRET, private):
            assert secret not in run.output
            assert secret not in json.dumps(run.results)
    assert kvm2.run(f"cat {SEEDS}/web01/1.iso", check=False).returncode
    assert kvm2.run(f"cat {SEEDS}/web01/1.json", check=False).returncode
    for told in (journal(kvm2), command_lines(kvm2)):
        assert SECRET not in told
        assert private not in told
    assert "web01" in command_lines(kvm2)


def test_a_second_run_changes_nothing(done: Run, site: Site) -> None:
    del done
    assert site.run([MADE, CONFIGURED]).changed() == {}


def test_another_seed_waits_for_the_next_boot(done: Run, site: Site, kvm2: Host) -> None:
    del done
    run = site.run([MADE], instance_id="second")
    result = run.of("kvm_guests", "kvm2")
    assert [(a["object"], a["action"], a["when"]) for a in result["actions"]] == [
        ("guest/web01", "update", "next_boot")
    ]
    (change,) = result["actions"][0]["changes"]
    assert change["path"] == "cloud_init.meta_data.instance-id"
    assert change["after"] == "second"
    (pending,) = site.run([MADE], instance_id="second").of("kvm_guests", "kvm2")["pending"]
    assert pending["kind"] == "restart_required"
    assert "2.iso" in virsh(kvm2, "dumpxml --inactive web01")
    assert "1.iso" in virsh(kvm2, "dumpxml web01")


def test_its_seeds_go_with_it(done: Run, site: Site, kvm2: Host) -> None:
    del done
    gone = [{"name": name, "state": "absent", "remove_disks": True} for name in ("web01", "box")]
    asked = {"kvm_guest_specs": gone, "kvm_guest_force": True, "kvm_guest_stop_timeout": "5s"}
    site.run([{**MADE, "roles": ["kvm_guest"]}], "-e", json.dumps(asked))
    assert kvm2.out(f"sudo ls {SEEDS}") == ""
    assert kvm2.run("sudo test -e /srv/folder/web01.qcow2", check=False).returncode
