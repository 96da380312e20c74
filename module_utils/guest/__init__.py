# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Guests as declared, observed and planned, and the engines that run them."""

from __future__ import annotations
