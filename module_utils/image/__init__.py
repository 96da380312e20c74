# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images that guests' disks are made from: fetched once, verified first, kept by their content."""
