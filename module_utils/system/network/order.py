# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The order of things that use each other."""

from __future__ import annotations

from typing import Mapping, Sequence


def cycle(uses: Mapping[str, Sequence[str]]) -> list[str]:
    """Return a ring of names that use each other, the first one repeated; empty without one."""
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done or name not in uses:
            return []
        for below in uses[name]:
            ring = visit(below, [*path, name])
            if ring:
                return ring
        done.add(name)
        return []

    for name in uses:
        ring = visit(name, [])
        if ring:
            return ring
    return []


def ordered(uses: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the names so that each comes after what it uses; there must be no ring."""
    found: list[str] = []

    def visit(name: str) -> None:
        if name in found or name not in uses:
            return
        for below in uses[name]:
            visit(below)
        found.append(name)

    for name in sorted(uses):
        visit(name)
    return found
