# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A value that the kernel offers in a file below /proc or /sys, and what it shall be.

sysctl, huge pages, KSM, THP, the frequency governor and writable module parameters are all of this
form; what differs is how the kernel shows the value.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Iterable, Mapping

from ..converge.action import LIVE, Action, Change, Pending
from ..host.source import switch, text
from .operation import Put, Step
from .outcome import NOT_AVAILABLE, SETTINGS, Outcome

PLAIN = "plain"  # as it was written, but for white space
CHOICE = "choice"  # the chosen one stands in brackets: always [madvise] never
RUN = "run"  # ksm/run: 1 is on; 0 and 2 (stopped and unmerged) are off
PARAMETER = "parameter"  # a module's: booleans read Y or N, numbers may be hexadecimal
VIRTUAL_FUNCTIONS = "/sriov_numvfs"  # how such a file's path ends
_CHOSEN = re.compile(r"\[([\w+-]+)\]")


@dataclass(frozen=True)
class Setting:
    """``value`` shall stand at ``path``; people know it as ``key`` of ``object``."""

    object: str
    key: str
    path: str
    value: str
    comes: bool = False  # a module that this run loads brings the file
    boot_path: str | None = None  # the pattern for the boot, where one stands for many files

    @property
    def form(self) -> str:
        """How the kernel shows the value."""
        return form_of(self.path)


def form_of(path: str) -> str:
    """Return how the kernel shows the value at a path."""
    if path.startswith("/sys/module/"):
        return PARAMETER
    if path.startswith("/sys/kernel/mm/transparent_hugepage/"):
        return CHOICE
    return RUN if path == "/sys/kernel/mm/ksm/run" else PLAIN


def shown(raw: str | None, form: str = PLAIN) -> str | None:
    """Return what the kernel's text says, as it would be written; None stays None."""
    if raw is None:
        return None
    if form == CHOICE:
        chosen = _CHOSEN.search(raw)
        return chosen.group(1) if chosen else " ".join(raw.split())
    if form == RUN:
        return "1" if raw.strip() == "1" else "0"
    return " ".join(raw.split())


def _number(value: str) -> int | None:
    try:
        return int(value, 0)
    except ValueError:
        return None


def same_parameter(value: str, live: str) -> bool:
    """Return whether two values of a module parameter mean the same."""
    if value == live:
        return True
    if live in {"Y", "N"} or value in {"Y", "N"}:
        one, two = switch(value), switch(live)
        return one is not None and one == two
    number = _number(value)
    return number is not None and number == _number(live)


def same(setting: Setting, live: str | None) -> bool:
    """Return whether the live value (as ``shown``) is the one asked for."""
    if live is None:
        return False
    if setting.form == PARAMETER:
        return same_parameter(setting.value, live)
    return live == setting.value


def read(root: str, settings: Iterable[Setting]) -> dict[str, str | None]:
    """Return the live value of each setting by its path, None where the file is not there."""
    return {setting.path: shown(text(root, setting.path), setting.form) for setting in settings}


def plan(
    settings: Iterable[Setting],
    live: Mapping[str, str | None],
    refused: Mapping[str, str],
    host: str,
    step: int = SETTINGS,
) -> Outcome:
    """Return one action an object that differs.

    ``refused`` is what the kernel did not take since it was booted (path → value asked for): that
    is told, and not tried again.
    """
    differing: dict[str, list[Setting]] = {}
    pending = []
    for setting in settings:
        value = live.get(setting.path)
        if same(setting, value):
            continue
        if value is None and not setting.comes:
            pending.append(_missing(setting, host))
        elif refused.get(setting.path) == setting.value:
            pending.append(not_taken(setting, value, host))
        else:
            differing.setdefault(setting.object, []).append(setting)
    steps = [_step(name, found, live, host, step) for name, found in differing.items()]
    return Outcome(tuple(steps), tuple(pending))


def _step(
    name: str, found: list[Setting], live: Mapping[str, str | None], host: str, step: int
) -> Step:
    action = Action(
        step=step,
        object=name,
        action="update",
        host=host,
        when=LIVE,
        reason=f"{', '.join(setting.key for setting in found)} differs",
        changes=tuple(Change(s.key, live.get(s.path), s.value) for s in found),
    )
    return Step(action, tuple(put for s in found for put in _puts(s, live.get(s.path))))


def _puts(setting: Setting, live: str | None) -> tuple[Put, ...]:
    put = Put(setting.path, setting.value)
    # A device takes another number of functions only while it has none.
    anew = setting.path.endswith(VIRTUAL_FUNCTIONS) and "0" not in (live, setting.value)
    return (Put(setting.path, "0"), put) if anew else (put,)


def _missing(setting: Setting, host: str) -> Pending:
    return Pending(
        object=setting.object,
        kind=NOT_AVAILABLE,
        host=host,
        reason=f"this machine has no {setting.path}",
        remedy="take the setting away for it, or run a kernel or firmware that offers it",
        changes=(Change(setting.key, None, setting.value),),
    )


def not_taken(setting: Setting, live: str | None, host: str) -> Pending:
    """Return what is to be told of a value that the kernel did not take."""
    kind, why, remedy = NOT_AVAILABLE, "the kernel did not take the value", "ask for what it offers"
    if setting.path.endswith("/nr_hugepages"):
        kind, why = (
            "hugepages_short",
            f"{setting.value} pages were asked for and the kernel has {live}",
        )
        remedy = (
            "memory is in use or fragmented: reboot, so that they are taken early, or reserve them"
            " with hugepagesz= and hugepages= under cmdline, or ask for fewer"
        )
    elif setting.form == PARAMETER:
        why = f"the module keeps {live}: the processor, firmware or kernel lacks the feature"
        remedy = "ask for what it has, or enable it in the firmware"
    return Pending(
        object=setting.object,
        kind=kind,
        host=host,
        reason=why,
        remedy=remedy,
        changes=(Change(setting.key, live, setting.value),),
    )


def boot_lines(settings: Iterable[Setting]) -> list[str]:
    """Return the lines of tmpfiles.d(5) that write the settings at boot, if the files exist."""
    found = {setting.boot_path or setting.path: setting.value for setting in settings}
    return [f"w {path} - - - - {value}" for path, value in found.items()]
