# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The table of a storage pool (https://libvirt.org/formatstorage.html), and what each kind needs.

libvirt changes nothing of a pool while it is active: all differences wait for its next start.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Iterator, Mapping

from ..converge.action import NEXT_BOOT, REPLACE
from ..converge.compare import join
from ..converge.errors import Problem, shown
from .codecs import Pattern, Words
from .document import Element, Fresh, elements, insert, remove
from .fields import Edits, Field, Group, Leaf
from .lists import Items, Values
from .words import DEVICE, HOST, NUMBER, PATH, PCI, PORT, TEXT, UUID, YES, choice

Stated = Mapping[str, Any]

ISCSI = ("iscsi", "iscsi-direct")
_MOUNT_OPTIONS = "http://libvirt.org/schemas/storagepool/fs/1.0"


@dataclass(frozen=True)
class Kind:
    """What a kind of pool cannot do without, what it may have, and where it is by default.

    ``path`` may name other keys in braces. ``port`` is where its servers answer, None where it has
    none or libvirt's library finds them.
    Building one of a kind that ``formats`` writes to a disk.
    """

    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    path: str | None = None
    port: int | None = None
    formats: bool = False


_MOUNTED = ("mount_options", "permissions")
KINDS: dict[str, Kind] = {
    "dir": Kind(("path",), ("permissions",)),
    "fs": Kind(("devices", "path"), ("format", *_MOUNTED), formats=True),
    "netfs": Kind(("hosts", "dir", "path"), ("format", "protocol_version", *_MOUNTED), port=2049),
    "logical": Kind(
        ("source_name",),
        ("devices", "format", "path", "permissions"),
        path="/dev/{source_name}",
        formats=True,
    ),
    "disk": Kind(("devices",), ("format", "path", "permissions"), path="/dev", formats=True),
    "iscsi": Kind(
        ("hosts", "target"),
        ("initiator", "auth", "path", "permissions"),
        path="/dev/disk/by-path",
        port=3260,
    ),
    "iscsi-direct": Kind(("hosts", "target", "initiator"), ("auth",), port=3260),
    "scsi": Kind(("adapter",), ("path", "permissions"), path="/dev/disk/by-path"),
    "mpath": Kind((), ("path", "permissions"), path="/dev/mapper"),
    "rbd": Kind(("hosts", "source_name"), ("auth",)),
    "gluster": Kind(("hosts", "source_name"), ("dir",), port=24007),
    "zfs": Kind(("source_name",), ("devices", "path", "permissions")),
}
_FORMATS = {
    "fs": "auto ext2 ext3 ext4 ufs iso9660 udf gfs gfs2 vfat hfs+ xfs ocfs2 vmfs",
    "netfs": "auto nfs glusterfs cifs",
    "logical": "unknown lvm2 auto",
    "disk": "none dos dvh gpt mac bsd pc98 sun lvm2",
}
_ALL_FORMATS = tuple(sorted({word for words in _FORMATS.values() for word in words.split()}))
_IQN = Pattern("an iSCSI name", r"iqn\.[0-9]{4}-(0[1-9]|1[0-2])\.[a-zA-Z0-9.\-]+(:.+)?")
_WWN = Pattern("a world wide name of 16 digits", "(0x)?[0-9a-fA-F]{16}", lower=True)


class _Target(Leaf):
    """The IQN of an iSCSI target, which stands where other kinds have a disk."""

    def get(self, scope: Element) -> Any:
        """Return what is there, None for nothing."""
        return super().get(scope) if scope.get("type") in ISCSI else None


class _Devices(Values):
    """The disks that a pool is made on."""

    def found(self, scope: Element) -> list[tuple[Element, Any]]:
        """Return the elements that are there, with their values."""
        return [] if scope.get("type") in ISCSI else super().found(scope)


class _MountOptions(Field):
    """What a file system is mounted with besides (virStoragePoolFSMountOptionsDef)."""

    key = "mount_options"

    @staticmethod
    def _element(scope: Element) -> Element | None:
        named = (one for one in elements(scope) if one.tag.rpartition(":")[2] == "mount_opts")
        return next(named, None)

    def get(self, scope: Element) -> Any:
        """Return the options, None where there is none."""
        found = self._element(scope)
        if found is None:
            return None
        return [option.get("name", "") for option in elements(found)] or None

    def patch(self, scope: Element, value: Any, edits: Edits, path: str) -> None:
        """Make the options what was stated."""
        before = self.get(scope)
        if (value or None) == before:
            return
        edits.add(path, before, value or None, NEXT_BOOT)
        former = self._element(scope)
        if former is not None:
            remove(scope, former)
        if value:
            made = Fresh("fs:mount_opts", {"xmlns:fs": _MOUNT_OPTIONS})
            for option in value:
                made.append(Fresh("fs:option", {"name": option}))
            insert(scope, made, len(scope))

    def check(self, value: Any, path: str, problems: list[Problem]) -> Any:
        """Return the canonical form of the list."""
        options = Values(self.key, "option", "name", Pattern("a mount option", r"[^\s,]+"))
        return options.check(value, path, problems)


FIELDS: tuple[Field, ...] = (
    Leaf("uuid", "uuid", UUID, when=REPLACE, required=True),
    Leaf("type", "@type", Words("a kind of pool", tuple(KINDS)), when=REPLACE, required=True),
    Items(
        "hosts",
        "host",
        (Leaf("name", "@name", HOST, required=True), Leaf("port", "@port", PORT)),
        name=lambda entry: entry.get("name"),  # libvirt writes some default ports
        at="source",
        needs=("name",),
    ),
    _Devices("devices", "device", "path", PATH, "source"),
    _Target("target", "source/device@path", _IQN),
    Leaf("dir", "source/dir@path", Pattern("a path", r"[^\s].*")),
    Group(
        "adapter",
        (
            Leaf("type", "@type", choice("a kind of adapter", "scsi_host fc_host")),
            Leaf("name", "@name", DEVICE),
            Leaf("parent", "@parent", DEVICE),
            Leaf("managed", "@managed", YES),
            Leaf("wwnn", "@wwnn", _WWN),
            Leaf("wwpn", "@wwpn", _WWN),
            Leaf("parent_wwnn", "@parent_wwnn", _WWN),
            Leaf("parent_wwpn", "@parent_wwpn", _WWN),
            Leaf("parent_fabric_wwn", "@parent_fabric_wwn", _WWN),
            Leaf("parent_address", "parentaddr/address", PCI),
            Leaf("unique_id", "parentaddr@unique_id", NUMBER),
        ),
        at="source/adapter",
    ),
    Leaf("source_name", "source/name", TEXT),
    Leaf("initiator", "source/initiator/iqn@name", _IQN),
    Group(
        "auth",
        (
            Leaf("type", "@type", choice("a kind of login", "chap ceph"), required=True),
            Leaf("username", "@username", TEXT, required=True),
            Leaf("secret", "secret@uuid", UUID),
            Leaf("usage", "secret@usage", TEXT),
        ),
        at="source/auth",
        needs=("type", "username"),
    ),
    Leaf("format", "source/format@type", Words("a format", _ALL_FORMATS)),
    Leaf("protocol_version", "source/protocol@ver", Pattern("a version", r"[0-9]+(\.[0-9]+)?")),
    Leaf("path", "target/path", PATH),
    Group(
        "permissions",
        (
            Leaf("mode", "mode", Pattern("an octal mode such as '0711'", "[0-7]{3,4}")),
            Leaf("owner", "owner", NUMBER),
            Leaf("group", "group", NUMBER),
            Leaf("label", "label", TEXT),
        ),
        at="target/permissions",
    ),
    _MountOptions(),
)
KEYS = tuple(one.key for one in FIELDS)
_COMMON = ("uuid", "type")


def kind_of(stated: Stated) -> Kind:
    """Return the kind of a pool; one that is not known has nothing of its own."""
    return KINDS.get(str(stated.get("type"))) or Kind()


def contradictions(stated: Stated, path: str) -> Iterator[Problem]:
    """Yield what a kind of pool does not know, and what its format or login lacks."""
    kind = KINDS.get(str(stated.get("type")))
    if kind is None:
        return
    name = stated["type"]
    known = (*_COMMON, *kind.needs, *kind.takes)
    for key, value in stated.items():
        if key not in known and value:
            yield Problem(join(path, key), f"nothing in a pool of type {name}", shown(value))
    words = _FORMATS.get(name, "").split()
    if stated.get("format") is not None and words and stated["format"] not in words:
        expected = f"a format of {name} ({', '.join(words)})"
        yield Problem(join(path, "format"), expected, shown(stated["format"]))
    directory = str(stated.get("dir") or "/")
    nfs = name == "netfs" and stated.get("format") in (None, "nfs", "auto")
    if nfs and not directory.startswith("/"):
        yield Problem(join(path, "dir"), "an absolute path", shown(directory))
    auth = stated.get("auth") or {}
    if auth and not (auth.get("secret") or auth.get("usage")):
        remedy = "its password is a secret of libvirt, and never stands here"
        where = join(join(path, "auth"), "usage")
        yield Problem(where, "the usage or UUID of a secret", "neither", remedy)


def lacking(stated: Stated, path: str) -> Iterator[Problem]:
    """Yield what a new pool cannot do without."""
    if stated.get("type") is None:
        yield Problem(join(path, "type"), f"a kind of pool ({', '.join(KINDS)})", "nothing")
        return
    for key in KINDS[stated["type"]].needs:
        if not stated.get(key):
            yield Problem(join(path, key), f"a value, as it is of type {stated['type']}", "nothing")
