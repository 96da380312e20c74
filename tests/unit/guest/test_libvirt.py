# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The libvirt engine over libvirt's own test driver: planned, done, unchanged, and the way back.

The test driver keeps domains as the real ones do but runs nothing; the lab proves what runs.
"""

from __future__ import annotations

import socket

import pytest
from ansible.module_utils.converge.action import LIVE, Edit
from ansible.module_utils.converge.errors import InputError
from ansible.module_utils.guest.engines import Engines
from ansible.module_utils.guest.libvirt.dialect import _settled
from ansible.module_utils.guest.libvirt.engine import LibvirtEngine
from ansible.module_utils.guest.run import ApplyError, Wish, run
from ansible.module_utils.kvm.layout import Layout
from ansible.module_utils.virt.connection import ConnectError

libvirt = pytest.importorskip("libvirt", reason="the binding is built for the controller's Python")

URI = "test:///default"
GUEST = {
    "name": "web",
    "memory": "512MiB",
    "vcpus": 2,
    "disks": [{"target": "vda", "file": "/images/web.qcow2", "format": "qcow2"}],
    "nics": [{"network": "default"}],
}


class Host:
    """A host whose libvirt is the test driver, alive as long as the connection is held."""

    def __init__(self, root):
        self.layout = Layout(str(root))
        self.handle = libvirt.open(URI)

    def run(self, *guests, check_mode=False, fleet="local", uri=URI, **more):
        ways = {"optional": check_mode, "stop_timeout": 2.0, "force": more.pop("force", False)}
        engine = LibvirtEngine(uri, fleet=fleet, **ways)
        wish = Wish(list(guests), fleet=fleet, **more)
        engines = Engines([engine], self.layout)
        try:
            return run(engines, wish, engine.host("kvm1"), check_mode=check_mode)
        finally:
            engines.close()

    def xml(self, name):
        return self.handle.lookupByName(name).XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)

    def names(self):
        return sorted(domain.name() for domain in self.handle.listAllDomains())

    def close(self):
        for domain in self.handle.listAllDomains():
            if domain.name() != "test":
                if domain.isActive():
                    domain.destroy()
                domain.undefine()
        self.handle.close()


@pytest.fixture
def host(tmp_path):
    found = Host(tmp_path)
    yield found
    found.close()


def verbs(outcome):
    return [f"{a['step']} {a['action']} {a['when']}" for a in outcome["actions"]]


def paths(outcome):
    return {c["path"] for action in outcome["actions"] for c in action["changes"]}


def reasons(outcome):
    return [item["reason"] for item in outcome["blocked"]]


def test_a_guest_is_made_and_started_and_a_second_run_changes_nothing(host):
    planned = host.run(GUEST, check_mode=True)
    assert host.names() == ["test"]
    done = host.run(GUEST)
    assert verbs(planned) == verbs(done) == ["1 create now", "2 start now"]
    assert planned["diff"] == done["diff"]
    domain = host.handle.lookupByName("web")
    assert domain.isActive()
    assert domain.info()[1] == 512 << 10
    assert "urn:virtfleet:1" in domain.XMLDesc()
    again = host.run(GUEST)
    assert (again["changed"], again["pending"], again["blocked"]) == (False, [], [])
    assert again["guests"][0]["spec"]["memory"] == "512MiB"
    assert again["guests"][0]["state"] == "running"


def test_the_same_guest_has_the_same_identity_wherever_it_is_made(host):
    host.run({**GUEST, "state": "stopped"})
    first = host.xml("web")
    host.run({"name": "web", "state": "absent"})
    assert host.names() == ["test"]
    host.run({**GUEST, "state": "stopped"})
    assert host.xml("web") == first


def test_what_was_not_made_here_is_left_alone(host):
    before = host.xml("test")
    for wish in ({"state": "absent"}, {"memory": "1GiB"}, {"state": "stopped"}):
        outcome = host.run({"name": "test", **wish})
        assert outcome["changed"] is False
        assert reasons(outcome) == ["it was not made by this toolkit"]
    assert host.xml("test") == before
    assert host.run(prune=True)["actions"] == []


def test_a_domain_that_is_taken_over_keeps_all_that_it_has(host):
    before = host.handle.lookupByName("test").XMLDesc()
    outcome = host.run({"name": "test", "adopt": True})
    assert verbs(outcome) == ["1 adopt now"]
    after = host.handle.lookupByName("test").XMLDesc()
    assert "urn:virtfleet:1" in after
    ours = ("virtfleet", "metadata")
    rest = [line for line in after.splitlines() if not any(word in line for word in ours)]
    assert rest == before.splitlines()
    assert host.run({"name": "test"})["changed"] is False


def test_a_domain_is_taken_over_and_changed_in_one_run(host):
    host.handle.lookupByName("test").destroy()
    wish = {"name": "test", "adopt": True, "title": "ours now", "state": "stopped"}
    outcome = host.run(wish)
    assert verbs(outcome) == ["1 adopt now", "1 update now"]
    assert "<title>ours now</title>" in host.xml("test")
    assert "urn:virtfleet:1" in host.xml("test")
    assert host.run(wish)["changed"] is False


def test_a_daemon_that_does_not_answer_is_no_host_without_guests(host, tmp_path):
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "socket"))  # and nobody listens
        away = f"qemu+unix:///system?socket={tmp_path / 'socket'}"
        for wish in (GUEST, {"name": "web", "state": "absent"}):
            with pytest.raises(ConnectError, match="no connection to qemu"):
                host.run(wish, check_mode=True, uri=away)


def test_states_are_reached_from_each_other(host):
    def state():
        return host.handle.lookupByName("web").state()[0]

    host.run({**GUEST, "state": "present"})
    assert state() == libvirt.VIR_DOMAIN_SHUTOFF
    for wanted, verb, found in (
        ("running", ["2 start now"], libvirt.VIR_DOMAIN_RUNNING),
        ("paused", ["2 pause now"], libvirt.VIR_DOMAIN_PAUSED),
        ("present", [], libvirt.VIR_DOMAIN_PAUSED),
        ("running", ["2 resume now"], libvirt.VIR_DOMAIN_RUNNING),
        ("restarted", ["2 restart now"], libvirt.VIR_DOMAIN_RUNNING),
        ("stopped", ["1 stop now"], libvirt.VIR_DOMAIN_SHUTOFF),
        ("stopped", [], libvirt.VIR_DOMAIN_SHUTOFF),
        ("running", ["2 start now"], libvirt.VIR_DOMAIN_RUNNING),
        ("saved", ["2 save now"], libvirt.VIR_DOMAIN_SHUTOFF),
        ("saved", [], libvirt.VIR_DOMAIN_SHUTOFF),
        ("running", ["2 start now"], libvirt.VIR_DOMAIN_RUNNING),
    ):
        planned = host.run({**GUEST, "state": wanted}, check_mode=True)
        outcome = host.run({**GUEST, "state": wanted})
        assert verbs(outcome) == verbs(planned) == verb, wanted
        assert state() == found, wanted


def test_what_only_a_start_anew_brings_is_pending_until_then(host):
    host.run(GUEST)
    wish = {**GUEST, "cpu": {"topology": {"sockets": 1, "cores": 2, "threads": 1}}}
    outcome = host.run(wish)
    assert verbs(outcome) == ["1 update next_boot"]
    assert [item["kind"] for item in outcome["pending"]] == ["restart_required"]
    again = host.run(wish)
    assert again["changed"] is False
    assert [item["kind"] for item in again["pending"]] == ["restart_required"]
    host.run({**wish, "state": "restarted"})
    assert host.run(wish)["pending"] == []


def test_a_stopped_guest_is_changed_at_once_and_the_rest_of_it_stays(host):
    host.run({**GUEST, "state": "stopped"})
    before = host.xml("web")
    outcome = host.run({"name": "web", "state": "stopped", "memory": "1GiB"})
    assert verbs(outcome) == ["1 update now"]
    after = host.xml("web")
    assert [line for line in after.splitlines() if line not in before.splitlines()] == [
        "  <memory unit='KiB'>1048576</memory>",
        "  <currentMemory unit='KiB'>1048576</currentMemory>",
    ]


def test_a_changed_nature_needs_to_be_asked_for(host):
    host.run(GUEST)
    other = "11111111-2222-4333-8444-555555555555"
    wish = {**GUEST, "uuid": other}
    outcome = host.run(wish)
    assert outcome["changed"] is False
    assert "only a new guest can have" in reasons(outcome)[0]
    outcome = host.run({**wish, "replace": True, "protected": True})
    assert outcome["changed"] is False
    assert "protected" in reasons(outcome)[0]
    outcome = host.run({**wish, "replace": True})
    assert verbs(outcome) == ["1 stop now", "2 replace now", "3 start now"]
    assert host.handle.lookupByName("web").UUIDString() == other
    assert host.run(wish)["changed"] is False


def test_a_guest_of_another_fleet_is_not_touched(host):
    host.run(GUEST, fleet="north")
    outcome = host.run({**GUEST, "memory": "1GiB"}, fleet="south")
    assert outcome["changed"] is False
    assert "belongs to the fleet 'north'" in reasons(outcome)[0]
    assert host.run(fleet="south", prune=True)["actions"] == []


def test_a_protected_guest_stays(host):
    host.run({**GUEST, "protected": True})
    for outcome in (host.run({"name": "web", "state": "absent"}), host.run(prune=True)):
        assert outcome["changed"] is False
        assert "protected" in reasons(outcome)[0]
    outcome = host.run({"name": "web", "protected": False})
    assert paths(outcome) == {"protected"}
    assert verbs(host.run(prune=True)) == ["1 stop now", "2 delete now"]


def test_autostart_follows(host):
    host.run({**GUEST, "autostart": True})
    assert host.handle.lookupByName("web").autostart() == 1
    assert paths(host.run({**GUEST, "autostart": False})) == {"autostart"}
    assert host.handle.lookupByName("web").autostart() == 0


def test_a_plan_that_was_overtaken_is_not_carried_out(host):
    digest = host.run(GUEST)["guests"][0]["digest"]
    host.run({"name": "web", "title": "changed by somebody"})
    outcome = host.run({"name": "web", "title": "planned"}, expect={"web": digest})
    assert outcome["changed"] is False
    assert reasons(outcome)[0].startswith("it changed since it was planned")


def test_all_that_is_wrong_is_told_before_anything_is_touched(host):
    with pytest.raises(InputError) as raised:
        host.run(
            GUEST,
            {"name": "b", "memory": "999TiB"},
            {"name": "c", "diskz": []},
            {"name": "d", "arch": "s390x"},
            {"name": "e", "wait_for": "godot", "state": "up"},
        )
    found = [str(problem).partition(":")[0] for problem in raised.value.problems]
    assert found == [
        "guests[1].memory",
        "guests[2].diskz",
        "guests[3].arch",
        "guests[4].state",
        "guests[4].wait_for",
    ]
    assert host.names() == ["test"]


def test_without_libvirt_check_mode_plans_and_a_real_run_says_what_is_missing(host):
    away = "qemu+unix:///system?socket=/nowhere"
    assert verbs(host.run(GUEST, check_mode=True, uri=away)) == ["1 create now", "2 start now"]
    with pytest.raises(Exception, match="no connection to qemu"):
        host.run(GUEST, uri=away)


def test_one_that_fails_does_not_keep_the_others(host):
    host.handle.lookupByName("test").destroy()
    clash = {"name": "clash", "uuid": host.handle.lookupByName("test").UUIDString()}
    with pytest.raises(ApplyError) as raised:
        host.run(clash, GUEST)
    assert "create guest/clash" in str(raised.value)
    assert host.names() == ["test", "web"]
    assert [a["object"] for a in raised.value.data["actions"]] == ["guest/web", "guest/web"]


def test_memory_that_the_balloon_has_not_given_yet_is_no_change():
    asked = Edit("memory", "1GiB", "512MiB", LIVE)
    assert _settled([asked], [asked]) == ((asked,), ())
    edits, restart = _settled([], [asked])
    assert edits == ()
    assert [change.path for change in restart] == ["memory"]


def test_what_is_waited_for_comes_back_with_its_addresses(host):
    outcome = host.run({**GUEST, "wait_for": "running"})
    (address,) = outcome["guests"][0]["addresses"]  # the driver makes one up
    assert address.startswith("192.168.122.")
    late = {**GUEST, "wait_for": "agent", "wait_timeout": "1s"}
    with pytest.raises(ApplyError, match=r"its agent does not answer .* after 1s"):
        host.run(late)
    assert host.run({**late, "state": "stopped"})["changed"] is True
    assert host.run({**late, "state": "absent"})["changed"] is True
