# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a patch changes, line by line, and when each change takes effect."""

from __future__ import annotations

import difflib
import json
from pathlib import Path

import pytest
from ansible.module_utils.converge.action import Edit, plain
from ansible.module_utils.virt.check import check
from ansible.module_utils.virt.document import Document, XmlError
from ansible.module_utils.virt.domain import FIELDS, KEYS
from ansible.module_utils.virt.fields import WHENS, Leaf
from ansible.module_utils.virt.patcher import patch, when_of
from ansible.module_utils.virt.reader import read
from ansible.module_utils.virt.writer import write

CASES = Path(__file__).resolve().parents[2] / "cases" / "virt"
PATCHES = json.loads((CASES / "patches.json").read_text(encoding="utf-8"))


def domain(name):
    return (CASES / f"{name}.xml").read_text(encoding="utf-8")


def differing(before, after):
    """Return the lines that went and came, - and + before them."""
    found = difflib.unified_diff(before.split("\n"), after.split("\n"), n=0, lineterm="")
    return [line for line in found if not line.startswith(("---", "+++", "@@"))]


@pytest.mark.parametrize("case", PATCHES.values(), ids=PATCHES.keys())
def test_a_patch(case, valid):
    xml = domain(case["domain"])
    problems = []
    stated = check(case["stated"], "guest", problems)
    assert problems == []
    patched = patch(xml, stated)
    found = [[edit.path, edit.before, edit.after, edit.when] for edit in patched.changes]
    assert found == case["changes"]
    assert differing(xml, patched.xml) == case["lines"]
    valid(patched.xml)
    assert patch(patched.xml, stated) == (patched.xml, ())
    assert patch(xml, stated) == patched


def test_changes_are_those_of_a_plan():
    (change,) = plain(patch(domain("running"), {"vcpus": 3}).changes)
    assert change.to_dict() == {"path": "vcpus", "before": 2, "after": 3}


def test_changes_are_told_apart_by_when():
    stated = {"vcpus": 3, "memory": "16GiB", "uuid": "00000000-0000-4000-8000-000000000009"}
    found = when_of(patch(domain("running"), stated).changes)
    assert {when: [edit.path for edit in edits] for when, edits in found.items()} == {
        "live": ["vcpus"],
        "next_boot": ["memory"],
        "replace": ["uuid"],
    }
    assert when_of([]) == {}
    assert when_of([Edit("a", 1, 2)]) == {"next_boot": (Edit("a", 1, 2, "next_boot"),)}


def test_without_a_balloon_memory_waits_for_the_next_boot():
    xml = domain("running").replace("<memballoon model='virtio'>", "<memballoon model='none'>")
    assert patch(xml, {"memory": "1GiB"}).changes[0].when == "next_boot"


@pytest.mark.parametrize(
    ("disk", "when"),
    [
        ({"target": "vdb"}, "live"),
        ({"target": "sdb"}, "live"),
        ({"target": "sdb", "bus": "usb"}, "live"),
        ({"target": "sdb", "bus": "sata"}, "next_boot"),
        ({"target": "hdb"}, "next_boot"),
        ({"target": "sdb", "device": "cdrom"}, "next_boot"),
    ],
)
def test_a_disk_comes_live_where_its_bus_takes_it(disk, when):
    stated = {"disks": [{"target": "vda"}, {"target": "sda"}, {**disk, "file": "/x"}]}
    (edit,) = patch(domain("running"), stated).changes
    assert (edit.before, edit.when) == (None, when)


def test_another_image_takes_the_former_ones_chain_and_index_away():
    stated = {"disks": [{"target": "vda", "file": "/other.qcow2"}, {"target": "sda"}]}
    disk = Document(patch(domain("running"), stated).xml).root.find("devices/disk")
    assert disk.find("backingStore") is None
    assert disk.find("source").attrib == {"file": "/other.qcow2"}


@pytest.mark.parametrize(
    ("throttle", "whens"),
    [
        ({"group": None, "total_iops_sec": 5}, {"next_boot"}),
        ({"group": None, "total_iops_sec": None, "read_bytes_sec": None}, {"live"}),
        ({"group": "fast", "total_iops_sec": 5}, {"live"}),
        (None, {"live"}),
    ],
)
def test_a_disk_leaves_a_group_live_with_its_limits_alone(throttle, whens):
    group = "<group_name>slow</group_name></iotune>"
    xml = domain("running").replace("</iotune>", group)
    stated = {"disks": [{"target": "vda", "throttle": throttle}, {"target": "sda"}]}
    assert {edit.when for edit in patch(xml, stated).changes} == whens


@pytest.mark.parametrize(
    ("before", "after", "when"),
    [
        ("passwd='old'", "new", "live"),
        ("passwd=''", "new", "live"),
        ("", "new", "next_boot"),
        ("passwd='old'", None, "next_boot"),
    ],
)
def test_only_a_password_that_is_asked_for_is_changed_live(before, after, when):
    xml = domain("running").replace("<graphics type='vnc'", f"<graphics type='vnc' {before}")
    stated = {"graphics": [{"type": "vnc", "password": after}]}
    assert [edit.when for edit in patch(xml, stated).changes] == [when]


def test_a_filter_keeps_the_parameters_of_the_former_one():
    nics = read(domain("connected"))["nics"]
    nics[0]["filter"] = "no-spoofing"
    xml = patch(domain("connected"), {"nics": nics}).xml
    assert read(xml)["nics"][0]["filter_parameters"] == nics[0]["filter_parameters"]


def test_no_password_is_in_a_change():
    xml = domain("file_on_disk")
    stated = {
        "graphics": [
            {"type": "spice", "password": "t0psecret"},
            {"type": "vnc", "password": "t0psecret"},
        ]
    }
    assert "t0psecret" not in repr(patch(xml, stated).changes)
    gone = patch(patch(xml, stated).xml, {"graphics": []}).changes
    assert "t0psecret" not in repr(gone)
    problems = []
    check({"graphics": [{"type": "vnc", "password": "t0psecret\n"}]}, "g", problems)
    assert problems
    assert "t0psecret" not in str(problems)


def test_an_unchecked_key_is_no_key():
    with pytest.raises(ValueError, match="unchecked"):
        patch(domain("running"), {"colour": "red"})
    with pytest.raises(ValueError, match="unchecked"):
        patch(domain("running"), {"cpu": {"colour": "red"}})


def test_a_patch_needs_a_domain():
    with pytest.raises(XmlError):
        patch("<network/>", {})


def test_the_table_says_when_of_every_key():
    assert len(set(KEYS)) == len(KEYS)
    for one in FIELDS:
        if isinstance(one, Leaf) and isinstance(one.when, str):
            assert one.when in WHENS


def test_new_nics_take_no_mac_that_is_taken(host):
    xml = write({"nics": [{"network": "a"}, {"network": "b"}]}, "web01", host)
    first, second = (nic["mac"] for nic in read(xml)["nics"])
    assert first != second
    stated = {"nics": [{"mac": second}, {"network": "c"}]}
    macs = [nic["mac"] for nic in read(patch(xml, stated).xml)["nics"]]
    assert macs == [first, second], "the one that is left is taken, in its place"
    both = {"nics": [{"mac": first}, {"mac": second}, {"network": "c"}]}
    assert len({nic["mac"] for nic in read(patch(xml, both).xml)["nics"]}) == 3


def test_a_cpu_model_without_a_mode_is_custom():
    xml = "<domain><cpu match='exact'><model>core2duo</model></cpu></domain>"
    assert read(xml)["cpu"] == {"mode": "custom", "match": "exact", "model": "core2duo"}
    assert patch(xml, {"cpu": {"mode": "custom", "model": "core2duo"}}) == (xml, ())
    gone = patch(xml, {"cpu": {"mode": "host-model"}}).xml
    assert gone == "<domain><cpu match='exact' mode='host-model'/></domain>"


def test_entries_alike_are_taken_in_turn():
    nic = "<interface type='user'><mac address='52:54:00:00:00:01'/></interface>"
    xml = f"<domain><devices>{nic}{nic}</devices></domain>"
    assert patch(xml, read(xml)) == (xml, ())


def test_a_comment_in_a_value_does_not_stay_in_another():
    xml = "<domain><memory>655<!-- x -->36</memory></domain>"
    assert read(xml)["memory"] == "64MiB"
    assert patch(xml, {"memory": "1MiB"}).xml == "<domain><memory unit='KiB'>1024</memory></domain>"


def test_what_is_around_the_domain_stays():
    xml = domain("file_on_disk")
    patched = patch(xml, {"title": "new"}).xml
    assert patched.startswith(xml[: xml.index("<domain")])
    assert patched.endswith(xml[xml.rindex("</domain>") :])
    assert "<!-- the only disk -->" in patched


@pytest.mark.parametrize("layout", ["\n  ", "\n\t", "\n    ", ""])
def test_what_is_new_is_indented_as_the_rest(layout):
    xml = f"<domain>{layout}<name>x</name>{layout}<memory>65536</memory>{layout[:1]}</domain>"
    patched = patch(xml, {"rng": {}}).xml
    unit = layout[1:]
    if not layout:
        assert "\n" not in patched
        return
    assert f"\n{unit}<devices>\n{unit * 2}<rng model='virtio'>\n{unit * 3}<backend" in patched
    assert patch(patched, {"rng": None}).xml == xml


@pytest.mark.parametrize(
    ("loader", "stated", "differs"),
    [
        ("<loader type='pflash'>/fd</loader>", False, False),
        ("<loader type='pflash' secure='no'>/fd</loader>", False, False),
        ("<loader type='pflash' secure='yes'>/fd</loader>", False, True),
        ("<loader type='pflash'>/fd</loader>", True, True),
        ("<loader type='pflash' secure='yes'>/fd</loader>", True, False),
    ],
)
def test_a_loader_is_not_secure_unless_it_says_so(loader, stated, differs):
    xml = f"<domain><name>a</name><os><type>hvm</type>{loader}</os></domain>"
    once = patch(xml, {"firmware": {"secure_boot": stated}})
    assert [edit.path for edit in once.changes] == (["firmware.secure_boot"] if differs else [])
    assert patch(once.xml, {"firmware": {"secure_boot": stated}}).changes == ()
