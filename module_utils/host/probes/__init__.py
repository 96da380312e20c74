# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""One probe a source: ``probe(root="/")`` reads it and returns a dataclass of plain values."""

from __future__ import annotations
