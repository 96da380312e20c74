# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ioctl helper: small KVM guests from the standard library alone, over /dev/kvm."""

from __future__ import annotations
