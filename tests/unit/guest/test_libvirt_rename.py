# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A guest of libvirt that is declared under another name: it gets that name and is the same.

The domains are those of libvirt's test driver, the images and seeds are real ones.
"""

from __future__ import annotations

import hashlib
import json
import os
import re

import pytest
from ansible.module_utils.guest.leases import leases
from ansible.module_utils.guest.libvirt import images
from ansible.module_utils.seed import store
from ansible.module_utils.virt.identity import mac_for, uuid_for
from knife import KilledError, Knife

libvirt = pytest.importorskip("libvirt", reason="the binding is built for the controller's Python")

from testdriver import URI, Driver  # noqa: E402  (it needs the binding)

pytestmark = pytest.mark.skipif(store.tool() is None, reason="no program here makes ISOs")


class Host(Driver):
    """Guests of the test driver, with their images and seeds."""

    def __init__(self, root):
        super().__init__(root / "host")
        digest = hashlib.sha256(URI.encode()).hexdigest()[:8]
        self.seeds = root / f"host/var/lib/virtfleet/seeds-{digest}"
        self.images = root / "images"
        self.images.mkdir()

    def run(self, *guests, **more):
        return super().run(*guests, **{"local": True, "force": True, **more})

    def guest(self, name="web02", disk="web01", **more):
        file = str(self.images / f"{disk}.qcow2")
        whole = {
            "memory": "64MiB",
            "disks": [{"target": "vda", "file": file, "size": "1MiB"}],
            "nics": [{"network": "default"}],
            "cloud_init": {},
        }
        return {"name": name, **whole, **more}

    def seen(self):
        """Return what there is of domains, images and seeds."""
        domains = {
            domain.name(): (domain.isActive(), domain.autostart(), self.xml(domain.name()))
            for domain in self.domains()
        }
        held = [str(path.relative_to(self.seeds)) for path in sorted(self.seeds.rglob("*"))]
        return domains, sorted(os.listdir(self.images)), held

    def kept(self, file):
        return json.loads((self.seeds / file).with_suffix(".json").read_text())

    def empty(self):
        names = ("web01", "web02", "other")
        guests = [{"name": name, "state": "absent", "remove_disks": True} for name in names]
        self.run(*guests)
        self.forget()


@pytest.fixture
def host(tmp_path):
    found = Host(tmp_path)
    yield found
    found.close()


def verbs(outcome):
    return [f"{a['action']} {a['object'].partition('/')[2]}" for a in outcome["actions"]]


def paths(outcome):
    return [c["path"] for action in outcome["actions"] for c in action["changes"]]


def waiting(outcome):
    return [(p["object"], p["kind"]) for p in outcome["pending"]]


def macs(host, name):
    return re.findall(r"<mac address='([^']*)'", host.xml(name))


def test_it_keeps_all_that_it_is_and_gets_a_seed_with_its_name(host):
    host.run(host.guest("web01", state="stopped", autostart=True, protected=True))
    before = host.xml("web01")
    wish = host.guest(was="web01", state="stopped")
    planned = host.run(wish, check_mode=True)
    assert [guest["name"] for guest in planned["guests"]] == ["web01"]
    done = host.run(wish)
    assert planned["actions"] == done["actions"]
    assert verbs(done) == ["update web02"]
    assert paths(done) == ["name", "cloud_init.meta_data.local-hostname"]
    assert host.names() == ["test", "web02"]
    wanted = before.replace("<name>web01<", "<name>web02<").replace('name="web01"', 'name="web02"')
    assert host.xml("web02") == wanted.replace("/web01/1.iso", "/web02/1.iso")
    assert host.handle.lookupByName("web02").autostart() == 1
    assert host.seen()[2] == ["web02", "web02/1.iso", "web02/1.json"]
    meta = host.kept("web02/1.iso")["meta_data"]
    assert meta == {"instance-id": uuid_for("web01"), "local-hostname": "web02"}
    assert host.run(wish)["changed"] is False
    assert host.run(host.guest(state="stopped"))["changed"] is False


def test_one_that_runs_keeps_its_name_and_is_changed_as_it_is(host):
    host.run(host.guest("web01", max_memory="128MiB"))
    wish = host.guest(was="web01", max_memory="128MiB")
    done = host.run({**wish, "memory": "96MiB", "title": "same"})
    assert verbs(done) == ["update web01"]
    assert waiting(done) == [("guest/web02", "rename_waits")]
    assert host.names() == ["test", "web01"]
    assert host.seen()[2] == ["web01", "web01/1.iso", "web01/1.json"]
    wish.update(memory="96MiB", title="same", wait_for="running")
    again = host.run(wish)
    assert (again["changed"], [one["name"] for one in again["guests"]]) == (False, ["web01"])
    done = host.run({**wish, "state": "restarted"})
    assert verbs(done) == ["stop web01", "update web02", "start web02"]
    assert host.handle.lookupByName("web02").isActive()
    again = host.run(wish)
    assert (again["changed"], waiting(again)) == (False, [])
    assert host.seen()[2] == ["web02", "web02/1.iso", "web02/1.json"]


def test_saved_memory_goes_by_the_name_that_it_was_saved_with(host):
    host.run(host.guest("web01"))
    host.run(host.guest("web01", state="saved"))
    for state in ("saved", "present", "stopped"):
        done = host.run(host.guest(was="web01", state=state))
        assert (done["changed"], waiting(done)) == (False, [("guest/web02", "rename_waits")])
    done = host.run(host.guest(was="web01", state="restarted"))
    assert verbs(done) == ["start web01"]
    assert verbs(host.run(host.guest(was="web01", state="stopped"))) == [
        "stop web01",
        "update web02",
    ]


def test_it_goes_with_its_own_disks_under_either_name(host):
    host.run(host.guest("web01", state="stopped"))
    gone = {"name": "web02", "was": "web01", "state": "absent", "remove_disks": True}
    assert verbs(host.run(gone)) == ["delete web01"]
    assert host.seen() == ({}, [], [])
    host.run(host.guest("web01", state="stopped"))
    host.run(host.guest(was="web01", state="stopped"))
    assert verbs(host.run(gone)) == ["delete web02"]
    assert host.seen() == ({}, [], [])


def test_made_where_neither_name_is_there_it_is_the_same_guest(host):
    wish = host.guest(was="web01", state="stopped")
    host.run(wish)
    made = host.xml("web02")
    host.empty()
    host.run(host.guest("web01", state="stopped"))
    host.run(wish)
    for text in (made, host.xml("web02")):
        assert uuid_for("web01") in text
        assert mac_for("web01", 0) in text
    assert host.run(wish)["changed"] is False


def test_a_nic_that_comes_later_has_the_mac_that_its_lease_is_for(host):
    host.run(host.guest("web01", state="stopped"))
    nics = [{"network": "default"}, {"network": "default", "lease": "192.0.2.9"}]
    wish = host.guest(was="web01", state="stopped", nics=nics)
    assert f"nics[{mac_for('web01', 1)}]" in paths(host.run(wish))
    assert host.run(wish)["changed"] is False
    (lease,) = leases([wish], "default")
    assert (lease["mac"], lease["name"]) == (macs(host, "web02")[1], "web02")


def test_a_foreign_domain_is_taken_over_and_renamed_in_one_run(host):
    host.handle.lookupByName("test").destroy()
    wish = {"name": "ours", "was": "test", "state": "stopped"}
    done = host.run(wish)
    assert done["changed"] is False
    assert (
        done["blocked"][0]["reason"]
        == "it was test, and of that one: it was not made by this toolkit"
    )
    assert verbs(host.run({**wish, "adopt": True})) == ["adopt test", "update ours"]
    assert host.names() == ["ours"]
    assert host.run(wish)["changed"] is False
    host.handle.lookupByName("ours").rename("test", 0)
    host.handle.lookupByName("test").create()


def test_what_it_has_is_nobody_else_s(host):
    other = host.guest("other", "other", state="stopped")
    host.run(host.guest("web01", state="stopped"), other)
    wish = host.guest(was="web01", state="stopped")
    wish["disks"].append({"target": "vdb", "file": str(host.images / "b.qcow2"), "size": "1MiB"})
    host.run(wish, {"name": "other", "state": "absent", "remove_disks": True})
    assert host.seen()[1] == ["b.qcow2", "web01.qcow2"]


def test_a_seed_that_nothing_is_said_of_follows_too(host):
    host.run(host.guest("web01", state="stopped", cloud_init={"hostname": "stays"}))
    wish = {"name": "web02", "was": "web01", "state": "stopped"}
    assert paths(host.run(wish)) == ["name", "cloud_init.file"]
    assert host.seen()[2] == ["web02", "web02/1.iso", "web02/1.json"]
    assert host.kept("web02/1.iso")["meta_data"]["local-hostname"] == "stays"
    assert host.run(wish)["changed"] is False


def test_the_nature_of_a_guest_and_its_name_change_one_after_the_other(host):
    host.run(host.guest("web01", state="stopped"))
    other = {"uuid": "11111111-2222-4333-8444-555555555555", "replace": True, "state": "stopped"}
    done = host.run(host.guest(was="web01", **other))
    assert done["changed"] is False
    assert done["blocked"][0]["remedy"] == "have it renamed first, as it is, and made anew then"
    host.run(host.guest(was="web01", state="stopped"))
    kept = macs(host, "web02")
    assert verbs(host.run(host.guest(was="web01", **other))) == ["replace web02"]
    assert macs(host, "web02") == kept
    assert host.run(host.guest(was="web01", **other))["changed"] is False


CALLS = (
    (libvirt.virConnect, "defineXMLFlags"),
    (libvirt.virDomain, "create"),
    (libvirt.virDomain, "rename"),
    (libvirt.virDomain, "setAutostart"),
    (libvirt.virDomain, "setMetadata"),
    (libvirt.virDomain, "shutdown"),
    (images, "_qemu_img"),
    (store, "_make"),
    (store, "_write"),
    (os, "link"),
    (os, "replace"),
    (os, "unlink"),
    (os, "rmdir"),
)


@pytest.mark.sampled
def test_whenever_a_run_is_killed_the_next_one_completes_it(host, monkeypatch, moments):
    """End runs that rename a guest; another run comes before the one that completes it."""
    knife = Knife(monkeypatch, CALLS)
    instance = {"instance_id": "first"}
    before = [host.guest("web01", cloud_init=instance), host.guest("other", "other")]
    wish = host.guest(was="web01", state="restarted", autostart=True)
    wish["disks"].append({"target": "vdb", "file": str(host.images / "b.qcow2"), "size": "1MiB"})

    host.run(*before)
    knife.count = 0
    host.run(wish)
    calls, wanted = knife.count, host.seen()
    assert set(wanted[0]) == {"web02", "other"}
    assert wanted[1] == ["b.qcow2", "other.qcow2", "web01.qcow2"]
    assert calls > 20
    settled = {**wish, "state": "running"}
    for moment in moments(calls, 6):
        knife.left = None
        host.empty()
        host.run(*before)
        knife.left = moment
        with pytest.raises(KilledError):
            host.run(wish)
        knife.left = None
        host.run({**before[1], "title": f"after {moment}"})
        host.run({**before[1], "title": None})
        host.run(wish)
        assert host.run(settled)["changed"] is False, moment
        domains, files, held = host.seen()
        assert (set(domains), files) == (set(wanted[0]), wanted[1]), moment
        assert re.sub("/[0-9]+[.]", "/N.", str(held)) == re.sub("/[0-9]+[.]", "/N.", str(wanted[2]))
        (file,) = [one for one in held if one.startswith("web02/") and one.endswith(".iso")]
        assert host.kept(file)["meta_data"]["instance-id"] == "first", moment
