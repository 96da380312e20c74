# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is to be done to one interface."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...converge.action import Change
    from ..operation import Run


@dataclass(frozen=True)
class Part:
    """What is to be done to one interface, and which interfaces it touches."""

    name: str
    action: str
    reason: str
    changes: tuple[Change, ...]
    operations: tuple[Run, ...]
    touched: tuple[str, ...] = ()
    starts_dhcp: bool = False
    made: bool = False
    destructive: bool = False
