# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""LUKS, opened with a secret of libvirt (https://libvirt.org/formatstorageencryption.html)."""

from __future__ import annotations

from typing import Any, Iterator, Mapping

from ..converge.compare import join
from ..converge.errors import Problem
from .fields import Group, Leaf
from .words import TEXT, UUID, choice

_MAKE = {"type": "passphrase"}
SECRETS = ("secret", "usage")


def encryption(at: str, when: str) -> Group:
    """Return the keys of an encrypted disk or volume."""
    return Group(
        "encryption",
        (
            Leaf("format", "@format", choice("a format", "luks luks2"), when, absent="luks"),
            Leaf("engine", "@engine", choice("who opens it", "qemu librbd"), when),
            Leaf("secret", "secret@uuid", UUID, when, make=_MAKE, clears=("@usage",)),
            Leaf("usage", "secret@usage", TEXT, when, make=_MAKE, clears=("@uuid",)),
        ),
        at=at,
        thing=True,
        make={"format": "luks"},
        when=when,
    )


def contradictions(stated: Mapping[str, Any] | None, path: str) -> Iterator[Problem]:
    """Yield an encryption that nobody or two could open."""
    if stated is None:
        return
    named = [key for key in SECRETS if stated.get(key) is not None]
    if len(named) != 1:
        expected = "the secret that opens it, by its UUID (secret) or by its name (usage)"
        found = "both" if named else "neither"
        yield Problem(join(path, "secret"), expected, found, "declare it as kvm_secrets does")
