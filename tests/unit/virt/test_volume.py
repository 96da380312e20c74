# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Volumes: read as they were written, contradictions told."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.module_utils.virt.document import Document, tree
from ansible.module_utils.virt.fields import Edits, check_fields, patch_fields, read_fields
from ansible.module_utils.virt.volume import FIELDS, contradictions

SPECS: dict[str, dict[str, Any]] = {
    "plain": {"size": "8GiB"},
    "raw": {"size": "8GiB", "allocation": "1GiB", "format": "raw", "nocow": True},
    "qcow2": {
        "size": "8GiB",
        "format": "qcow2",
        "permissions": {"mode": "0600", "owner": 107, "group": 107},
        "compat": "1.1",
        "cluster_size": "64KiB",
        "lazy_refcounts": True,
        "backing": {"path": "/srv/base.qcow2", "format": "qcow2"},
    },
}


def checked(spec):
    problems = []
    stated = check_fields(FIELDS, spec, "volumes[0]", problems)
    assert problems == []
    return stated


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_a_volume_is_read_as_it_was_written(spec):
    stated = checked(spec)
    assert list(contradictions(stated, "volumes[0]")) == []
    document = Document("<volume>\n  <name>a</name>\n</volume>\n", "volume XML")
    patch_fields(document.root, FIELDS, stated, Edits(document.root, stated), "")
    assert read_fields(tree(document.text()), FIELDS) == stated


def test_a_size_is_told_in_bytes():
    xml = "<volume><name>a</name><capacity unit='bytes'>8589934592</capacity></volume>"
    assert read_fields(tree(xml), FIELDS) == {"size": "8GiB"}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"format": "raw", "cluster_size": "64KiB"}, "nothing but in qcow2"),
        ({"format": "raw", "backing": {"path": "/a"}}, "nothing but in qcow2"),
    ],
)
def test_a_contradiction_is_told(spec, message):
    (problem,) = contradictions(checked(spec), "volumes[0]")
    assert message in str(problem)
