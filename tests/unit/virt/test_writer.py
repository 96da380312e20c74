# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A new domain says what was stated, is valid to libvirt, and is the same every time."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible.module_utils.virt.check import check
from ansible.module_utils.virt.document import Document, XmlError
from ansible.module_utils.virt.domain import FIELDS
from ansible.module_utils.virt.fields import Group, Leaf
from ansible.module_utils.virt.lists import Items
from ansible.module_utils.virt.mark import Mark
from ansible.module_utils.virt.marking import read_mark
from ansible.module_utils.virt.patcher import patch
from ansible.module_utils.virt.reader import read
from ansible.module_utils.virt.writer import Capabilities, write

BY_KEY = {one.key: one for one in FIELDS}
SEEDS = range(120)


def unsaid(stated, found, fields, path=""):
    """Yield where a spec that was read does not say what was stated."""
    for one in fields:
        if one.key not in stated:
            continue
        want = stated[one.key]
        got = None if found is None else found.get(one.key)
        here = f"{path}.{one.key}"
        if isinstance(one, Group) and isinstance(want, dict):
            yield from unsaid(want, got, one.fields, here)
        elif isinstance(one, Items):
            assert len(want) == len(got), here
            for number, entry in enumerate(want):
                yield from unsaid(entry, got[number], one.fields, f"{here}[{number}]")
        elif want != got and here.rpartition(".")[2] != "password":
            absent = one.absent if isinstance(one, Leaf) else None
            if one.key == "secure_boot":  # a loader that is named says so only if it is
                absent = False
            if not (got is None and want == absent):
                yield here, want, got


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_read_back_is_what_was_stated(seed, specs, host, valid):
    stated = specs(seed).spec()
    xml = write(stated, "web01", host)
    valid(xml)
    assert list(unsaid(stated, read(xml), FIELDS)) == []
    assert write(stated, "web01", host) == xml
    assert patch(xml, stated) == (xml, ())


@pytest.mark.parametrize("key", [one.key for one in FIELDS if "memory" not in one.key])
def test_every_key_is_written_validly(key, specs, host, valid):
    for seed in range(12):
        maker = specs(seed)
        stated = maker.sound({key: maker.field(BY_KEY[key])})
        if key in ("arch", "accel"):
            continue
        xml = write(stated, "web01", host)
        valid(xml)
        assert list(unsaid(stated, read(xml), FIELDS)) == []


def test_a_sound_guest_where_nothing_is_stated(host, valid):
    xml = write({}, "web01", host)
    valid(xml)
    assert read(xml) == {
        "uuid": "2d8812ff-bf36-5521-b42c-8647b4302298",
        "memory": "1GiB",
        "vcpus": 1,
        "cpu": {"mode": "host-model"},
        "accel": "kvm",
        "arch": "x86_64",
        "machine": "pc-q35-7.2",
        "emulator": "/usr/bin/qemu-system-x86_64",
        "features": {"acpi": True, "apic": True},
        "clock": {"offset": "utc", "timers": {"hpet": {"present": False}}},
        "serials": [{"type": "pty"}],
        "channels": [{"name": "org.qemu.guest_agent.0", "type": "unix"}],
        "memballoon": {"model": "virtio"},
        "rng": {"model": "virtio", "backend": "random", "device": "/dev/urandom"},
    }


def test_null_is_none_of_it(host, valid):
    xml = write({"rng": None, "channels": [], "serials": [], "features": None}, "web01", host)
    valid(xml)
    assert {"rng", "channels", "serials", "features"} & set(read(xml)) == set()


def test_defaults_hold_beside_what_is_stated_in_a_group(host):
    xml = write({"features": {"apic": False, "pmu": True}}, "web01", host)
    assert read(xml)["features"] == {"acpi": True, "pmu": True}


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({"target": "vda"}, "virtio"),
        ({"target": "sda"}, "scsi"),
        ({"target": "hda"}, "ide"),
        ({"target": "fda", "device": "floppy"}, "fdc"),
        ({"target": "sda", "device": "cdrom"}, "sata"),
        ({"target": "sda", "bus": "usb"}, "usb"),
    ],
)
def test_a_bus_follows_from_the_target(stated, expected, host, valid):
    xml = write({"disks": [{**stated, "file": "/x.img"}]}, "web01", host)
    valid(xml)
    disk = read(xml)["disks"][0]
    assert disk["bus"] == expected
    assert disk.get("readonly", False) == (stated.get("device") == "cdrom")
    assert ("scsi_controller" in read(xml)) == (expected == "scsi")


def test_a_cd_on_another_machine_is_on_scsi(host):
    stated = {"machine": "pc", "disks": [{"target": "sda", "device": "cdrom"}]}
    found = read(write(stated, "web01", host))
    assert found["disks"][0]["bus"] == "scsi"
    assert found["machine"] == "pc-i440fx-7.2"
    assert found["scsi_controller"] == {"model": "virtio-scsi"}


def test_other_architectures(host, valid):
    arm = replace(host, arch="aarch64", machine="virt-7.2", accel="tcg")
    found = write({"firmware": {"type": "uefi"}}, "arm", arm)
    valid(found)
    assert read(found)["features"] == {"acpi": True}
    assert read(found)["cpu"] == {"mode": "maximum"}
    assert "features" not in read(write({}, "arm", arm))
    mainframe = write({}, "z", replace(host, arch="s390x", machine="s390-ccw-virtio-7.2"))
    valid(mainframe)
    assert read(mainframe)["consoles"] == [{"type": "pty", "target": "sclp"}]


def test_a_domain_bears_its_mark(host, valid):
    mark = Mark("prod", "web01", "0" * 64, ("vda",))
    xml = write({}, "web01", host, fleet="prod", mark=mark)
    valid(xml)
    assert read_mark(xml) == mark
    assert patch(xml, {"vcpus": 1}, fleet="prod") == (xml, ())


def test_a_fragment_is_merged_into_a_new_domain(host, valid):
    stated = check({"xml": "<devices><redirdev bus='usb' type='spicevmc'/></devices>"}, "g", [])
    xml = write(stated, "web01", host)
    valid(xml)
    assert Document(xml).root.find("devices/redirdev") is not None
    assert patch(xml, stated) == (xml, ())


@pytest.mark.parametrize("name", ["", " a", "a\nb", "a\x00b", "\ud800"])
def test_a_name_is_one_line_of_text(name, host):
    with pytest.raises(XmlError):
        write({}, name, host)


def test_elements_stand_where_libvirt_has_them(host):
    stated = {"title": "t", "rng": {}, "disks": [{"target": "vda", "file": "/x", "boot": 1}]}
    root = Document(write(stated, "web01", host)).root
    assert [child.tag for child in root] == [
        *("name", "uuid", "title", "memory", "vcpu", "os", "features", "cpu", "clock", "devices")
    ]
    assert [child.tag for child in root.find("devices") if child.tag != "controller"] == [
        *("emulator", "disk", "serial", "channel", "memballoon", "rng")
    ]


@pytest.mark.parametrize(
    ("machine", "ports"), [("pc-q35-7.2", 14), ("q35", 14), ("virt-7.2", 14), ("pc-i440fx-7.2", 0)]
)
def test_a_machine_with_pci_express_has_room_for_what_comes_later(machine, ports):
    root = Document(write({}, "a", Capabilities(machine))).root
    models = [one.get("model") for one in root.findall("devices/controller")]
    assert models == (["pcie-root", *["pcie-root-port"] * ports] if ports else [])


NO_HPET = {"hpet": {"present": False}}


@pytest.mark.parametrize(
    ("stated", "clock"),
    [
        ({}, {"offset": "utc", "timers": NO_HPET}),
        ({"machine": "pc-i440fx-7.2"}, {"offset": "utc", "timers": NO_HPET}),
        ({"accel": "tcg"}, {"offset": "utc", "timers": NO_HPET}),
        ({"clock": {"offset": "localtime"}}, {"offset": "localtime", "timers": NO_HPET}),
        (
            {"clock": {"timers": {"rtc": {"tickpolicy": "catchup"}}}},
            {"offset": "utc", "timers": {"rtc": {"tickpolicy": "catchup"}, **NO_HPET}},
        ),
        (
            {"clock": {"timers": {"hpet": {"present": True}}}},
            {"offset": "utc", "timers": {"hpet": {"present": True}}},
        ),
        ({"clock": None}, None),
        ({"machine": "microvm"}, None),
        ({"arch": "aarch64", "machine": "virt"}, None),
    ],
)
def test_a_pc_has_no_hpet_but_where_it_is_asked_for(host, valid, stated, clock):
    xml = write(stated, "web01", host)
    valid(xml)
    assert read(xml).get("clock") == clock
