# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What ip(8) and bridge(8) say, read into links and routes."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from ansible.module_utils.converge.errors import VirtfleetError
from ansible.module_utils.system.network.observe import FOREVER, Address, Link, read

ADDRESS = ("ip", "-json", "-details", "address", "show")
ROUTE4 = ("ip", "-json", "-details", "-4", "route", "show")
ROUTE6 = ("ip", "-json", "-details", "-6", "route", "show")
VLAN = ("bridge", "-json", "vlan", "show")

LINKS = [
    {
        "ifindex": 2,
        "ifname": "eth0",
        "flags": ["BROADCAST", "UP"],
        "mtu": 1500,
        "max_mtu": 9000,
        "address": "02:00:00:00:00:01",
        "master": "br0",
        "addr_info": [
            {
                "family": "inet",
                "local": "192.0.2.5",
                "prefixlen": 24,
                "scope": "global",
                "dynamic": True,
                "noprefixroute": True,
                "valid_life_time": 400,
                "preferred_life_time": 300,
            },
            {
                "family": "inet6",
                "local": "2001:db8::5",
                "prefixlen": 64,
                "scope": "global",
                "dynamic": True,
                "mngtmpaddr": True,
                "valid_life_time": 90,
                "preferred_life_time": 80,
            },
            {"family": "inet6", "local": "fe80::1", "prefixlen": 64, "scope": "link"},
        ],
    },
    {},
    {
        "ifname": "br0",
        "flags": [],
        "linkinfo": {"info_kind": "bridge", "info_data": {"stp_state": 1, "vlan_filtering": 1}},
    },
    {
        "ifname": "bond0",
        "linkinfo": {"info_kind": "bond", "info_data": {"mode": "802.3ad", "miimon": 100}},
    },
    {"ifname": "bond1", "linkinfo": {"info_kind": "bond", "info_data": {"mode": 1}}},
    {
        "ifname": "v5",
        "link": "eth0",
        "linkinfo": {"info_kind": "vlan", "info_data": {"protocol": "802.1Q", "id": 5}},
    },
]
VLANS = [
    {
        "ifname": "eth0",
        "vlans": [{"vlan": 1}, {"vlan": 2, "vlanEnd": 99}, {"vlan": 100, "vlanEnd": 4094}],
    },
    {"ifname": "br0", "vlans": [{"vlan": 1}, {"vlan": 7}]},
]


def runner(links, vlans=None):
    answers = {
        ADDRESS: links,
        ROUTE4: [{"dst": "default", "gateway": "192.0.2.1", "dev": "eth0"}],
        ROUTE6: [],
    }
    if vlans is not None:
        answers[VLAN] = vlans
    return lambda argv: (0, json.dumps(answers[tuple(argv)]), "")


def test_links_and_routes():
    live = read(runner(LINKS, VLANS))
    assert live.links["eth0"] == Link(
        name="eth0",
        kind="",
        index=2,
        up=True,
        mac="02:00:00:00:00:01",
        mtu=1500,
        max_mtu=9000,
        master="br0",
        addresses=(
            Address("192.0.2.5/24", True, 400, 300, True),
            Address("2001:db8::5/64", True, 90, 80, False, True),
        ),
        vlans=((1, 4094),),
    )
    bridge = live.links["br0"]
    assert (bridge.kind, bridge.up, bridge.stp, bridge.vlan_filtering) == (
        "bridge",
        False,
        True,
        True,
    )
    assert bridge.carries((7, 7))
    assert not bridge.carries((2, 4094))
    assert live.links["eth0"].carries((2, 4094))
    assert (live.links["bond0"].mode, live.links["bond0"].miimon) == ("802.3ad", 100)
    assert live.links["bond1"].mode == "active-backup"
    assert (live.links["v5"].id, live.links["v5"].link) == (5, "eth0")
    assert live.ports("br0") == ["eth0"]
    assert live.gateways("eth0") == ["192.0.2.1"]
    assert live.gateways("br0") == []
    assert live.routes[0]["family"] == 4
    announced = replace(live, routes=({**live.routes[0], "protocol": "ra"},))
    assert announced.gateways("eth0") == []


def test_without_a_filtering_bridge_nobody_asks_for_vlans():
    live = read(runner([LINKS[0]]))
    assert live.links["eth0"].vlans == ()
    assert live.links["eth0"].addresses[0].valid < FOREVER


def test_a_command_that_fails_is_named():
    with pytest.raises(
        VirtfleetError, match=r"ip -json .* status 127: not found: expected iproute2"
    ):
        read(lambda _: (127, "", "not found"))
