# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What may be stated of a guest's first boot, and what is told of the rest."""

from __future__ import annotations

import pytest
from ansible.module_utils.seed.declaration import Declaration, read

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJv0 ops@desk"


def told(value, ips=None):
    problems = []
    read(value, ips, "guests[0]", problems)
    return [str(problem) for problem in problems]


def test_nothing_need_be_stated():
    problems = []
    assert read({}, None, "guests[0]", problems) == Declaration()
    assert read(None, [None], "guests[0]", problems) is None
    assert problems == []


@pytest.mark.parametrize(
    "value",
    [
        {"user": "ops", "ssh_keys": KEY},
        {"ssh_keys": [KEY, "ecdsa-sha2-nistp256 AAAA=", 'command="true" ssh-rsa AAAA x y']},
        {"ssh_keys": "sk-ssh-ed25519@openssh.com AAAA me"},
        {"hostname": "web1.example.org", "instance_id": "two"},
        {
            "user_data": "#!/bin/sh\necho hello\n",
            "vendor_data": "## template: jinja\n#cloud-config\n",
        },
        {"user_data": {"packages": ["nginx"]}, "meta_data": {"public-keys": [KEY]}},
        {"network_config": {"ethernets": {}}},
        {"network_config": {"network": {"version": 2, "ethernets": {}}}},
        {"bus": "sata"},
    ],
)
def test_what_cloud_init_takes_is_taken(value):
    assert told(value) == []


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("yes", "guests[0].cloud_init: expected a mapping, {} for defaults alone, found str"),
        ({"userdata": {}}, "did you mean user_data?"),
        ({"user": "Ops"}, "guests[0].cloud_init.user: expected a user's name, found 'Ops'"),
        ({"hostname": "web_1"}, "guests[0].cloud_init.hostname: expected lower-case letters"),
        ({"hostname": "web."}, "guests[0].cloud_init.hostname"),
        ({"instance_id": 2}, "guests[0].cloud_init.instance_id: expected text, found 2: quote it"),
        ({"ssh_keys": {}}, "guests[0].cloud_init.ssh_keys: expected a list of SSH public keys"),
        ({"ssh_keys": ["/root/.ssh/id"]}, "guests[0].cloud_init.ssh_keys[0]: expected an SSH"),
        ({"user_data": "packages: [nginx]"}, "found text that does not: state cloud-config as a"),
        ({"user_data": ["x"]}, "guests[0].cloud_init.user_data: expected a mapping"),
        ({"meta_data": {1: 2}}, "guests[0].cloud_init.meta_data: expected a mapping with names"),
        ({"network_config": {"version": 1}}, "network_config.version: expected 2, found 1"),
        ({"network_config": {"network": None}}, "network_config.version: expected 2"),
        ({"bus": "nvme"}, "guests[0].cloud_init.bus: expected a bus"),
        ({"bus": ["sata"]}, "guests[0].cloud_init.bus: expected a bus"),
        (
            {"user_data": "#!/bin/sh\n", "user": "ops"},
            "guests[0].cloud_init.user: expected none beside a user_data of text",
        ),
        (
            {"instance_id": "a", "meta_data": {"instance-id": "b"}},
            "guests[0].cloud_init.instance_id: expected none beside instance-id in meta_data",
        ),
    ],
)
def test_what_is_wrong_is_told_where_it_stands(value, message):
    (found,) = told(value)
    assert message in found


def test_a_private_key_is_not_repeated():
    (found,) = told({"ssh_keys": ["-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNza"]})
    assert found.endswith("found a private key")


@pytest.mark.parametrize(
    ("ip", "message"),
    [
        ([], "guests[0].nics[1].ip: expected a mapping"),
        ({"address": "192.0.2.1/24"}, "did you mean addresses?"),
        ({"addresses": "192.0.2.1/24"}, "nics[1].ip.addresses: expected a list of addresses"),
        ({"addresses": ["192.0.2.1"]}, "nics[1].ip.addresses[0]: expected an address with its"),
        ({"addresses": ["192.0.2.256/24"]}, "nics[1].ip.addresses[0]: expected an address"),
        ({"addresses": [7]}, "nics[1].ip.addresses[0]: expected an address"),
        ({"gateway4": "2001:db8::1"}, "nics[1].ip.gateway4: expected an IPv4 address"),
        ({"gateway6": None}, "nics[1].ip.gateway6: expected an IPv6 address, found None"),
    ],
)
def test_addresses_are_read(ip, message):
    (found,) = told({}, [None, ip])
    assert message in found


def test_the_network_is_stated_in_one_place():
    (found,) = told({"network_config": {"ethernets": {}}}, [{"dhcp4": True}])
    assert "guests[0].cloud_init.network_config: expected none beside the ip of a NIC" in found
    assert told({"network_config": {"ethernets": {}}}, [None]) == []
