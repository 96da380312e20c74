# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What guests are there and how they are: a few small files each, no question to a running guest.

The definition and the pid file are root's. The record of the last exit was written by the guest's
own user: nothing is believed of it but that it is a small file with plain values.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Collection

from ...converge.text import plain
from ...kvm.layout import read_untrusted, tail_untrusted, valid_name
from ...kvm.process import Identity, alive, boot_id
from ..engine import FAILED, RUNNING, STOPPED, Observed
from . import seeding
from .definition import LIMIT, DefinitionError, boot_keys, decode
from .dialect import ENGINE
from .store import booted_path, ready_path

if TYPE_CHECKING:
    from ...kvm.layout import GuestPaths, Layout
    from ...seed.store import Seeds

_NOTE_LIMIT = 64 * 1024  # bytes of a pid file or of the record of an exit
_TEXT_LIMIT = 300  # characters of a reason
_UNRECORDED = "ended without a word (killed, or out of memory)"


@dataclass(frozen=True)
class Process:
    """What the pid file says, and when it was written (ns): the moment the guest was started."""

    who: Identity
    helper: str | None
    definition: str | None
    written: int


def _read(path: str, limit: int) -> tuple[bytes, int]:
    """Return a file of root's and its modification time in ns; OSError if it is no plain file."""
    content = read_untrusted(path, limit)
    return content, os.lstat(path).st_mtime_ns


def read_process(paths: GuestPaths) -> Process | None:
    """Return what the pid file says, None where there is none that makes sense."""
    try:
        content, written = _read(paths.pid, _NOTE_LIMIT)
        note = json.loads(content.decode())
    except (OSError, ValueError):
        return None
    who = Identity.from_dict(note)
    if who is None:
        return None
    words = [note.get(key) for key in ("helper", "definition")]
    helper, definition = (word if isinstance(word, str) else None for word in words)
    return Process(who, helper, definition, written)


def running_process(paths: GuestPaths) -> Process | None:
    """Return the guest's process if it runs."""
    process = read_process(paths)
    return process if process is not None and alive(process.who) else None


def uptime(who: Identity) -> float:
    """Return for how many seconds a process has run."""
    with open("/proc/uptime", encoding="ascii") as file:
        now = float(file.read().split()[0])
    return max(0.0, round(now - who.start / os.sysconf("SC_CLK_TCK"), 2))


def _time(value: object) -> float | None:
    """Return a moment that makes sense: the guest's user may have written NaN or 1e308."""
    return float(value) if isinstance(value, (int, float)) and 0 <= value < 1e11 else None


def _text(value: object) -> str | None:
    return plain(value[:_TEXT_LIMIT]) if isinstance(value, str) else None


def read_exit(paths: GuestPaths) -> tuple[dict[str, Any], int] | None:
    """Return the record of the last exit and when it was written (ns), None where there is none."""
    try:
        content, written = _read(paths.last_exit, _NOTE_LIMIT)
        note = json.loads(content.decode())
    except (OSError, ValueError, RecursionError):
        return None
    status = note.get("status") if isinstance(note, dict) else None
    if type(status) is not int or not 0 <= status <= 255:
        return None
    record = {
        "status": status,
        "reason": _text(note.get("reason")) or "unknown",
        "detail": _text(note.get("detail")),
        "started": _time(note.get("started")),
        "ended": _time(note.get("ended")),
    }
    return record, written


def _ended(paths: GuestPaths, process: Process | None) -> tuple[str, dict[str, Any] | None]:
    """Return the state and the last exit of a guest that does not run."""
    record = read_exit(paths)
    if record is not None and (process is None or record[1] >= process.written):
        return (STOPPED if record[0]["status"] == 0 else FAILED), record[0]
    if process is None or process.who.boot_id != boot_id():
        return STOPPED, None  # never started, or it went down with the host
    return FAILED, {
        "status": None,
        "reason": _UNRECORDED,
        "detail": None,
        "started": process.written / 1e9,
        "ended": None,
    }


def _booted(paths: GuestPaths, definition: dict[str, Any], process: Process) -> dict[str, Any]:
    """Return what the running process was started with.

    That is the definition, unless another was put in its place since: then the earlier one was
    kept, together with the process that it belongs to. Where it was not (somebody else changed the
    definition), nothing is known of it: the empty mapping.
    """
    with suppress(OSError, ValueError, TypeError, AttributeError):
        content, _ = _read(booted_path(paths), LIMIT)
        kept = json.loads(content.decode())
        if Identity.from_dict(kept["process"]) == process.who:
            return boot_keys(decode(json.dumps(kept["definition"]).encode(), paths.name))
    if process.definition not in (None, definition["digest"]):
        return {}
    return boot_keys(definition)


def read_definition(paths: GuestPaths) -> dict[str, Any]:
    """Return the guest's definition; DefinitionError or OSError if there is none to be used.

    Where a run ended in between, a guest that got another name has the one that was laid ready.
    """
    content, _ = _read(paths.definition, LIMIT)
    try:
        return decode(content, paths.name)
    except DefinitionError:
        with suppress(OSError, DefinitionError):
            return decode(_read(ready_path(paths), LIMIT)[0], paths.name)
        raise


def renamed_from(paths: GuestPaths) -> str | None:
    """Return the name that a guest had before a run gave its folder another one and ended.

    None where the definition in the folder is its own.
    """
    with suppress(OSError, ValueError, KeyError, TypeError):
        there = json.loads(_read(paths.definition, LIMIT)[0].decode())
        ready = decode(_read(ready_path(paths), LIMIT)[0], paths.name)
        if there["uuid"] == ready["uuid"] and there["name"] != paths.name:
            return there["name"] if valid_name(there["name"]) else None
    return None


def read_console(paths: GuestPaths, limit: int) -> bytes:
    """Return the last ``limit`` bytes of the console at most, from before its rotation too."""
    content = b""
    for path in (paths.log, f"{paths.log}.1"):
        with suppress(OSError):
            content = tail_untrusted(path, limit - len(content)) + content
        if len(content) >= limit:
            break
    return content


def _foreign(paths: GuestPaths, why: str) -> Observed:
    return Observed(
        name=paths.name,
        engine=ENGINE,
        problem=f"{paths.folder} is not a guest of ours: {why}",
        remedy="look at it and move it away",
    )


def _guest(paths: GuestPaths, autostarted: Collection[str] | None, seeds: Seeds | None) -> Observed:
    """Return one guest that has a folder."""
    try:
        definition = read_definition(paths)
    except DefinitionError as error:
        return _foreign(paths, f"definition.json cannot be used, {error}")
    except OSError as error:
        return _foreign(paths, f"definition.json: {error.strerror or error}")
    spec = definition["spec"]
    if autostarted is not None and "autostart" in spec:
        spec = {**spec, "autostart": paths.name in autostarted}
    if seeds is not None and spec.get(seeding.FILE):
        spec = {**spec, seeding.KEY: seeds.documents(spec[seeding.FILE])}
    process = read_process(paths)
    running = process is not None and alive(process.who)
    state, record = (RUNNING, None) if running else _ended(paths, process)
    return Observed(
        name=paths.name,
        engine=ENGINE,
        state=state,
        spec=spec,
        digest=definition["digest"],
        fleet=definition["fleet"],
        uuid=definition["uuid"],
        machine=boot_keys(definition),
        booted=_booted(paths, definition, process) if process and running else None,
        pid=process.who.pid if process and running else None,
        uptime=uptime(process.who) if process and running else None,
        helper=process.helper if process and running else None,
        exit=record,
        files=tuple(definition.get("files", ())),
    )


def _orphans(layout: Layout, known: Collection[str]) -> dict[str, Observed]:
    """Return the processes that run although their definition is gone."""
    try:
        entries = os.listdir(layout.run)
    except OSError:
        return {}
    found: dict[str, Observed] = {}
    for name in entries:
        if name in known or not valid_name(name):
            continue
        process = running_process(layout.guest(name))
        if process is not None:
            found[name] = Observed(
                name=name,
                engine=ENGINE,
                state=RUNNING,
                pid=process.who.pid,
                uptime=uptime(process.who),
                helper=process.helper,
            )
    return found


def observe(
    layout: Layout,
    autostarted: Collection[str] | None = None,
    seeds: Seeds | None = None,
    names: Collection[str] | None = None,
) -> dict[str, Observed]:
    """Return every guest of this host by name, or those of the ``names``.

    ``autostarted`` are those that the host starts at boot, None where nothing does that. The spec
    of a guest with a seed holds the documents that are kept in ``seeds``.
    """
    found = {
        name: _guest(layout.guest(name), autostarted, seeds)
        for name in layout.names()
        if names is None or name in names
    }
    if names is not None:
        return found
    found.update(_orphans(layout, found))
    return found
