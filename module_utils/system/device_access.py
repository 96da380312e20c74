# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may open /dev/kvm: the group, and the udev rule where the distribution's says otherwise.

udev(7): files are read in the order of their names over all folders, and one of the same name in
a folder further ahead takes the place of the others.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from typing import Any, Mapping

from ..converge.action import LIVE, Action, Blocked, Change
from ..converge.errors import Problem, shown
from ..host.source import at, exists, names, text
from .operation import Run, Step
from .outcome import DEVICE, FILES, Outcome

FILE = "/etc/udev/rules.d/65-virtfleet-kvm.rules"
_DEVICE = "/dev/kvm"
_FOLDERS = ("/etc/udev/rules.d", "/run/udev/rules.d", "/usr/lib/udev/rules.d", "/lib/udev/rules.d")
_MODE = re.compile(r"0?[0246]{3}", re.ASCII)
_GROUP = re.compile(r"[a-z_][a-z0-9_-]{0,30}", re.ASCII)
_MATCHES = re.compile(r'(?:KERNEL|DEVPATH|SUBSYSTEM)=="([^"]*)"')


@dataclass(frozen=True)
class Access:
    """A group, and the mode as four octal digits."""

    group: str | None
    mode: str | None


@dataclass(frozen=True)
class Observed:
    """The device node as it is, what the rules of others give it, and the means to change it."""

    live: Access | None = None
    rules: Access = Access(None, None)
    groups: frozenset[str] = frozenset()
    udev: bool = False
    rule: str | None = None  # our own


def check(stated: Mapping[str, Any]) -> list[Problem]:
    """Return what is wrong with the declaration."""
    problems = []
    group, mode = stated.get("group"), stated.get("mode")
    if not isinstance(group, str) or _GROUP.fullmatch(group) is None:
        problems.append(Problem("device_access.group", "the name of a group", shown(group)))
    if not isinstance(mode, str) or _MODE.fullmatch(mode) is None:
        expected = 'an octal mode in quotes that only reads and writes, such as "0660"'
        problems.append(Problem("device_access.mode", expected, shown(mode)))
    return problems


def desire(stated: Mapping[str, Any] | None) -> Access | None:
    """Return what was stated and is checked."""
    return None if stated is None else Access(stated["group"], stated["mode"].zfill(4))


def read(root: str, rule: str | None) -> Observed:
    """Return the device under ``root``; ``rule`` is what our own file holds."""
    groups = _groups(root)
    return Observed(
        live=_live(root, groups),
        rules=_rules(root),
        groups=frozenset(groups.values()),
        udev=any(exists(root, f"/{place}/udevadm") for place in ("usr/bin", "bin", "sbin")),
        rule=rule,
    )


def _groups(root: str) -> dict[int, str]:
    rows = (line.split(":") for line in (text(root, "/etc/group") or "").splitlines())
    return {int(row[2]): row[0] for row in rows if len(row) == 4 and row[2].isdigit()}


def _live(root: str, groups: Mapping[int, str]) -> Access | None:
    try:
        found = os.stat(at(root, _DEVICE))
    except OSError:
        return None
    return Access(groups.get(found.st_gid, str(found.st_gid)), f"{stat.S_IMODE(found.st_mode):04o}")


def _rules(root: str) -> Access:
    files: dict[str, str] = {}
    for folder in _FOLDERS:
        for name in names(root, folder) or []:
            if name.endswith(".rules"):
                files.setdefault(name, f"{folder}/{name}")
    access = Access(None, None)
    for _, path in sorted(files.items()):
        if path != FILE:
            access = follow(access, text(root, path) or "")
    return access


def follow(access: Access, rules: str) -> Access:
    """Return what a device's access is after the rules of one file that name /dev/kvm."""
    group, mode = access.group, access.mode
    for line in rules.replace("\\\n", " ").splitlines():
        if not line.startswith("#") and re.search(r'\bKERNEL=="kvm"', line):
            named = re.search(r'\bGROUP:?="([^"]+)"', line)
            moded = re.search(r'\bMODE:?="([0-7]+)"', line)
            group = named.group(1) if named else group
            mode = moded.group(1).zfill(4) if moded else mode
    return Access(group, mode)


def lines(wanted: Access | None, observed: Observed) -> list[str]:
    """Return the lines of our rule; none where the distribution's rule gives it already."""
    if wanted is None or observed.rules == wanted or not (observed.udev or observed.rule):
        return []
    return [f'KERNEL=="kvm", SUBSYSTEM=="misc", GROUP="{wanted.group}", MODE="{wanted.mode}"']


def plan(wanted: Access | None, observed: Observed, host: str, *, real: bool) -> Outcome:
    """Return what brings the group and the device there.

    ``real`` is whether commands can run (not below another root).
    """
    steps = []
    if wanted is None:
        gone = observed.rule is not None and observed.live is not None and observed.udev
        # The rule is taken away as a file; what is left then is given to the device again.
        changed = gone and observed.rules not in (observed.live, Access(None, None))
        return Outcome((_trigger(observed.rules, observed.live, host),) if changed else ())
    if wanted.group not in observed.groups:
        if not real:
            return Outcome(blocked=(_no_group(wanted.group, host),))
        steps.append(_create_group(wanted.group, host))
    if observed.live in (None, wanted):
        return Outcome(tuple(steps))
    if not observed.udev:
        return Outcome(tuple(steps), blocked=(_no_udev(wanted, host),))
    return Outcome((*steps, _trigger(wanted, observed.live, host)))


def _create_group(name: str | None, host: str) -> Step:
    action = Action(
        step=FILES,
        object=f"group/{name}",
        action="create",
        host=host,
        when=LIVE,
        reason="it is missing",
        changes=(Change("name", None, name),),
    )
    return Step(action, (Run(("groupadd", "--system", str(name))),))


def _trigger(wanted: Access, live: Access | None, host: str) -> Step:
    found = live or Access(None, None)
    pairs = (("group", found.group, wanted.group), ("mode", found.mode, wanted.mode))
    action = Action(
        step=DEVICE,
        object=f"device{_DEVICE}",
        action="update",
        host=host,
        when=LIVE,
        reason="its access differs",
        changes=tuple(Change(*pair) for pair in pairs if pair[1] != pair[2] and pair[2]),
    )
    return Step(
        action,
        (
            Run(("udevadm", "control", "--reload")),
            # The rules that come with udev give access on add alone.
            Run(("udevadm", "trigger", "--action=add", "--name-match=kvm")),
            Run(("udevadm", "settle", "--timeout=30")),
        ),
    )


def _no_group(name: str | None, host: str) -> Blocked:
    return Blocked(
        object=f"group/{name}",
        host=host,
        reason="it is missing, and below another root no command can make it",
        remedy="install the package there that brings it",
    )


def _no_udev(wanted: Access, host: str) -> Blocked:
    return Blocked(
        object=f"device{_DEVICE}",
        host=host,
        reason="its access differs and there is no udev to set it",
        remedy="install udev, or have whatever makes the node give it"
        f" {wanted.group} {wanted.mode}",
    )
