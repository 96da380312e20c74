# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a person sees and hears: graphics, video, sound, input.

Sources: formatdomain, "Graphical framebuffers", "Video devices", "Sound devices", "Input devices".
A password is in the XML only where the connection asked for it (VIR_DOMAIN_XML_SECURE).
"""

from __future__ import annotations

from typing import Any, Mapping

from ..converge.action import LIVE, NEXT_BOOT
from .codecs import Pattern, Secret, Size, Words
from .compound import Chosen
from .document import Element, elements, remove
from .fields import Field, Group, Leaf
from .lists import Items
from .words import COUNT, HOST, PATH, YES, choice

GRAPHICS_TYPES = ("vnc", "spice", "egl-headless", "dbus")
ON_A_PORT = ("vnc", "spice")
# What only some of them have.
ONLY: dict[str, tuple[str, ...]] = {
    "port": ON_A_PORT,
    "listen": ON_A_PORT,
    "password": ON_A_PORT,
    "keymap": ON_A_PORT,
    "websocket": ("vnc",),
    "share_policy": ("vnc",),
    "power_control": ("vnc",),
    "tls_port": ("spice",),
    "default_mode": ("spice",),
    "image_compression": ("spice",),
    "streaming": ("spice",),
    "clipboard": ("spice",),
    "file_transfer": ("spice",),
    "gl": ("spice", "dbus"),
    "render_node": ("spice", "dbus"),
}


class _Listen(Leaf):
    """The address listened on; libvirt repeats that of the first <listen> in an attribute."""

    def put(self, scope: Element, value: Any) -> None:
        """Write the value."""
        for child in list(elements(scope, "listen")):
            if child.get("type") != "address":
                remove(scope, child)
        if "listen" in scope.attrib:
            scope.set("listen", value)
        super().put(scope, value)

    def erase(self, scope: Element) -> None:
        """Take it away."""
        scope.attrib.pop("listen", None)
        super().erase(scope)


def _password(scope: Element, value: Any) -> str:
    """Return live between passwords: QEMU asks for one where it was started so, and only there."""
    return LIVE if value is not None and "passwd" in scope.attrib else NEXT_BOOT


GRAPHICS = Items(
    "graphics",
    "graphics",
    (
        Leaf(
            "type", "@type", choice("a kind of graphics", " ".join(GRAPHICS_TYPES)), required=True
        ),
        Leaf("port", "", Chosen("a port"), required=True),
        Leaf("tls_port", "@tlsPort", Pattern("a port", "[1-9][0-9]{0,4}")),
        Leaf("websocket", "@websocket", Pattern("a port", "[1-9][0-9]{0,4}")),
        _Listen("listen", "listen[type=address]@address", HOST),
        Leaf("password", "@passwd", Secret("a password"), _password),
        Leaf("keymap", "@keymap", Pattern("a keymap", r"[a-zA-Z0-9_\-]+")),
        Leaf(
            "share_policy",
            "@sharePolicy",
            choice("a policy", "allow-exclusive force-shared ignore"),
        ),
        Leaf("power_control", "@powerControl", YES),
        Leaf("default_mode", "@defaultMode", choice("a mode", "any secure insecure")),
        Leaf(
            "image_compression",
            "image@compression",
            choice("a compression", "auto_glz auto_lz quic glz lz off"),
        ),
        Leaf("streaming", "streaming@mode", choice("a mode", "filter all off")),
        Leaf("clipboard", "clipboard@copypaste", YES),
        Leaf("file_transfer", "filetransfer@enable", YES),
        Leaf("gl", "gl@enable", YES),
        Leaf("render_node", "gl@rendernode", PATH),
    ),
    name=lambda entry: entry.get("type"),
    needs=("type",),
    fresh=lambda entry, _root: {"port": "auto"} if entry.get("type") in ON_A_PORT else {},
)

_KIB = Size(unit_in=None)  # in the XML a bare number of KiB
VIDEOS = Items(
    "videos",
    "video",
    (
        Leaf(
            "model",
            "model@type",
            choice("a video model", "virtio qxl vga bochs cirrus ramfb vmvga none"),
            required=True,
            clears=("@ram", "@vgamem", "@vram", "@vram64", "acceleration", "resolution"),
        ),
        Leaf("vram", "model@vram", _KIB),
        Leaf("ram", "model@ram", _KIB),
        Leaf("vgamem", "model@vgamem", _KIB),
        Leaf("heads", "model@heads", COUNT),
        Leaf("primary", "model@primary", YES),
        Leaf("accel3d", "model/acceleration@accel3d", YES),
        Group(
            "resolution",
            (
                Leaf("x", "@x", COUNT, required=True),
                Leaf("y", "@y", COUNT, required=True),
            ),
            at="model/resolution",
            thing=True,
            needs=("x", "y"),
        ),
    ),
    name=lambda _entry: None,
    needs=("model",),
)

SOUNDS = Items(
    "sounds",
    "sound",
    (
        Leaf(
            "model",
            "@model",
            choice("a sound model", "ich9 ich6 ac97 es1370 sb16 usb"),
            required=True,
        ),
    ),
    name=lambda entry: entry.get("model"),
    needs=("model",),
)


def _input(entry: Mapping[str, Any]) -> str:
    return f"{entry.get('type')}-{entry.get('bus', 'usb')}"


def _added(element: Element, _container: Element) -> bool:
    """Return whether an input device is no PS/2 one: those come with the machine."""
    return element.get("bus") != "ps2"


INPUTS = Items(
    "inputs",
    "input",
    (
        Leaf("type", "@type", choice("a kind of input", "tablet mouse keyboard"), required=True),
        Leaf("bus", "@bus", Words("a bus", ("usb", "virtio")), required=True),
    ),
    name=_input,
    needs=("type",),
    own=_added,
    fresh=lambda _entry, _root: {"bus": "usb"},
    attach=lambda entry: LIVE if entry.get("bus", "usb") in ("usb", "virtio") else NEXT_BOOT,
)

FIELDS: tuple[Field, ...] = (INPUTS, GRAPHICS, SOUNDS, VIDEOS)
