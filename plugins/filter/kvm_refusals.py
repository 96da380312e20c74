# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a module refused, in words."""

from __future__ import annotations

from typing import Any

DOCUMENTATION = r"""
name: kvm_refusals
short_description: What a module refused, in words
version_added: "0.1.0"
description:
  - Returns a text with each object that was refused, why, and what would unblock it.
options:
  _input:
    description: The RV(ignore:blocked) of a module's result.
    type: list
    elements: dict
    required: true
"""

EXAMPLES = r"""
why: "{{ result.blocked | kvm_refusals }}"
"""

RETURN = r"""
_value:
  description: The text, empty where nothing was refused.
  type: str
"""


def refusals(blocked: list[dict[str, Any]]) -> str:
    """Return what was refused, why, and what would unblock it."""
    return "; ".join(f"{one['object']}: {one['reason']}: {one['remedy']}" for one in blocked)


class FilterModule:
    """The filter by its name."""

    def filters(self) -> dict[str, Any]:
        """Return it."""
        return {"kvm_refusals": refusals}
