# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The mark of ours that a domain or network bears: whose it is, and what goes with it."""

from __future__ import annotations

from typing import NamedTuple

NAMESPACE = "urn:virtfleet:1"
PREFIX = "virtfleet"


class Mark(NamedTuple):
    """Fleet and name of an object, the digest of its spec, and the files of the disks it owns.

    A ``protected`` one is neither removed nor made anew.
    """

    fleet: str
    name: str
    digest: str = ""
    disks: tuple[str, ...] = ()
    protected: bool = False
    kind: str = "guest"
