# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host's own network: bridges, bonds, VLANs and addresses, changed with a way back.

spec says what was asked for, observe what there is, plan what differs. A change is applied by
watch, a program that outlives the session, and undone by it unless it is confirmed.
"""

from __future__ import annotations
