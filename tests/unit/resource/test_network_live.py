# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The calls that change a network while it runs, by what is there and what shall be."""

from __future__ import annotations

import pytest
from ansible.module_utils.resource.network_live import updates

libvirt = pytest.importorskip("libvirt", reason="the binding is built for the controller's Python")

SECTIONS = {
    libvirt.VIR_NETWORK_SECTION_IP_DHCP_RANGE: "range",
    libvirt.VIR_NETWORK_SECTION_IP_DHCP_HOST: "host",
    libvirt.VIR_NETWORK_SECTION_FORWARD_INTERFACE: "interface",
    libvirt.VIR_NETWORK_SECTION_PORTGROUP: "portgroup",
    libvirt.VIR_NETWORK_SECTION_DNS_HOST: "dns host",
    libvirt.VIR_NETWORK_SECTION_DNS_TXT: "txt",
    libvirt.VIR_NETWORK_SECTION_DNS_SRV: "srv",
}
COMMANDS = {
    libvirt.VIR_NETWORK_UPDATE_COMMAND_ADD_LAST: "add",
    libvirt.VIR_NETWORK_UPDATE_COMMAND_DELETE: "delete",
    libvirt.VIR_NETWORK_UPDATE_COMMAND_MODIFY: "modify",
}


def network(inside):
    return f"<network><name>a</name>{inside}</network>"


def ip(inside, address="10.0.0.1"):
    return f"<ip address='{address}' prefix='24'><dhcp>{inside}</dhcp></ip>"


RANGE = "<range start='10.0.0.5' end='10.0.0.9'/>"
OTHER = "<range start='10.0.0.50' end='10.0.0.90'/>"
WEB = "<host mac='02:00:00:00:00:01' name='web' ip='10.0.0.20'/>"
MOVED = "<host ip='10.0.0.21' mac='02:00:00:00:00:01' name='web'/>"
CASES = {
    "nothing": (ip(RANGE + WEB), ip(WEB + RANGE), []),
    "attributes in another order": (
        ip("<range start='10.0.0.5' end='10.0.0.9'/>"),
        ip("<range end='10.0.0.9' start='10.0.0.5'/>"),
        [],
    ),
    "another range": (
        ip(RANGE),
        ip(OTHER),
        ["delete range 0 10.0.0.5", "add range 0 10.0.0.50"],
    ),
    "a host moves": (
        ip(RANGE + WEB),
        ip(RANGE + MOVED),
        ["delete host 0 10.0.0.20", "add host 0 10.0.0.21"],
    ),
    "the second subnet": (
        ip(RANGE) + ip("", "10.1.0.1"),
        ip(RANGE) + ip("<range start='10.1.0.5' end='10.1.0.9'/>", "10.1.0.1"),
        ["add range 1 10.1.0.5"],
    ),
    "a new subnet waits": (ip(RANGE), ip(RANGE) + ip(OTHER, "10.1.0.1"), []),
    "interfaces, used or not": (
        "<forward mode='vepa'><interface dev='a' connections='1'/><interface dev='b'/></forward>",
        "<forward mode='vepa'><interface dev='a'/><interface dev='c'/></forward>",
        ["delete interface -1 b", "add interface -1 c"],
    ),
    "records": (
        "<dns><txt name='a' value='1'/><host ip='10.0.0.7'><hostname>x</hostname></host></dns>",
        "<dns><txt name='b' value='1'/><host ip='10.0.0.7'><hostname>y</hostname></host></dns>",
        ["delete txt -1 a", "add txt -1 b", "delete dns host -1 x", "add dns host -1 y"],
    ),
    "port groups": (
        "<portgroup name='a'/><portgroup name='b'/>",
        "<portgroup name='b' default='yes'/><portgroup name='c'/>",
        ["delete portgroup -1 a", "modify portgroup -1 default", "add portgroup -1 c"],
    ),
}


@pytest.mark.parametrize(("live", "wanted", "calls"), CASES.values(), ids=CASES)
def test_the_calls_of_a_change(live, wanted, calls):
    found = list(updates(libvirt, network(live), network(wanted)))
    said = [
        f"{COMMANDS[command]} {SECTIONS[section]} {index}" for command, section, index, _ in found
    ]
    assert said == [call.rpartition(" ")[0] for call in calls]
    for (_, _, _, xml), call in zip(found, calls):
        assert call.rpartition(" ")[2] in xml
        assert "connections" not in xml
