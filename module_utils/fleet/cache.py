# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A fleet as plain values that JSON has, and back: what a cache of inventories may keep. Pure."""

from __future__ import annotations

from dataclasses import fields
from hashlib import sha256
from typing import Any, Callable, Iterable, Mapping

from .declare import Fleet, Guest, Hypervisor

_SEALED = "__sealed__"


class UnfitError(TypeError):
    """A value that JSON does not have, or has as another one."""


def digest(files: Iterable[tuple[str, bytes]], code: str) -> str:
    """Return the SHA-256 of files (name, content) and of the code that reads them."""
    found = sha256(code.encode())
    for name, content in files:
        found.update(f"{len(name)} {name} {len(content)} ".encode())
        found.update(content)
    return found.hexdigest()


def plain(fleet: Fleet, seal: Callable[[Any], str | None]) -> dict[str, Any]:
    """Return a fleet as plain values; UnfitError where that would not be the same fleet.

    ``seal`` returns the ciphertext of a value of a vault, None for another one: a secret stays in
    its vault.
    """

    def value(one: Any) -> Any:
        sealed = seal(one)
        if sealed is not None:
            return {_SEALED: sealed}
        if isinstance(one, Mapping):
            if _SEALED in one or not all(type(key) is str for key in one):
                raise UnfitError(f"keys that are no words: {list(one)}")
            return {key: value(below) for key, below in one.items()}
        if isinstance(one, (list, tuple)):
            return [value(below) for below in one]
        if isinstance(one, frozenset):
            return sorted(one)
        if one is None or isinstance(one, (bool, int, float, str)):
            return one
        raise UnfitError(f"a {type(one).__name__}")

    def parts(one: Any) -> dict[str, Any]:
        return {field.name: value(getattr(one, field.name)) for field in fields(one)}

    lists = {
        "hypervisors": [parts(host) for host in fleet.hypervisors],
        "guests": [parts(guest) for guest in fleet.guests],
    }
    rest = [field.name for field in fields(fleet) if field.name not in lists]
    return {**{name: value(getattr(fleet, name)) for name in rest}, **lists}


def whole(data: Mapping[str, Any], unseal: Callable[[str], Any]) -> Fleet:
    """Return the fleet that plain values are of."""

    def value(one: Any) -> Any:
        if isinstance(one, dict):
            if _SEALED in one:
                return unseal(one[_SEALED])
            return {key: value(below) for key, below in one.items()}
        return [value(below) for below in one] if isinstance(one, list) else one

    rest = {key: value(one) for key, one in data.items() if key not in ("hypervisors", "guests")}
    hosts = [
        Hypervisor(**{**value(one), "groups": tuple(one["groups"])}) for one in data["hypervisors"]
    ]
    guests = [
        Guest(
            **{
                **value(one),
                "groups": tuple(one["groups"]),
                "path": tuple(one["path"]),
                "short": frozenset(one["short"]),
            }
        )
        for one in data["guests"]
    ]
    return Fleet(hypervisors=hosts, guests=guests, **rest)
