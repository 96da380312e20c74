# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role kvm_network: the very interface that SSH comes by becomes a bridge, and comes back."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from virtlab.host import Host

if TYPE_CHECKING:
    from playing import Ansible, Run
    from virtlab.lab import Lab

pytestmark = [pytest.mark.sampled, pytest.mark.module_of("the lab")]

# Debian 12 is set up with ifupdown here, Debian 13 with systemd-networkd.
INTERFACES: list[dict[str, Any]] = [
    {
        "name": "br0",
        "type": "bridge",
        "ports": ["enp0s2"],
        "vlan_filtering": True,
        "addresses": ["10.0.2.15/24"],
        "gateway": ["10.0.2.2"],
    },
    {
        "name": "bond0",
        "type": "bond",
        "mode": "active-backup",
        "ports": ["enp0s3"],
        "mtu": 1400,
        "addresses": ["{{ lab_address }}/24"],
    },
    {
        "name": "bond0.20",
        "type": "vlan",
        "link": "bond0",
        "id": 20,
        "addresses": ["{{ lab_address | replace('10.77', '10.78') }}/24"],
    },
]
STATED: dict[str, Any] = {
    "kvm_network_interfaces": INTERFACES,
    "kvm_network_adopt": True,
    "kvm_network_bridge_netfilter": False,
}


def network(host: Host) -> dict[str, Any]:
    """Return what ip says of links, addresses and routes, without what passes by itself."""
    links = json.loads(host.out("ip -j -d link"))
    addresses = json.loads(host.out("ip -j -4 address"))
    routes = json.loads(host.out("ip -j -4 route"))
    return {
        "links": sorted(
            (link["ifname"], link.get("master"), link["mtu"], link["address"]) for link in links
        ),
        "addresses": sorted(
            (item["ifname"], address["local"], address["prefixlen"])
            for item in addresses
            for address in item.get("addr_info", ())
        ),
        "routes": sorted((r["dst"], r.get("gateway", ""), r["dev"]) for r in routes),
    }


def files(host: Host) -> str:
    return host.out("sudo sh -c 'cd /etc && find network systemd/network -type f | xargs md5sum'")


@pytest.fixture(scope="module")
def former(hosts: list[Host]) -> dict[str, Any]:
    return {host.name: (network(host), files(host)) for host in hosts}


@pytest.fixture(scope="module")
def planned(ansible: Ansible, former: dict[str, Any]) -> Run:
    del former  # taken before
    return ansible.role("kvm_network", "--check", "--diff", **STATED)


@pytest.fixture(scope="module")
def done(ansible: Ansible, planned: Run) -> Run:
    del planned  # proven before anything is done
    return ansible.role("kvm_network", **STATED)


def objects(run: Run, host: str) -> list[tuple[str, str]]:
    found = run.of("kvm_host_network", host)["actions"]
    return [(action["object"], action["action"]) for action in found]


def test_check_mode_plans_and_touches_nothing(
    planned: Run, hosts: list[Host], former: dict[str, Any]
) -> None:
    assert set(planned.changed()) == {host.name for host in hosts}
    for host in hosts:
        assert (network(host), files(host)) == former[host.name]


def test_the_bridge_carries_the_session_and_the_bond_the_cable(
    planned: Run, done: Run, lab: Lab, hosts: list[Host], some: Host
) -> None:
    for host in hosts:
        assert objects(done, host.name) == objects(planned, host.name)
        now = network(host)
        assert ("br0", "10.0.2.15", 24) in now["addresses"]
        assert not [entry for entry in now["addresses"] if entry[0] in {"enp0s2", "enp0s3"}]
        assert ("default", "10.0.2.2", "br0") in now["routes"]
        masters = {name: master for name, master, *_ in now["links"]}
        assert (masters["enp0s2"], masters["enp0s3"]) == ("br0", "bond0")
        assert host.out("cat /sys/class/net/br0/bridge/vlan_filtering") == "1"
        assert host.out("cat /sys/class/net/bond0/bonding/mode").startswith("active-backup")
        assert host.out("cat /sys/class/net/bond0/mtu") == "1400"
    (other,) = (host for host in lab.hosts.values() if host is not some)
    cable = other.identity.cable_address
    tagged = cable.replace("10.77", "10.78")
    if other not in hosts:
        other.run("sudo ip link add link enp0s3 name tagged type vlan id 20")
        other.run(f"sudo ip link set tagged up && sudo ip address add {tagged}/24 dev tagged")
    for address in (cable, tagged):
        some.run(f"sudo ping -c 1 -W 5 {address}")


def test_a_second_run_changes_nothing(ansible: Ansible, done: Run) -> None:
    del done
    assert ansible.role("kvm_network", **STATED).changed() == {}


def test_a_changed_input_changes_just_that(ansible: Ansible, done: Run, some: Host) -> None:
    del done
    before = network(some)
    interfaces = [{**item, "mtu": 1450} if item["name"] == "bond0" else item for item in INTERFACES]
    stated = {**STATED, "kvm_network_interfaces": interfaces}
    run = ansible.role("kvm_network", "--limit", some.name, **stated)
    assert ("interface/bond0", "update") in objects(run, some.name)
    assert {name for name, _ in objects(run, some.name)} & {"interface/br0"} == set()
    assert some.out("cat /sys/class/net/bond0/mtu") == "1450"
    ansible.role("kvm_network", "--limit", some.name, **STATED)
    assert network(some) == before


def test_a_wrong_address_is_rolled_back(ansible: Ansible, done: Run, hosts: list[Host]) -> None:
    del done
    before = {host.name: (network(host), files(host)) for host in hosts}
    wrong = [
        {**item, "addresses": ["10.0.2.99/24"]} if item["name"] == "br0" else item
        for item in INTERFACES
    ]
    stated = {**STATED, "kvm_network_interfaces": wrong, "kvm_network_rollback_timeout": "15s"}
    run = ansible.role("kvm_network", status=2, **stated)
    for host in hosts:
        (message,) = run.messages(host.name)
        assert "rolled back: the host did not answer on 127.0.0.1 within 15 s" in message
        assert "its former network is back" in message
        host.ssh.forget_connections(host.name)
        assert (network(host), files(host)) == before[host.name]
    assert ansible.role("kvm_network", **STATED).changed() == {}


WRONG = [
    ({"name": "x" * 16, "type": "bridge"}, "interfaces[0].name"),
    ({"name": "br/0", "type": "bridge"}, "interfaces[1].name"),
    ({"name": "v9", "type": "vlan", "link": "enp0s3", "id": 4095}, "interfaces[2].id"),
    ({"name": "br9", "type": "bridge", "addresses": ["10.9.0.1"]}, "interfaces[3].addresses"),
]


@pytest.mark.parametrize(
    ("wrong", "messages"),
    [
        ([item for item, _ in WRONG], [message for _, message in WRONG]),
        ([{"name": "br8", "type": "bridge", "colour": "red"}], ["interfaces.colour"]),
        ([{"name": "br9", "type": "bridge", "ports": ["nope0"]}], ["nope0"]),
    ],
    ids=["nonsense", "unknown key", "not here"],
)
def test_bad_input_is_refused_before_anything_is_touched(
    ansible: Ansible, done: Run, some: Host, wrong: list[dict[str, Any]], messages: list[str]
) -> None:
    del done
    before = (network(some), files(some))
    run = ansible.role(
        "kvm_network",
        "--limit",
        some.name,
        status=2,
        **{**STATED, "kvm_network_interfaces": wrong},
    )
    for message in messages:
        assert message in "\n".join(run.messages(some.name))
    assert (network(some), files(some)) == before


@pytest.mark.one_of("a reboot")
def test_a_reboot_keeps_the_network(ansible: Ansible, done: Run, hosts: list[Host]) -> None:
    del done
    hosts = list(hosts)
    before = {host.name: network(host) for host in hosts}
    with ThreadPoolExecutor() as pool:
        list(pool.map(Host.reboot, hosts))
    for host in hosts:
        now, former = network(host), before[host.name]
        assert (now["addresses"], now["routes"]) == (former["addresses"], former["routes"])
        assert [link[:3] for link in now["links"]] == [link[:3] for link in former["links"]]
    assert ansible.role("kvm_network", **STATED).changed() == {}


def test_the_way_back_brings_the_former_network(
    ansible: Ansible, done: Run, hosts: list[Host], former: dict[str, Any]
) -> None:
    del done
    ansible.role("kvm_network", **STATED, kvm_network_state="absent")
    for host in hosts:
        host.ssh.forget_connections(host.name)
        assert network(host) == former[host.name][0]
        assert files(host) == former[host.name][1]
    again = ansible.role("kvm_network", **STATED, kvm_network_state="absent")
    assert again.changed() == {}
