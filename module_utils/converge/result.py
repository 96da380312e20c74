# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A module's result, made from the plan alone: the report follows the same rules as the change."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Iterable, Sequence

if TYPE_CHECKING:
    from .action import Action, Blocked, Change, Pending


def _text(value: Any) -> str:
    if isinstance(value, str) and value and value.isprintable():
        return value
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _lines(pairs: Iterable[tuple[str, Any]]) -> str:
    return "".join(f"{path}: {_text(value)}\n" for path, value in pairs)


def diff(actions: Sequence[Action]) -> list[dict[str, str]]:
    """Return Ansible's diff, one entry an object, a line for each value that changes."""
    changes: dict[str, list[Change]] = {}
    for action in actions:
        changes.setdefault(action.object, []).extend(action.changes)
    return [
        {
            "before_header": name,
            "after_header": name,
            "before": _lines((c.path, c.before) for c in found if c.before is not None),
            "after": _lines((c.path, c.after) for c in found if c.after is not None),
        }
        for name, found in changes.items()
        if found
    ]


def result(
    actions: Sequence[Action],
    pending: Sequence[Pending] = (),
    blocked: Sequence[Blocked] = (),
    **extra: Any,
) -> dict[str, Any]:
    """Return the plain values of a module's result; ``changed`` is whether there are actions."""
    return {
        "changed": bool(actions),
        "actions": [action.to_dict() for action in actions],
        "pending": [item.to_dict() for item in pending],
        "blocked": [item.to_dict() for item in blocked],
        "diff": diff(actions),
        **extra,
    }


def summary(actions: Sequence[Action]) -> str:
    """Return in a few words what was done: "create 2, start 2"."""
    counts: dict[str, int] = {}
    for action in actions:
        counts[action.action] = counts.get(action.action, 0) + 1
    return ", ".join(f"{verb} {count}" for verb, count in counts.items()) or "nothing to do"
