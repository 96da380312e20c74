# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a running guest itself sees of changes to it, and the states between running and gone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from asking import BOOT, FOLDER, domains, files, in_guest, verbs, virsh

if TYPE_CHECKING:
    from playing import Ansible, Run
    from virtlab.host import Host

pytestmark = [pytest.mark.sampled, pytest.mark.module_of("the lab")]

FIRST, SECOND = f"{FOLDER}/first.iso", f"{FOLDER}/second.iso"
DISK = {"target": "vda", "file": f"{FOLDER}/live.qcow2", "size": "16MiB"}
MORE = {"target": "vdb", "file": f"{FOLDER}/more.qcow2", "size": "16MiB", "serial": "more"}
MEDIUM = {"target": "sda", "bus": "sata", "device": "cdrom", "format": "raw"}
LIVE: dict[str, Any] = {
    "name": "live",
    "memory": "256MiB",
    "max_memory": "256MiB",
    "vcpus": 1,
    "max_vcpus": 2,
    **BOOT,
    "disks": [DISK, MORE, {**MEDIUM, "file": FIRST}],
    "nics": [{"network": "default"}, {"network": "default", "mac": "02:00:00:00:00:1b"}],
    "wait_for": "agent",
}
CHANGED: dict[str, Any] = {
    **LIVE,
    "memory": "192MiB",
    "vcpus": 2,
    "disks": [DISK, {**MEDIUM, "file": SECOND}],
    "nics": [{"network": "default", "link": "down"}],
}
UP: dict[str, Any] = {**LIVE, "disks": [DISK], "nics": [{"network": "default", "link": "up"}]}
LOOK = """
echo cpus $(grep -c ^processor /proc/cpuinfo)
echo disks $(cd /sys/block && ls -d vd*)
echo nics $(cd /sys/class/net && ls -d e*)
echo carrier $(cat /sys/class/net/eth0/carrier)
echo total $(grep MemTotal /proc/meminfo | tr -dc 0-9)
for n in 1 2 3 4 5 6; do  # a drive is not ready at once
  medium=$(dd if=/dev/sr0 bs=1 count=6 2>/dev/null)
  [ -n "$medium" ] && break
  sleep 1
done
echo medium $medium
"""


@pytest.fixture(scope="module")
def done(ansible: Ansible, hosts: list[Host]) -> Run:
    for host in hosts:
        virsh(host, "net-start default")
        for path, text in ((FIRST, "first!"), (SECOND, "second")):
            host.run(f"sudo sh -c 'printf {text} > {path} && truncate -s 2M {path}'")
    return ansible.playbook("guests", kvm_guest_specs=[LIVE])


def look(host: Host) -> dict[str, str]:
    """Return what the guest sees of itself; what it is given takes it some seconds."""
    lines = in_guest(host, "live", f"sleep 4;{LOOK}").splitlines()
    return {key: rest for key, _, rest in (line.partition(" ") for line in lines)}


def test_the_guest_sees_what_changes_live(ansible: Ansible, done: Run, hosts: list[Host]) -> None:
    del done
    before = {host.name: look(host) for host in hosts}
    started = {host.name: virsh(host, "domid live") for host in hosts}
    planned = ansible.playbook("guests", "--check", "--diff", kvm_guest_specs=[CHANGED])
    for host in hosts:
        assert look(host) == before[host.name], "check mode touched something"
    run = ansible.playbook("guests", "--diff", kvm_guest_specs=[CHANGED])
    for host in hosts:
        assert verbs(planned, host) == verbs(run, host) == ["live update live"]
        plan, did = (one.of("kvm_guests", host.name) for one in (planned, run))
        assert plan["actions"] == did["actions"]
        assert plan["diff"] == did["diff"]
        was, now = before[host.name], look(host)
        assert {key: was[key] for key in ("cpus", "disks", "nics", "carrier", "medium")} == {
            "cpus": "1",
            "disks": "vda vdb",
            "nics": "eth0 eth1",
            "carrier": "1",
            "medium": "first!",
        }
        assert {key: now[key] for key in ("cpus", "disks", "nics", "carrier", "medium")} == {
            "cpus": "2",
            "disks": "vda",
            "nics": "eth0",
            "carrier": "0",
            "medium": "second",
        }
        # What the balloon takes is missing in the guest.
        assert 60 << 10 <= int(was["total"]) - int(now["total"]) <= 68 << 10
        assert virsh(host, "domid live") == started[host.name]
        for inactive in ("", "--inactive"):
            xml = virsh(host, f"dumpxml live {inactive}")
            assert "<currentMemory unit='KiB'>196608</currentMemory>" in xml
            assert SECOND in xml
            assert "<serial>more</serial>" not in xml
            assert xml.count("<interface ") == 1
    again = ansible.playbook("guests", kvm_guest_specs=[CHANGED])
    assert again.changed() == {}
    for host in hosts:
        assert again.of("kvm_guests", host.name)["pending"] == []


@pytest.mark.one_of("a guest of libvirt")
def test_it_goes_on_where_it_was_after_a_pause_and_from_saved_memory(
    ansible: Ansible, done: Run, some: Host
) -> None:
    del done
    limit = ("--limit", some.name)
    up = [UP]
    ansible.playbook("guests", *limit, kvm_guest_specs=up)
    in_guest(some, "live", "echo here > /tmp/mark")
    for state, verb, seen in (("paused", "pause", "paused"), ("saved", "save", "shut off")):
        specs = [{**up[0], "state": state}]
        planned = ansible.playbook("guests", *limit, "--check", kvm_guest_specs=specs)
        assert virsh(some, "domstate live") == "running"
        run = ansible.playbook("guests", *limit, kvm_guest_specs=specs)
        assert verbs(planned, some) == verbs(run, some) == [f"live {verb} now"]
        assert virsh(some, "domstate live") == seen
        assert ansible.playbook("guests", *limit, kvm_guest_specs=specs).changed() == {}
        assert ("live" in virsh(some, "list --all --with-managed-save --name")) is (verb == "save")
        ansible.playbook("guests", *limit, kvm_guest_specs=up)
        assert virsh(some, "domstate live") == "running"
        assert in_guest(some, "live", "cat /tmp/mark") == "here"


@pytest.mark.one_of("a guest of libvirt")
def test_what_it_uses_and_its_addresses_are_told(ansible: Ansible, done: Run, some: Host) -> None:
    del done
    up = [UP]
    ansible.playbook("guests", "--limit", some.name, kvm_guest_specs=up)
    options = {"engines": ["libvirt"], "names": ["live"], "status": True}
    task = {"name": "Look", "kvm_guests_info": options, "register": "found"}
    shown = {"name": "Show", "ansible.builtin.debug": {"var": "found"}}
    play = {"hosts": some.name, "become": True, "gather_facts": False, "tasks": [task, shown]}
    (guest,) = ansible.plays([play]).of("kvm_guests_info", some.name)["guests"]
    status = guest["status"]
    mac = virsh(some, "domiflist live").split()[-1]
    leased = virsh(some, f"net-dhcp-leases default --mac {mac}").split()
    assert guest["addresses"] == [word.partition("/")[0] for word in leased if "/" in word]
    assert status["cpu_seconds"] > 0
    assert json.dumps(status)


@pytest.mark.one_of("a guest of libvirt")
def test_snapshots_and_saved_memory_go_with_it(ansible: Ansible, done: Run, some: Host) -> None:
    del done
    limit = ("--limit", some.name)
    shots = [
        {**UP, "name": name, "memory": "128MiB", "max_memory": None, "nics": []}
        | {"disks": [{**DISK, "file": f"{FOLDER}/{name}.qcow2"}]}
        for name in ("shot", "check")
    ]
    ansible.playbook("guests", *limit, kvm_guest_specs=shots)
    virsh(some, "snapshot-create-as shot one")
    virsh(some, "checkpoint-create-as check two")
    saved = [{**shots[0], "state": "saved"}, shots[1]]
    ansible.playbook("guests", *limit, kvm_guest_specs=saved)
    gone = {"kvm_guest_specs": shots, "kvm_guest_state": "absent"}
    planned = ansible.playbook("guests", *limit, "--check", **gone)
    assert {"shot", "check"} <= domains(some)
    run = ansible.playbook("guests", *limit, **gone)
    expected = ["check stop now", "check delete now", "shot delete now"]
    assert sorted(verbs(planned, some)) == sorted(verbs(run, some)) == sorted(expected)
    assert not {"shot", "check"} & domains(some)
    assert {"shot.qcow2", "check.qcow2"} <= set(files(some)), "disks that were not to go"
    for folder in ("save", "snapshot", "checkpoint"):
        left = some.out(f"sudo ls /var/lib/libvirt/qemu/{folder}")
        assert not {"shot", "check"} & set(left.replace(".", " ").split()), folder
