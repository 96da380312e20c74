# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Arguments of the kernel's command line (linux: admin-guide/kernel-parameters.rst).

They are made persistent through the boot loader; what the running kernel does not have yet waits
for a reboot, which nobody does here.
"""

from __future__ import annotations

import re
from typing import Any, Iterable, Sequence

from ..converge.action import NEXT_BOOT, Action, Blocked, Change, Pending
from ..converge.errors import Problem, shown
from . import bootloader
from .bootloader import GRUBBY, Observed
from .operation import Step, Write
from .outcome import BOOT, REBOOT, Outcome

_OBJECT = "kernel/cmdline"
# Safe unquoted in a shell's double quotes, in GRUB's script and in a boot entry alike.
_ARGUMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.,:=/@+%-]{0,255}", re.ASCII)
_LOADERS = ("root", "initrd", "BOOT_IMAGE")  # what the boot loader itself says
_LIMIT = 1024  # characters: half of what the kernel takes on x86 (COMMAND_LINE_SIZE)


def check(arguments: Sequence[Any]) -> list[Problem]:
    """Return what is wrong with the declaration."""
    problems = []
    for number, argument in enumerate(arguments):
        path = f"cmdline[{number}]"
        if not isinstance(argument, str) or _ARGUMENT.fullmatch(argument) is None:
            expected = "one argument of letters, digits and _.,:=/@+%- (no blanks, no quotes)"
            problems.append(Problem(path, expected, shown(argument)))
        elif key_of(argument) in _LOADERS:
            expected = "an argument that is not the boot loader's own"
            problems.append(Problem(path, expected, shown(argument)))
    length = len(" ".join(str(argument) for argument in arguments))
    if length > _LIMIT:
        problems.append(
            Problem("cmdline", f"at most {_LIMIT} characters in all", f"{length} characters")
        )
    return problems


def key_of(argument: str) -> str:
    """Return the name of an argument."""
    return argument.partition("=")[0]


def holds(found: Sequence[str], arguments: Sequence[str]) -> bool:
    """Return whether the arguments stand in ``found`` in this order.

    Order counts, because hugepages= belongs to the hugepagesz= before it.
    """
    rest = iter(found)
    return all(argument in rest for argument in arguments)


def ours(observed: Observed, recorded: Iterable[str]) -> tuple[str, ...]:
    """Return the arguments that earlier runs put there."""
    return tuple(dict.fromkeys((*recorded, *observed.stated)))


def removed(
    observed: Observed, arguments: Sequence[str], recorded: Iterable[str]
) -> tuple[str, ...]:
    """Return which of our arguments are not stated any more."""
    return tuple(arg for arg in ours(observed, recorded) if arg not in arguments)


def record(
    arguments: Sequence[str], observed: Observed, recorded: Sequence[str]
) -> tuple[str, ...]:
    """Return which arguments are ours afterwards: not those that somebody else stated before."""
    before = ours(observed, recorded)
    if observed.kind is None:
        return before
    others = {*observed.base, *(arg for entry in observed.entries for arg in entry)}
    return tuple(arg for arg in arguments if arg in before or arg not in others)


def leftover(observed: Observed, arguments: Sequence[str], gone: Iterable[str]) -> tuple[str, ...]:
    """Return what was taken away from the loader and the running kernel still has."""
    running = observed.running or ()
    found = dict.fromkeys(arg for arg in gone if arg in running and arg not in arguments)
    return tuple(found)


def plan(
    arguments: Sequence[str],
    observed: Observed,
    recorded: Sequence[str],
    left: Sequence[str],
    host: str,
) -> Outcome:
    """Return what makes the arguments persistent, and what waits for a reboot.

    ``recorded`` are the arguments of earlier runs, ``left`` those already taken from the loader.
    """
    gone = removed(observed, arguments, recorded)
    running = observed.running or ()
    met = holds(running, arguments)
    waiting = (
        ()
        if observed.running is None
        else _waiting(arguments, running, leftover(observed, arguments, (*gone, *left)))
    )
    pending = _pending(waiting, host) if waiting else ()
    if observed.kind is None:
        if met and not gone:
            return Outcome(pending=pending)
        if not arguments and observed.stated:
            return Outcome((_forget(observed, host),), pending)
        return _blocked(observed.why, arguments, gone, host)
    if observed.kind == GRUBBY and len({*map(key_of, arguments)}) < len(arguments):
        return _blocked(
            "grubby keeps one value of an argument, and one is stated twice", arguments, gone, host
        )
    steps = (_step(arguments, observed, gone, host),) if _differs(arguments, observed, gone) else ()
    return Outcome(steps, pending)


def _differs(arguments: Sequence[str], observed: Observed, gone: Sequence[str]) -> bool:
    if observed.kind == bootloader.GRUB and observed.stated != tuple(arguments):
        return True
    if observed.kind == bootloader.SYSTEMD_BOOT and not holds(observed.base, arguments):
        return True
    entries = observed.entries
    return bool(gone) or not all(holds(entry, arguments) for entry in entries)


def _step(arguments: Sequence[str], observed: Observed, gone: Sequence[str], host: str) -> Step:
    first = observed.entries[0] if observed.entries else ()
    changes = [
        Change(key_of(arg), _value(first, arg), arg)
        for arg in arguments
        if arg not in observed.stated or not all(arg in entry for entry in observed.entries)
    ]
    changes += [Change(key_of(arg), arg, None) for arg in gone]
    action = Action(
        step=BOOT,
        object=_OBJECT,
        action="update",
        host=host,
        when=NEXT_BOOT,
        reason=f"the entries of {observed.kind} differ",
        changes=tuple(changes),
    )
    return Step(action, bootloader.operations(observed, arguments, gone))


def _forget(observed: Observed, host: str) -> Step:
    """Return the step that takes our snippet from a GRUB that is not in use."""
    action = Action(
        step=BOOT,
        object=_OBJECT,
        action="update",
        host=host,
        when=NEXT_BOOT,
        reason="no arguments are stated any more",
        changes=tuple(Change(key_of(arg), arg, None) for arg in observed.stated),
    )
    return Step(action, (Write(bootloader.GRUB_FILE, None),))


def _value(found: Sequence[str], argument: str) -> str | None:
    """Return the argument of the same name that counts now: the last one."""
    same = [arg for arg in found if key_of(arg) == key_of(argument)]
    return same[-1] if same else None


def _waiting(
    arguments: Sequence[str], running: Sequence[str], left: Sequence[str]
) -> tuple[Change, ...]:
    if holds(running, arguments):
        coming: list[str] = []
    else:
        # All are there, but in another order: each is named.
        coming = [arg for arg in arguments if arg not in running] or list(arguments)
    changes = [Change(key_of(arg), _value(running, arg), arg) for arg in coming]
    changes += [Change(key_of(arg), arg, None) for arg in left]
    return tuple(changes)


def _pending(changes: tuple[Change, ...], host: str) -> tuple[Pending, ...]:
    lacks = " ".join(str(c.after) for c in changes if c.after)
    has = " ".join(str(c.before) for c in changes if not c.after)
    words = [f"it lacks {lacks}"] if lacks else []
    words += [f"it still has {has}"] if has else []
    return (
        Pending(
            object=_OBJECT,
            kind=REBOOT,
            host=host,
            reason=f"the running kernel was started with other arguments: {', '.join(words)}",
            remedy="reboot the host when it suits",
            changes=changes,
        ),
    )


def _blocked(why: str, arguments: Sequence[str], gone: Sequence[str], host: str) -> Outcome:
    what = " ".join([*arguments, *(f"(without {arg})" for arg in gone)])
    blocked = Blocked(
        object=_OBJECT,
        host=host,
        reason=why,
        remedy=f"give the kernel these arguments where it is started: {what}",
    )
    return Outcome(blocked=(blocked,))
