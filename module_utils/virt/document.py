# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""XML that is edited in place: parsed without entities, written back as it was.

Names stay as they are written (``qemu:commandline``, ``xmlns:qemu``), so prefixes survive;
comments, processing instructions, whitespace and the order of attributes do too. An edit carries
the whitespace around it along and touches no other.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from typing import Any, Dict, Iterator, Mapping, Tuple
from xml.parsers import expat

from ..converge.errors import VirtfleetError, shown
from .order import ORDER

Element = ET.Element

MAX_DEPTH = 100  # libvirt's own documents stay far below; libxml2 itself stops at 256
# Compiled when it is first asked for, which takes long: a set of so many characters.
_ILLEGAL = "[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"
_ATTRIBUTE = {
    "&": "&amp;",
    "<": "&lt;",
    ">": "&gt;",
    "'": "&apos;",
    '"': "&quot;",
    "\t": "&#9;",
    "\n": "&#10;",
    "\r": "&#13;",
}
_TEXT = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "\r": "&#13;"}
_IN_ATTRIBUTE = str.maketrans(_ATTRIBUTE)
_IN_TEXT = str.maketrans(_TEXT)


class Fresh(ET.Element):
    """An element that was not in the document as it was read."""


class XmlError(VirtfleetError):
    """XML that cannot be read, or that must not be."""


def illegal(text: str) -> bool:
    """Return whether XML 1.0 has no way to say the text (control characters, lone surrogates)."""
    return re.search(_ILLEGAL, text) is not None


class _Builder:
    """Builds the tree of one document and notes where its root stands in the bytes."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.tree = ET.TreeBuilder(insert_comments=True, insert_pis=True)
        self.depth = 0
        self.lead = 0  # characters of the first line that are not the user's
        self.start = -1
        self.end = -1
        # Without a separator expat leaves names as they are written.
        self.parser = expat.ParserCreate("utf-8")
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self.open
        self.parser.EndElementHandler = self.close
        self.parser.CharacterDataHandler = self.tree.data
        self.parser.CommentHandler = self.comment
        self.parser.ProcessingInstructionHandler = self.instruction
        self.parser.StartDoctypeDeclHandler = self.doctype

    def open(self, tag: str, attributes: dict[str, str]) -> None:
        """Begin an element."""
        if self.depth == 0:
            self.start = self.parser.CurrentByteIndex
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise XmlError(f"{self.what}: elements are nested more than {MAX_DEPTH} deep")
        self.tree.start(tag, attributes)

    def close(self, tag: str) -> None:
        """End an element."""
        self.depth -= 1
        self.end = self.parser.CurrentByteIndex
        self.tree.end(tag)

    def comment(self, text: str) -> None:
        """Take a comment in."""
        if self.depth:  # those around the root stay in the text around it
            self.tree.comment(text)

    def instruction(self, target: str, data: str) -> None:
        """Take a processing instruction in."""
        if self.depth:
            self.tree.pi(target, data)

    def doctype(self, *_: Any) -> None:
        """Refuse a DOCTYPE."""
        raise XmlError(f"{self.what}: expected no DOCTYPE, found one", remedy="remove it")

    def feed(self, data: bytes, *, final: bool) -> None:
        """Parse some bytes, the last ones if final."""
        try:
            self.parser.Parse(data, final)
        except expat.ExpatError as error:
            column = error.offset - (self.lead if error.lineno == 1 else 0)
            raise XmlError(
                f"{self.what}: expected well-formed XML, found an error in line {error.lineno},"
                f" column {column} ({expat.ErrorString(error.code)})"
            ) from None


def _bytes(text: str, what: str) -> bytes:
    if illegal(text):
        raise XmlError(f"{what}: expected characters that XML allows, found {shown(text)}")
    return text.encode()


class Document:
    """One document: its root, and the text before and after it, which is kept as it is."""

    def __init__(self, text: str, what: str = "domain XML") -> None:
        builder = _Builder(what)
        data = _bytes(text, what)
        builder.feed(data, final=True)
        self.source = text
        self.root: Element = builder.tree.close()
        self._elements = [node for node in self.root.iter() if is_element(node)]
        self._before = data[: builder.start].decode()
        closing = data.find(b">", builder.end) + 1
        self._after = data[closing:].decode() if builder.end > builder.start else ""

    def text(self) -> str:
        """Return the whole document; a tag whose attributes are the same is written as it was."""
        lay_out(self.root)
        tags = dict(zip(map(id, self._elements), _tags(self.source)))
        return f"{self._before}{to_text(self.root, tags)}{self._after}"


def tree(text: str, what: str = "domain XML") -> Element:
    """Return the root of a document that is only looked at, in a fifth of a `Document`'s time.

    Comments and the text around the root are left out, and nothing keeps elements from being nested
    deep: it is for what libvirt itself has written.
    """
    builder = ET.TreeBuilder()
    parser = expat.ParserCreate("utf-8")
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(text.encode(), True)
    except (expat.ExpatError, UnicodeEncodeError) as error:
        raise XmlError(f"{what}: expected well-formed XML, found an error ({error})") from None
    return builder.close()


_LEAD = b"<fragment>"
_TAG = re.compile(rb"""<(?:[^<>"']|"[^"]*"|'[^']*')*>""")

# A start tag as it was written, and the attributes that it states.
_Tag = Tuple[str, Dict[str, str]]


def _tags(source: str) -> list[_Tag]:
    """Return the start tags of a document, in its order."""
    data = source.encode()
    found: list[_Tag] = []
    parser = expat.ParserCreate("utf-8")

    def start(_: str, attributes: dict[str, str]) -> None:
        match = _TAG.match(data, parser.CurrentByteIndex)
        found.append((match.group().decode() if match else "", attributes))

    parser.StartElementHandler = start
    parser.Parse(data, True)
    return found


def parse_fragment(text: str, what: str) -> Element:
    """Return an element whose children are those of the text, which has no root of its own."""
    builder = _Builder(what)
    builder.lead = len(_LEAD)
    builder.feed(_LEAD, final=False)
    builder.feed(_bytes(text, what), final=False)
    builder.feed(b"</fragment>", final=True)
    root: Element = builder.tree.close()
    return root


def is_element(node: Element) -> bool:
    """Return whether a node is an element, no comment and no processing instruction."""
    return isinstance(node.tag, str)


def elements(parent: Element, tag: str | None = None) -> Iterator[Element]:
    """Yield the child elements, of one tag or of all."""
    for child in parent:
        if child.tag == tag or (tag is None and is_element(child)):
            yield child


def text_of(element: Element) -> str:
    """Return the character data of an element, comments left out."""
    parts = [element.text or ""]
    for child in element:
        parts += [text_of(child) if is_element(child) else "", child.tail or ""]
    return "".join(parts)


def to_text(element: Element, tags: Mapping[int, _Tag] | None = None) -> str:
    """Return an element as text; ValueError for characters that XML does not allow."""
    parts: list[str] = []
    _write(element, parts, tags or {})
    text = "".join(parts)
    if illegal(text):
        raise ValueError(f"not a character of XML in {shown(text)}")
    return text


def _start_tag(node: Element, tags: Mapping[int, _Tag]) -> str:
    """Return a start tag without its end, as it was written where it says the same."""
    written, attributes = tags.get(id(node), ("", {}))
    if written and attributes == node.attrib:
        return written[:-2] if written.endswith("/>") else written[:-1]
    stated = (f" {name}='{value.translate(_IN_ATTRIBUTE)}'" for name, value in node.attrib.items())
    return f"<{node.tag}{''.join(stated)}"


def _write(node: Element, parts: list[str], tags: Mapping[int, _Tag]) -> None:
    if not is_element(node):
        kind: Any = node.tag
        parts.append(f"<!--{node.text}-->" if kind is ET.Comment else f"<?{node.text}?>")
        return
    parts.append(_start_tag(node, tags))
    if not node.text and not len(node):
        parts.append("/>")
        return
    parts.append(">")
    if node.text:
        parts.append(node.text.translate(_IN_TEXT))
    for child in node:
        _write(child, parts, tags)
        if child.tail:
            parts.append(child.tail.translate(_IN_TEXT))
    parts.append(f"</{node.tag}>")


_RANKS = {tag: {name: rank for rank, name in enumerate(order)} for tag, order in ORDER.items()}


def _position(parent: Element, tag: str) -> int:
    """Return where libvirt itself would put a new child of that tag."""
    rank = _RANKS.get(parent.tag, {})
    own = rank.get(tag, len(rank))
    first = len(parent)
    for number in range(len(parent) - 1, -1, -1):
        child = parent[number]
        if is_element(child):
            if rank.get(child.tag, len(rank)) <= own:
                return number + 1
            first = number
    return first


def insert(parent: Element, child: Element, index: int | None = None) -> Element:
    """Put a child where libvirt's order has it, or at the index; whitespace comes along."""
    if index is None:
        index = _position(parent, child.tag)
    if len(parent):
        before = parent[index - 1] if index else None
        if before is None:
            child.tail = parent.text
        elif index < len(parent):
            child.tail = before.tail
        else:
            child.tail = before.tail
            before.tail = parent.text if not (parent.text or "").strip() else None
    parent.insert(index, child)
    return child


def remove(parent: Element, child: Element) -> None:
    """Take a child out with the whitespace that led to it."""
    index = list(parent).index(child)
    last = index == len(parent) - 1
    if len(parent) == 1 and not (parent.text or "").strip():
        parent.text = None
    elif last and index:
        parent[index - 1].tail = child.tail
    parent.remove(child)


def empty(element: Element) -> bool:
    """Return whether there is nothing in an element and nothing on it."""
    return not len(element) and not element.attrib and not (element.text or "").strip()


def lay_out(root: Element) -> None:
    """Indent what is new, in a document that is indented."""
    first = root.text or ""
    if "\n" in first:
        _indent(root, "\n", first.rpartition("\n")[2])


def _indent(element: Element, outer: str, unit: str) -> None:
    inner = outer + unit
    bare = not element.text and not any(child.tail for child in element)
    if len(element) and bare and all(isinstance(child, Fresh) for child in element):
        element.text = inner
        for child in element:
            child.tail = inner
        element[-1].tail = outer
    for child in element:
        if is_element(child):
            _indent(child, inner, unit)
