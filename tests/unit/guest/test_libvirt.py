# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The libvirt engine over libvirt's own test driver: planned, done, unchanged, and the way back.

The test driver keeps domains as the real ones do but runs nothing; the lab proves what runs.
"""

from __future__ import annotations

import socket
from functools import partial

import pytest
from ansible.module_utils.converge.action import LIVE, Edit
from ansible.module_utils.converge.errors import ApplyError, InputError
from ansible.module_utils.guest.libvirt.apply import Applier
from ansible.module_utils.guest.libvirt.dialect import _settled, _unexpanded
from ansible.module_utils.guest.local import look_at_guests
from ansible.module_utils.guest.witness import read, write
from ansible.module_utils.virt.connection import ConnectError
from ansible.module_utils.virt.patcher import differences

libvirt = pytest.importorskip("libvirt", reason="the binding is built for the controller's Python")

from testdriver import GUEST, URI, Driver  # noqa: E402  (it needs the binding)

LOOK = {"engines": ["libvirt"], "uri": URI, "names": [], "console_lines": 0, "status": False}
LOOK["brief"] = False


@pytest.fixture
def host(tmp_path):
    found = Driver(tmp_path)
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
    (guest,) = again["guests"]
    assert (guest["vcpus"], guest["memory"], "spec" in guest) == (2, "512MiB", False)
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


def test_a_guest_made_anew_keeps_what_its_xml_says_besides(host):
    host.run({**GUEST, "state": "stopped"})
    former = host.xml("web")
    theirs = "<metadata>\n    <site:note xmlns:site='urn:site'>keep me</site:note>"
    host.handle.defineXML(former.replace("<metadata>", theirs))
    other = "11111111-2222-4333-8444-555555555555"
    outcome = host.run({**GUEST, "state": "stopped", "uuid": other, "replace": True})
    assert verbs(outcome) == ["2 replace now"]
    now = host.xml("web")
    assert "keep me" in now
    assert other in now


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


@pytest.mark.parametrize(
    ("moment", "entry"),
    [
        ("before", {"title": "planned"}),
        ("before", {"state": "absent"}),
        ("before", {"uuid": "6e1d1e7c-9a1c-4c5e-8a7f-0d3f0c6b7a10", "replace": True}),
        ("before", {"name": "other", "was": "web"}),
        ("meanwhile", {"memory": "256MiB", "title": "planned"}),
    ],
)
def test_what_somebody_else_changes_between_plan_and_apply_stays(host, monkeypatch, moment, entry):
    host.run({**GUEST, "state": "running" if moment == "meanwhile" else "stopped"})

    def meddle():
        """Change the definition as `virsh edit` does."""
        xml = host.xml("web").replace("</name>", "</name><description>theirs</description>", 1)
        host.handle.defineXML(xml)

    if moment == "before":
        apply = Applier.apply

        def applied(self, actions, specs):
            if "theirs" not in host.xml("web"):
                meddle()
            return apply(self, actions, specs)

        monkeypatch.setattr(Applier, "apply", applied)
    else:
        call = libvirt.virDomain.setMemoryFlags

        def set_memory(self, *arguments):
            meddle()
            return call(self, *arguments)

        monkeypatch.setattr(libvirt.virDomain, "setMemoryFlags", set_memory)
    with pytest.raises(ApplyError, match="somebody else changed it"):
        host.run({"name": "web", "state": "present", **entry})
    found = host.xml("web")
    assert "theirs" in found
    assert "planned" not in found


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


def test_the_model_that_stands_for_the_hosts_own_is_no_change():
    stated = {"cpu": {"mode": "host-model", "migratable": True}}
    live = "<domain><name>a</name><cpu mode='custom' match='exact' check='full'><model"
    live += " fallback='forbid'>EPYC</model><vendor>AMD</vendor></cpu></domain>"
    left = _unexpanded(differences(live, stated), stated)
    assert [edit.path for edit in left] == ["cpu.migratable"]
    other = live.replace("custom", "host-passthrough")
    assert "cpu.mode" in {edit.path for edit in _unexpanded(differences(other, stated), stated)}
    named = {"cpu": {"mode": "custom", "model": "Opteron_G1"}}
    assert [e.path for e in _unexpanded(differences(live, named), named)] == ["cpu.model"]


def test_what_is_waited_for_comes_back_with_its_addresses(host):
    outcome = host.run({**GUEST, "wait_for": "running"})
    (address,) = outcome["guests"][0]["addresses"]  # the driver makes one up
    assert address.startswith("192.168.122.")
    late = {**GUEST, "wait_for": "agent", "wait_timeout": "1s"}
    with pytest.raises(ApplyError, match=r"its agent does not answer .* after 1s"):
        host.run(late)
    assert host.run({**late, "state": "stopped"})["changed"] is True
    assert host.run({**late, "state": "absent"})["changed"] is True


def test_what_runs_and_what_it_uses_are_told(host):
    host.run({**GUEST, "description": "old"})
    domain = host.handle.lookupByName("web")
    changed = host.xml("web").replace("<vcpu placement='static'>2<", "<vcpu placement='static'>4<")
    host.handle.defineXMLFlags(changed, 0)
    options = {**LOOK, "root": str(host.layout.root)}
    found = look_at_guests({**options, "console_lines": 0, "status": True}, None)
    web, test = sorted(found["guests"], key=lambda guest: guest["name"], reverse=True)
    assert (web["owned"], web["adoptable"], test["owned"], test["adoptable"]) == (
        *(True, False),
        *(False, True),
    )
    assert (web["spec"]["vcpus"], web["live"]["vcpus"]) == (4, 2)
    assert web["restart_required"] is True
    assert test["restart_required"] is False
    assert web["status"]["memory"] == {}  # the test driver counts nothing
    domain.destroy()
    found = look_at_guests({**options, "names": ["web"], "console_lines": 0, "status": True}, None)
    (stopped,) = found["guests"]
    assert (stopped["live"], stopped["restart_required"], stopped["status"]) == (None, False, None)


class Gone:
    """Lets libvirt go away after some calls: what is asked of it then fails, and nobody is there.

    The test driver cannot be lost; a daemon that really goes is met in the lab.
    """

    def __init__(self, monkeypatch, after):
        self.left = after
        self.lost = False
        define = libvirt.virConnect.defineXMLFlags
        domains = libvirt.virConnect.listAllDomains
        monkeypatch.setattr(libvirt.virConnect, "defineXMLFlags", self.counted(define))
        monkeypatch.setattr(libvirt.virConnect, "listAllDomains", self.guarded(domains))
        monkeypatch.setattr(libvirt.virConnect, "isAlive", lambda _connection: not self.lost)

    def guarded(self, call):
        def inner(*arguments):
            if self.lost:
                raise libvirt.libvirtError("client socket is closed")
            return call(*arguments)

        return inner

    def counted(self, call):
        guarded = self.guarded(call)

        def inner(*arguments):
            self.left -= 1
            self.lost = self.lost or self.left < 0
            return guarded(*arguments)

        return inner


def test_a_libvirt_that_goes_away_is_named_and_the_next_run_completes(host, monkeypatch):
    bare = {key: value for key, value in GUEST.items() if key not in ("disks", "nics")}
    guests = [{**bare, "name": f"g{number}", "state": "stopped"} for number in range(9)]
    with monkeypatch.context() as patches:
        Gone(patches, after=2)
        with pytest.raises(ApplyError) as raised:
            host.run(*guests)
    first, second = str(raised.value).splitlines()
    assert first == "7 actions failed, 2 were carried out:"
    assert second.startswith("create guest/g2, guest/g3, guest/g4, guest/g5, guest/g6 and 2 more: ")
    assert "libvirt went away in the middle; run again" in second
    assert [action["object"] for action in raised.value.data["actions"]] == ["guest/g0", "guest/g1"]
    assert len(host.run(*guests)["actions"]) == 7
    assert host.run(*guests)["changed"] is False


def test_a_libvirt_that_is_gone_when_guests_are_read_is_named(host, monkeypatch):
    host.run(GUEST)
    Gone(monkeypatch, after=0).lost = True
    with pytest.raises(Exception, match=r"libvirt went away in the middle; run again.*closed"):
        host.run(GUEST)


@pytest.fixture
def volume(host):
    """Return the path of a volume that the driver's own pool has."""
    pool = host.handle.storagePoolLookupByName("default-pool")
    xml = "<volume><name>web.img</name><capacity>1048576</capacity></volume>"
    made = pool.createXML(xml)
    yield made.path()
    made.delete()


def on(name="web.img", **more):
    return {"target": "vda", "volume": {"pool": "default-pool", "volume": name}, **more}


def test_a_volume_is_written_as_the_file_that_it_is(host, volume):
    """AppArmor's profiles know no pools."""
    guest = {**GUEST, "disks": [on()], "state": "stopped"}
    done = host.run(guest)
    assert f"file='{volume}'" in host.xml("web")
    assert "disks" in paths(done)
    assert host.run(guest)["changed"] is False
    assert host.run({**guest, "disks": [{"target": "vda", "file": volume}]})["changed"] is False


def test_a_disk_on_an_encrypted_volume_is_opened_with_its_secret(host):
    pool = host.handle.storagePoolLookupByName("default-pool")
    luks = "<encryption format='luks'><secret type='passphrase' usage='web'/></encryption>"
    xml = f"<volume><name>luks</name><capacity>1048576</capacity><target>{luks}</target></volume>"
    pool.createXML(xml)
    try:
        guest = {**GUEST, "disks": [on("luks", format="raw")]}
        host.run(guest)
        assert "<secret type='passphrase' usage='web'/>" in host.xml("web")
        assert host.run(guest)["changed"] is False
        other = {"usage": "another"}
        stated = {**GUEST, "disks": [on("luks", format="raw", encryption=other)]}
        (change,) = host.run(stated)["actions"][0]["changes"]
        assert change["path"] == "disks[vda].encryption.usage"
        assert "usage='another'" in host.xml("web")
    finally:
        pool.storageVolLookupByName("luks").delete()


def test_a_domain_that_names_the_volume_is_left_as_it_is(host, volume):
    guest = {**GUEST, "disks": [{"target": "vda", "file": "/images/web.img"}], "state": "stopped"}
    host.run(guest)
    named = host.xml("web").replace("<disk type='file'", "<disk type='volume'")
    named = named.replace("file='/images/web.img'", "pool='default-pool' volume='web.img'")
    host.handle.defineXML(named)
    assert host.run({**guest, "disks": [on()]})["changed"] is False
    with pytest.raises(InputError, match=f"{volume}', which web has"):
        host.run({**guest, "name": "other", "disks": [on()]})


def test_a_volume_that_is_not_there_is_named_before_anything_is_touched(host, volume):
    guest = {**GUEST, "disks": [on("wbe.img")], "state": "stopped"}
    with pytest.raises(InputError, match=r"disks\[0\].volume: expected a volume of the pool"):
        host.run(guest)
    assert host.names() == ["test"]
    planned = host.run(guest, check_mode=True)  # an earlier task may make it
    assert planned["changed"] is True
    (warning,) = planned["warnings"]
    assert "disks[0].volume: 'wbe.img' is not there yet" in warning


def test_a_plan_does_not_fail_for_what_an_earlier_task_would_make(host):
    nics = [{"network": "lan"}, {"bridge": "br-none"}]
    disk = {"target": "vda", "volume": {"pool": "fast", "volume": "web"}}
    made = {"target": "vdb", "file": "/none/such/web.qcow2", "size": "1GiB"}
    guest = {**GUEST, "nics": nics, "disks": [disk, made]}
    planned = host.run(guest, check_mode=True, local=True)
    assert planned["changed"] is True
    filters, *missing = planned["warnings"]
    assert "this libvirt has no network filters" in filters  # the driver has none
    assert len(missing) == 4
    with pytest.raises(InputError, match="4 problems") as raised:
        host.run(guest, local=True)
    assert len(raised.value.problems) == 4


def test_what_a_fleet_s_plan_has_to_know_is_told_briefly(host):
    witness = {"serial": 2, "hosts": ["kvm1"], "guests": {"web": ["kvm1"]}}
    given = {**witness, "seen": {"run": ""}}
    remember = partial(write, host.layout, "local", given, list)
    host.run({**GUEST, "max_memory": "1GiB"}, remember=remember, check_mode=True)
    assert read(host.layout) == {}
    host.run({**GUEST, "max_memory": "1GiB"}, remember=remember)
    found = look_at_guests({**LOOK, "root": str(host.layout.root), "brief": True}, None)
    web = found["guests"][-1]
    assert (web["name"], web["vcpus"], web["memory"], web["max_memory"]) == (
        *("web", 2, "512MiB"),
        "1GiB",
    )
    assert "spec" not in web
    room = found["room"]
    # The test driver's machine: 16 processors in two NUMA nodes, one pool.
    assert (room["cpus"], room["memory"]) == (16, 3 << 30)
    assert [cell["cpus"] for cell in room["cells"]] == [8, 8]
    pool = room["pools"]["default-pool"]
    assert pool["capacity"] >= pool["available"] > 0
    assert pool["committed"] == 0
    assert set(found["witness"]) == {"local"}
    assert found["witness"]["local"].pop("when").endswith("Z")
    assert found["witness"]["local"] == witness
