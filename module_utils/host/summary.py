# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a run ended on each host, a line each.

Pure, and for the controller alone: it is not shipped to hosts.
"""

from __future__ import annotations

from typing import NamedTuple, Sequence

from ..converge.text import fit, pad, paint, plain, width

CHANGED, UNCHANGED, FAILED, UNREACHABLE, STOPPED = (
    "changed",
    "unchanged",
    "failed",
    "unreachable",
    "stopped",
)
_COLOURS = {CHANGED: "33", UNCHANGED: "32", FAILED: "31", UNREACHABLE: "31", STOPPED: "33"}
_BOLD = "1"
_GAP = "  "
_STATE = len(UNREACHABLE)  # cells of the longest state
_NAMES = 40  # cells of a name, at most
MIN_WIDTH = 60  # below that there is no room for reasons


class Ending(NamedTuple):
    """How a run ended on a host, and why; ``reboot`` is why it needs one, None if it does not."""

    host: str
    state: str
    reason: str = ""
    reboot: str | None = None


def first_line(message: str) -> str:
    """Return the first line of a message that says something."""
    return next((line.strip() for line in message.splitlines() if line.strip()), "")


def _note(ending: Ending) -> str:
    """Return what there is to say: why it ended like that, and that it needs a reboot."""
    parts = [plain(first_line(ending.reason))]
    if ending.reboot is not None:
        why = plain(first_line(ending.reboot))
        parts.append(f"needs a reboot: {why}" if why else "needs a reboot")
    return "; ".join(part for part in parts if part)


def render(endings: Sequence[Ending], total: int = 100, *, colour: bool = False) -> str:
    """Return the summary of a run; empty where a single host ended well, as the recap says so."""
    quiet = len(endings) == 1 and endings[0].state in (CHANGED, UNCHANGED)
    if not endings or (quiet and endings[0].reboot is None):
        return ""
    names = min(_NAMES, max(width(plain(ending.host)) for ending in endings))
    room = max(total, MIN_WIDTH) - names - _STATE - 2 * len(_GAP)
    lines = [paint("hosts", _BOLD, colour)]
    for ending in endings:
        # Blanks stay outside of the colour, so that those at a line's end can go.
        state = paint(ending.state, _COLOURS.get(ending.state), colour)
        cells = (
            pad(plain(ending.host), names),
            state + " " * (_STATE - len(ending.state)),
            fit(_note(ending), max(room, 1)),
        )
        lines.append(_GAP.join(cells).rstrip())
    return "\n".join(lines) + "\n"
