# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What must hold between the keys of one network, whatever the host is."""

from __future__ import annotations

import ipaddress
from typing import Any, Iterator, Mapping, Union

from ..converge.compare import join
from ..converge.errors import Problem, shown
from .network import ROUTED, Address, address

Stated = Mapping[str, Any]
Net = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]

# What only a network has that has a bridge of libvirt's own.
_OWN = ("ips", "dns", "domain", "domain_local", "routes", "mac", "stp", "bridge_delay", "ipv6")


def _entries(stated: Stated, key: str, path: str) -> Iterator[tuple[str, Stated]]:
    for number, entry in enumerate(stated.get(key) or ()):
        yield f"{join(path, key)}[{number}]", entry


def subnet(entry: Stated) -> Net | None:
    """Return the subnet of an entry of ``ips``, None where it says none."""
    base, prefix = address(entry.get("address")), entry.get("prefix")
    if base is None or type(prefix) is not int or prefix > base.max_prefixlen:
        return None
    return ipaddress.ip_network(f"{base}/{prefix}", strict=False)


def subnets(stated: Stated) -> list[Net]:
    """Return the subnets of a network."""
    found = [subnet(entry) for entry in stated.get("ips") or ()]
    return [net for net in found if net is not None]


def meets(one: Net, other: Net) -> bool:
    """Return whether two subnets have an address in common."""
    return (
        isinstance(one, ipaddress.IPv4Network)
        and isinstance(other, ipaddress.IPv4Network)
        and one.overlaps(other)
    ) or (
        isinstance(one, ipaddress.IPv6Network)
        and isinstance(other, ipaddress.IPv6Network)
        and one.overlaps(other)
    )


class _Leases:
    """What DHCP gives in one subnet, held against the subnet and against each other."""

    def __init__(self, base: Address, net: Net) -> None:
        self.base = base
        self.net = net
        self.ranges: list[tuple[str, int, int]] = []
        self.taken: dict[Address, str] = {base: "the network"}

    def inside(self, text: Any, path: str) -> Iterator[Problem]:
        """Yield an address that is not of the subnet."""
        found = address(text)
        if found is not None and found not in self.net:
            yield Problem(path, f"an address in {self.net}", str(found))

    def range(self, entry: Stated, path: str) -> Iterator[Problem]:
        """Yield what is wrong with a range."""
        for key in ("start", "end"):
            yield from self.inside(entry.get(key), join(path, key))
        start, end = address(entry.get("start")), address(entry.get("end"))
        if start is None or end is None or start.version != end.version:
            return
        first, last = int(start), int(end)
        if last < first:
            yield Problem(join(path, "end"), f"{start} or a later one", str(end))
            return
        if first <= int(self.base) <= last:
            found = f"{start} to {end}, with the network's own address {self.base}"
            yield Problem(path, "addresses that are free", found)
        for other, begin, until in self.ranges:
            if begin <= last and first <= until:
                yield Problem(path, "a range of its own", f"{start} to {end}, which meets {other}")
        self.ranges.append((path, first, last))

    def host(self, entry: Stated, path: str) -> Iterator[Problem]:
        """Yield what is wrong with the reservation of one host."""
        if not any(entry.get(key) for key in ("mac", "id", "name")):
            yield Problem(path, "a mac, id or name that tells the host", "none of them")
        yield from self.inside(entry.get("ip"), join(path, "ip"))
        found = address(entry.get("ip"))
        if found in self.taken:
            taken = f"{found}, which {self.taken[found]} has"
            yield Problem(join(path, "ip"), "an address of its own", taken)
        elif found is not None:
            self.taken[found] = path


def _ip(entry: Stated, path: str) -> Iterator[Problem]:
    """Yield what is wrong with an address of the network, and with its DHCP."""
    base, net = address(entry.get("address")), subnet(entry)
    if base is None:
        return
    if net is None:
        if type(entry.get("prefix")) is int:
            found = shown(entry["prefix"])
            yield Problem(join(path, "prefix"), f"at most {base.max_prefixlen}", found)
        return
    leases, dhcp, where = _Leases(base, net), entry.get("dhcp") or {}, join(path, "dhcp")
    for here, one in _entries(dhcp, "ranges", where):
        yield from leases.range(one, here)
    for here, one in _entries(dhcp, "hosts", where):
        yield from leases.host(one, here)


def _ips(stated: Stated, path: str) -> Iterator[Problem]:
    nets: list[tuple[str, Net]] = []
    for where, entry in _entries(stated, "ips", path):
        yield from _ip(entry, where)
        net = subnet(entry)
        if net is None:
            continue
        for other, former in nets:
            if meets(net, former):
                yield Problem(join(where, "address"), "a subnet of its own", f"{net}, as {other}")
        nets.append((where, net))


def _needed(stated: Stated, path: str) -> Iterator[Problem]:
    """Yield what a mode cannot do without."""
    mode = stated.get("mode")
    has = {key for key in ("pf", "addresses", "bridge", "interfaces", "dev") if stated.get(key)}
    if mode == "hostdev" and not has & {"pf", "addresses"}:
        remedy = "state the physical function whose virtual functions guests get"
        yield Problem(join(path, "pf"), "a network device, or addresses", "neither", remedy)
    if mode == "bridge" and not has & {"bridge", "interfaces", "dev"}:
        remedy = "state bridge (a bridge of the host) or interfaces (for macvtap)"
        yield Problem(join(path, "bridge"), "a bridge or interfaces", "neither", remedy)
    if mode == "bridge" and {"bridge", "interfaces"} <= has:
        yield Problem(join(path, "interfaces"), "none beside a bridge", "both", "state one of them")
    if mode in ("private", "vepa", "passthrough") and not has & {"interfaces", "dev"}:
        yield Problem(join(path, "interfaces"), "the devices that macvtap is made on", "none")


def _halves(nat: Stated, path: str) -> Iterator[Problem]:
    """Yield the start of a range without its end, and the other way round."""
    for what in ("address", "port"):
        ends = {key: nat.get(key) for key in (f"{what}_start", f"{what}_end")}
        lacking = [key for key, value in ends.items() if value is None]
        if len(lacking) == 1:
            yield Problem(join(path, lacking[0]), "both ends of the range", "one")


def _meaningless(stated: Stated, path: str) -> Iterator[Problem]:
    """Yield what has no meaning in the mode that is stated."""
    mode = stated.get("mode")
    if mode is None:
        return
    if mode not in ROUTED:
        for key in _OWN:
            if stated.get(key):
                expected = f"nothing, as a network of mode {mode} has no bridge of libvirt's own"
                yield Problem(join(path, key), expected, shown(stated[key]))
    yield from _halves(stated.get("nat") or {}, join(path, "nat"))
    if stated.get("nat") and mode != "nat":
        yield Problem(join(path, "nat"), f"nothing in mode {mode}", shown(stated["nat"]))
    port = (stated.get("virtualport") or {}).get("type")
    if stated.get("vlan") and port != "openvswitch" and mode not in ("hostdev", "passthrough"):
        remedy = "use a VLAN interface of the host below the bridge, or Open vSwitch"
        yield Problem(join(path, "vlan"), "none on a plain bridge", shown(stated["vlan"]), remedy)


def _portgroups(stated: Stated, path: str) -> Iterator[Problem]:
    """Yield a second port group that shall be the default."""
    first: str | None = None
    for where, entry in _entries(stated, "portgroups", path):
        if entry.get("default") is True:
            if first is not None:
                yield Problem(join(where, "default"), "one default group", f"{first} is one too")
            first = first or where


def contradictions(stated: Stated, path: str) -> Iterator[Problem]:
    """Yield what contradicts itself in a network; ``stated`` is in canonical form."""
    for rule in (_needed, _meaningless, _portgroups, _ips):
        yield from rule(stated, path)
