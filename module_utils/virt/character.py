# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Serial ports, consoles and channels (formatdomain, "Consoles, serial, parallel & channel …").

libvirt shows the first serial port a second time as a console, and fills in the pseudo terminals
and sockets that it chose: neither is the user's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Mapping

from ..converge.action import LIVE
from .codecs import Pattern
from .fields import Field, Leaf
from .lists import Items
from .words import ON, PATH, TEXT, choice

if TYPE_CHECKING:
    from .document import Element

_TYPES = "pty unix tcp udp file pipe dev null stdio spicevmc spiceport qemu-vdagent dbus"
_PTS = "/dev/pts/"
_CHOSEN = "/channel/target/"  # the part of the name of each socket that libvirt itself makes


class _Path(Leaf):
    """The path of a source, where the user chose it."""

    def get(self, scope: Element) -> Any:
        """Return what is there, None for nothing."""
        found = super().get(scope)
        chosen = isinstance(found, str) and (found.startswith(_PTS) or _CHOSEN in found)
        return None if chosen else found


_SOURCE: tuple[Field, ...] = (
    Leaf("type", "@type", choice("a kind of source", _TYPES), required=True),
    _Path("path", "source@path", PATH),
    Leaf("mode", "source@mode", choice("a mode", "bind connect")),
    Leaf("host", "source@host", Pattern("a host", r"[a-zA-Z0-9.\-:]+")),
    Leaf("service", "source@service", Pattern("a port or service", r"[a-zA-Z0-9\-]+")),
    Leaf("protocol", "protocol@type", choice("a protocol", "raw telnet telnets tls")),
    Leaf("append", "source@append", ON),
    Leaf("log", "log@file", PATH),
    Leaf("log_append", "log@append", ON),
)
_SERIAL_TARGETS = "isa-serial usb-serial pci-serial spapr-vio-serial system-serial sclp-serial"


def _nameless(_entry: Mapping[str, Any]) -> str | None:
    return None


def _pty(_entry: Mapping[str, Any], _root: Element) -> Mapping[str, Any]:
    return {"type": "pty"}


SERIALS = Items(
    "serials",
    "serial",
    (*_SOURCE, Leaf("target", "target@type", choice("a kind of port", _SERIAL_TARGETS))),
    name=_nameless,
    fresh=_pty,
)


def _no_serial(element: Element, _container: Element) -> bool:
    target = element.find("target")
    return target is not None and target.get("type", "serial") != "serial"


CONSOLES = Items(
    "consoles",
    "console",
    (*_SOURCE, Leaf("target", "target@type", choice("a kind of console", "virtio sclp sclplm"))),
    name=_nameless,
    own=_no_serial,
    fresh=lambda _entry, _root: {"type": "pty", "target": "virtio"},
)


def _name(entry: Mapping[str, Any]) -> str | None:
    name = entry.get("name")
    return None if name is None else str(name)


def _virtio(element: Element, _container: Element) -> bool:
    target = element.find("target")
    return target is not None and target.get("type") == "virtio"


CHANNELS = Items(
    "channels",
    "channel",
    (
        Leaf("name", "target@name", TEXT, make={"type": "virtio"}, required=True),
        *_SOURCE,
    ),
    name=_name,
    needs=("name",),
    own=_virtio,
    fresh=lambda _entry, _root: {"type": "unix"},
    attach=lambda _entry: LIVE,
)

FIELDS: tuple[Field, ...] = (SERIALS, CONSOLES, CHANNELS)
