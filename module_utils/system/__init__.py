# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host is set to: kernel, memory, network, storage.

Each facet reads the host, plans against what was declared, and hands over operations as data.
"""
