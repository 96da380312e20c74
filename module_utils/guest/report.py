# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Guests as plain values and as text: a table, and the last lines of each console.

Pure: everything comes from what was observed. What a guest wrote itself is made harmless first.
"""

from __future__ import annotations

from typing import Any, Iterable, Mapping, Sequence

from ..converge.text import fit, pad, paint, plain, width
from ..units import format_duration

_COLOURS = {"running": "32", "stopped": "33", "failed": "31"}
_BOLD, _DIM = "1", "2"
_COLUMNS = ("guest", "state", "vcpus", "memory", "uptime", "note")
_GAP = "  "
_NAMED = 4  # objects that one line names
MIN_WIDTH = 60  # below that, columns would have to be left out


def console_lines(content: bytes, lines: int, limit: int = 500) -> list[str]:
    """Return the last lines of a console's bytes, each made harmless and cut at ``limit``."""
    text = content.decode("utf-8", "replace").replace("\r\n", "\n")
    found = text.split("\n")
    # What a guest writes before it goes on with a carriage return alone was overwritten by it.
    shown = [plain(line.rstrip("\r").rpartition("\r")[2][:limit]).rstrip() for line in found]
    while shown and not shown[-1]:
        shown.pop()
    return shown[-lines:] if lines > 0 else []


def _note(guest: Mapping[str, Any]) -> str:
    """Return what there is to say: why it ended, or that it waits for a restart."""
    if guest.get("problem"):
        return plain(str(guest["problem"]))
    record = guest.get("exit")
    if guest.get("state") == "running":
        return "restart required" if guest.get("restart_required") else ""
    if not record:
        return ""
    status = record.get("status")
    reason = plain(str(record.get("reason")))
    return reason if status in (None, 0) else f"{reason} (status {status})"


def _row(guest: Mapping[str, Any]) -> tuple[str, ...]:
    spec = guest.get("spec") or {}
    uptime = guest.get("uptime")
    return (
        plain(str(guest.get("name"))),
        plain(str(guest.get("state"))),
        plain(str(spec.get("vcpus") or guest.get("vcpus") or "")),
        plain(str(spec.get("memory") or guest.get("memory") or "")),
        "" if uptime is None else format_duration(uptime) if uptime >= 1 else "0s",
        _note(guest),
    )


def _widths(rows: Sequence[Sequence[str]], total: int) -> list[int]:
    """Return how wide each column is: the names give way first, the last column takes the rest."""
    wanted = [max(width(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    fixed = sum(wanted[1:-1]) + len(_GAP) * (len(_COLUMNS) - 1)
    wanted[0] = max(4, min(wanted[0], total - fixed - min(wanted[-1], 12)))
    wanted[-1] = max(0, min(wanted[-1], total - fixed - wanted[0]))
    return wanted


def table(guests: Iterable[Mapping[str, Any]], total: int = 100, *, colour: bool = False) -> str:
    """Return a table of guests, as `engine.describe` gives them, at most ``total`` cells wide."""
    rows = [_row(guest) for guest in guests]
    if not rows:
        return "no guests\n"
    widths = _widths([_COLUMNS, *rows], max(total, MIN_WIDTH))
    lines = []
    for number, row in enumerate([_COLUMNS, *rows]):
        cells = []
        for column, cell in enumerate(row):
            code = _BOLD if number == 0 else _COLOURS.get(cell) if column == 1 else None
            cells.append(paint(pad(cell, widths[column]), code, colour))
        lines.append(_GAP.join(cells).rstrip())
    return "\n".join(lines) + "\n"


def consoles(guests: Iterable[Mapping[str, Any]], total: int = 100, *, colour: bool = False) -> str:
    """Return the last lines of each guest's console, where there are any."""
    total = max(total, MIN_WIDTH)
    parts = []
    for guest in guests:
        lines = [plain(str(line)) for line in guest.get("console") or ()]
        if not lines:
            continue
        head = fit(f"console of {plain(str(guest.get('name')))}", total)
        body = [paint("│ ", _DIM, colour) + fit(line, total - 2) for line in lines]
        parts.append("\n".join([paint(head, _BOLD, colour), *body]) + "\n")
    return "\n".join(parts)


def outstanding(
    pending: Iterable[Mapping[str, Any]],
    blocked: Iterable[Mapping[str, Any]],
    total: int = 100,
    *,
    colour: bool = False,
) -> str:
    """Return what is known to be outstanding and what was refused; empty where there is nothing."""
    lines = []
    for word, code, items in (("pending", "33", pending), ("blocked", "31", blocked)):
        for item in items:
            kind, _, name = plain(str(item["object"])).partition("/")
            name = name if kind == "guest" else f"{kind}/{name}"
            text = plain(f"{name}: {item['reason']}; {item['remedy']}")
            room = max(total, MIN_WIDTH) - width(word) - len(_GAP)
            lines.append(paint(word, code, colour) + _GAP + fit(text, room))
    return "".join(f"{line}\n" for line in lines)


def alike(items: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return what is outstanding with objects that have the same reason in one."""
    found: dict[tuple[str, str], list[str]] = {}
    for item in items:
        names = found.setdefault((item["reason"], item["remedy"]), [])
        if item["object"] not in names:
            names.append(item["object"])
    return [
        {"object": _together(names), "reason": reason, "remedy": remedy}
        for (reason, remedy), names in found.items()
    ]


def _together(objects: Sequence[str]) -> str:
    names = [objects[0], *(name.partition("/")[2] for name in objects[1:_NAMED])]
    more = f" and {len(objects) - _NAMED} more" if len(objects) > _NAMED else ""
    return f"{', '.join(names)}{more}"


def render(guests: Sequence[Mapping[str, Any]], total: int = 100, *, colour: bool = False) -> str:
    """Return the table and, below it, the consoles."""
    tails = consoles(guests, total, colour=colour)
    text = table(guests, total, colour=colour)
    return f"{text}\n{tails}" if tails else text
