# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What guests refer to that is not there, and what two of them would have that only one can."""

from __future__ import annotations

import pytest
from ansible.module_utils.guest.libvirt.references import Surroundings, absent, shared

HOST = Surroundings(networks=("default", "lan"), pools=("local",), exists=lambda p: p == "/there")


def file(path, **more):
    return {"disks": [{"target": "vda", "file": path, **more}]}


def export(protocol, name, host="mon1", **disk):
    network = {"protocol": protocol, "name": name, "hosts": [{"name": host}]}
    return {"disks": [{"target": "vda", "network": network, **disk}]}


def address(text, place="lan", key="network"):
    nic = {"match": {"macaddress": "02:00:00:00:00:01"}, "addresses": [text]}
    network = {"version": 2, "ethernets": {"nic1": nic}}
    nics = [{"network": "other"}, {key: place}]
    return {"nics": nics, "cloud_init": {"network_config": network}}


def mac(address):
    return {"nics": [{"network": "lan", "mac": address}]}


@pytest.mark.parametrize(
    ("spec", "path", "remedy"),
    [
        ({"nics": [{"network": "defualt"}]}, "nics[0].network", "did you mean default?"),
        ({"nics": [{"network": "wan0815"}]}, "nics[0].network", "make the network first"),
        ({"nics": [{"bridge": "br9"}]}, "nics[0].bridge", "make it first, as the role kvm_network"),
        (
            {"disks": [{"target": "vda", "volume": {"pool": "locla", "volume": "a"}}]},
            "disks[0].volume.pool",
            "did you mean local?",
        ),
        (file("/none"), "disks[0].file", None),
        (file("/none", startup_policy="mandatory"), "disks[0].file", None),
        ({"kernel": "/none"}, "kernel", None),
        ({"dtb": "/none"}, "dtb", None),
    ],
)
def test_what_is_not_there_is_named(spec, path, remedy):
    (problem,) = absent("web", spec, HOST)
    assert problem.path == f"web.{path}"
    assert (problem.remedy or "").startswith(remedy or "")


@pytest.mark.parametrize(
    "spec",
    [
        {"nics": [{"network": "lan"}, {"user": True}]},
        file("/there"),
        file("/none", startup_policy="optional"),
        {"kernel": "/there", "initrd": None},
    ],
)
def test_what_is_there_is_no_problem(spec):
    assert list(absent("web", spec, HOST)) == []


@pytest.mark.parametrize(
    ("one", "other", "clash"),
    [
        (file("/a"), file("/a"), True),
        (file("/a"), file("/b"), False),
        (file("/a", shareable=True), file("/a", shareable=True), False),
        (file("/a", readonly=True), file("/a", readonly=True), False),
        (file("/a", device="cdrom"), file("/a", device="cdrom"), False),
        # QEMU holds a lock on what it writes, which keeps readers away too.
        (file("/a", device="cdrom"), file("/a"), True),
        (file("/a"), file("/a", readonly=True), True),
        (export("rbd", "guests/a"), export("rbd", "guests/a", host="mon2"), True),
        (export("rbd", "guests/a"), export("rbd", "guests/b"), False),
        (
            export("rbd", "guests/a", shareable=True),
            export("rbd", "guests/a", shareable=True),
            False,
        ),
        (export("nbd", "a"), export("nbd", "a"), True),
        (export("nbd", "a"), export("nbd", "a", host="other"), False),
        (export("https", "a.iso", device="cdrom"), export("https", "a.iso", device="cdrom"), False),
        (mac("02:00:00:00:00:01"), mac("02:00:00:00:00:01"), True),
        (address("10.1.0.5/24"), address("10.1.0.5/16"), True),
        (address("10.1.0.5/24"), address("10.1.0.6/24"), False),
        (address("10.1.0.5/24"), address("10.1.0.5/24", place="dmz"), False),
        (address("10.1.0.5/24", "br0", "bridge"), address("10.1.0.5/24", "br0", "bridge"), True),
        ({"cloud_init": {"network_config": "disabled"}}, address("10.1.0.5/24"), False),
        ({"vsock": {"cid": 7}}, {"vsock": {"cid": 7}}, True),
        ({"vsock": {"cid": 7}}, {"vsock": {"auto": True}}, False),
        (mac("02:00:00:00:00:01"), mac("02:00:00:00:00:02"), False),
    ],
)
def test_what_two_would_have_is_named_for_the_one_that_comes(one, other, clash):
    found = list(shared({"new": one}, {"old": other}))
    assert [problem.path.partition(".")[0] for problem in found] == (["new"] if clash else [])
    assert len(list(shared({"a": one, "b": other}, {}))) == int(clash)
    # What is there already is not this run's doing.
    assert list(shared({}, {"a": one, "b": other})) == []


@pytest.mark.parametrize(
    ("kind", "there", "told"),
    [
        ("qcow2", {"/top", "/middle", "/base"}, None),
        ("qcow2", {"/top", "/middle"}, "/base"),
        ("qcow2", {"/top"}, "/middle"),
        ("qcow2", set(), "/top"),
        ("raw", {"/top"}, None),
    ],
)
def test_an_image_whose_backing_file_is_gone_is_named(kind, there, told):
    host = Surroundings(
        exists=there.__contains__, chain=lambda _file, _format: ["/middle", "/base"]
    )
    found = list(absent("web", file("/top", format=kind), host))
    assert [problem.path for problem in found] == ["web.disks[0].file"] * (told is not None)
    assert all(told in str(problem) for problem in found)


def test_a_volume_that_is_not_there_hides_nothing_that_follows():
    disk = {"target": "vda", "volume": {"pool": "local", "volume": "v1"}}
    host = Surroundings(pools=("local",), exists=lambda _: False, holds=lambda _pool, _name: False)
    found = [problem.path for problem in absent("web", {"disks": [disk], "kernel": "/k"}, host)]
    assert found == ["web.disks[0].volume", "web.kernel"]


def test_a_writer_is_found_behind_a_reader():
    others = {"reads": file("/a", readonly=True), "writes": file("/a")}
    for there in (others, dict(reversed(list(others.items())))):
        (problem,) = shared({"new": file("/a", readonly=True)}, there)
        assert problem.found == "'/a', which writes has"
