# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Write a fleet's file for what is there already; an action plugin does it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kvm_fleet_import
short_description: Write a fleet's file for hosts and guests that are there already
version_added: "0.1.0"
description:
  - Makes the file of the inventory plugin C(kvm_fleet) of the hosts of the play and what
    M(kvm_guests_info) said of them, on the controller. Each guest is declared as it is, on the host
    that it is on.
  - Passwords are not written, neither of hosts nor of guests. A file that is there already is not
    touched.
  - Runs once, with C(run_once), for all hosts of the play.
options:
  fleet:
    description: The name of the fleet.
    type: str
    required: true
  observed:
    description: The name of the variable in which every host has the answer of M(kvm_guests_info).
    type: str
    required: true
  dest:
    description: The file on the controller.
    type: str
    required: true
  adopted:
    description: Whether guests were taken over before, so that the file need not ask for it.
    type: bool
    default: false
attributes:
  check_mode:
    description: Can run in check mode and return what it would do.
    support: full
  diff_mode:
    description: Returns what differs when run with C(--diff).
    support: full
  platform:
    description: The systems that it works on.
    support: full
    platforms: posix
author:
  - virtfleet contributors (@virtfleet)
seealso:
  - module: kvm_guests_info
"""

EXAMPLES = r"""
- name: Look at the guests of every host
  kvm_guests_info:
  register: seen

- name: Write them down as a fleet
  kvm_fleet_import:
    fleet: mine
    observed: seen
    dest: inventory/mine/fleet.yml
  run_once: true
"""

RETURN = r"""
left_out:
  description: Guests that the file does not declare, and why.
  returned: success
  type: list
  elements: str
"""
