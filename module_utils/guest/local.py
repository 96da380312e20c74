# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The guests of this very host: puts its engines together, and gives modules their values."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Callable, Collection, Mapping, Sequence

from ..converge.answers import Answers
from ..converge.errors import InputError, Problem, VirtfleetError, shown, system_says
from ..kvm.layout import Layout
from ..units import UnitError, parse_duration
from .engine import brief, describe
from .engines import Engines
from .run import Wish
from .run import run as converge
from .spec import ABSENT, DEFAULT_ENGINE
from .witness import check, claims, read, write

if TYPE_CHECKING:
    from .engine import Engine
    from .ioctl.engine import IoctlEngine
    from .ioctl.supervised import Run

_ROOMS = ("converge", "guest", "seed", "units", "virt")
_LINE = 1024  # bytes that a line of a console may take in the mean
_DEFAULT_STOP_TIMEOUT = 30.0


def ioctl_engine(
    root: str,
    run: Run,
    *,
    fleet: str = "local",
    stop_timeout: float = _DEFAULT_STOP_TIMEOUT,
    force: bool = False,
) -> IoctlEngine:
    """Return the helper's engine for the places below ``root``; ``run`` runs commands for it."""
    # What a call does not need is not loaded: everything shipped is compiled on the host each time.
    from .ioctl.detached import Detached
    from .ioctl.engine import IoctlEngine
    from .ioctl.supervised import Supervised, is_booted

    layout = Layout(root)
    supervisor = Supervised(layout, run) if is_booted(root) else Detached(layout)
    return IoctlEngine(layout, supervisor, fleet=fleet, stop_timeout=stop_timeout, force=force)


def _concerns_libvirt(guests: Sequence[Any], *, prune: bool) -> bool:
    """Return whether a call may concern libvirt's guests: without need it is not even asked."""
    mappings = [guest for guest in guests if isinstance(guest, Mapping)]
    return prune or any(guest.get("engine", DEFAULT_ENGINE) == "libvirt" for guest in mappings)


def _concerns_helper(guests: Sequence[Any], layout: Layout) -> bool:
    """Return whether a call may concern guests of the helper: declared, there, or unfinished."""
    try:
        there = bool(os.listdir(layout.guests))
    except OSError:
        there = os.path.isdir(layout.guests)
    mappings = [guest for guest in guests if isinstance(guest, Mapping)]
    return there or any(guest.get("engine", DEFAULT_ENGINE) != "libvirt" for guest in mappings)


def _needs_libvirt(guests: Sequence[Any]) -> bool:
    """Return whether guests of libvirt shall be there: where none shall, it may be missing."""
    mappings = [guest for guest in guests if isinstance(guest, Mapping)]
    there = [guest for guest in mappings if guest.get("state") != ABSENT]
    return any(guest.get("engine", DEFAULT_ENGINE) == "libvirt" for guest in there)


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


def _machines(stated: Mapping[Any, Any] | None) -> dict[str, dict[str, str]]:
    """Return the versions of machines, by architecture and family."""
    found: dict[str, dict[str, str]] = {}
    wrong = []
    for arch, families in (stated or {}).items():
        if not isinstance(families, Mapping):
            wrong.append(Problem(f"machines.{arch}", "versions by family", shown(families)))
            continue
        found[str(arch)] = {str(family): str(version) for family, version in families.items()}
    if wrong:
        raise InputError(wrong)
    return found


def converge_guests(options: Mapping[str, Any], run: Run, check_mode: bool) -> dict[str, Any]:
    """Carry out the module kvm_guests with its options; see `run.run` for what it raises."""
    ways: dict[str, Any] = {
        "fleet": options["fleet"],
        "stop_timeout": _duration("stop_timeout", options["stop_timeout"]),
        "force": options["force"],
    }
    layout = Layout(options["root"])
    engines: list[Engine] = []
    answers = Answers()
    witness = options["witness"]
    # What makes new guests has to know all that are there.
    everything = options["prune"] or claims(witness)
    of_libvirt = _concerns_libvirt(options["guests"], prune=everything)
    if not of_libvirt or _concerns_helper(options["guests"], layout):
        engines.append(ioctl_engine(options["root"], run, **ways))
    if of_libvirt:
        from .libvirt.engine import LibvirtEngine  # what only its guests should pay

        answers = _answers(layout)
        optional = check_mode or not _needs_libvirt(options["guests"])
        ways["antispoofing"] = options["antispoofing"]
        libvirt = LibvirtEngine(options["uri"], optional=optional, state=layout.state, **ways)
        libvirt.chosen = _machines(options["machines"])
        libvirt.remember(answers)
        engines.append(libvirt)
    together = Engines(engines, layout)
    wish = Wish(
        guests=options["guests"],
        fleet=options["fleet"],
        prune=options["prune"],
        expect=_expected(options["expect"]),
        remember=_remembering(together, options["fleet"], witness),
        claims=claims(witness),
    )
    host = engines[0].host(_host_name(options))
    try:
        outcome = converge(together, wish, host, check_mode=check_mode)
    except OSError as error:
        raise _failure(error) from error
    finally:
        together.close()
    if not check_mode:
        answers.save()
    return outcome


def _answers(layout: Layout) -> Answers:
    """Return what was found out about this host's domains before."""
    return Answers(os.path.join(layout.cache, "answers"), _ROOMS)


def _remembering(
    engines: Engines, fleet: str, witness: Mapping[str, Any] | None
) -> Callable[[], None]:
    """Return what writes down the witness of a fleet's plan, where there is one."""
    if not witness:
        return lambda: None
    check(witness)

    def there() -> list[str]:
        found = engines.observe()
        return [name for name, seen in found.items() if seen.owned and seen.fleet == fleet]

    return lambda: write(engines.layout, fleet, witness, there)


def look_at_guests(options: Mapping[str, Any], run: Run) -> dict[str, Any]:
    """Carry out the module kvm_guests_info with its options; VirtfleetError if that fails."""
    engines: list[Engine] = []
    if "ioctl" in options["engines"]:
        engines.append(ioctl_engine(options["root"], run))
    if "libvirt" in options["engines"]:
        from .libvirt.engine import LibvirtEngine

        libvirt = LibvirtEngine(options["uri"], optional=True)
        libvirt.remember(_answers(Layout(options["root"])))
        engines.append(libvirt)
    lines = max(0, options["console_lines"])
    try:
        if options["brief"]:
            return _briefly(engines, options)
        found = [
            guest
            for engine in engines
            for guest in guests_info(engine, options["names"], lines, status=options["status"])
        ]
        return {
            "guests": sorted(found, key=lambda guest: str(guest["name"])),
            "capabilities": {engine.name: engine.capabilities() for engine in engines},
        }
    except OSError as error:
        raise _failure(error) from error
    finally:
        for engine in engines:
            engine.close()


def _briefly(engines: Sequence[Engine], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a fleet's plan has to know: guests, room, and what the host remembers."""
    names = options["names"]
    found = [
        brief(seen)
        for engine in engines
        for name, seen in engine.observe(names or None).items()
        if not names or name in names
    ]
    rooms = [engine.room() for engine in engines]
    return {
        "guests": sorted(found, key=lambda guest: str(guest["name"])),
        "room": next((room for room in reversed(rooms) if room is not None), {}),
        "witness": read(Layout(options["root"])),
    }


def _failure(error: OSError) -> VirtfleetError:
    return VirtfleetError(system_says(error))


def guests_info(
    engine: Engine, names: Collection[str], lines: int, *, status: bool
) -> list[dict[str, Any]]:
    """Return the guests as plain values, all or those of ``names``, with their consoles' ends."""
    found = []
    from .report import console_lines

    for name, seen in sorted(engine.observe().items()):
        if names and name not in names:
            continue
        guest = describe(seen)
        if seen.spec is not None:
            guest["spec"] = engine.dialect().masked(seen.spec)
        guest["live"], waits = engine.running(seen)
        guest["restart_required"] = guest["restart_required"] or waits
        guest["addresses"] = engine.addresses(name)
        guest["console"] = console_lines(engine.console(name, lines * _LINE), lines)
        if status:
            guest["status"] = engine.status(name) if seen.state == "running" else None
        found.append(guest)
    return found
