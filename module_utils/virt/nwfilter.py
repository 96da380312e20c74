# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Network filters (https://libvirt.org/formatnwfilter.html): what a guest may send and receive.

A rule is kept as libvirt writes it back: numbers decimal, masks as lengths of prefixes, names of
protocols as it knows them. Its attributes are those of libvirt's schema, which libvirt itself does
not hold anybody to: it leaves out what it does not know.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Any, Iterable, Iterator, Mapping, Sequence

from ..converge.action import LIVE, REPLACE
from ..converge.compare import join
from ..converge.errors import Problem, shown, unknown
from .codecs import Pattern, Whole
from .document import Document, Element, Fresh, insert, remove, tree
from .fields import Edits, Field, Leaf, patch_fields
from .identity import uuid_for
from .lists import Items
from .nic import ANTISPOOF, ANTISPOOF_IP, parameters
from .words import UUID

if TYPE_CHECKING:
    from .connection import Connection

ACTIONS = ("drop", "accept", "reject", "return", "continue")
DIRECTIONS = ("in", "out", "inout")
_PRIORITY = 500  # of a rule that states none
_OWN = ("action", "direction", "priority", "statematch")
_MACS = ("srcmacaddr", "srcmacmask", "dstmacaddr", "dstmacmask")
_PORTS = ("srcportstart", "srcportend", "dstportstart", "dstportend")
_ADDRESSES = ("srcipaddr", "srcipmask", "dstipaddr", "dstipmask")
_ARP = (
    *("hwtype", "protocoltype", "opcode", "gratuitous"),
    *("arpsrcmacaddr", "arpdstmacaddr", "arpsrcipaddr", "arpdstipaddr"),
)
_INET = ("srcmacaddr", *_ADDRESSES, "srcipfrom", "srcipto", "dstipfrom", "dstipto", "dscp")
_TRACKED = ("state", "connlimit-above", "ipset", "ipsetflags")  # of IPv4 alone
_HIGH = (
    *("root-priority", "root-cost", "sender-priority", "port", "age", "max-age"),
    *("hello-time", "forward-delay"),
)
_STP = (
    *("srcmacaddr", "srcmacmask", "type", "flags", "root-address", "root-address-mask"),
    *("sender-address", "sender-address-mask"),
    *(name for key in _HIGH for name in (key, f"{key}-hi")),
)
_ICMP = ("type", "code")
# What each protocol's element has, but for match and comment, which all have.
PROTOCOLS: dict[str, tuple[str, ...]] = {
    "mac": (*_MACS, "protocolid"),
    "vlan": (*_MACS, "vlanid", "encap-protocol"),
    "stp": _STP,
    "arp": (*_MACS, *_ARP),
    "rarp": (*_MACS, *_ARP),
    "ip": (*_MACS, *_ADDRESSES, "protocol", *_PORTS, "dscp"),
    "ipv6": (*_MACS, *_ADDRESSES, "protocol", *_PORTS, *_ICMP, "typeend", "codeend"),
    "icmp": (*_INET, *_TRACKED, *_ICMP),
    "icmpv6": (*_INET, *_ICMP),
    "igmp": (*_INET, *_TRACKED),
}
for _name, _more in {
    "tcp": (*_PORTS, "flags"),
    "udp": _PORTS,
    "sctp": _PORTS,
    "all": (),
    "esp": (),
    "ah": (),
    "udplite": (),
}.items():
    PROTOCOLS[_name] = (*_INET, *_more, *_TRACKED)
    PROTOCOLS[f"{_name}-ipv6"] = (*_INET, *_more)

# The names that libvirt writes instead of numbers (nwfilter_conf.c), in lower case.
_ETHERTYPES = {"ipv4": 0x800, "ipv6": 0x86DD, "arp": 0x806, "rarp": 0x8035, "vlan": 0x8100}
_IP_PROTOCOLS = {"icmp": 1, "igmp": 2, "tcp": 6, "udp": 17, "esp": 50, "ah": 51, "icmpv6": 58}
_OPCODES = (
    *("request", "reply", "request_reverse", "reply_reverse", "drarp_request", "drarp_reply"),
    *("drarp_error", "inarp_request", "arp_nak"),
)
_NUMBERS: dict[str, Mapping[str, int]] = {
    "protocolid": _ETHERTYPES,
    "encap-protocol": _ETHERTYPES,
    "protocol": {**_IP_PROTOCOLS, "sctp": 132, "udplite": 136},
    "opcode": {name: number for number, name in enumerate(_OPCODES, start=1)},
}
_VARIABLE = re.compile(r"\$ *\w+(\[ *@?[0-9]+ *\])?", re.ASCII)
_MAC = re.compile(r"[0-9a-f]{1,2}(?::[0-9a-f]{1,2}){5}")
_WORDS = ("state", "flags", "ipsetflags", "ipset", "comment")
_NAME = r"[a-zA-Z0-9_][a-zA-Z0-9_.\-]{0,62}"
_CHAIN = r"(?:root|(?:mac|vlan|stp|arp|rarp|ipv4|ipv6)(?:-[a-zA-Z0-9_.:\-]{1,25})?)"


def _address(key: str, text: str) -> str | None:
    """Return an address or a mask in its one form; None where it is neither."""
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    if not key.endswith("mask"):
        return str(found)
    bits = f"{int(found):0{found.max_prefixlen}b}"
    length = bits.rstrip("0")
    return None if "0" in length else str(len(length))


def _plain(key: str, text: str) -> str | None:
    """Return a number, an address, true or false in its one form."""
    if "mac" in key or key.endswith("-address"):
        octets = _MAC.fullmatch(text)
        return ":".join(f"{int(part, 16):02x}" for part in text.split(":")) if octets else None
    if text in _NUMBERS.get(key, {}):
        return str(_NUMBERS[key][text])
    try:
        return str(int(text, 0))
    except ValueError:
        return text if text in ("true", "false") else _address(key, text)


def canonical(key: str, value: object) -> str | None:
    """Return an attribute as it is compared, None where it cannot be one."""
    if isinstance(value, int):
        value = str(value).lower()
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        return None
    text = value.strip()
    if _VARIABLE.fullmatch(text):
        return text.replace(" ", "")
    if key == "state":
        return ",".join(sorted(text.upper().split(",")))
    return text if key in _WORDS else _plain(key, text.lower())


class Rules(Field):
    """The rules of a filter, in their order: a list that changes as a whole."""

    key = "rules"

    def needed(self) -> str | None:
        """Return what has to be there for it."""
        return "rule"

    def get(self, scope: Element) -> Any:
        """Return the rules, None where there are none."""
        return [self._read(rule) for rule in scope.findall("rule")] or None

    def _read(self, rule: Element) -> dict[str, Any]:
        found: dict[str, Any] = {
            "action": rule.get("action", ""),
            "direction": rule.get("direction", ""),
            "priority": int(rule.get("priority", str(_PRIORITY))),
        }
        if rule.get("statematch", "").lower() in ("false", "0"):
            found["statematch"] = False
        for match in rule:
            if match.tag in PROTOCOLS:
                known = {key: canonical(key, text) or text for key, text in match.attrib.items()}
                negated = known.pop("match", "yes") == "no"
                known.pop("comment", None)
                found[str(match.tag)] = {**known, **({"match": False} if negated else {})}
        return found

    def patch(self, scope: Element, value: Any, edits: Edits, path: str) -> None:
        """Make them what was stated."""
        before = self.get(scope)
        if (before or []) == _bare(value or ()):
            return
        edits.add(path, before, value, LIVE)
        for rule in scope.findall("rule"):
            remove(scope, rule)
        for rule in value or ():
            self._write(scope, rule)

    def _write(self, scope: Element, rule: Mapping[str, Any]) -> None:
        own = {key: str(rule[key]) for key in ("action", "direction", "priority")}
        if rule.get("statematch") is False:
            own["statematch"] = "false"
        made = insert(scope, Fresh("rule", own), len(scope))
        for protocol in PROTOCOLS.keys() & rule.keys():
            match = {**rule[protocol]}
            if match.pop("match", True) is False:
                match["match"] = "no"
            insert(made, Fresh(protocol, match))

    def check(self, value: Any, path: str, problems: list[Problem]) -> Any:
        """Return the canonical form of what was stated."""
        if value is None:
            return None
        if not isinstance(value, list):
            problems.append(Problem(path, "a list of rules", shown(value)))
            return None
        return [_rule(entry, f"{path}[{n}]", problems) for n, entry in enumerate(value)]


def _bare(rules: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return rules without their comments, which libvirt keeps for some protocols alone."""
    return [
        {
            key: {k: v for k, v in value.items() if k != "comment"}
            if isinstance(value, Mapping)
            else value
            for key, value in rule.items()
        }
        for rule in rules
    ]


def _rule(entry: object, path: str, problems: list[Problem]) -> dict[str, Any]:
    if not isinstance(entry, Mapping):
        problems.append(Problem(path, "a mapping that describes a rule", shown(entry)))
        return {}
    found: dict[str, Any] = {}
    for key, words in (("action", ACTIONS), ("direction", DIRECTIONS)):
        found[key] = entry.get(key)
        if found[key] not in words:
            problems.append(unknown(join(path, key), found[key], f"a rule's {key}", words))
    found["priority"] = entry.get("priority", _PRIORITY)
    if type(found["priority"]) is not int or not -1000 <= found["priority"] <= 1000:
        where = join(path, "priority")
        problems.append(Problem(where, "a number, -1000 to 1000", shown(found["priority"])))
    tracked = entry.get("statematch", True)
    if not isinstance(tracked, bool):
        problems.append(Problem(join(path, "statematch"), "true or false", shown(tracked)))
    elif not tracked:
        found["statematch"] = False
    protocols = _protocols(entry, path, problems)
    if len(protocols) > 1:
        problems.append(Problem(path, "one protocol", ", ".join(protocols)))
    for key in protocols:
        found[key] = dict(_attributes(key, entry[key], join(path, key), problems))
    return found


def _protocols(entry: Mapping[Any, Any], path: str, problems: list[Problem]) -> list[str]:
    found = []
    for key in entry:
        if key in PROTOCOLS:
            found.append(str(key))
        elif key not in _OWN:
            text = key if isinstance(key, str) and key.isprintable() else shown(key)
            known = (*_OWN, *PROTOCOLS)
            problems.append(unknown(join(path, text[:64]), key, "a protocol", known))
    return found


def _attributes(
    protocol: str, stated: object, path: str, problems: list[Problem]
) -> Iterator[tuple[str, Any]]:
    if stated is None:
        return
    if not isinstance(stated, Mapping):
        problems.append(Problem(path, "what it matches, as a mapping", shown(stated)))
        return
    known = (*PROTOCOLS[protocol], "match", "comment")
    for key, value in stated.items():
        where = join(path, key if isinstance(key, str) and key.isprintable() else shown(key))
        if key not in known:
            problems.append(unknown(where[:128], key, f"what a rule of {protocol} matches", known))
        elif key == "match":
            if not isinstance(value, bool):
                problems.append(Problem(where, "true or false", shown(value)))
            elif not value:
                yield key, False
        else:
            text = canonical(key, value)
            if text is None:
                expected = "a number, an address, a name or a $VARIABLE, as this key has it"
                problems.append(Problem(where, expected, shown(value)))
            else:
                yield key, text


FIELDS: tuple[Field, ...] = (
    Leaf("uuid", "uuid", UUID, when=REPLACE, required=True),
    Leaf("chain", "@chain", Pattern("a chain such as root, ipv4 or arp-mine", _CHAIN), LIVE),
    Leaf("priority", "@priority", Whole("-1000 to 1000", -1000, 1000), LIVE),
    Items(
        "filters",
        "filterref",
        (
            Leaf("filter", "@filter", Pattern("a filter's name", _NAME), LIVE, required=True),
            parameters("parameters", ""),
        ),
        name=lambda entry: entry.get("filter"),
        at="",
        needs=("filter",),
        attach=lambda _entry: LIVE,
    ),
    Rules(),
)


def needs_iptables(spec: Mapping[str, Any], family: str = "") -> bool:
    """Return whether rules of a filter become those of iptables, or with "6" of ip6tables."""
    found = {key for rule in spec.get("rules") or () for key in rule} & PROTOCOLS.keys()
    by_ebtables = {"mac", "vlan", "stp", "arp", "rarp", "ip", "ipv6"}
    return any(("6" if key.endswith("v6") else "") == family for key in found - by_ebtables)


def write(name: str, uuid: str, stated: Mapping[str, Any]) -> str:
    """Return the XML of a new filter; ``stated`` is in canonical form."""
    document = Document("<filter>\n</filter>\n", "filter XML")
    root = document.root
    root.set("name", name)
    root.set("chain", "root")
    insert(root, Fresh("uuid")).text = uuid
    keys = {key: value for key, value in stated.items() if key != "uuid" and value is not None}
    patch_fields(root, FIELDS, keys, Edits(root, keys), "")
    return document.text()


def define(connection: Connection, xml: str) -> Any:
    """Make a definition the one of its filter, and return libvirt's object."""
    libvirt, handle = connection.libvirt, connection.handle
    flag = getattr(libvirt, "VIR_NWFILTER_DEFINE_VALIDATE", None)  # libvirt 7.7
    if flag is None:
        return handle.nwfilterDefineXML(xml)
    return handle.nwfilterDefineXMLFlags(xml, flag)


# --- what a guest on a bridge sends from, unless it is said otherwise


def _sends(action: str, priority: int, protocol: str, match: Mapping[str, Any]) -> dict[str, Any]:
    return {"action": action, "direction": "out", "priority": priority, protocol: match}


_ANYBODY = "0.0.0.0"  # noqa: S104 (who asks by DHCP, or whether an address is taken: RFC 5227)
_OWN_MAC = [
    _sends("drop", 100, "mac", {"srcmacaddr": "$MAC", "match": False}),
    _sends("drop", 200, "arp", {"arpsrcmacaddr": "$MAC", "match": False}),
    _sends("drop", 200, "rarp", {"arpsrcmacaddr": "$MAC", "match": False}),
]
_OWN_IP = [
    _sends("accept", 300, "ip", {"srcipaddr": _ANYBODY, "protocol": "17"}),
    _sends("accept", 300, "ip", {"srcipaddr": "$IP"}),
    _sends("drop", 400, "ip", {}),
    _sends("accept", 300, "arp", {"arpsrcipaddr": _ANYBODY}),
    _sends("accept", 300, "arp", {"arpsrcipaddr": "$IP"}),
    _sends("drop", 400, "arp", {}),
]
STANDARD = {ANTISPOOF: _OWN_MAC, ANTISPOOF_IP: [*_OWN_MAC, *_OWN_IP]}


def standard_uuid(name: str) -> str | None:
    """Return the UUID of one of the filters that this toolkit has itself, None for others."""
    return uuid_for(name, kind="standard nwfilter") if name in STANDARD else None


def refers(root: Element, name: str) -> bool:
    """Return whether a domain has a NIC with a filter, or another filter refers to it."""
    return any(one.get("filter") == name for one in root.iter("filterref"))


def drop_standard(connection: Connection) -> None:
    """Remove those of the toolkit's own filters that no guest and no other filter has any more."""
    handle = connection.handle
    there = handle.listAllNWFilters()
    ours = [one for one in there if one.name() in STANDARD]
    if ours:
        left = [tree(one.XMLDesc(0)) for one in (*handle.listAllDomains(), *there)]
        for one in ours:
            if not any(refers(root, one.name()) for root in left):
                one.undefine()


def ensure_standard(connection: Connection, names: Iterable[str]) -> None:
    """Make those of the toolkit's own filters that are named and are not there."""
    wanted = set(names) & STANDARD.keys()
    there = {one.name() for one in connection.handle.listAllNWFilters()} if wanted else set()
    for name in sorted(wanted - there):
        xml = write(name, str(standard_uuid(name)), {"rules": STANDARD[name]})
        define(connection, xml)
