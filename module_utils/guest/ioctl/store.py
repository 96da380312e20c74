# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A guest's folder, changed so that an end at any moment leaves either the old or the new.

A folder is made under a hidden name and then renamed, and renamed to a hidden one before it is
removed. What is hidden belongs to no guest: the next run sweeps it. All of this runs under the
host's lock, so hidden names need not be unique.

A guest gets another name in three steps. The definition that it has under it is laid ready beside
the folders, then the folder gets the name, and then the definition is put in it. What lies ready
counts from the second on.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Callable

from ...kvm.layout import OPEN_FOLDER, make_folder, valid_name

if TYPE_CHECKING:
    from ...kvm.layout import GuestPaths, Layout

_NEW = ".new-"
_GONE = ".gone-"
_WITH_FILES = ".with-files"  # in the folder of a guest whose images go with it
_DEFINITION = "definition.json"
_READY = ".ready-"  # no folder but a definition
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READABLE = 0o644
_OWN_FOLDER = 0o700
BOOTED = "booted.json"  # beside the definition: what the running process was started with


def booted_path(paths: GuestPaths) -> str:
    """Return where the definition of the running process is kept while another one waits."""
    return os.path.join(paths.folder, BOOTED)


def _sync_folder(path: str) -> None:
    """Make sure that the names in a folder are on the disk."""
    descriptor = os.open(path, _FOLDER)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(path: str, content: bytes) -> None:
    """Write a file that everybody may read, on the disk when this returns."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(path, flags, _READABLE), "wb") as file:
        os.fchmod(file.fileno(), _READABLE)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace(path: str, content: bytes) -> None:
    """Put new content in place of a file, whole or not at all."""
    folder, name = os.path.split(path)
    unfinished = os.path.join(folder, f".{name}.new")
    try:
        _write(unfinished, content)
        os.rename(unfinished, path)
    except OSError:
        with suppress(FileNotFoundError):
            os.unlink(unfinished)
        raise
    _sync_folder(folder)


def _remove_tree(path: str) -> None:
    """Remove a folder and all in it, however deep; links are removed and not followed.

    What a guest's user made may be nested deeper than a path can be long: inner folders are moved
    up to the top, one after the other, instead of being descended into.
    """
    top = os.open(path, _FOLDER)
    try:
        moved = 0
        while True:
            entries = os.listdir(top)
            if not entries:
                break
            for entry in entries:
                moved = _take_apart(top, entry, moved)
    finally:
        os.close(top)
    os.rmdir(path)


def _take_apart(top: int, entry: str, moved: int) -> int:
    """Remove an entry of the folder ``top``, and return how many folders were moved up so far."""
    with suppress(IsADirectoryError):
        os.unlink(entry, dir_fd=top)
        return moved
    inner = os.open(entry, _FOLDER, dir_fd=top)
    try:
        for child in os.listdir(inner):
            try:
                os.unlink(child, dir_fd=inner)
            except IsADirectoryError:  # noqa: PERF203 - which of them are folders is seen here
                moved += 1
                os.rename(child, f".{moved}", src_dir_fd=inner, dst_dir_fd=top)
    finally:
        os.close(inner)
    os.rmdir(entry, dir_fd=top)
    return moved


def create(
    paths: GuestPaths, content: bytes, uid: int, fill: Callable[[], None] = lambda: None
) -> None:
    """Make the guest's folder: its definition, and a folder that its own user writes to.

    ``fill`` makes what the definition says was made for it, before the folder gets its name.
    """
    parent = os.path.dirname(paths.folder)
    make_folder(parent)
    unfinished = os.path.join(parent, _NEW + paths.name)
    if os.path.lexists(unfinished):
        _undo(unfinished)
    try:
        _fill(unfinished, paths, content, uid)
        fill()
        os.rename(unfinished, paths.folder)
    except Exception:
        _undo(unfinished)
        raise
    _sync_folder(parent)


def _undo(folder: str) -> None:
    """Remove a hidden folder, and first the files that were made for its guest if they shall go.

    Of a guest that never was they do, of one that is removed if that was asked for.
    """
    new = os.path.basename(folder).startswith(_NEW)
    if new or os.path.lexists(os.path.join(folder, _WITH_FILES)):
        with suppress(OSError, ValueError, KeyError):
            with open(os.path.join(folder, _DEFINITION), "rb") as file:
                files = json.loads(file.read().decode())["files"]
            for path in files:
                with suppress(FileNotFoundError):
                    os.unlink(path)
    _remove_tree(folder)


def _fill(unfinished: str, paths: GuestPaths, content: bytes, uid: int) -> None:
    os.mkdir(unfinished)
    os.chmod(unfinished, OPEN_FOLDER)
    state = os.path.join(unfinished, os.path.basename(paths.state))
    os.mkdir(state, _OWN_FOLDER)
    os.chown(state, uid, uid)
    _write(os.path.join(unfinished, os.path.basename(paths.definition)), content)
    _sync_folder(unfinished)


def remove(paths: GuestPaths, with_files: bool = False) -> None:
    """Remove the guest's folder and all in it, and what is left of it in /run.

    ``with_files`` takes the images along that were made for it.
    """
    clean_run(paths)
    parent = os.path.dirname(paths.folder)
    hidden = os.path.join(parent, _GONE + paths.name)
    if os.path.lexists(hidden):
        _undo(hidden)
    if with_files:
        _write(os.path.join(paths.folder, _WITH_FILES), b"")
    os.rename(paths.folder, hidden)
    _sync_folder(parent)
    _undo(hidden)


def ready_path(paths: GuestPaths) -> str:
    """Return where the definition lies that a guest has under the name that it gets."""
    return os.path.join(os.path.dirname(paths.folder), _READY + paths.name)


def lay_ready(paths: GuestPaths, content: bytes) -> None:
    """Lay the definition ready that a guest has under its new name, of which ``paths`` are."""
    path = ready_path(paths)
    _write(path, content)
    _sync_folder(os.path.dirname(path))


def move(former: GuestPaths, paths: GuestPaths) -> None:
    """Give the folder of a guest its new name, and remove what is left in /run of the former."""
    os.rename(former.folder, paths.folder)
    _sync_folder(os.path.dirname(paths.folder))
    clean_run(former)


def put_in(paths: GuestPaths) -> None:
    """Put the definition in place that was laid ready."""
    path = ready_path(paths)
    os.rename(path, paths.definition)
    _sync_folder(paths.folder)
    _sync_folder(os.path.dirname(path))


def laid_ready(layout: Layout) -> list[str]:
    """Return the names that an interrupted run was about to give to guests."""
    names = [entry[len(_READY) :] for entry in _entries(layout) if entry.startswith(_READY)]
    return [name for name in names if valid_name(name)]


def clean_run(paths: GuestPaths) -> None:
    """Remove what a process that is gone left in /run: its pid file and its control socket."""
    for path in (paths.pid, paths.control):
        with suppress(FileNotFoundError):
            os.unlink(path)
    # systemd takes its RuntimeDirectory away itself; a folder with other things in it stays.
    with suppress(OSError):
        os.rmdir(paths.run)


def _entries(layout: Layout) -> list[str]:
    try:
        return sorted(os.listdir(layout.guests))
    except FileNotFoundError:
        return []


def leftovers(layout: Layout) -> list[str]:
    """Return the hidden folders that an interrupted run left."""
    hidden = [entry for entry in _entries(layout) if entry.startswith((_NEW, _GONE))]
    return [os.path.join(layout.guests, entry) for entry in hidden]


def sweep(layout: Layout) -> None:
    """Remove what an interrupted run left; what cannot be removed stands in nobody's way."""
    for path in leftovers(layout):
        with suppress(OSError):
            _undo(path)
