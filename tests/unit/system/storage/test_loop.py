# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real block devices: what lsblk, wipefs and the kernel say of a loop device with data on it."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
from ansible.module_utils.system.storage import disks, lvm
from ansible.module_utils.system.storage.facet import Context, System
from ansible.module_utils.system.storage.groups import GroupWish
from ansible.module_utils.system.storage.run import Applier, Storage, facets, survey

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="loop devices take root"),
    pytest.mark.skipif(not os.path.exists("/dev/loop-control"), reason="no loop devices here"),
]
needs_lvm = pytest.mark.skipif(shutil.which("vgcreate") is None, reason="LVM is not installed")


def command(argv):
    try:
        done = subprocess.run(
            list(argv), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return 127, "", "not installed"
    return done.returncode, done.stdout, done.stderr


SYSTEM = System("/", command)


def do(*argv):
    status, out, error = command(argv)
    assert status == 0, f"{argv}: {error}"
    return out.strip()


@pytest.fixture
def loop(tmp_path):
    image = tmp_path / "disk.img"
    with image.open("wb") as file:
        file.truncate(64 << 20)
    status, out, error = command(["losetup", "--find", "--show", str(image)])
    if status:
        pytest.skip(f"no free loop device: {error}")
    device = out.strip()
    yield device
    command(["losetup", "--detach", device])


def test_an_empty_device_is_free(loop):
    disk = disks.look(SYSTEM, loop)
    assert disk == disks.Disk(loop, loop, 64 << 20)


@pytest.mark.parametrize(
    ("maker", "contents"),
    [
        (("mkfs.ext4", "-q"), ("ext4",)),
        (("mkswap",), ("swap",)),
    ],
)
def test_what_was_made_on_it_is_seen(loop, maker, contents):
    if shutil.which(maker[0]) is None:
        pytest.skip(f"{maker[0]} is not installed")
    do(*maker, loop)
    disk = disks.look(SYSTEM, loop)
    assert (disk.contents, disk.uses) == (contents, ())


def test_a_partition_table_is_seen(loop):
    # The signature of a DOS partition table, with one partition of type 83.
    entry = bytes([0, 0, 0, 0, 0x83, 0, 0, 0]) + (2048).to_bytes(4, "little")
    sector = bytes(446) + entry + (8192).to_bytes(4, "little") + bytes(48) + b"\x55\xaa"
    with open(loop, "r+b") as device:
        device.write(sector)
        os.fsync(device.fileno())
    assert "dos" in disks.look(SYSTEM, loop).contents


def test_what_holds_it_exclusively_is_seen(loop):
    descriptor = os.open(loop, os.O_RDONLY | os.O_EXCL)
    try:
        assert disks.look(SYSTEM, loop).uses == ("the kernel has it in use",)
    finally:
        os.close(descriptor)
    assert disks.look(SYSTEM, loop).uses == ()


@needs_lvm
def test_a_group_is_made_found_again_and_removed(loop):
    name = f"vftest{os.getpid()}"
    storage = Storage(groups=(GroupWish(name, (loop,)),))
    try:
        turns = facets(storage, SYSTEM, absent=False)
        made = Applier(SYSTEM, storage).apply(turns, "kvm1")
        assert [step.action.action for step in made.steps] == ["create"]
        assert survey(turns, "kvm1").steps == ()
        found = lvm.observe(SYSTEM, storage.groups)
        assert found.members[loop] == name
        assert (
            found.groups[name].total
            == lvm._coming(
                storage.groups[0], lvm.Lvm({loop: disks.Disk(loop, loop, 64 << 20)})
            ).total
        )
        gone = lvm.plan_all_groups(storage.groups, found, Context("kvm1", True, True))
        assert [step.action.action for step in gone.steps] == ["delete"]
        Applier(SYSTEM, storage).apply(
            facets(storage, SYSTEM, absent=True), "kvm1", absent=True, remove_data=True
        )
        assert disks.look(SYSTEM, loop).contents == ()
    finally:
        command(["vgremove", "--force", "--yes", name])


@needs_lvm
def test_lvm_refuses_what_came_onto_the_disk_after_the_look(loop):
    do("mkfs.ext4", "-q", loop)
    status, _, error = command(["vgcreate", f"vftest{os.getpid()}", loop])
    assert status != 0, error
    assert disks.look(SYSTEM, loop).contents == ("ext4",)
