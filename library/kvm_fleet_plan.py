# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Plan a whole fleet on the controller; an action plugin does it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kvm_fleet_plan
short_description: Plan a whole fleet, once, from what all of its hosts have
version_added: "0.1.0"
description:
  - Decides on the controller, for the guests of a fleet's inventory, where each is to be. One that
    is somewhere stays there, a new one is placed with a reason, and one that could be running on a
    host that was not looked at is blocked.
  - Changes nothing. What differs in a guest is found by its host, when M(kvm_guests) carries its
    part of the plan out.
  - Runs once, with C(run_once), for all hosts of the play.
options:
  fleet:
    description: The fleet, as the inventory plugin C(kvm_fleet) gives it to the hosts.
    type: dict
    required: true
  observed:
    description: The name of the variable in which every host that was looked at has the answer of
      M(kvm_guests_info), called with C(brief).
    type: str
    required: true
  state:
    description: Whether the declared guests shall be there.
    type: str
    choices: [present, absent]
    default: present
  prune:
    description: Plan that guests of the fleet go that are no longer declared.
    type: bool
    default: false
  allow_removals:
    description: Let the plan remove more guests than the fleet allows.
    type: bool
    default: false
  capacity:
    description: Tell how many more guests of each size of the fleet there is room for.
    type: bool
    default: false
  save:
    description: A file of the controller that gets the plan, to be held to by O(saved).
    type: str
    default: ""
  saved:
    description:
      - A file with a plan that was saved. The run fails if the plan is another by now, as guests
        were declared otherwise, changed, or moved.
    type: str
    default: ""
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
seealso:
  - module: kvm_guests
  - module: kvm_guests_info
"""

EXAMPLES = r"""
- name: See which guests the hosts have, and what they have room for
  kvm_guests_info:
    brief: true
  register: seen

- name: Decide where every guest is to be
  kvm_fleet_plan:
    fleet: "{{ kvm_fleet }}"
    observed: seen
  run_once: true
"""

RETURN = r"""
parts:
  description: By host, the declared guests that are its part, the guests that go, and the digest
    that each had (empty for one that is not there).
  returned: success
  type: dict
hosts:
  description: By guest, its host.
  returned: success
  type: dict
reasons:
  description: By guest that was placed, why it goes there and not elsewhere.
  returned: success
  type: dict
new:
  description: The guests that no host has yet.
  returned: success
  type: list
  elements: str
blocked:
  description: What may not be done, with the reason and what would unblock it.
  returned: success
  type: list
  elements: dict
pending:
  description: What is known to be outstanding. V(no_room_on_loss) for a guest that no other host
    has room for, where the fleet states V(n_plus_one). V(not_placed) for one that a run over more
    hosts would place.
  returned: success
  type: list
  elements: dict
machines:
  description: By architecture and family of machine types the newest version that all hosts know
    which were looked at.
  returned: success
  type: dict
capacity:
  description: By size, how many more guests there is room for (V(count)) and why for no further one
    (V(limit)).
  returned: with O(capacity)
  type: dict
witness:
  description: What every host is to remember of the fleet. Empty where too few hosts were looked at
    to replace what is remembered.
  returned: success
  type: dict
seen:
  description: By host, what it has to be like to take the plan. It gets its own within V(witness).
  returned: success
  type: dict
"""
