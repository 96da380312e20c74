# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Fail where a run changed anything; an action plugin does it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kvm_no_changes
short_description: Fail where the run has changed anything so far, or would
version_added: "0.1.0"
description:
  - In check mode a gate for pipelines and nightly checks. It fails if any task before it changed
    something, or would, with all of that as its message.
  - The callback C(kvm_report) counts, so C(callbacks_enabled) has to name it.
attributes:
  check_mode:
    description: Can run in check mode and return what it would do.
    support: full
  diff_mode:
    description: Returns what differs when run with C(--diff).
    support: none
  platform:
    description: The systems that it works on.
    support: full
    platforms: posix
author:
  - virtfleet contributors (@virtfleet)
"""

EXAMPLES = r"""
- name: Fail if there is anything to do
  kvm_no_changes: {}
  run_once: true
"""

RETURN = r"""
actions:
  description: What was done or would be, as M(kvm_guests) returns it.
  returned: when there are changes
  type: list
  elements: dict
counts:
  description: How many objects would be created, changed, removed, and so on.
  returned: when there are changes
  type: dict
"""
