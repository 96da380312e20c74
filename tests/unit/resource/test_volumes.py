# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Volumes made, cloned, taken over and removed with libvirt's test driver.

The driver cannot make a volume larger: that is planned here, and done for real in the lab.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ansible.module_utils.converge.errors import ApplyError, InputError
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
        try:
            mine = Volumes(connection, fleet, Ledger(host.layout))
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
