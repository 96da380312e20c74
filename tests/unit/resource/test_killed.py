# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A run that is killed at any of its calls is completed by the next, with no orphan and no double.

The objects are those of libvirt's test driver, which keeps them when the run ends. A run is killed
before and after each of the calls that change something.
"""

from __future__ import annotations

import json
import os
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
    (libvirt.virStoragePool, "create"),
    (libvirt.virStoragePool, "createXML"),
    (libvirt.virStoragePool, "createXMLFrom"),
    (libvirt.virStoragePool, "destroy"),
    (libvirt.virStoragePool, "setAutostart"),
    (libvirt.virStoragePool, "undefine"),
    (libvirt.virStorageVol, "delete"),
    (os, "replace"),  # of the ledger
)


def adopt_again(host):
    """Give the driver's own pool back to nobody."""
    path = Path(host.layout.state, "adopted.json")
    if path.exists():
        path.unlink()


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
        {"name": "fresh", "type": "dir", "path": "/srv/fresh"},
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
        assert host.run(plural, *after)["changed"] is False, moment
        noted = json.loads(Path(host.layout.state, "adopted.json").read_text(encoding="utf-8"))
        assert not any(found for kind, found in noted.items() if kind.startswith("new")), moment


DATA = {"name": "data", "type": "dir", "path": "/srv/data"}
VOLUMES = (
    [
        {"pool": "data", "name": "old", "size": "1MiB"},
        {"pool": "data", "name": "kept", "size": "1MiB"},
    ],
    [
        {"pool": "data", "name": "old", "state": "absent"},
        {"pool": "data", "name": "kept", "size": "1MiB"},
        {"pool": "data", "name": "fresh", "size": "2MiB"},
        {"pool": "data", "name": "copy", "from": "fresh"},
    ],
)


def test_whenever_a_run_for_volumes_is_killed_the_next_one_completes_it(host, monkeypatch):
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
        return sorted(one.name() for one in pool.listAllVolumes()), owned

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
    assert wanted[0] == ["copy", "fresh", "kept"]
    assert len(wanted[1]) == 3
    assert calls >= 10
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
