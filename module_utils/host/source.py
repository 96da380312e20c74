# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Small files of /proc, /sys and /dev, read under a root that a test or a rescue system chooses.

What is not there or not readable is None, never an exception: a probe runs on every machine.
"""

from __future__ import annotations

import os
from typing import Any, Iterable

_CHUNK = 1 << 16


def at(root: str, path: str) -> str:
    """Return where the absolute ``path`` of the host is found under ``root``."""
    return path if root == "/" else root.rstrip("/") + path


def text(root: str, path: str) -> str | None:
    """Return the content of a small text file, None where it cannot be read."""
    # The plain system calls take a third of open()'s time, and a host has hundreds of files.
    try:
        descriptor = os.open(at(root, path), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    chunks = []
    try:
        chunk = os.read(descriptor, _CHUNK)
        while chunk:
            chunks.append(chunk)
            chunk = os.read(descriptor, _CHUNK)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return b"".join(chunks).decode("utf-8", "replace")


def word(root: str, path: str) -> str | None:
    """Return the content without the white space around it, None where it cannot be read."""
    content = text(root, path)
    return None if content is None else content.strip("\0 \t\n")


def number(root: str, path: str, base: int = 10) -> int | None:
    """Return the whole number that a file holds, None where it holds none."""
    content = word(root, path)
    try:
        return None if content is None else int(content, base)
    except ValueError:
        return None


def names(root: str, path: str) -> list[str] | None:
    """Return the sorted names in a folder, None where it cannot be listed."""
    try:
        return sorted(os.listdir(at(root, path)))
    except OSError:
        return None


def exists(root: str, path: str) -> bool:
    """Say whether there is something of that path."""
    return os.path.exists(at(root, path))


def target(root: str, path: str) -> str | None:
    """Return the last part of what a symbolic link points at, None where there is no link."""
    try:
        return os.path.basename(os.readlink(at(root, path)))
    except OSError:
        return None


def switch(value: str | None) -> bool | None:
    """Return what the value of a module parameter says: on, off, or None if it is neither.

    Boolean parameters read Y or N (older kernels 1 or 0); a count or a size is on above 0.
    """
    if value in {"Y", "y"}:
        return True
    if value in {"N", "n"}:
        return False
    return int(value) > 0 if value is not None and value.isdigit() else None


def ranges(numbers: Iterable[int]) -> str:
    """Return numbers as the kernel writes lists of them: ``0-3,8``."""
    parts: list[list[int]] = []
    for value in sorted(numbers):
        if parts and value == parts[-1][1] + 1:
            parts[-1][1] = value
        else:
            parts.append([value, value])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in parts)


def expand(listing: str | None) -> list[int]:
    """Return the numbers of a kernel list (``0-3,8``); what is no number in it is left out."""
    numbers: list[int] = []
    for part in (listing or "").split(","):
        low, _, high = part.strip().partition("-")
        if low.isdigit() and (not high or high.isdigit()):
            numbers.extend(range(int(low), int(high or low) + 1))
    return numbers


def plain(value: Any) -> Any:
    """Return dataclasses, tuples and sets as the dicts and lists that JSON knows."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    fields = getattr(value, "__dataclass_fields__", None)
    if fields is not None:
        return {name: plain(getattr(value, name)) for name in fields}
    return value
