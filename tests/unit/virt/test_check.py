# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What may be stated of a guest: every wrong input has its message, and all come at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ansible.module_utils.virt.check import check
from ansible.module_utils.virt.reader import read

CASES = Path(__file__).resolve().parents[2] / "cases" / "virt"
BAD_INPUT = json.loads((CASES / "bad_input.json").read_text(encoding="utf-8"))


def problems_of(stated, **more):
    problems = []
    check(stated, "guests[2]", problems, **more)
    return [str(problem) for problem in problems]


@pytest.mark.parametrize(("stated", "expected"), BAD_INPUT.values(), ids=BAD_INPUT.keys())
def test_bad_input(stated, expected):
    assert expected
    assert problems_of(stated) == expected


def test_what_is_known_comes_nowhere_near_a_message_for_a_long_key():
    (found,) = problems_of({"x" * 5000: 1})
    assert len(found) < 2000


@pytest.mark.parametrize(
    "value", [None, True, 1, 1.5, "x", [], [1], {}, {"a": 1}, [[]], [{}], object()]
)
def test_no_value_of_any_type_breaks_the_check(value):
    from ansible.module_utils.virt.domain import KEYS

    for key in (*KEYS, "xml"):
        problems_of({key: value})
        problems_of({key: {key: value}})
        problems_of({key: [value]})
    for key in ("disks", "nics", "graphics", "hostdevs", "filesystems"):
        for inside in ("target", "mac", "type", "network", "boot", "throttle", "volume", "vlan"):
            problems_of({key: [{inside: value}]})


def test_values_become_canonical():
    stated = check(
        {
            "memory": "2048 MiB",
            "uuid": "3B1A9C4E-0000-4000-8000-0123456789AB",
            "kernel": "",
            "cpu_tuning": {"cpus": "0,1,2,3,^2", "vcpu_pins": {0: 3}},
            "nics": [{"mac": "52:54:00:AB:CD:EF", "vlan": 7}],
            "hostdevs": [{"pci": "3:0.0"}],
            "rng": None,
            "disks": None,
        },
        "g",
        [],
    )
    assert stated == {
        "memory": "2GiB",
        "uuid": "3b1a9c4e-0000-4000-8000-0123456789ab",
        "kernel": None,
        "cpu_tuning": {"cpus": "0-1,3", "vcpu_pins": {"0": "3"}},
        "nics": [{"mac": "52:54:00:ab:cd:ef", "vlan": [7]}],
        "hostdevs": [{"pci": "0000:03:00.0"}],
        "rng": None,
        "disks": [],
    }


def test_what_is_checked_is_not_changed():
    stated = {"memory": "2048MiB", "cpu_tuning": {"vcpu_pins": {0: "1"}}}
    check(stated, "g", [])
    assert stated == {"memory": "2048MiB", "cpu_tuning": {"vcpu_pins": {0: "1"}}}


def test_a_canonical_spec_is_canonical(specs):
    for seed in range(40):
        stated = specs(seed).spec()
        problems = []
        assert check(stated, "g", problems) == stated
        assert problems == []


@pytest.mark.parametrize("name", ["running", "file_on_disk", "uefi", "tuned", "aarch64", "minimal"])
def test_what_was_read_may_be_stated(name):
    """A domain that is adopted is declared by what was read of it."""
    assert problems_of(read((CASES / f"{name}.xml").read_text(encoding="utf-8"))) == []


def test_a_new_guest_states_its_sources():
    assert problems_of(
        {
            "disks": [{"target": "vda"}, {"target": "sda", "device": "cdrom"}],
            "nics": [{"model": "virtio"}],
        },
        new=True,
    ) == [
        "guests[2].disks[0]: expected a source (file, block, volume, network, nvme), found none",
        (
            "guests[2].nics[0]: expected what it is connected to (network, bridge, direct, hostdev,"
            " user, ethernet), found nothing"
        ),
    ]


def test_relations_wait_until_each_key_is_right():
    found = problems_of({"memory": "8GiB", "max_memory": "4GiB", "vcpus": 0})
    assert [line.partition(":")[0] for line in found] == ["guests[2].vcpus"]


def test_no_message_has_a_line_of_its_own():
    for value in ("a\nb", "\x1b[31m", "\u2028", "x" * 10000):
        for stated in (
            {value: 1},
            {"cpu": {value: 1}},
            {"title": value + "\n"},
            {"machine": value},
            {"disks": [{"target": value}]},
        ):
            for line in problems_of(stated):
                assert line.isprintable()
                assert len(line) < 2000


@pytest.mark.parametrize(
    ("one", "other", "clash"),
    [
        ({}, {}, True),
        ({"device": "cdrom"}, {"device": "cdrom"}, False),
        ({"device": "cdrom"}, {}, True),
        ({}, {"readonly": True}, True),
        ({"readonly": True}, {"readonly": True}, False),
        ({"shareable": True}, {"shareable": True}, False),
    ],
)
def test_a_source_that_is_written_to_is_one_disk_alone(one, other, clash):
    disks = [{"target": f"sd{n}", "file": "/a", **more} for n, more in (("a", one), ("b", other))]
    problems = []
    check({"disks": disks}, "guests[0]", problems)
    assert [problem.path for problem in problems] == ["guests[0].disks[1].file"] * clash
