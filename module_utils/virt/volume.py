# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The table of a storage volume (https://libvirt.org/formatstorage.html#storage-volume-xml).

All but the capacity is what a volume is: it is stated for a new one, and differs only by another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Iterator, Mapping

from ..converge.action import LIVE, REPLACE
from ..converge.compare import join
from ..converge.errors import Problem, shown
from . import encryption as luks
from .codecs import Pattern, Size, Words
from .encryption import encryption
from .fields import Field, Group, Leaf
from .words import NUMBER, PATH, THERE, choice

if TYPE_CHECKING:
    from .document import Element

Stated = Mapping[str, Any]

FORMATS = ("raw", "qcow2", "qcow", "qed", "vmdk", "vdi", "vpc", "dir", "iso", "none", "linux")
_BYTES = Size(unit="B")
_QCOW2 = ("cluster_size", "compat", "lazy_refcounts")

FIELDS: tuple[Field, ...] = (
    Leaf("size", "capacity", _BYTES, LIVE, required=True),
    Leaf("allocation", "allocation", _BYTES, REPLACE),
    Leaf("format", "target/format@type", Words("a format", FORMATS), REPLACE),
    Group(
        "permissions",
        (
            Leaf("mode", "mode", Pattern("an octal mode such as '0600'", "[0-7]{3,4}"), REPLACE),
            Leaf("owner", "owner", NUMBER, REPLACE),
            Leaf("group", "group", NUMBER, REPLACE),
        ),
        at="target/permissions",
    ),
    encryption("target/encryption", REPLACE),
    Leaf("compat", "target/compat", choice("a level", "0.10 1.1"), REPLACE),
    Leaf("cluster_size", "target/clusterSize", _BYTES, REPLACE),
    Leaf("lazy_refcounts", "target/features/lazy_refcounts", THERE, REPLACE, absent=False),
    Leaf("nocow", "target/nocow", THERE, REPLACE, absent=False),
    Group(
        "backing",
        (
            Leaf("path", "path", PATH, REPLACE, required=True),
            Leaf("format", "format@type", Words("a format", FORMATS), REPLACE),
        ),
        at="backingStore",
        needs=("path",),
    ),
)
KEYS = tuple(one.key for one in FIELDS)


def contradictions(stated: Stated, path: str) -> Iterator[Problem]:
    """Yield what contradicts itself in a volume."""
    kind = stated.get("format")
    yield from luks.contradictions(stated.get("encryption"), join(path, "encryption"))
    if stated.get("encryption") and kind not in (None, "raw", "qcow2"):
        yield Problem(join(path, "encryption"), "nothing but in raw and qcow2", shown(kind))
    if kind not in (None, "qcow2"):
        for key in _QCOW2:
            if stated.get(key):
                yield Problem(join(path, key), "nothing but in qcow2", shown(stated[key]))
        if stated.get("backing"):
            yield Problem(join(path, "backing"), "nothing but in qcow2", "something to stand on")


def of_ceph(source: Element) -> str | None:
    """Return the path that libvirt gives the volume which a disk's source is, if it is of Ceph."""
    return source.get("name") if source.get("protocol") == "rbd" else None
