# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images from a server and from the controller, and guests whose disks are made from them."""

from __future__ import annotations

import hashlib
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from asking import BOOT, FOLDER, in_guest

if TYPE_CHECKING:
    from pathlib import Path

    from playing import Ansible, Run
    from virtlab.host import Host

pytestmark = [pytest.mark.sampled, pytest.mark.module_of("the lab")]

SERVER = "http://10.77.0.12:8000"
STORE = f"{FOLDER}/virtfleet"


def guest(name: str, image: str) -> dict[str, Any]:
    disk = {"target": "vda", "file": f"{FOLDER}/{name}.qcow2", "size": "16MiB", "image": image}
    return {"name": name, "memory": "192MiB", **BOOT, "disks": [disk], "wait_for": "agent"}


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an image of the controller that begins with a word."""
    folder = tmp_path_factory.mktemp("golden")
    raw, made = folder / "golden.raw", folder / "golden.qcow2"
    with raw.open("wb") as file:
        file.write(b"golden")
        file.truncate(8 << 20)
    line = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(made)]
    subprocess.run(line, check=True)
    return made


@pytest.fixture(scope="module")
def declared(kvm2: Host, golden: Path) -> list[dict[str, Any]]:
    """Have a server with an image, and its publisher's list; return what is declared."""
    kvm2.run("mkdir -p /tmp/www && qemu-img create -q -f qcow2 /tmp/www/served.qcow2 8M")
    kvm2.run("cd /tmp/www && sha512sum served.qcow2 > SHA512SUMS")
    kvm2.run("systemd-run --user --quiet --unit=www python3 -m http.server -d /tmp/www 8000")
    return [
        {
            "name": "served",
            "url": f"{SERVER}/served.qcow2",
            "checksums": f"{SERVER}/SHA512SUMS",
        },
        {"name": "golden", "file": str(golden)},
    ]


@pytest.fixture(scope="module")
def planned(ansible: Ansible, hosts: list[Host], declared: list[dict[str, Any]]) -> Run:
    run = ansible.playbook("images", "--check", "--diff", kvm_image_images=declared)
    for host in hosts:
        assert host.run(f"sudo test -e {STORE}", check=False).returncode, "check mode made it"
    return run


@pytest.fixture(scope="module")
def done(ansible: Ansible, planned: Run, declared: list[dict[str, Any]]) -> Run:
    del planned
    return ansible.playbook("images", kvm_image_images=declared)


def verbs(run: Run, host: Host) -> list[str]:
    found = run.of("kvm_images", host.name)["actions"]
    return [f"{a['object']} {a['action']}" for a in found]


def test_the_images_that_were_planned_are_there(
    planned: Run, done: Run, host: Host, golden: Path
) -> None:
    assert verbs(planned, host) == verbs(done, host)
    assert verbs(done, host) == ["image/served create", "image/golden create"]
    digest = hashlib.sha256(golden.read_bytes()).hexdigest()
    assert digest in host.out(f"sudo sha256sum {STORE}/golden")
    assert f"{digest}.qcow2" in host.out(f"sudo readlink {STORE}/golden")
    assert host.out(f"sudo ls {STORE}/.incoming") == ""
    listed = host.out(f"sudo sha512sum {STORE}/served").split()[0]
    assert listed in done.of("kvm_images", host.name)["images"][0]["checksums"].values()


def test_a_second_run_changes_nothing(
    ansible: Ansible, done: Run, declared: list[dict[str, Any]]
) -> None:
    del done
    assert ansible.playbook("images", kvm_image_images=declared).changed() == {}


def test_guests_stand_on_an_image_until_they_go(
    ansible: Ansible, done: Run, hosts: list[Host], declared: list[dict[str, Any]]
) -> None:
    del done
    specs = [guest("web", "golden")]
    ansible.playbook("guests", kvm_guest_specs=specs)
    for host in hosts:
        assert in_guest(host, "web", "head -c 6 /dev/vda; cat /sys/block/vda/size").split() == [
            f"golden{16 << 11}"
        ]
        told = host.out(f"sudo qemu-img info -U {FOLDER}/web.qcow2")
        assert f"backing file: {STORE}/" in told
    run = ansible.playbook("images", kvm_image_images=[declared[0]], kvm_image_prune=True)
    for host in hosts:
        assert verbs(run, host) == ["image/golden delete"]
        (pending,) = run.of("kvm_images", host.name)["pending"]
        assert pending["kind"] == "in_use"
        assert "guest/web" in pending["reason"]
    going = [{**specs[0], "remove_disks": True}]
    gone = {"kvm_guest_state": "absent", "kvm_guest_force": True, "kvm_guest_stop_timeout": "2s"}
    ansible.playbook("guests", kvm_guest_specs=going, **gone)
    ansible.playbook("images", kvm_image_images=[declared[0]], kvm_image_state="absent")
    for host in hosts:
        assert host.out(f"sudo ls {STORE}") == ""
