# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Guests of the libvirt engine under KVM, on a Debian: what virsh says and what they say."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from asking import BOOT, FOLDER, domains, files, in_guest, verbs, virsh

if TYPE_CHECKING:
    from playing import Ansible, Run
    from virtlab.host import Host

pytestmark = [pytest.mark.sampled, pytest.mark.module_of("the lab")]

WEB: dict[str, Any] = {
    "name": "web",
    "title": "answers",
    "memory": "256MiB",
    "vcpus": 1,
    "max_vcpus": 3,
    **BOOT,
    "disks": [
        {"target": "vda", "file": f"{FOLDER}/web.qcow2", "size": "64MiB", "serial": "root"},
    ],
    "nics": [{"network": "default"}],
    "autostart": True,
    "wait_for": "agent",
}
LEGACY: dict[str, Any] = {
    "name": "legacy",
    "machine": "pc",
    "memory": "128MiB",
    "cpu": {"mode": "host-passthrough"},
    "disks": [{"target": "hda", "bus": "ide", "file": f"{FOLDER}/legacy.raw", "format": "raw"}],
    "nics": [{"network": "default", "model": "e1000", "mac": "02:00:00:00:00:0a"}],
    "graphics": [{"type": "vnc", "listen": "127.0.0.1", "password": "s3cr3tvn"}],
    "watchdogs": [{"model": "i6300esb", "action": "reset"}],
    "state": "stopped",
}
SLOW: dict[str, Any] = {"name": "slow", "accel": "tcg", "memory": "64MiB", "state": "stopped"}
GUESTS = [WEB, LEGACY, SLOW]


@pytest.fixture(scope="module")
def stood(hosts: list[Host]) -> list[Host]:
    """Give hosts whose network and disks are there already."""
    for host in hosts:
        virsh(host, "net-start default")
        host.run(f"sudo qemu-img create -q -f raw {FOLDER}/legacy.raw 64M")
    return hosts


@pytest.fixture(scope="module")
def planned(ansible: Ansible, stood: list[Host]) -> Run:
    run = ansible.playbook("guests", "--check", "--diff", kvm_guest_specs=GUESTS)
    for host in stood:
        assert domains(host) == set(), "check mode touched something"
        assert files(host) == ["legacy.raw"], "check mode made an image"
    return run


@pytest.fixture(scope="module")
def done(ansible: Ansible, planned: Run) -> Run:
    del planned
    return ansible.playbook("guests", "--diff", kvm_guest_specs=GUESTS)


def test_what_was_planned_is_there_and_runs(planned: Run, done: Run, host: Host) -> None:
    assert verbs(done, host) == verbs(planned, host)
    assert domains(host) == {"web", "legacy", "slow"}
    assert virsh(host, "list --name").split() == ["web"]
    assert virsh(host, "list --all --autostart --name").split() == ["web"]
    assert "type='kvm'" in virsh(host, "dumpxml web")
    script = "nproc; cat /sys/block/vda/serial; echo; cat /sys/block/vda/size"
    assert in_guest(host, "web", script).split() == ["1", "root", str(64 << 11)]
    assert files(host) == ["legacy.raw", "web.qcow2"]
    address = in_guest(host, "web", "ip -4 -o address show dev eth0").split()[3]
    assert address.startswith("192.168.122.")
    assert "<machine" not in virsh(host, "dumpxml legacy")
    assert "machine='pc-i440fx-" in virsh(host, "dumpxml legacy")


def test_a_password_is_seen_nowhere(done: Run, planned: Run, host: Host) -> None:
    assert "s3cr3tvn" in virsh(host, "dumpxml --security-info legacy")
    for run in (done, planned):
        assert "s3cr3tvn" not in run.output
        assert "s3cr3tvn" not in json.dumps(run.results)


def test_a_second_run_changes_nothing(ansible: Ansible, done: Run, hosts: list[Host]) -> None:
    del done
    before = {host.name: virsh(host, "dumpxml web") for host in hosts}
    run = ansible.playbook("guests", kvm_guest_specs=GUESTS)
    assert run.changed() == {}
    for host in hosts:
        assert run.of("kvm_guests", host.name)["pending"] == []
        assert virsh(host, "dumpxml web") == before[host.name]


GROWN = {**WEB["disks"][0], "size": "96MiB"}
MORE = {"target": "vdb", "file": f"{FOLDER}/more.raw", "format": "raw", "size": "32MiB"}


def test_what_can_be_live_is_live_and_stays(ansible: Ansible, done: Run, hosts: list[Host]) -> None:
    del done
    throttled = {**GROWN, "throttle": {"total_iops_sec": 500}}
    changed = {
        **WEB,
        "title": "answers more",
        "vcpus": 2,
        "cpu_tuning": {"shares": 512},
        "disks": [throttled, MORE],
        "nics": [{"network": "default"}, {"network": "default", "link": "down"}],
    }
    specs = [changed, LEGACY, SLOW]
    planned = ansible.playbook("guests", "--check", "--diff", kvm_guest_specs=specs)
    run = ansible.playbook("guests", "--diff", kvm_guest_specs=specs)
    again = ansible.playbook("guests", kvm_guest_specs=specs)
    assert again.changed() == {}
    for host in hosts:
        assert verbs(planned, host) == verbs(run, host) == ["web update live"]
        assert run.of("kvm_guests", host.name)["pending"] == []
        script = "sleep 2; nproc; cat /sys/block/vd[ab]/size; ls /sys/block; ls /sys/class/net"
        seen = in_guest(host, "web", script).split()
        assert seen[:3] == ["2", str(96 << 11), str(32 << 11)]
        assert {"vda", "vdb", "eth0", "eth1"} <= set(seen)
        for inactive in ("", "--inactive"):
            xml = virsh(host, f"dumpxml web {inactive}")
            for text in (
                "<title>answers more</title>",
                "current='2'>3</vcpu>",
                "<shares>512</shares>",
                "<total_iops_sec>500</total_iops_sec>",
                f"{FOLDER}/more.raw",
                "<link state='down'/>",
            ):
                assert text in xml, (text, inactive)


@pytest.mark.one_of("a guest of libvirt")
def test_the_rest_waits_for_a_start_anew(ansible: Ansible, done: Run, some: Host) -> None:
    del done
    specs = [{**WEB, "memory": "320MiB", "disks": [GROWN]}, LEGACY, SLOW]
    limit = ("--limit", some.name)
    run = ansible.playbook("guests", *limit, kvm_guest_specs=specs)
    found = run.of("kvm_guests", some.name)
    assert {item["kind"] for item in found["pending"]} == {"restart_required"}
    assert "262144" in virsh(some, "dumpxml web | grep '<memory '")
    assert "327680" in virsh(some, "dumpxml web --inactive | grep '<memory '")
    assert ansible.playbook("guests", *limit, kvm_guest_specs=specs).changed() == {}
    restarted = [{**specs[0], "state": "restarted", "wait_for": "ssh"}, LEGACY, SLOW]
    run = ansible.playbook("guests", *limit, kvm_guest_specs=restarted)
    (address,) = run.of("kvm_guests", some.name)["guests"][0]["addresses"]
    key = "-o StrictHostKeyChecking=accept-new -o UserKnownHostsFile=/dev/null"
    login = f"ssh -q {key} -i /var/lib/virtlab/key root@{address}"
    assert "327680" in virsh(some, "dumpxml web | grep '<memory '")
    assert int(some.out(f"{login} grep MemTotal /proc/meminfo").split()[1]) > 262144
    again = ansible.playbook("guests", *limit, kvm_guest_specs=specs)
    assert again.changed() == {}
    assert again.of("kvm_guests", some.name)["pending"] == []
    assert "327680" in virsh(some, "dumpxml web | grep '<memory '")


def test_bad_input_and_what_is_not_there_are_told_before_anything_is_touched(
    ansible: Ansible, done: Run, some: Host
) -> None:
    del done
    wrong = [
        {**SLOW, "name": "a", "nics": [{"network": "defualt"}]},
        {**SLOW, "name": "b", "disks": [{"target": "vda", "file": f"{FOLDER}/none.raw"}]},
        {**SLOW, "name": "c", "disks": [{"target": "vda", "file": f"{FOLDER}/legacy.raw"}]},
        {**SLOW, "name": "d", "nics": [{"network": "default", "mac": "02:00:00:00:00:0a"}]},
        {**SLOW, "name": "e", "disks": [{"target": "vda", "file": "/none/e.img", "size": "1MiB"}]},
    ]
    run = ansible.playbook(
        "guests", "--limit", some.name, status=2, kvm_guest_specs=[*GUESTS, *wrong]
    )
    (message,) = run.messages(some.name)
    assert "did you mean default?" in message
    assert "a file that is there" in message
    assert "which legacy has" in message
    assert "expected a folder that is there, found '/none'" in message
    assert message.count("\n") == len(wrong)
    assert domains(some) == {"web", "legacy", "slow"}


@pytest.mark.one_of("a guest of libvirt")
def test_a_guest_that_ignores_the_power_button_is_told_or_forced(
    ansible: Ansible, done: Run, some: Host
) -> None:
    del done
    deaf = {**SLOW, "name": "deaf", "accel": "kvm", "state": "running"}
    limit = ("--limit", some.name)
    ansible.playbook("guests", *limit, kvm_guest_specs=[deaf])
    stopped = [{**deaf, "state": "stopped"}]
    run = ansible.playbook(
        "guests", *limit, status=2, kvm_guest_specs=stopped, kvm_guest_stop_timeout="5s"
    )
    assert "did not shut down within 5s" in run.messages(some.name)[0]
    assert "deaf" in virsh(some, "list --name")
    forced = {"kvm_guest_stop_timeout": "5s", "kvm_guest_force": True}
    ansible.playbook("guests", *limit, kvm_guest_specs=stopped, **forced)
    assert "deaf" not in virsh(some, "list --name")
    ansible.playbook("guests", *limit, kvm_guest_specs=[deaf], kvm_guest_state="absent")


@pytest.mark.one_of("a guest of libvirt")
def test_another_name_comes_when_a_guest_is_off_and_all_else_of_it_stays(
    ansible: Ansible, done: Run, some: Host
) -> None:
    del done
    limit = ("--limit", some.name)
    disk = {"target": "vda", "file": f"{FOLDER}/first.qcow2", "size": "16MiB", "serial": "kept"}
    first = {**WEB, "name": "first", "title": "one", "max_vcpus": 1, "disks": [disk]}
    uefi = {"firmware": {"type": "uefi"}, "memory": "64MiB", "state": "stopped"}
    ansible.playbook(
        "guests", *limit, kvm_guest_specs=[first, {**uefi, "name": "plain", "autostart": True}]
    )
    kept = {name: virsh(some, f"domuuid {name}") for name in ("first", "plain")}
    mac = virsh(some, "domiflist first").split()[-1]

    # One of them runs.
    second = {**first, "name": "second", "was": "first", "title": "two"}
    specs = [second, {**uefi, "name": "renamed", "was": "plain"}]
    planned = ansible.playbook("guests", *limit, "--check", "--diff", kvm_guest_specs=specs)
    run = ansible.playbook("guests", *limit, "--diff", kvm_guest_specs=specs)
    assert verbs(planned, some) == verbs(run, some) == ["first update live", "renamed update now"]
    assert "name: plain → renamed" in run.output
    (waits,) = run.of("kvm_guests", some.name)["pending"]
    assert (waits["object"], waits["kind"]) == ("guest/second", "rename_waits")
    assert domains(some) == {"web", "legacy", "slow", "first", "renamed"}
    assert "<title>two</title>" in virsh(some, "dumpxml first")
    assert virsh(some, "domuuid renamed") == kept["plain"]
    assert "renamed" in virsh(some, "list --all --autostart --name").split()
    again = ansible.playbook("guests", *limit, kvm_guest_specs=specs)
    assert again.changed() == {}
    assert [item["kind"] for item in again.of("kvm_guests", some.name)["pending"]] == [
        "rename_waits"
    ]

    specs[0] = {**second, "state": "restarted"}
    run = ansible.playbook("guests", *limit, kvm_guest_specs=specs)
    assert verbs(run, some) == ["first stop now", "second update now", "second start now"]
    assert domains(some) == {"web", "legacy", "slow", "second", "renamed"}
    assert virsh(some, "domuuid second") == kept["first"]
    assert virsh(some, "domiflist second").split()[-1] == mac
    assert in_guest(some, "second", "cat /sys/block/vda/serial") == "kept"
    specs[0] = second
    again = ansible.playbook("guests", *limit, kvm_guest_specs=specs)
    assert (again.changed(), again.of("kvm_guests", some.name)["pending"]) == ({}, [])
    assert "first.qcow2" in files(some)

    going = [{**guest, "remove_disks": True} for guest in specs]
    ansible.playbook("guests", *limit, kvm_guest_specs=going, kvm_guest_state="absent")
    assert domains(some) == {"web", "legacy", "slow"}
    assert "first.qcow2" not in files(some)


def attached(host: Host) -> set[str]:
    """Return the names of the files that guests have, by another tool than ours."""
    listed = [virsh(host, f"domblklist --inactive {name}") for name in domains(host)]
    return {word.rpartition("/")[2] for text in listed for word in text.split() if "/" in word}


def test_the_way_back_leaves_the_disks_that_were_there(
    ansible: Ansible, done: Run, hosts: list[Host]
) -> None:
    del done
    # A disk that its guest gave up before is nobody's to remove.
    given_up = {host.name: set(files(host)) - attached(host) for host in hosts}
    going = [{**guest, "remove_disks": True} for guest in GUESTS]
    ansible.playbook("guests", kvm_guest_specs=going, kvm_guest_state="absent")
    for host in hosts:
        assert domains(host) == set()
        assert set(files(host)) == {"legacy.raw"} | given_up[host.name]
        assert given_up[host.name] <= {"more.raw"}
    gone = {"kvm_guest_specs": GUESTS, "kvm_guest_state": "absent"}
    assert ansible.playbook("guests", **gone).changed() == {}
