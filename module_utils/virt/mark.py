# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The mark that a domain of ours bears in its metadata: whose it is, and which disks go with it."""

from __future__ import annotations

from dataclasses import dataclass

from .document import Document, Element, Fresh, elements, insert, remove

NAMESPACE = "urn:virtfleet:1"
_PREFIX = "virtfleet"


@dataclass(frozen=True)
class Mark:
    """Fleet and name of a guest, the digest of its spec, and the targets of the disks it owns."""

    fleet: str
    name: str
    digest: str = ""
    disks: tuple[str, ...] = ()


def _find(root: Element) -> Element | None:
    """Return our element in the metadata, whatever its prefix is."""
    metadata = root.find("metadata")
    for child in [] if metadata is None else elements(metadata):
        prefix = child.tag.rpartition(":")[0]
        name = f"xmlns:{prefix}" if prefix else "xmlns"
        where = [child, metadata, root]
        uri = next((one.get(name) for one in where if one is not None and one.get(name)), None)
        if uri == NAMESPACE:
            return child
    return None


def mark_of(root: Element) -> Mark | None:
    """Return the mark that a domain bears, None where it is not ours."""
    found = _find(root)
    if found is None:
        return None
    disks = (child.get("target", "") for child in elements(found))
    return Mark(
        found.get("fleet", ""), found.get("name", ""), found.get("digest", ""), tuple(disks)
    )


def put_mark(root: Element, mark: Mark) -> None:
    """Make a domain bear the mark; the metadata of others stays."""
    if mark_of(root) == mark:
        return
    metadata = root.find("metadata")
    if metadata is None:
        metadata = insert(root, Fresh("metadata"))
    attributes = {f"xmlns:{_PREFIX}": NAMESPACE, "fleet": mark.fleet, "name": mark.name}
    if mark.digest:
        attributes["digest"] = mark.digest
    made = Fresh(f"{_PREFIX}:guest", attributes)
    for target in mark.disks:
        made.append(Fresh(f"{_PREFIX}:disk", {"target": target}))
    former = _find(root)
    if former is not None:
        remove(metadata, former)
    insert(metadata, made, len(metadata))


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
