# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The settings of multipathd, in a file of our own beside the host's (multipath.conf(5)).

Files in ``config_dir`` are read after /etc/multipath.conf and override it. Some distributions start
the daemon only where that file is there, so one with a comment is made where it is missing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Mapping, Sequence

from ...converge.action import LIVE, Change
from ...host import source
from ..operation import Operation, Run, Step, Write
from ..outcome import Outcome
from ..own_files import MARK
from .facet import MULTIPATH, Checker, Context, System

MAIN = "/etc/multipath.conf"
OWN = "/etc/multipath/conf.d/virtfleet.conf"
SERVICE = "multipathd.service"
_KEYWORD = re.compile(r"[a-z][a-z0-9_]{0,63}", re.ASCII)
_VALUE = re.compile(r'[^"\x00-\x1f\x7f]{1,255}')
_RULES = ("devnode", "wwid", "property", "protocol")


@dataclass(frozen=True)
class Wish:
    """The sections of the file, None where multipath is not asked for."""

    enabled: bool = False
    defaults: Mapping[str, str] = field(default_factory=dict)
    blacklist: tuple[tuple[str, str], ...] = ()
    exceptions: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Found:
    """The texts of both files, None where there is none, and the state of the daemon."""

    main: str | None = None
    own: str | None = None
    enabled: bool = False
    active: bool = False


def _rules(
    items: Sequence[Mapping[str, Any]], path: str, check: Checker
) -> tuple[tuple[str, str], ...]:
    rules = []
    for index, item in enumerate(items):
        for key, value in item.items():
            if key not in _RULES:
                check.say(f"{path}[{index}].{key}", ", ".join(_RULES), key)
            text = check.matches(
                f"{path}[{index}].{key}", value, _VALUE, "one line without quotation marks"
            )
            rules.append((key, text))
    return tuple(rules)


def parse(item: Mapping[str, Any] | None, path: str, check: Checker) -> Wish:
    """Return what is declared of multipath."""
    if not item or not item.get("enabled"):
        return Wish()
    defaults = {}
    if item.get("user_friendly_names") is not None:
        defaults["user_friendly_names"] = "yes" if item["user_friendly_names"] else "no"
    if item.get("find_multipaths") is not None:
        defaults["find_multipaths"] = item["find_multipaths"]
    for key, value in (item.get("defaults") or {}).items():
        name = check.matches(f"{path}.defaults", key, _KEYWORD, "a keyword of multipath.conf(5)")
        word = {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
        defaults[name] = check.matches(
            f"{path}.defaults.{name}", word, _VALUE, "one line without quotation marks"
        )
    return Wish(
        True,
        defaults,
        _rules(item.get("blacklist") or [], f"{path}.blacklist", check),
        _rules(item.get("blacklist_exceptions") or [], f"{path}.blacklist_exceptions", check),
    )


def _section(name: str, pairs: Sequence[tuple[str, str]]) -> str:
    body = "".join(f'\t{key} "{value}"\n' for key, value in pairs)
    return f"{name} {{\n{body}}}\n" if body else ""


def content(wish: Wish) -> str:
    """Return the text of our file."""
    return (
        MARK
        + _section("defaults", list(wish.defaults.items()))
        + _section("blacklist", wish.blacklist)
        + _section("blacklist_exceptions", wish.exceptions)
    )


def observe(system: System, wish: Wish) -> Found:
    """Return what there is of multipath on the host; nothing is read without a wish."""
    if not wish.enabled:
        return Found()
    return Found(
        source.text(system.root, MAIN),
        source.text(system.root, OWN),
        system.run(["systemctl", "is-enabled", "--quiet", SERVICE])[0] == 0,
        system.run(["systemctl", "is-active", "--quiet", SERVICE])[0] == 0,
    )


def _text(text: str | None) -> str | None:
    return None if text is None else text.replace("\t", "  ")


def _file(path: str, before: str | None, after: str | None, context: Context) -> Step:
    verb = "delete" if after is None else "update" if before is not None else "create"
    reason = {"delete": "it shall be absent", "update": "its content differs"}
    action = context.action(
        MULTIPATH,
        f"file{path}",
        verb,
        reason.get(verb, "it is missing"),
        [Change("content", _text(before), _text(after))],
    )
    return Step(action, (Write(path, after),))


def plan(wish: Wish, found: Found, context: Context) -> Outcome:
    """Return what makes multipathd run with these settings; the way back takes our files alone."""
    if not wish.enabled:
        return Outcome()
    wanted = None if context.absent else content(wish)
    steps = []
    if not context.absent and found.main is None:
        steps.append(_file(MAIN, None, MARK, context))
    if context.absent and found.main == MARK:
        steps.append(_file(MAIN, found.main, None, context))
    if wanted != found.own:
        steps.append(_file(OWN, found.own, wanted, context))
    operations: list[Operation] = []
    changes = []
    if steps and found.active:
        operations.append(Run(("systemctl", "reload", SERVICE)))
        changes.append(Change("settings", "as before", "as stated"))
    if not context.absent and not found.enabled:
        operations.append(Run(("systemctl", "enable", SERVICE)))
        changes.append(Change("enabled", False, True))
    if not context.absent and not found.active:
        operations.append(Run(("systemctl", "start", SERVICE)))
        changes.append(Change("active", False, True))
    if operations:
        action = context.action(
            MULTIPATH, f"service/{SERVICE}", "update", "it shall run as stated", changes, when=LIVE
        )
        steps.append(Step(action, tuple(operations)))
    return Outcome(tuple(steps))
