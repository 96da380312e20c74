# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands of the way back."""

from __future__ import annotations

import pytest
from ansible.module_utils.system.network import snapshot
from ansible.module_utils.system.network.observe import Address


def text(run):
    return " ".join(run.argv)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (
            {"kind": "bridge"},
            "ip link add name x0 address 02:00:00:00:00:02 type bridge stp_state 0",
        ),
        (
            {"kind": "bridge", "stp": True, "vlan_filtering": True, "mac": ""},
            "ip link add name x0 type bridge vlan_filtering 1 stp_state 1",
        ),
        (
            {"kind": "bond", "mode": "802.3ad", "miimon": 100},
            "ip link add name x0 address 02:00:00:00:00:02 type bond mode 802.3ad miimon 100",
        ),
        (
            {"kind": "vlan", "link": "eth0", "id": 5},
            "ip link add link eth0 name x0 type vlan id 5",
        ),
    ],
)
def test_a_link_is_made_as_it_was(made, more, expected):
    assert text(snapshot.add_link(made.link("x0", **more))) == expected


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (Address("192.0.2.5/24"), "192.0.2.5/24 dev x"),
        (
            Address("192.0.2.5/24", True, 400, 300, True),
            "192.0.2.5/24 dev x valid_lft 400 preferred_lft 300 noprefixroute",
        ),
        (Address("192.0.2.5/24", True, 400), "192.0.2.5/24 dev x valid_lft 400 preferred_lft 400"),
        (Address("2001:db8::5/64"), "2001:db8::5/64 dev x nodad"),
    ],
)
def test_an_address_is_given_as_it_was(address, expected):
    assert text(snapshot.add_address("x", address)) == f"ip address replace {expected}"


@pytest.mark.parametrize(
    ("route", "expected"),
    [
        (
            {
                "family": 4,
                "dst": "default",
                "gateway": "192.0.2.1",
                "dev": "x",
                "protocol": "static",
            },
            "-4 route replace default via 192.0.2.1 dev x proto static",
        ),
        (
            {
                "family": 4,
                "type": "unicast",
                "dst": "192.0.2.0/24",
                "dev": "x",
                "scope": "link",
                "prefsrc": "192.0.2.5",
                "metric": 100,
                "flags": ["onlink", "linkdown"],
            },
            "-4 route replace 192.0.2.0/24 dev x onlink src 192.0.2.5 metric 100 scope link",
        ),
        (
            {
                "family": 6,
                "dst": "default",
                "gateway": "fe80::1",
                "dev": "x",
                "scope": "global",
                "expires": 1795.5,
            },
            "-6 route replace default via fe80::1 dev x expires 1795",
        ),
        (
            {"family": 4, "type": "blackhole", "dst": "198.51.100.0/24"},
            "-4 route replace blackhole 198.51.100.0/24",
        ),
        (
            {
                "family": 4,
                "dst": "default",
                "via": {"family": "inet6", "host": "fe80::1"},
                "dev": "x",
            },
            "-4 route replace default via inet6 fe80::1 dev x",
        ),
        (
            {
                "family": 4,
                "dst": "default",
                "nexthops": [
                    {"gateway": "192.0.2.1", "dev": "x", "weight": 1},
                    {"gateway": "192.0.2.2", "dev": "y", "weight": 3},
                ],
            },
            (
                "-4 route replace default nexthop via 192.0.2.1 dev x weight 1"
                " nexthop via 192.0.2.2 dev y weight 3"
            ),
        ),
    ],
)
def test_a_route_is_given_as_it_was(route, expected):
    assert text(snapshot.add_route(route)) == f"ip {expected}"


def test_a_change_of_everything_is_undone_in_the_right_order(made):
    live = made.live(
        made.link("bond0", kind="bond", mode="802.3ad", miimon=100, addresses=["192.0.2.5/24"]),
        made.link("eth1", master="bond0", mtu=9000),
        made.link("bond0.5", kind="vlan", link="bond0", id=5, up=False),
        made.link("other"),
        routes=[
            made.route("default", "bond0", "192.0.2.1"),
            made.route("192.0.2.0/24", "bond0"),
            made.route("203.0.113.0/24", "other"),
        ],
    )
    runs = snapshot.former(live, ["eth1", "bond0", "unknown"], ["br0", "br1"], {"bond0", "bond0.5"})
    found = [text(run)[3:] for run in runs if "flush" not in run.argv]
    assert found == [
        "link delete dev br1",
        "link delete dev br0",
        "link add name bond0 address 02:00:00:00:00:05 type bond mode 802.3ad miimon 100",
        "link add link bond0 name bond0.5 type vlan id 5",
        "link set dev bond0 mtu 1500",
        "link set dev bond0 up",
        "address replace 192.0.2.5/24 dev bond0",
        "link set dev bond0.5 mtu 1500",
        "link set dev bond0.5 down",
        "link set dev eth1 down",
        "link set dev eth1 master bond0",
        "link set dev eth1 mtu 9000",
        "link set dev eth1 up",
        "-4 route replace 192.0.2.0/24 dev bond0",
        "-4 route replace default via 192.0.2.1 dev bond0",
    ]
    flushed = {run.argv[run.argv.index("dev") + 1] for run in runs if "flush" in run.argv}
    assert flushed == {"eth1"}, "what is made anew has nothing"


def test_what_was_a_port_of_nobody_is_so_again(made):
    live = made.live(made.link("eth0", addresses=["192.0.2.5/24"]))
    assert [text(run) for run in snapshot.former(live, ["eth0"])] == [
        "ip link set dev eth0 nomaster",
        "ip link set dev eth0 mtu 1500",
        "ip address flush dev eth0 scope global",
        "ip address flush dev eth0 scope site",
        "ip -6 route flush dev eth0 proto boot",
        "ip link set dev eth0 up",
        "ip address replace 192.0.2.5/24 dev eth0",
    ]


def test_only_routes_that_there_are_are_flushed(made):
    routes = [made.route("default", "eth0", "fe80::1", protocol=by) for by in ("ra", "kernel")]
    live = made.live(made.link("eth0"), routes=routes)
    assert [text(run) for run in snapshot.flush_all("eth0", live)][2:] == [
        "ip -6 route flush dev eth0 proto ra"
    ]


@pytest.mark.parametrize(
    ("route", "noprefixroute", "expected"),
    [
        (("2001:db8::/64", "eth0", None, "kernel"), False, False),
        (("2001:db8::/64", "eth0", None, "kernel"), True, True),
        (("192.0.2.0/24", "eth0", None, "kernel"), False, True),
        (("default", "eth0", "fe80::1", "ra"), False, True),
        (("default", "eth1", "192.0.2.1", "dhcp"), False, True),
        (("default", "eth1", "fe80::1", "ra"), False, False),
        (("198.51.100.0/24", "eth1", "192.0.2.7", "static"), False, False),
    ],
)
def test_routes_that_a_change_can_take_away_come_back(made, route, noprefixroute, expected):
    dst, dev, gateway, protocol = route
    address = Address("2001:db8::5/64", noprefixroute=noprefixroute)
    live = made.live(
        made.link("eth0", addresses=[address]),
        made.link("eth1"),
        routes=[made.route(dst, dev, gateway, protocol=protocol)],
    )
    assert bool(snapshot.routes(live, ["eth0"])) is expected


def test_a_port_of_a_filtering_bridge_carries_its_vlans_again(made):
    live = made.live(
        made.link("br0", kind="bridge", vlan_filtering=True, stp=False),
        made.link("eth0", master="br0", vlans=((1, 4094),)),
    )
    found = [text(run) for run in snapshot.former(live, ["br0", "eth0"])]
    assert "ip link set dev br0 type bridge vlan_filtering 1" in found
    assert found.index("ip link set dev eth0 master br0") + 1 == found.index(
        "bridge vlan add dev eth0 vid 2-4094"
    )


def test_a_kernel_without_the_filter_may_refuse_it(made):
    bridge = made.link("br0", kind="bridge", vlan_filtering=False, stp=False)
    assert snapshot.settings(bridge)[-1].ok == tuple(range(256))
