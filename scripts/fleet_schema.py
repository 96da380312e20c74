# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write what docs/ has of a fleet's keys: the schema for editors, and a reference for people."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
runpy.run_path(str(REPOSITORY / "plugins" / "shim.py"))

from ansible.module_utils.fleet.schema import fleet_schema

DOCS = REPOSITORY / "docs"
_HEAD = """# Every key of a fleet's file

Written from the schema by `scripts/fleet_schema.py`; [fleet.md](fleet.md) says what they are for.
"""
_WORDS = {"object": "a mapping", "array": "a list", "string": "text", "integer": "a whole number"}


def schema() -> str:
    """Return what fleet.schema.json has to be."""
    return json.dumps(fleet_schema(), indent=1, ensure_ascii=False) + "\n"


def _expected(entry: dict[str, Any]) -> str:
    """Return in words what a value has to be."""
    if "x-expected" in entry:
        return str(entry["x-expected"])
    if "enum" in entry:
        return " or ".join(f"`{word}`" for word in entry["enum"])
    if "const" in entry:
        return f"`{entry['const']}`"
    kinds = entry.get("type", ())
    words = [kinds] if isinstance(kinds, str) else [word for word in kinds if word != "null"]
    return " or ".join(_WORDS.get(word, word) for word in words)


def _rows(properties: dict[str, Any], above: str = "") -> list[str]:
    """Return a row for every key, those below a mapping of known keys right after it."""
    found = []
    for key, entry in properties.items():
        told = entry.get("description", "").replace("|", "or")
        found.append(f"| `{above}{key}` | {_expected(entry)} | {told} |")
        found += _rows(entry.get("properties", {}), f"{above}{key}.")
    return found


def _table(title: str, properties: dict[str, Any], patterns: dict[str, Any]) -> str:
    rows = _rows(properties)
    rows += [f"| `{pattern}` | | {one['description']} |" for pattern, one in patterns.items()]
    return "\n".join([f"\n## {title}\n", "| key | | |", "|---|---|---|", *rows, ""])


def reference() -> str:
    """Return what fleet-keys.md has to be."""
    whole = fleet_schema()
    sections, parts = {}, []
    for key, entry in whole["properties"].items():
        below = entry.get("additionalProperties")
        below = below if isinstance(below, dict) else entry
        if "$ref" in below:
            sections[key] = {**entry, "description": entry.get("description", "as under guests")}
            continue
        sections[key] = {k: v for k, v in entry.items() if k != "properties"}
        if "properties" in below:
            parts.append(_table(key, below["properties"], below.get("patternProperties", {})))
    guest = whole["$defs"]["guest"]
    parts.append(_table("guests, profiles, guest_groups, defaults", guest["properties"], {}))
    return _HEAD + _table("The whole", sections, {}) + "".join(parts)


FILES = {DOCS / "fleet.schema.json": schema, DOCS / "fleet-keys.md": reference}


def main() -> int:
    """Write the files."""
    for path, make in FILES.items():
        path.write_text(make())
    return 0


if __name__ == "__main__":
    sys.exit(main())
