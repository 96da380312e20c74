# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Guests of another host's libvirt, over SSH and TLS, and a libvirt that ends in the middle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from asking import FOLDER, domains, virsh
from certificates import Authority

if TYPE_CHECKING:
    from playing import Ansible, Run
    from virtlab.host import Host
    from virtlab.lab import Lab

pytestmark = pytest.mark.module_of("the lab")

FAR: dict[str, Any] = {"name": "far", "accel": "tcg", "memory": "64MiB", "vcpus": 1}
MANY = 60
AFTER = 3  # guests that are defined when libvirt ends


def put(host: Host, path: str, content: str, mode: str = "644") -> None:
    """Write a file as root, with the folders above it."""
    host.run(f"sudo install -D -m {mode} /dev/stdin {path}", stdin=content)


@pytest.fixture(scope="module")
def reachable(lab: Lab) -> Lab:
    """Let root of kvm1 come to libvirt of kvm2, by SSH and by TLS."""
    kvm1, kvm2 = lab["kvm1"], lab["kvm2"]
    kvm1.run("echo 10.77.0.12 kvm2 | sudo tee -a /etc/hosts")
    kvm1.run("sudo ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519")
    put(kvm1, "/root/.ssh/known_hosts", f"kvm2 {kvm2.host_key()}\n", "600")
    public = kvm1.out("sudo cat /root/.ssh/id_ed25519.pub")
    put(kvm2, "/root/.ssh/authorized_keys", f"{public}\n", "600")
    authority = Authority()
    for host, kind in ((kvm1, "client"), (kvm2, "server")):
        pair = authority.issue(host.name)
        put(host, "/etc/pki/CA/cacert.pem", authority.certificate)
        put(host, f"/etc/pki/libvirt/{kind}cert.pem", pair.certificate)
        put(host, f"/etc/pki/libvirt/private/{kind}key.pem", pair.key, "600")
    kvm2.run("sudo systemctl stop libvirtd && sudo systemctl start libvirtd-tls.socket")
    return lab


def guests(ansible: Ansible, uri: str, *specs: dict[str, Any], **how: Any) -> Run:
    """Run the module on kvm1 for the guests of another URI."""
    task = {
        "name": "Make the guests of another host",
        "kvm_guests": {
            "stop_timeout": "2s",
            "guests": list(specs),
            "uri": uri,
            "host": "kvm2",
            "force": True,
        },
    }
    play = {"hosts": "kvm1", "become": True, "gather_facts": False, "tasks": [task]}
    arguments = ["--check"] if how.pop("check", False) else []
    return ansible.plays([play], *arguments, **how)


@pytest.mark.one_of("a transport")
@pytest.mark.parametrize("uri", ["qemu+ssh://root@kvm2/system", "qemu+tls://kvm2/system"])
def test_guests_of_another_host_are_made_and_go(ansible: Ansible, reachable: Lab, uri: str) -> None:
    kvm1, kvm2 = reachable["kvm1"], reachable["kvm2"]
    assert guests(ansible, uri, FAR, check=True).changed()
    assert domains(kvm2) == set()
    assert guests(ansible, uri, FAR).changed()
    assert virsh(kvm2, "domstate far") == "running"
    assert domains(kvm1) == set()
    assert guests(ansible, uri, FAR).changed() == {}
    grown = {**FAR, "disks": [{"target": "vda", "file": f"{FOLDER}/far.img", "size": "1MiB"}]}
    (message,) = guests(ansible, uri, grown, status=2).messages("kvm1")
    assert "size" in message
    assert kvm1.run(f"sudo test -e {FOLDER}/far.img", check=False).returncode
    gone = {"name": "far", "state": "absent", "engine": "libvirt"}
    assert guests(ansible, uri, gone).changed()
    assert domains(kvm2) == set()


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("qemu+ssh://root@kvm3/system", "kvm3"),
        ("qemu+tls://10.77.0.12/system", "certificate"),
        ("qemu:///sytem", "sytem"),
    ],
)
def test_a_libvirt_that_cannot_be_reached_is_said(
    ansible: Ansible, reachable: Lab, uri: str, reason: str
) -> None:
    del reachable
    (message,) = guests(ansible, uri, FAR, status=2).messages("kvm1")
    assert message.startswith(f"no connection to {uri} (")
    assert reason in message


def test_a_libvirt_that_ends_in_the_middle_is_said_and_the_next_run_completes(
    ansible: Ansible, lab: Lab
) -> None:
    names = [f"g{number}" for number in range(MANY)]
    specs = [{**FAR, "name": name, "state": "stopped"} for name in names]
    for host in lab.hosts.values():
        defined = "ls /etc/libvirt/qemu/*.xml 2>/dev/null | wc -l"
        wait = f"until test $({defined}) -ge {AFTER}; do sleep 0.05; done"
        host.run(
            "sudo systemd-run --quiet --unit=ender sh -c "
            f"'{wait}; systemctl kill --signal=SIGKILL libvirtd'"
        )
    run = ansible.playbook("guests", status=2, kvm_guest_specs=specs)
    for host in lab.hosts.values():
        (message,) = run.messages(host.name)
        assert "libvirt went away in the middle; run again, once it is back" in message
        assert message.count("\n") == 1, message
        failed = next(e["result"] for e in run.results if e["end"] == "failed")
        there = domains(host)
        assert AFTER <= len(there) < MANY
        assert len(failed["actions"]) >= AFTER - 1  # libvirt may end before it answers
    run = ansible.playbook("guests", kvm_guest_specs=specs)
    for host in lab.hosts.values():
        assert domains(host) == set(names)
    assert ansible.playbook("guests", kvm_guest_specs=specs).changed() == {}
