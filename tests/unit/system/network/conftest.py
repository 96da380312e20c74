# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of a host's network share."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest


@pytest.fixture(scope="session")
def made():
    """Return what hosts.py offers."""
    return SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "hosts.py")))
