# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""LVM's reports read, and groups and pools planned together."""

from __future__ import annotations

import json

from ansible.module_utils.system.storage import lvm
from ansible.module_utils.system.storage.disks import Disk
from ansible.module_utils.system.storage.facet import Context
from ansible.module_utils.system.storage.groups import GroupWish
from ansible.module_utils.system.storage.pools import PoolWish

REPORT = ("--reportformat", "json", "--units", "b", "--nosuffix", "--options")
LVS = ("lvs", *REPORT, "vg_name,lv_name,lv_attr,lv_size,lv_metadata_size")
VGS = ("vgs", *REPORT, "vg_name,vg_tags,vg_extent_size,vg_extent_count,vg_free_count")
PVS = ("pvs", *REPORT, "pv_name,vg_name")
LSBLK = ("lsblk", "--json", "--bytes", "--output", "PATH,TYPE,SIZE,RO,MOUNTPOINT", "/dev/sdb")
WIPEFS = ("wipefs", "--no-act", "--json", "/dev/sdb")
POOL = PoolWish("pool", "80%", percent=80)
WISH = GroupWish("vg", ("/dev/sdb",), frozenset(), (POOL,))
DISK = {"path": "/dev/sdb", "type": "disk", "size": 10 << 30, "ro": False, "mountpoint": None}
EMPTY = {LSBLK: json.dumps({"blockdevices": [DISK]}), WIPEFS: ""}
MISSING = (127, "", "not installed")


def answer(kind, *rows):
    return json.dumps({"report": [{kind: list(rows)}]})


def volume(name, attributes, size="0", metadata=""):
    return {
        "vg_name": "vg",
        "lv_name": name,
        "lv_attr": attributes,
        "lv_size": size,
        "lv_metadata_size": metadata,
    }


def row(**more):
    return {
        "vg_name": "vg",
        "vg_tags": "prod,virtfleet",
        "vg_extent_size": "4194304",
        "vg_extent_count": "2559",
        "vg_free_count": "506",
        **more,
    }


def test_the_reports_are_read(system, tmp_path):
    host = system(
        {"/dev/sdb": "", "/dev/dm-0": ""},
        {
            LVS: answer(
                "lv",
                volume("pool", "twi-aotz--", "8585740288", "12582912"),
                volume("web01", "Vwi-aotz--", "1073741824"),
                volume("web02", "Vwi-a-tz--", "1073741824"),
            ),
            VGS: answer("vg", row(), row(vg_name="other", vg_tags="")),
            PVS: answer(
                "pv",
                {"pv_name": "/dev/mapper/mpatha", "vg_name": "vg"},
                {"pv_name": "/dev/sdz", "vg_name": ""},
            ),
            **EMPTY,
        },
    )
    (tmp_path / "dev/mapper").mkdir()
    (tmp_path / "dev/mapper/mpatha").symlink_to("../dm-0")
    found = lvm.observe(host, [WISH])
    assert found.members == {"/dev/dm-0": "vg", "/dev/sdz": ""}
    assert found.groups["vg"] == lvm.Group(
        "vg",
        4 << 20,
        2559,
        506,
        frozenset({"prod", "virtfleet"}),
        {"pool": lvm.Pool(8585740288, 12582912)},
        ("pool", "web01", "web02"),
        ("web01",),
    )
    assert found.groups["other"].volumes == ()
    assert found.groups["other"].tags == frozenset()
    assert found.disks == {"/dev/sdb": Disk("/dev/sdb", "/dev/sdb", 10 << 30)}


def test_nothing_is_read_without_a_wish(system):
    assert lvm.observe(system(), []) == lvm.Lvm()


def test_check_mode_on_a_bare_host_plans_group_and_pool(system, context):
    host = system({"/dev/sdb": ""}, {LVS: MISSING, VGS: MISSING, PVS: MISSING, **EMPTY})
    found = lvm.observe(host, [WISH])
    groups = lvm.plan_all_groups([WISH], found, context)
    pools = lvm.plan_all_pools([WISH], found, context)
    actions = [step.action for step in (*groups.steps, *pools.steps)]
    assert [(action.step, action.action, action.object) for action in actions] == [
        (5, "create", "volume_group/vg"),
        (6, "create", "thin_pool/vg/pool"),
    ]
    assert pools.steps[0].operations[0].argv[5] == "2047"


def test_a_pool_on_a_group_that_grows_is_planned_with_the_room_to_come(context):
    group = lvm.Group("vg", 4 << 20, 255, 0, pools={"pool": lvm.Pool(204 << 22, 4 << 20)})
    disks = {path: Disk(path, path, 1 << 30) for path in ("/dev/sda", "/dev/sdb")}
    found = lvm.Lvm(disks, {"/dev/sda": "vg"}, {"vg": group})
    wish = GroupWish("vg", ("/dev/sda", "/dev/sdb"), frozenset(), (POOL,))
    outcome = lvm.plan_all_pools([wish], found, context)
    assert outcome.steps[0].operations[0].argv == ("lvextend", "--extents", "408", "vg/pool")


def test_a_pool_on_a_disk_that_is_not_there_waits_for_the_disk(context):
    found = lvm.Lvm({"/dev/sdb": Disk("/dev/sdb")})
    assert lvm.plan_all_pools([WISH], found, context).steps == ()
    coming = lvm.plan_all_pools([WISH], found, Context("kvm1", expecting=True))
    assert [step.action.object for step in coming.steps] == ["thin_pool/vg/pool"]


def test_pools_go_with_their_group(away):
    found = lvm.Lvm({"/dev/sdb": Disk("/dev/sdb", "/dev/sdb", 10 << 30)})
    assert lvm.plan_all_pools([WISH], found, away).steps == ()
    assert lvm.plan_all_groups([WISH], found, away).steps == ()
