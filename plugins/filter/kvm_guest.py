# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Filters that narrow a list of guests by names and shell patterns, and that tell their leases."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleFilterError

runpy.run_path(str(Path(__file__).parents[1] / "shim.py"))

from ansible.module_utils.converge.errors import VirtfleetError
from ansible.module_utils.guest import leases, selection

DOCUMENTATION = r"""
name: kvm_guest_select
short_description: Narrows a list of guests by names and shell patterns
version_added: "0.1.0"
description:
  - Keeps the guests whose names match any of the patterns. Without a pattern all are kept.
  - The filter P(kvm_guest_unmatched#filter) of the same arguments returns the patterns that match
    none of the guests, and none of the names that a further argument has.
  - The filter P(kvm_guest_adopted#filter) makes guests to take over of what M(kvm_guests_info)
    shows.
  - The filter P(kvm_guest_removed#filter) makes guests to remove of names, none where there is a
    pattern.
  - The filter P(kvm_guest_leases#filter) returns the addresses that a network of libvirt shall keep
    for guests, as the module M(kvm_networks) takes them. Its arguments are the name of the network
    and, where it is not V(local), the fleet.
positional: selection
options:
  _input:
    description: The guests, each a mapping with a name.
    type: list
    elements: dict
    required: true
  selection:
    description: Names or shell patterns, as a list or separated by commas.
    type: raw
    required: true
"""

EXAMPLES = r"""
web_guests: "{{ kvm_guest_specs | kvm_guest_select('web*') }}"
"""

RETURN = r"""
_value:
  description: The guests that match.
  type: list
  elements: dict
"""


def _checked(function: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
    def checked(specs: Any, *arguments: Any) -> list[Any]:
        try:
            return function(specs, *arguments)
        except VirtfleetError as error:
            raise AnsibleFilterError(str(error)) from error

    return checked


class FilterModule:
    """Offers the filters under their names."""

    def filters(self) -> dict[str, Callable[..., list[Any]]]:
        """Return the filters."""
        return {
            "kvm_guest_adopted": _checked(lambda guests: selection.adopted(list(guests))),
            "kvm_guest_leases": _checked(leases.leases),
            "kvm_guest_removed": _checked(selection.removed),
            "kvm_guest_select": _checked(selection.select),
            "kvm_guest_unmatched": _checked(selection.unmatched),
        }
