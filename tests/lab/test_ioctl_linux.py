# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Debian that the helper runs: declared in a fleet's file, reached by Ansible over the bridge.

Its disk stands on an image with cloud-init, its kernel is the image's own, as Debian has built it.
"""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from asking import command_lines, configuring, journal
from playing import Ansible
from virtlab import images
from virtlab.recipe import CMDLINE, GUEST, golden

if TYPE_CHECKING:
    from pathlib import Path

    from playing import Run
    from virtlab.host import Host
    from virtlab.lab import Lab

pytestmark = [pytest.mark.soak, pytest.mark.sampled]
SECRET = "a word that nobody else may read"  # noqa: S105
BRIDGE, GATEWAY, ADDRESS = "br-tiny", "10.40.0.1", "10.40.0.20"
FOLDER = "/srv/guests"
DISK = f"{FOLDER}/web01.qcow2"
UNIT = "virtfleet-guest@web01.service"
MADE = {
    "hosts": "hypervisors",
    "become": True,
    "gather_facts": False,
    "vars": {"kvm_host_helper_only": True},
    "roles": ["kvm_host", "kvm_image", "kvm_guest"],
}
MOTD = {"dest": "/etc/motd", "content": "by Ansible\n", "mode": "0644"}
CONFIGURED = configuring("web", {"ansible.builtin.copy": MOTD})


class Site:
    """A fleet of one host, with keys that are made here: the user's, and the guest's own."""

    def __init__(self, folder: Path, host: Host, variables: dict[str, Any]) -> None:
        self.folder, self.host = folder, host
        self.image = images.ensure([golden(*GUEST)])[golden(*GUEST)]
        self.variables = {k: v for k, v in variables.items() if k.startswith("ansible_")}
        self.key, self.host_key = folder / "ops", folder / "guest"
        for path in (self.key, self.host_key):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", path.name]
            subprocess.run([*command, "-f", str(path)], check=True)
        self.known = folder / "known_hosts"
        self.known.write_text(f"{ADDRESS} {public(self.host_key)}\n")

    def guest(self, **more: Any) -> dict[str, Any]:
        keys = {
            "ed25519_private": self.host_key.read_text(),
            "ed25519_public": public(self.host_key),
        }
        user_data = {
            "write_files": [{"path": "/etc/word", "content": SECRET, "permissions": "0600"}],
            "ssh_deletekeys": True,
            "ssh_keys": keys,
        }
        network = {"network": "tiny", "ip": {"addresses": [f"{ADDRESS}/24"]}}
        return {
            **({} if "nics" in more else {"network": network}),
            "engine": "ioctl",
            "memory": "320MiB",
            "kernel": f"{FOLDER}/vmlinuz",
            "initrd": f"{FOLDER}/initrd.img",
            "cmdline": f"root=LABEL=root ro {CMDLINE} quiet",
            "disks": [{"target": "vda", "file": DISK, "size": "4GiB", "image": "golden"}],
            "rng": True,
            "balloon": True,
            "cloud_init": {
                "user": "ops",
                "ssh_keys": [public(self.key)],
                "user_data": user_data,
            },
            "stop_timeout": "200s",
            "wait_for": "ssh",
            "wait_timeout": "900s",
            "groups": ["web"],
            "vars": {
                "ansible_ssh_private_key_file": str(self.key),
                "ansible_ssh_extra_args": f"-o UserKnownHostsFile={self.known}"
                " -o IdentitiesOnly=yes",
                "ansible_python_interpreter": "/usr/bin/python3",
                "ansible_ssh_timeout": 60,
            },
            **more,
        }

    def run(
        self, plays: list[dict[str, Any]], *arguments: str, status: int = 0, **more: Any
    ) -> Run:
        """Run plays on the fleet; ``more`` are keys of its guest."""
        fleet = {
            "plugin": "kvm_fleet",
            "fleet": "lab",
            "hypervisors": {self.host.name: {**self.variables, "kvm_guest_stop_timeout": "240s"}},
            "networks": {"tiny": {"mode": "isolated", "bridge": BRIDGE}},
            "images": {"golden": {"file": str(self.image / "disk.qcow2")}},
            "guests": {"web01": self.guest(**more)},
        }
        folder = self.folder / "inventory"
        folder.mkdir(exist_ok=True)
        (folder / "fleet.yml").write_text(yaml.safe_dump(fleet, sort_keys=False))
        return Ansible(folder).plays(plays, *arguments, status=status)


def public(key: Path) -> str:
    return " ".join(key.with_name(f"{key.name}.pub").read_text().split()[:2])


def told(run: Run, host: Host) -> list[tuple[str, str]]:
    return [(a["action"], a["when"]) for a in run.of("kvm_guests", host.name)["actions"]]


@pytest.fixture(scope="module")
def kvm(kvm2: Host) -> Host:
    """Give the host, with a bridge."""
    kvm2.run(f"sudo ip link add {BRIDGE} type bridge && sudo ip link set {BRIDGE} up")
    kvm2.run(f"sudo ip address add {GATEWAY}/24 dev {BRIDGE}")
    return kvm2


@pytest.fixture(scope="module")
def site(lab: Lab, kvm: Host, tmp_path_factory: pytest.TempPathFactory) -> Site:
    site = Site(tmp_path_factory.mktemp("site"), kvm, lab.variables(kvm))
    tasks = [
        {
            "name": f"Bring {name}",
            "ansible.builtin.copy": {
                "src": str(site.image / name),
                "dest": f"{FOLDER}/{name}",
                "mode": "0644",
            },
        }
        for name in ("vmlinuz", "initrd.img")
    ]
    kvm.run(f"sudo mkdir -p {FOLDER}")
    site.run([{"hosts": "hypervisors", "become": True, "gather_facts": False, "tasks": tasks}])
    return site


@pytest.fixture(scope="module")
def planned(site: Site, kvm: Host) -> Run:
    run = site.run([MADE], "--check", "--diff")
    assert kvm.run("sudo test -e /var/lib/virtfleet/guests", check=False).returncode
    assert kvm.run(f"sudo test -e {DISK}", check=False).returncode
    return run


@pytest.fixture(scope="module")
def done(planned: Run, site: Site) -> Run:
    del planned
    return site.run([MADE, CONFIGURED], "--diff", "-vvv")


def test_it_runs_debian(planned: Run, done: Run, kvm: Host) -> None:
    assert told(planned, kvm) == told(done, kvm) == [("create", "now"), ("start", "now")]
    facts = [
        entry["result"]["ansible_facts"]
        for entry in done.results
        if entry["host"] == "web01" and "ansible_facts" in entry["result"]
    ]
    assert [one["ansible_hostname"] for one in facts] == ["web01"]
    assert facts[0]["ansible_distribution"] == "Debian"
    assert done.changed()["web01"] == ["Configure it"]
    assert kvm.out(f"systemctl is-active {UNIT}") == "active"
    status = json.loads(kvm.out("sudo kvm-helper status web01"))
    assert (status["state"], status["vcpus"]) == ("running", 1)
    # No QEMU runs, and the guest's NIC is a port of the bridge.
    assert kvm.run("pgrep -x qemu-system-x86", check=False).returncode
    assert kvm.out(f"ls /sys/class/net/{BRIDGE}/brif | wc -l") == "1"


def test_no_secret_is_told_or_readable(done: Run, planned: Run, kvm: Host) -> None:
    for run in (planned, done):
        assert SECRET not in run.output
        assert SECRET not in json.dumps(run.results)
    for command in (journal(kvm), command_lines(kvm)):
        assert SECRET not in command
    assert kvm.run("grep -rqs 'a word that nobody' /var/lib/virtfleet", check=False).returncode == 1


def test_a_second_run_changes_nothing(done: Run, site: Site) -> None:
    del done
    assert site.run([MADE, CONFIGURED]).changed() == {}


def test_a_change_waits_for_the_next_boot(done: Run, site: Site, kvm: Host) -> None:
    del done
    run = site.run([MADE], memory="352MiB")
    assert told(run, kvm) == [("update", "next_boot")]
    (pending,) = site.run([MADE], memory="352MiB").of("kvm_guests", kvm.name)["pending"]
    assert pending["kind"] == "restart_required"
    assert [change["path"] for change in pending["changes"]] == ["memory"]
    run = site.run([MADE, CONFIGURED], memory="352MiB", state="restarted")
    assert told(run, kvm) == [("restart", "now")]
    status = json.loads(kvm.out("sudo kvm-helper status web01"))
    assert status["memory"] == 352 << 20
    # It came up again from its own disk, turned off by its power button and not by the plug.
    assert run.changed()["web01"] == []


def test_its_disk_stays_unless_it_is_asked_for(done: Run, site: Site, kvm: Host) -> None:
    del done
    run = site.run([MADE], state="absent")
    assert told(run, kvm) == [("stop", "now"), ("delete", "now")]
    assert kvm.out(f"sudo qemu-img check {DISK} | head -1") == "No errors were found on the image."
    assert kvm.out("sudo ls /var/lib/virtfleet/seeds-ioctl") == ""
    assert site.run([MADE], state="absent").changed() == {}
    site.run([MADE], wait_for="running")  # the disk that is there is taken as it is
    site.run([MADE], state="absent", remove_disks=True)
    assert kvm.run(f"sudo test -e {DISK}", check=False).returncode == 0, "it was not its own"
    kvm.run(f"sudo rm {DISK}")
    site.run([MADE], wait_for="running")
    site.run([MADE], state="absent", remove_disks=True)
    assert kvm.run(f"sudo test -e {DISK}", check=False).returncode, "its own disk goes with it"


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "a bridge that is not there": ({"nics": [{"bridge": "br-none"}]}, "no interface br-none"),
    "an image that is not there": (
        {
            "disks": [
                {"target": "vda", "file": "/srv/x.qcow2", "size": "4GiB", "image": "/srv/none"}
            ]
        },
        "an image that is there",
    ),
    "a disk smaller than its image": (
        {
            "disks": [
                {
                    "target": "vda",
                    "file": "/srv/x.qcow2",
                    "size": "1GiB",
                    "image": "golden",
                }
            ]
        },
        "of the image golden",
    ),
    "less memory than the kernel needs": ({"memory": "24MiB"}, "of memory"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_touches_nothing(site: Site, kvm: Host, case: str) -> None:
    keys, words = BAD[case]
    run = site.run([MADE], status=2, cloud_init=None, **{"nics": [], **keys})
    assert words in json.dumps(run.messages(kvm.name))
    assert kvm.out("sudo ls -A /var/lib/virtfleet/guests 2>/dev/null || true") == ""
