# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""inventory/example as its README has a newcomer use it: copied, edited, read, applied.

What is edited is what the lab has: its two hosts, a network and folders of theirs, an image that
boots nothing, and guests that are small and few, and stay off. All else stands as it is shipped.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from asking import domains, there, virsh
from playing import REPOSITORY, Ansible

if TYPE_CHECKING:
    from playing import Run
    from virtlab.host import Host
    from virtlab.lab import Lab

pytestmark = [pytest.mark.soak, pytest.mark.sampled]
SETTINGS: dict[str, Any] = {"kvm_preflight_selftest": False}
IMAGE = "/srv/tiny.img"
SMALL = {"memory": "32MiB", "disk": "8MiB"}
FEWER = {
    "web[01:12]": "web[01:03]",
    "app[01:08]": "app[01:02]",
    "cache[1:8]": "cache[1:2]",
    "build[a:d]": "build[a:b]",
}
GUESTS = {
    *("web01", "web02", "web03", "app01", "app02", "db01", "db02", "cache1", "cache2"),
    *("queue1", "queue2", "builda", "buildb", "dns1", "dns2"),
}
PROBES = {"probe1", "probe2"}


def edited(fleet: dict[str, Any]) -> dict[str, Any]:
    """Return the example with what a newcomer has instead."""
    racks = list(fleet["hypervisors"].values())
    guests = {FEWER.get(name, name): entry for name, entry in fleet["guests"].items()}
    guests["queue[1:2]"] = {**guests["queue[1:2]"], "size": {"vcpus": 1, **SMALL}}
    networks = {**fleet["networks"], "lan": {"mode": "isolated", "bridge": "virbr9"}}
    pools = {**fleet["pools"], "shared": {"type": "dir", "path": "/srv/guests"}}
    return {
        **fleet,
        "hypervisors": dict(zip(("kvm1", "kvm2"), racks, strict=True)),
        # Two small hosts cannot take over from each other what is spread over both.
        "placement": {"overcommit": {"vcpus": 16}},
        "networks": networks,
        "pools": {name: {**pool, "hypervisors": ["kvm*"]} for name, pool in pools.items()},
        "images": {name: {"path": IMAGE, "format": "raw"} for name in fleet["images"]},
        "sizes": {name: {**size, "vcpus": 1, **SMALL} for name, size in fleet["sizes"].items()},
        "defaults": {**fleet["defaults"], "state": "stopped", "autostart": False},
        "guests": guests,
    }


@pytest.fixture(scope="module")
def copied(lab: Lab, kvm1: Host, kvm2: Host, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the inventory of a newcomer, for the lab's hosts."""
    folder = tmp_path_factory.mktemp("newcomer") / "mine"
    shutil.copytree(REPOSITORY / "inventory" / "example", folder)
    fleet = yaml.safe_load((folder / "fleet.yml").read_text())
    (folder / "fleet.yml").write_text(yaml.safe_dump(edited(fleet), sort_keys=False))
    hosts = yaml.safe_load((lab.inventory / "hosts.yml").read_text())
    (folder / "group_vars" / "hypervisors.yml").unlink()
    (folder / "hosts.yml").write_text(yaml.safe_dump(hosts))
    for host in (kvm1, kvm2):
        host.run(f"sudo mkdir -p /srv/guests && sudo truncate -s 4M {IMAGE}")
    return folder


@pytest.fixture(scope="module")
def read(copied: Path, kvm1: Host, kvm2: Host) -> Run:
    run = Ansible(copied).playbook("site", "--check", "--diff", **SETTINGS)
    assert there(kvm1, kvm2) == {"kvm1": set(), "kvm2": set()}, "reading the plan made guests"
    return run


@pytest.fixture(scope="module")
def applied(read: Run, copied: Path) -> Run:
    del read
    return Ansible(copied).playbook("site", "--diff", **SETTINGS)


def found(run: Run) -> dict[str, str]:
    """Return by guest the host that the plan has it on."""
    (plan,) = [entry["result"] for entry in run.results if entry["module"] == "kvm_fleet_plan"]
    hosts: dict[str, str] = plan["hosts"]
    return hosts


def test_what_was_read_is_what_is_there(read: Run, applied: Run, kvm1: Host, kvm2: Host) -> None:
    # What a host has to give is known for good when it has been made one: where the read plan had
    # guests of one group, the hosts may have them the other way round.
    for run in (read, applied):
        assert set(found(run)) == GUESTS | PROBES
        for name in ("db01", "queue1", "dns1"):
            other = f"{name[:-1]}2"
            assert found(run)[name] != found(run)[other], f"{name} and {other} are to be apart"
    for host in (kvm1, kvm2):
        mine = {name for name, where in found(applied).items() if where == host.name}
        assert domains(host) == mine - PROBES
        assert "virbr9" in virsh(host, "net-dumpxml lan")
    assert there(kvm1)["kvm1"] >= PROBES
    assert re.search(r"plan: \d+ to create", read.output)


def test_a_second_run_changes_nothing(applied: Run, copied: Path) -> None:
    del applied
    assert Ansible(copied).playbook("site", **SETTINGS).changed() == {}


def test_the_guests_are_in_the_inventory(applied: Run, copied: Path) -> None:
    del applied
    program = str(Path(sys.executable).with_name("ansible-inventory"))
    shown = subprocess.run(
        [program, "-i", str(copied), "--graph"],
        env={**os.environ, "ANSIBLE_CONFIG": str(REPOSITORY / "ansible.cfg")},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for group, names in (
        ("guests", GUESTS | PROBES),
        ("webservers", {"web01", "web02", "web03"}),
        ("databases", {"db01", "db02"}),
        ("nameservers", {"dns1", "dns2"}),
        ("hypervisors", {"kvm1", "kvm2"}),
    ):
        (text,) = re.findall(rf"@{group}:\n((?:  \|  \|--\S+\n)*)", shown)
        assert set(re.findall(r"--(\S+)", text)) == names, group
