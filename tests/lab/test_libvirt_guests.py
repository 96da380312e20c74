# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Guests of the libvirt engine under KVM, on both Debians: what virsh says and what they say."""

from __future__ import annotations

import base64
import json
import time
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playing import Ansible, Run
    from virtlab.host import Host
    from virtlab.lab import Lab

FOLDER = "/var/lib/libvirt/images"
BOOT = {
    "kernel": "/var/lib/virtlab/vmlinuz",
    "initrd": "/var/lib/virtlab/initrd",
    "cmdline": "console=ttyS0 quiet edd=off norandmaps mitigations=off",
}
WEB: dict[str, Any] = {
    "name": "web",
    "title": "answers",
    "memory": "256MiB",
    "vcpus": 1,
    "max_vcpus": 3,
    **BOOT,
    "disks": [{"target": "vda", "file": f"{FOLDER}/web.raw", "format": "raw", "serial": "root"}],
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


def virsh(host: Host, words: str) -> str:
    return host.out(f"sudo virsh --connect qemu:///system {words}")


def domains(host: Host) -> set[str]:
    return set(virsh(host, "list --all --name").split())


def in_guest(host: Host, name: str, script: str) -> str:
    """Run a script in a guest through its agent and return what it printed."""

    def ask(**request: Any) -> Any:
        text = json.dumps({"execute": request.pop("execute"), "arguments": request})
        return json.loads(virsh(host, f"qemu-agent-command {name} '{text}'"))["return"]

    arguments = {"path": "/bin/sh", "arg": ["-c", script], "capture-output": True}
    pid = ask(execute="guest-exec", **arguments)["pid"]
    give_up = time.monotonic() + 60
    while time.monotonic() < give_up:
        status = ask(execute="guest-exec-status", pid=pid)
        if status["exited"]:
            return base64.b64decode(status.get("out-data", "")).decode().strip()
        time.sleep(0.5)
    raise AssertionError(f"{name}: {script} did not end")


def verbs(run: Run, host: Host) -> list[str]:
    found = run.of("kvm_guests", host.name)["actions"]
    return [f"{a['object'][6:]} {a['action']} {a['when']}" for a in found]


@pytest.fixture(scope="module")
def stood(lab: Lab) -> Lab:
    """Give hosts whose network and disks are there already."""
    for host in lab.hosts.values():
        virsh(host, "net-start default")
        for name in ("web", "legacy", "more"):
            host.run(f"sudo qemu-img create -q -f raw {FOLDER}/{name}.raw 64M")
    return lab


@pytest.fixture(scope="module")
def planned(ansible: Ansible, stood: Lab) -> Run:
    run = ansible.playbook("guests", "--check", "--diff", kvm_guest_specs=GUESTS)
    for host in stood.hosts.values():
        assert domains(host) == set(), "check mode touched something"
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
    assert in_guest(host, "web", "nproc; cat /sys/block/vda/serial").split() == ["1", "root"]
    address = in_guest(host, "web", "ip -4 -o address show dev eth0").split()[3]
    assert address.startswith("192.168.122.")
    assert "<machine" not in virsh(host, "dumpxml legacy")
    assert "machine='pc-i440fx-" in virsh(host, "dumpxml legacy")


def test_a_password_is_seen_nowhere(done: Run, planned: Run, host: Host) -> None:
    assert "s3cr3tvn" in virsh(host, "dumpxml --security-info legacy")
    for run in (done, planned):
        assert "s3cr3tvn" not in run.output
        assert "s3cr3tvn" not in json.dumps(run.results)


def test_a_second_run_changes_nothing(ansible: Ansible, done: Run, lab: Lab) -> None:
    del done
    before = {host.name: virsh(host, "dumpxml web") for host in lab.hosts.values()}
    run = ansible.playbook("guests", kvm_guest_specs=GUESTS)
    assert run.changed() == {}
    for host in lab.hosts.values():
        assert run.of("kvm_guests", host.name)["pending"] == []
        assert virsh(host, "dumpxml web") == before[host.name]


MORE = {"target": "vdb", "file": f"{FOLDER}/more.raw", "format": "raw"}


def test_what_can_be_live_is_live_and_stays(ansible: Ansible, done: Run, lab: Lab) -> None:
    del done
    throttled = {**WEB["disks"][0], "throttle": {"total_iops_sec": 500}}
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
    for host in lab.hosts.values():
        assert verbs(planned, host) == verbs(run, host) == ["web update live"]
        assert run.of("kvm_guests", host.name)["pending"] == []
        seen = in_guest(host, "web", "sleep 2; nproc; ls /sys/block; ls /sys/class/net").split()
        assert seen[0] == "2"
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


def test_the_rest_waits_for_a_start_anew(ansible: Ansible, done: Run, kvm2: Host) -> None:
    del done
    specs = [{**WEB, "memory": "320MiB", "disks": [WEB["disks"][0]]}, LEGACY, SLOW]
    limit = ("--limit", "kvm2")
    run = ansible.playbook("guests", *limit, kvm_guest_specs=specs)
    found = run.of("kvm_guests", "kvm2")
    assert {item["kind"] for item in found["pending"]} == {"restart_required"}
    assert "262144" in virsh(kvm2, "dumpxml web | grep '<memory '")
    assert "327680" in virsh(kvm2, "dumpxml web --inactive | grep '<memory '")
    assert ansible.playbook("guests", *limit, kvm_guest_specs=specs).changed() == {}
    restarted = [{**specs[0], "state": "restarted"}, LEGACY, SLOW]
    ansible.playbook("guests", *limit, kvm_guest_specs=restarted)
    again = ansible.playbook("guests", *limit, kvm_guest_specs=specs)
    assert again.changed() == {}
    assert again.of("kvm_guests", "kvm2")["pending"] == []
    assert "327680" in virsh(kvm2, "dumpxml web | grep '<memory '")


def test_bad_input_and_what_is_not_there_are_told_before_anything_is_touched(
    ansible: Ansible, done: Run, kvm1: Host
) -> None:
    del done
    wrong = [
        {**SLOW, "name": "a", "nics": [{"network": "defualt"}]},
        {**SLOW, "name": "b", "disks": [{"target": "vda", "file": f"{FOLDER}/none.raw"}]},
        {**SLOW, "name": "c", "disks": [{"target": "vda", "file": f"{FOLDER}/legacy.raw"}]},
        {**SLOW, "name": "d", "nics": [{"network": "default", "mac": "02:00:00:00:00:0a"}]},
    ]
    run = ansible.playbook("guests", "--limit", "kvm1", status=2, kvm_guest_specs=[*GUESTS, *wrong])
    (message,) = run.messages("kvm1")
    assert "did you mean default?" in message
    assert "a file that is there" in message
    assert "which legacy has" in message
    assert message.count("\n") == len(wrong)
    assert domains(kvm1) == {"web", "legacy", "slow"}


def test_a_guest_that_ignores_the_power_button_is_told_or_forced(
    ansible: Ansible, done: Run, kvm1: Host
) -> None:
    del done
    deaf = {**SLOW, "name": "deaf", "accel": "kvm", "state": "running"}
    limit = ("--limit", "kvm1")
    ansible.playbook("guests", *limit, kvm_guest_specs=[deaf])
    stopped = [{**deaf, "state": "stopped"}]
    run = ansible.playbook(
        "guests", *limit, status=2, kvm_guest_specs=stopped, kvm_guest_stop_timeout="5s"
    )
    assert "did not shut down within 5s" in run.messages("kvm1")[0]
    assert "deaf" in virsh(kvm1, "list --name")
    forced = {"kvm_guest_stop_timeout": "5s", "kvm_guest_force": True}
    ansible.playbook("guests", *limit, kvm_guest_specs=stopped, **forced)
    assert "deaf" not in virsh(kvm1, "list --name")
    ansible.playbook("guests", *limit, kvm_guest_specs=[deaf], kvm_guest_state="absent")


def test_the_way_back_leaves_the_disks(ansible: Ansible, done: Run, lab: Lab) -> None:
    del done
    ansible.playbook("guests", kvm_guest_specs=GUESTS, kvm_guest_state="absent")
    for host in lab.hosts.values():
        assert domains(host) == set()
        assert host.out(f"sudo ls {FOLDER}").split() == ["legacy.raw", "more.raw", "web.raw"]
    gone = {"kvm_guest_specs": GUESTS, "kvm_guest_state": "absent"}
    assert ansible.playbook("guests", **gone).changed() == {}
