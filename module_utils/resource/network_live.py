# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A network that runs: what libvirt changes in it at once, and who is plugged in.

virNetworkUpdate takes one element of one section at a time. What differs is found by meaning:
elements with the same attributes, text and children are the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Iterator, Tuple

from ..virt.document import elements, to_text, tree

if TYPE_CHECKING:
    from ..virt.connection import Connection
    from ..virt.document import Element

Update = Tuple[int, int, int, str]  # command, section, index of the <ip>, XML

_ANY = -1  # the index where a section does not belong to one <ip>


def _meaning(element: Element) -> Any:
    """Return what an element says, whatever the order of its attributes and children."""
    text = (element.text or "").strip()
    children = sorted((_meaning(child) for child in elements(element)), key=repr)
    return element.tag, sorted(element.attrib.items()), text, children


def _children(root: Element, way: str, tag: str) -> list[Element]:
    holder = root.find(way) if way else root
    return [] if holder is None else list(elements(holder, tag))


def _pairs(
    libvirt: Any, section: int, index: int, there: list[Element], wanted: list[Element]
) -> Iterator[Update]:
    """Yield what makes the elements that are there those that are wanted."""
    have, want = [_meaning(one) for one in there], [_meaning(one) for one in wanted]
    for one, said in zip(there, have):
        if said not in want:
            yield libvirt.VIR_NETWORK_UPDATE_COMMAND_DELETE, section, index, to_text(one)
    for one, said in zip(wanted, want):
        if said not in have:
            yield libvirt.VIR_NETWORK_UPDATE_COMMAND_ADD_LAST, section, index, to_text(one)


def _groups(libvirt: Any, there: list[Element], wanted: list[Element]) -> Iterator[Update]:
    """Yield what changes port groups: libvirt takes a new one of the same name in place."""
    section = libvirt.VIR_NETWORK_SECTION_PORTGROUP
    have = {one.get("name"): one for one in there}
    want = {one.get("name"): one for one in wanted}
    for name, one in have.items():
        if name not in want:
            yield libvirt.VIR_NETWORK_UPDATE_COMMAND_DELETE, section, _ANY, to_text(one)
    for name, one in want.items():
        if name not in have:
            yield libvirt.VIR_NETWORK_UPDATE_COMMAND_ADD_LAST, section, _ANY, to_text(one)
        elif _meaning(one) != _meaning(have[name]):
            yield libvirt.VIR_NETWORK_UPDATE_COMMAND_MODIFY, section, _ANY, to_text(one)


def updates(libvirt: Any, live: str, wanted: str) -> Iterator[Update]:
    """Yield the calls that bring an active network as near to a definition as libvirt can."""
    now, then = tree(live), tree(wanted)
    sections = (
        ("forward", "interface", libvirt.VIR_NETWORK_SECTION_FORWARD_INTERFACE),
        ("dns", "txt", libvirt.VIR_NETWORK_SECTION_DNS_TXT),
        ("dns", "srv", libvirt.VIR_NETWORK_SECTION_DNS_SRV),
        ("dns", "host", libvirt.VIR_NETWORK_SECTION_DNS_HOST),
    )
    for way, tag, section in sections:
        there = [_without_use(one) for one in _children(now, way, tag)]
        yield from _pairs(libvirt, section, _ANY, there, _children(then, way, tag))
    yield from _groups(libvirt, _children(now, "", "portgroup"), _children(then, "", "portgroup"))
    addressed = {one.get("address"): one for one in elements(then, "ip")}
    for index, one in enumerate(elements(now, "ip")):
        other = addressed.get(one.get("address"))
        if other is None:
            continue
        dhcp = (
            ("range", libvirt.VIR_NETWORK_SECTION_IP_DHCP_RANGE),
            ("host", libvirt.VIR_NETWORK_SECTION_IP_DHCP_HOST),
        )
        for tag, section in dhcp:
            there, want = _children(one, "dhcp", tag), _children(other, "dhcp", tag)
            yield from _pairs(libvirt, section, index, there, want)


def _without_use(element: Element) -> Element:
    """Return an element without the count of its users, which only an active network has."""
    element.attrib.pop("connections", None)
    return element


def plugs(connection: Connection, name: str) -> list[tuple[str, str]]:
    """Return the NICs that running guests have on a network: guest and device of the host."""
    libvirt = connection.libvirt
    found = []
    for domain in connection.handle.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE):
        with connection.passing():
            for nic in tree(domain.XMLDesc(0)).findall("devices/interface"):
                source, target = nic.find("source"), nic.find("target")
                if source is not None and source.get("network") == name:
                    device = "" if target is None else target.get("dev", "")
                    found.append((domain.name(), device))
    return found
