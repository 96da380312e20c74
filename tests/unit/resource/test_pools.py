# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pools made, changed, taken over and removed with libvirt's test driver."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
from ansible.module_utils.converge.errors import ApplyError, InputError, VirtfleetError
from ansible.module_utils.resource import pools as module
from ansible.module_utils.resource import servers
from ansible.module_utils.resource.kind import Seen
from ansible.module_utils.resource.ledger import Ledger
from ansible.module_utils.resource.servers import answers
from ansible.module_utils.virt.document import tree

libvirt = pytest.importorskip("libvirt", reason="the binding is built for the controller's Python")

DATA = {"name": "data", "type": "dir", "path": "/srv/data"}


def verbs(outcome):
    return [f"{a['object']} {a['action']} {a['when']}" for a in outcome["actions"]]


@pytest.fixture
def pools(host):
    return lambda *entries, **how: host.run("pools", *entries, **how)


def test_a_pool_comes_and_goes(pools, host):
    before = host.everything()
    planned = pools(DATA, check_mode=True)
    assert host.everything() == before
    done = pools(DATA)
    assert verbs(planned) == verbs(done) == ["pool/data create now", "pool/data start now"]
    pool = host.handle.storagePoolLookupByName("data")
    assert (pool.isActive(), pool.autostart()) == (1, 1)
    (seen,) = done["pools"]
    assert seen["owned"] is True
    assert seen["capacity"] > seen["available"] - 1
    assert pools(DATA)["changed"] is False
    gone = pools({"name": "data", "state": "absent"})
    assert verbs(gone) == ["pool/data stop now", "pool/data delete now"]
    assert host.everything() == before


def test_a_change_waits_for_the_next_start(pools):
    pools(DATA)
    changed = {**DATA, "permissions": {"mode": "0700"}}
    outcome = pools(changed)
    assert verbs(outcome) == ["pool/data update next_boot"]
    assert [item["kind"] for item in outcome["pending"]] == ["restart_required"]


def test_another_kind_is_another_pool(pools):
    pools(DATA)
    other = {"name": "data", "type": "logical", "source_name": "vg0", "path": None}
    outcome = pools(other)
    assert outcome["changed"] is False
    assert "type differs, which only a new pool can have" in outcome["blocked"][0]["reason"]


def test_one_with_a_uuid_of_its_own_stays_ours(pools, host):
    first, second = "11111111-2222-4333-8444-555555555555", "22222222-2222-4333-8444-555555555555"
    own = {**DATA, "uuid": first}
    assert verbs(pools(own)) == ["pool/data create now", "pool/data start now"]
    again = pools(own)
    assert (again["changed"], again["blocked"]) == (False, [])
    pools({**DATA, "uuid": second, "replace": True})
    assert pools({"name": "data"})["pools"][0]["owned"] is True
    noted = json.loads(Path(host.layout.state, "adopted.json").read_text(encoding="utf-8"))
    assert noted["pool"] == {second: "local"}
    assert verbs(pools({"name": "data", "state": "absent"}))[-1] == "pool/data delete now"
    noted = json.loads(Path(host.layout.state, "adopted.json").read_text(encoding="utf-8"))
    assert noted["pool"] == {}


def test_one_of_somebody_else_is_taken_over_if_that_is_asked_for(pools, host):
    found = pools({"name": "default-pool", "state": "present"})
    assert found["blocked"][0]["reason"] == "it was not made by this toolkit for this fleet"
    assert not os.path.exists(host.layout.state)
    taken = pools({"name": "default-pool", "state": "present", "adopt": True})
    assert verbs(taken) == ["pool/default-pool adopt now"]
    assert pools({"name": "default-pool", "state": "present"})["changed"] is False
    ledger = json.loads(Path(host.layout.state, "adopted.json").read_text(encoding="utf-8"))
    assert list(ledger["pool"].values()) == ["local"]
    found = pools({"name": "default-pool", "state": "present"}, fleet="south")
    assert found["blocked"][0]["reason"] == "it belongs to the fleet 'local'"


def test_a_broken_ledger_is_told(pools, host):
    pools(DATA)
    Path(host.layout.state, "adopted.json").write_text("{", encoding="utf-8")
    with pytest.raises(VirtfleetError, match=r"adopted.json cannot be read .* move it away"):
        pools(DATA)


def test_a_place_that_another_pool_has_is_told(pools):
    pools(DATA)
    with pytest.raises(
        InputError, match=r"pools\[0\].path: .*'/srv/data', which the pool data has"
    ):
        pools({**DATA, "name": "other", "path": "/srv/data/"})
    two = [{**DATA, "name": name, "path": "/srv/new"} for name in ("a", "b")]
    with pytest.raises(InputError, match=r"pools\[1\].path: .*which the pool a has"):
        pools(*two)


class Library:
    """What is asked of libvirt when a pool starts, which fails until it is built."""

    def __init__(self, monkeypatch, *, empty=True):
        self.calls = []
        self.built = False
        pool = libvirt.virStoragePool
        create = pool.create

        def start(one, flags=0):
            self.calls.append("create")
            if not self.built:
                raise libvirt.libvirtError("mount failed")
            return create(one, flags)

        def build(_one, flags=0):
            self.calls.append(f"build {flags}")
            if not empty:
                raise libvirt.libvirtError("device already contains a filesystem")
            self.built = True
            return 0

        monkeypatch.setattr(pool, "create", start)
        monkeypatch.setattr(pool, "build", build)


FS = {"name": "fs", "type": "fs", "devices": ["/dev/vdz"], "path": "/srv/fs", "format": "ext4"}
NO_OVERWRITE = libvirt.VIR_STORAGE_POOL_BUILD_NO_OVERWRITE


def test_what_a_start_lacks_is_built_and_never_over_something(pools, monkeypatch):
    library = Library(monkeypatch)
    pools({**FS, "build": True})
    assert library.calls == ["create", f"build {NO_OVERWRITE}", "create"]
    library = Library(monkeypatch, empty=False)
    with pytest.raises(ApplyError, match=r"cannot be built: device already contains"):
        pools({**FS, "name": "fs2", "path": "/srv/2", "devices": ["/dev/vdy"], "build": True})
    assert library.calls == ["create", f"build {NO_OVERWRITE}"]


def test_a_disk_is_not_written_to_unasked(pools, monkeypatch):
    library = Library(monkeypatch)
    with pytest.raises(ApplyError, match=r"mount failed: state build: true"):
        pools(FS)
    assert library.calls == ["create"]


def test_a_folder_is_made_unless_that_is_refused(pools, monkeypatch):
    library = Library(monkeypatch)
    pools(DATA)
    assert library.calls == ["create", "build 0", "create"]
    library = Library(monkeypatch)
    with pytest.raises(ApplyError, match="mount failed"):
        pools({**DATA, "name": "b", "path": "/srv/b", "build": False})
    assert library.calls == ["create"]


@pytest.mark.parametrize("by", ["the host", "an option"])
def test_a_server_that_does_not_answer_is_named(by):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        spec = {"type": "netfs", "path": "/srv/nas", "hosts": [{"name": "127.0.0.1"}]}
        if by == "the host":
            spec["hosts"][0]["port"] = port
        else:
            spec["mount_options"] = ["soft", f"port={port}"]
        answers("nas", spec)
    expected = rf"127.0.0.1 does not answer on port {port} .*the pool nas \(/srv/nas\) is on it"
    with pytest.raises(VirtfleetError, match=expected):
        answers("nas", spec)
    answers("nas", {**spec, "mount_options": ["proto=rdma"]})  # which no TCP tells of


@pytest.mark.parametrize(
    ("spec", "port"),
    [
        ({"type": "dir"}, None),
        ({"type": "rbd"}, None),
        ({"type": "netfs"}, 2049),
        ({"type": "netfs", "format": "cifs"}, 445),
        ({"type": "netfs", "format": "glusterfs"}, 24007),
        ({"type": "netfs", "mount_options": ["proto=tcp6", "port=20049"]}, 20049),
        ({"type": "netfs", "mount_options": ["port=0"]}, None),
        ({"type": "netfs", "mount_options": ["udp"]}, None),
        ({"type": "iscsi"}, 3260),
    ],
)
def test_where_a_server_listens(spec, port):
    assert servers._port(spec) == port


@pytest.fixture
def served():
    """Give the port of a server, and what takes it away."""
    server = socket.create_server(("127.0.0.1", 0))
    yield server.getsockname()[1], server.close
    server.close()


def share(port):
    hosts = [{"name": "127.0.0.1", "port": port}]
    return {"name": "nas", "type": "netfs", "hosts": hosts, "dir": "/export", "path": "/srv/nas"}


@pytest.fixture
def refreshed(monkeypatch):
    """Return the pools that libvirt has looked at anew."""
    found = []
    refresh = libvirt.virStoragePool.refresh

    def look(one, flags=0):
        found.append(one.name())
        return refresh(one, flags)

    monkeypatch.setattr(libvirt.virStoragePool, "refresh", look)
    return found


def test_a_pool_is_looked_at_anew_before_its_room_is_told(pools, host, refreshed, monkeypatch):
    pools(DATA)
    asked = {**DATA, "refresh": True}
    kind = type(host.kind("pools"))
    observe = kind.observe
    monkeypatch.setattr(kind, "observe", lambda self: refreshed.append("seen") or observe(self))
    for check_mode, calls in ((True, ["seen"]), (False, ["seen", "data", "seen"])):
        refreshed.clear()
        outcome = pools(asked, check_mode=check_mode)
        assert (outcome["changed"], outcome["actions"]) == (False, [])
        assert refreshed == calls
    refreshed.clear()
    pools(DATA)
    assert refreshed == ["seen"]


def test_what_is_off_or_refused_is_not_looked_at_anew(pools, host, refreshed):
    entries = [
        {**DATA, "refresh": True, "state": "inactive"},
        {"name": "none", "state": "absent", "refresh": True},
        {"name": "default-pool", "state": "present", "refresh": True},
        {"name": "more", "type": "dir", "path": "/srv/more", "refresh": True},
    ]
    pools(*entries)
    assert refreshed == ["more"]
    refreshed.clear()
    pools({**entries[2], "adopt": True})
    assert refreshed == ["default-pool"]


def test_a_share_whose_server_is_away_is_left_alone(pools, host, served, refreshed):
    port, leave = served
    host.local = True
    pools(share(port))
    assert pools({**share(port), "refresh": True})["changed"] is False
    leave()
    away = rf"127.0.0.1 does not answer on port {port} .*the pool nas \(/srv/nas\) is on it"
    with pytest.raises(ApplyError, match=f"^refresh pool/nas: {away}") as raised:
        pools({**share(port), "refresh": True}, {**DATA, "refresh": True})
    assert refreshed == ["nas", "data"]
    assert [one["state"] for one in raised.value.data["pools"]] == ["active", "active"]
    kind = host.kind("pools")
    with pytest.raises(VirtfleetError, match=away):
        kind.restart("nas", {})
    kind.connection.close()
    assert host.handle.storagePoolLookupByName("nas").isActive()


def test_a_pool_that_cannot_be_looked_at_anew_is_told(pools, monkeypatch):
    def busy(*_):
        raise libvirt.libvirtError("pool has asynchronous jobs running")

    monkeypatch.setattr(libvirt.virStoragePool, "refresh", busy)
    with pytest.raises(ApplyError, match=r"^refresh pool/data: pool has asynchronous") as raised:
        pools({**DATA, "refresh": True})
    assert [action["action"] for action in raised.value.data["actions"]] == ["create", "start"]


OFFER = """<storagepoolCapabilities>
  <pool type='dir' supported='yes'/><pool type='rbd' supported='no'/>
  <pool type='vstorage' supported='no'/>
</storagepoolCapabilities>"""


@pytest.mark.parametrize(
    ("kind", "told"),
    [("dir", []), ("rbd", ["as the role kvm_storage does"]), ("vstorage", [None]), ("zfs", [])],
)
def test_a_kind_that_libvirt_has_no_driver_of_is_told(host, monkeypatch, kind, told):
    """SIMULATED. The driver of the tests does not say what it has."""
    pools = host.kind("pools")
    stated = {"new": {"type": kind}}
    assert list(pools.clashes(stated, {}, check_mode=False)) == []
    monkeypatch.setattr(libvirt.virConnect, "getStoragePoolCapabilities", lambda *_: OFFER)
    found = list(pools.clashes(stated, {}, check_mode=False))
    assert [problem.path for problem in found] == ["new/type"] * len(told)
    for problem, remedy in zip(found, told, strict=True):
        assert problem.expected == "a kind that this libvirt has (dir)"
        assert (problem.remedy or "").endswith(remedy or "")
    there = {"new": Seen("new", "", "", "", spec={"type": kind})}
    assert list(pools.clashes(stated, there, check_mode=False)) == []
    assert list(pools.clashes(stated, {}, check_mode=True)) == []  # it may be installed yet
    pools.connection.close()


def seen(**spec):
    return Seen("data", "", "", "", spec={"type": "dir", **spec})


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("<source pool='data' volume='a'/>", True),
        ("<source pool='other' volume='a'/>", False),
        ("<source file='/srv/data/a.img'/>", True),
        ("<source file='/srv/database/a.img'/>", False),
        ("<source dev='/dev/vdb'/>", False),
    ],
)
def test_whether_a_disk_is_of_a_pool(source, expected):
    assert module._of_pool(tree(source), seen(path="/srv/data"), "/srv/data") is expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("<source protocol='rbd' name='guests/a'/>", True),
        ("<source protocol='rbd' name='guests2/a'/>", False),
        ("<source protocol='nbd' name='guests/a'/>", False),
        ("<source file='/guests/a'/>", False),
        ("<source pool='data' volume='a'/>", True),
    ],
)
def test_whether_a_disk_is_of_a_pool_of_ceph(source, expected):
    assert module._of_pool(tree(source), seen(type="rbd", source_name="guests"), None) is expected


def test_a_pool_that_is_nearly_full_is_told(host):
    kind = host.kind("pools")
    room = {"capacity": 100 << 30, "allocation": 95 << 30, "available": 5 << 30}
    full = Seen("data", "", "", "", more=room)
    free = Seen("free", "", "", "", more={**room, "available": 50 << 30})
    off = Seen("off", "", "", more={"capacity": None, "available": None})
    told = kind.warnings({"data": full, "free": free, "off": off})
    assert told == ["pool/data: nearly full, 5 % of 100GiB left"]
    kind.connection.close()


def test_what_another_run_noted_meanwhile_stays(host):
    mine, other = Ledger(host.layout), Ledger(host.layout)
    assert mine.fleet_of("pool", "a") is None  # read before the other one writes
    other.note("pool", "b", "south")
    mine.note("pool", "a", "local")
    found = Ledger(host.layout)
    assert (found.fleet_of("pool", "a"), found.fleet_of("pool", "b")) == ("local", "south")


def test_a_guest_that_cannot_be_read_is_not_taken_for_none(host, monkeypatch):
    """What is ended although a guest stands on it takes the guest's disk."""

    def broken(*_):
        raise libvirt.libvirtError("timed out")

    kind = host.kind("pools")
    monkeypatch.setattr(libvirt.virDomain, "XMLDesc", broken)
    with pytest.raises(libvirt.libvirtError):
        kind.users(seen(path="/srv/data"))
    kind.connection.close()
