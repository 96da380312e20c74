# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What pure functions answered, kept from run to run by the digest of what they were asked.

An answer holds for one code and one question, word for word: nothing that it could depend on is
left out of the question, so it is never out of date. What cannot be read counts as unknown, and
the file may be removed at any time.
"""

from __future__ import annotations

import json
import marshal
import os
import zipfile
from contextlib import suppress
from hashlib import sha256
from typing import Any, Collection

LIMIT = 4 << 20  # bytes of the file: what a host with 2,000 guests asks


def code(rooms: Collection[str]) -> str:
    """Return what tells the code in these packages beside ours, and files, from any other."""

    def ours(path: str) -> bool:
        return path.partition("/")[0].partition(".")[0] in rooms and path.endswith(".py")

    archive = getattr(globals().get("__loader__"), "archive", None)
    if archive is not None:  # a module on a host, run from Ansible's zip file
        start = len("/".join(__name__.split(".")[:-2])) + 1
        with zipfile.ZipFile(archive) as packed:
            files = [one for one in packed.infolist() if ours(one.filename[start:])]
        return repr(sorted((one.filename, one.file_size, one.CRC) for one in files))
    found = []
    place = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    for folder, _, names in os.walk(place):
        for path in (os.path.join(folder, name) for name in names):
            if ours(os.path.relpath(path, place)):
                state = os.stat(path)
                found.append((path, state.st_size, state.st_mtime_ns))
    return repr(sorted(found))


class Answers:
    """The answers in a file, none at all without one; those that are new are kept by `save`.

    ``rooms`` are the packages and files beside ours that they can depend on.
    """

    def __init__(self, path: str | None = None, rooms: Collection[str] = ()) -> None:
        self.path = path
        self._kept: dict[str, str] = {}
        self._used: dict[str, str] = {}
        self._new = False
        if path is not None:
            self._code = sha256(code(rooms).encode()).hexdigest()
            self._read(path)

    def _read(self, path: str) -> None:
        with suppress(OSError, ValueError), open(path, encoding="utf-8") as file:
            code_of_them, *lines = file.read().splitlines()
            if code_of_them == self._code:
                self._kept = dict(_pair(line) for line in lines)

    def find(self, *question: Any) -> Any:
        """Return the answer to a question of plain values, None where it is not known."""
        if self.path is None:
            return None
        key = _digest(question)
        text = self._kept.get(key)
        if text is None:
            return None
        try:
            answer = json.loads(text)
        except ValueError:  # a disk that lost some of the file
            return None
        self._used[key] = text
        return answer

    def keep(self, answer: Any, *question: Any) -> None:
        """Keep an answer, which is plain values and not None, and holds no secret."""
        if self.path is not None:
            key = _digest(question)
            self._kept[key] = self._used[key] = json.dumps(answer)
            self._new = True

    def save(self) -> None:
        """Write new answers down, for root alone; those that were not asked for go first."""
        if self.path is None or not self._new:
            return
        lines, size = [], 0
        rest = (item for item in self._kept.items() if item[0] not in self._used)
        for key, text in (*self._used.items(), *rest):
            size += len(key) + len(text) + 2
            if size > LIMIT:
                break
            lines.append(f"{key} {text}\n")
        whole = f"{self.path}.{os.getpid()}"
        # Nothing depends on it: a disk that is full is for others to report.
        with suppress(OSError):
            os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
            try:
                with open(whole, "w", encoding="utf-8", opener=_for_root) as file:
                    file.writelines([f"{self._code}\n", *lines])
                os.replace(whole, self.path)
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(whole)
        self._new = False


def _digest(question: Any) -> str:
    # The format 2 has one way alone to write a value: the later ones tell objects that are shared.
    return sha256(marshal.dumps(question, 2)).hexdigest()


def _pair(line: str) -> tuple[str, str]:
    key, _, text = line.partition(" ")
    return key, text


def _for_root(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
