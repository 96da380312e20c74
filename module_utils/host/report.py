# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Readiness as text: a table for one host, a matrix of hosts and checks for several.

Pure, and for the controller alone: it is not shipped to hosts.
"""

from __future__ import annotations

from typing import Any, Iterable, Mapping, NamedTuple, Sequence

from ..converge.text import fit, pad, paint, plain, width
from .verdict import join

Result = Mapping[str, Any]

_COLOURS = {"pass": "32", "warn": "33", "fail": "31", "info": "36", "unknown": "35"}
_STATE_COLOURS = {"ready": "32", "limited": "33", "not_ready": "31"}
_STATES = {"ready": "READY", "limited": "LIMITED", "not_ready": "NOT READY"}
_BOLD, _DIM = "1", "2"
_LEVEL = 7  # cells of the longest level
_TITLE = 33  # at most
_GAP = "  "
MIN_WIDTH = 60  # below that there is no room for columns


class Readiness(NamedTuple):
    """What was found on one host: its checks, those of the self-test included, and the verdict."""

    name: str
    checks: Sequence[Result]
    verdict: Mapping[str, Any]


def combine(name: str, info: Result, selftest: Result | None = None) -> Readiness:
    """Join the results of kvm_host_info and, where it ran, kvm_selftest."""
    found = [info] if selftest is None else [info, selftest]
    checks = [check for one in found for check in one["checks"]]
    return Readiness(name, checks, join([one["verdict"] for one in found]))


def render(hosts: Sequence[Readiness], total: int = 100, *, colour: bool = False) -> str:
    """Return the table of one host or the matrix of several, empty for none."""
    if not hosts:
        return ""
    if len(hosts) == 1:
        return table(hosts[0], total, colour=colour)
    return matrix(hosts, total, colour=colour)


def table(host: Readiness, total: int = 100, *, colour: bool = False) -> str:
    """Return every check of one host: level, title, what was found, and the remedy of the rest."""
    total = max(total, MIN_WIDTH)
    titles = min(_TITLE, max((width(plain(check["title"])) for check in host.checks), default=0))
    indent = " " * (_LEVEL + len(_GAP) + titles + len(_GAP))
    lines = [paint(fit(f"readiness of {plain(host.name)}", total), _BOLD, colour)]
    for check in host.checks:
        level = str(check["level"])
        body = wrap(str(check["found"]), total - len(indent))
        first = _GAP.join(
            (
                paint(pad(level, _LEVEL), _COLOURS.get(level), colour),
                pad(plain(str(check["title"])), titles),
                body[0],
            )
        )
        lines += [first.rstrip(), *(indent + line for line in body[1:])]
        # A fact's remedy is an offer; in a table it would read like something to be done.
        if check.get("remedy") and level not in ("pass", "info"):
            lines += _hang("fix: ", str(check["remedy"]), indent, total, colour)
    lines += ["", *_verdict(host, total, colour)]
    return "\n".join(lines) + "\n"


def matrix(hosts: Sequence[Readiness], total: int = 100, *, colour: bool = False) -> str:
    """Return checks as rows and hosts as columns, then each host's verdict and all remedies.

    Rows that pass or tell a fact on every host are counted, not shown. Hosts that do not fit into
    the width go into further blocks.
    """
    total = max(total, MIN_WIDTH)
    levels = {host.name: {check["id"]: check["level"] for check in host.checks} for host in hosts}
    order = _order(hosts)
    shown = [
        identity
        for identity in order
        if any(found.get(identity) in ("warn", "fail", "unknown") for found in levels.values())
    ]
    lines = [paint(fit(f"readiness of {len(hosts)} hosts", total), _BOLD, colour)]
    names = max((width(identity) for identity in shown), default=0)
    for block in _blocks([plain(host.name) for host in hosts], total - names - len(_GAP)):
        start, cells = block
        part = hosts[start : start + len(cells)]
        lines.append(_GAP.join([" " * names, *cells]).rstrip())
        for identity in shown:
            row = [
                _cell(levels[host.name].get(identity), width(cell), colour)
                for host, cell in zip(part, cells)
            ]
            lines.append(_GAP.join([pad(identity, names), *row]).rstrip())
        lines.append("")
    quiet = len(order) - len(shown)
    if quiet:
        words = "check passes or tells" if quiet == 1 else "checks pass or tell"
        lines += [f"{quiet} further {words} a fact on every host", ""]
    for host in hosts:
        lines += _verdict(host, total, colour, remedies=False)
    lines += _remedies(hosts, total, colour)
    return "\n".join(lines) + "\n"


def wrap(text: str, cells: int) -> list[str]:
    """Return the text, made harmless, in lines of at most ``cells``; at least one line."""
    lines = [""]
    for part in plain(text).split(" "):
        word = part
        while width(word) > cells:  # a path longer than the column
            room = cells - width(lines[-1]) - bool(lines[-1])
            if room < 8:
                lines.append("")
                room = cells
            taken = fit(word, room + 1)[:-1]
            lines[-1] += (" " if lines[-1] else "") + taken
            word = word[len(taken) :]
            lines.append("")
        if lines[-1] and width(lines[-1]) + 1 + width(word) > cells:
            lines.append(word)
        else:
            lines[-1] += (" " if lines[-1] else "") + word
    return [line for line in lines if line] or [""]


def _hang(label: str, text: str, indent: str, total: int, colour: bool) -> list[str]:
    """Return lines after a label, the further ones below the first one's text."""
    body = wrap(text, total - len(indent) - len(label))
    further = " " * len(label)
    return [
        indent + (paint(label, _DIM, colour) if number == 0 else further) + line
        for number, line in enumerate(body)
    ]


def _verdict(host: Readiness, total: int, colour: bool, *, remedies: bool = True) -> list[str]:
    state = str(host.verdict["state"])
    word = _STATES.get(state, state)
    label = f"{fit(plain(host.name), total - len(word) - 2)}: "
    # The summary begins with the state in words; the label says it already.
    sentence = str(host.verdict["summary"]).partition(": ")[2] or str(host.verdict["summary"])
    indent = " " * 2
    lines = [label + paint(word, _STATE_COLOURS.get(state), colour)]
    lines += [indent + line for line in wrap(sentence, total - len(indent))]
    if remedies:
        for number, remedy in enumerate(host.verdict["remedies"], 1):
            lines += _hang(f"{number}. ", str(remedy), indent, total, colour)
    return lines


def _order(hosts: Iterable[Readiness]) -> list[str]:
    """Return all ids in the order of the tables; one that only some hosts have keeps its place."""
    order: list[str] = []
    for host in hosts:
        place = 0
        for check in host.checks:
            identity = str(check["id"])
            if identity in order:
                place = order.index(identity) + 1
            else:
                order.insert(place, identity)
                place += 1
    return order


def _blocks(names: Sequence[str], room: int) -> list[tuple[int, list[str]]]:
    """Return (first host, padded names) of each block of columns that fits into ``room``."""
    blocks: list[tuple[int, list[str]]] = []
    used = room
    for index, name in enumerate(names):
        cell = pad(name, min(max(width(name), _LEVEL), max(room, _LEVEL)))
        if not blocks or used + len(_GAP) + width(cell) > room:
            blocks.append((index, []))
            used = -len(_GAP)
        blocks[-1][1].append(cell)
        used += len(_GAP) + width(cell)
    return blocks


def _cell(level: str | None, cells: int, colour: bool) -> str:
    text = level or "-"
    # Blanks stay outside of the colour, so that those at a line's end can go.
    return paint(text, _COLOURS.get(text), colour) + " " * (cells - len(text))


def _remedies(hosts: Sequence[Readiness], total: int, colour: bool) -> list[str]:
    """Return each remedy once, with the hosts that need it."""
    needed: dict[str, list[str]] = {}
    for host in hosts:
        for remedy in host.verdict["remedies"]:
            needed.setdefault(str(remedy), []).append(host.name)
    if not needed:
        return []
    lines = ["", paint("remedies", _BOLD, colour)]
    for remedy, names in needed.items():
        where = "every host" if len(names) == len(hosts) else ", ".join(names)
        lines += _hang("- ", f"{remedy} ({where})", "", total, colour)
    return lines
