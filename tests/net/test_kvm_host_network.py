# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bridges made and undone by a real kernel, in network namespaces."""

from __future__ import annotations

import pytest

ADDRESSES = ["192.0.2.5/24", "2001:db8::5/64"]
BR0 = {
    "name": "br0",
    "type": "bridge",
    "ports": ["up0"],
    "addresses": ADDRESSES,
    "gateway": ["192.0.2.1", "2001:db8::1"],
}
OURS = "/etc/network/interfaces.d/virtfleet"
SHORT = "5s"


def asked(*interfaces, **more):
    return {"interfaces": list(interfaces), "adopt": True, "manager": "ifupdown", **more}


def test_check_mode_says_the_same_and_changes_nothing(host):
    before = host.snapshot()
    checked = host.module(check=True, **asked(BR0))
    assert host.snapshot() == before
    assert host.read("/var/lib/virtfleet/network.json") is None
    assert host.module(**asked(BR0))["actions"] == checked["actions"]


def test_a_bridge_takes_the_addresses_stays_and_goes_again(host):
    before = host.snapshot()
    mac = host.link("up0")["address"]
    answer = host.carry_out(**asked(BR0))
    assert answer["changed"] is True
    assert host.addresses("br0") == ADDRESSES
    assert host.addresses("up0") == []
    assert host.link("up0")["master"] == "br0"
    assert host.link("br0")["address"] == mac
    assert "default via 192.0.2.1 dev br0" in host.out("ip", "route")
    assert "default via 2001:db8::1 dev br0" in host.out("ip", "-6", "route")
    assert "iface br0 inet static" in host.read(OURS)
    assert "#virtfleet:up0# iface up0" in host.read("/etc/network/interfaces")
    again = host.carry_out(**asked(BR0))
    assert (again["changed"], again["change"]) == (False, None)
    gone = host.carry_out(state="absent")
    assert gone["actions"][0]["object"] == "interface/br0"
    assert host.snapshot() == before
    assert host.module(state="absent")["changed"] is False


def test_nobody_confirms_and_the_former_network_is_back(host):
    before = host.snapshot()
    wrong = {**BR0, "addresses": ["198.51.100.5/24"], "gateway": ["198.51.100.1"]}
    answer = host.module(rollback_timeout=SHORT, **asked(wrong))
    host.wait(answer["change"], "applied")
    assert host.addresses("br0") == ["198.51.100.5/24"]
    assert host.read(OURS) is None, "a reboot now would bring the former network back"
    state = host.wait(answer["change"], "rolled_back")
    assert "not confirmed within 5 seconds" in state["reason"]
    assert state["errors"] == []
    assert host.snapshot() == before
    host.carry_out(**asked(BR0))
    assert host.addresses("br0") == ADDRESSES


def test_confirmed_once_alone_files_go_too(host):
    before = host.snapshot()
    answer = host.module(rollback_timeout=SHORT, **asked(BR0))
    host.wait(answer["change"], "applied")
    assert host.module(confirm=answer["change"])["state"] == "persisted"
    assert host.read(OURS) is not None
    assert host.wait(answer["change"], "rolled_back")["errors"] == []
    assert host.snapshot() == before


def test_too_early_is_no_confirmation(host):
    answer = host.module(rollback_timeout=SHORT, **asked(BR0))
    early = host.module(confirm=answer["change"], final=True)
    assert early["state"] != "confirmed"
    host.wait(answer["change"], "rolled_back")
    late = host.module(confirm=answer["change"], final=True)
    assert late["state"] == "rolled_back"


def test_a_change_that_fails_half_way_is_undone_at_once(host):
    before = host.snapshot()
    # The kernel refuses a port in a bridge whose own link it would be.
    host.out("ip", "link", "add", "name", "sw0", "type", "bridge")
    stated = [BR0, {"name": "br1", "type": "bridge", "ports": ["sw0"]}]
    answer = host.module(**asked(*stated))
    state = host.wait(answer["change"], "rolled_back")
    assert "master br1 ended with status" in state["reason"]
    assert state["errors"] == []
    host.out("ip", "link", "delete", "dev", "sw0")
    assert host.snapshot() == before


def test_a_watchdog_that_is_killed_is_stood_in_for_by_the_next_run(host):
    before = host.snapshot()
    answer = host.module(**asked(BR0))
    host.wait(answer["change"], "applied")
    busy = host.module(**asked(BR0, {"name": "up1", "type": "ethernet", "mtu": 1400}))
    assert busy["failed"] is True
    assert answer["change"] in busy["msg"]
    assert 0 < busy["busy"] <= 60
    host.kill_watchdog(answer["change"])
    gone = host.module(confirm=answer["change"], final=True)
    assert (gone["state"], gone["reason"]) == ("rolled_back", "its watchdog was gone")
    assert host.snapshot() == before
    host.carry_out(**asked(BR0))
    assert host.addresses("br0") == ADDRESSES


def test_only_what_changed_changes(host):
    host.carry_out(**asked(BR0))
    mtu = host.carry_out(**asked({**BR0, "mtu": 1400, "ports": ["up0", "up1"]}))
    assert [a["object"] for a in mtu["actions"]] == ["interface/br0", f"file{OURS}"]
    changes = {c["path"] for c in mtu["actions"][0]["changes"]}
    assert changes == {"mtu", "ports"}
    assert host.link("br0")["mtu"] == 1400
    assert host.link("up1")["master"] == "br0"
    assert host.addresses("br0") == ADDRESSES
    released = host.carry_out(**asked({**BR0, "ports": ["up0"]}))
    assert {c["path"] for c in released["actions"][0]["changes"]} == {"ports"}
    assert "master" not in host.link("up1")
    assert host.link("br0")["mtu"] == 1400, "what is not stated any more is kept"


def test_an_mtu_and_addresses_of_a_device_come_and_go(host):
    before = host.snapshot()
    device = {"name": "up1", "type": "ethernet", "mtu": 1400, "addresses": ["198.51.100.5/24"]}
    host.carry_out(**asked(device))
    assert (host.link("up1")["mtu"], host.addresses("up1")) == (1400, ["198.51.100.5/24"])
    assert host.carry_out(**asked(device))["changed"] is False
    host.carry_out(state="absent")
    assert host.snapshot() == before


def test_a_bridge_with_a_guest_on_it_stays(host):
    host.carry_out(**asked(BR0))
    host.out("ip", "link", "add", "name", "vnet0", "type", "veth", "peer", "name", "in0")
    host.out("ip", "link", "set", "dev", "vnet0", "master", "br0")
    assert host.carry_out(**asked(BR0))["changed"] is False
    kept = host.module(state="absent")
    assert (kept["changed"], kept["blocked"][0]["object"]) == (False, "interface/br0")
    assert host.link("br0") is not None


def test_mistakes_are_found_before_anything_is_touched(host):
    before = host.snapshot()
    answer = host.module(
        **asked(
            {"name": "br0", "type": "bridge", "ports": ["up0"]},
            {"name": "br1", "type": "bridge", "ports": ["nothing"], "mtu": 65535},
            {"name": "br2", "type": "bridge", "ports": ["up1"], "mtu": 9000},
            adopt=False,
        )
    )
    assert [p["path"] for p in answer["problems"]] == [
        "interfaces[0].addresses",
        "interfaces[0].gateway",
        "interfaces[1].ports[0]",
        "interfaces[0].ports[0]",
    ]
    assert host.snapshot() == before


def test_a_filtering_bridge_lets_tagged_frames_pass(host, needs):
    needs("name", "try0", "type", "bridge", "vlan_filtering", "1")
    needs("link", "up1", "name", "try0", "type", "vlan", "id", "7")
    tagged = {"name": "br0.7", "type": "vlan", "link": "br0", "id": 7}
    host.carry_out(**asked({**BR0, "vlan_filtering": True}, tagged))
    vlans = host.out("bridge", "vlan", "show")
    assert "2-4094" in vlans or "4094" in vlans
    assert host.carry_out(**asked({**BR0, "vlan_filtering": True}, tagged))["changed"] is False
    host.carry_out(state="absent")
    assert host.link("br0") is None


def test_a_bond_comes_and_goes(host, needs):
    needs("name", "try0", "type", "bond")
    before = host.snapshot()
    bond = {
        "name": "bond0",
        "type": "bond",
        "ports": ["up1"],
        "mode": "active-backup",
        "miimon": 100,
    }
    host.carry_out(**asked(bond))
    assert host.link("up1")["master"] == "bond0"
    assert host.carry_out(**asked(bond))["changed"] is False
    mode = host.carry_out(**asked({**bond, "mode": "balance-xor"}))
    assert mode["actions"][0]["action"] == "replace"
    host.carry_out(state="absent")
    assert host.snapshot() == before


@pytest.mark.parametrize("timeout", ["4s", "11min", "60", "soon"])
def test_a_timeout_is_a_duration_within_reason(host, timeout):
    answer = host.module(rollback_timeout=timeout, **asked(BR0))
    assert answer["problems"][0]["path"] == "rollback_timeout"
