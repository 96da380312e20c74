# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A guest from an image of Debian with cloud-init: declared, booted, and configured over SSH."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from asking import command_lines, in_guest, journal, virsh
from virtlab import images
from virtlab.recipe import GUEST, golden

if TYPE_CHECKING:
    from pathlib import Path

    from playing import Ansible, Run
    from virtlab.host import Host
    from virtlab.lab import Lab

SECRET = "a word that nobody else may read"  # noqa: S105
ADDRESS = "10.30.0.20"
IGNITION = "/srv/ignition.json"
SEEDS = "/var/lib/virtfleet/seeds"
NETWORK: dict[str, Any] = {
    "name": "first",
    "mode": "isolated",
    "ips": [{"address": "10.30.0.1", "prefix": 24}],
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
    """What is declared, with keys that are made here: the user's, and the guest's own."""

    def __init__(self, folder: Path, host: Host, variables: dict[str, Any]) -> None:
        self.image = images.ensure([golden(*GUEST)])[golden(*GUEST)]
        self.key, self.host_key = folder / "ops", folder / "guest"
        for path in (self.key, self.host_key):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", path.name]
            subprocess.run([*command, "-f", str(path)], check=True)
        self.known = folder / "known_hosts"
        self.known.write_text(f"{ADDRESS} {public(self.host_key)}\n")
        through = f"ssh {variables['ansible_ssh_common_args']} -W %h:%p"
        through += f" -p {variables['ansible_port']} {variables['ansible_user']}@127.0.0.1"
        self.reached = {
            "ansible_host": ADDRESS,
            "ansible_user": "ops",
            "ansible_ssh_private_key_file": str(self.key),
            "ansible_ssh_common_args": f"-o UserKnownHostsFile={self.known}"
            f" -o IdentitiesOnly=yes -o ProxyCommand='{through}'",
            "ansible_python_interpreter": "/usr/bin/python3",
            # A guest of an emulated host takes its time for sudo.
            "ansible_ssh_timeout": 60,
        }
        self.hypervisor = host

    def guest(self, **more: Any) -> dict[str, Any]:
        """Return the guest; ``more`` are further keys of its cloud_init."""
        keys = {
            "ed25519_private": self.host_key.read_text(),
            "ed25519_public": public(self.host_key),
        }
        user_data = {**CLOUD["user_data"], "ssh_keys": keys}
        cloud = {**CLOUD, "ssh_keys": [public(self.key)], "user_data": user_data, **more}
        return {
            "name": "web01",
            "memory": "384MiB",
            "disks": [
                {
                    "target": "vda",
                    "file": "/var/lib/libvirt/images/web01.qcow2",
                    "size": "4GiB",
                    "image": "golden",
                }
            ],
            "nics": [{"network": "first", "ip": {"addresses": [f"{ADDRESS}/24"]}}],
            "cloud_init": cloud,
            "fw_cfg": {"opt/com.coreos/config": IGNITION},
            "wait_for": "ssh",  # its agent answers before
            "wait_timeout": "450s",
        }

    def plays(self, **more: Any) -> list[dict[str, Any]]:
        """Return what makes the guest, and configures it in the same run."""
        made = {
            "hosts": self.hypervisor.name,
            "become": True,
            "gather_facts": False,
            "vars": {
                # A connection that breaks before the module is sent is taken up again.
                "ansible_ssh_retries": 2,
                "kvm_network_networks": [NETWORK],
                "kvm_image_images": [{"name": "golden", "file": str(self.image / "disk.qcow2")}],
                "kvm_guest_specs": [self.guest(**more)],
            },
            "roles": ["kvm_network", "kvm_image", "kvm_guest"],
            "post_tasks": [
                {
                    "name": "Let what follows reach the guest",
                    "ansible.builtin.add_host": {"name": "web01", "groups": "web", **self.reached},
                    "changed_when": False,
                }
            ],
        }
        line = {"path": "/etc/motd", "line": "made by Ansible", "create": True, "mode": "0644"}
        configured = {
            "hosts": "web",
            "become": True,
            "gather_facts": False,
            "tasks": [
                {"name": "Wait for it", "ansible.builtin.wait_for_connection": {"timeout": 300}},
                {"name": "Ask what it is", "ansible.builtin.setup": {"gather_subset": "min"}},
                {"name": "Configure it", "ansible.builtin.lineinfile": line},
            ],
        }
        return [made, configured]


def public(key: Path) -> str:
    return " ".join(key.with_name(f"{key.name}.pub").read_text().split()[:2])


@pytest.fixture(scope="module")
def site(lab: Lab, kvm2: Host, tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("site"), kvm2, lab.variables(kvm2))


@pytest.fixture(scope="module")
def planned(ansible: Ansible, site: Site, kvm2: Host) -> Run:
    kvm2.run(f"sudo install -m 600 /dev/stdin {IGNITION}", stdin='{"ignition": {}}')
    plays = [{**site.plays()[0], "post_tasks": []}]
    run = ansible.plays(plays, "--check", "--diff")
    assert kvm2.run(f"sudo test -e {SEEDS}", check=False).returncode, "check mode made a seed"
    assert "web01" not in virsh(kvm2, "list --all --name")
    return run


@pytest.fixture(scope="module")
def done(ansible: Ansible, planned: Run, site: Site) -> Run:
    del planned
    return ansible.plays(site.plays(), "--diff", "-vvv")


def test_it_is_what_its_seed_says(planned: Run, done: Run, kvm2: Host) -> None:
    def told(run: Run) -> list[str]:
        return [a["action"] for a in run.of("kvm_guests", "kvm2")["actions"]]

    assert told(planned) == told(done) == ["create", "start"]
    assert in_guest(kvm2, "web01", "hostname") == "web01"
    assert in_guest(kvm2, "web01", "cat /etc/word") == SECRET
    assert f"{ADDRESS}/24" in in_guest(kvm2, "web01", "ip -4 -brief address")
    assert "(ALL) NOPASSWD: ALL" in in_guest(kvm2, "web01", "sudo -l -U ops")
    given = "/sys/firmware/qemu_fw_cfg/by_name/opt/com.coreos/config/raw"
    assert in_guest(kvm2, "web01", f"modprobe qemu_fw_cfg; cat {given}") == '{"ignition": {}}'
    # The root file system has grown with the disk that was asked for.
    assert int(in_guest(kvm2, "web01", "df --output=size -BM / | tail -1").rstrip("M")) > 3500


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


def test_a_second_run_changes_nothing(ansible: Ansible, done: Run, site: Site) -> None:
    del done
    assert ansible.plays(site.plays()).changed() == {}


def test_another_seed_waits_for_the_next_boot(
    ansible: Ansible, done: Run, site: Site, kvm2: Host
) -> None:
    del done
    plays = [{**site.plays(instance_id="second")[0], "post_tasks": []}]
    run = ansible.plays(plays)
    result = run.of("kvm_guests", "kvm2")
    assert [(a["action"], a["when"]) for a in result["actions"]] == [("update", "next_boot")]
    (change,) = result["actions"][0]["changes"]
    assert change["path"] == "cloud_init.meta_data.instance-id"
    assert change["after"] == "second"
    (pending,) = ansible.plays(plays).of("kvm_guests", "kvm2")["pending"]
    assert pending["kind"] == "restart_required"
    assert "2.iso" in virsh(kvm2, "dumpxml --inactive web01")
    assert "1.iso" in virsh(kvm2, "dumpxml web01")


def test_its_seeds_go_with_it(ansible: Ansible, done: Run, site: Site, kvm2: Host) -> None:
    del done
    gone = {**site.guest(), "state": "absent", "remove_disks": True}
    (made, _) = site.plays()
    made["vars"] |= {"kvm_guest_specs": [gone], "kvm_guest_force": True}
    made |= {"roles": ["kvm_guest"], "post_tasks": []}
    made["vars"]["kvm_guest_stop_timeout"] = "5s"
    ansible.plays([made])
    assert kvm2.out(f"sudo ls {SEEDS}") == ""
    assert kvm2.run("sudo test -e /var/lib/libvirt/images/web01.qcow2", check=False).returncode
