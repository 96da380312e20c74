# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What libvirt shall be set to, made from a module's options."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Mapping

from ..converge.errors import InputError, Problem, shown
from .libvirt_conf import Settings, expected, normal
from .libvirt_daemons import DAEMONS, MONOLITHIC, Socket

FOLDER = "/etc/libvirt"
QEMU = "qemu.conf"
FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.conf", re.ASCII)
_KEY = re.compile(r"[A-Za-z][A-Za-z0-9_]*", re.ASCII)
_GROUP = re.compile(r"[a-z_][a-z0-9_-]{0,31}", re.ASCII)
_MODE = re.compile(r"0?[0-7]{3}", re.ASCII)


@dataclass(frozen=True)
class Desired:
    """What shall be: settings by file name, the sockets' group and mode, the confinement."""

    daemons: tuple[str, ...] = (MONOLITHIC,)
    files: Mapping[str, Settings] = field(default_factory=dict)
    defaults: Mapping[str, Settings] = field(default_factory=dict)
    socket: Socket | None = None
    confinement: str | None = None

    @property
    def daemon(self) -> str:
        """The one that runs QEMU."""
        return self.daemons[0]


def _file_problems(path: str, files: Mapping[str, Any]) -> list[Problem]:
    problems = []
    for name, settings in files.items():
        where = f"{path}.{name}"
        if not FILE.fullmatch(name):
            problems.append(Problem(where, f"the name of a file in {FOLDER}", shown(name)))
        elif not isinstance(settings, Mapping):
            problems.append(Problem(where, "a mapping of settings", shown(settings)))
        else:
            for key, value in settings.items():
                wanted = expected(value)
                if not _KEY.fullmatch(str(key)):
                    problems.append(Problem(where, "names of settings", shown(key)))
                elif wanted:
                    problems.append(Problem(f"{where}.{key}", wanted, shown(value)))
    return problems


def desire(parameters: Mapping[str, Any]) -> Desired:
    """Return what the module's options ask for; InputError with all that is wrong in them."""
    daemons = tuple(parameters["daemons"])
    if parameters["state"] == "absent":
        return Desired(daemons or (MONOLITHIC,))
    problems = [
        Problem(f"daemons[{n}]", f"one of {', '.join(DAEMONS)}", shown(name))
        for n, name in enumerate(daemons)
        if name not in DAEMONS
    ]
    if not daemons:
        problems.append(Problem("daemons", "at least one, that of QEMU first", "none"))
    for option in ("files", "defaults"):
        problems += _file_problems(option, parameters[option])
    group, mode = parameters["socket_group"], parameters["socket_mode"]
    if group is not None and not _GROUP.fullmatch(group):
        problems.append(Problem("socket_group", "the name of a group", shown(group)))
    if mode is not None and not _MODE.fullmatch(mode):
        problems.append(Problem("socket_mode", 'permissions as in "0660"', shown(mode)))
    if (group is None) != (mode is None):
        problems.append(Problem("socket_mode", "group and mode together", "one of them"))
    if problems:
        raise InputError(problems)
    confinement = parameters["confinement"]
    files = {name: _normal(values) for name, values in parameters["files"].items()}
    if confinement is not None:
        # Stated, libvirt refuses to start guests unconfined; left out, it would go on without.
        files[QEMU] = {**files.get(QEMU, {}), "security_driver": confinement}
    return Desired(
        daemons=daemons,
        files=files,
        defaults={name: _normal(values) for name, values in parameters["defaults"].items()},
        socket=None if group is None or mode is None else Socket(int(mode, 8), group),
        confinement=confinement,
    )


def _normal(settings: Mapping[str, Any]) -> Settings:
    return {key: normal(value) for key, value in settings.items()}
