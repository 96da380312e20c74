# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which filter a NIC gets by itself: new ones on bridges, and those that have one of ours."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from ansible.module_utils.guest.libvirt.antispoofing import guarded
from ansible.module_utils.seed.declaration import Declaration
from ansible.module_utils.virt.nic import ANTISPOOF, ANTISPOOF_IP

MAC = "02:00:00:00:00:01"
ALONE = {"filter": ANTISPOOF}


def leads(network):
    return network == "office"


def nics(stated, seen=None, possible=True):
    return guarded({"name": "web", **stated}, seen, leads, lambda: possible)["nics"]


def there(name, *parameters):
    """Return a guest with one NIC that has this filter."""
    nic = {"mac": MAC, "bridge": "br0"}
    if name:
        nic.update({"filter": name, "filter_parameters": {"IP": list(parameters)}})
    return SimpleNamespace(spec={"nics": [nic]})


def seed(*ips, **more):
    return {"cloud_init": Declaration(ips=ips, **more)}


@pytest.mark.parametrize(
    ("nic", "wanted"),
    [
        ({"bridge": "br0"}, ALONE),
        ({"network": "office"}, ALONE),
        ({"network": "lan"}, {}),
        ({"user": True}, {}),
        ({"direct": "eth0"}, {}),
        ({"bridge": "br0", "filter": None}, {}),
        ({"bridge": "br0", "filter": "clean-traffic"}, {}),
        ({"bridge": "br0", "virtualport": {"type": "openvswitch"}}, {}),
    ],
)
def test_a_new_nic_on_a_bridge_of_the_host_is_guarded(nic, wanted):
    assert nics({"nics": [nic]}) == [{**nic, **wanted}]


@pytest.mark.parametrize(
    ("ip", "addresses"),
    [
        ({"addresses": ["192.0.2.7/24"]}, "192.0.2.7"),
        ({"addresses": ["192.0.2.7/24", "2001:db8::7/64"]}, "192.0.2.7"),
        ({"addresses": ["192.0.2.7/24", "192.0.2.8/24"]}, ["192.0.2.7", "192.0.2.8"]),
        ({"addresses": ["192.0.2.7/24"], "dhcp4": True}, None),
        ({"addresses": ["2001:db8::7/64"]}, None),
        ({"dhcp4": True}, None),
        (None, None),
    ],
)
def test_its_addresses_are_guarded_where_the_declaration_has_all_of_them(ip, addresses):
    (nic,) = nics({"nics": [{"bridge": "br0"}], **seed(ip)})
    named = {"filter": ANTISPOOF_IP, "filter_parameters": {"IP": addresses}}
    assert nic == {"bridge": "br0", **(named if addresses else ALONE)}


def test_a_network_config_of_its_own_tells_no_addresses():
    (nic,) = nics({"nics": [{"bridge": "br0"}], **seed(network_config={"version": 2})})
    assert nic["filter"] == ANTISPOOF


@pytest.mark.parametrize("has", ["", "clean-traffic"])
def test_what_a_nic_has_stays(has):
    stated = {"nics": [{"bridge": "br0"}], **seed({"addresses": ["192.0.2.7/24"]})}
    assert nics(stated, there(has)) == stated["nics"]


def test_one_of_ours_follows_the_declaration():
    moved = {"nics": [{"bridge": "br0"}], **seed({"addresses": ["192.0.2.9/24"]})}
    (nic,) = nics(moved, there(ANTISPOOF_IP, "192.0.2.7"))
    assert nic["filter_parameters"] == {"IP": "192.0.2.9"}
    leased = {"nics": [{"bridge": "br0"}], **seed({"dhcp4": True})}
    (nic,) = nics(leased, there(ANTISPOOF_IP, "192.0.2.7"))
    assert (nic["filter"], nic["filter_parameters"]) == (ANTISPOOF, None)
    unsaid = {"nics": [{"bridge": "br0"}]}
    assert nics(unsaid, there(ANTISPOOF_IP, "192.0.2.7")) == unsaid["nics"]


def test_a_second_nic_of_a_guest_that_is_there_is_new():
    stated = {"nics": [{"bridge": "br0"}, {"bridge": "br1"}]}
    assert nics(stated, there("")) == [{"bridge": "br0"}, {"bridge": "br1", **ALONE}]


def test_where_there_are_no_filters_nothing_is_stated():
    stated = {"nics": [{"bridge": "br0"}]}
    assert nics(stated, possible=False) == stated["nics"]
    assert guarded({"name": "x"}, None, leads, lambda: True) == {"name": "x"}
