# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Virtio 1.2 devices (OASIS, Virtual I/O Device Version 1.2) over PCI.

What comes from the guest is the enemy's: every address, length, index and value is checked where it
is read. A driver that breaks a rule loses its own device until it resets it, nothing more.
"""
