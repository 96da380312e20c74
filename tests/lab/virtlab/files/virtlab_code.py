# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeps the byte code of what Ansible sends to a host of the lab, by the content of its source.

A module comes as an archive, whose every file Python compiles at every call: half of what its
process takes. Only root's are kept, in a folder of root's.
"""

from __future__ import annotations

import os
import zipimport

TYPE_CHECKING = False  # importing typing is what no start of Python should pay
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

FOLDER = "/var/cache/virtlab"


def _keep(compile_source: Callable[[str, bytes], Any]) -> Callable[[str, bytes], Any]:
    import _imp
    import marshal

    def compiled(path: str, source: bytes) -> Any:
        key = bytes(_imp.source_hash(0x76697274, source)).hex()
        place = f"{FOLDER}/{key}-{len(source)}"
        try:
            with open(place, "rb") as file:
                return marshal.loads(file.read())  # noqa: S302 (of a folder of root's)
        except (OSError, ValueError, EOFError, TypeError):
            code = compile_source(path, source)
        try:
            os.makedirs(FOLDER, 0o700, exist_ok=True)
            half = f"{place}.{os.getpid()}"
            with open(half, "wb") as file:
                file.write(marshal.dumps(code))
            os.replace(half, place)
        except OSError:
            pass  # a full disk, say, which a test may want
        return code

    return compiled


def fill() -> None:
    """Keep the byte code of every source in the archive that stands on standard input."""
    import io
    import sys
    import zipfile

    with zipfile.ZipFile(io.BytesIO(sys.stdin.buffer.read())) as archive:
        for name in archive.namelist():
            zipimport._compile_source(name, archive.read(name))  # type: ignore[attr-defined]


if os.getuid() == 0 and hasattr(zipimport, "_compile_source"):
    zipimport._compile_source = _keep(zipimport._compile_source)
