# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Text for a terminal: what a hostile guest wrote made harmless, columns that line up.

Widths are counted in cells: a wide character (Unicode UAX #11) takes two, a combining mark none.
"""

from __future__ import annotations

import re
import unicodedata

# Escape sequences that a well-behaved guest writes (ECMA-48: colours, cursor; xterm: titles) go
# without a trace; whatever else could move a cursor is shown instead of obeyed.
_SEQUENCE = re.compile(
    r"\x1b(?:\[[0-9;:?<=>]{0,32}[ -/]{0,4}[@-~]|\][^\x07\x1b]{0,256}(?:\x07|\x1b\\))"
)
# Marks that turn the direction of text around, join or hide it, or end a line where none ends.
_HIDDEN = re.compile(
    "[\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]"
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def _caret(match: re.Match[str]) -> str:
    """Return a control character as cat -v shows it: ^[ for escape."""
    return f"^{chr(ord(match.group()) ^ 0x40)}"


def plain(text: str) -> str:
    """Return one line that a terminal shows and does not obey."""
    text = _SEQUENCE.sub("", text).expandtabs(8)
    text = _CONTROL.sub(_caret, text)
    text = re.sub("[\x80-\x9f]", "\ufffd", text)
    return _HIDDEN.sub("\ufffd", text)


def width(text: str) -> int:
    """Return how many cells a line takes."""
    if text.isascii():
        return len(text)
    cells = 0
    for char in text:
        if unicodedata.combining(char) or unicodedata.category(char) in ("Mn", "Me", "Cf"):
            continue
        cells += 2 if unicodedata.east_asian_width(char) in "WF" else 1
    return cells


def fit(text: str, cells: int) -> str:
    """Return the line cut to ``cells``, with an ellipsis where something was cut."""
    if width(text) <= cells:
        return text
    kept = ""
    for char in text:
        if width(kept + char) > cells - 1:
            break
        kept += char
    return f"{kept}…" if cells > 0 else ""


def pad(text: str, cells: int) -> str:
    """Return the line cut or filled up to exactly ``cells``."""
    short = fit(text, cells)
    return short + " " * (cells - width(short))


def paint(text: str, code: str | None, colour: bool) -> str:
    """Return a text in a colour (ECMA-48, SGR), as it is where there is none."""
    return f"\x1b[{code}m{text}\x1b[0m" if colour and code else text
