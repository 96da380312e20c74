# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run has to remember, worked out from what it found and what it plans.

The way back puts a live value to what it was before the first change, and only where it is still
what was written last: what somebody else changed in between stays.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Iterable, Mapping, Sequence

from ..converge.action import Change, Pending
from . import cmdline, module_options, setting
from .outcome import RELOAD
from .setting import PARAMETER, Setting

if TYPE_CHECKING:
    from . import bootloader
    from .options import Options
    from .record import Record

Live = Mapping[str, "str | None"]


def _parameter(path: str) -> tuple[str, str]:
    """Return the module and the name of a parameter from /sys/module/M/parameters/N."""
    parts = path.split("/")
    return parts[3], parts[-1]


def _parameters(known: Record) -> dict[str, str]:
    """Return the module parameters that earlier runs set: path → value."""
    written = {path: pair[1] for path, pair in known.changed.items()}
    found = {**known.parameters, **written}
    return {p: value for p, value in found.items() if setting.form_of(p) == PARAMETER}


def parameters_by_module(known: Record) -> dict[str, dict[str, str]]:
    """Return the same by module and name."""
    found: dict[str, dict[str, str]] = {}
    for path, value in _parameters(known).items():
        module, name = _parameter(path)
        found.setdefault(module, {})[name] = value
    return found


def left_parameters(
    known: Record, stated: module_options.Options, observed: module_options.Observed
) -> dict[str, str]:
    """Return the parameters that nothing states any more and a loaded module still has."""
    found = {}
    for path, value in _parameters(known).items():
        name, parameter = _parameter(path)
        module = observed.loaded.get(name)
        if module is None or parameter in stated.get(name, {}) or parameter in module.writable:
            continue
        live = module.parameters.get(parameter)
        if live is not None and setting.same_parameter(value, live):
            found[path] = value
    return found


def left_pending(left: Mapping[str, str], host: str) -> tuple[Pending, ...]:
    """Return what is to be told of parameters that are left over."""
    return tuple(
        Pending(
            object=f"module/{_parameter(path)[0]}",
            kind=RELOAD,
            host=host,
            reason="it was loaded with an option that nothing states any more",
            remedy="load the module again when no guest runs, or reboot the host",
            changes=(Change(_parameter(path)[1], value, None),),
        )
        for path, value in sorted(left.items())
    )


def restored(known: Record, observed: module_options.Observed) -> list[Setting]:
    """Return the settings of earlier runs with the values from before them."""
    found = []
    for path, (before, _) in known.changed.items():
        if setting.form_of(path) == PARAMETER:
            name, parameter = _parameter(path)
            module = observed.loaded.get(name)
            if module is None or parameter not in module.writable:
                continue
        found.append(Setting(f"setting{path}", "value", path, before))
    return found


def still_ours(wanted: Iterable[Setting], known: Record, live: Live) -> list[Setting]:
    """Return those of the settings to restore that nobody changed since."""
    return [
        item
        for item in wanted
        if setting.same(replace(item, value=known.changed[item.path][1]), live.get(item.path))
    ]


def _changed(
    known: Record, settings: Iterable[Setting], live: Live, touched: Iterable[str]
) -> dict[str, tuple[str, str]]:
    """Return what was changed so far, with what this run changes."""
    names = {name for several in touched for name in objects(several)}
    found = dict(known.changed)
    for item in settings:
        value = live.get(item.path)
        if item.object in names and value is not None and not setting.same(item, value):
            found[item.path] = (found.get(item.path, (value, ""))[0], item.value)
    return found


def with_missed(known: Record, missed: Iterable[tuple[Setting, str | None]]) -> Record:
    """Return the record with what the kernel did not take, and what it made of it.

    The way back knows a value as ours by what is there, whatever was asked for.
    """
    changed, refused = dict(known.changed), dict(known.refused)
    for item, live in missed:
        refused[item.path] = item.value
        if item.path in changed and live is not None:
            changed[item.path] = (changed[item.path][0], live)
    return replace(known, changed=changed, refused=refused)


def objects(name: str) -> list[str]:
    """Return the objects of an action; a reload can be of several modules."""
    kind, _, names = name.partition("/")
    return [f"module/{part}" for part in names.split(",")] if kind == "module" else [name]


def records(
    known: Record,
    options: Options,
    boot: bootloader.Observed,
    settings: Sequence[Setting],
    live: Live,
    touched: Iterable[str],
) -> tuple[Record, Record]:
    """Return what is kept before the plan is carried out, and what when it is done.

    Before, it is all that could be ours, so that a run that was ended in between loses nothing.
    """
    changed = _changed(known, settings, live, touched)
    stated = {item.path: item.value for item in settings}
    refused = {p: v for p, v in known.refused.items() if stated.get(p) == v}
    arguments = cmdline.record(options.cmdline, boot, known.cmdline)
    either = tuple(dict.fromkeys((*cmdline.ours(boot, known.cmdline), *arguments)))
    gone = cmdline.removed(boot, options.cmdline, known.cmdline)
    before = replace(known, changed=changed, cmdline=either, refused=refused)
    left = cmdline.leftover(boot, options.cmdline, (*gone, *known.leftover))
    return before, replace(before, cmdline=arguments, leftover=left)
