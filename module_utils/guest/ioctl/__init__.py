# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine of the bundled helper: a folder a guest, a process a running guest."""

from __future__ import annotations
