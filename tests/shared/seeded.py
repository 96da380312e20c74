# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The number that says which sample of the long tests one run makes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

VARIABLE = "LAB_SEED"


def seed() -> int:
    """Return LAB_SEED, or else the commit's own number: every commit has another sample."""
    stated = os.environ.get(VARIABLE)
    if stated:
        return int(stated)
    command = ["git", "rev-parse", "--short=8", "HEAD"]
    asked = subprocess.run(
        command,
        cwd=str(Path(__file__).parent),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    return int(asked.stdout[:8], 16) if asked.returncode == 0 else 1
