# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a disk holds and who uses it, from what lsblk and wipefs say."""

from __future__ import annotations

import json

import pytest
from ansible.module_utils.converge.errors import VirtfleetError
from ansible.module_utils.system.storage import disks

LSBLK = ("lsblk", "--json", "--bytes", "--output", "PATH,TYPE,SIZE,RO,MOUNTPOINT", "/dev/sdb")
WIPEFS = ("wipefs", "--no-act", "--json", "/dev/sdb")


def tree(**more):
    disk = {"path": "/dev/sdb", "type": "disk", "size": 1 << 30, "ro": False, "mountpoint": None}
    return json.dumps({"blockdevices": [{**disk, **more}]})


def child(path, kind, mountpoint=None, children=()):
    return {"path": path, "type": kind, "mountpoint": mountpoint, "children": list(children)}


def signatures(*kinds, label=None):
    return json.dumps({"signatures": [{"type": kind, "label": label} for kind in kinds]})


def look(system, listing, probed=""):
    host = system({"/dev/sdb": ""}, {LSBLK: listing, WIPEFS: probed})
    return disks.look(host, "/dev/sdb")


def test_an_empty_disk_is_free(system):
    assert look(system, tree()) == disks.Disk("/dev/sdb", "/dev/sdb", 1 << 30)


def test_an_older_wipefs_says_nothing_of_an_empty_disk_and_a_newer_an_empty_list(system):
    assert look(system, tree(), signatures()).contents == ()


def test_what_it_holds_is_named_once(system):
    disk = look(system, tree(), signatures("gpt", "gpt", "PMBR"))
    assert disk.contents == ("gpt", "PMBR")
    assert look(system, tree(), signatures("ext4", label="home")).contents == ("ext4 home",)


def test_partitions_are_contents_although_wipefs_is_silent(system):
    disk = look(system, tree(children=[child("/dev/sdb1", "part"), child("/dev/sdb2", "part")]))
    assert disk.contents == ("partition /dev/sdb1", "partition /dev/sdb2")
    assert disk.partitions == ("/dev/sdb1", "/dev/sdb2")
    assert disk.uses == ()


@pytest.mark.parametrize(
    ("more", "uses"),
    [
        ({"mountpoint": "/srv"}, ("/dev/sdb is in use as /srv",)),
        ({"mountpoint": "[SWAP]"}, ("/dev/sdb is in use as [SWAP]",)),
        ({"ro": True}, ("it is read-only",)),
        ({"type": "rom"}, ("it is an optical drive",)),
        ({"children": [child("/dev/sdb1", "part", "/boot")]}, ("/dev/sdb1 is in use as /boot",)),
        ({"children": [child("/dev/md0", "raid1")]}, ("/dev/md0 (raid1) is made of it",)),
        ({"children": [child("/dev/mapper/x", "mpath")]}, ("/dev/mapper/x (mpath) is made of it",)),
        (
            {
                "children": [
                    child("/dev/sdb1", "part", None, [child("/dev/mapper/c", "crypt", "/srv")])
                ]
            },
            ("/dev/mapper/c is in use as /srv", "/dev/mapper/c (crypt) is made of it"),
        ),
    ],
)
def test_who_uses_it_is_said(system, more, uses):
    assert look(system, tree(**more)).uses == uses


def test_the_kernel_has_the_last_word(system, monkeypatch):
    def busy(path, flags):
        assert flags & disks.os.O_EXCL
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(disks.os, "open", busy)
    assert look(system, tree()).uses == ("the kernel has it in use",)


def test_a_disk_that_is_not_there_has_no_device(system):
    assert disks.look(system(), "/dev/disk/by-id/none") == disks.Disk("/dev/disk/by-id/none")


def test_a_file_is_no_disk(system):
    host = system({"/dev/sdb": ""}, {LSBLK: (32, "", "lsblk: /dev/sdb: not a block device")})
    assert disks.look(host, "/dev/sdb").uses == ("it is no block device",)


def test_a_link_leads_to_the_kernels_name_below_the_root(system, tmp_path):
    host = system({"/dev/sdb": ""}, {LSBLK: tree(), WIPEFS: ""})
    (tmp_path / "dev/disk").mkdir()
    (tmp_path / "dev/disk/serial").symlink_to("../sdb")
    disk = disks.look(host, "/dev/disk/serial")
    assert (disk.path, disk.device) == ("/dev/disk/serial", "/dev/sdb")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((1, "", "wipefs: error: /dev/sdb: probing initialization failed\n"), "probing initial"),
        ((0, "not json", ""), "did not answer in JSON: 'not json'"),
    ],
)
def test_a_disk_that_cannot_be_probed_is_never_taken_for_empty(system, answer, message):
    with pytest.raises(VirtfleetError, match=message):
        look(system, tree(), answer)
