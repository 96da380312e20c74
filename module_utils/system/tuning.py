# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""KSM, transparent huge pages and the frequency governor.

linux: admin-guide/mm/ksm.rst, admin-guide/mm/transhuge.rst, admin-guide/pm/cpufreq.rst.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Mapping

from ..converge.action import Change, Pending
from ..converge.errors import Problem, nearest, shown
from ..host.source import names, number, word
from ..units import UnitError, parse_duration
from .outcome import NOT_AVAILABLE, Outcome
from .setting import Setting

_KSM = "/sys/kernel/mm/ksm"
_THP = "/sys/kernel/mm/transparent_hugepage"
_POLICIES = "/sys/devices/system/cpu/cpufreq"
_EVERY_POLICY = f"{_POLICIES}/policy*/scaling_governor"
_ACROSS = f"{_KSM}/merge_across_nodes"
_PAGES_LIMIT = 1 << 31
_SLEEP_LIMIT = 3600.0  # seconds
_CHOICES = {
    "enabled": ("always", "madvise", "never"),
    "defrag": ("always", "defer", "defer+madvise", "madvise", "never"),
}


@dataclass(frozen=True)
class Observed:
    """Frequency policies, the governors that all of them offer, and pages that KSM has merged."""

    policies: tuple[str, ...] = ()
    governors: frozenset[str] = frozenset()
    ksm_shared: int = 0


def read(root: str) -> Observed:
    """Return what the machine under ``root`` offers."""
    policies = tuple(p for p in names(root, _POLICIES) or () if p.startswith("policy"))
    offered = [
        frozenset((word(root, f"{_POLICIES}/{p}/scaling_available_governors") or "").split())
        for p in policies
    ]
    return Observed(
        policies=policies,
        governors=frozenset.intersection(*offered) if offered else frozenset(),
        ksm_shared=number(root, f"{_KSM}/pages_shared") or 0,
    )


def check(ksm: Mapping[str, Any], thp: Mapping[str, Any], governor: str | None) -> list[Problem]:
    """Return what is wrong with the declaration alone."""
    problems = []
    pages = ksm.get("pages_to_scan")
    if pages is not None and not 1 <= pages <= _PAGES_LIMIT:
        problems.append(Problem("ksm.pages_to_scan", "1 or more pages", shown(pages)))
    if ksm.get("sleep") is not None and _milliseconds(ksm["sleep"]) is None:
        expected = "a duration such as 20ms, of whole milliseconds up to 1h"
        problems.append(Problem("ksm.sleep", expected, shown(ksm["sleep"])))
    for key, known in _CHOICES.items():
        value = thp.get(key)
        if value is not None and value not in known:
            guess = nearest(value, known)
            remedy = f"did you mean {guess}?" if guess else None
            problems.append(
                Problem(f"thp.{key}", f"one of {', '.join(known)}", shown(value), remedy)
            )
    if governor is not None and not (governor.isascii() and governor.isidentifier()):
        problems.append(Problem("governor", "the name of a cpufreq governor", shown(governor)))
    return problems


def check_known(governor: str | None, observed: Observed) -> list[Problem]:
    """Return whether the machine's frequency driver lacks the governor."""
    if governor is None or not observed.policies or governor in observed.governors:
        return []
    known = ", ".join(sorted(observed.governors)) or "none"
    return [Problem("governor", f"one that every CPU of this machine has ({known})", governor)]


def _milliseconds(value: Any) -> int | None:
    try:
        seconds = parse_duration(value)
    except UnitError:
        return None
    whole = round(seconds * 1000)
    exact = abs(whole - seconds * 1000) < 1e-6
    return whole if exact and seconds <= _SLEEP_LIMIT else None


def settings(
    ksm: Mapping[str, Any], thp: Mapping[str, Any], governor: str | None, observed: Observed
) -> list[Setting]:
    """Return what is stated, as values that the kernel keeps."""
    found = [
        # It can be changed only while nothing is merged, so it comes before the start.
        _ksm("merge_across_nodes", _flag(ksm.get("merge_across_nodes"))),
        _ksm("pages_to_scan", _text(ksm.get("pages_to_scan"))),
        _ksm("sleep_millisecs", _text(_milliseconds(ksm.get("sleep")))),
        _ksm("run", _flag(ksm.get("run"))),
    ]
    found += [Setting("thp", key, f"{_THP}/{key}", thp.get(key) or "") for key in _CHOICES]
    found += [
        Setting(
            "governor",
            p,
            f"{_POLICIES}/{p}/scaling_governor",
            governor or "",
            boot_path=_EVERY_POLICY,
        )
        for p in observed.policies
    ]
    return [item for item in found if item.value]


def at_boot(governor: str | None) -> list[Setting]:
    """Return the governor for the policies that there will be, whether there are any now or not."""
    return [Setting("governor", "every", _EVERY_POLICY, governor)] if governor else []


def _ksm(key: str, value: str) -> Setting:
    return Setting("ksm", key, f"{_KSM}/{key}", value)


def _flag(value: bool | None) -> str:
    return "" if value is None else "1" if value else "0"


def _text(value: int | None) -> str:
    return "" if value is None else str(value)


def withhold(
    found: list[Setting],
    live: Mapping[str, str | None],
    governor: str | None,
    observed: Observed,
    host: str,
) -> tuple[list[Setting], Outcome]:
    """Return the settings that can be put now, and what is to be told of the others."""
    pending = []
    if governor is not None and not observed.policies:
        pending.append(_no_governor(governor, host))
    held = [s for s in found if s.path == _ACROSS and live.get(s.path) not in (None, s.value)]
    if not held or not observed.ksm_shared:
        return found, Outcome(pending=tuple(pending))
    pending.append(_merged(held[0], live, observed.ksm_shared, host))
    return [s for s in found if s.path != _ACROSS], Outcome(pending=tuple(pending))


def _no_governor(governor: str, host: str) -> Pending:
    return Pending(
        object="governor",
        kind=NOT_AVAILABLE,
        host=host,
        reason="this machine offers no frequency scaling (a virtual machine, or firmware does it)",
        remedy="take the setting away for it, or leave the frequency to the operating system in"
        " the firmware",
        changes=(Change("governor", None, governor),),
    )


def _merged(item: Setting, live: Mapping[str, str | None], shared: int, host: str) -> Pending:
    return Pending(
        object="ksm",
        kind="unmerge_required",
        host=host,
        reason=f"KSM holds {shared} merged pages, and merge_across_nodes can change only without",
        remedy="write 2 to /sys/kernel/mm/ksm/run where there is memory enough and run again, or"
        " reboot",
        changes=(Change(item.key, live.get(item.path), item.value),),
    )
