# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the benchmarks share; comparing.py says how they measure."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from comparing import Playbook


@pytest.fixture
def playbook(repository: Path, tmp_path: Path) -> Playbook:
    return Playbook(repository, tmp_path)
