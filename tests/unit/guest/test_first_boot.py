# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The seed of a guest: made with it, changed for its next boot, kept, and gone with it.

The domains are those of libvirt's test driver, the seeds real ISOs.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path

import pytest
from ansible.module_utils.converge.errors import InputError
from ansible.module_utils.guest.local import guests_info
from ansible.module_utils.seed import store
from knife import KilledError, Knife

libvirt = pytest.importorskip("libvirt", reason="the binding is built for the controller's Python")

from ansible.module_utils.guest.libvirt.engine import LibvirtEngine  # noqa: E402
from testdriver import URI, Driver  # noqa: E402  (it needs the binding)

pytestmark = pytest.mark.skipif(store.tool() is None, reason="no program here makes ISOs")
SECRET = "hunter2"  # noqa: S105


class Host(Driver):
    """Guests of the test driver and their seeds."""

    def __init__(self, root):
        super().__init__(root / "host")
        digest = hashlib.sha256(URI.encode()).hexdigest()[:8]
        self.seeds = root / f"host/var/lib/virtfleet/seeds-{digest}"

    def run(self, *guests, **more):
        return super().run(*guests, local=True, force=True, **more)

    def files(self):
        found = [path.relative_to(self.seeds) for path in self.seeds.rglob("*")]
        return sorted(str(path) for path in found if (self.seeds / path).is_file())

    def disks(self, name):
        xml = self.xml(name)
        return re.findall(
            r"<source file='([^']*)'.*?<target dev='(\w+)' bus='(\w+)'", xml, re.DOTALL
        )

    def kept(self, number=1, name="web"):
        return json.loads((self.seeds / name / f"{number}.json").read_text())

    def info(self, name="web"):
        engine = LibvirtEngine(URI, local=True, state=self.layout.state)
        try:
            ((found,),) = [guests_info(engine, [name], 0, status=False)]
        finally:
            engine.close()
        return found


@pytest.fixture
def host(tmp_path):
    found = Host(tmp_path)
    yield found
    found.close()
    for path in found.seeds.rglob("*.iso"):
        path.unlink()


def web(**more):
    return {"name": "web", "memory": "64MiB", "cloud_init": {}, **more}


def paths(result):
    return [c["path"] for action in result["actions"] for c in action["changes"]]


def test_a_guest_is_made_with_its_seed(host):
    planned = host.run(web(), check_mode=True)
    assert host.files() == []
    done = host.run(web())
    assert [a["action"] for a in done["actions"]] == ["create", "start"]
    assert paths(planned) == paths(done)
    assert "cloud_init.meta_data.local-hostname" in paths(done)
    assert host.files() == ["web/1.iso", "web/1.json"]
    assert host.disks("web") == [(str(host.seeds / "web/1.iso"), "vdz", "virtio")]
    assert "<readonly/>" in host.xml("web")
    assert host.kept()["meta_data"]["instance-id"] == host.info()["uuid"]
    assert host.run(web())["changed"] is False
    assert host.files() == ["web/1.iso", "web/1.json"]


def test_it_stands_behind_the_other_disks_and_is_none_of_them(host, tmp_path):
    disk = {"target": "vda", "file": str(tmp_path / "a.img"), "size": "1MiB"}
    host.run(web(disks=[disk]))
    assert [target for _, target, _ in host.disks("web")] == ["vda", "vdz"]
    spec = host.info()["spec"]
    assert [disk["target"] for disk in spec["disks"]] == ["vda"]
    assert host.run({"name": "web", "disks": [disk]})["changed"] is False
    assert host.run({"name": "web", "memory": "64MiB"})["changed"] is False
    assert host.run(web(disks=[disk]))["changed"] is False
    assert host.info()["restart_required"] is False


def test_another_seed_is_for_the_next_boot(host):
    host.run(web(cloud_init={"user_data": {"password": SECRET, "packages": ["a"]}}))
    wanted = web(cloud_init={"user_data": {"password": "other", "packages": ["b"]}})
    planned = host.run(wanted, check_mode=True)
    assert host.files() == ["web/1.iso", "web/1.json"]
    done = host.run(wanted)
    (action,) = done["actions"]
    assert (action["action"], action["when"]) == ("update", "next_boot")
    changed = {"cloud_init.user_data.password", "cloud_init.user_data.packages"}
    assert set(paths(done)) == changed
    assert planned["actions"] == done["actions"]
    assert SECRET not in json.dumps(done)
    assert host.disks("web") == [(str(host.seeds / "web/2.iso"), "vdz", "virtio")]
    # The test driver's running domain has a definition of its own, as a real one has.
    assert host.files() == ["web/1.iso", "web/1.json", "web/2.iso", "web/2.json"]
    again = host.run(wanted)
    assert again["changed"] is False
    (pending,) = again["pending"]
    assert pending["kind"] == "restart_required"
    assert host.info()["restart_required"] is True
    assert "other" not in json.dumps(host.info())
    assert host.info()["spec"]["cloud_init"]["user_data"]["packages"] == ["b"]
    host.run({**wanted, "state": "restarted"})
    assert host.run(wanted)["pending"] == []
    host.run(web(cloud_init={"user_data": {"password": "third", "packages": ["b"]}}))
    assert host.files() == ["web/2.iso", "web/2.json", "web/3.iso", "web/3.json"]


def test_a_stopped_guest_has_one_seed(host):
    host.run(web(state="stopped"))
    done = host.run(web(state="stopped", cloud_init={"hostname": "other"}))
    assert paths(done) == ["cloud_init.meta_data.local-hostname"]
    assert host.files() == ["web/2.iso", "web/2.json"]
    assert host.kept(2)["meta_data"]["instance-id"] == host.info()["uuid"]


def test_a_guest_without_one_gets_one_and_loses_it_again(host):
    host.run({"name": "web", "memory": "64MiB", "state": "stopped"})
    assert "cloud_init.meta_data.instance-id" in paths(host.run(web(state="stopped")))
    assert len(host.disks("web")) == 1
    gone = host.run(web(state="stopped", cloud_init=None))
    assert paths(gone) == ["cloud_init"]
    assert host.disks("web") == []
    assert host.files() == []
    assert host.run(web(state="stopped", cloud_init=None))["changed"] is False


def test_it_goes_with_its_guest(host):
    host.run(web(), web(name="web-1"))
    host.run({"name": "web", "state": "absent"})
    assert host.files() == ["web-1/1.iso", "web-1/1.json"]
    assert not (host.seeds / "web").exists()


def test_a_seed_that_is_not_whole_is_made_anew(host):
    host.run(web(state="stopped"))
    (host.seeds / "web/1.json").unlink()
    done = host.run(web(state="stopped"))
    assert done["changed"] is True
    assert host.files() == ["web/2.iso", "web/2.json"]
    assert host.run(web(state="stopped"))["changed"] is False


def test_addresses_follow_the_nics(host):
    nics = [{"network": "default"}, {"network": "default", "ip": {"addresses": ["192.0.2.9/24"]}}]
    host.run(web(state="stopped", nics=nics))
    macs = re.findall(r"<mac address='([^']*)'", host.xml("web"))
    ethernets = host.kept()["network_config"]["ethernets"]
    assert ethernets == {"nic1": {"match": {"macaddress": macs[1]}, "addresses": ["192.0.2.9/24"]}}
    assert host.run(web(state="stopped", nics=nics))["changed"] is False
    assert host.run(web(state="stopped"))["changed"] is False


def test_a_guest_made_anew_keeps_its_seed(host):
    host.run(web(state="stopped", cloud_init={"user_data": {"password": SECRET}}))
    uuid = "2d1f6c5e-0000-4000-8000-000000000001"
    host.run({"name": "web", "uuid": uuid, "replace": True, "state": "stopped"})
    assert host.info()["uuid"] == uuid
    assert host.kept(2)["user_data"] == {"password": SECRET}
    assert host.files() == ["web/2.iso", "web/2.json"]


def test_another_bus_is_another_disk(host):
    host.run(web(state="stopped"))
    done = host.run(web(state="stopped", cloud_init={"bus": "sata"}))
    assert paths(done) == ["cloud_init.bus"]
    assert [(target, bus) for _, target, bus in host.disks("web")] == [("sdf", "sata")]
    assert host.run(web(state="stopped", cloud_init={"bus": "sata"}))["changed"] is False


def test_a_saved_guest_goes_on_with_the_seed_that_it_was_saved_with(host):
    host.run(web())
    host.run(web(state="saved"))
    if host.handle.lookupByName("web").hasManagedSaveImage() != 1:
        pytest.fail("the test driver has no managed save any more: prove it in another way")
    host.run(web(state="saved", cloud_init={"hostname": "other"}))
    host.run(web(state="saved", cloud_init={"hostname": "other"}))
    assert host.files() == ["web/1.iso", "web/1.json", "web/2.iso", "web/2.json"]
    assert host.disks("web") == [(str(host.seeds / "web/2.iso"), "vdz", "virtio")]
    host.run(web(state="absent"))
    assert host.files() == []


def test_what_another_run_changed_meanwhile_is_not_cleared_away(host):
    """The plan is made without the lock: what it saw may be old when it is cleared up."""
    host.run(web(state="stopped"))
    engine = LibvirtEngine(URI, local=True, state=host.layout.state)
    try:
        engine.observe(["web"])
        host.run(web(state="stopped", cloud_init={"hostname": "other"}))
        engine.sweep()
    finally:
        engine.close()
    assert host.files() == ["web/2.iso", "web/2.json"]


def test_what_could_not_work_is_refused_before_anything_is_touched(host, monkeypatch):
    with pytest.raises(InputError, match=r"nics\[0\].ip: expected cloud_init beside it"):
        host.run({"name": "web", "nics": [{"network": "default", "ip": {"dhcp4": True}}]})
    disk = {"target": "vdz", "file": "/images/a.img"}
    with pytest.raises(InputError, match=r"disks\[0\].target: expected another target"):
        host.run(web(disks=[disk]))
    with pytest.raises(InputError, match="did you mean cloud_init"):
        host.run({"name": "web", "cloudinit": {}})
    with pytest.raises(InputError, match="cloud_init: expected the libvirt of this host"):
        Driver.run(host, web(), local=False)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(InputError, match="cloud_init: expected one of xorrisofs"):
        host.run(web())
    assert host.domains() == []
    assert host.run(web(), check_mode=True)["changed"] is True  # an earlier task may bring it


CALLS = (
    (libvirt.virConnect, "defineXMLFlags"),
    (libvirt.virDomain, "create"),
    (libvirt.virDomain, "undefineFlags"),
    (store, "_make"),
    (store, "_write"),
    (os, "replace"),
    (os, "unlink"),
    (os, "rmdir"),
)


@pytest.mark.sampled
def test_whenever_a_run_is_killed_the_next_one_completes_it(host, monkeypatch, moments):
    knife = Knife(monkeypatch, CALLS)
    before = [web(state="stopped"), web(name="old", state="stopped")]
    after = [
        web(state="stopped", cloud_init={"hostname": "other"}),
        {"name": "old", "state": "absent"},
        web(name="new", state="stopped"),
    ]

    def seen():
        kept = {name: self_kept(name) for name in ("web", "new")}
        return kept, {name.partition("/")[0] for name in host.files()}, len(host.files())

    def self_kept(name):
        ((file, _, _),) = host.disks(name)
        return json.loads(Path(file).with_suffix(".json").read_text())

    def begin():
        host.run(*({"name": name, "state": "absent"} for name in ("web", "new", "old")))
        host.run(*before)

    host.run(*before)
    host.run(*after)  # whose answers are known from now on
    begin()
    knife.count = 0
    host.run(*after)
    calls, wanted = knife.count, seen()
    assert wanted[1:] == ({"web", "new"}, 4)
    assert calls > 20
    for moment in moments(calls, 6):
        knife.left = None
        begin()
        knife.left = moment
        with pytest.raises(KilledError):
            host.run(*after)
        knife.left = None
        host.run(*after)
        assert seen() == wanted, moment
        assert host.run(*after)["changed"] is False, moment
