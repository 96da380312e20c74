# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The storage of a host: iSCSI sessions, multipath, LVM, mounts and folders.

Each facet is one file: what is declared, what is found, and a pure plan from the two.
"""
