# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a facet's plan says, and the order of the steps over all facets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Iterable

if TYPE_CHECKING:
    from ..converge.action import Blocked, Pending
    from .operation import Step

# Options are on disk before a module is loaded, and what a module offers is set after that.
FILES, LOAD, OPTIONS, SETTINGS, DEVICE, BOOT = range(1, 7)

REBOOT = "reboot_required"
RELOAD = "reload_required"
NOT_AVAILABLE = "not_available"


@dataclass(frozen=True)
class Outcome:
    """Steps to carry out, what is outstanding, and what is refused."""

    steps: tuple[Step, ...] = ()
    pending: tuple[Pending, ...] = ()
    blocked: tuple[Blocked, ...] = ()


def join(outcomes: Iterable[Outcome]) -> Outcome:
    """Return the outcomes as one, its steps in their order."""
    found = list(outcomes)
    steps = [step for outcome in found for step in outcome.steps]
    return Outcome(
        tuple(sorted(steps, key=lambda step: step.action.step)),
        tuple(pending for outcome in found for pending in outcome.pending),
        tuple(blocked for outcome in found for blocked in outcome.blocked),
    )
