# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The way out for what the table does not know: a fragment merged into a domain by element.

What the fragment states is set; all else stays. An element meets the one of its name; where libvirt
has several of a name, the one that is told apart by the same attributes (`TOLD_BY`). What is there
already in full is left alone, and what meets nothing is appended, so merging twice changes nothing.
"""

from __future__ import annotations

from typing import Iterator, Mapping

from ..converge.errors import VirtfleetError
from .document import Element, Fresh, elements, insert, is_element, parse_fragment, text_of
from .mark import NAMESPACE
from .place import Place, place

# What libvirt has several of, by parent and tag, and what tells them apart.
_TOLD: dict[tuple[str, str], str] = {
    ("devices", "disk"): "target@dev",
    ("devices", "interface"): "mac@address",
    ("devices", "controller"): "@type @index",
    ("devices", "filesystem"): "target@dir",
    ("devices", "serial"): "target@port",
    ("devices", "parallel"): "target@port",
    ("devices", "console"): "target@type target@port",
    ("devices", "channel"): "target@name",
    ("devices", "input"): "@type @bus",
    ("devices", "graphics"): "@type",
    ("devices", "sound"): "@model",
    ("devices", "audio"): "@id",
    ("devices", "hostdev"): "alias@name",
    ("devices", "redirdev"): "alias@name",
    ("devices", "smartcard"): "@mode",
    ("devices", "shmem"): "@name",
    ("devices", "memory"): "alias@name",
    ("devices", "lease"): "key",
    ("devices", "video"): "alias@name",
    ("devices", "panic"): "@model",
    ("domain", "seclabel"): "@model",
    ("domain", "sysinfo"): "@type",
    ("clock", "timer"): "@name",
    ("cpu", "feature"): "@name",
    ("numa", "cell"): "@id",
    ("distances", "sibling"): "@id",
    ("os", "boot"): "@dev",
    ("os", "initarg"): "",
    ("firmware", "feature"): "@name",
    ("cputune", "vcpupin"): "@vcpu",
    ("cputune", "iothreadpin"): "@iothread",
    ("cputune", "vcpusched"): "@vcpus",
    ("cputune", "iothreadsched"): "@iothreads",
    ("cputune", "cachetune"): "@vcpus",
    ("cputune", "memorytune"): "@vcpus",
    ("numatune", "memnode"): "@cellid",
    ("blkiotune", "device"): "path",
    ("iothreadids", "iothread"): "@id",
    ("vcpus", "vcpu"): "@id",
    ("hugepages", "page"): "@size @nodeset",
    ("idmap", "uid"): "@start",
    ("idmap", "gid"): "@start",
    ("perf", "event"): "@name",
    ("bios", "entry"): "@name",
    ("system", "entry"): "@name",
    ("baseBoard", "entry"): "@name",
    ("chassis", "entry"): "@name",
    ("oemStrings", "entry"): "",
    ("sysinfo", "entry"): "@name",
    ("filterref", "parameter"): "@name",
    ("interface", "ip"): "@address",
    ("interface", "route"): "@address",
    ("vlan", "tag"): "@id",
    ("source", "host"): "@name @port",
    ("source", "cookie"): "@name",
    ("graphics", "listen"): "@type",
    ("graphics", "channel"): "@name",
    ("sound", "codec"): "@type",
    ("redirfilter", "usbdev"): "@vendor @product",
    ("commandline", "env"): "@name",
    ("capabilities", "add"): "@capability",
    ("capabilities", "del"): "@capability",
    ("override", "device"): "@alias",
    ("frontend", "property"): "@name",
}
TOLD_BY: dict[tuple[str, str], tuple[Place, ...]] = {
    where: tuple(map(place, told.split())) for where, told in _TOLD.items()
}
FIXED = ("name", "uuid")  # a fragment must not make another domain of it

Scope = Mapping[str, str]  # prefix → URI, "" for the default


def _declared(element: Element, scope: Scope) -> dict[str, str]:
    """Return the namespaces in force inside an element."""
    inside = dict(scope)
    for name, value in element.attrib.items():
        if name == "xmlns":
            inside[""] = value
        elif name.startswith("xmlns:"):
            inside[name[6:]] = value
    return inside


def _expanded(element: Element, scope: Scope) -> tuple[str, str]:
    """Return URI and local name of an element whose own declarations are in the scope."""
    prefix, _, local = element.tag.rpartition(":")
    return scope.get(prefix, ""), local


def _local(element: Element) -> str:
    """Return an element's name without its prefix."""
    return element.tag.rpartition(":")[2]


def _plain(element: Element) -> Iterator[tuple[str, str]]:
    """Yield the attributes that are no declarations."""
    for name, value in element.attrib.items():
        if name != "xmlns" and not name.startswith("xmlns:"):
            yield name, value


def _value(element: Element, where: Place) -> str | None:
    found = where.element(element)
    if found is None:
        return None
    raw = text_of(found).strip() if where.attribute is None else found.get(where.attribute)
    return raw or None


def _text(element: Element) -> str:
    return (element.text or "").strip() if len(element) else element.text or ""


class _Merge:
    """Merges one fragment, and notes whether that changed anything."""

    def __init__(self) -> None:
        self.changed = False

    def like(
        self, wanted: Element, inside: Scope, parent: Element, scope: Scope
    ) -> list[tuple[Element, dict[str, str]]]:
        """Return the children of the parent with the wanted one's name."""
        name = _expanded(wanted, inside)
        found = []
        for child in elements(parent):
            declared = _declared(child, scope)
            if _expanded(child, declared) == name:
                found.append((child, declared))
        return found

    def holds(self, wanted: Element, inside: Scope, found: Element, scope: Scope) -> bool:
        """Return whether all that the wanted one states is there already."""
        if any(found.get(name) != value for name, value in _plain(wanted)):
            return False
        if _text(wanted).strip() and _text(wanted) != _text(found):
            return False
        if _expanded(wanted, inside)[1] == "commandline" and not self.has_arguments(wanted, found):
            return False
        for child in elements(wanted):
            declared = _declared(child, inside)
            if _local(child) == "arg":
                continue
            like = self.like(child, declared, found, scope)
            if not any(self.holds(child, declared, one, there) for one, there in like):
                return False
        return True

    @staticmethod
    def arguments(element: Element) -> list[dict[str, str]]:
        """Return the arguments of a command line, in order."""
        named = (child for child in elements(element) if _local(child) == "arg")
        return [dict(_plain(child)) for child in named]

    def has_arguments(self, wanted: Element, found: Element) -> bool:
        """Return whether the arguments stand there side by side: each may belong to the next."""
        ask, have = self.arguments(wanted), self.arguments(found)
        return any(have[at : at + len(ask)] == ask for at in range(len(have) - len(ask) + 1))

    def copy(self, wanted: Element, inside: Scope, scope: Scope) -> Element:
        """Return a new element like the wanted one, with the declarations that it needs there."""
        made = Fresh(wanted.tag)
        prefix = wanted.tag.rpartition(":")[0]
        there = dict(scope)
        if inside.get(prefix, "") != there.get(prefix, ""):
            made.set(f"xmlns:{prefix}" if prefix else "xmlns", inside.get(prefix, ""))
            there[prefix] = inside.get(prefix, "")
        for name, _ in _plain(wanted):
            head = name.rpartition(":")[0]
            if head and head != "xml" and inside.get(head) != there.get(head):
                made.set(f"xmlns:{head}", inside[head])
                there[head] = inside[head]
        made.attrib.update(_plain(wanted))
        made.text = _text(wanted) if _text(wanted).strip() else None
        for child in elements(wanted):
            made.append(self.copy(child, _declared(child, inside), there))
        return made

    def meets(
        self, wanted: Element, inside: Scope, parent: Element, scope: Scope
    ) -> tuple[Element, dict[str, str]] | None:
        """Return the element that the wanted one is to be merged into, None for a new one."""
        like = self.like(wanted, inside, parent, scope)
        told_by = TOLD_BY.get((parent.tag.rpartition(":")[2], _expanded(wanted, inside)[1]))
        if told_by is None:
            return like[0] if like else None
        told = [(where, _value(wanted, where)) for where in told_by]
        stated = [(where, value) for where, value in told if value is not None]
        if not stated:
            return None
        for found, declared in like:
            if all(_value(found, where) == value for where, value in stated):
                return found, declared
        return None

    def child(self, wanted: Element, inside: Scope, parent: Element, scope: Scope) -> None:
        """Merge one element of the fragment into the parent."""
        for found, declared in self.like(wanted, inside, parent, scope):
            if self.holds(wanted, inside, found, declared):
                return
        met = self.meets(wanted, inside, parent, scope)
        self.changed = True
        if met is None:
            insert(parent, self.copy(wanted, inside, scope))
        else:
            self.into(wanted, inside, *met)

    def into(self, wanted: Element, inside: Scope, found: Element, scope: Scope) -> None:
        """Merge what an element of the fragment holds into the one that it meets."""
        for name, value in _plain(wanted):
            if found.get(name) != value:
                found.set(name, value)
                self.changed = True
        if _text(wanted).strip() and _text(wanted) != _text(found):
            found.text = _text(wanted)
            self.changed = True
        arguments = _expanded(wanted, inside)[1] == "commandline"
        if arguments and not self.has_arguments(wanted, found):
            for child in elements(wanted):
                if _local(child) == "arg":
                    copied = self.copy(child, _declared(child, inside), scope)
                    insert(found, copied, len(found))
                    self.changed = True
        for child in elements(wanted):
            if not (arguments and _local(child) == "arg"):
                self.child(child, _declared(child, inside), found, scope)


def _undeclared(element: Element, scope: Scope) -> str | None:
    """Return a prefix that is used and nowhere declared."""
    inside = _declared(element, scope)
    names = [element.tag, *(name for name, _ in _plain(element))]
    for name in names:
        prefix = name.rpartition(":")[0]
        if prefix and prefix != "xml" and not inside.get(prefix):
            return prefix
    for child in elements(element):
        found = _undeclared(child, inside)
        if found is not None:
            return found
    return None


def fragment(text: str, what: str = "xml") -> Element:
    """Return the elements of a fragment below one root; VirtfleetError for what must not be merged.

    They are children of <domain>, or one <domain> with such children.
    """
    root = parse_fragment(text, what)
    top = list(elements(root))
    if len(top) == 1 and top[0].tag == "domain":
        root, top = top[0], list(elements(top[0]))
    loose = [root.text or "", *(child.tail or "" for child in root)]
    if not top or any(part.strip() for part in loose) or not all(map(is_element, top)):
        raise VirtfleetError(f"{what}: expected elements of a domain, found other text or none")
    for child in top:
        if child.tag in FIXED:
            raise VirtfleetError(
                f"{what}: expected no <{child.tag}>, which makes another domain of it, found one"
            )
    if any(value == NAMESPACE for child in root.iter() for value in child.attrib.values()):
        raise VirtfleetError(f"{what}: expected no mark of ownership ({NAMESPACE}), found one")
    prefix = _undeclared(root, {})
    if prefix is not None:
        raise VirtfleetError(
            f"{what}: expected each prefix to be declared, found {prefix!r}",
            remedy=f"declare it: xmlns:{prefix}='…'",
        )
    return root


def merge(root: Element, text: str) -> bool:
    """Merge a fragment into a domain; return whether that changed anything."""
    wanted = fragment(text)
    merging = _Merge()
    inside, scope = _declared(wanted, {}), _declared(root, {})
    if wanted.tag == "domain":
        merging.into(wanted, inside, root, scope)
    else:
        for child in elements(wanted):
            merging.child(child, _declared(child, inside), root, scope)
    return merging.changed
