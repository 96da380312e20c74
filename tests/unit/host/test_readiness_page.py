# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/readiness.md names every check with its levels, and every feature."""

from __future__ import annotations

import re

import pytest
from ansible.module_utils.host.checks import CHECKS
from ansible.module_utils.host.checks.require import FEATURE_NAMES
from ansible.module_utils.host.features import FEATURES
from ansible.module_utils.host.selftest import THRESHOLDS, names


@pytest.fixture
def page(repository):
    return (repository / "docs" / "readiness.md").read_text(encoding="utf-8")


@pytest.fixture
def rows(page):
    """Return the rows of the tables by their first cell's code."""
    found = re.findall(r"^\| `([\w.]+)` \| (.*) \|$", page, re.MULTILINE)
    return {name: re.split(r"\s*\|\s*", rest) for name, rest in found}


def test_every_check_stands_with_its_levels(rows):
    checks = {check.id: check for check in CHECKS}
    documented = {name for name in rows if "." in name and not name.startswith("selftest.")}
    assert documented == set(checks)
    for identity, check in checks.items():
        if not identity.startswith("feature."):
            assert rows[identity][0].split() == list(check.levels), identity


def test_features_stand_with_vendor_and_parameter(rows):
    for identity in {f"feature.{row.name}" for row in FEATURES}:
        mine = [row for row in FEATURES if f"feature.{row.name}" == identity]
        vendor, parameter, text = rows[identity]
        names = {"intel": "Intel", "amd": "AMD"}
        assert vendor == ("both" if len(mine) == 2 else names[mine[0].vendor]), identity
        told = ", ".join(".".join(row.parameter) for row in mine if row.parameter)
        assert parameter == told, identity
        assert ("*wanted*" in text) == any(row.wanted for row in mine), identity


def test_the_selftest_stands_with_its_thresholds(rows):
    assert {name for name in rows if name.startswith("selftest.")} == set(names())
    for name, threshold in THRESHOLDS.items():
        assert f" {threshold:g}" in rows[f"selftest.{name}"][-1]


def test_every_feature_for_require_stands(page):
    section = page.partition("## Features for `require`")[2].partition("\n## ")[0]
    known = set(re.findall(r"`(\w+)`", section)) | {row.name for row in FEATURES}
    assert set(FEATURE_NAMES) <= known
