# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run has done so far, or would do: kept by a callback, looked at by actions and the report.

On the controller alone. There is one tally in a process; the workers that carry tasks out are
forked from it, and see it as it was when their task began.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Mapping

from .action import LIVE, NEXT_BOOT
from .text import fit, paint, plain

CREATE, REPLACE, CHANGE, LIVE_CHANGE = "create", "replace", "change", "change live"
LATER, STATE, MOVE = "change at next boot", "start or stop", "move"
REMOVE, OTHER = "remove", "other changes"
GROUPS = CREATE, CHANGE, LIVE_CHANGE, LATER, STATE, MOVE, REPLACE, REMOVE
# Which of several groups tells most of an object: what comes or goes, then what changes.
_RANK = CREATE, REMOVE, REPLACE, MOVE, CHANGE, LIVE_CHANGE, LATER, STATE
_SIGNS = {CREATE: "+", REMOVE: "-", REPLACE: "±", MOVE: ">", STATE: "*"}
_COLOURS = {CREATE: "32", REMOVE: "31", REPLACE: "31", MOVE: "36", LATER: "33", STATE: "36"}
_BOLD = "1"
_DONE = {
    CREATE: "created",
    CHANGE: "changed",
    LIVE_CHANGE: "changed live",
    LATER: "changed at next boot",
    STATE: "started or stopped",
    MOVE: "moved",
    REPLACE: "replaced",
    REMOVE: "removed",
}
_OBJECTS = 40  # that a group shows
_VALUES = 12  # that an object shows
_WIDEST = 40  # characters of a value
_DIGEST = re.compile("[0-9a-f]{64}")
_STATES = ("start", "stop", "restart", "pause", "resume", "save")


def group(action: Mapping[str, Any]) -> str:
    """Return the group that an action is shown in."""
    verb, when = action["action"], action["when"]
    if verb in ("create", "adopt"):
        return CREATE
    own = {"delete": REMOVE, "replace": REPLACE, "migrate": MOVE}
    if verb in own:
        return own[verb]
    if verb in _STATES:
        return STATE
    return {LIVE: LIVE_CHANGE, NEXT_BOOT: LATER}.get(when, CHANGE)


@dataclass
class Tally:
    """The actions of all hosts in their order, and the tasks of others that changed something."""

    check: bool = False
    actions: list[dict[str, Any]] = field(default_factory=list)
    tasks: dict[str, list[str]] = field(default_factory=dict)  # hosts by task
    pending: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    blocked: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)  # by guest, why it goes where it goes
    new: dict[str, str] = field(default_factory=dict)  # by guest that has no host yet, its host
    planned: bool = False  # whether anything was asked for that could have changed something

    def add(self, host: str, module: str, task: str, answer: Mapping[str, Any]) -> None:
        """Take in what a task answered."""
        actions = answer.get("actions")
        if isinstance(actions, list):
            self.planned = True
            self.actions += [{**one, "host": one.get("host") or host} for one in actions]
        elif answer.get("changed"):
            self.tasks.setdefault(task, []).append(host)
        key = f"{host} {module}"
        for word, kept in (("pending", self.pending), ("blocked", self.blocked)):
            if isinstance(answer.get(word), list):
                kept[key] = answer[word]
        if module == "kvm_fleet_plan":
            self.reasons.update(answer.get("reasons") or {})
            self.new = {name: answer["hosts"][name] for name in answer.get("new") or ()}

    def changes(self) -> bool:
        """Return whether anything was done, or would be."""
        return bool(self.actions or self.tasks)

    def objects(self) -> dict[str, dict[tuple[str, str], list[dict[str, Any]]]]:
        """Return by group, object and host the actions; an object is in the first that it has."""
        found: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for action in self.actions:
            found.setdefault((action["object"], action["host"]), []).append(action)
        groups: dict[str, dict[tuple[str, str], list[dict[str, Any]]]] = {}
        for key, actions in found.items():
            first = min((group(action) for action in actions), key=_RANK.index)
            groups.setdefault(first, {})[key] = actions
        return {word: groups[word] for word in GROUPS if word in groups}

    def counts(self) -> dict[str, int]:
        """Return how many objects each group has, and what waits and was refused."""
        counts = {word: len(objects) for word, objects in self.objects().items()}
        if self.tasks:
            counts[OTHER] = sum(map(len, self.tasks.values()))
        waiting = [one for items in self.pending.values() for one in items]
        restart = sum(1 for one in waiting if one.get("kind") == "restart_required")
        refused = len({one["object"] for items in self.blocked.values() for one in items})
        words = {"restart required": restart, "blocked": refused}
        return {**counts, **{word: count for word, count in words.items() if count}}

    def line(self) -> str:
        """Return the counts in a line: "2 to create, 1 to change live; 1 blocked"."""
        counts = self.counts()
        waits = {key: counts.pop(key) for key in ("restart required", "blocked") if key in counts}
        told = ", ".join(f"{count} {self._word(key)}" for key, count in counts.items())
        more = ", ".join(f"{count} {key}" for key, count in waits.items())
        return "; ".join(part for part in (told or "nothing to do", more) if part)

    def _word(self, key: str) -> str:
        if key == OTHER:
            return key
        return f"to {key}" if self.check else _DONE[key]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for tools."""
        return {
            "check": self.check,
            "actions": self.actions,
            "other_changes": self.tasks,
            "pending": [one for items in self.pending.values() for one in items],
            "blocked": [one for items in self.blocked.values() for one in items],
            "placed": {
                name: {"host": host, "reason": self.reasons.get(name, "")}
                for name, host in self.new.items()
            },
            "counts": self.counts(),
        }

    def render(self, width: int = 100, *, colour: bool = False) -> str:
        """Return the plan, or what was done, for people.

        A plan without changes says so. A run without any is told where something waits.
        """
        if not (self.counts() or (self.check and self.planned)):
            return ""
        title = "plan" if self.check else "done"
        lines = [paint(title, _BOLD, colour)] if self.changes() else []
        for word, objects in self.objects().items():
            lines.append(f"{word} ({len(objects)})")
            for (name, host), actions in list(objects.items())[:_OBJECTS]:
                lines += self._object(word, name, host, actions, width, colour=colour)
            lines += _rest(len(objects), _OBJECTS, "objects", "  ")
        if self.tasks:
            lines.append(f"{OTHER} ({sum(map(len, self.tasks.values()))})")
            tasks = list(self.tasks.items())
            for task, hosts in tasks[:_OBJECTS]:
                lines.append(fit(f"  ~ {plain(task)} on {_names(hosts)}", width))
            lines += _rest(len(tasks), _OBJECTS, "tasks", "  ")
        lines.append(paint(f"{title}: {self.line()}", _BOLD, colour))
        return "\n".join(lines) + "\n"

    def _object(
        self,
        word: str,
        name: str,
        host: str,
        actions: list[dict[str, Any]],
        width: int,
        *,
        colour: bool,
    ) -> list[str]:
        verbs = ", ".join(dict.fromkeys(str(action["action"]) for action in actions))
        short = _DIGEST.sub(lambda found: f"{found[0][:12]}…", plain(name))
        head = f"{_SIGNS.get(word, '~')} {short} on {plain(host)}"
        placed = self.reasons.get(name.partition("/")[2], "") if word == CREATE else ""
        note = placed.partition(": ")[2] or ("" if verbs == word else verbs)
        text = fit(f"  {head}{f': {plain(note)}' if note else ''}", width)
        lines = [paint(text, _COLOURS.get(word), colour)]
        if word in (CREATE, REMOVE):
            return lines
        changes = [one for action in actions for one in action["changes"]]
        lines += [_change(change, width, colour=colour) for change in changes[:_VALUES]]
        return [*lines, *_rest(len(changes), _VALUES, "values", "      ")]


def _rest(count: int, shown: int, word: str, gap: str) -> list[str]:
    return [f"{gap}… and {count - shown} more {word}"] if count > shown else []


def _change(change: Mapping[str, Any], width: int, *, colour: bool) -> str:
    """Return a value before and after, the former in the colour of what goes."""
    before, after = _value(change["before"]), _value(change["after"])
    path = plain(str(change["path"]))
    text = f"      {path}: {before} → {after}"
    if not colour or fit(text, width) != text:
        return fit(text, width)
    ends = paint(before, _COLOURS[REMOVE], colour), paint(after, _COLOURS[CREATE], colour)
    return f"      {path}: {' → '.join(ends)}"


def _names(hosts: list[str]) -> str:
    more = f" and {len(hosts) - 4} more" if len(hosts) > 4 else ""
    return plain(", ".join(hosts[:4]) + more)


def _value(value: Any) -> str:
    text = "nothing" if value is None else plain(str(value))
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 1]}…"


_RUN = [Tally()]


def begin(*, check: bool) -> Tally:
    """Return an empty tally, which is that of the process from now on."""
    _RUN[0] = Tally(check)
    return _RUN[0]


def so_far() -> Tally:
    """Return the tally of the run."""
    return _RUN[0]
