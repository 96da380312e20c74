# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What two guests of a fleet would have that only one can, told before a host is asked."""

from __future__ import annotations

import pytest

pytest.importorskip("jsonschema", reason="a fleet is read on the controller alone")

from ansible.module_utils.converge.errors import InputError
from ansible.module_utils.fleet.declare import declare

HEAD = """\
plugin: kvm_fleet
hypervisors: {kvm1: , kvm2: }
networks:
  inside: {mode: nat, bridge: virbr7, ips: [{address: 10.5.0.1, prefix: 24}]}
  office: {mode: bridge, bridge: br0}
defaults: {memory: 1GiB}
guests:
"""
MAC = "nics: [{network: inside, mac: '02:00:00:00:00:%02x'}]"
ADDRESS = "cloud_init: {}, nics: [{network: %s, ip: {addresses: [%s/24]}}]"
LEASE = "nics: [{network: inside, mac: '02:00:00:00:00:09', lease: %s}]"
LAZY = (ADDRESS % ("office", "ONE")).replace("ONE/24", "'{{ one }}'")


def refusals(*guests):
    """Return what is wrong with guests, each its name and what is stated of it."""
    text = HEAD + "".join(f"  {name}: {{{entry}}}\n" for name, entry in guests)
    try:
        declare([("fleet.yml", text.encode())])
    except InputError as error:
        return [str(problem) for problem in error.problems]
    return []


def pinned(host, entry):
    return f"host: {host}, {entry}"


@pytest.mark.parametrize(
    ("one", "other", "told"),
    [
        (MAC % 1, MAC % 1, "a MAC of its own"),
        (MAC % 1, MAC % 2, None),
        (pinned("kvm1", MAC % 1), pinned("kvm2", MAC % 1), "a MAC of its own"),
        (MAC % 10, (MAC % 10).replace("0a", "0A"), "a MAC of its own"),
        (ADDRESS % ("office", "10.9.0.5"), ADDRESS % ("office", "10.9.0.5"), "an address of its"),
        (ADDRESS % ("office", "10.9.0.5"), ADDRESS % ("office", "10.9.0.6"), None),
        (ADDRESS % ("office", "10.5.0.5"), ADDRESS % ("inside", "10.5.0.5"), None),
        (
            pinned("kvm1", ADDRESS % ("office", "10.9.0.5")),
            pinned("kvm2", ADDRESS % ("office", "10.9.0.5")),
            "an address of its own",
        ),
        (
            pinned("kvm1", ADDRESS % ("inside", "10.5.0.5")),
            pinned("kvm2", ADDRESS % ("inside", "10.5.0.5")),
            None,
        ),
        (
            pinned("kvm1", ADDRESS % ("inside", "10.5.0.5")),
            ADDRESS % ("inside", "10.5.0.5"),
            "an address of its own",
        ),
        (LEASE % "10.5.0.7", ADDRESS % ("inside", "10.5.0.7"), "an address of its own"),
        (LAZY, LAZY, None),
        (MAC % 1, f"state: absent, {MAC % 1}", None),
    ],
)
def test_what_two_guests_would_have_is_told_at_the_later_one(one, other, told):
    found = refusals(("web", one), ("db", other))
    assert len(found) == (told is not None), found
    for problem in found:
        assert problem.startswith("fleet.yml:9:")
        assert told in problem
        assert "which web has" in problem


def test_a_range_with_one_mac_is_refused():
    (problem,) = refusals(("web[1:2]", MAC % 1))
    assert problem.startswith("fleet.yml:8:")
    assert "which web1 has" in problem
