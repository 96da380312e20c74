# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A lab's description: what is read, and what is refused with its place in the file."""

from __future__ import annotations

import pytest
from virtlab import description
from virtlab.lab import DESCRIPTIONS, Lab, LabError


def host(**given):
    return description.parse({"hosts": {"h1": given}}).hosts["h1"]


def test_a_host_has_sensible_defaults():
    spec = host()
    assert (spec.release, spec.image, spec.boot) == ("bookworm", "ready", "direct")
    assert (spec.memory_mib, spec.cpus, spec.disks, spec.numa) == (3072, 2, (), 1)


def test_everything_can_be_chosen():
    spec = host(
        release="trixie",
        image="bare",
        boot="grub",
        memory="512MiB",
        cpus=4,
        disks=["1GiB", "2GiB"],
        iommu="intel",
        sriov=2,
        numa=2,
        watchdog=True,
    )
    assert (spec.memory_mib, spec.disks, spec.sriov) == (512, ("1GiB", "2GiB"), 2)


@pytest.mark.parametrize(
    ("given", "can"),
    [
        ({}, True),
        ({"iommu": "intel"}, True),
        ({"iommu": "amd"}, False),
        ({"sriov": 1}, False),
        ({"sriov_nic": True}, False),
        ({"usb": True}, False),
    ],
)
def test_what_forbids_a_snapshot(given, can):
    assert host(**given).can_snapshot is can


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "lab.yml: expected a mapping with the one key hosts"),
        ({"hosts": []}, "expected a mapping with the one key hosts"),
        ({"hosts": {}}, "expected at least one host"),
        ({"host": {"a": {}}}, "expected a mapping with the one key hosts"),
        ({"hosts": {"UPPER": {}}}, "hosts.UPPER: expected a short lower-case host name"),
        ({"hosts": {"a/b": {}}}, "hosts.a/b: expected a short lower-case host name"),
        ({"hosts": {1: {}}}, "hosts.1: expected a short lower-case host name"),
        ({"hosts": {"a": 1}}, "hosts.a: expected a mapping, found 1"),
        ({"hosts": {"a": {"disk": []}}}, r"hosts.a.disk: expected one of release, image, boot"),
        ({"hosts": {"a": {"release": "sid"}}}, "a.release: expected one of bookworm, trixie"),
        ({"hosts": {"a": {"boot": "pxe"}}}, "a.boot: expected one of direct, grub, found 'pxe'"),
        ({"hosts": {"a": {"memory": "1G"}}}, "a.memory: unknown unit 'G'"),
        ({"hosts": {"a": {"memory": 1024}}}, "a.memory: expected a whole number with a unit"),
        ({"hosts": {"a": {"disks": "1GiB"}}}, "a.disks: expected a list of sizes, found '1GiB'"),
        ({"hosts": {"a": {"disks": [1]}}}, "a.disks: expected a whole number with a unit"),
        ({"hosts": {"a": {"cpus": "2"}}}, "a.cpus: expected int, found '2'"),
        ({"hosts": {"a": {"cpus": -1}}}, "a.cpus: expected int, found -1"),
        ({"hosts": {"a": {"cpus": True}}}, "a.cpus: expected int, found True"),
        ({"hosts": {"a": {"numa": 3}}}, "a.numa: expected one of 1, 2, found 3"),
        ({"hosts": {"a": {"watchdog": 1}}}, "a.watchdog: expected bool, found 1"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(data, message):
    with pytest.raises(description.DescriptionError, match=message):
        description.parse(data, "lab.yml")


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(description.DescriptionError, match=r"none.yml: .*No such file"):
        description.load(tmp_path / "none.yml")
    (tmp_path / "broken.yml").write_text("hosts: [")
    with pytest.raises(description.DescriptionError, match=r"broken.yml: while parsing"):
        description.load(tmp_path / "broken.yml")


@pytest.mark.parametrize("path", sorted(DESCRIPTIONS.glob("*.yml")), ids=lambda path: path.stem)
def test_the_descriptions_that_come_along_are_right(path):
    assert description.load(path).hosts


@pytest.mark.parametrize("name", ["", "UPPER", "a/b", "..", "x" * 40])
def test_a_lab_has_a_short_name(name):
    with pytest.raises(LabError, match="expected a short lower-case name"):
        Lab(name)
