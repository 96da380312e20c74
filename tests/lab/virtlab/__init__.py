# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real KVM hosts as virtual machines: QEMU emulates a processor that has SVM itself."""
