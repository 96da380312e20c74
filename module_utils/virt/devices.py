# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The remaining devices: shares, the host's own devices, TPM, RNG, balloon, watchdog and so on.

Sources: formatdomain, "Filesystems", "Host device assignment", "TPM device", "Random number
generator device", "Memory balloon device", "Watchdog devices", "Panic device", "Vsock",
"IOMMU devices", "Controllers".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Mapping

from ..converge.action import LIVE, NEXT_BOOT
from .codecs import Whole, Words
from .compound import Chosen, Pair
from .fields import Field, Group, Leaf, Variant
from .lists import Items
from .words import COUNT, ON, ORDER, PATH, PCI, TEXT, THERE, UUID, YES, choice

if TYPE_CHECKING:
    from .document import Element

FILESYSTEMS = Items(
    "filesystems",
    "filesystem",
    (
        Leaf("target", "target@dir", TEXT, required=True),
        Leaf("source", "source@dir", PATH, required=True),
        Leaf(
            "driver",
            "driver@type",
            Words("a driver", ("virtiofs", "9p"), {"9p": "path"}),
            absent="9p",
        ),
        Leaf("access", "@accessmode", choice("an access", "passthrough mapped squash")),
        Leaf("queue", "driver@queue", COUNT),
        Leaf("binary", "binary@path", PATH),
        Leaf("xattr", "binary@xattr", ON),
        Leaf("cache", "binary/cache@mode", choice("a mode", "none always")),
        Leaf("readonly", "readonly", THERE, absent=False),
    ),
    name=lambda entry: entry.get("target"),
    make={"type": "mount"},
    needs=("target", "source"),
    own=lambda element, _container: element.get("type", "mount") == "mount",
    fresh=lambda entry, _root: (
        {"access": "passthrough"} if entry.get("driver") == "virtiofs" else {"access": "mapped"}
    ),
    attach=lambda entry: LIVE if entry.get("driver") == "virtiofs" else NEXT_BOOT,
)


def _kind(kind: str) -> Variant:
    return Variant(kind, default="")


_USB = Pair("a USB device as vendor:product", (("vendor", "id"), ("product", "id")))
_USB_PLACE = Pair(
    "a USB device as bus.device",
    (("address", "bus"), ("address", "device")),
    sign=".",
    hexadecimal=False,
)


def _hostdev(entry: Mapping[str, Any]) -> str | None:
    for key in ("pci", "mdev", "usb", "usb_device"):
        if entry.get(key) is not None:
            return f"{key}:{entry[key]}"
    return None


HOSTDEVS = Items(
    "hostdevs",
    "hostdev",
    (
        Leaf("pci", "source/address", PCI, variant=_kind("pci")),
        Leaf("usb", "source", _USB, variant=_kind("usb")),
        Leaf("usb_device", "source", _USB_PLACE, variant=_kind("usb")),
        Leaf("mdev", "source/address@uuid", UUID, variant=_kind("mdev")),
        Leaf("model", "@model", choice("a model", "vfio-pci vfio-ccw vfio-ap")),
        Leaf("display", "@display", ON),
        Leaf("managed", "@managed", YES),
        Leaf(
            "startup_policy",
            "source@startupPolicy",
            choice("a policy", "mandatory requisite optional"),
        ),
        Leaf("boot", "boot@order", ORDER),
        Leaf("rom", "rom@enabled", YES),
        Leaf("rom_bar", "rom@bar", ON),
        Leaf("rom_file", "rom@file", PATH),
    ),
    name=_hostdev,
    make={"mode": "subsystem"},
    own=lambda element, _container: element.get("type") in ("pci", "usb", "mdev"),
    fresh=lambda entry, _root: {"model": "vfio-pci"} if "mdev" in entry else {"managed": True},
    attach=lambda _entry: LIVE,
)

TPM = Group(
    "tpm",
    (
        Leaf("model", "@model", choice("a TPM model", "tpm-crb tpm-tis tpm-spapr")),
        Leaf(
            "type",
            "backend@type",
            choice("a backend", "emulator passthrough"),
            required=True,
            clears=("@persistent_state", "device", "encryption", "active_pcr_banks"),
        ),
        Leaf("version", "backend@version", choice("a version", "1.2 2.0")),
        Leaf("persistent_state", "backend@persistent_state", YES),
        Leaf("device", "backend/device@path", PATH),
        Leaf("secret", "backend/encryption@secret", UUID),
    ),
    at="devices/tpm",
    thing=True,
    fresh=lambda stated: (
        {"type": "passthrough"} if "device" in stated else {"type": "emulator", "version": "2.0"}
    ),
)


class _Backend(Leaf):
    """Where an RNG has its numbers from; QEMU's own generator needs no device."""

    def clear(self, element: Element, _value: Any) -> None:
        """Take the former one's device away."""
        element.text = None


RNG = Group(
    "rng",
    (
        Leaf("model", "@model", choice("a model", "virtio virtio-transitional"), required=True),
        _Backend("backend", "backend@model", choice("a backend", "random builtin"), required=True),
        Leaf("device", "backend", PATH, required=True),
        Leaf("rate_bytes", "rate@bytes", COUNT),
        Leaf("rate_period", "rate@period", COUNT),
    ),
    at="devices/rng",
    thing=True,
    fresh=lambda stated: {
        "model": "virtio",
        "backend": "random",
        **({} if stated.get("backend") == "builtin" else {"device": "/dev/urandom"}),
    },
    when=LIVE,
)

MEMBALLOON = Group(
    "memballoon",
    (
        Leaf("model", "@model", choice("a model", "virtio none"), required=True),
        Leaf("autodeflate", "@autodeflate", ON),
        Leaf("free_page_reporting", "@freePageReporting", ON),
        Leaf("stats_period", "stats@period", COUNT, LIVE),
    ),
    at="devices/memballoon",
    thing=True,
    fresh=lambda _stated: {"model": "virtio"},
    required=True,  # libvirt would put it back: a guest without one says model: none
)

WATCHDOGS = Items(
    "watchdogs",
    "watchdog",
    (
        Leaf("model", "@model", choice("a model", "i6300esb ib700 diag288 itco"), required=True),
        Leaf(
            "action",
            "@action",
            choice("an action", "reset shutdown poweroff pause none dump inject-nmi"),
            absent="reset",
        ),
    ),
    name=lambda entry: entry.get("model"),
    needs=("model",),
    own=lambda element, _container: element.get("model") != "itco",  # comes with the machine
    attach=lambda entry: LIVE if entry.get("model") == "i6300esb" else NEXT_BOOT,
)

PANICS = Items(
    "panics",
    "panic",
    (Leaf("model", "@model", choice("a model", "isa pseries hyperv s390"), required=True),),
    name=lambda entry: entry.get("model"),
    needs=("model",),
)

VSOCK = Group(
    "vsock",
    (
        Leaf("model", "@model", choice("a model", "virtio virtio-transitional")),
        Leaf(
            "cid", "cid", Chosen("a context id", "address", "auto", 3, (1 << 32) - 1), required=True
        ),
    ),
    at="devices/vsock",
    thing=True,
    fresh=lambda _stated: {"model": "virtio", "cid": "auto"},
    when=LIVE,
)

IOMMU = Group(
    "iommu",
    (
        Leaf("model", "@model", choice("a model", "intel smmuv3 virtio"), required=True),
        Leaf("intremap", "driver@intremap", ON),
        Leaf("caching_mode", "driver@caching_mode", ON),
        Leaf("eim", "driver@eim", ON),
        Leaf("iotlb", "driver@iotlb", ON),
    ),
    at="devices/iommu",
    thing=True,
    fresh=lambda _stated: {"model": "intel"},
)

SCSI_CONTROLLER = Group(
    "scsi_controller",
    (
        Leaf(
            "model",
            "@model",
            choice("a model", "virtio-scsi lsilogic lsisas1068 buslogic"),
            required=True,
        ),
        Leaf("queues", "driver@queues", COUNT),
        Leaf("iothread", "driver@iothread", COUNT),
        Leaf("max_sectors", "driver@max_sectors", Whole("a number of sectors", 1)),
    ),
    at="devices/controller[type=scsi][index=0]",
    thing=True,
    fresh=lambda _stated: {"model": "virtio-scsi"},
)

FIELDS: tuple[Field, ...] = (
    SCSI_CONTROLLER,
    FILESYSTEMS,
    TPM,
    HOSTDEVS,
    WATCHDOGS,
    MEMBALLOON,
    RNG,
    PANICS,
    IOMMU,
    VSOCK,
)
