# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Units of systemd: which shall start at boot, which run now, and which shall do neither.

All of them are asked for in one call (systemctl(1), org.freedesktop.systemd1(5)).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Mapping

from ..converge.action import NOW, Action, Blocked, Change
from ..converge.errors import InputError, Problem, VirtfleetError, shown
from .operation import Run, Step
from .outcome import Outcome

if TYPE_CHECKING:
    from .operation import Runner

LISTS = ("enabled", "started", "disabled")
_NAME = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9:_.\\@-]*\.(?:service|socket|timer|path|mount|target)", re.ASCII
)
_PROPERTIES = ("Id", "LoadState", "UnitFileState", "ActiveState")
# Any other state (static, generated, …) is none that systemctl enable or disable could change.
_AT_BOOT, _NOT_AT_BOOT = frozenset({"enabled", "enabled-runtime"}), frozenset({"disabled"})


@dataclass(frozen=True)
class Desired:
    """Unit names: enabled at boot; those of these that run as well; neither of both."""

    enabled: tuple[str, ...] = ()
    started: frozenset[str] = frozenset()
    disabled: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All units that are stated."""
        return (*self.enabled, *self.disabled)


@dataclass(frozen=True)
class Unit:
    """A unit as systemd knows it; ``state`` is that of its file (is-enabled of systemctl(1))."""

    found: bool = False
    masked: bool = False
    state: str = "disabled"
    active: bool = False


def desire(parameters: Mapping[str, Any]) -> Desired:
    """Return what the module's options ask for; InputError with all that is wrong in them."""
    lists = {option: list(dict.fromkeys(parameters[option])) for option in LISTS}
    problems = [
        Problem(f"{option}[{n}]", "the full name of a unit (chrony.service)", shown(name))
        for option in LISTS
        for n, name in enumerate(parameters[option])
        if not _NAME.fullmatch(name)
    ]
    on = dict.fromkeys([*lists["enabled"], *lists["started"]])
    problems += [
        Problem(f"disabled[{n}]", "no unit that is stated as enabled or started", shown(name))
        for n, name in enumerate(parameters["disabled"])
        if name in on
    ]
    if problems:
        raise InputError(problems)
    return Desired(tuple(on), frozenset(lists["started"]), tuple(lists["disabled"]))


def parse(output: str) -> list[Unit]:
    """Return what ``systemctl show`` told, in the order in which it was asked."""
    found = []
    for block in output.strip().split("\n\n"):
        values = dict(line.partition("=")[::2] for line in block.splitlines())
        found.append(
            Unit(
                found=values.get("LoadState") not in {"not-found", None},
                masked=values.get("LoadState") == "masked",
                state=values.get("UnitFileState") or "disabled",
                active=values.get("ActiveState") in {"active", "activating", "reloading"},
            )
        )
    return found


def read(desired: Desired, run: Runner) -> dict[str, Unit]:
    """Return each unit that is stated; VirtfleetError where systemd does not answer."""
    if not desired.names:
        return {}
    argv = ("systemctl", "show", f"--property={','.join(_PROPERTIES)}", "--", *desired.names)
    status, out, error = run(argv)
    units = parse(out)
    if status != 0 or len(units) != len(desired.names):
        said = error.strip() or f"status {status}"
        raise VirtfleetError(f"systemd tells nothing about its units: {said}")
    return dict(zip(desired.names, units))


def missing(desired: Desired, observed: Mapping[str, Unit]) -> list[str]:
    """Return the units that shall be there and are not."""
    return [name for name in desired.enabled if not observed[name].found]


def _on(name: str, unit: Unit, *, start: bool) -> tuple[list[Change], list[Run]]:
    changes, runs = [], []
    if unit.state in _NOT_AT_BOOT:
        changes.append(Change("enabled", False, True))
        runs.append(Run(("systemctl", "enable", name)))
    if start and not unit.active:
        changes.append(Change("active", False, True))
        runs.append(Run(("systemctl", "start", name)))
    return changes, runs


def _off(name: str, unit: Unit) -> tuple[list[Change], list[Run]]:
    changes, runs = [], []
    if unit.active:
        changes.append(Change("active", True, False))
        runs.append(Run(("systemctl", "stop", name)))
    if unit.state in _AT_BOOT:
        changes.append(Change("enabled", True, False))
        runs.append(Run(("systemctl", "disable", name)))
    return changes, runs


def plan(desired: Desired, observed: Mapping[str, Unit], host: str) -> Outcome:
    """Return what is to be done; a masked unit is somebody's decision, so it is refused."""
    steps, blocked = [], []
    for name in desired.names:
        unit, off = observed[name], name in desired.disabled
        if unit.masked:
            if not off:
                blocked.append(Blocked(f"unit/{name}", host, "it is masked", "systemctl unmask it"))
            continue
        changes, runs = _off(name, unit) if off else _on(name, unit, start=name in desired.started)
        if changes:
            verb = "stop" if off else "start" if name in desired.started else "update"
            reason = f"{' and '.join(change.path for change in changes)} differs"
            action = Action(1, f"unit/{name}", verb, host, NOW, reason, tuple(changes))
            steps.append(Step(action, tuple(runs)))
    return Outcome(tuple(steps), (), tuple(blocked))
