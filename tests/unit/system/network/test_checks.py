# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Mistakes that only the host can tell."""

from __future__ import annotations

import pytest
from ansible.module_utils.converge.errors import InputError
from ansible.module_utils.system.network.networkd import Networkd
from ansible.module_utils.system.network.plan import plan


def problems(made, observed, *stated, **more):
    with pytest.raises(InputError) as caught:
        plan(made.request(*stated, **more), observed)
    return [(p.path, str(p)) for p in caught.value.problems]


BR = {"name": "br0", "type": "bridge"}


@pytest.mark.parametrize(
    ("stated", "path", "part"),
    [
        ({**BR, "ports": ["eth9"]}, "ports[0]", "did you mean eth"),
        ({**BR, "ports": ["eth2"]}, "ports[0]", "eth2 is in virbr0"),
        ({"name": "eth9", "type": "ethernet"}, "name", "did you mean eth"),
        ({"name": "virbr0", "type": "ethernet"}, "type", "bridge, what virbr0 is"),
        ({"name": "eth2", "type": "bridge"}, "name", "eth2 is a network device"),
        ({"name": "virbr0", "type": "bond", "ports": ["eth1"]}, "name", "virbr0 is a bridge"),
        ({"name": "b", "type": "bond", "ports": ["virbr0"]}, "ports[0]", "a bridge"),
        ({"name": "v5", "type": "vlan", "link": "eth9", "id": 5}, "link", "did you mean eth"),
        ({**BR, "ports": ["eth1"], "mtu": 9001}, "mtu", "eth1 takes at most 9000"),
        ({"name": "eth1", "type": "ethernet", "mtu": 9001}, "mtu", "eth1 takes at most 9000"),
        ({"name": "v5", "type": "vlan", "link": "eth0", "id": 5, "mtu": 9000}, "mtu", "state eth0"),
        ({**BR, "ports": ["eth0"], "gateway": []}, "addresses", "192.0.2.5/24: state them"),
        ({**BR, "ports": ["eth0"], "addresses": []}, "gateway", "192.0.2.1: state it"),
        ({**BR, "stp": True}, "stp", "45s at least"),
    ],
)
def test_a_mistake_is_named_with_its_path(made, stated, path, part):
    observed = made.with_eth0()
    links = (
        *observed.live.links.values(),
        made.link("eth1", max_mtu=9000),
        made.link("eth2", master="virbr0"),
        made.link("virbr0", kind="bridge"),
    )
    observed = made.host(*links, routes=observed.live.routes)
    found = problems(made, observed, stated, timeout=44.0)
    assert [where for where, _ in found] == [f"interfaces[0].{path}"]
    assert part in found[0][1]


def test_all_of_them_at_once(made):
    found = problems(
        made,
        made.with_eth0(),
        {**BR, "ports": ["eth7", "eth0"]},
        {"name": "eth8", "type": "ethernet"},
    )
    assert [where for where, _ in found] == [
        "interfaces[0].ports[0]",
        "interfaces[0].addresses",
        "interfaces[0].gateway",
        "interfaces[1].name",
    ]


@pytest.mark.parametrize(
    "stated",
    [
        {**BR, "ports": ["eth0"], "addresses": [], "gateway": []},
        {**BR, "ports": ["eth0"], "dhcp": True},
        {"name": "v5", "type": "vlan", "link": "eth0", "id": 5},
    ],
)
def test_what_is_given_up_on_purpose_is_no_mistake(made, stated):
    assert plan(made.request(stated), made.with_eth0()).actions


def test_networkd_needs_the_carrier_of_a_vlan(made):
    vlan = {"name": "v5", "type": "vlan", "link": "eth0", "id": 5}
    observed = made.with_eth0(backend=Networkd())
    found = problems(made, observed, vlan)
    assert found[0][0] == "interfaces[0].link"
    assert plan(made.request(vlan, {"name": "eth0", "type": "ethernet"}), observed).actions


def test_what_is_generated_cannot_be_taken_over(made):
    path = "/run/systemd/network/10-netplan-eth0.network"
    observed = made.with_eth0(backend=Networkd(), files={path: "[Match]\nName=eth0\n"})
    found = problems(made, observed, made.BR0, adopt=True)
    assert found[0][0] == "interfaces[0].ports[0]"
    assert "take eth0 out of what generates it" in found[0][1]


def test_a_missing_line_has_no_interface_to_blame(made):
    observed = made.with_eth0(files={})
    found = problems(made, observed, made.BR0)
    assert found[0][0] == "interfaces"
    assert "/etc/network/interfaces" in found[0][1]
