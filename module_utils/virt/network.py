# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The table of a virtual network (https://libvirt.org/formatnetwork.html).

What is ``live`` libvirt changes in a network that runs (virNetworkUpdate): addresses that DHCP
gives, records of its DNS, its port groups, the interfaces that it leads through. All else waits
until the network is started anew.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any, Mapping, Union

from ..converge.action import LIVE, REPLACE
from .codecs import Codec, Pattern, Refused, Whole, Words, one_line
from .compound import Tags
from .fields import Field, Group, Leaf, clear
from .lists import Items, Map, Values
from .nic import bandwidth, virtualport
from .words import DEVICE, MAC, NUMBER, PATH, PCI, PORT, TEXT, UUID, YES, choice

if TYPE_CHECKING:
    from .document import Element

Stated = Mapping[str, Any]
Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]

ISOLATED = "isolated"
ROUTED = ("nat", "route", "open", ISOLATED)  # modes in which libvirt has a bridge of its own
MODES = (*ROUTED, "bridge", "private", "vepa", "passthrough", "hostdev")


class Ip(Codec):
    """An address of IPv4 or IPv6, in its shortest form."""

    def decode(self, raw: str) -> str:
        """Return the value that the text stands for."""
        found = address(raw)
        return raw if found is None else str(found)

    def check(self, value: Any) -> str:
        """Return the canonical value."""
        text = one_line(value, self.expected)
        found = address(text)
        if found is None:
            raise Refused(self.expected)
        return str(found)


def address(text: object) -> Address | None:
    """Return the address that a text says, None where it says none."""
    try:
        return ipaddress.ip_address(text) if isinstance(text, str) else None
    except ValueError:
        return None


class _Length(Codec):
    """The length of a prefix, which older definitions state as a netmask."""

    def get(self, element: Element, attribute: str | None) -> Any:
        """Return what is there, None for nothing."""
        raw, mask = element.get(str(attribute)), element.get("netmask")
        if raw is not None:
            return int(raw) if raw.isascii() and raw.isdigit() else raw
        if mask is None:
            return None
        try:
            return ipaddress.ip_network(f"0.0.0.0/{mask}").prefixlen
        except ValueError:
            return mask

    def put(self, element: Element, attribute: str | None, value: Any) -> None:
        """Write the value."""
        element.attrib.pop("netmask", None)
        element.set(str(attribute), str(value))

    def check(self, value: Any) -> int:
        """Return the canonical value."""
        if type(value) is not int or not 0 <= value <= 128:
            raise Refused(f"{self.expected}, 0 to 128")
        return value


class _Prefix(Leaf):
    """How long a prefix is; an older definition says it in another attribute."""

    def needed(self) -> None:
        """Return None: one of two attributes is there."""


class _Family(Leaf):
    """The family of an address, which the address itself says."""

    def get(self, scope: Element) -> Any:
        """Return None: it is nothing of its own."""
        del scope


class _Mode(Leaf):
    """How a network leads out; one that does not has no <forward> at all."""

    def needed(self) -> None:
        """Return None: an isolated network has nothing to find."""

    def get(self, scope: Element) -> Any:
        """Return the mode."""
        forward = scope.find("forward")
        return ISOLATED if forward is None else forward.get("mode", "nat")

    def put(self, scope: Element, value: Any) -> None:
        """Write the mode."""
        if value == ISOLATED:
            clear(scope, ("forward",))
            return
        super().put(scope, value)

    def clear(self, element: Element, value: Any) -> None:
        """Take the translation of addresses away from what no longer translates."""
        if value != "nat":
            clear(element, ("nat",))


IP = Ip("an address of IPv4 or IPv6")
_DUID = r"0{1,2}:0?[1-4](:[0-9a-fA-F]{1,2}){5,128}"
_FAMILY = choice("a family", "ipv4 ipv6")
_HOSTNAME = Pattern("a host's name", r"[a-zA-Z0-9_]([a-zA-Z0-9_.\-]{0,252}[a-zA-Z0-9_.])?")
_DOMAIN = Pattern("a domain", r"[a-zA-Z0-9_]([a-zA-Z0-9_.\-]{0,252}[a-zA-Z0-9_.])?")


def _family(entry: Stated, _root: Element) -> Stated:
    """Return what a new address or route has to say of itself: libvirt takes IPv4 where none is."""
    found = address(entry.get("address"))
    return {"family": "ipv6"} if found is not None and found.version == 6 else {}


def _lease(entry: Stated) -> str | None:
    found = entry.get("mac") or entry.get("id") or entry.get("name") or entry.get("ip")
    return None if found is None else str(found)


def _route(entry: Stated) -> str:
    return f"{entry.get('address')}/{entry.get('prefix')}"


DHCP: tuple[Field, ...] = (
    Items(
        "ranges",
        "range",
        (Leaf("start", "@start", IP, LIVE), Leaf("end", "@end", IP, LIVE)),
        name=lambda entry: f"{entry.get('start')}-{entry.get('end')}",
        at="",
        needs=("start", "end"),
        attach=lambda _entry: LIVE,
    ),
    Items(
        "hosts",
        "host",
        (
            Leaf("mac", "@mac", MAC, LIVE),
            Leaf("id", "@id", Pattern("a DUID (RFC 8415, 11)", _DUID), LIVE),
            Leaf("name", "@name", _HOSTNAME, LIVE),
            Leaf("ip", "@ip", IP, LIVE),
        ),
        name=_lease,
        at="",
        needs=("ip",),
        attach=lambda _entry: LIVE,
    ),
    Group(
        "bootp",
        (
            Leaf("file", "@file", Pattern("a file or URL", r"[^\s]+"), required=True),
            Leaf("server", "@server", _HOSTNAME),
        ),
        at="bootp",
        needs=("file",),
    ),
)
IPS = Items(
    "ips",
    "ip",
    (
        Leaf("address", "@address", IP, required=True),
        _Prefix("prefix", "@prefix", _Length("the length of a prefix")),
        _Family("family", "@family", _FAMILY, absent="ipv4"),
        Leaf("local_ptr", "@localPtr", YES),
        Leaf("tftp_root", "tftp@root", PATH),
        Group("dhcp", DHCP, at="dhcp"),
    ),
    name=lambda entry: entry.get("address"),
    at="",
    needs=("address", "prefix"),
    fresh=_family,
)
ROUTES = Items(
    "routes",
    "route",
    (
        Leaf("address", "@address", IP, required=True),
        _Prefix("prefix", "@prefix", _Length("the length of a prefix")),
        _Family("family", "@family", _FAMILY, absent="ipv4"),
        Leaf("gateway", "@gateway", IP, required=True),
        Leaf("metric", "@metric", Whole("a metric", 1)),
    ),
    name=_route,
    at="",
    needs=("address", "prefix", "gateway"),
    fresh=_family,
)
_SERVICE = (
    Leaf("service", "@service", Pattern("a service", r"_?[a-zA-Z0-9\-]+"), LIVE, required=True),
    Leaf("protocol", "@protocol", Pattern("a protocol", r"_?[a-zA-Z]+"), LIVE, required=True),
    Leaf("domain", "@domain", _DOMAIN, LIVE),
    Leaf("target", "@target", _HOSTNAME, LIVE),
    Leaf("port", "@port", PORT, LIVE),
    Leaf("priority", "@priority", Whole("a priority", 0, 65535), LIVE),
    Leaf("weight", "@weight", Whole("a weight", 0, 65535), LIVE),
)
DNS: tuple[Field, ...] = (
    Leaf("enable", "@enable", YES, absent=True),
    Leaf("forward_plain_names", "@forwardPlainNames", YES, absent=True),
    Items(
        "forwarders",
        "forwarder",
        (Leaf("address", "@addr", IP), Leaf("domain", "@domain", _DOMAIN)),
        name=lambda entry: f"{entry.get('address', '')}/{entry.get('domain', '')}",
        at="",
    ),
    Map("txt", "", "txt", "name", "value", _DOMAIN, TEXT, LIVE),
    Items(
        "srv",
        "srv",
        _SERVICE,
        name=lambda entry: "/".join(str(entry.get(one.key, "")) for one in _SERVICE[:5]),
        at="",
        needs=("service", "protocol"),
        attach=lambda _entry: LIVE,
    ),
    Items(
        "hosts",
        "host",
        (
            Leaf("ip", "@ip", IP, LIVE, required=True),
            Values("names", "hostname", None, _HOSTNAME, when=LIVE, least=1),
        ),
        name=lambda entry: entry.get("ip"),
        at="",
        needs=("ip", "names"),
        attach=lambda _entry: LIVE,
    ),
)
PORTGROUPS = Items(
    "portgroups",
    "portgroup",
    (
        Leaf("name", "@name", DEVICE, LIVE, required=True),
        Leaf("default", "@default", YES, LIVE, absent=False),
        Leaf("trust_guest_rx_filters", "@trustGuestRxFilters", YES, LIVE),
        Leaf("vlan", "vlan", Tags(), LIVE),
        virtualport("openvswitch 802.1Qbh midonet", LIVE),
        bandwidth(LIVE, ()),
    ),
    name=lambda entry: entry.get("name"),
    at="",
    needs=("name",),
    attach=lambda _entry: LIVE,
)

FIELDS: tuple[Field, ...] = (
    Leaf("uuid", "uuid", UUID, when=REPLACE, required=True),
    Leaf("ipv6", "@ipv6", YES, absent=False),
    Leaf("trust_guest_rx_filters", "@trustGuestRxFilters", YES),
    _Mode("mode", "forward@mode", Words("a mode", MODES), required=True),
    Leaf("dev", "forward@dev", DEVICE),
    Group(
        "nat",
        (
            Leaf("ipv6", "@ipv6", YES, absent=False),
            Leaf("address_start", "address@start", IP),
            Leaf("address_end", "address@end", IP),
            Leaf("port_start", "port@start", PORT, absent=1024),
            Leaf("port_end", "port@end", PORT, absent=65535),
        ),
        at="forward/nat",
    ),
    Leaf("managed", "forward@managed", YES, absent=False),
    Leaf("driver", "forward/driver@name", choice("a driver", "vfio")),
    Leaf("pf", "forward/pf@dev", DEVICE),
    Values("interfaces", "interface", "dev", DEVICE, "forward", LIVE),
    Values("addresses", "address", None, PCI, "forward", make={"type": "pci"}),
    Leaf("bridge", "bridge@name", Pattern("a bridge's name", r"[a-zA-Z0-9_.\-]{1,15}")),
    Leaf("stp", "bridge@stp", Words("on or off", ("on", "off")), absent="on"),
    Leaf("bridge_delay", "bridge@delay", NUMBER, absent=0),
    Leaf("zone", "bridge@zone", DEVICE),
    Leaf("mac_table", "bridge@macTableManager", choice("who has the table", "kernel libvirt")),
    Leaf("mtu", "mtu@size", Whole("bytes", 68, 65535)),
    Leaf("mac", "mac@address", MAC),
    Leaf("domain", "domain@name", _DOMAIN),
    Leaf("domain_local", "domain@localOnly", YES, absent=False),
    Group("dns", DNS, at="dns"),
    Leaf("vlan", "vlan", Tags()),
    bandwidth("next_boot", ()),
    IPS,
    ROUTES,
    virtualport("openvswitch 802.1Qbh midonet"),
    Leaf("port_isolated", "port@isolated", YES),
    PORTGROUPS,
)
KEYS = tuple(one.key for one in FIELDS)
