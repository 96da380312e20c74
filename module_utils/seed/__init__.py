# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a guest is told at its first boot: documents for cloud-init, and where a host keeps them."""
