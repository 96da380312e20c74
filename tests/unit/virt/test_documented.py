# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/libvirt-guests.md names every key of the table, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from ansible.module_utils.virt.domain import FIELDS, XML

PAGE = Path(__file__).resolve().parents[3] / "docs" / "libvirt-guests.md"


def test_every_key_is_in_the_documentation():
    rows = PAGE.read_text(encoding="utf-8").partition("## Keys")[2]
    found = dict(re.findall(r"^\| `(\w+)`[^|]*\|[^|]*\| ?(.*?) ?\|$", rows, re.MULTILINE))
    assert set(found) == {*(one.key for one in FIELDS), XML}
    for one in FIELDS:
        inner = {inside.key for inside in getattr(one, "fields", ())}
        assert set(re.findall(r"`(\w+)`", found[one.key])) == inner, one.key
