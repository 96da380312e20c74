# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the benchmarks share; comparing.py says how they measure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from comparing import Playbook

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def playbook(repository: Path, tmp_path: Path) -> Playbook:
    return Playbook(repository, tmp_path)
