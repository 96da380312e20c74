# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A fleet declared in git: its files read, checked, merged and spread over its hosts."""
