# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""One verdict from many checks: ready, limited (with what), not_ready (with the remedies)."""

from __future__ import annotations

from typing import Any, Mapping, Sequence

from .check import FAIL, UNKNOWN, WARN

READY, LIMITED, NOT_READY = _ORDER = ("ready", "limited", "not_ready")

Result = Mapping[str, Any]


def judge(
    results: Sequence[Result], limits: Mapping[str, str], vital: Sequence[str] = ()
) -> dict[str, Any]:
    """Return state, limits, remedies and a sentence for the results of checks.

    ``limits`` says for an id what guests go without where it warns; a ``vital`` check that knows
    nothing limits the host, a required feature that is not known fails it.
    """
    failing = [result for result in results if _fails(result)]
    limiting = [result for result in results if _limits(result, vital)]
    state = NOT_READY if failing else LIMITED if limiting else READY
    return {
        "state": state,
        "limits": _unique([_limit(result, limits) for result in limiting]),
        "remedies": _unique(
            [result["remedy"] for result in failing or limiting if result["remedy"]]
        ),
        "summary": _summary(state, failing, limiting, len(results), limits),
    }


def _fails(result: Result) -> bool:
    required = str(result["id"]).startswith("require.")
    return result["level"] == FAIL or bool(result["level"] == UNKNOWN and required)


def _limits(result: Result, vital: Sequence[str]) -> bool:
    return result["level"] == WARN or bool(result["level"] == UNKNOWN and result["id"] in vital)


def _limit(result: Result, limits: Mapping[str, str]) -> str:
    if result["level"] == UNKNOWN:
        return f"{result['title']} is not known: {result['found']}"
    return f"{limits.get(result['id']) or result['title']}: {result['found']}"


def _unique(texts: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(texts))


def join(verdicts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return one verdict for several of one host; the worst state counts."""
    worst = max(verdicts, key=lambda verdict: _ORDER.index(verdict["state"]))
    # Remedies of a lesser trouble would stand in the way of what has to be done first.
    alike = [verdict for verdict in verdicts if verdict["state"] == worst["state"]]
    summaries = [verdict["summary"] for verdict in alike]
    return {
        "state": worst["state"],
        "limits": _unique([limit for verdict in verdicts for limit in verdict["limits"]]),
        "remedies": _unique([remedy for verdict in alike for remedy in verdict["remedies"]]),
        "summary": summaries[0] if worst["state"] == READY else "; ".join(summaries),
    }


def _summary(
    state: str,
    failing: Sequence[Result],
    limiting: Sequence[Result],
    count: int,
    limits: Mapping[str, str],
) -> str:
    if state == READY:
        return f"ready: {count} checks, nothing in the way"
    if state == LIMITED:
        rest = len(limiting) - 1
        more = f", and {rest} more limit{'s' if rest > 1 else ''}" if rest else ""
        return f"limited: {_limit(limiting[0], limits)}{more}"
    reason = "; ".join(f"{result['title']}: {result['found']}" for result in failing[:3])
    rest = len(failing) - 3
    return f"not ready: {reason}" + (f"; and {rest} more" if rest > 0 else "")
