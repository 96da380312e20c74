# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ground of every plan: actions, the one comparator, errors, the lock and the result."""

from __future__ import annotations
