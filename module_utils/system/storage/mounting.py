# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Mounts by fstab(5) and systemd: what mounts now is what mounts at boot, and it ends in time.

mount(8) waits minutes for an NFS server that is away. A mount unit made from fstab is ended by
systemd after x-systemd.mount-timeout (systemd.mount(5)), so that a run never hangs on one.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Mapping, Sequence

from ...converge.action import LIVE, NEXT_BOOT, Change
from ...host import source
from ..operation import Operation, Run, Step, Write
from ..outcome import Outcome, join
from .disks import device_of
from .facet import HIDDEN, MOUNT, Context, System
from .mount_wish import OWN, Wish
from .mounted import Mount, fstab, mounts

if TYPE_CHECKING:
    from ...converge.action import Action, Pending

FSTAB = "/etc/fstab"
_PRIVATE = 0o600
_RELOAD = Run(("systemctl", "daemon-reload"))
_LINKS = {"UUID": "uuid", "LABEL": "label", "PARTUUID": "partuuid", "PARTLABEL": "partlabel"}


@dataclass(frozen=True)
class Found:
    """fstab's text and mode, what is mounted by path, credentials by file, devices by source."""

    fstab: str = ""
    mode: int = 0o644
    mounted: Mapping[str, Mount] = field(default_factory=dict)
    credentials: Mapping[str, str] = field(default_factory=dict, repr=False)
    devices: Mapping[str, str | None] = field(default_factory=dict)

    def line(self, path: str) -> Mount | None:
        """Return fstab's line of a path."""
        return next((mount for mount in fstab(self.fstab) if mount.path == path), None)


def device_path(text: str) -> str:
    """Return the path of the device that a source names: UUID=x is a link below /dev/disk."""
    key, mark, value = text.partition("=")
    return f"/dev/disk/by-{_LINKS[key]}/{value}" if mark and key in _LINKS else text


def observe(system: System, wishes: Sequence[Wish]) -> Found:
    """Return what is mounted and what fstab says; nothing else is read without a wish."""
    text = source.text(system.root, FSTAB) or ""
    if not wishes:
        return Found(text)
    mode = 0o644
    if source.exists(system.root, FSTAB):
        mode = stat.S_IMODE(os.stat(source.at(system.root, FSTAB)).st_mode)
    found = {mount.path: mount for mount in mounts(system.root)}
    mine = {wish.path: found[wish.path] for wish in wishes if wish.path in found}
    files = {
        wish.credentials_file: source.text(system.root, wish.credentials_file) for wish in wishes
    }
    names = {device_path(wish.source) for wish in wishes if wish.server is None}
    names |= {mount.source for mount in mine.values() if mount.source.startswith("/dev/")}
    return Found(
        text,
        mode,
        mine,
        {path: content for path, content in files.items() if content is not None},
        {name: device_of(system.root, name) for name in names},
    )


def _same(wish: Wish, mount: Mount, found: Found) -> bool:
    """Say whether what is mounted is of the declared source."""
    if wish.server is not None:
        return wish.same_source(mount)
    device = found.devices.get(device_path(wish.source))
    return device is not None and device == found.devices.get(mount.source)


def with_line(text: str, path: str, line: str | None) -> str:
    """Return fstab's text with this line for ``path``, in the place of the old one; None: none."""
    lines = text.splitlines()
    places = [mount.line for mount in fstab(text) if mount.path == path]
    if line is not None and places:
        lines[places[0]] = line
    elif line is not None:
        lines.append(line)
    gone = places[1:] if line is not None else places
    return "".join(f"{entry}\n" for number, entry in enumerate(lines) if number not in gone)


def _line_changes(wish: Wish, old: Mount | None) -> list[Change]:
    new = {"source": wish.source, "type": wish.fstype, "options": wish.fstab_options}
    if old is None:
        return [Change(key, None, value) for key, value in new.items()]
    return [
        Change(key, getattr(old, key), value)
        for key, value in new.items()
        if getattr(old, key) != value
    ]


def _credentials(wish: Wish, found: Found, context: Context) -> list[Step]:
    if wish.credentials is None:
        return []
    old = found.credentials.get(wish.credentials_file)
    if old == wish.credentials:
        return []
    action = context.action(
        MOUNT,
        f"file{wish.credentials_file}",
        "create" if old is None else "update",
        "it is missing" if old is None else "its content differs",
        [Change("content", None if old is None else HIDDEN, f"{HIDDEN}, differs")],
        when=LIVE if old is None else NEXT_BOOT,
    )
    return [Step(action, (Write(wish.credentials_file, wish.credentials, _PRIVATE),))]


def _foreign(wish: Wish, found: Found, context: Context) -> Outcome | None:
    """Return the refusal where something else has the path."""
    mounted, line = found.mounted.get(wish.path), found.line(wish.path)
    if mounted is not None and not _same(wish, mounted, found):
        reason = f"{mounted.source} is mounted there"
    elif line is not None and OWN not in line.options.split(",") and not wish.same_source(line):
        reason = f"/etc/fstab mounts {line.source} there, and virtfleet did not write that"
    else:
        return None
    remedy = f"unmount it and remove its line from {FSTAB}, or declare another path"
    return Outcome(blocked=(context.blocked(wish.name, reason, remedy),))


def _mount(wish: Wish, found: Found, text: str, context: Context) -> tuple[Outcome, str]:
    """Return what mounts one, and fstab's text afterwards."""
    refused = _foreign(wish, found, context)
    if refused:
        return refused, text
    line, mounted = found.line(wish.path), wish.path in found.mounted
    steps = _credentials(wish, found, context)
    changes = _line_changes(wish, line)
    operations: list[Operation] = []
    if changes:
        text = with_line(text, wish.path, wish.line)
        operations += [Write(FSTAB, text, found.mode), _RELOAD]
    if not mounted:
        operations.append(Run(("systemctl", "start", wish.unit)))
        changes.append(Change("mounted", False, True))
    if not operations:
        return Outcome(tuple(steps)), text
    verb = "create" if line is None else "attach" if len(changes) == 1 and not mounted else "update"
    reasons = {"create": "it is not in fstab", "attach": "it is not mounted"}
    action: Action = context.action(
        MOUNT,
        wish.name,
        verb,
        reasons.get(verb, "its line in fstab differs"),
        changes,
        when=NEXT_BOOT if mounted else LIVE,
    )
    steps.append(Step(action, tuple(operations)))
    pending: tuple[Pending, ...] = ()
    if mounted and line is not None:
        remedy = f"when nothing uses it: systemctl restart {wish.unit}"
        reason = "what is mounted keeps the options that it was mounted with"
        pending = (context.pending(wish.name, "remount_required", reason, remedy),)
    return Outcome(tuple(steps), pending), text


def _unmount(wish: Wish, found: Found, text: str, context: Context) -> tuple[Outcome, str]:
    """Return what unmounts one of ours and takes its line and its credentials away."""
    line = found.line(wish.path)
    ours = line is not None and OWN in line.options.split(",")
    operations: list[Operation] = []
    changes = []
    if ours and wish.path in found.mounted:
        operations.append(Run(("systemctl", "stop", wish.unit)))
        changes.append(Change("mounted", True, False))
    if line is not None and ours:
        text = with_line(text, wish.path, None)
        operations += [Write(FSTAB, text, found.mode), _RELOAD]
        changes += [Change("source", line.source, None), Change("options", line.options, None)]
    if wish.credentials_file in found.credentials:
        operations.append(Write(wish.credentials_file, None))
        changes.append(Change("credentials", HIDDEN, None))
    if not operations:
        return Outcome(), text
    action = context.action(MOUNT, wish.name, "delete", "it shall be absent", changes)
    return Outcome((Step(action, tuple(operations)),)), text


def _undeclared(wishes: Sequence[Wish], found: Found, context: Context) -> Outcome:
    """Return what tells of lines of ours that nothing declares any more."""
    declared = {wish.path for wish in wishes}
    pending = [
        context.pending(
            f"mount{mount.path}",
            "not_declared",
            f"virtfleet mounts {mount.source} there, and it is not declared any more",
            "declare it with state absent to have it unmounted",
        )
        for mount in fstab(found.fstab)
        if OWN in mount.options.split(",") and mount.path not in declared
    ]
    return Outcome(pending=tuple(pending))


def plan(wishes: Sequence[Wish], found: Found, context: Context) -> Outcome:
    """Return what is to be done to all mounts; those in others are unmounted before them."""
    text = found.fstab
    outcomes = []
    gone = [wish for wish in wishes if context.absent or wish.absent]
    for wish in reversed(gone):
        outcome, text = _unmount(wish, found, text, context)
        outcomes.append(outcome)
    for wish in wishes:
        if wish not in gone:
            outcome, text = _mount(wish, found, text, context)
            outcomes.append(outcome)
    return join([*outcomes, _undeclared(wishes, found, context)])
