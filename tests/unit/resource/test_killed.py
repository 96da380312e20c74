# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A run that is killed at any of its calls is completed by the next, with no orphan and no double.

The objects are those of libvirt's test driver, which keeps them when the run ends. A run is killed
before and after each of the calls that change something.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from ansible.module_utils.resource.ledger import Ledger
from ansible.module_utils.resource.volumes import Volumes, converge
from ansible.module_utils.virt.connection import Connection
from knife import KilledError, Knife

libvirt = pytest.importorskip("libvirt", reason="the binding is built for the controller's Python")

CALLS = (
    (libvirt.virConnect, "networkDefineXMLFlags"),
    (libvirt.virConnect, "storagePoolDefineXML"),
    (libvirt.virNetwork, "create"),
    (libvirt.virNetwork, "destroy"),
    (libvirt.virNetwork, "setAutostart"),
    (libvirt.virNetwork, "undefine"),
    (libvirt.virNetwork, "update"),
    (libvirt.virStoragePool, "build"),
    (libvirt.virStoragePool, "create"),
    (libvirt.virStoragePool, "createXML"),
    (libvirt.virStoragePool, "createXMLFrom"),
    (libvirt.virStoragePool, "destroy"),
    (libvirt.virStoragePool, "setAutostart"),
    (libvirt.virStoragePool, "undefine"),
    (libvirt.virStorageVol, "delete"),
    (libvirt.virStorageVol, "resize"),
    (libvirt.virStorageVol, "wipe"),
    (os, "replace"),  # of the ledger
)


def adopt_again(host):
    """Give the driver's own pool back to nobody."""
    path = Path(host.layout.state, "adopted.json")
    if path.exists():
        path.unlink()


OWN = "11111111-2222-4333-8444-555555555555"
NETWORKS = (
    [
        {"name": "old", "mode": "isolated"},
        {"name": "lan", "mode": "nat", "ips": [{"address": "10.9.0.1", "prefix": 24}]},
        {"name": "off", "mode": "isolated", "state": "inactive"},
    ],
    [
        {"name": "old", "state": "absent"},
        {"name": "lan", "autostart": False, "state": "inactive"},
        {"name": "off", "mtu": 9000, "domain": "lan.test"},
        {"name": "fresh", "mode": "isolated"},
    ],
)
POOLS = (
    [
        {"name": "old", "type": "dir", "path": "/srv/old"},
        {"name": "data", "type": "dir", "path": "/srv/data", "state": "inactive"},
    ],
    [
        {"name": "old", "state": "absent"},
        {"name": "data", "autostart": False},
        {"name": "fresh", "type": "dir", "path": "/srv/fresh", "uuid": OWN},
        {"name": "default-pool", "adopt": True},
    ],
)


@pytest.mark.parametrize(
    ("plural", "before", "after"),
    [("networks", *NETWORKS), ("pools", *POOLS)],
    ids=["networks", "pools"],
)
def test_whenever_a_run_is_killed_the_next_one_completes_it(
    host, monkeypatch, plural, before, after
):
    knife = Knife(monkeypatch, CALLS)
    host.run(plural, *before)
    knife.count = 0
    host.run(plural, *after)
    calls, wanted = knife.count, host.everything()
    assert calls >= 16
    for moment in range(calls):
        knife.left = None
        host.clear()
        adopt_again(host)
        host.run(plural, *before)
        knife.left = moment
        with pytest.raises(KilledError):
            host.run(plural, *after)
        knife.left = None
        host.run(plural, *after)
        assert host.everything() == wanted, moment
        again = host.run(plural, *after)
        assert (again["changed"], again["blocked"]) == (False, []), moment
        noted = json.loads(Path(host.layout.state, "adopted.json").read_text(encoding="utf-8"))
        assert not any(found for kind, found in noted.items() if kind.startswith("new")), moment


def lan(lease, **more):
    dhcp = {"hosts": [{"mac": "02:00:00:00:00:01", "ip": f"10.9.0.{lease}"}]}
    ips = [{"address": "10.9.0.1", "prefix": 24, "dhcp": dhcp}]
    return {"name": "lan", "mode": "nat", "bridge": "br-lan", "ips": ips, **more}


def test_whenever_a_new_start_is_killed_the_next_run_plugs_the_guests_in(
    host, monkeypatch, taps, waiting
):
    before, after = lan(20), lan(30, mtu=9000, restart=True)
    knife = Knife(monkeypatch, (*CALLS, (Ledger, "_note"), (host, "command")))
    ledger = Path(host.layout.state, "adopted.json")

    def begin():
        knife.left = None
        host.clear()
        waiting.stored.clear()
        ledger.unlink(missing_ok=True)
        host.run("networks", before)
        taps.plug("br-lan")

    def acts(*, check_mode=False):
        outcome = host.run("networks", after, check_mode=check_mode)
        return [(a["action"], a["when"], a["changes"]) for a in outcome["actions"]]

    begin()
    knife.count = 0
    whole = [action for action, _, _ in acts()]
    calls, wanted = knife.count, host.everything()
    assert whole == ["update", "update", "restart"]
    assert "9000" in str(wanted)
    assert "10.9.0.30" in str(wanted)
    attached = set()
    for moment in range(calls):
        begin()
        knife.left = moment
        with pytest.raises(KilledError):
            acts()
        knife.left = None
        planned, cut = acts(check_mode=True), taps.masters().count(None)
        assert acts() == planned, moment
        assert taps.masters() == ["br-lan", "br-lan"], moment
        assert host.everything() == wanted, moment
        assert acts() == [], moment
        noted = json.loads(ledger.read_text(encoding="utf-8")) if ledger.exists() else {}
        assert not any(noted.values()), moment
        verbs = [action for action, _, _ in planned]
        if "restart" not in verbs:
            assert verbs == ["start"] * ("start" in verbs) + ["attach"] * bool(cut), moment
            attached.add((*verbs, cut))
    assert attached == {("start", "attach", 2), ("attach", 2), ("attach", 1), (0,)}


def test_a_pool_that_has_to_be_built_is_completed(host, monkeypatch):
    """SIMULATED. The driver's pools start without what they stand on."""
    create, build = libvirt.virStoragePool.create, libvirt.virStoragePool.build
    built = set()

    def start(one, flags=0):
        if one.name() not in built:
            raise libvirt.libvirtError("mount failed")
        return create(one, flags)

    def make(one, flags=0):
        if one.name() in built:
            raise libvirt.libvirtError("there is a file system already")
        built.add(one.name())
        return build(one, 0)  # the driver knows no flags

    monkeypatch.setattr(libvirt.virStoragePool, "create", start)
    monkeypatch.setattr(libvirt.virStoragePool, "build", make)
    entry = {"name": "fs", "type": "fs", "devices": ["/dev/vdz"], "path": "/srv/fs", "build": True}
    knife = Knife(monkeypatch, CALLS)
    host.run("pools", entry)
    calls, wanted = knife.count, host.everything()
    assert built == {"fs"}
    for moment in range(calls):
        knife.left = None
        host.clear()
        built.clear()
        knife.left = moment
        with pytest.raises(KilledError):
            host.run("pools", entry)
        knife.left = None
        host.run("pools", entry)
        assert host.everything() == wanted, moment
        assert host.run("pools", entry)["changed"] is False, moment


DATA = {"name": "data", "type": "dir", "path": "/srv/data"}
VOLUMES = (
    [
        {"pool": "data", "name": "old", "size": "1MiB"},
        {"pool": "data", "name": "kept", "size": "1MiB"},
    ],
    [
        {"pool": "data", "name": "old", "state": "absent", "wipe": True},
        {"pool": "data", "name": "kept", "size": "3MiB"},
        {"pool": "data", "name": "fresh", "size": "2MiB"},
        {"pool": "data", "name": "copy", "from": "fresh"},
    ],
)


def simulate_volumes(monkeypatch):
    """Do what the driver does not do with volumes."""
    delete, create = libvirt.virStorageVol.delete, libvirt.virStoragePool.createXML

    def resize(one, size, _flags=0):
        pool, xml = one.storagePoolLookupByVolume(), one.XMLDesc()
        delete(one)
        create(pool, re.sub("(<capacity[^>]*>)[0-9]+", rf"\g<1>{size}", xml), 0)

    monkeypatch.setattr(libvirt.virStorageVol, "resize", resize)
    monkeypatch.setattr(libvirt.virStorageVol, "wipe", lambda _: 0)


def test_whenever_a_run_for_volumes_is_killed_the_next_one_completes_it(host, monkeypatch):
    simulate_volumes(monkeypatch)
    ledger = Path(host.layout.state, "adopted.json")

    def run(entries):
        connection = Connection("test:///default")
        try:
            mine = Volumes(connection, "local", Ledger(host.layout))
            return converge(mine, host.layout, entries, "kvm1", check_mode=False)
        finally:
            connection.close()

    def seen():
        pool = host.handle.storagePoolLookupByName("data")
        owned = json.loads(ledger.read_text(encoding="utf-8"))["volume"]
        return sorted((one.name(), one.info()[1]) for one in pool.listAllVolumes()), owned

    def clear():
        pool = host.handle.storagePoolLookupByName("data")
        for one in pool.listAllVolumes():
            one.delete()
        ledger.unlink()

    before, after = VOLUMES
    host.run("pools", DATA)
    knife = Knife(monkeypatch, CALLS)
    run(before)
    knife.count = 0
    run(after)
    calls, wanted = knife.count, seen()
    assert wanted[0] == [("copy", 2 << 20), ("fresh", 2 << 20), ("kept", 3 << 20)]
    assert len(wanted[1]) == 3
    assert calls >= 14
    for moment in range(calls):
        knife.left = None
        clear()
        run(before)
        knife.left = moment
        with pytest.raises(KilledError):
            run(after)
        knife.left = None
        run(after)
        assert seen() == wanted, moment
        assert run(after)["changed"] is False, moment
    knife.left = None
    clear()
