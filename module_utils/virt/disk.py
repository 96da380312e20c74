# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks: a target in the guest, and one source of several kinds (formatdomain, "Hard drives …").

A disk is told by its target. Its bus, where it is not stated, follows from the target as in
libvirt: vda is virtio, sda is scsi, hda is ide, fda is a floppy.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Mapping

from ..converge.action import LIVE, NEXT_BOOT
from .codecs import Pattern
from .encryption import encryption
from .fields import Aside, Field, Group, Leaf, Variant, together
from .lists import Items
from .words import (
    BYTES,
    COUNT,
    HOST,
    NAME,
    OBJECT,
    ON,
    ORDER,
    PATH,
    PCI,
    PORT,
    TEXT,
    THERE,
    UUID,
    YES,
    choice,
)

if TYPE_CHECKING:
    from .document import Element

REMOVABLE = ("cdrom", "floppy")
HOT = ("virtio", "scsi", "usb")  # buses that take a disk while the guest runs
BUSES = {"vd": "virtio", "sd": "scsi", "hd": "ide", "fd": "fdc", "xvd": "xen"}
PROTOCOLS = "rbd iscsi nbd https http ftps ftp tftp gluster nfs"
_PREFIX = re.compile("vd|sd|hd|fd|xvd")
NEEDS_NAME = ("iscsi", "https", "http", "ftps", "ftp", "tftp", "gluster", "nfs")
NEEDS_HOST = (*NEEDS_NAME, "nbd")
_OF_A_PROTOCOL = (
    *("@name", "@query", "@tls", "@tlsHostname", "host", "snapshot", "config", "auth"),
    *("initiator", "ssl", "cookies", "readahead", "timeout", "identity"),
)
_CHAIN = ("backingStore",)  # what lies below an image goes with it


def bus_of(entry: Mapping[str, Any]) -> str | None:
    """Return the bus of a disk, as stated or by its target."""
    if entry.get("bus"):
        return str(entry["bus"])
    prefix = _PREFIX.match(str(entry.get("target", "")))
    return BUSES[prefix.group()] if prefix else None


def writes(entry: Mapping[str, Any]) -> bool:
    """Return whether a guest writes to a disk: QEMU lets nobody else have its source then."""
    return not entry.get("readonly") and entry.get("device") != "cdrom"


def _attach(entry: Mapping[str, Any]) -> str:
    removable = entry.get("device") in REMOVABLE
    return LIVE if bus_of(entry) in HOT and not removable else NEXT_BOOT


def _medium(scope: Element, _value: Any) -> str:
    """Return live for the medium of a removable disk, which is changed in a running guest."""
    return LIVE if scope.get("device") in REMOVABLE else NEXT_BOOT


def _variant(kind: str) -> Variant:
    return Variant(kind, clears=("source",), stale=_CHAIN)


HOSTS = Items(
    "hosts",
    "host",
    (
        Leaf("name", "@name", HOST),
        Leaf("port", "@port", PORT),
        Leaf("socket", "@socket", PATH, make={"transport": "unix"}),
        Leaf("transport", "@transport", choice("a transport", "tcp rdma unix")),
    ),
    name=lambda _entry: None,
    at="",
)

AUTH = Group(
    "auth",
    (
        Leaf("username", "@username", NAME, required=True),
        Leaf("type", "secret@type", choice("a secret's type", "ceph iscsi"), required=True),
        Leaf("secret", "secret@uuid", UUID),
        Leaf("usage", "secret@usage", TEXT),
    ),
    at="auth",
    thing=True,
    needs=("username", "type"),
)

_INDEX = ("@index",)  # libvirt counts the images of a running guest
_BASE = r"/.+|[a-z0-9][a-z0-9._-]{0,62}"
SOURCES: tuple[Field, ...] = (
    Leaf("file", "source@file", PATH, _medium, clears=_INDEX, variant=_variant("file")),
    Leaf("block", "source@dev", PATH, _medium, clears=_INDEX, variant=_variant("block")),
    Group(
        "volume",
        (
            Leaf("pool", "@pool", OBJECT, required=True),
            Leaf("volume", "@volume", OBJECT, required=True),
            Leaf("mode", "@mode", choice("a mode", "host direct")),
        ),
        at="source",
        needs=("pool", "volume"),
        clears=_INDEX,
        variant=_variant("volume"),
        when=_medium,
    ),
    Group(
        "network",
        (
            Leaf(
                "protocol",
                "@protocol",
                choice("a protocol", PROTOCOLS),
                required=True,
                clears=_OF_A_PROTOCOL,
            ),
            Leaf("name", "@name", TEXT),
            Leaf("query", "@query", TEXT),
            Leaf("tls", "@tls", YES),
            HOSTS,
            Leaf("snapshot", "snapshot@name", NAME),
            Leaf("config", "config@file", PATH),
            AUTH,
            Leaf("initiator", "initiator/iqn@name", TEXT),
            Leaf("verify", "ssl@verify", YES),
        ),
        at="source",
        needs=("protocol",),
        clears=_INDEX,
        variant=_variant("network"),
        when=_medium,
    ),
    Group(
        "nvme",
        (
            Leaf("address", "address", PCI, required=True),
            Leaf("namespace", "@namespace", COUNT, make={"type": "pci"}, required=True),
            Leaf("managed", "@managed", YES),
        ),
        at="source",
        make={"type": "pci"},
        needs=("address", "namespace"),
        variant=_variant("nvme"),
    ),
)


def _rate(key: str) -> Leaf:
    codec = BYTES if "bytes" in key else COUNT
    return Leaf(key, f"iotune/{key}", codec, LIVE)


RATES = tuple(
    f"{what}_{unit}_sec{burst}"
    for burst in ("", "_max")
    for unit in ("bytes", "iops")
    for what in ("total", "read", "write")
)


def _grouped(scope: Element, value: Any) -> str:
    """Return live for a disk that joins a group, or goes with its limits.

    One that keeps limits would be in a group of its own, which libvirt shows as one.
    """
    limited = any(scope.find(f"iotune/{key}") is not None for key in RATES)
    return NEXT_BOOT if value is None and limited else LIVE


THROTTLE = Group(
    "throttle",
    (*(_rate(key) for key in RATES), Leaf("group", "iotune/group_name", NAME, _grouped)),
)

IMAGE_FORMAT = "qcow2"  # of a new disk that states a size and no format
SECTOR = 512
FORMATS = "raw qcow2 qed vmdk vdi vpc vhd iso luks"
FIELDS: tuple[Field, ...] = (
    Leaf(
        "target",
        "target@dev",
        Pattern("a target such as vda", r"(?:fd|hd|sd|vd|xvd)[a-z][a-z0-9]{0,3}"),
        required=True,
    ),
    Leaf("bus", "target@bus", choice("a bus", "virtio scsi sata ide usb fdc sd"), required=True),
    Leaf(
        "device",
        "@device",
        choice("a kind of disk", "disk cdrom floppy lun"),
        absent="disk",
        clears=("@rawio", "@sgio"),
    ),
    *SOURCES,
    encryption("source/encryption", NEXT_BOOT),
    Aside("size", BYTES),
    Aside(
        "image", Pattern("an image's name, or an absolute path", r"/.+|[a-z0-9][a-z0-9._-]{0,62}")
    ),
    Leaf(
        "startup_policy", "source@startupPolicy", choice("a policy", "mandatory requisite optional")
    ),
    Leaf("format", "driver@type", choice("a format", FORMATS), _medium, make={"name": "qemu"}),
    Leaf(
        "cache",
        "driver@cache",
        choice("a cache mode", "default none writeback writethrough directsync unsafe"),
        make={"name": "qemu"},
    ),
    Leaf(
        "io", "driver@io", choice("an I/O mode", "threads native io_uring"), make={"name": "qemu"}
    ),
    Leaf("discard", "driver@discard", choice("a mode", "unmap ignore"), make={"name": "qemu"}),
    Leaf(
        "detect_zeroes",
        "driver@detect_zeroes",
        choice("a mode", "off on unmap"),
        make={"name": "qemu"},
    ),
    Leaf(
        "error_policy",
        "driver@error_policy",
        choice("a policy", "stop report ignore enospace"),
        make={"name": "qemu"},
    ),
    Leaf("read_error_policy", "driver@rerror_policy", choice("a policy", "stop report ignore")),
    Leaf("copy_on_read", "driver@copy_on_read", ON),
    Leaf("iothread", "driver@iothread", COUNT, make={"name": "qemu"}),
    Leaf("queues", "driver@queues", COUNT, make={"name": "qemu"}),
    Leaf("queue_size", "driver@queue_size", COUNT, make={"name": "qemu"}),
    Leaf("removable", "target@removable", ON),
    Leaf("rotation_rate", "target@rotation_rate", COUNT),
    THROTTLE,
    Leaf("readonly", "readonly", THERE, absent=False),
    Leaf("shareable", "shareable", THERE, absent=False),
    Leaf("transient", "transient", THERE, absent=False),
    Leaf("serial", "serial", Pattern("a serial number", r"[A-Za-z0-9_.+\- ]{1,247}")),
    Leaf("wwn", "wwn", Pattern("a WWN of 16 hexadecimal digits", r"[0-9a-fA-F]{16}", lower=True)),
    Leaf("vendor", "vendor", Pattern("at most 8 printable characters", "[ -~]{1,8}")),
    Leaf("product", "product", Pattern("at most 16 printable characters", "[ -~]{1,16}")),
    Leaf("logical_block_size", "blockio@logical_block_size", COUNT),
    Leaf("physical_block_size", "blockio@physical_block_size", COUNT),
    Leaf("boot", "boot@order", ORDER),
)


def _name(entry: Mapping[str, Any]) -> str | None:
    target = entry.get("target")
    return None if target is None else str(target)


def _fresh(entry: Mapping[str, Any], root: Element) -> Mapping[str, Any]:
    """Return what a new disk has besides: its bus, and a CD that cannot be written."""
    more: dict[str, Any] = {}
    bus = bus_of(entry)
    kind = root.find("os/type")
    q35 = kind is not None and "q35" in kind.get("machine", "")
    if bus == "scsi" and q35 and entry.get("device") == "cdrom":
        bus = "sata"  # the controller that such a machine has anyway
    if bus is not None:
        more["bus"] = bus
    if entry.get("device") == "cdrom":
        more["readonly"] = True
    if entry.get("size") is not None:
        more["format"] = IMAGE_FORMAT
    return more


_MEDIUM = ("device", *(one.key for one in SOURCES))


def _agree(whens: Mapping[str, str]) -> Mapping[str, str]:
    """Change a source as a whole; a format goes with it, as libvirt takes it with a new one alone.

    The limits of a disk that leaves a group wait with that: they would become those of the group.
    """
    agreed = together(_MEDIUM, whens)
    if "format" in agreed and LIVE not in {agreed.get(key) for key in _MEDIUM}:
        agreed["format"] = NEXT_BOOT
    return agreed


DISKS = Items(
    "disks",
    "disk",
    FIELDS,
    name=_name,
    make={"type": "file"},
    needs=("target",),
    fresh=_fresh,
    attach=_attach,
    agree=_agree,
)
