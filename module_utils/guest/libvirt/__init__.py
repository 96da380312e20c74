# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The libvirt engine: guests that QEMU runs and libvirt keeps."""

from __future__ import annotations
