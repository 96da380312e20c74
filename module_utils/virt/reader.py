# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A domain's XML in the shape of a spec."""

from __future__ import annotations

from typing import Any

from .document import Document, Element, XmlError, text_of, tree
from .domain import FIELDS
from .fields import read_fields


def domain(xml: str) -> Document:
    """Return the document of a domain; XmlError for anything else."""
    document = Document(xml)
    _check(document.root)
    return document


def domain_tree(xml: str) -> Element:
    """Return the tree of a domain that libvirt wrote, to be looked at only."""
    root = tree(xml)
    _check(root)
    return root


def _check(root: Element) -> None:
    if root.tag != "domain":
        raise XmlError(f"domain XML: expected <domain>, found <{root.tag[:64]}>")


def name_of(root: Element) -> str:
    """Return the name of a domain, empty where it has none."""
    name = root.find("name")
    return "" if name is None else text_of(name)


def read(xml: str) -> dict[str, Any]:
    """Return what is there, by the keys of a spec and in canonical form.

    What libvirt adds by itself (addresses, aliases, controllers, labels) is not in the table and so
    not in the result, and a password is left out. XmlError where it is no domain.
    """
    return read_root(domain(xml).root)


def read_root(root: Element) -> dict[str, Any]:
    """Return what is there in a domain's tree, as `read` does of its text."""
    return read_fields(root, FIELDS)
