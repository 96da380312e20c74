# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a module refused, in words."""

from __future__ import annotations

import runpy

import pytest


@pytest.mark.parametrize(
    ("blocked", "text"),
    [
        ([], ""),
        (
            [
                {"object": "pool/a", "reason": "it is not ours", "remedy": "adopt it"},
                {"object": "pool/b", "reason": "guests run on it", "remedy": "stop them"},
            ],
            "pool/a: it is not ours: adopt it; pool/b: guests run on it: stop them",
        ),
    ],
)
def test_refusals(repository, blocked, text):
    module = runpy.run_path(str(repository / "plugins/filter/kvm_refusals.py"))
    assert module["FilterModule"]().filters()["kvm_refusals"](blocked) == text
