# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images as they are declared, and all that is wrong with a list of them and with a catalogue."""

from __future__ import annotations

import os
import urllib.parse
from dataclasses import dataclass
from typing import Any, Mapping, Sequence

from ..converge.errors import InputError, Problem, shown, unknown
from . import checksum
from .catalogue import CATALOGUE, completed
from .catalogue import KEYS as CATALOGUE_KEYS
from .store import NAME

PRESENT, ABSENT = "present", "absent"
FORMATS = ("qcow2", "raw")
KEYS = (
    *("name", "state", "path", "url", "checksum", "checksums", "signature", "keyring"),
    *("format", "refresh", "file"),
)
_NAME = "a name (1 to 63 of a-z, 0-9, . _ and -, a letter or digit first)"


@dataclass(frozen=True)
class Declared:
    """One image: its name, where it comes from, and what it has to be.

    ``path`` is a file of the host, which ``file`` of the controller was sent to, ``url`` an
    address; ``checksums`` the address of a publisher's file, ``signature`` that of its detached
    signature by a key of ``keyring``. ``refresh`` asks the publisher whether there is a newer one.
    """

    name: str
    where: str
    state: str = PRESENT
    path: str | None = None
    url: str | None = None
    checksum: checksum.Checksum | None = None
    checksums: str | None = None
    signature: str | None = None
    keyring: str | None = None
    format: str = "qcow2"
    refresh: bool = False
    file: str | None = None

    @property
    def source(self) -> str:
        """Where it comes from, as its user knows it."""
        return str(self.url or self.file or self.path)


class _Reader:
    """Reads entries, collecting what is wrong with them."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.catalogue: dict[str, Mapping[str, Any]] = dict(CATALOGUE)
        self.broken: set[str] = set()  # names of the catalogue of which enough is said already

    def say(self, path: str, expected: str, found: object, remedy: str | None = None) -> None:
        self.problems.append(Problem(path, expected, shown(found), remedy))

    def address(self, entry: Mapping[Any, Any], key: str, where: str) -> str | None:
        value = entry.get(key)
        if value is None:
            return None
        parts = urllib.parse.urlsplit(value) if isinstance(value, str) else None
        if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
            self.say(f"{where}.{key}", "an http or https address", value)
        elif parts.password is not None:
            remedy = "let the server be open to the hosts, or bring the image by other means"
            self.problems.append(Problem(f"{where}.{key}", "no password in it", "one", remedy))
        return str(value)

    def file(self, entry: Mapping[Any, Any], key: str, where: str) -> str | None:
        value = entry.get(key)
        if value is None:
            return None
        if not isinstance(value, str) or not os.path.isabs(value) or "\0" in value:
            self.say(f"{where}.{key}", "an absolute path", value)
        return str(value)

    def entry(self, where: str, entry: object) -> Declared | None:
        if not isinstance(entry, Mapping):
            self.say(where, "a mapping that describes an image", entry)
            return None
        name = entry.get("name")
        if not isinstance(name, str) or not NAME.fullmatch(name):
            self.say(f"{where}.name", _NAME, name)
            return None
        self.keys(entry, KEYS, where)
        state = entry.get("state", PRESENT)
        if state not in (PRESENT, ABSENT):
            self.problems.append(unknown(f"{where}.state", state, "a state", (PRESENT, ABSENT)))
        whole = completed(entry, self.catalogue)
        found = self.described(name, where, str(state), whole)
        if not isinstance(whole.get("refresh", False), bool):
            self.say(f"{where}.refresh", "true or false", whole["refresh"])
        if state == PRESENT:
            self.complete(found)
        return found

    def keys(self, entry: Mapping[Any, Any], known: Sequence[str], where: str) -> None:
        for key in entry:
            if key not in known:
                path = f"{where}.{_printable(key)}"
                self.problems.append(unknown(path, key, "a known key", known))

    def described(self, name: str, where: str, state: str, whole: Mapping[Any, Any]) -> Declared:
        found = Declared(
            name,
            where,
            state,
            path=self.file(whole, "path", where),
            url=self.address(whole, "url", where),
            checksum=self.checksum(whole, where),
            checksums=self.address(whole, "checksums", where),
            signature=self.address(whole, "signature", where),
            keyring=self.file(whole, "keyring", where),
            format=str(whole.get("format", "qcow2")),
            refresh=whole.get("refresh") is True,
            file=str(whole["file"]) if whole.get("file") is not None else None,
        )
        if found.format not in FORMATS:
            self.problems.append(unknown(f"{where}.format", found.format, "a format", FORMATS))
        return found

    def lay_over(self, given: object) -> None:
        """Lay a catalogue over the built-in one, as far as it is one."""
        if given is None:
            return
        if not isinstance(given, Mapping):
            self.say("catalogue", "a mapping of images by their short names", given)
            return
        for name, entry in given.items():
            before = len(self.problems)
            self.offer(name, entry)
            sound = len(self.problems) == before
            if isinstance(name, str):
                self.catalogue[name] = entry if sound else {}
                self.broken |= set() if sound else {name}

    def offer(self, name: object, entry: object) -> None:
        """Tell what is wrong with an entry of a catalogue."""
        where = f"catalogue.{_printable(name)}"
        if not isinstance(name, str) or not NAME.fullmatch(name):
            self.say(where, _NAME, name)
            return
        if not isinstance(entry, Mapping):
            self.say(where, f"a mapping ({', '.join(CATALOGUE_KEYS)})", entry)
            return
        self.keys(entry, CATALOGUE_KEYS, where)
        known = {key: entry[key] for key in CATALOGUE_KEYS if key in entry}
        found = self.described(name, where, PRESENT, known)
        if found.url is not None:
            self.complete(found)
        else:
            self.problems.append(Problem(f"{where}.url", "an http or https address", "nothing"))

    def checksum(self, entry: Mapping[Any, Any], where: str) -> checksum.Checksum | None:
        value = entry.get("checksum")
        found = checksum.parse(value)
        if value is not None and found is None:
            self.say(f"{where}.checksum", "sha256: or sha512: and the digits of it", value)
        return found

    def complete(self, found: Declared) -> None:
        """Tell what an image cannot do without, and what contradicts itself."""
        where = found.where
        if found.path is None and found.url is None:
            if found.name not in self.broken:
                names = ", ".join(self.catalogue)
                expected = f"a path or url, or a name of the catalogue ({names})"
                self.problems.append(Problem(where, expected, f"neither, and {found.name!r}"))
        elif found.path is not None and found.url is not None:
            self.problems.append(Problem(where, "a path or a url", "both", "state one of them"))
        elif found.url is not None and found.checksum is None and found.checksums is None:
            remedy = "what comes over a network is only taken when it is what somebody vouches for"
            expected = "a checksum, or the address of the publisher's checksums"
            self.problems.append(Problem(f"{where}.checksum", expected, "neither", remedy))
        if found.checksums is not None and (found.url is None or found.checksum is not None):
            expected = "nothing beside a checksum" if found.checksum else "nothing without a url"
            self.say(f"{where}.checksums", expected, found.checksums)
        if (found.signature is None) != (found.keyring is None):
            key = "keyring" if found.keyring is None else "signature"
            self.problems.append(
                Problem(f"{where}.{key}", "signature and keyring together", "one of them")
            )
        if found.signature is not None and found.checksums is None:
            self.say(f"{where}.signature", "nothing without checksums", found.signature)


def _printable(key: object) -> str:
    """Return a key as a path has it."""
    return (key if isinstance(key, str) and key.isprintable() else shown(key))[:64]


def catalogue_with(given: object) -> dict[str, Mapping[str, Any]]:
    """Return the catalogue with what a site lays over it; InputError with every problem in that."""
    reader = _Reader()
    reader.lay_over(given)
    if reader.problems:
        raise InputError(reader.problems)
    return reader.catalogue


def read(entries: Sequence[object], catalogue: object = None) -> list[Declared]:
    """Return what the list declares; InputError with every problem in it.

    ``catalogue`` is laid over the built-in one.
    """
    reader = _Reader()
    reader.lay_over(catalogue)
    declared: list[Declared] = []
    first: dict[str, str] = {}
    for number, entry in enumerate(entries):
        one = reader.entry(f"images[{number}]", entry)
        if one is None:
            continue
        if one.name in first:
            found = f"{one.name}, which {first[one.name]}.name has already"
            reader.problems.append(Problem(f"{one.where}.name", "a name of its own", found))
        first.setdefault(one.name, one.where)
        declared.append(one)
    if reader.problems:
        raise InputError(reader.problems)
    return declared
