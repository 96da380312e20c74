# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is in volumes, sent and brought. The streams are a stand-in (tests/shared/streaming.py)."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
from ansible.module_utils.converge.errors import ApplyError, InputError
from ansible.module_utils.resource.content import Digest, Progress, sections
from ansible.module_utils.resource.ledger import Ledger
from ansible.module_utils.resource.volumes import Volumes, converge
from ansible.module_utils.virt.connection import Connection
from knife import KilledError, Knife
from streaming import Content, Stream

libvirt = pytest.importorskip("libvirt", reason="the binding is built for the controller's Python")

URI = "test:///default"
DATA = {"name": "data", "type": "dir", "path": "/srv/data"}
MIB = 1 << 20
BROUGHT = {"pool": "data", "name": "disk.img", "size": "12MiB"}


@pytest.fixture
def source(tmp_path):
    """Return a file of data, a hole, data, and a hole at its end, with no end on a block."""
    path = tmp_path / "source.img"
    with path.open("wb") as file:
        file.write(os.urandom(MIB))
        file.seek(8 * MIB)
        file.write(os.urandom(MIB + 5))
        file.truncate(12 * MIB + 7)
    return path


@pytest.fixture
def content(monkeypatch, tmp_path, host):
    assert host.handle.getType() == "TEST"
    return Content(monkeypatch, libvirt, tmp_path)


@pytest.fixture
def volumes(host):
    host.run("pools", DATA)

    def run(*entries, check_mode=False):
        connection = Connection(URI)
        try:
            mine = Volumes(connection, "local", Ledger(host.layout))
            return converge(mine, host.layout, entries, "kvm1", check_mode=check_mode)
        finally:
            connection.close()

    yield run
    for one in host.handle.storagePoolLookupByName("data").listAllVolumes():
        one.delete()


def checksum(path, algorithm="sha256"):
    return f"{algorithm}:{hashlib.new(algorithm, path.read_bytes()).hexdigest()}"


def entry(source, **more):
    stated = {"path": str(source), **more}
    return {"pool": "data", "name": "disk.img", "format": "raw", "upload": stated}


def verbs(outcome):
    return [a["action"] for a in outcome["actions"]]


def noted(host):
    return json.loads(Path(host.layout.state, "adopted.json").read_text(encoding="utf-8"))


def names(host):
    found = host.handle.storagePoolLookupByName("data").listAllVolumes()
    return [one.name() for one in found]


def test_a_file_is_data_and_holes(source, tmp_path):
    with source.open("rb") as file:
        found = list(sections(file, source.stat().st_size))
    if len(found) == 1:
        pytest.skip("the file system of the tests tells no holes")
    assert sum(length for _, length in found) == 12 * MIB + 7
    assert [data for data, _ in found] == [True, False, True, False]
    (tmp_path / "empty").touch()
    with (tmp_path / "empty").open("rb") as file:
        assert list(sections(file, 0)) == []


@pytest.mark.parametrize("length", [0, 1, MIB, 3 * MIB + 1])
def test_a_hole_counts_as_zeros(length):
    digest = Digest("sha512")
    digest.data(b"before")
    digest.hole(length)
    assert str(digest) == f"sha512:{hashlib.sha512(b'before' + bytes(length)).hexdigest()}"


def test_what_was_sent_is_what_the_file_has(volumes, content, source, host):
    stated = entry(source, checksum=checksum(source, "sha512"))
    assert verbs(volumes(stated, check_mode=True)) == ["create"]
    assert names(host) == []
    done = volumes(stated)
    assert content.path("disk.img").read_bytes() == source.read_bytes()
    assert content.told[-1] == "finish"
    assert verbs(done) == ["create"]
    pool = host.handle.storagePoolLookupByName("data")
    assert pool.storageVolLookupByName("disk.img").info()[1] == 12 * MIB + 7
    assert volumes(stated)["changed"] is False
    assert "volume being filled" not in {kind for kind, found in noted(host).items() if found}


def test_another_checksum_leaves_no_volume(volumes, content, source, host):
    wrong = f"sha256:{'0' * 64}"
    with pytest.raises(ApplyError, match=f"expected {wrong}, found sha256:"):
        volumes(entry(source, checksum=wrong))
    assert content.told[-1] == "finish"
    assert names(host) == []
    assert not any(noted(host).values())


def test_a_stream_that_breaks_is_ended(volumes, content, source, host, monkeypatch):
    def broken(*_):
        raise libvirt.libvirtError("the disk is full")

    monkeypatch.setattr(Stream, "send", broken)
    with pytest.raises(ApplyError, match=r"create volume/data/disk\.img"):
        volumes(entry(source))
    assert content.told == ["abort"]
    assert names(host) == []


def test_what_is_wrong_with_a_file_is_told_before_anything_is_made(volumes, tmp_path, host):
    (tmp_path / "folder").mkdir()
    backed = tmp_path / "backed.qcow2"
    with pytest.raises(InputError) as raised:
        volumes(
            entry(tmp_path / "none"),
            {**entry(tmp_path / "folder"), "name": "b"},
            {"pool": "data", "name": "c", "size": "1MiB", "download": {"path": str(backed / "x")}},
        )
    lines = str(raised.value).splitlines()[1:]
    assert [line.partition(":")[0] for line in lines] == [
        "volumes[0].upload.path",
        "volumes[1].upload.path",
        "volumes[2].download.path",
    ]
    assert names(host) == []


def test_what_is_in_a_volume_is_brought_once(volumes, content, source, tmp_path):
    target = tmp_path / "backup.img"
    stated = {**BROUGHT, "download": {"path": str(target), "checksum": "sha512"}}
    content.path("disk.img").write_bytes(b"")
    os.link(source, tmp_path / "hard")
    os.replace(tmp_path / "hard", content.path("disk.img"))
    assert verbs(volumes(stated, check_mode=True)) == ["create", "update"]
    assert not target.exists()
    done = volumes(stated)
    assert verbs(done) == ["create", "update"]
    assert target.read_bytes() == source.read_bytes()
    assert target.stat().st_mode & 0o777 == 0o600
    assert target.stat().st_blocks <= source.stat().st_blocks + 16
    assert done["volumes"][0]["checksum"] == checksum(source, "sha512")
    assert not list(tmp_path.glob("*.part"))
    target.write_text("kept as it is")
    assert volumes(stated)["changed"] is False
    assert target.read_text() == "kept as it is"


def test_a_download_that_breaks_leaves_no_file(volumes, content, source, tmp_path, monkeypatch):
    target = tmp_path / "backup.img"
    content.path("disk.img").write_bytes(source.read_bytes())

    def broken(*_):
        raise libvirt.libvirtError("the server is away")

    monkeypatch.setattr(Stream, "recvFlags", broken)
    stated = {**BROUGHT, "download": {"path": str(target), "checksum": "sha512"}}
    with pytest.raises(ApplyError, match=r"update volume/data/disk\.img"):
        volumes(stated)
    assert content.told == ["abort"]
    assert not target.exists()
    assert not list(tmp_path.glob("*.part"))


CALLS = (
    (libvirt.virStoragePool, "createXML"),
    (libvirt.virStorageVol, "upload"),
    (Stream, "send"),
    (Stream, "finish"),
    (libvirt.virStoragePool, "refresh"),
    (os, "replace"),  # of the ledger
)


@pytest.mark.sampled
def test_whenever_a_run_that_fills_is_killed_the_next_one_completes_it(
    volumes, content, source, host, monkeypatch, moments
):
    knife = Knife(monkeypatch, CALLS)
    volumes(entry(source))
    calls = knife.count
    assert calls >= 16
    for moment in moments(calls, 6):
        knife.left = None
        volumes({"pool": "data", "name": "disk.img", "state": "absent"})
        content.path("disk.img").write_bytes(b"")
        knife.left = moment
        with pytest.raises(KilledError):
            volumes(entry(source))
        knife.left = None
        volumes(entry(source))
        assert content.path("disk.img").read_bytes() == source.read_bytes(), moment
        assert volumes(entry(source))["changed"] is False, moment
        assert noted(host)["volume being filled"] == {}, moment
        assert noted(host)["volume"] == {"/srv/data/disk.img": "local"}, moment


def test_progress_is_told_now_and_then(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    lines = []
    progress = Progress("volume/data/a", 40 * MIB, lines.append)
    for _ in range(4):
        now[0] += 4
        progress.add(8 * MIB)
    assert lines == ["volume/data/a: 24MiB of 40MiB (60 %), 2MiB per second"]
