# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""libvirt's own schemas, and what they have against a document."""

from __future__ import annotations

import ctypes
import ctypes.util
from functools import lru_cache
from pathlib import Path

import pytest

FOLDER = Path("/usr/share/libvirt/schemas")


class _Error(ctypes.Structure):
    """The start of libxml2's xmlError."""

    _fields_ = (
        ("domain", ctypes.c_int),
        ("code", ctypes.c_int),
        ("message", ctypes.c_char_p),
    )


_Report = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.POINTER(_Error))


class Schema:
    """RELAX NG as libvirt itself uses it: through libxml2, the schema parsed once."""

    def __init__(self, library: str, path: Path) -> None:
        self.xml = ctypes.CDLL(library)
        for name in ("NewParserCtxt", "Parse", "NewValidCtxt"):
            function = getattr(self.xml, f"xmlRelaxNG{name}")
            function.restype = ctypes.c_void_p
        self.xml.xmlReadMemory.restype = ctypes.c_void_p
        context = ctypes.c_void_p(self.xml.xmlRelaxNGNewParserCtxt(str(path).encode()))
        self.schema = ctypes.c_void_p(self.xml.xmlRelaxNGParse(context))
        assert self.schema.value

    def problems(self, text: str) -> list[str]:
        """Return what the schema has against a document."""
        data = text.encode()
        document = ctypes.c_void_p(self.xml.xmlReadMemory(data, len(data), b"x", b"UTF-8", 0))
        assert document.value, "it is not well-formed"
        found: list[str] = []
        report = _Report(lambda _, error: found.append(error.contents.message.decode().strip()))
        context = ctypes.c_void_p(self.xml.xmlRelaxNGNewValidCtxt(self.schema))
        self.xml.xmlRelaxNGSetValidStructuredErrors(context, report, None)
        status = self.xml.xmlRelaxNGValidateDoc(context, document)
        self.xml.xmlRelaxNGFreeValidCtxt(context)
        self.xml.xmlFreeDoc(document)
        return found or ([] if status == 0 else [f"status {status}"])


@lru_cache(maxsize=None)
def schema_of(kind: str) -> Schema:
    """Return the schema of a kind of document (domain, network, storagepool …), or skip."""
    library, path = ctypes.util.find_library("xml2"), FOLDER / f"{kind}.rng"
    if library is None or not path.exists():
        pytest.skip("libxml2 or libvirt's schemas are not installed")
    return Schema(library, path)
