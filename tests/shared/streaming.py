# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Streams for libvirt's test driver, which has none: a volume's content is a file of the test.

Those of a real libvirt are used in the lab.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from ansible.module_utils.resource.content import sections

if TYPE_CHECKING:
    from pathlib import Path


class Stream:
    """Takes or gives what is in a file, and says what was done with it."""

    def __init__(self, told: list[str]) -> None:
        self.told = told
        self.file: Any = None
        self.left: list[tuple[bool, int]] = []

    def send(self, data: bytes) -> int:
        """Take a part of what is offered, as a socket may."""
        part = data[: max(1, len(data) * 3 // 4)]
        self.told.append(f"data {len(part)}")
        return int(self.file.write(part))

    def sendHole(self, length: int) -> int:  # noqa: N802 (libvirt's own name)
        """Take a hole."""
        self.told.append(f"hole {length}")
        self.file.truncate(self.file.seek(length, os.SEEK_CUR))
        return 0

    def recvFlags(self, wanted: int, _flags: int) -> bytes | int:  # noqa: N802
        """Give data, -3 at a hole, nothing at the end."""
        if not self.left:
            return b""
        data, length = self.left[0]
        if not data:
            return -3
        part: bytes = self.file.read(min(wanted, length))
        self.left[0] = (True, length - len(part))
        if length == len(part):
            self.left.pop(0)
        return part

    def recvHole(self) -> int:  # noqa: N802
        """Give the length of the hole."""
        _, length = self.left.pop(0)
        self.file.seek(length, os.SEEK_CUR)
        return length

    def finish(self) -> None:
        """End it."""
        self.told.append("finish")
        self.file.close()

    def abort(self) -> None:
        """Break it off."""
        self.told.append("abort")
        if self.file:
            self.file.close()

    def __del__(self) -> None:
        """Let go of the file, as of a run that was killed."""
        if self.file:
            self.file.close()


class Content:
    """What is in the volumes of the test driver, by their names, once it is in its place."""

    def __init__(self, monkeypatch: Any, libvirt: Any, folder: Path) -> None:
        self.folder = folder
        self.told: list[str] = []
        content = self

        def upload(
            volume: Any, stream: Stream, _offset: int, _length: int, _flags: int = 0
        ) -> None:
            stream.file = content.path(volume.name()).open("wb")

        def download(
            volume: Any, stream: Stream, _offset: int, _length: int, _flags: int = 0
        ) -> None:
            path = content.path(volume.name())
            stream.file = path.open("rb")
            stream.left = list(sections(stream.file, path.stat().st_size))
            os.lseek(stream.file.fileno(), 0, os.SEEK_SET)

        def new_stream(_connection: Any, _flags: int = 0) -> Stream:
            return Stream(content.told)

        monkeypatch.setattr(libvirt.virConnect, "newStream", new_stream)
        monkeypatch.setattr(libvirt.virStorageVol, "upload", upload)
        monkeypatch.setattr(libvirt.virStorageVol, "download", download)

    def path(self, name: str) -> Path:
        """Return the file that stands for a volume's content."""
        return self.folder / f"content of {name}"
