# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""libvirt's networks: planned, made, changed while guests are on them, and taken away."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from asking import BOOT, in_guest, virsh

if TYPE_CHECKING:
    from playing import Ansible, Run
    from virtlab.host import Host

pytestmark = [pytest.mark.sampled, pytest.mark.module_of("the lab")]

MAC = "02:00:00:00:00:21"
RANGE = {"start": "10.20.0.100", "end": "10.20.0.199"}
WEB_LEASE = {"mac": MAC, "name": "web", "ip": "10.20.0.21"}
LAN: dict[str, Any] = {
    "name": "lan",
    "mode": "nat",
    "domain": "lan.test",
    "dns": {"hosts": [{"ip": "10.20.0.1", "names": ["gate.lan.test"]}]},
    "ips": [
        {"address": "10.20.0.1", "prefix": 24, "dhcp": {"ranges": [RANGE], "hosts": [WEB_LEASE]}},
        {"address": "10.22.0.1", "prefix": 24},
    ],
}
OTHERS: list[dict[str, Any]] = [
    {"name": "routed", "mode": "route", "ips": [{"address": "10.21.0.1", "prefix": 24}]},
    {
        "name": "closed",
        "mode": "isolated",
        "bridge": "closed0",
        "ips": [{"address": "fd20::1", "prefix": 64}],
    },
    {
        "name": "office",
        "mode": "bridge",
        "bridge": "host0",
        "portgroups": [{"name": "slow", "bandwidth": {"inbound": {"average": 1000}}}],
    },
    {"name": "direct", "mode": "bridge", "interfaces": ["enp0s3"], "autostart": False},
    {
        "name": "switch",
        "mode": "bridge",
        "bridge": "ovs0",
        "virtualport": {"type": "openvswitch"},
        "portgroups": [
            {"name": "red", "default": True, "vlan": 42},
            {"name": "trunk", "vlan": [42, 43]},
        ],
    },
]
GUEST: dict[str, Any] = {
    "name": "web",
    "memory": "256MiB",
    **BOOT,
    "nics": [
        {"network": "lan", "mac": MAC},
        {"network": "switch"},
        {"network": "switch", "portgroup": "trunk"},
    ],
    "wait_for": "address",
}


@pytest.fixture(scope="module")
def stood(hosts: list[Host]) -> list[Host]:
    """Have the bridges that networks refer to: a plain one, and a switch of Open vSwitch."""
    for host in hosts:
        bridge(host)
        host.run("sudo systemctl start openvswitch-switch && sudo ovs-vsctl add-br ovs0")
    return hosts


def bridge(host: Host) -> None:
    """Make a bridge, which is gone after a reboot."""
    host.run("sudo ip link add host0 type bridge && sudo ip link set host0 up")


def plays(*networks: dict[str, Any]) -> list[dict[str, Any]]:
    common = {"hosts": "hypervisors", "become": True, "gather_facts": False}
    return [{**common, "roles": ["kvm_network"], "vars": {"kvm_network_networks": [*networks]}}]


def verbs(run: Run, host: Host) -> list[str]:
    found = run.of("kvm_networks", host.name)["actions"]
    return [f"{a['object']} {a['action']} {a['when']}" for a in found]


def seen(host: Host) -> str:
    """Return what there is, by other tools than ours."""
    return virsh(host, "net-list --all") + host.out("ip -br link | cut -c1-30")


@pytest.fixture(scope="module")
def planned(ansible: Ansible, stood: list[Host]) -> Run:
    before = [seen(host) for host in stood]
    run = ansible.plays(plays(LAN, *OTHERS), "--check", "--diff")
    assert [seen(host) for host in stood] == before, "check mode touched something"
    return run


@pytest.fixture(scope="module")
def done(ansible: Ansible, planned: Run) -> Run:
    del planned
    return ansible.plays(plays(LAN, *OTHERS))


def test_the_networks_that_were_planned_are_there(planned: Run, done: Run, host: Host) -> None:
    assert verbs(planned, host) == verbs(done, host)
    names = {"lan", "routed", "closed", "office", "direct", "switch"}
    assert set(virsh(host, "net-list --name").split()) >= names
    started = set(virsh(host, "net-list --autostart --all --name").split())
    assert started & names == names - {"direct"}
    assert "<forward mode='nat'" in virsh(host, "net-dumpxml lan")
    assert bridged(host, "lan")
    assert "masquerade" in host.out("sudo nft list ruleset; sudo iptables-save -t nat").lower()


def bridged(host: Host, network: str) -> bool:
    bridge = virsh(host, f"net-info {network} | awk '/Bridge/{{print $2}}'")
    return "10.20.0.1/24" in host.out(f"ip -br address show dev {bridge}")


def test_a_second_run_changes_nothing(ansible: Ansible, done: Run, hosts: list[Host]) -> None:
    del done
    run = ansible.plays(plays(LAN, *OTHERS), "--diff")
    assert run.changed() == {}, run.output
    for host in hosts:
        assert run.of("kvm_networks", host.name)["pending"] == []


@pytest.fixture(scope="module")
def guest(ansible: Ansible, done: Run) -> Run:
    del done
    return ansible.playbook("guests", kvm_guest_specs=[GUEST])


def test_a_guest_gets_the_address_that_is_kept_for_it(guest: Run, host: Host) -> None:
    (found,) = guest.of("kvm_guests", host.name)["guests"]
    assert WEB_LEASE["ip"] in found["addresses"]


def test_ports_of_a_switch_have_their_tags(guest: Run, host: Host) -> None:
    del guest
    ports = host.out("sudo ovs-vsctl list-ports ovs0").split()
    assert len(ports) == 2
    asked = [host.out(f"sudo ovs-vsctl get port {port} tag trunks").split("\n") for port in ports]
    assert sorted(asked) == [["42", "[]"], ["[]", "[42, 43]"]]


DB_LEASE = {"mac": "02:00:00:00:00:22", "name": "db", "ip": "10.20.0.22"}
CHANGED: dict[str, Any] = {
    **LAN,
    "dns": {"hosts": [*LAN["dns"]["hosts"], {"ip": "10.20.0.77", "names": ["new.lan.test"]}]},
    "ips": [
        {
            **LAN["ips"][0],
            "dhcp": {
                "ranges": [{"start": "10.20.0.50", "end": "10.20.0.90"}],
                "hosts": [WEB_LEASE, DB_LEASE],
            },
        },
        LAN["ips"][1],
    ],
}


def test_leases_and_names_change_while_it_runs(
    ansible: Ansible, guest: Run, hosts: list[Host]
) -> None:
    del guest
    planned = ansible.plays(plays(CHANGED), "--check")
    run = ansible.plays(plays(CHANGED))
    assert ansible.plays(plays(CHANGED)).changed() == {}
    for host in hosts:
        assert verbs(run, host) == ["network/lan update live"]
        assert verbs(planned, host) == ["network/lan update live"]
        assert run.of("kvm_networks", host.name)["pending"] == []
        for inactive in ("", "--inactive"):
            xml = virsh(host, f"net-dumpxml lan {inactive}")
            for text in ("10.20.0.77", "10.20.0.22", "10.20.0.50", "10.20.0.21"):
                assert text in xml, (text, inactive)
            assert "10.20.0.100" not in xml
        said = in_guest(host, "web", "nslookup new.lan.test 10.20.0.1")
        assert "10.20.0.77" in said


def test_what_waits_is_told_and_done_with_guests_kept_connected(
    ansible: Ansible, guest: Run, hosts: list[Host]
) -> None:
    del guest
    wide = {**CHANGED, "mtu": 1400}
    run = ansible.plays(plays(wide))
    for host in hosts:
        assert verbs(run, host) == ["network/lan update next_boot"]
        (pending,) = run.of("kvm_networks", host.name)["pending"]
        assert pending["kind"] == "restart_required"
        assert "1400" not in virsh(host, "net-dumpxml lan")
    run = ansible.plays(plays({**wide, "restart": True}))
    for host in hosts:
        assert verbs(run, host) == ["network/lan restart now"]
        assert "<mtu size='1400'/>" in virsh(host, "net-dumpxml lan")
        # Its port takes twice the bridge's delay until it forwards.
        script = "for n in 1 2 3 4 5 6 7 8; do ping -c 1 -W 2 10.20.0.1 && break; done"
        assert "1 packets received" in in_guest(host, "web", script)
    again = ansible.plays(plays({**wide, "restart": True}))
    assert again.changed() == {}


def test_what_guests_are_on_is_not_taken_away(ansible: Ansible, guest: Run, some: Host) -> None:
    del guest
    gone = plays({"name": "lan", "state": "absent"})
    run = ansible.plays(gone, "--limit", some.name, status=2)
    assert "guests run on it: web" in "\n".join(run.messages(some.name))
    assert "lan" in virsh(some, "net-list --name").split()


def test_bad_input_is_told_at_once_and_nothing_is_touched(
    ansible: Ansible, done: Run, some: Host
) -> None:
    del done
    before = seen(some)
    wrong: list[dict[str, Any]] = [
        {"name": "a", "mode": "nat", "ips": [{"address": "10.20.0.5", "prefix": 25}]},
        {"name": "b", "mode": "bridge", "bridge": "host7"},
        {"name": "c", "mode": "isolated", "bridge": "closed0"},
    ]
    run = ansible.plays(plays(*wrong), "--limit", some.name, status=2)
    (message,) = run.messages(some.name)
    assert "which meets 10.20.0.0/24 of the network lan" in message
    assert "a network device that is there, found 'host7'" in message
    assert "which the network closed has" in message
    assert seen(some) == before


@pytest.mark.one_of("a reboot")
def test_they_are_back_after_a_reboot(done: Run, some: Host) -> None:
    del done
    some.reboot()
    bridge(some)
    assert {"lan", "routed", "closed"} <= set(virsh(some, "net-list --name").split())


def test_the_way_back_leaves_none_of_them(ansible: Ansible, done: Run, hosts: list[Host]) -> None:
    del done
    gone = {"kvm_guest_specs": [GUEST], "kvm_guest_state": "absent", "kvm_guest_force": True}
    ansible.playbook("guests", **gone)
    ansible.plays(plays(CHANGED, *OTHERS), kvm_network_state="absent")
    for host in hosts:
        assert set(virsh(host, "net-list --all --name").split()) == {"default"}
        assert json.loads(host.out("ip -j link show host0"))[0]["ifname"] == "host0"
    again = ansible.plays(plays(CHANGED, *OTHERS), kvm_network_state="absent")
    assert again.changed() == {}
