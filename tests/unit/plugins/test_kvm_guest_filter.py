# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filters that narrow guests, as templates call them."""

from __future__ import annotations

import runpy

import pytest
from ansible.errors import AnsibleFilterError
from ansible.module_utils.virt.check import check
from ansible.module_utils.virt.writer import Capabilities, write

SPECS = [{"name": "web01"}, {"name": "db01"}]


@pytest.fixture
def filters(repository):
    path = repository / "plugins" / "filter" / "kvm_guest.py"
    return runpy.run_path(str(path))["FilterModule"]().filters()


def test_selecting(filters):
    assert filters["kvm_guest_select"](SPECS, "web*") == [{"name": "web01"}]
    assert filters["kvm_guest_unmatched"](SPECS, "web*,typo") == ["typo"]


def test_what_is_no_selection_is_an_error_of_the_template(filters):
    with pytest.raises(AnsibleFilterError, match="separate them by commas"):
        filters["kvm_guest_select"](SPECS, 7)


LEASED = [
    {"name": "web01", "nics": [{"network": "lan", "lease": "10.0.0.11"}, {"network": "lan"}]},
    {"name": "db01", "nics": [{"bridge": "br0"}, {"network": "lan", "lease": "10.0.0.12"}]},
    {"name": "old", "state": "absent", "nics": [{"network": "lan", "lease": "10.0.0.11"}]},
    {"name": "own", "nics": [{"network": "lan", "mac": "02:00:00:00:00:0A", "lease": "10.0.0.13"}]},
    {"name": "far", "nics": [{"network": "wan", "lease": "10.0.0.11"}]},
]


def test_leases_name_the_macs_that_the_guests_get(filters):
    found = filters["kvm_guest_leases"](LEASED, "lan")
    assert [(one["name"], one["ip"]) for one in found] == [
        ("web01", "10.0.0.11"),
        ("db01", "10.0.0.12"),
        ("own", "10.0.0.13"),
    ]
    assert found[2]["mac"] == "02:00:00:00:00:0a"
    host = Capabilities("q35")
    for spec, one in zip(LEASED[:2], found, strict=False):
        xml = write({"nics": spec["nics"]}, spec["name"], host)
        assert one["mac"] in xml
        assert one["ip"] not in xml
    other = filters["kvm_guest_leases"](LEASED, "lan", "prod")
    assert other[0]["mac"] in write({"nics": LEASED[0]["nics"]}, "web01", host, fleet="prod")
    assert other[0]["mac"] != found[0]["mac"]
    renamed = filters["kvm_guest_leases"]([{**LEASED[0], "name": "new", "was": "web01"}], "lan")
    assert renamed == [{**found[0], "name": "new"}]


def test_a_lease_is_one_guest_s(filters):
    twice = [LEASED[0], {**LEASED[0], "name": "web02"}]
    with pytest.raises(AnsibleFilterError, match=r"10\.0\.0\.11 of web01 and web02"):
        filters["kvm_guest_leases"](twice, "lan")
    with pytest.raises(AnsibleFilterError, match="name of a network"):
        filters["kvm_guest_leases"](twice, None)


@pytest.mark.parametrize(("lease", "right"), [("10.0.0.255", True), ("10.0.0.256", False)])
def test_a_lease_is_an_address(lease, right):
    problems = []
    check({"nics": [{"network": "lan", "lease": lease}]}, "guests[0]", problems)
    assert (problems == []) is right
