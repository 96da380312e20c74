# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Volumes made, cloned, taken over and removed with libvirt's test driver.

The driver cannot make a volume larger: that is planned here, and done for real in the lab.
"""

from __future__ import annotations

import json
import socket
import threading
from collections import Counter
from pathlib import Path

import pytest
from ansible.module_utils.converge.errors import ApplyError, InputError, VirtfleetError
from ansible.module_utils.resource.content import Streams
from ansible.module_utils.resource.ledger import Ledger
from ansible.module_utils.resource.volume_plan import Observation, Seen, plan, read
from ansible.module_utils.resource.volumes import Volumes, converge
from ansible.module_utils.virt.connection import Connection
from schema import schema_of

libvirt = pytest.importorskip("libvirt", reason="the binding is built for the controller's Python")

URI = "test:///default"
DATA = {"name": "data", "type": "dir", "path": "/srv/data"}
DISK = {"pool": "data", "name": "disk.qcow2", "size": "1GiB"}


@pytest.fixture
def volumes(host):
    """Return what the module does, on a host with two pools."""
    host.run("pools", DATA, {**DATA, "name": "more", "path": "/srv/more"})

    def run(*entries, fleet="local", check_mode=False):
        connection = Connection(URI)
        command = host.command if host.local else None
        try:
            mine = Volumes(connection, fleet, Ledger(host.layout), command)
            return converge(mine, host.layout, entries, "kvm1", check_mode=check_mode)
        finally:
            connection.close()

    yield run
    for name in ("data", "more"):
        pool = host.handle.storagePoolLookupByName(name)
        for one in pool.listAllVolumes() if pool.isActive() else ():
            one.delete()


def verbs(outcome):
    return [f"{a['object']} {a['action']}" for a in outcome["actions"]]


def names(host, pool="data"):
    found = host.handle.storagePoolLookupByName(pool).listAllVolumes()
    return sorted(one.name() for one in found)


def test_a_volume_comes_and_goes(volumes, host):
    planned = volumes(DISK, check_mode=True)
    assert names(host) == []
    done = volumes(DISK)
    assert verbs(planned) == verbs(done) == ["volume/data/disk.qcow2 create"]
    (told,) = done["volumes"]
    assert (told["path"], told["owned"]) == ("/srv/data/disk.qcow2", True)
    assert told["spec"]["size"] == "1GiB"
    assert volumes(DISK)["changed"] is False
    gone = volumes({"pool": "data", "name": "disk.qcow2", "state": "absent"})
    assert verbs(gone) == ["volume/data/disk.qcow2 delete"]
    assert gone["actions"][0]["destructive"] is True
    assert names(host) == []
    ledger = json.loads(Path(host.layout.state, "adopted.json").read_text(encoding="utf-8"))
    assert ledger["volume"] == {}


def test_a_copy_is_made_after_what_it_is_of(volumes, host):
    copy = {"pool": "data", "name": "copy.qcow2", "from": "disk.qcow2"}
    done = volumes(DISK, copy, {**DISK, "pool": "more"})
    assert len(done["actions"]) == 3
    assert names(host) == ["copy.qcow2", "disk.qcow2"]
    assert names(host, "more") == ["disk.qcow2"]
    assert volumes(DISK, copy)["changed"] is False


def test_an_encrypted_volume_stays_one(volumes, host):
    luks = {**DISK, "name": "luks.img", "format": "raw", "encryption": {"usage": "/srv/data/luks"}}
    assert verbs(volumes(luks)) == ["volume/data/luks.img create"]
    xml = host.handle.storagePoolLookupByName("data").storageVolLookupByName("luks.img").XMLDesc()
    assert "<encryption format='luks'>" in xml
    assert "<secret type='passphrase' usage='/srv/data/luks'/>" in xml
    assert volumes(luks)["changed"] is False
    for stated in (luks, {**DISK, "name": "plain"}):
        volumes({key: value for key, value in stated.items() if key != "encryption"})
    for other in ({**luks, "encryption": None}, {**luks, "name": "plain"}):
        (refused,) = volumes(other)["blocked"]
        assert "encryption" in refused["reason"]
        assert "which only a new volume can have" in refused["reason"]


def test_one_of_somebody_else_is_not_touched(volumes, host):
    pool = host.handle.storagePoolLookupByName("data")
    pool.createXML("<volume><name>theirs</name><capacity>4096</capacity></volume>")
    gone = volumes({"pool": "data", "name": "theirs", "state": "absent"})
    assert "not made by this toolkit" in gone["blocked"][0]["reason"]
    taken = volumes({"pool": "data", "name": "theirs", "adopt": True})
    assert verbs(taken) == ["volume/data/theirs adopt"]
    other = volumes({"pool": "data", "name": "theirs", "state": "absent"}, fleet="south")
    assert "belongs to the fleet 'local'" in other["blocked"][0]["reason"]
    assert verbs(volumes({"pool": "data", "name": "theirs", "state": "absent"})) == [
        "volume/data/theirs delete"
    ]


def test_a_volume_that_cannot_be_made_is_nobody_s(volumes, host, monkeypatch):
    def full(*_):
        raise libvirt.libvirtError("no space left")

    monkeypatch.setattr(libvirt.virStoragePool, "createXML", full)
    with pytest.raises(ApplyError, match=r"create volume/data/disk.qcow2"):
        volumes(DISK)
    ledger = json.loads(Path(host.layout.state, "adopted.json").read_text(encoding="utf-8"))
    assert ledger["volume"] == {}


def test_all_that_is_wrong_is_told_at_once(volumes):
    wrong = [
        {"pool": "data", "name": "a/b", "size": "1GiB"},
        {"pool": "data", "name": "b", "size": "1"},
        {"name": "c", "size": "1GiB"},
        {"pool": "data", "name": "d", "size": "1GiB", "preallocate": "some"},
        {"pool": "data", "name": "e", "size": "1GiB", "formt": "raw"},
        {"pool": "data", "name": "f", "from": "b", "backing": {"path": "/a"}},
        {"pool": "data", "name": "f", "size": "1GiB"},
        "g",
        {"pool": "data", "name": "h", "size": "1GiB", "encryption": {}},
        {"pool": "data", "name": "i", "from": "b", "encryption": {"usage": "i"}},
        {
            "pool": "data",
            "name": "j",
            "size": "1GiB",
            "format": "vdi",
            "encryption": {"usage": "j"},
        },
        {"pool": "data", "name": "k", "upload": {"path": "k", "checksm": "x"}},
        {"pool": "data", "name": "l", "upload": {"path": "/l", "checksum": "sha256:12"}},
        {"pool": "data", "name": "m", "upload": "/m", "download": {"path": "m", "checksum": "md5"}},
        {"pool": "data", "name": "n", "upload": {"path": "/n"}, "from": "a"},
        {"pool": "data", "name": "o", "state": "absent", "download": {"path": "/o"}},
    ]
    with pytest.raises(InputError) as raised:
        volumes(*wrong)
    lines = str(raised.value).splitlines()[1:]
    assert [line.partition(":")[0] for line in lines] == [
        "volumes[0].name",
        "volumes[1].size",
        "volumes[2].pool",
        "volumes[3].preallocate",
        "volumes[4].formt",
        "volumes[5].from",
        "volumes[6].name",
        "volumes[7]",
        "volumes[8].encryption.secret",
        "volumes[9].from",
        "volumes[10].encryption",
        "volumes[11].upload.checksm",
        "volumes[11].upload.path",
        "volumes[12].upload.checksum",
        "volumes[13].upload",
        "volumes[13].download.checksum",
        "volumes[13].download.path",
        "volumes[14].from",
        "volumes[15].download",
    ]


def test_what_is_not_there_is_told(volumes):
    with pytest.raises(InputError) as raised:
        volumes(
            {**DISK, "pool": "none"},
            {"pool": "data", "name": "a"},
            {"pool": "data", "name": "b", "from": "nothing"},
        )
    message = str(raised.value)
    assert "volumes[0].pool: expected a pool that is there and active, found 'none'" in message
    assert "volumes[1].size: expected a size, as it is new" in message
    assert "volumes[2].from: expected a volume of the pool data, found 'nothing'" in message
    assert volumes({**DISK, "pool": "none"}, check_mode=True)["changed"] is True


def planned(entry, seen=None, kind="dir", **more):
    (one,) = read([{"pool": "data", "name": "a", **entry}])
    there = {} if seen is None else {"data/a": seen}
    return plan([one], "kvm1", "local", Observation({"data": kind}, there, **more))


def there(size=1 << 30, fleet="local", unfinished=False, **spec):
    spec = {"size": "1GiB", "format": "qcow2", **spec}
    return Seen("/srv/a", "/srv/a", size, spec, fleet, unfinished)


PLANS = [
    ("grows", {"size": "2GiB"}, there(), {}, ["grow"], []),
    ("is as it is", {"size": "1GiB"}, there(), {}, [], []),
    ("never shrinks", {"size": "512MiB"}, there(), {}, [], ["would shrink to 512MiB"]),
    (
        "is a partition",
        {"size": "2GiB"},
        there(),
        {"kind": "disk"},
        [],
        ["no volume of a pool of type disk can be made larger"],
    ),
    ("was rounded up", {"size": "1000MiB"}, there(), {"kind": "logical"}, [], []),
    (
        "is run on",
        {"size": "2GiB"},
        there(),
        {"running": {"/srv/a": ["guest/web"]}},
        [],
        ["a guest runs on it: guest/web"],
    ),
    ("is of another format", {"format": "raw"}, there(), {}, [], ["format differs"]),
    (
        "stands on another",
        {"backing": {"path": "/b"}},
        there(backing={"path": "/c"}),
        {},
        [],
        ["backing differs"],
    ),
    (
        "is had by a guest",
        {"state": "absent"},
        there(),
        {"users": {"/srv/a": ["guest/web"]}},
        [],
        ["these have it or stand on it: guest/web"],
    ),
    ("is filled", {"upload": {"path": "/f"}}, None, {}, ["create"], []),
    ("is not filled again", {"upload": {"path": "/f"}}, there(), {}, [], []),
    ("was filled in part", {"upload": {"path": "/f"}}, there(unfinished=True), {}, ["update"], []),
    (
        "was filled in part, by what is not known",
        {"size": "2GiB"},
        there(unfinished=True),
        {},
        [],
        ["a run that ended early has filled it in part"],
    ),
    (
        "was filled in part, and goes",
        {"state": "absent"},
        there(unfinished=True),
        {},
        ["delete"],
        [],
    ),
    ("is brought", {"download": {"path": "/f"}}, there(), {}, ["update"], []),
    (
        "is made and brought",
        {"download": {"path": "/f"}, "size": "1GiB"},
        None,
        {},
        ["create", "update"],
        [],
    ),
    (
        "is there already",
        {"download": {"path": "/f"}},
        there(),
        {"brought": frozenset({"/f"})},
        [],
        [],
    ),
    (
        "is written to",
        {"download": {"path": "/f"}},
        there(),
        {"running": {"/srv/a": ["guest/web"]}},
        [],
        ["a guest writes to it: guest/web"],
    ),
]


@pytest.mark.parametrize(
    ("entry", "seen", "more", "actions", "reasons"),
    [case[1:] for case in PLANS],
    ids=[case[0] for case in PLANS],
)
def test_a_plan(entry, seen, more, actions, reasons):
    found = planned(entry, seen, **more)
    assert [action.action for action in found.actions] == actions
    assert len(found.blocked) == len(reasons)
    for item, reason in zip(found.blocked, reasons):
        assert reason in item.reason


def test_what_stands_on_another_may_go_with_it():
    declared = read(
        [
            {"pool": "data", "name": "base", "state": "absent"},
            {"pool": "data", "name": "top", "state": "absent"},
        ]
    )
    seen = {"data/base": there(), "data/top": there()}
    users = {"/srv/a": ["volume/data/top"]}
    found = plan(declared, "kvm1", "local", Observation({"data": "dir"}, seen, users))
    assert [action.object for action in found.actions] == ["volume/data/base", "volume/data/top"]
    alone = plan(declared[:1], "kvm1", "local", Observation({"data": "dir"}, seen, users))
    assert (alone.actions, len(alone.blocked)) == ((), 1)


def test_a_logical_volume_is_made_larger_by_lvm(host):
    commands = []
    connection = Connection(URI)
    volumes = Volumes(
        connection, "local", Ledger(host.layout), lambda w: commands.append(w) or (0, "", "")
    )
    volumes._extend("/dev/vg0/a", 4096)
    assert commands == [["lvextend", "--size", "4096b", "/dev/vg0/a"]]
    volumes.run = lambda _words: (5, "", "Insufficient free space")
    with pytest.raises(Exception, match="lvextend: Insufficient free space"):
        volumes._extend("/dev/vg0/a", 4096)
    volumes.run = None
    with pytest.raises(Exception, match="on its own host only"):
        volumes._extend("/dev/vg0/a", 4096)
    connection.close()


@pytest.mark.parametrize("kind", ["dir", "logical", "disk"])
@pytest.mark.parametrize(
    "entry",
    [
        {"size": "8GiB"},
        {"size": "8GiB", "preallocate": "full"},
        {"size": "8GiB", "format": "raw", "nocow": True},
        {
            "size": "8GiB",
            "format": "qcow2",
            "permissions": {"mode": "0600", "owner": 107, "group": 107},
            "cluster_size": "64KiB",
            "lazy_refcounts": True,
            "backing": {"path": "/srv/base.qcow2", "format": "qcow2"},
        },
    ],
    ids=["plain", "full", "raw", "qcow2"],
)
def test_a_volume_is_written_as_libvirt_has_it(host, kind, entry):
    (one,) = read([{"pool": "data", "name": "a", **entry}])
    connection = Connection(URI)
    xml = Volumes(connection, "local", Ledger(host.layout)).written(one, kind)
    connection.close()
    assert schema_of("storagevol").problems(xml) == []
    assert "<target" in xml


def test_a_guest_that_reaches_a_volume_over_the_network_has_it(host):
    """The driver has no pool of Ceph; libvirt's paths in one are those of the guests' sources."""
    disk = (
        "<disk type='network'><driver name='qemu' type='raw'/>"
        "<source protocol='rbd' name='guests/disk'><host name='mon1'/></source>"
        "<target dev='vda' bus='virtio'/></disk>"
    )
    xml = "<domain type='test'><name>web</name><memory>65536</memory><os><type>hvm</type></os>"
    domain = host.handle.defineXML(f"{xml}<devices>{disk}</devices></domain>")
    connection = Connection(URI)
    paths = Volumes(connection, "local", Ledger(host.layout))._paths(domain, {})
    connection.close()
    assert paths == {"guests/disk"}


def test_an_unchanged_run_asks_for_no_users(volumes, monkeypatch):
    volumes(DISK)

    def asked(*_):
        raise AssertionError("all volumes and guests were read for nothing")

    monkeypatch.setattr(Volumes, "_users", asked)
    assert volumes(DISK)["changed"] is False
    with pytest.raises(AssertionError, match="for nothing"):
        volumes({**DISK, "size": "2GiB"})


def test_a_volume_is_overwritten_before_it_goes(volumes, host, monkeypatch):
    """SIMULATED. The driver overwrites none."""
    calls = []
    delete = libvirt.virStorageVol.delete

    def recorded(one, flags=0):
        calls.append(f"delete {one.name()}")
        return delete(one, flags)

    monkeypatch.setattr(
        libvirt.virStorageVol, "wipe", lambda one: calls.append(f"wipe {one.name()}")
    )
    monkeypatch.setattr(libvirt.virStorageVol, "delete", recorded)
    plain = {**DISK, "name": "plain"}
    volumes(DISK, plain)
    gone = [{**DISK, "state": "absent", "wipe": True}, {**plain, "state": "absent"}]
    volumes(*gone, check_mode=True)
    assert calls == []
    volumes(*gone)
    assert calls == ["delete plain", "wipe disk.qcow2", "delete disk.qcow2"]


def test_what_cannot_be_overwritten_stays(volumes, host, monkeypatch):
    def broken(_):
        raise libvirt.libvirtError("scrub failed")

    monkeypatch.setattr(libvirt.virStorageVol, "wipe", broken)
    volumes(DISK)
    with pytest.raises(ApplyError, match=r"delete volume/data/disk.qcow2: scrub failed"):
        volumes({**DISK, "state": "absent", "wipe": True})
    assert names(host) == ["disk.qcow2"]


def test_pools_are_worked_on_side_by_side_and_volumes_are_not(volumes, monkeypatch, tmp_path):
    """Neither pool goes on before both have begun, so one after the other would never end."""
    content = tmp_path / "content.img"
    content.write_bytes(bytes(4096))
    both, lock = threading.Barrier(2), threading.Lock()
    busy, most = Counter(), Counter()

    def send(_self, volume, _path, _checksum, _what):
        pool = volume.storagePoolLookupByVolume().name()
        with lock:
            busy[pool] += 1
            most[pool] = max(most[pool], busy[pool])
        both.wait(timeout=30)
        with lock:
            busy[pool] -= 1

    monkeypatch.setattr(Streams, "send", send)
    entry = {"format": "raw", "upload": {"path": str(content)}}
    entries = [
        {"pool": pool, "name": name, **entry} for pool in ("data", "more") for name in ("a", "b")
    ]
    done = volumes(*entries)
    assert len(done["actions"]) == 4
    assert most == {"data": 1, "more": 1}


def test_a_share_whose_server_is_away_is_not_touched(volumes, host, monkeypatch):
    """Else libvirt hangs in it until the server is back."""
    host.local = True
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        hosts = [{"name": "127.0.0.1", "port": port}]
        nas = {"name": "nas", "type": "netfs", "hosts": hosts, "dir": "/export", "path": "/srv/nas"}
        host.run("pools", nas)
        shared = {**DISK, "pool": "nas"}
        assert verbs(volumes(shared, DISK)) == [
            "volume/nas/disk.qcow2 create",
            "volume/data/disk.qcow2 create",
        ]
    away = rf"127.0.0.1 does not answer on port {port} .*the pool nas \(/srv/nas\) is on it"
    looked = []
    for method in ("storageVolLookupByName", "listAllVolumes", "refresh"):
        real = getattr(libvirt.virStoragePool, method)

        def call(pool, *arguments, real=real):
            looked.append(pool.name())
            return real(pool, *arguments)

        monkeypatch.setattr(libvirt.virStoragePool, method, call)
    for check_mode in (True, False):
        with pytest.raises(VirtfleetError, match=away):
            volumes(shared, check_mode=check_mode)
        # Whether something in the share stands on it cannot be known.
        with pytest.raises(VirtfleetError, match=away):
            volumes({**DISK, "state": "absent"}, check_mode=check_mode)
    assert volumes(DISK)["changed"] is False
    assert "nas" not in looked
    assert "disk.qcow2" in names(host)


def test_a_server_that_goes_meanwhile_stops_its_own_pool_alone(volumes, host, monkeypatch):
    host.local = True
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        hosts = [{"name": "127.0.0.1", "port": port}]
        nas = {"name": "nas", "type": "netfs", "hosts": hosts, "dir": "/export", "path": "/srv/nas"}
        host.run("pools", nas)
        apply = Volumes.apply

        def leaves(*arguments):
            server.close()
            return apply(*arguments)

        monkeypatch.setattr(Volumes, "apply", leaves)
        away = r"create volume/nas/disk.qcow2: .*\(/srv/nas\)"
        with pytest.raises(ApplyError, match=away) as raised:
            volumes({**DISK, "pool": "nas"}, DISK)
    assert [a["object"] for a in raised.value.data["actions"]] == ["volume/data/disk.qcow2"]
    assert names(host) == ["disk.qcow2"]
    assert names(host, "nas") == []


BASE = "/srv/data/base.qcow2"
TOP = {**DISK, "name": "top.qcow2", "backing": {"path": BASE, "format": "qcow2"}}


def test_what_a_volume_is_to_stand_on_has_to_be_there(volumes, host, tmp_path):
    host.local = True
    missing = r"volumes\[1\].backing.path: expected a file that is there.*'/srv/data/base.qcow2'"
    with pytest.raises(InputError, match=missing):
        volumes(DISK, TOP)
    assert names(host) == []
    assert volumes(TOP, check_mode=True)["changed"] is True  # an earlier task may yet make it
    base = {**DISK, "name": "base.qcow2"}
    with pytest.raises(InputError, match=r"volumes\[0\].backing.path"):
        volumes(TOP, {**base, "state": "absent"})
    assert len(volumes(base, TOP)["actions"]) == 2
    assert volumes(TOP)["changed"] is False  # it is as it is, whatever became of the file
    there = tmp_path / "base.img"
    there.touch()
    other = {**TOP, "name": "other.qcow2", "backing": {"path": str(there), "format": "raw"}}
    assert len(volumes(other)["actions"]) == 1
    host.local = False
    assert len(volumes({**TOP, "name": "far.qcow2"}, {**TOP, "pool": "more"})["actions"]) == 2


@pytest.mark.parametrize(
    ("kind", "told"), [("dir", 1), ("logical", 1), ("rbd", 0), ("gluster", 0), ("zfs", 0)]
)
def test_what_a_pool_of_the_network_has_is_no_file_of_the_host(volumes, host, kind, told):
    connection = Connection(URI)
    mine = Volumes(connection, "local", Ledger(host.layout), host.command)
    declared = read([TOP])
    found = list(mine.problems(declared, Observation({"data": kind}, {})))
    connection.close()
    assert [problem.path for problem in found] == ["volumes[0].backing.path"] * told
