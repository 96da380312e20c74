# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write docs/fleet.schema.json, which editors check and complete fleet.yml with."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
runpy.run_path(str(REPOSITORY / "plugins" / "shim.py"))

from ansible.module_utils.fleet.schema import fleet_schema

TARGET = REPOSITORY / "docs" / "fleet.schema.json"


def text() -> str:
    """Return what the file has to be."""
    return json.dumps(fleet_schema(), indent=1, ensure_ascii=False) + "\n"


def main() -> int:
    """Write the file."""
    TARGET.write_text(text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
