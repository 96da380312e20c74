# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How libvirt's daemons are set: their files, who may connect, what confines their guests.

Guests are not the daemon's to lose: a daemon is restarted only where its unit spares its children,
and those that hold something for guests (virtlogd, virtlockd) are made to execute themselves anew.
"""

from __future__ import annotations

import grp
import os
import stat
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Mapping, Sequence

from ..converge.action import LIVE, NOW, Action, Blocked, Change, Pending
from ..converge.errors import InputError, Problem, shown
from ..host.source import at, exists, names, text
from . import own_files
from .libvirt_conf import compose, ours, parse
from .libvirt_daemons import (
    APPARMOR,
    LOG_DAEMONS,
    SELINUX,
    Service,
    Socket,
    confines,
    read_services,
    read_socket,
    socket_files,
)
from .libvirt_desire import FILE, FOLDER, QEMU, Desired
from .operation import Run, Step, Write
from .outcome import Outcome

if TYPE_CHECKING:
    from .operation import Runner

RESTART = "restart_required"
_UNITS = "/etc/systemd/system"
_DROP_IN = "virtfleet.conf"
_PRIVATE = 0o600  # a file that was not there: nobody's to read until somebody says so
_RELOAD = Run(("systemctl", "daemon-reload"))
_SLACK = 2.0  # seconds between clocks that are read one after the other
FILES, SOCKETS, RESTARTS = 1, 2, 3  # the order of the steps


@dataclass(frozen=True)
class Conf:
    """A configuration file: its text, its permission bits, and how long ago it was written."""

    content: str
    mode: int
    age: float


@dataclass(frozen=True)
class Observed:
    """What is on the host; ``now`` is CLOCK_MONOTONIC in seconds."""

    installed: bool
    files: Mapping[str, Conf] = field(default_factory=dict)
    drop_ins: Mapping[str, str | None] = field(default_factory=dict)
    sockets: Mapping[str, Socket | None] = field(default_factory=dict)
    services: Mapping[str, Service] = field(default_factory=dict)
    confined: bool = True
    group_known: bool = True
    now: float = 0.0


def _drop_in(unit: str) -> str:
    return f"{_UNITS}/{unit}.d/{_DROP_IN}"


def _read_conf(root: str, name: str) -> Conf | None:
    path = f"{FOLDER}/{name}"
    content = text(root, path)
    if content is None:
        return None
    found = os.stat(at(root, path))
    return Conf(content, stat.S_IMODE(found.st_mode), time.time() - found.st_mtime)


def _is_group(name: str) -> bool:
    with suppress(KeyError):
        return bool(grp.getgrnam(name))
    return False


def read(desired: Desired, root: str, run: Runner) -> Observed:
    """Read what is set on the host; on one without libvirt there is nothing."""
    units = {unit: path for name in desired.daemons for unit, path in socket_files(name).items()}
    drop_ins = own_files.read(root, [_drop_in(unit) for unit in units])
    if not exists(root, FOLDER):
        return Observed(installed=False, drop_ins=drop_ins)
    confs = {
        name: _read_conf(root, name) for name in names(root, FOLDER) or () if FILE.fullmatch(name)
    }
    live = root == "/"
    return Observed(
        installed=True,
        files={name: conf for name, conf in confs.items() if conf is not None},
        drop_ins=drop_ins,
        sockets={unit: read_socket(root, path) for unit, path in units.items()},
        services=read_services([*desired.daemons, *LOG_DAEMONS], run) if live else {},
        confined=desired.confinement is None or confines(root, desired.confinement, desired.daemon),
        group_known=desired.socket is None or not live or _is_group(desired.socket.group),
        now=time.monotonic(),
    )


def _owner(name: str, daemons: Sequence[str]) -> str:
    """Return the daemon that reads a file: the one of its name, else the one that runs QEMU."""
    stem = name.partition(".")[0]
    return stem if stem in {*daemons, *LOG_DAEMONS} else daemons[0]


def _plan_file(name: str, desired: Desired, observed: Observed, host: str) -> list[Step]:
    """Return the step that makes one file say what was stated."""
    conf = observed.files.get(name)
    before = conf.content if conf else ""
    wanted, defaults = desired.files.get(name, {}), desired.defaults.get(name, {})
    after = compose(before, wanted, defaults)
    if after == before:
        return []
    old, new = {**defaults, **parse(before)}, {**defaults, **parse(after)}
    keys = sorted({*wanted, *ours(before)})
    action = Action(
        step=FILES,
        object=f"file{FOLDER}/{name}",
        action="update" if before and after else "create" if after else "delete",
        host=host,
        when=LIVE,
        reason="its settings differ" if wanted else "nothing is stated for it any more",
        changes=tuple(Change(k, old.get(k), new.get(k)) for k in keys if old.get(k) != new.get(k)),
    )
    mode = conf.mode if conf else _PRIVATE
    return [Step(action, (Write(f"{FOLDER}/{name}", after or None, mode),))]


def _plan_drop_ins(desired: Desired, observed: Observed, host: str) -> list[Step]:
    lines = []
    if desired.socket is not None:
        mode, group = f"{desired.socket.mode:04o}", desired.socket.group
        lines = ["[Socket]", f"SocketMode={mode}", f"SocketGroup={group}"]
    wanted = dict.fromkeys(observed.drop_ins, own_files.content(lines))
    steps = own_files.plan(observed.drop_ins, wanted, host)
    if steps:
        steps[-1] = replace(steps[-1], operations=(*steps[-1].operations, _RELOAD))
    return steps


def _plan_sockets(
    desired: Desired, observed: Observed, written: Sequence[Step], host: str
) -> Outcome:
    """Return a step for each daemon whose sockets are to be opened anew.

    systemd opens no socket of a service that runs, so the service stops for that moment.
    """
    touched = {step.action.object for step in written}
    steps, pending = [], []
    for daemon in desired.daemons:
        service = observed.services.get(daemon, Service())
        units = [
            unit
            for unit in socket_files(daemon)
            if _is_to_reopen(unit, desired, observed) or f"file{_drop_in(unit)}" in touched
        ]
        units = [unit for unit in units if observed.sockets.get(unit) is not None]
        if units and service.spares_guests:
            steps.append(_reopen(daemon, units, service, desired, observed, host))
        elif units:
            pending.append(_unsafe(f"{daemon}.service", host))
    return Outcome(tuple(steps), tuple(pending))


def _is_to_reopen(unit: str, desired: Desired, observed: Observed) -> bool:
    live = observed.sockets.get(unit)
    return live is not None and desired.socket is not None and live != desired.socket


def _reopen(
    daemon: str,
    units: list[str],
    service: Service,
    desired: Desired,
    observed: Observed,
    host: str,
) -> Step:
    name = f"{daemon}.service"
    stop, start = (
        (Run(("systemctl", verb, name)),) if service.active else () for verb in ("stop", "start")
    )
    action = Action(
        step=SOCKETS,
        object=f"socket/{daemon}.socket",
        action="restart",
        host=host,
        when=LIVE,
        reason="who may connect differs",
        changes=_socket_changes(desired, observed, units),
    )
    return Step(action, (_RELOAD, *stop, Run(("systemctl", "restart", *units)), *start))


def _socket_changes(desired: Desired, observed: Observed, units: list[str]) -> tuple[Change, ...]:
    return tuple(
        Change(unit, str(observed.sockets[unit]), str(desired.socket))
        for unit in units
        if _is_to_reopen(unit, desired, observed)
    )


def _is_stale(name: str, observed: Observed, daemon: str) -> bool:
    """Return whether a file of ours is newer than the daemon: a run ended before the restart.

    One that executes itself anew keeps the time of its start, so that it cannot be told there.
    """
    if daemon in LOG_DAEMONS:
        return False
    conf, service = observed.files.get(name), observed.services.get(daemon, Service())
    if conf is None or not ours(conf.content) or conf.age < 0:
        return False
    return conf.age < observed.now - service.since - _SLACK


def _plan_restarts(
    desired: Desired, observed: Observed, written: Sequence[str], opened: Sequence[str], host: str
) -> Outcome:
    """Return how each daemon comes to read what was written."""
    reasons: dict[str, str] = {}
    for name in sorted({*observed.files, *written}):
        daemon = _owner(name, desired.daemons)
        if name in written:
            reasons[daemon] = "its configuration changes"
        elif _is_stale(name, observed, daemon):
            reasons.setdefault(daemon, "it runs since before its configuration changed")
    steps, pending = [], []
    for daemon, reason in reasons.items():
        service = observed.services.get(daemon, Service())
        unit = f"{daemon}.service"
        if not service.active or daemon in opened:
            continue
        if daemon not in LOG_DAEMONS and not service.spares_guests:
            pending.append(_unsafe(unit, host))
            continue
        verb = "reload" if daemon in LOG_DAEMONS else "restart"
        action = Action(RESTARTS, f"service/{unit}", "restart", host, NOW, reason)
        steps.append(Step(action, (Run(("systemctl", verb, unit)),)))
    return Outcome(tuple(steps), tuple(pending))


def _unsafe(unit: str, host: str) -> Pending:
    return Pending(
        object=f"service/{unit}",
        kind=RESTART,
        host=host,
        reason="a restart would end its guests: its unit does not say KillMode=process",
        remedy="restart it when no guest runs, or take the drop-in away that says so",
    )


def _unconfined(desired: Desired, host: str) -> Blocked:
    remedies = {
        APPARMOR: "install apparmor, boot with apparmor=1 and load the daemon's profile",
        SELINUX: "set SELinux to enforcing",
    }
    return Blocked(
        object=f"confinement/{desired.confinement}",
        host=host,
        reason=f"{desired.confinement} does not confine {desired.daemon}",
        remedy=remedies[str(desired.confinement)],
    )


def _unknown_group(name: str) -> InputError:
    return InputError([Problem("socket_group", "a group of this host", shown(name))])


def plan(desired: Desired, observed: Observed, host: str) -> Outcome:
    """Return what is to be done; InputError where the group that shall connect is not there."""
    blocked = []
    if observed.installed and desired.socket is not None and not observed.group_known:
        raise _unknown_group(desired.socket.group)
    if observed.installed and not observed.confined:
        blocked.append(_unconfined(desired, host))
        # With the driver stated but not at work no guest would start.
        kept = {k: v for k, v in desired.files[QEMU].items() if k != "security_driver"}
        desired = replace(desired, files={**desired.files, QEMU: kept})
    files = sorted({*desired.files, *observed.files})
    texts = [step for name in files for step in _plan_file(name, desired, observed, host)]
    drop_ins = _plan_drop_ins(desired, observed, host)
    sockets = _plan_sockets(desired, observed, drop_ins, host)
    restarts = _plan_restarts(
        desired,
        observed,
        [step.action.object.rpartition("/")[2] for step in texts],
        [step.action.name.partition(".")[0] for step in sockets.steps],
        host,
    )
    steps = (*texts, *drop_ins, *sockets.steps, *restarts.steps)
    pending = dict.fromkeys((*sockets.pending, *restarts.pending))  # each once
    return Outcome(steps, tuple(pending), tuple(blocked))
