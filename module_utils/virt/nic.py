# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Network interfaces (formatdomain, "Network interfaces").

A NIC is told by its MAC; those that are stated without one are taken in the order in which they
stand. What it is connected to is the one of network, bridge, direct, hostdev, … that is stated.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Mapping

from ..converge.action import LIVE, NEXT_BOOT
from .codecs import Pattern, Whole, Words
from .compound import Tags
from .fields import Aside, Field, Group, Leaf, Selected, Variant, clear, together
from .lists import Items, Lists
from .words import COUNT, DEVICE, MAC, ORDER, PATH, PCI, TEXT, UUID, YES, choice

if TYPE_CHECKING:
    from .document import Element


# The filters that this toolkit has itself: a guest sends from its own MAC, and its own addresses.
ANTISPOOF, ANTISPOOF_IP = "virtfleet-antispoof", "virtfleet-antispoof-ip"
ANTISPOOFING = {ANTISPOOF, ANTISPOOF_IP}

_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_CHOSEN = re.compile(r"(?:vnet|macvtap|macvlan)[0-9]+")


def _variant(kind: str) -> Variant:
    return Variant(kind, default="", clears=("@managed", "source", "virtualport"))


def _plugged(scope: Element, _value: Any) -> str:
    """Return live between networks and bridges: the host's end alone is plugged elsewhere.

    libvirt (before 10.10) does that for no port of another kind than a plain bridge's.
    """
    plain = scope.get("type") in ("network", "bridge") and scope.find("virtualport") is None
    return LIVE if plain else NEXT_BOOT


def _tagged(scope: Element, value: Any) -> str:
    """Return live for other tags of a port of Open vSwitch; libvirt (9.0) fails to remove them."""
    port = scope.find("virtualport")
    switch = port is not None and port.get("type") == "openvswitch"
    return LIVE if switch and value is not None else NEXT_BOOT


def bandwidth(when: str = LIVE, floor: tuple[str, ...] = ("floor",)) -> Group:
    """Return limits of what comes in and goes out, in KiB and KiB a second."""
    speed = Whole("KiB a second", 1)
    burst = Whole("KiB", 1)

    def direction(name: str, keys: tuple[str, ...]) -> Group:
        at = f"bandwidth/{name}"
        leaves = (
            Leaf(key, f"{at}@{key}", burst if key == "burst" else speed, when) for key in keys
        )
        return Group(name, tuple(leaves))

    common = ("average", "peak", "burst")
    return Group(
        "bandwidth", (direction("inbound", (*common, *floor)), direction("outbound", common))
    )


def parameters(key: str, at: str) -> Lists:
    """Return the values of a filter's variables, one or several for each."""
    return Lists(
        key,
        at,
        "parameter",
        "name",
        "value",
        Pattern("a parameter's name", "[a-zA-Z0-9_]+"),
        Pattern("a parameter's value", r"[a-zA-Z0-9_.:]+"),
        LIVE,
    )


def virtualport(kinds: str, when: str = NEXT_BOOT) -> Group:
    """Return the port of a switch that is no plain bridge."""
    return Group(
        "virtualport",
        (
            Leaf("type", "@type", choice("a type", kinds), when, clears=("parameters",)),
            Leaf("interface_id", "parameters@interfaceid", UUID, when),
            Leaf("profile_id", "parameters@profileid", Pattern("a profile", ".{1,39}"), when),
        ),
        at="virtualport",
    )


class _Target(Leaf):
    """The host's end of a NIC, where the user named it: libvirt's own names change every time."""

    def get(self, scope: Element) -> Any:
        """Return what is there, None for nothing."""
        found = super().get(scope)
        return None if isinstance(found, str) and _CHOSEN.fullmatch(found) else found


class _Filter(Leaf):
    """A filter's name; without one there is nothing that the parameters are of."""

    def clear(self, element: Element, value: Any) -> None:
        """Take the parameters away with the filter; another one may take the same."""
        if value is None:
            clear(element, ("parameter",))


FIELDS: tuple[Field, ...] = (
    Leaf("mac", "mac@address", MAC, required=True),
    Leaf(
        "network",
        "source@network",
        TEXT,
        _plugged,
        clears=("@portid", "@bridge"),
        variant=_variant("network"),
    ),
    Leaf(
        "bridge",
        "source@bridge",
        Pattern("a bridge's name", r"[a-zA-Z0-9_.\-\\:/ ]{1,64}"),
        _plugged,
        clears=("@network", "@portid"),
        variant=_variant("bridge"),
    ),
    Aside("lease", Pattern("an IPv4 address", rf"(?:{_OCTET}\.){{3}}{_OCTET}")),
    Leaf("direct", "source@dev", DEVICE, variant=_variant("direct")),
    Leaf(
        "mode",
        "source@mode",
        choice("a macvtap mode", "vepa bridge private passthrough"),
        variant=_variant("direct"),
    ),
    Leaf("hostdev", "source/address[type=pci]", PCI, variant=_variant("hostdev")),
    Selected("user", _variant("user")),
    Selected("ethernet", _variant("ethernet")),
    Leaf("managed", "@managed", YES),
    Leaf("portgroup", "source@portgroup", DEVICE),
    virtualport("802.1Qbh openvswitch midonet"),
    _Target("target", "target@dev", DEVICE),
    Leaf("vlan", "vlan", Tags(), _tagged),
    Leaf("isolated", "port@isolated", YES, _plugged),
    Leaf("model", "model@type", Pattern("a NIC model", r"[a-zA-Z0-9_\-]+"), required=True),
    Leaf("driver", "driver@name", Words("a driver", ("vhost", "qemu"))),
    Leaf("queues", "driver@queues", Whole("a number of queues", 1, 256), absent=1),
    Leaf("rx_queue_size", "driver@rx_queue_size", COUNT),
    Leaf("tx_queue_size", "driver@tx_queue_size", COUNT),
    _Filter(
        "filter", "filterref@filter", Pattern("a filter's name", r"[a-zA-Z_][a-zA-Z0-9_.\-]*"), LIVE
    ),
    parameters("filter_parameters", "filterref"),
    bandwidth(),
    Leaf("link", "link@state", choice("a state", "up down"), LIVE, absent="up"),
    Leaf("mtu", "mtu@size", Whole("bytes", 68, 65535)),
    Leaf("boot", "boot@order", ORDER),
    Leaf("rom", "rom@enabled", YES),
    Leaf("rom_file", "rom@file", PATH),
    Leaf("trust_guest_rx_filters", "@trustGuestRxFilters", YES),
)
WITH_PORT = ("network", "bridge", "direct", "hostdev")  # sources that a virtualport is for
SOURCES = ("network", "bridge", "direct", "hostdev", "user", "ethernet")
_PORT = (*SOURCES, "mode", "portgroup", "virtualport", "vlan", "isolated")


def _name(entry: Mapping[str, Any]) -> str | None:
    mac = entry.get("mac")
    return None if mac is None else str(mac)


def _fresh(entry: Mapping[str, Any], _root: Element) -> Mapping[str, Any]:
    """Return what a new NIC has besides: virtio, where the host's own device is not passed on."""
    return {"managed": True} if "hostdev" in entry else {"model": "virtio"}


def _agree(whens: Mapping[str, str]) -> Mapping[str, str]:
    """Change where a NIC is plugged in at once with its VLAN, and what else the port is there."""
    return together(_PORT, whens)


NICS = Items(
    "nics",
    "interface",
    FIELDS,
    name=_name,
    fresh=_fresh,
    attach=lambda _entry: LIVE,
    agree=_agree,
)
