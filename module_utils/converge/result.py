# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A module's result, made from the plan alone: the report follows the same rules as the change."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Iterable, Mapping, Sequence

from .errors import ApplyError

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


_NAMED = 5  # objects that a message about many names


def _few(objects: Sequence[str]) -> str:
    if len(objects) <= _NAMED:
        return ", ".join(objects)
    return f"{', '.join(objects[:_NAMED])} and {len(objects) - _NAMED} more"


def accept(
    outcome: dict[str, Any],
    failures: Sequence[tuple[Action, str]],
    late: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return a result of which nothing failed; ApplyError with all that did, alike in one line.

    ``failures`` are actions with their reasons, ``late`` says by object what did not come about.
    """
    alike: dict[tuple[str, str], list[str]] = {}
    for action, why in failures:
        alike.setdefault((action.action, why), []).append(action.object)
    lines = [f"{verb} {_few(objects)}: {why}" for (verb, why), objects in alike.items()]
    lines += [f"{name}: {why}" for name, why in sorted((late or {}).items())]
    if not lines:
        return outcome
    count = len(failures) + len(late or {})
    if count > 1:
        done = len(outcome["actions"])
        lines.insert(0, f"{count} actions failed, {done} were carried out:")
    # Both are the module's own to give.
    data = {key: value for key, value in outcome.items() if key not in ("msg", "warnings")}
    raise ApplyError("\n".join(lines), **data)


def summary(actions: Sequence[Action]) -> str:
    """Return in a few words what was done: "create 2, start 2"."""
    counts: dict[str, int] = {}
    for action in actions:
        counts[action.action] = counts.get(action.action, 0) + 1
    return ", ".join(f"{verb} {count}" for verb, count in counts.items()) or "nothing to do"
