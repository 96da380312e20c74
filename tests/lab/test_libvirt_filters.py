# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Network filters: a guest on a bridge that tries to be another one, and declared ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from asking import BOOT, in_guest, virsh

if TYPE_CHECKING:
    from playing import Ansible, Run
    from virtlab.host import Host

pytestmark = [pytest.mark.sampled, pytest.mark.module_of("the lab")]

HOST, SHUNNED, OWN, OTHER = "10.40.0.1", "10.40.0.2", "10.40.0.5", "10.40.0.6"
NIC: dict[str, Any] = {"bridge": "host0", "ip": {"addresses": [f"{OWN}/24"]}}
QUIET: dict[str, Any] = {
    "name": "quiet",
    "filters": [{"filter": "virtfleet-antispoof-ip", "parameters": {"IP": OWN}}],
    "rules": [
        {"action": "drop", "direction": "in", "ip": {"srcipaddr": SHUNNED}},
        {"action": "drop", "direction": "out", "priority": 600, "udp": {"dstportstart": "0x35"}},
    ],
}


def guest(**nic: Any) -> dict[str, Any]:
    nics = [{**NIC, **nic}]
    spec = {"name": "web", "memory": "192MiB", **BOOT, "nics": nics, "cloud_init": {}}
    return {**spec, "wait_for": "agent"}


def filters(*declared: dict[str, Any]) -> list[dict[str, Any]]:
    common = {"hosts": "hypervisors", "become": True, "gather_facts": False}
    return [{**common, "roles": ["kvm_network"], "vars": {"kvm_network_filters": [*declared]}}]


def named(host: Host) -> set[str]:
    return {line.split()[1] for line in virsh(host, "nwfilter-list").splitlines()[2:]}


def reaches(host: Host, source: str, mac: str = "") -> bool:
    """Return whether the host answers the guest that sends from an address."""
    script = f"ip addr flush dev eth0; ip addr add {source}/24 dev eth0; ip neigh flush dev eth0"
    if mac:
        script = f"ip link set eth0 down; ip link set eth0 address {mac}; {script}"
    script += f"; ip link set eth0 up; ping -c 2 -W 2 {HOST} > /dev/null && echo answered"
    host.run("sudo ip neigh flush dev host0")
    return in_guest(host, "web", script).endswith("answered")


@pytest.fixture(scope="module")
def made(ansible: Ansible, hosts: list[Host]) -> Run:
    for host in hosts:
        host.run("sudo ip link add host0 type bridge forward_delay 0 && sudo ip link set host0 up")
        for address in (HOST, SHUNNED):
            host.run(f"sudo ip addr add {address}/24 dev host0")
    before = {host.name: named(host) for host in hosts}
    planned = ansible.playbook("guests", "--check", "--diff", kvm_guest_specs=[guest()])
    assert {host.name: named(host) for host in hosts} == before, "check mode touched something"
    assert "virtfleet-antispoof-ip" in planned.output
    return ansible.playbook("guests", kvm_guest_specs=[guest()])


def test_a_guest_on_a_bridge_cannot_be_another_one(made: Run, host: Host) -> None:
    del made
    mac = in_guest(host, "web", "cat /sys/class/net/eth0/address")
    assert reaches(host, OWN)
    assert not reaches(host, OTHER)
    assert not reaches(host, OWN, "02:00:00:00:00:99")
    assert reaches(host, OWN, mac)


def test_a_second_run_changes_nothing_and_it_can_be_switched_off(
    ansible: Ansible, made: Run, hosts: list[Host]
) -> None:
    del made
    assert ansible.playbook("guests", kvm_guest_specs=[guest()]).changed() == {}
    free = guest(filter=None)
    run = ansible.playbook("guests", "--diff", kvm_guest_specs=[free])
    assert ansible.playbook("guests", kvm_guest_specs=[free]).changed() == {}
    for host in hosts:
        (action,) = run.of("kvm_guests", host.name)["actions"]
        assert (action["action"], action["when"]) == ("update", "live")
        assert "filterref" not in virsh(host, "dumpxml web")
        assert reaches(host, OTHER)


def test_filters_are_declared_and_reach_guests_that_run(
    ansible: Ansible, made: Run, hosts: list[Host]
) -> None:
    del made
    planned = ansible.plays(filters(QUIET), "--check", "--diff")
    assert not any("quiet" in named(host) for host in hosts)
    run = ansible.plays(filters(QUIET))
    assert "bridge-nf-call-iptables is not 1" in run.output  # for its rule of udp
    assert ansible.plays(filters(QUIET)).changed() == {}
    ansible.playbook("guests", kvm_guest_specs=[guest(filter="quiet")])
    for host in hosts:
        told = [one.of("kvm_nwfilters", host.name)["actions"] for one in (planned, run)]
        assert told[0] == told[1]
        assert reaches(host, OWN)
        assert not reaches(host, OTHER)
        assert reaches(host, OWN)
        assert host.run(f"sudo ping -c 1 -W 2 -I {SHUNNED} {OWN}", check=False).returncode
    pruned = ansible.plays(filters(QUIET), kvm_network_filters_prune=True)
    assert pruned.changed() == {}, "the toolkit's own stay with the guests"
    loud = {**QUIET, "rules": QUIET["rules"][1:]}
    ansible.plays(filters(loud))
    for host in hosts:
        host.run(f"sudo ping -c 1 -W 5 -I {SHUNNED} {OWN}")


def test_bad_input_and_what_is_in_use_are_told(ansible: Ansible, made: Run, some: Host) -> None:
    del made
    limit = ("--limit", some.name)
    wrong = {"name": "wrong", "filters": [{"filter": "virtfleet-antispof"}]}
    (message,) = ansible.plays(filters(wrong), *limit, status=2).messages(some.name)
    assert "did you mean virtfleet-antispoof" in message
    gone = ansible.plays(filters({"name": "quiet", "state": "absent"}), *limit, status=2)
    assert "guests run on it: web" in "\n".join(gone.messages(some.name))
    assert "quiet" in named(some)


def test_the_way_back_leaves_none_of_them(ansible: Ansible, made: Run, hosts: list[Host]) -> None:
    del made
    force = {"kvm_guest_state": "absent", "kvm_guest_force": True, "kvm_guest_stop_timeout": "2s"}
    ansible.playbook("guests", kvm_guest_specs=[guest()], **force)
    ansible.plays(filters(QUIET), kvm_network_state="absent")
    for host in hosts:
        assert not any(name == "quiet" or "virtfleet" in name for name in named(host))
    assert ansible.plays(filters(QUIET), kvm_network_state="absent").changed() == {}
