# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pools of every kind: written as libvirt's schema has them, and read back the same."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.module_utils.virt.document import Document, tree
from ansible.module_utils.virt.fields import Edits, check_fields, patch_fields, read_fields
from ansible.module_utils.virt.pool import FIELDS, KINDS, contradictions, lacking
from schema import schema_of

IQN = "iqn.2026-11.test.lab:disks"
SPECS: dict[str, dict[str, Any]] = {
    "dir": {"type": "dir", "path": "/srv/a", "permissions": {"mode": "0711", "owner": 0}},
    "fs": {"type": "fs", "devices": ["/dev/vdb"], "format": "ext4", "path": "/srv/fs"},
    "nfs": {
        "type": "netfs",
        "hosts": [{"name": "nas.test"}],
        "dir": "/export",
        "format": "nfs",
        "protocol_version": "4.2",
        "path": "/srv/nfs",
        "mount_options": ["soft", "timeo=50"],
    },
    "cifs": {
        "type": "netfs",
        "hosts": [{"name": "10.0.0.2"}],
        "dir": "share",
        "format": "cifs",
        "path": "/srv/smb",
    },
    "glusterfs": {
        "type": "netfs",
        "hosts": [{"name": "g1"}],
        "dir": "vol",
        "format": "glusterfs",
        "path": "/srv/g",
    },
    "logical": {
        "type": "logical",
        "source_name": "vg0",
        "devices": ["/dev/vdb", "/dev/vdc"],
        "format": "lvm2",
        "path": "/dev/vg0",
    },
    "logical, there already": {"type": "logical", "source_name": "vg0", "path": "/dev/vg0"},
    "disk": {"type": "disk", "devices": ["/dev/vdb"], "format": "gpt", "path": "/dev"},
    "iscsi": {
        "type": "iscsi",
        "hosts": [{"name": "10.0.0.2", "port": 3261}],
        "target": IQN,
        "auth": {"type": "chap", "username": "lab", "usage": "libvirtiscsi"},
        "path": "/dev/disk/by-path",
    },
    "iscsi-direct": {
        "type": "iscsi-direct",
        "hosts": [{"name": "10.0.0.2"}],
        "target": IQN,
        "initiator": "iqn.2026-11.test.lab:me",
    },
    "scsi": {
        "type": "scsi",
        "adapter": {"type": "scsi_host", "name": "scsi_host2"},
        "path": "/dev/disk/by-path",
    },
    "scsi by address": {
        "type": "scsi",
        "adapter": {"type": "scsi_host", "parent_address": "0000:00:1f.2", "unique_id": 2},
        "path": "/dev/disk/by-path",
    },
    "fibre channel": {
        "type": "scsi",
        "adapter": {
            "type": "fc_host",
            "parent": "scsi_host3",
            "managed": True,
            "wwnn": "20000000c9831b4b",
            "wwpn": "10000000c9831b4b",
        },
        "path": "/dev/disk/by-path",
    },
    "mpath": {"type": "mpath", "path": "/dev/mapper"},
    "rbd": {
        "type": "rbd",
        "source_name": "libvirt-pool",
        "hosts": [{"name": "mon1", "port": 6789}, {"name": "mon2"}],
        "auth": {
            "type": "ceph",
            "username": "admin",
            "secret": "2ec115d7-3a88-3ceb-bc12-0ac909a6fd87",
        },
    },
    "gluster": {"type": "gluster", "source_name": "vol", "hosts": [{"name": "g1"}], "dir": "/"},
    "zfs": {"type": "zfs", "source_name": "tank", "devices": ["/dev/vdb"]},
}


def checked(spec):
    problems = []
    stated = check_fields(FIELDS, spec, "pools[0]", problems)
    assert problems == []
    return stated


def written(spec, xml="<pool>\n  <name>p</name>\n</pool>\n"):
    document = Document(xml, "pool XML")
    patch_fields(document.root, FIELDS, spec, Edits(document.root, spec), "")
    return document.text()


def test_every_kind_has_a_case():
    assert {spec["type"] for spec in SPECS.values()} == set(KINDS)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_a_pool_is_written_as_libvirt_has_it_and_read_back(spec):
    stated = checked(spec)
    assert list(contradictions(stated, "pools[0]")) == list(lacking(stated, "pools[0]")) == []
    xml = written(stated)
    assert schema_of("storagepool").problems(xml) == []
    assert read_fields(tree(xml), FIELDS) == stated
    assert written(stated, xml) == xml


def test_another_kind_is_another_pool():
    root = tree(written(SPECS["dir"]))
    edits = Edits(root)
    patch_fields(root, FIELDS, {"type": "fs"}, edits, "")
    assert [edit.when for edit in edits.found] == ["replace"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_kind_needs_is_told(kind):
    found = [problem.path for problem in lacking({"type": kind}, "pools[0]")]
    assert found == [f"pools[0].{key}" for key in KINDS[kind].needs]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"type": "dir", "path": "/a", "devices": ["/dev/vdb"]}, "nothing in a pool of type dir"),
        ({"type": "disk", "devices": ["/dev/vdb"], "format": "ext4"}, "a format of disk"),
        ({"type": "netfs", "dir": "export", "format": "nfs"}, "an absolute path"),
        (
            {"type": "iscsi", "target": IQN, "auth": {"type": "chap", "username": "a"}},
            "the usage or UUID of a secret",
        ),
    ],
)
def test_a_contradiction_is_told(spec, message):
    (problem,) = contradictions(checked(spec), "pools[0]")
    assert message in str(problem)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"type": "dirr"}, "did you mean dir?"),
        ({"type": "dir", "path": "srv"}, "an absolute path"),
        ({"target": "disks"}, "an iSCSI name"),
        ({"adapter": {"wwnn": "12"}}, "a world wide name"),
        ({"auth": {"type": "chap"}}, "auth.username: expected a value"),
        ({"auth": {"type": "chap", "username": "a", "password": "x"}}, "auth.password"),
        ({"permissions": {"mode": 711}}, "an octal mode"),
        ({"mount_options": ["a,b"]}, "a mount option"),
        ({"hosts": [{"port": 1}]}, "hosts[0].name: expected a value"),
    ],
)
def test_what_is_wrong_in_itself_is_told(spec, message):
    problems = []
    check_fields(FIELDS, spec, "pools[0]", problems)
    assert len(problems) == 1, problems
    assert message in str(problems[0])
