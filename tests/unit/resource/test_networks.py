# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Networks made, changed, taken over and removed with libvirt's test driver.

The driver shows no other definition of a network that is active: what is changed while one runs is
proven by tables here (test_network_live.py), and for real in the lab.
"""

from __future__ import annotations

import errno

import pytest
from ansible.module_utils.converge.errors import ApplyError, InputError, VirtfleetError
from ansible.module_utils.resource import networks as module
from ansible.module_utils.resource.kind import Seen
from ansible.module_utils.resource.ledger import Ledger

libvirt = pytest.importorskip("libvirt", reason="the binding is built for the controller's Python")

LAN = {"name": "lan", "mode": "nat", "ips": [{"address": "10.9.0.1", "prefix": 24}]}


def verbs(outcome):
    return [f"{a['object']} {a['action']} {a['when']}" for a in outcome["actions"]]


def reasons(outcome):
    return [item["reason"] for item in outcome["blocked"]]


@pytest.fixture
def networks(host):
    return lambda *entries, **how: host.run("networks", *entries, **how)


def test_check_mode_plans_and_touches_nothing(networks, host):
    before = host.everything()
    planned = networks(LAN, check_mode=True)
    assert host.everything() == before
    done = networks(LAN)
    assert verbs(planned) == verbs(done) == ["network/lan create now", "network/lan start now"]
    assert planned["diff"] == done["diff"]


def test_a_network_comes_and_goes(networks, host):
    networks(LAN)
    network = host.handle.networkLookupByName("lan")
    assert (network.isActive(), network.autostart()) == (1, 1)
    again = networks(LAN)
    assert (again["changed"], again["pending"], again["blocked"]) == (False, [], [])
    assert again["networks"][0]["spec"]["ips"] == LAN["ips"]
    gone = networks({"name": "lan", "state": "absent"})
    assert verbs(gone) == ["network/lan stop now", "network/lan delete now"]
    assert "lan" not in host.handle.listNetworks()
    assert networks({"name": "lan", "state": "absent"})["changed"] is False


@pytest.mark.parametrize(
    ("plural", "entry"),
    [("networks", LAN), ("pools", {"name": "data", "type": "dir", "path": "/data"})],
)
def test_what_is_the_same_is_not_read_again(host, monkeypatch, plural, entry):
    first = host.run(plural, entry)
    assert host.run(plural, entry)["changed"] is False
    table = type(host.kind(plural))
    monkeypatch.setattr(table, "definitions", property(lambda _: pytest.fail("it was asked")))
    again = host.run(plural, entry)
    assert (again["changed"], again["pending"], again["blocked"]) == (False, [], [])
    assert again[plural] == first[plural]
    with pytest.raises(pytest.fail.Exception, match="it was asked"):
        host.run(plural, {**entry, "uuid": "6e1d1e7c-9a1c-4c5e-8a7f-0d3f0c6b7a10"})


@pytest.mark.parametrize(("stated", "managed"), [({}, "yes"), ({"managed": False}, "no")])
def test_functions_are_taken_from_the_host_unless_it_is_stated(networks, host, stated, managed):
    pool = {"name": "vfs", "mode": "hostdev", "addresses": ["0000:03:10.0"], "state": "inactive"}
    networks({**pool, **stated})
    xml = host.handle.networkLookupByName("vfs").XMLDesc()
    assert f"managed='{managed}'" in xml
    assert networks({**pool, **stated})["changed"] is False


def test_states_and_autostart(networks, host):
    networks({**LAN, "state": "inactive", "autostart": False})
    network = host.handle.networkLookupByName("lan")
    assert (network.isActive(), network.autostart()) == (0, 0)
    assert verbs(networks({**LAN, "state": "present", "autostart": True})) == [
        "network/lan update now"
    ]
    assert (network.isActive(), network.autostart()) == (0, 1)
    assert verbs(networks(LAN)) == ["network/lan start now"]
    assert verbs(networks({**LAN, "autostart": False})) == ["network/lan update live"]
    assert verbs(networks({**LAN, "state": "inactive"})) == ["network/lan stop now"]


def test_only_what_is_stated_changes(networks, host):
    networks({**LAN, "state": "inactive", "domain": "lan.test"})
    before = host.handle.networkLookupByName("lan").XMLDesc()
    changed = networks({"name": "lan", "state": "inactive", "mtu": 9000})
    assert [c["path"] for a in changed["actions"] for c in a["changes"]] == ["mtu"]
    after = host.handle.networkLookupByName("lan").XMLDesc()
    assert set(before.splitlines()) < set(after.splitlines())
    assert networks({"name": "lan", "state": "inactive", "mtu": 9000})["changed"] is False


def test_a_network_of_somebody_else_is_not_touched(networks, host):
    before = host.everything()
    found = networks({"name": "default", "mode": "nat", "mtu": 9000})
    assert (found["changed"], reasons(found)) == (
        False,
        ["it was not made by this toolkit for this fleet"],
    )
    found = networks({"name": "default", "state": "absent", "adopt": True})
    assert (found["changed"], len(found["blocked"])) == (False, 1)
    assert networks(prune=True)["changed"] is False
    assert host.everything() == before


def test_one_is_taken_over_as_it_is(networks, host):
    xml = "<network><name>theirs</name><ip address='10.8.0.1' netmask='255.255.0.0'/></network>"
    host.handle.networkDefineXML(xml)
    before = host.handle.networkLookupByName("theirs").XMLDesc()
    taken = networks({"name": "theirs", "adopt": True, "state": "present"})
    assert verbs(taken) == ["network/theirs adopt now"]
    after = host.handle.networkLookupByName("theirs").XMLDesc()
    assert set(before.splitlines()) < set(after.splitlines())
    again = networks({"name": "theirs", "adopt": True, "state": "present"})
    assert again["changed"] is False
    found = networks({"name": "theirs", "state": "present"}, fleet="south")
    assert reasons(found) == ["it belongs to the fleet 'local'"]


def test_prune_takes_only_what_is_ours(networks, host):
    networks(LAN)
    networks({"name": "north", "mode": "isolated"}, fleet="north")
    assert verbs(networks(prune=True)) == ["network/lan stop now", "network/lan delete now"]
    assert sorted(one.name() for one in host.handle.listAllNetworks()) == ["default", "north"]


def test_another_identity_is_another_network(networks, host):
    networks(LAN)
    other = {**LAN, "uuid": "11111111-2222-4333-8444-555555555555"}
    assert "only a new network can have" in reasons(networks(other))[0]
    assert verbs(networks({**other, "replace": True})) == [
        "network/lan stop now",
        "network/lan replace now",
        "network/lan start now",
    ]
    assert host.handle.networkLookupByName("lan").UUIDString() == other["uuid"]
    assert networks(other)["changed"] is False


def test_all_that_is_wrong_is_told_at_once(networks, host):
    before = host.everything()
    wrong = [
        {"name": "a/b", "mode": "nat"},
        {"name": "b", "mode": "natt"},
        {"name": "c"},
        {"name": "d", "mode": "nat", "state": "up"},
        {"name": "e", "mode": "open", "autostart": "yes"},
        {"name": "h", "mode": "nat"},
        {"name": "f", "mode": "nat", "mut": 1},
        {"name": "f", "mode": "nat"},
        "g",
    ]
    with pytest.raises(InputError) as raised:
        networks(*wrong)
    message = str(raised.value)
    for text in (
        "networks[0].name: expected a name",
        "networks[1].mode: expected a mode",
        "networks[2].mode: expected how it leads out",
        "networks[3].state: expected a state",
        "networks[4].autostart: expected true or false",
        "did you mean mtu?",
        "networks[5].ips: expected an address of the network",
        "networks[7].name: expected a name of its own",
        "networks[8]: expected a mapping",
    ):
        assert text in message
    assert host.everything() == before


def test_what_another_network_has_is_told(networks):
    networks({**LAN, "bridge": "br-lan"})
    others = [
        {"name": "b", "mode": "nat", "ips": [{"address": "10.9.0.200", "prefix": 25}]},
        {"name": "c", "mode": "isolated", "bridge": "br-lan"},
        {"name": "d", "mode": "nat", "ips": [{"address": "10.7.0.1", "prefix": 16}]},
        {"name": "e", "mode": "route", "ips": [{"address": "10.7.9.1", "prefix": 24}]},
    ]
    with pytest.raises(InputError) as raised:
        networks(*others)
    lines = str(raised.value).splitlines()[1:]
    assert [line.split(":")[0] for line in lines] == [
        "networks[0].ips",
        "networks[1].bridge",
        "networks[3].ips",
    ]
    assert "10.9.0.128/25, which meets 10.9.0.0/24 of the network lan" in lines[0]


def test_what_fails_is_told_and_the_rest_is_done(networks, host, monkeypatch):
    create = libvirt.virNetwork.create

    def broken(network):
        if network.name() == "bad":
            raise libvirt.libvirtError("no such device")
        return create(network)

    monkeypatch.setattr(libvirt.virNetwork, "create", broken)
    with pytest.raises(ApplyError, match="start network/bad") as raised:
        networks({"name": "bad", "mode": "isolated"}, LAN)
    assert len(raised.value.data["actions"]) == 3
    assert host.handle.networkLookupByName("lan").isActive()
    monkeypatch.undo()
    assert verbs(networks({"name": "bad", "mode": "isolated"}, LAN)) == ["network/bad start now"]


def test_what_changed_meanwhile_is_not_overwritten(networks, host, monkeypatch):
    networks({**LAN, "state": "inactive"})
    kind = type(host.kind("networks"))
    again = kind.again

    def meddling(self, name):
        # After the plan under the lock, before the definition is written.
        xml = host.handle.networkLookupByName("lan").XMLDesc()
        host.handle.networkDefineXML(xml.replace("stp='on'", "stp='off'"))
        return again(self, name)

    monkeypatch.setattr(kind, "again", meddling)
    with pytest.raises(ApplyError, match="somebody else changed it"):
        networks({**LAN, "state": "inactive", "mtu": 9000})
    xml = host.handle.networkLookupByName("lan").XMLDesc()
    assert "9000" not in xml
    assert "stp='off'" in xml


BRIDGED = {**LAN, "bridge": "br-lan"}
SWITCH = {"name": "lan", "mode": "bridge", "bridge": "ovs0", "virtualport": {"type": "openvswitch"}}


@pytest.fixture
def restart(host):
    """Return what starts the network anew, whoever is on it."""

    def work():
        kind = host.kind("networks")
        try:
            kind.restart("lan", {})
        finally:
            kind.connection.close()

    return work


def unplugged(host):
    """Return what is noted of guests that were cut off."""
    return Ledger(host.layout).noted("unplugged network", "lan")


@pytest.mark.parametrize(("entry", "again"), [(BRIDGED, ["vnet0", "vnet3"]), (SWITCH, [])])
def test_guests_are_plugged_in_again_where_the_bridge_went(host, taps, restart, entry, again):
    host.run("networks", entry)
    taps.plug(entry["bridge"])
    restart()
    bridge = entry["bridge"]
    assert taps.commands == [
        ["ip", "link", "set", "dev", device, "master", bridge] for device in again
    ]
    assert unplugged(host) is None


def test_what_cannot_be_plugged_in_is_tried_again(host, networks, taps, restart):
    networks(BRIDGED)
    taps.plug("br-lan")
    host.command = lambda _words: (2, "", "busy\n")
    with pytest.raises(VirtfleetError, match=r"vnet0 \(busy\), vnet3 \(busy\): plug them in"):
        restart()
    assert unplugged(host) == "vnet0 vnet3"
    with pytest.raises(ApplyError, match=r"attach network/lan: .* not on br-lan: vnet0 \(busy\)"):
        networks(BRIDGED)
    host.command = taps.command
    planned = networks(BRIDGED, check_mode=True)
    assert taps.masters() == [None, None]
    done = networks(BRIDGED)
    assert verbs(planned) == verbs(done) == ["network/lan attach live"]
    assert done["diff"] == planned["diff"]
    assert done["diff"][0]["after"] == "devices.vnet0: plugged in\ndevices.vnet3: plugged in\n"
    assert taps.masters() == ["br-lan", "br-lan"]
    assert networks(BRIDGED)["changed"] is False
    assert unplugged(host) is None


def test_a_device_that_has_gone_meanwhile_is_passed_over(host, networks, taps, restart):
    networks(BRIDGED)
    taps.plug("br-lan")

    def ends(words):
        if words[4] == "vnet3":
            taps.unplug("vnet3")
        return taps.command(words)

    host.command = ends
    restart()
    assert unplugged(host) is None
    Ledger(host.layout).note("unplugged network", "lan", "vnet0 vnet3")
    taps.unplug("vnet0")
    assert networks(BRIDGED, check_mode=True)["changed"] is False
    assert unplugged(host) == "vnet0 vnet3"
    assert networks(BRIDGED)["changed"] is False
    assert unplugged(host) is None


def test_a_network_that_is_to_be_off_plugs_nobody_in(host, networks, taps):
    networks({**BRIDGED, "state": "inactive"})
    taps.plug("br-lan")
    Ledger(host.layout).note("unplugged network", "lan", "vnet0 vnet3")
    assert networks({**BRIDGED, "state": "inactive"})["changed"] is False
    assert unplugged(host) == "vnet0 vnet3"
    assert verbs(networks(BRIDGED)) == ["network/lan start now", "network/lan attach now"]
    assert taps.masters() == ["br-lan", "br-lan"]
    Ledger(host.layout).note("unplugged network", "lan", "vnet0")
    taps.unplug("vnet0")
    taps.unplug("vnet3")
    networks({"name": "lan", "state": "absent"})
    assert unplugged(host) is None


def test_another_new_start_plugs_in_what_the_last_one_did_not(host, networks, taps, waiting):
    networks(BRIDGED)
    taps.plug("br-lan")
    (taps.folder / "vnet3" / "master").unlink()
    Ledger(host.layout).note("unplugged network", "lan", "vnet0 vnet3")
    outcome = networks({**BRIDGED, "mtu": 9000, "restart": True})
    assert verbs(outcome) == ["network/lan update next_boot", "network/lan restart now"]
    assert taps.masters() == ["br-lan", "br-lan"]
    assert unplugged(host) is None


def test_a_bridge_without_a_carrier_is_a_warning(host, monkeypatch, tmp_path):
    """SIMULATED. The carrier of a device that is down cannot be read: EINVAL."""
    monkeypatch.setattr(module, "_CLASS", str(tmp_path))
    for name, carrier in (("up0", "1\n"), ("dry0", "0\n"), ("down0", "1\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "carrier").write_text(carrier, encoding="ascii")

    def opened(path, *arguments, **more):
        if path == str(tmp_path / "down0" / "carrier"):
            raise OSError(errno.EINVAL, "Invalid argument")
        return open(path, *arguments, **more)

    monkeypatch.setattr(module, "open", opened, raising=False)
    host.local = True
    kind = host.kind("networks")
    bridges = ("up0", "dry0", "down0", "none0")
    seen = {n: Seen(n, "", "", spec={"mode": "bridge", "bridge": n}) for n in bridges}
    seen["nat"] = Seen("nat", "", "", spec={"mode": "nat", "bridge": "dry0"})
    told = ["network/dry0: the bridge dry0 has no carrier"]
    told.append("network/down0: the bridge down0 has no carrier")
    assert kind.warnings(seen) == told
    kind.local = False
    assert kind.warnings(seen) == []
    kind.connection.close()


def test_what_only_pools_are_asked_is_no_key_of_a_network(networks):
    with pytest.raises(InputError, match=r"networks\[0\].build: expected a known key"):
        networks({"name": "a", "mode": "isolated", "build": True})
