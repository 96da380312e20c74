# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The mark of ours in an object's XML, among the metadata of others."""

from __future__ import annotations

from .document import Document, Element, Fresh, elements, insert, remove, to_text
from .mark import NAMESPACE, PREFIX, Mark


def _find(root: Element) -> Element | None:
    """Return our element in the metadata, whatever its prefix is."""
    holder = root.find("metadata")
    for child in [] if holder is None else elements(holder):
        prefix = child.tag.rpartition(":")[0]
        name = f"xmlns:{prefix}" if prefix else "xmlns"
        where = [child, holder, root]
        uri = next((one.get(name) for one in where if one is not None and one.get(name)), None)
        if uri == NAMESPACE:
            return child
    return None


def mark_of(root: Element) -> Mark | None:
    """Return the mark that an object's XML bears, None where it is not ours."""
    found = _find(root)
    if found is None:
        return None
    disks = (child.get("file", "") for child in elements(found))
    return Mark(
        found.get("fleet", ""),
        found.get("name", ""),
        found.get("digest", ""),
        tuple(disks),
        found.get("protected") == "yes",
        found.tag.rpartition(":")[2],
    )


def _element(mark: Mark, *, prefixed: bool) -> Element:
    """Return a mark as an element; libvirt puts the namespace on one that has none."""
    prefix = f"{PREFIX}:" if prefixed else ""
    attributes = {"fleet": mark.fleet, "name": mark.name}
    if prefixed:
        attributes = {f"xmlns:{PREFIX}": NAMESPACE, **attributes}
    if mark.digest:
        attributes["digest"] = mark.digest
    if mark.protected:
        attributes["protected"] = "yes"
    made = Fresh(f"{prefix}{mark.kind}", attributes)
    for file in mark.disks:
        made.append(Fresh(f"{prefix}disk", {"file": file}))
    return made


def metadata(mark: Mark) -> str:
    """Return a mark as virDomainSetMetadata takes it, with `PREFIX` and `NAMESPACE` beside it."""
    return to_text(_element(mark, prefixed=False))


def put_mark(root: Element, mark: Mark) -> None:
    """Make an object's XML bear the mark; the metadata of others stays."""
    if mark_of(root) == mark:
        return
    holder = root.find("metadata")
    if holder is None:
        holder = insert(root, Fresh("metadata"))
    made = _element(mark, prefixed=True)
    former = _find(root)
    if former is not None:
        remove(holder, former)
    insert(holder, made, len(holder))


def read_mark(xml: str) -> Mark | None:
    """Return the mark in a domain's XML, None where there is none; XmlError where it is no XML."""
    return mark_of(Document(xml).root)


def write_mark(xml: str, mark: Mark) -> str:
    """Return a domain's XML with the mark, the same text where it bears it already."""
    document = Document(xml)
    if mark_of(document.root) == mark:
        return xml
    put_mark(document.root, mark)
    return document.text()
