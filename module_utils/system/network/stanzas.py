# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stanzas of interfaces(5): who claims an interface, taken over and given back.

A stanza that is taken over stays where it is, each line behind ``#virtfleet:NAME# ``, so that
everybody sees what happened and can undo it by hand.
"""

from __future__ import annotations

import re
from typing import Iterable, Sequence

# What begins a stanza; everything else belongs to the one before.
_BEGINS = re.compile(
    r"\s*(iface|mapping|auto|allow-\S+|no-auto-down|no-scripts|source|source-directory"
    r"|rename|template)(\s|$)"
)
_LISTS = re.compile(r"\s*(auto|allow-\S+|no-auto-down|no-scripts)\s+(.*)$", re.DOTALL)
_IFACE = re.compile(r"\s*(iface|mapping)\s+(\S+)")
_SOURCE = "source"  # in place of a name, for a line that was added


def _mark(name: str) -> str:
    return f"#virtfleet:{name}# "


def _logical(text: str) -> list[str]:
    """Return the lines, those that a backslash continues as one."""
    found: list[str] = []
    open_line = False
    for line in text.splitlines(keepends=True):
        comment = line.lstrip().startswith("#")
        if open_line:
            found[-1] += line
        else:
            found.append(line)
        open_line = line.rstrip("\n").endswith("\\") and (open_line or not comment)
    return found


def claims(text: str, name: str) -> bool:
    """Return whether the file configures the interface or starts it."""
    for line in _logical(text):
        words = _LISTS.match(line)
        if words and name in words.group(2).replace("\\\n", " ").split():
            return True
        iface = _IFACE.match(line)
        if iface and iface.group(2) == name:
            return True
    return False


def _commented(line: str, name: str) -> str:
    return "".join(_mark(name) + part for part in line.splitlines(keepends=True))


def take(text: str, names: Iterable[str]) -> str:
    """Return the file with the stanzas of these interfaces taken over."""
    for name in names:
        text = _take(text, name)
    return text


def _take(text: str, name: str) -> str:
    found: list[str] = []
    inside = False
    for line in _logical(text):
        if line.lstrip().startswith("#") or not line.strip():
            found.append(line)
            continue
        if _BEGINS.match(line):
            iface = _IFACE.match(line)
            inside = bool(iface and iface.group(2) == name)
        words = _LISTS.match(line)
        if words:
            found += _list_without(words.group(1), words.group(2), name, line)
        else:
            found.append(_commented(line, name) if inside else line)
    return "".join(found)


def _list_without(keyword: str, rest: str, name: str, line: str) -> list[str]:
    words = rest.replace("\\\n", " ").split()
    if name not in words:
        return [line]
    others = [word for word in words if word != name]
    kept = [f"{keyword} {' '.join(others)}\n"] if others else []
    return [*kept, f"{_mark(name)}{keyword} {name}\n"]


def take_source(text: str, path: str) -> str:
    """Return the file with a line that reads the one at ``path``."""
    end = "" if not text or text.endswith("\n") else "\n"
    return f"{text}{end}{_mark(_SOURCE)}the next line was added\nsource {path}\n"


def give_back(text: str, names: Sequence[str], *, source: bool = False) -> str:
    """Return the file with what was taken over for these interfaces as it was."""
    found: list[str] = []
    added = False
    for line in text.splitlines(keepends=True):
        if added:
            added = False
            continue
        added = source and line.startswith(_mark(_SOURCE))
        if added:
            continue
        mark = next((_mark(name) for name in names if line.startswith(_mark(name))), "")
        found.append(line[len(mark) :])
    return "".join(found)
