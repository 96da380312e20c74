# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a host keeps seeds: for each guest a folder with an ISO and, beside it, its documents.

A seed is never changed: another one gets the next number, so that a guest that runs keeps the one
that it was started with. Nobody but root reads what lies here, and QEMU the ISO that it is given.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Collection

from ..converge.errors import VirtfleetError

if TYPE_CHECKING:
    from .documents import Documents

TOOLS = ("xorrisofs", "genisoimage", "mkisofs")  # of one command line, the best kept one first
INSTALL = "install xorriso, as the role kvm_host does"
_FOLDER = 0o711  # to be passed through by QEMU, and listed by nobody
_LABEL = "cidata"  # by which cloud-init finds it


class SeedError(VirtfleetError):
    """A seed that could not be made."""


def tool() -> str | None:
    """Return the program that makes ISOs here, None where there is none."""
    return next((found for found in map(shutil.which, TOOLS) if found), None)


class Seeds:
    """The seeds below one folder."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def holds(self, file: object, name: str | None = None) -> bool:
        """Return whether a file is a seed of ours, in the folder of a guest if one is named."""
        folder = self.folder if name is None else os.path.join(self.folder, name)
        return isinstance(file, str) and file.startswith(f"{folder}/")

    def documents(self, file: str) -> dict[str, Any] | None:
        """Return the documents of a seed, None where it is not whole."""
        try:
            with open(_beside(file), encoding="utf-8") as text:
                found = json.load(text)
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) and os.path.exists(file) else None

    def next(self, name: str) -> str:
        """Return the file of a guest's next seed."""
        numbers = [0]
        with suppress(FileNotFoundError):
            for entry in os.listdir(os.path.join(self.folder, name)):
                head = entry.partition(".")[0]
                if head.isdecimal():
                    numbers.append(int(head))
        return os.path.join(self.folder, name, f"{max(numbers) + 1}.iso")

    def make(self, file: str, seed: Documents) -> None:
        """Make a seed; the ISO last, so that one that is there is whole."""
        folder = os.path.dirname(file)
        for path in (self.folder, folder):
            os.makedirs(path, exist_ok=True)
            os.chmod(path, _FOLDER)
        import tempfile  # only where a seed is made

        from .documents import files

        with tempfile.TemporaryDirectory(prefix=".new-", dir=folder) as scratch:  # 0700
            inside = os.path.join(scratch, "files")
            os.mkdir(inside)
            for name, text in files(seed).items():
                _write(os.path.join(inside, name), text)
            made = os.path.join(scratch, "iso")
            _make(inside, made)
            os.chmod(made, 0o600)
            kept = os.path.join(scratch, "json")
            _write(kept, json.dumps(seed, ensure_ascii=False, sort_keys=True))
            os.replace(kept, _beside(file))
            os.replace(made, file)

    def guests(self) -> list[str]:
        """Return the names of the guests that have seeds here."""
        try:
            return sorted(os.listdir(self.folder))
        except FileNotFoundError:
            return []

    def unused(self, name: str, used: Collection[str]) -> list[str]:
        """Return what lies in a guest's folder besides the seeds that are used, or the folder."""
        folder = os.path.join(self.folder, name)
        own = [file for file in used if self.holds(file, name)]
        kept = {os.path.splitext(os.path.basename(file))[0] for file in own}
        try:
            entries = os.listdir(folder)
        except FileNotFoundError:
            return []
        found = [entry for entry in entries if entry.partition(".")[0] not in kept]
        return [os.path.join(folder, entry) for entry in found] + ([] if kept else [folder])

    def tidy(self, name: str, used: Collection[str]) -> None:
        """Remove a guest's seeds but those that are used."""
        folder = os.path.join(self.folder, name)
        for path in self.unused(name, used):
            with suppress(FileNotFoundError):
                if path == folder:
                    os.rmdir(path)
                elif os.path.isdir(path):
                    shutil.rmtree(path)
                else:
                    os.unlink(path)


def _beside(file: str) -> str:
    return f"{os.path.splitext(file)[0]}.json"


def _write(path: str, text: str) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(handle, "w", encoding="utf-8") as file:
        file.write(text)


def _make(folder: str, made: str) -> None:
    program = tool()
    if program is None:
        raise SeedError(f"expected one of {', '.join(TOOLS)}, found none", remedy=INSTALL)
    command = [program, "-quiet", "-volid", _LABEL, "-joliet", "-rock", "-output", made, folder]
    done = subprocess.run(
        command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode:
        said = done.stderr.strip() or f"{program} ended with {done.returncode}"
        raise SeedError(f"no seed could be made: {said}")
