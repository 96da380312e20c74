# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Networks: written as libvirt's schema has them, read back the same, contradictions told."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.module_utils.virt import network_rules
from ansible.module_utils.virt.document import Document, tree
from ansible.module_utils.virt.fields import Edits, check_fields, patch_fields, read_fields
from ansible.module_utils.virt.network import FIELDS
from schema import schema_of

LAN: dict[str, Any] = {
    "mode": "nat",
    "nat": {
        "address_start": "192.0.2.1",
        "address_end": "192.0.2.9",
        "port_start": 5000,
        "port_end": 6000,
    },
    "bridge": "br-lan",
    "stp": "off",
    "bridge_delay": 2,
    "mtu": 1400,
    "mac": "02:00:00:00:00:ff",
    "domain": "lan.test",
    "domain_local": True,
    "dns": {
        "forwarders": [{"address": "192.0.2.53"}, {"domain": "corp.test", "address": "192.0.2.54"}],
        "hosts": [{"ip": "10.0.0.7", "names": ["web.lan.test", "web"]}],
        "txt": {"about": "a lan"},
        "srv": [
            {
                "service": "ldap",
                "protocol": "tcp",
                "domain": "lan.test",
                "target": "dir.lan.test",
                "port": 389,
                "priority": 1,
                "weight": 2,
            }
        ],
    },
    "bandwidth": {"inbound": {"average": 1000, "peak": 5000, "burst": 1024}},
    "ips": [
        {
            "address": "10.0.0.1",
            "prefix": 24,
            "tftp_root": "/srv/tftp",
            "dhcp": {
                "ranges": [{"start": "10.0.0.100", "end": "10.0.0.199"}],
                "hosts": [
                    {"mac": "02:00:00:00:00:01", "name": "web", "ip": "10.0.0.7"},
                    {"mac": "02:00:00:00:00:02", "ip": "10.0.0.8"},
                ],
                "bootp": {"file": "pxelinux.0", "server": "10.0.0.1"},
            },
        },
        {
            "address": "fd00:1::1",
            "prefix": 64,
            "dhcp": {
                "ranges": [{"start": "fd00:1::100", "end": "fd00:1::1ff"}],
                "hosts": [{"id": "0:3:0:1:2:0:0:0:0:1", "name": "web", "ip": "fd00:1::7"}],
            },
        },
    ],
    "routes": [
        {"address": "10.9.0.0", "prefix": 16, "gateway": "10.0.0.2", "metric": 2},
        {"address": "fd00:9::", "prefix": 48, "gateway": "fd00:1::2"},
    ],
    "port_isolated": True,
}
SPECS: dict[str, dict[str, Any]] = {
    "nat": LAN,
    "route": {"mode": "route", "dev": "eth0", "ips": [{"address": "10.1.0.1", "prefix": 24}]},
    "open": {"mode": "open", "ips": [{"address": "10.1.0.1", "prefix": 24}]},
    "isolated": {"mode": "isolated", "ipv6": True, "dns": {"enable": False}},
    "bridge of the host": {
        "mode": "bridge",
        "bridge": "br0",
        "portgroups": [
            {
                "name": "slow",
                "default": True,
                "bandwidth": {"inbound": {"average": 100}, "outbound": {"average": 50}},
            },
            {"name": "fast"},
        ],
    },
    "macvtap": {"mode": "bridge", "interfaces": ["eth1", "eth2"]},
    "vepa": {"mode": "vepa", "interfaces": ["eth1"]},
    "passthrough": {"mode": "passthrough", "interfaces": ["eth1", "eth2"], "vlan": [42]},
    "open vswitch": {
        "mode": "bridge",
        "bridge": "ovsbr0",
        "virtualport": {"type": "openvswitch"},
        "portgroups": [
            {"name": "trunk", "vlan": [10, 20]},
            {"name": "one", "vlan": [30], "virtualport": {"type": "openvswitch"}},
        ],
    },
    "virtual functions": {"mode": "hostdev", "managed": True, "driver": "vfio", "pf": "eth3"},
    "functions by address": {
        "mode": "hostdev",
        "managed": True,
        "addresses": ["0000:03:10.0", "0000:03:10.1"],
    },
}


def checked(spec):
    problems = []
    stated = check_fields(FIELDS, spec, "networks[0]", problems)
    assert problems == []
    return stated


def written(spec, xml="<network>\n  <name>lan</name>\n</network>\n"):
    document = Document(xml, "network XML")
    patch_fields(document.root, FIELDS, spec, Edits(document.root, spec), "")
    return document.text()


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_a_network_is_written_as_libvirt_has_it_and_read_back(spec):
    stated = checked(spec)
    assert list(network_rules.contradictions(stated, "networks[0]")) == []
    xml = written(stated)
    assert schema_of("network").problems(xml) == []
    assert read_fields(tree(xml), FIELDS) == stated
    assert written(stated, xml) == xml


@pytest.mark.parametrize("former", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("spec", [SPECS["isolated"], SPECS["open"]], ids=["isolated", "open"])
def test_another_mode_leaves_nothing_of_the_former(former, spec):
    nothing = {key: None for key in former if key not in ("uuid", "mode")}
    xml = written(checked(spec), written(nothing, written(checked(former))))
    assert schema_of("network").problems(xml) == []
    assert read_fields(tree(xml), FIELDS) == checked(spec)


def test_a_netmask_is_a_prefix_and_becomes_one_when_it_changes():
    xml = "<network><name>d</name><ip address='10.0.0.1' netmask='255.255.255.0'/></network>"
    spec = {"ips": [{"address": "10.0.0.1", "prefix": 24}]}
    assert read_fields(tree(xml), FIELDS) == {"mode": "isolated", **spec}
    assert written(spec, xml) == xml
    other = written({"ips": [{"address": "10.0.0.1", "prefix": 16}]}, xml)
    assert "netmask" not in other
    assert 'prefix="16"' in other.replace("'", '"')


WHENS = [
    ({"ips": [{**LAN["ips"][0], "dhcp": {"ranges": []}}, LAN["ips"][1]]}, {"live"}),
    ({"dns": {"txt": {"about": "another"}}}, {"live"}),
    ({"dns": {"hosts": [{"ip": "10.0.0.7", "names": ["web"]}]}}, {"live"}),
    ({"portgroups": [{"name": "slow"}]}, {"live"}),
    ({"mtu": 9000}, {"next_boot"}),
    ({"ips": LAN["ips"][:1]}, {"next_boot"}),
    ({"uuid": "11111111-2222-4333-8444-555555555555"}, {"replace"}),
]


@pytest.mark.parametrize(("changed", "whens"), WHENS)
def test_when_a_change_takes_effect(changed, whens):
    root = tree(written(checked(LAN)))
    edits = Edits(root, changed)
    patch_fields(root, FIELDS, checked(changed), edits, "")
    assert {edit.when for edit in edits.found} == whens


def dhcp(**found):
    return {"mode": "nat", "ips": [{"address": "10.0.0.1", "prefix": 24, "dhcp": found}]}


WRONG = [
    (dhcp(ranges=[{"start": "10.0.0.5", "end": "10.0.1.9"}]), "an address in 10.0.0.0/24"),
    (dhcp(ranges=[{"start": "10.0.0.9", "end": "10.0.0.5"}]), "10.0.0.9 or a later one"),
    (dhcp(ranges=[{"start": "10.0.0.1", "end": "10.0.0.5"}]), "the network's own address"),
    (
        dhcp(
            ranges=[
                {"start": "10.0.0.5", "end": "10.0.0.9"},
                {"start": "10.0.0.9", "end": "10.0.0.12"},
            ]
        ),
        "which meets networks[0].ips[0].dhcp.ranges[0]",
    ),
    (dhcp(hosts=[{"mac": "02:00:00:00:00:01", "ip": "10.0.7.7"}]), "an address in 10.0.0.0/24"),
    (dhcp(hosts=[{"ip": "10.0.0.7"}]), "a mac, id or name"),
    (dhcp(hosts=[{"name": "a", "ip": "10.0.0.1"}]), "an address of its own"),
    (
        {
            "mode": "nat",
            "ips": [
                {"address": "10.0.0.1", "prefix": 24},
                {"address": "10.0.0.129", "prefix": 25},
            ],
        },
        "a subnet of its own",
    ),
    ({"mode": "nat", "ips": [{"address": "10.0.0.1", "prefix": 33}]}, "at most 32"),
    ({"mode": "bridge"}, "a bridge or interfaces"),
    ({"mode": "bridge", "bridge": "br0", "interfaces": ["eth0"]}, "none beside a bridge"),
    ({"mode": "bridge", "bridge": "br0", "ips": LAN["ips"]}, "no bridge of libvirt's own"),
    ({"mode": "bridge", "bridge": "br0", "vlan": [3]}, "none on a plain bridge"),
    ({"mode": "hostdev"}, "a network device, or addresses"),
    ({"mode": "vepa"}, "the devices that macvtap is made on"),
    ({"mode": "nat", "nat": {"port_start": 2000}}, "nat.port_end: expected both ends"),
    ({"mode": "route", "nat": {"ipv6": True}}, "nothing in mode route"),
    (
        {
            "mode": "isolated",
            "portgroups": [{"name": "a", "default": True}, {"name": "b", "default": True}],
        },
        "one default group",
    ),
]


@pytest.mark.parametrize(("spec", "message"), WRONG)
def test_a_contradiction_is_told(spec, message):
    (problem,) = network_rules.contradictions(checked(spec), "networks[0]")
    assert message in str(problem)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"mode": "natt"}, "did you mean nat?"),
        ({"ips": [{"address": "10.0.0.256", "prefix": 24}]}, "an address of IPv4 or IPv6"),
        ({"ips": [{"address": "10.0.0.1"}]}, "ips[0].prefix: expected a value, found nothing"),
        ({"ips": [{"address": "10.0.0.1", "prefix": "24"}]}, "the length of a prefix, 0 to 128"),
        ({"interfaces": ["eth0", "eth0"]}, "interfaces[1]: expected each value once"),
        ({"interfaces": "eth0"}, "a list"),
        ({"bridge": "a/b"}, "a bridge's name"),
        ({"bridge": "sixteen-letters-"}, "a bridge's name"),
        ({"domain": "a b"}, "a domain"),
        ({"dns": {"hosts": [{"ip": "10.0.0.7", "names": []}]}}, "names: expected at least 1"),
        ({"dns": {"txt": {"a b": "x"}}}, "a domain"),
        ({"portgroups": [{"name": "a"}, {"name": "a"}]}, "one entry of its own"),
        ({"mtu": 10}, "bytes, 68 to 65535"),
        ({"addresses": ["03:10"]}, "a PCI address"),
        ({"vlan": [5000]}, "1 to 4094"),
    ],
)
def test_what_is_wrong_in_itself_is_told(spec, message):
    problems = []
    check_fields(FIELDS, spec, "networks[0]", problems)
    assert len(problems) == 1, problems
    assert message in str(problems[0])
