# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filters that narrow guests, as templates call them."""

from __future__ import annotations

import runpy

import pytest
from ansible.errors import AnsibleFilterError

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
