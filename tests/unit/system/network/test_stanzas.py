# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stanzas of interfaces(5) are taken over line by line, and come back as they were."""

from __future__ import annotations

import pytest
from ansible.module_utils.system.network import stanzas

FILE = """\
# the loopback
auto lo
iface lo inet loopback

allow-hotplug eth0
iface eth0 inet static
    address 192.0.2.5/24 # not a comment
    # a comment
    up echo one \\
       two

iface eth0 inet6 auto

iface eth1 inet dhcp
"""
TAKEN = """\
# the loopback
auto lo
iface lo inet loopback

#virtfleet:eth0# allow-hotplug eth0
#virtfleet:eth0# iface eth0 inet static
#virtfleet:eth0#     address 192.0.2.5/24 # not a comment
    # a comment
#virtfleet:eth0#     up echo one \\
#virtfleet:eth0#        two

#virtfleet:eth0# iface eth0 inet6 auto

iface eth1 inet dhcp
"""


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        (FILE, "eth0", True),
        (FILE, "eth1", True),
        (FILE, "eth", False),
        (FILE, "eth00", False),
        (TAKEN, "eth0", False),
        ("auto lo eth0\n", "eth0", True),
        ("auto lo \\\n eth0\n", "eth0", True),
        ("allow-auto eth0\n", "eth0", True),
        ("# iface eth0 inet dhcp\n", "eth0", False),
        ("iface br0 inet static\n  bridge_ports eth0\n", "eth0", False),
        ("", "eth0", False),
    ],
)
def test_who_claims_what(text, name, expected):
    assert stanzas.claims(text, name) is expected


def test_there_and_back():
    assert stanzas.take(FILE, ["eth0"]) == TAKEN
    assert stanzas.take(TAKEN, ["eth0"]) == TAKEN
    assert stanzas.give_back(TAKEN, ["eth0"]) == FILE
    assert stanzas.give_back(TAKEN, ["eth1"]) == TAKEN


def test_a_list_keeps_the_others():
    text = stanzas.take("auto lo eth0 eth1\n", ["eth0", "eth1"])
    assert text == "auto lo\n#virtfleet:eth1# auto eth1\n#virtfleet:eth0# auto eth0\n"
    assert stanzas.give_back(text, ["eth0"]) == ("auto lo\n#virtfleet:eth1# auto eth1\nauto eth0\n")


@pytest.mark.parametrize("text", ["auto lo\n", "", "auto lo"])
def test_a_line_that_was_added_goes_again(text):
    added = stanzas.take_source(text, "/etc/network/interfaces.d/virtfleet")
    assert added.splitlines()[-1] == "source /etc/network/interfaces.d/virtfleet"
    assert stanzas.give_back(added, [], source=True).rstrip("\n") == text.rstrip("\n")
    assert stanzas.give_back(added, []) == added
