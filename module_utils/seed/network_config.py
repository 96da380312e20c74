# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a network-config may say, in version 2 and in version 1, as tables.

Version 2 is Netplan's format, of which cloud-init reads a part and hands on all where Netplan is:
https://docs.cloud-init.io/en/latest/reference/network-config-format-v2.html and
https://netplan.readthedocs.io/en/latest/netplan-yaml/. Sections that cloud-init does not read by
itself (wifis, tunnels, …) are looked at no further than that they map names to mappings.
"""

from __future__ import annotations

from typing import Any, Iterator, Mapping

from ..converge.errors import Problem, shown
from . import shape
from .shape import (
    ANY,
    BOOLEAN,
    MAPPING,
    NOTHING,
    TEXT,
    WHOLE,
    Shape,
    each,
    form,
    keyed,
    word,
)

_ADDRESS = "an address with its prefix, such as 192.0.2.10/24"
_MAC = form(r"[0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2}){5}(?:(?::[0-9A-Fa-f]{2}){14})?", "a MAC address")


def _all(wanted: Shape, *keys: str) -> dict[str, Shape]:
    return dict.fromkeys(keys, wanted)


def _section(device: Shape) -> Shape:
    return keyed({"renderer": _RENDERER}, others=device)


def _with_prefix(text: str) -> bool:
    import ipaddress  # compiled on the host, so only where an address is stated

    try:
        ipaddress.ip_interface(text)
    except ValueError:
        return False
    return "/" in text


def _gateway(version: int) -> Shape:
    def is_one(text: str) -> bool:
        import ipaddress

        try:
            return ipaddress.ip_address(text).version == version
        except ValueError:
            return False

    return Shape(TEXT.kinds, test=is_one, called=f"an IPv{version} address")


_TEXTS = each(TEXT)
_SWITCH = BOOLEAN | word("yes", "no")
_RENDERER = word("networkd", "NetworkManager", "sriov")
_OVERRIDES = keyed(
    {
        **_all(BOOLEAN, "send-hostname", "use-dns", "use-hostname", "use-mtu", "use-ntp"),
        **_all(BOOLEAN, "use-routes"),
        "hostname": TEXT,
        "route-metric": WHOLE,
        "use-domains": TEXT | BOOLEAN,
    }
)
_ROUTE = keyed(
    {
        **_all(TEXT, "to", "via", "from", "type", "scope"),
        **_all(WHOLE, "metric", "table", "mtu"),
        **_all(WHOLE, "congestion-window", "advertised-receive-window"),
        "on-link": BOOLEAN,
    },
    "to",
)
_POLICY = keyed(
    {
        **_all(TEXT, "from", "to"),
        **_all(WHOLE, "table", "priority", "mark", "type-of-service"),
    }
)
_OFFLOADS = (
    *("receive-checksum-offload", "transmit-checksum-offload", "tcp-segmentation-offload"),
    *("tcp6-segmentation-offload", "generic-segmentation-offload", "generic-receive-offload"),
    "large-receive-offload",
)
_DEVICE: dict[str, Shape] = {
    **_all(_SWITCH, "dhcp4", "dhcp6"),
    **_all(_OVERRIDES, "dhcp4-overrides", "dhcp6-overrides"),
    **_all(BOOLEAN, "optional", "critical", "accept-ra", "ignore-carrier", "ipv6-privacy"),
    **_all(BOOLEAN, "neigh-suppress"),
    **_all(WHOLE, "mtu", "ipv6-mtu"),
    **_all(_TEXTS, "link-local", "optional-addresses"),
    **_all(TEXT, "dhcp-identifier", "ipv6-address-generation", "ipv6-address-token"),
    **_all(MAPPING, "openvswitch", "networkmanager", "ra-overrides"),
    "gateway4": _gateway(4),
    "gateway6": _gateway(6),
    "renderer": _RENDERER,
    "activation-mode": word("manual", "off") | BOOLEAN,
    "macaddress": TEXT,
    "addresses": each(Shape(TEXT.kinds, test=_with_prefix, called=_ADDRESS) | MAPPING),
    "nameservers": keyed(_all(_TEXTS, "addresses", "search")),
    "routes": each(_ROUTE),
    "routing-policy": each(_POLICY),
}
_ETHERNET: dict[str, Shape] = {
    **_DEVICE,
    "match": keyed({"name": TEXT, "macaddress": _MAC, "driver": TEXT | _TEXTS}),
    "set-name": form(r"\S{1,15}", "an interface's name, at most 15 characters"),
    **_all(BOOLEAN, "wakeonlan", "emit-lldp", "delay-virtual-functions-rebind", *_OFFLOADS),
    **_all(TEXT, "link", "embedded-switch-mode", "infiniband-mode"),
    "virtual-function-count": WHOLE,
    "auth": MAPPING,
}
_BOND = keyed(
    {
        "mode": word(
            *("balance-rr", "active-backup", "balance-xor", "broadcast", "802.3ad"),
            *("balance-tlb", "balance-alb", "balance-tcp", "balance-slb"),
        ),
        "lacp-rate": word("slow", "fast"),
        "arp-ip-targets": _TEXTS,
        **_all(BOOLEAN, "all-slaves-active", "all-members-active"),
        **_all(WHOLE, "min-links", "gratuitous-arp", "gratuitious-arp", "packets-per-slave"),
        **_all(WHOLE, "packets-per-member", "resend-igmp"),
        **_all(TEXT | WHOLE, "mii-monitor-interval", "arp-interval", "up-delay", "down-delay"),
        **_all(TEXT | WHOLE, "learn-packet-interval"),
        **_all(TEXT, "transmit-hash-policy", "ad-select", "arp-validate", "arp-all-targets"),
        **_all(TEXT, "fail-over-mac-policy", "primary-reselect-policy", "primary"),
    }
)
_BRIDGE = keyed(
    {
        **_all(TEXT | WHOLE, "ageing-time", "aging-time", "forward-delay", "hello-time", "max-age"),
        **_all(WHOLE | MAPPING, "path-cost", "port-priority"),
        "priority": WHOLE,
        "stp": BOOLEAN,
    }
)
_SECTIONS: dict[str, Shape] = {
    "ethernets": keyed(_ETHERNET),
    "bonds": keyed({**_DEVICE, "interfaces": _TEXTS, "parameters": _BOND}),
    "bridges": keyed({**_DEVICE, "interfaces": _TEXTS, "parameters": _BRIDGE}),
    "vlans": keyed({**_DEVICE, "id": WHOLE, "link": TEXT}, "id", "link"),
    **_all(MAPPING, "wifis", "modems", "tunnels", "vrfs", "dummy-devices", "virtual-ethernets"),
    **_all(MAPPING, "nm-devices"),
}
_VERSION_2 = keyed(
    {
        "version": WHOLE,
        "renderer": _RENDERER,
        **{name: _section(inside) for name, inside in _SECTIONS.items()},
        "openvswitch": MAPPING,
    }
)

_SUBNET = keyed(
    {
        **_all(TEXT, "type", "control", "address", "broadcast", "gateway"),
        "netmask": TEXT | WHOLE,
        **_all(TEXT | _TEXTS, "dns_nameservers", "dns_search"),
        "routes": each(MAPPING),
    },
    "type",
    others=ANY,
)
_ENTRY = keyed(
    {
        "type": word(
            *("physical", "bond", "bridge", "vlan", "nameserver", "route"),
            *("loopback", "infiniband"),
        ),
        "name": form(r"\S{1,15}", "an interface's name, at most 15 characters"),
        "mac_address": _MAC | NOTHING,
        "mtu": WHOLE | NOTHING,
        "subnets": each(_SUBNET),
        "params": MAPPING,
        **_all(_TEXTS, "bond_interfaces", "bridge_interfaces"),
        "vlan_link": TEXT,
        "vlan_id": WHOLE,
    },
    "type",
    others=ANY,
)
_VERSION_1 = keyed({"version": WHOLE, "config": each(_ENTRY) | word("disabled")})


def ethernet(stated: Mapping[str, Any], path: str) -> Iterator[Problem]:
    """Yield what is wrong with what was stated of one ethernet of version 2."""
    return shape.problems(_SECTIONS["ethernets"], stated, path)


def version(body: Mapping[str, Any]) -> Any:
    """Return the version of a network-config, which that of version 1 need not state."""
    return body.get("version", 1 if "config" in body else 2)


def problems(body: Mapping[str, Any], path: str) -> Iterator[Problem]:
    """Yield what a network-config at a path has against the table of its version."""
    stated = version(body)
    if stated == 1 and "config" in body:
        yield from shape.problems(_VERSION_1, body, path)
    elif stated == 2:
        yield from shape.problems(_VERSION_2, body, path)
    else:
        remedy = "version 1 has its config beside it" if stated == 1 else None
        yield Problem(f"{path}.version", "2", shown(stated), remedy)
