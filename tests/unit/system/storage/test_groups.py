# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Volume groups: every refusal of a disk, and what is done with those that are free."""

from __future__ import annotations

import dataclasses

import pytest
from ansible.module_utils.system.operation import Run
from ansible.module_utils.system.storage.disks import Disk
from ansible.module_utils.system.storage.facet import Context
from ansible.module_utils.system.storage.groups import (
    GroupWish,
    parse_groups,
    plan_group,
    remove_group,
)
from ansible.module_utils.system.storage.lvm import Group, Lvm

A, B, ID = "/dev/sda", "/dev/sdb", "/dev/disk/by-id/a"
SETTLE = ("udevadm", "settle", "--timeout=30")
OURS = frozenset({"virtfleet"})


def disk(path=A, device=A, **more):
    return Disk(path, device, 1 << 30, **more)


def lvm(*disks, members=None, groups=()):
    return Lvm(
        {one.path: one for one in disks}, members or {}, {group.name: group for group in groups}
    )


def group(name="vg", tags=OURS, **more):
    return Group(name, 4 << 20, 255, 255, tags, **more)


def wish(*disks, forced=()):
    return GroupWish("vg", disks or (A,), frozenset(forced))


def commands(outcome):
    for step in outcome.steps:
        assert all(isinstance(operation, Run) for operation in step.operations)
    return [operation.argv for step in outcome.steps for operation in step.operations]


def shape(outcome):
    return [(s.action.action, s.action.object, s.action.destructive) for s in outcome.steps]


def test_a_group_is_made_of_empty_disks_in_their_order(context):
    outcome = plan_group(wish(B, ID), lvm(disk(ID, A), disk(B, B)), context)
    assert shape(outcome) == [("create", "volume_group/vg", False)]
    assert commands(outcome) == [("vgcreate", "--addtag", "virtfleet", "vg", B, A)]
    changes = [change.to_dict() for change in outcome.steps[0].action.changes]
    assert changes == [
        {"path": f"disks.{B}", "before": None, "after": "physical volume"},
        {"path": f"disks.{ID}", "before": None, "after": "physical volume"},
    ]


def test_nothing_is_done_when_all_is_there(context):
    found = lvm(disk(contents=("LVM2_member",)), members={A: "vg"}, groups=[group()])
    assert plan_group(wish(), found, context) == dataclasses.replace(
        plan_group(wish(), found, context), steps=(), pending=(), blocked=()
    )


@pytest.mark.parametrize(
    ("one", "members", "reason"),
    [
        (Disk(A), {}, "it is not there"),
        (disk(contents=("gpt", "PMBR")), {}, "it holds gpt, PMBR"),
        (disk(contents=("ext4",)), {}, "it holds ext4"),
        (disk(contents=("swap",)), {}, "it holds swap"),
        (disk(contents=("linux_raid_member",)), {}, "it holds linux_raid_member"),
        (disk(contents=("partition /dev/sda1",)), {}, "it holds partition /dev/sda1"),
        # A physical volume that this host's LVM does not list may be another host's.
        (disk(contents=("LVM2_member",)), {}, "it holds LVM2_member"),
        (disk(contents=("LVM2_member", "ext4")), {A: ""}, "it holds LVM2_member, ext4"),
        (disk(contents=("LVM2_member",)), {A: "other"}, "it belongs to the volume group other"),
        (disk(uses=("/dev/sda is in use as /srv",)), {}, "/dev/sda is in use as /srv"),
    ],
)
def test_a_disk_is_refused_and_nothing_is_done(context, one, members, reason):
    outcome = plan_group(wish(A, B), lvm(one, disk(B, B), members=members), context)
    assert outcome.steps == ()
    assert [(item.object, item.reason) for item in outcome.blocked] == [(f"disk{A}", reason)]
    assert outcome.blocked[0].remedy


@pytest.mark.parametrize(
    ("one", "members", "reason"),
    [
        (
            disk(contents=("ext4",), uses=("/dev/sda is in use as /srv",)),
            {},
            "/dev/sda is in use as /srv",
        ),
        (disk(contents=("LVM2_member",)), {A: "other"}, "it belongs to the volume group other"),
        (Disk(A), {}, "it is not there"),
    ],
)
def test_force_reaches_neither_what_is_in_use_nor_what_is_not_there(context, one, members, reason):
    outcome = plan_group(wish(forced=[A]), lvm(one, members=members), context)
    assert outcome.steps == ()
    assert [item.reason for item in outcome.blocked] == [reason]


def test_force_wipes_the_partitions_and_the_disk_and_says_what_is_lost(context):
    full = disk(contents=("gpt", "partition /dev/sda1"), partitions=("/dev/sda1",))
    outcome = plan_group(wish(A, B, forced=[A]), lvm(full, disk(B, B)), context)
    assert shape(outcome) == [("create", "volume_group/vg", True)]
    assert commands(outcome) == [
        ("wipefs", "--all", "/dev/sda1", A),
        SETTLE,
        ("vgcreate", "--addtag", "virtfleet", "vg", A, B),
    ]
    assert outcome.steps[0].action.changes[0].before == "gpt, partition /dev/sda1"


def test_force_is_of_one_disk(context):
    full = [disk(contents=("ext4",)), disk(B, B, contents=("xfs",))]
    outcome = plan_group(wish(A, B, forced=[A]), lvm(*full), context)
    assert [(item.object, item.reason) for item in outcome.blocked] == [
        (f"disk{B}", "it holds xfs")
    ]
    assert outcome.steps == ()


def test_lvm_itself_still_asks_before_it_overwrites(context):
    full = disk(contents=("ext4",))
    for outcome in (
        plan_group(wish(), lvm(disk()), context),
        plan_group(wish(forced=[A]), lvm(full), context),
    ):
        for argv in commands(outcome):
            assert not {"--yes", "-y", "--force", "-f"} & set(argv)


def test_a_physical_volume_of_no_group_is_what_an_interrupted_run_left(context):
    outcome = plan_group(wish(), lvm(disk(contents=("LVM2_member",)), members={A: ""}), context)
    assert shape(outcome) == [("create", "volume_group/vg", False)]
    assert len(commands(outcome)) == 1


def test_a_group_grows_by_a_disk(context):
    found = lvm(disk(contents=("LVM2_member",)), disk(B, B), members={A: "vg"}, groups=[group()])
    outcome = plan_group(wish(A, B), found, context)
    assert shape(outcome) == [("grow", "volume_group/vg", False)]
    assert commands(outcome) == [("vgextend", "vg", B)]


def test_a_disk_taken_out_of_the_declaration_stays_and_is_told(context):
    found = lvm(disk(), members={A: "vg", B: "vg"}, groups=[group()])
    outcome = plan_group(wish(), found, context)
    assert outcome.steps == ()
    assert [(item.kind, item.reason) for item in outcome.pending] == [
        ("not_declared", f"{B} is in the group and not declared")
    ]


def test_the_same_disk_under_two_names_is_refused(context):
    outcome = plan_group(wish(A, ID), lvm(disk(), disk(ID, A)), context)
    assert [item.reason for item in outcome.blocked] == [f"it is the same as {A}"]


def test_a_group_of_somebody_else_is_adopted_if_all_its_disks_are_declared(context):
    found = lvm(disk(), disk(B, B), members={A: "vg"}, groups=[group(tags=frozenset({"prod"}))])
    outcome = plan_group(wish(A, B), found, context)
    assert shape(outcome) == [
        ("adopt", "volume_group/vg", False),
        ("grow", "volume_group/vg", False),
    ]
    assert commands(outcome)[0] == ("vgchange", "--addtag", "virtfleet", "vg")


def test_a_group_of_somebody_else_with_other_disks_is_refused(context):
    found = lvm(disk(), members={B: "vg"}, groups=[group(tags=frozenset())])
    outcome = plan_group(wish(), found, context)
    assert outcome.steps == ()
    assert [item.object for item in outcome.blocked] == ["volume_group/vg"]
    assert f"on {B} that virtfleet did not make" in outcome.blocked[0].reason


def test_a_disk_that_this_run_brings_is_awaited():
    outcome = plan_group(wish(), lvm(Disk(A)), Context("kvm1", expecting=True))
    assert shape(outcome) == [("create", "volume_group/vg", False)]
    assert outcome.blocked == ()


def test_a_group_stays_on_the_way_back_unless_its_data_shall_go(away):
    outcome = remove_group(wish(), lvm(disk(), members={A: "vg"}, groups=[group()]), away)
    assert outcome.steps == ()
    assert [item.kind for item in outcome.pending] == ["data_kept"]


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (group(tags=frozenset()), "virtfleet did not make it"),
        (group(open=("web01",)), "web01 in it is in use"),
    ],
)
def test_a_group_is_not_removed(one, reason):
    context = Context("kvm1", absent=True, remove_data=True)
    outcome = remove_group(wish(), lvm(disk(), members={A: "vg"}, groups=[one]), context)
    assert outcome.steps == ()
    assert [item.reason for item in outcome.blocked] == [reason]


def test_a_group_goes_with_all_its_volumes_if_that_was_asked():
    context = Context("kvm1", absent=True, remove_data=True)
    found = lvm(disk(), members={A: "vg", B: "vg"}, groups=[group(volumes=("pool", "web01"))])
    outcome = remove_group(wish(), found, context)
    assert shape(outcome) == [("delete", "volume_group/vg", True)]
    assert commands(outcome) == [("vgremove", "--force", "--yes", "vg"), ("pvremove", A, B)]
    assert outcome.steps[0].action.changes[0].before == ["pool", "web01"]


def test_what_an_interrupted_removal_left_goes():
    context = Context("kvm1", absent=True, remove_data=True)
    found = lvm(disk(), disk(B, B), members={A: ""})
    assert commands(remove_group(wish(A, B), found, context)) == [("pvremove", A)]
    assert commands(remove_group(wish(A, B), lvm(disk(), disk(B, B)), context)) == []


def item(**more):
    return {"name": "vg", "disks": [A], "force": False, "thin_pools": [], **more}


def test_force_is_said_for_all_disks_or_for_one(check):
    one = parse_groups([item(disks=[A, {"path": B, "force": True}])], "g", check)
    every = parse_groups([item(force=True, disks=[A, {"path": B, "force": False}])], "g", check)
    assert check.problems == []
    assert one == [GroupWish("vg", (A, B), frozenset({B}))]
    assert every[0].forced == {A}


@pytest.mark.parametrize(
    ("items", "path"),
    [
        ([item(name="-x")], "g[0].name"),
        ([item(name="a b")], "g[0].name"),
        ([item(name="..")], "g[0].name"),
        ([item(disks=[])], "g[0].disks"),
        ([item(disks=["sdb"])], "g[0].disks[0]"),
        ([item(disks=["/dev/../etc"])], "g[0].disks[0]"),
        ([item(disks=[7])], "g[0].disks[0]"),
        ([item(disks=[{"path": "sdb"}])], "g[0].disks[0].path"),
        ([item(disks=[{"path": A, "force": "yes"}])], "g[0].disks[0].force"),
        ([item(disks=[{"path": A, "forced": True}])], "g[0].disks[0].forced"),
        ([item(), item(disks=[B])], "g[1]"),
        ([item(), item(name="two")], "g.disks[1]"),
    ],
)
def test_what_is_wrong_is_named_with_its_path(check, items, path):
    parse_groups(items, "g", check)
    assert [problem.path for problem in check.problems] == [path]
