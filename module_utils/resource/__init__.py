# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What guests stand on, as libvirt has it: networks and storage pools."""
