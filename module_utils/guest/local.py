# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The guests of this very host: puts its engine together, and gives modules their values."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Collection, Mapping

from ..converge.errors import InputError, Problem, VirtfleetError, shown
from ..kvm.layout import Layout
from ..units import UnitError, parse_duration
from .ioctl.detached import Detached
from .ioctl.engine import IoctlEngine, Supervisor
from .ioctl.supervised import Run, Supervised, is_booted
from .report import console_lines, describe
from .run import Wish
from .run import run as converge

if TYPE_CHECKING:
    from .engine import Engine

_LINE = 1024  # bytes that a line of a console may take in the mean
_DEFAULT_STOP_TIMEOUT = 30.0


def local_engine(
    root: str,
    run: Run,
    *,
    fleet: str = "local",
    stop_timeout: float = _DEFAULT_STOP_TIMEOUT,
    force: bool = False,
) -> IoctlEngine:
    """Return the engine for the places below ``root``; ``run`` runs commands for it."""
    layout = Layout(root)
    supervisor: Supervisor = Supervised(layout, run) if is_booted(root) else Detached(layout)
    return IoctlEngine(layout, supervisor, fleet=fleet, stop_timeout=stop_timeout, force=force)


def _host_name(options: Mapping[str, Any]) -> str:
    return options["host"] or os.uname().nodename


def _duration(path: str, text: str) -> float:
    try:
        return parse_duration(text)
    except UnitError:
        found = shown(text)
        raise InputError([Problem(path, "a duration with a unit such as 30s", found)]) from None


def _expected(digests: Mapping[Any, Any]) -> dict[str, str]:
    """Return the digests by name; null stands for a guest that was not there."""
    wrong = [
        Problem(f"expect.{name}", "a digest", shown(value))
        for name, value in digests.items()
        if value is not None and not isinstance(value, str)
    ]
    if wrong:
        raise InputError(wrong)
    return {str(name): value or "" for name, value in digests.items()}


def converge_guests(options: Mapping[str, Any], run: Run, check_mode: bool) -> dict[str, Any]:
    """Carry out the module kvm_guests with its options; see `run.run` for what it raises."""
    engine = local_engine(
        options["root"],
        run,
        fleet=options["fleet"],
        stop_timeout=_duration("stop_timeout", options["stop_timeout"]),
        force=options["force"],
    )
    wish = Wish(
        guests=options["guests"],
        host=_host_name(options),
        fleet=options["fleet"],
        prune=options["prune"],
        expect=_expected(options["expect"]),
    )
    try:
        return converge(engine, wish, check_mode=check_mode)
    except OSError as error:
        raise _failure(error) from error


def look_at_guests(options: Mapping[str, Any], run: Run) -> dict[str, Any]:
    """Carry out the module kvm_guests_info with its options; VirtfleetError if that fails."""
    engine = local_engine(options["root"], run)
    lines = max(0, options["console_lines"])
    try:
        return {
            "guests": guests_info(engine, options["names"], lines, status=options["status"]),
            "capabilities": capabilities(engine, _host_name(options)),
        }
    except OSError as error:
        raise _failure(error) from error


def _failure(error: OSError) -> VirtfleetError:
    where = f"{error.filename}: " if error.filename else ""
    return VirtfleetError(f"{where}{error.strerror or error}")


def guests_info(
    engine: Engine, names: Collection[str], lines: int, *, status: bool
) -> list[dict[str, Any]]:
    """Return the guests as plain values, all or those of ``names``, with their consoles' ends."""
    found = []
    for name, seen in sorted(engine.observe().items()):
        if names and name not in names:
            continue
        guest = describe(seen)
        guest["console"] = console_lines(engine.console(name, lines * _LINE), lines)
        if status:
            guest["status"] = engine.status(name) if seen.state == "running" else None
        found.append(guest)
    return found


def capabilities(engine: Engine, host_name: str) -> dict[str, Any]:
    """Return what the engine can do here, as plain values."""
    limits, host = engine.limits(), engine.host(host_name)
    return {
        engine.name: {
            "memory": limits.memory,
            "vcpus": limits.vcpus,
            "kernels": list(limits.programs),
            "helper": host.helper,
            "supervised": host.supervised,
        }
    }
