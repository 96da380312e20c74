# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the benchmarks share; comparing.py says how they measure."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from comparing import Playbook

if TYPE_CHECKING:
    from collections.abc import Iterator

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lab"))

from virtlab import images
from virtlab.lab import DESCRIPTIONS, Lab


@pytest.fixture
def playbook(repository: Path, tmp_path: Path) -> Playbook:
    return Playbook(repository, tmp_path)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Raise the second host of the standard lab alone."""
    raised = Lab("bench", DESCRIPTIONS / "lab.yml")
    raised.down()
    try:
        host = raised["kvm2"]
        images.ensure([host.recipe])
        raised.lay_cable()
        host.up()
        raised.write_inventory()
        yield raised
    finally:
        raised.down()
