# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes guest images for the tests, right ones and ones that are wrong in a chosen place."""

from __future__ import annotations

import struct
from typing import Any

LOAD_ADDRESS = 0x100000
CODE_OFFSET = 16  # behind the multiboot header
_ELF_HEADER_SIZE, _PROGRAM_HEADER_SIZE = 52, 32


def header(flags: int = 0x2, magic: int = 0x1BADB002, checksum: int | None = None) -> bytes:
    """Return a multiboot header; its sum is right unless ``checksum`` is given."""
    if checksum is None:
        checksum = -(magic + flags) & 0xFFFFFFFF
    return struct.pack("<3I", magic, flags, checksum)


def segment(address: int, data: bytes, **fields: int) -> dict[str, Any]:
    """Return what `elf` makes a program header of; ``fields`` replaces its values by name."""
    return {"address": address, "data": data, "fields": fields}


def elf(segments: list[dict[str, Any]], entry: int, **fields: int) -> bytes:
    """Return an ELF32 executable for i386; ``fields`` replaces values of its header by name."""
    values = {
        "class": 1,
        "data": 1,
        "type": 2,
        "machine": 3,
        "phoff": _ELF_HEADER_SIZE,
        "phentsize": _PROGRAM_HEADER_SIZE,
        "phnum": len(segments),
        **fields,
    }
    at = _ELF_HEADER_SIZE + len(segments) * _PROGRAM_HEADER_SIZE
    table, body = b"", b""
    for one in segments:
        body += bytes(-(at + len(body)) % 4)  # a multiboot header must be aligned in the file
        header_values = {
            "type": 1,
            "offset": at + len(body),
            "vaddr": one["address"],
            "paddr": one["address"],
            "filesz": len(one["data"]),
            "memsz": len(one["data"]),
            "flags": 7,
            "align": 4096,
            **one["fields"],
        }
        table += struct.pack("<8I", *header_values.values())
        body += one["data"]
    identity = b"\x7fELF" + bytes((values["class"], values["data"], 1)) + bytes(9)
    head = struct.pack(
        "<16sHHIIIIIHHHHHH",
        identity,
        values["type"],
        values["machine"],
        1,
        entry,
        values["phoff"],
        0,
        0,
        _ELF_HEADER_SIZE,
        values["phentsize"],
        values["phnum"],
        0,
        0,
        0,
    )
    return head + table + body


def multiboot(code: bytes, address: int = LOAD_ADDRESS, **fields: int) -> bytes:
    """Return a multiboot image of one segment that is entered at ``code``."""
    whole = header().ljust(CODE_OFFSET, b"\0") + code
    return elf([segment(address, whole)], address + CODE_OFFSET, **fields)
