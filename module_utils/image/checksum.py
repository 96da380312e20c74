# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checksums: stated, found in a publisher's file, and computed."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Iterable

DIGITS = {"sha256": 64, "sha512": 128}
_STATED = re.compile(r"(?:(sha256|sha512):)?([0-9a-fA-F]+)", re.ASCII)
# GNU coreutils: the digest, a space, a space or *, the name.  BSD: SHA256 (name) = digest.
_GNU = re.compile(r"\\?([0-9a-fA-F]{64}|[0-9a-fA-F]{128}) [ *](.+)")
_BSD = re.compile(r"(SHA256|SHA512) \((.+)\) = ([0-9a-fA-F]+)")
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Checksum:
    """A checksum: sha256 or sha512, and its digits in lower case."""

    algorithm: str
    digest: str

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.digest}"


def parse(text: object) -> Checksum | None:
    """Return what was stated (``sha256:…``, ``sha512:…`` or the digits alone), None for neither."""
    match = _STATED.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        return None
    digits = match.group(2).lower()
    by_length = {length: name for name, length in DIGITS.items()}
    algorithm = match.group(1) or by_length.get(len(digits))
    if algorithm is None or len(digits) != DIGITS[algorithm]:
        return None
    return Checksum(algorithm, digits)


def find(listing: str, name: str) -> Checksum | None:
    """Return the checksum that a publisher's file has for a name, None where it has none."""
    for line in listing.splitlines():
        gnu, bsd = _GNU.fullmatch(line.strip()), _BSD.fullmatch(line.strip())
        if gnu is not None and gnu.group(2).rpartition("/")[2] == name:
            return parse(gnu.group(1))
        if bsd is not None and bsd.group(2).rpartition("/")[2] == name:
            return parse(f"{bsd.group(1).lower()}:{bsd.group(3)}")
    return None


def compute(path: str, algorithms: Iterable[str]) -> dict[str, Checksum]:
    """Return the checksums of a file, which is read once."""
    states = {name: hashlib.new(name) for name in algorithms}
    with open(path, "rb") as file:
        for chunk in iter(lambda: file.read(_CHUNK), b""):
            for state in states.values():
                state.update(chunk)
    return {name: Checksum(name, state.hexdigest()) for name, state in states.items()}
