# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every mistake that can be seen without a host is named by its path, and all of them at once."""

from __future__ import annotations

import pytest
from ansible.module_utils.converge.errors import InputError
from ansible.module_utils.system.network.order import cycle, ordered
from ansible.module_utils.system.network.spec import Interface, parse

BR = {"name": "br0", "type": "bridge"}
VLAN = {"name": "v5", "type": "vlan", "link": "eth0", "id": 5}
BOND = {"name": "bond0", "type": "bond", "ports": ["eth0", "eth1"]}
ETH = {"name": "eth0", "type": "ethernet"}


def paths(*declared):
    with pytest.raises(InputError) as caught:
        parse(declared)
    return [problem.path for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("declared", "path"),
    [
        ({**BR, "name": "a" * 16}, "name"),
        ({**BR, "name": ""}, "name"),
        ({**BR, "name": "a/b"}, "name"),
        ({**BR, "name": "a b"}, "name"),
        ({**BR, "name": "br0\n"}, "name"),
        ({**BR, "name": ".."}, "name"),
        ({**BR, "name": "-br"}, "name"),
        ({**BR, "name": "lo"}, "name"),
        ({**BR, "name": "all"}, "name"),
        ({**BR, "ports": ["x;y"]}, "ports[0]"),
        ({**BR, "ports": ["eth0", "eth0"]}, "ports"),
        ({**BR, "mode": "802.3ad"}, "mode"),
        ({**BR, "miimon": 100}, "miimon"),
        ({**BR, "id": 5}, "id"),
        ({**BR, "link": "eth0"}, "link"),
        ({**ETH, "ports": ["eth1"]}, "ports"),
        ({**ETH, "stp": True}, "stp"),
        ({**ETH, "vlan_filtering": True}, "vlan_filtering"),
        ({**VLAN, "link": None}, "link"),
        ({**VLAN, "link": "e/0"}, "link"),
        ({**VLAN, "id": None}, "id"),
        ({**VLAN, "id": 0}, "id"),
        ({**VLAN, "id": 4095}, "id"),
        ({**BOND, "ports": None}, "ports"),
        ({**BOND, "ports": []}, "ports"),
        ({**BOND, "mode": "fast"}, "mode"),
        ({**BOND, "miimon": -1}, "miimon"),
        ({**BR, "mtu": 67}, "mtu"),
        ({**BR, "mtu": 65536}, "mtu"),
        ({**BR, "mtu": 1279, "addresses": ["2001:db8::1/64"]}, "mtu"),
        ({**BR, "addresses": ["192.0.2.5"]}, "addresses[0]"),
        ({**BR, "addresses": ["192.0.2.5/33"]}, "addresses[0]"),
        ({**BR, "addresses": ["192.0.2.0/24"]}, "addresses[0]"),
        ({**BR, "addresses": ["192.0.2.255/24"]}, "addresses[0]"),
        ({**BR, "addresses": ["224.0.0.1/24"]}, "addresses[0]"),
        ({**BR, "addresses": ["::/64"]}, "addresses[0]"),
        ({**BR, "addresses": ["192.0.2.5/24", "192.0.2.5/24"]}, "addresses[1]"),
        ({**BR, "addresses": ["192.0.2.5/24"], "gateway": ["198.51.100.1"]}, "gateway[0]"),
        ({**BR, "addresses": ["192.0.2.5/24"], "gateway": ["192.0.2.5"]}, "gateway[0]"),
        ({**BR, "gateway": ["192.0.2.1"]}, "gateway[0]"),
        ({**BR, "addresses": ["192.0.2.5/24"], "gateway": ["router"]}, "gateway[0]"),
        (
            {**BR, "addresses": ["192.0.2.5/24"], "gateway": ["192.0.2.1", "192.0.2.2"]},
            "gateway[1]",
        ),
        ({**BR, "dns": ["192.0.2.1", "resolver"]}, "dns[1]"),
    ],
)
def test_a_mistake_in_one_interface(declared, path):
    assert paths(declared) == [f"interfaces[0].{path}"]


@pytest.mark.parametrize(
    ("declared", "path"),
    [
        ([BR, BR], "[1].name"),
        ([{**BR, "ports": ["eth0"]}, {**BR, "name": "br1", "ports": ["eth0"]}], "[1].ports[0]"),
        (
            [{**BR, "ports": ["eth0"]}, {**ETH, "addresses": ["192.0.2.5/24"]}],
            "[0].ports[0]",
        ),
        ([{**BR, "ports": ["eth0"]}, {**ETH, "dhcp": True}], "[0].ports[0]"),
        ([{**BOND, "ports": ["v5"]}, VLAN], "[0].ports[0]"),
        ([{**BR, "ports": ["v5"]}, {**VLAN, "state": "absent"}], "[0]"),
        ([{**BR, "ports": ["v5"]}, {**VLAN, "link": "br0"}], "[0]"),
        ([{**VLAN, "mtu": 9000}, {**ETH, "mtu": 1500}], "[0].mtu"),
        (
            [
                {**BR, "addresses": ["192.0.2.5/24"]},
                {**ETH, "addresses": ["192.0.2.130/25"]},
            ],
            "[1].addresses[0]",
        ),
        (
            [
                {**BR, "addresses": ["2001:db8::5/64"]},
                {**ETH, "addresses": ["2001:db8::6/64"]},
            ],
            "[1].addresses[0]",
        ),
        (
            [
                {**BR, "addresses": ["192.0.2.5/24"], "gateway": ["192.0.2.1"]},
                {**ETH, "addresses": ["198.51.100.5/24"], "gateway": ["198.51.100.1"]},
            ],
            "[1].gateway",
        ),
    ],
)
def test_a_mistake_between_interfaces(declared, path):
    assert paths(*declared) == [f"interfaces{path}"]


def test_all_mistakes_are_told_at_once():
    assert paths({**VLAN, "id": 5000}, {**BR, "mtu": 1}, {**BOND, "miimon": 70000}) == [
        "interfaces[0].id",
        "interfaces[1].mtu",
        "interfaces[2].miimon",
    ]


@pytest.mark.parametrize(
    "declared",
    [
        {**BR, "name": "a" * 15},
        {**BR, "addresses": ["192.0.2.5/24", "192.0.2.6/24", "2001:db8::5/64"]},
        {**BR, "addresses": ["192.0.2.4/31"]},
        {**BR, "addresses": ["2001:db8::5/64"], "gateway": ["fe80::1"]},
        {**BR, "addresses": ["192.0.2.5/24"], "gateway": ["192.0.2.1"]},
        {**BR, "state": "absent"},
        {"name": "x", "type": "vlan", "state": "absent"},
        {**VLAN, "id": 4094, "name": "eth0.4094"},
        {**BOND, "mode": "802.3ad", "miimon": 100, "mtu": 9000},
    ],
)
def test_what_is_right_is_taken_as_it_is(declared):
    assert parse([declared]) == [Interface.from_dict(declared)]


def test_what_is_not_stated_any_more_is_kept_and_an_empty_list_takes_away():
    earlier = Interface("br0", "bridge", ports=("eth0",), mtu=9000, addresses=("192.0.2.5/24",))
    later = Interface("br0", "bridge", addresses=()).over(earlier)
    assert later == Interface("br0", "bridge", ports=("eth0",), mtu=9000, addresses=())
    assert Interface("br0", "bond").over(earlier) == Interface("br0", "bond")


def test_an_interface_survives_its_plain_values():
    interface = Interface("br0", "bridge", ports=("eth0",), stp=False, mac="02:00:00:00:00:01")
    assert Interface.from_dict(interface.to_dict()) == interface


def test_what_is_used_comes_first():
    uses = {"br0": ["bond0.5"], "bond0.5": ["bond0"], "bond0": ["eth0", "eth1"]}
    assert ordered(uses) == ["bond0", "bond0.5", "br0"]
    assert cycle(uses) == []
    assert cycle({"a": ["b"], "b": ["c"], "c": ["b"]}) == ["b", "c", "b"]
