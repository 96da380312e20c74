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


def elf64(segments: list[dict[str, Any]], entry: int, **fields: int) -> bytes:
    """Return an ELF64 executable for x86-64, as `elf` makes one for i386."""
    values = {
        "class": 2,
        "data": 1,
        "type": 2,
        "machine": 62,
        "phoff": 64,
        "phentsize": 56,
        "phnum": len(segments),
        **fields,
    }
    at = 64 + 56 * len(segments)
    table, body = b"", b""
    for one in segments:
        header_values = {
            "type": 1,
            "flags": 7,
            "offset": at + len(body),
            "vaddr": one["address"],
            "paddr": one["address"],
            "filesz": len(one["data"]),
            "memsz": len(one["data"]),
            "align": 4096,
            **one["fields"],
        }
        table += struct.pack("<IIQQQQQQ", *header_values.values())
        body += one["data"]
    identity = b"\x7fELF" + bytes((values["class"], values["data"], 1)) + bytes(9)
    head = struct.pack(
        "<16sHHIQQQIHHHHHH",
        identity,
        values["type"],
        values["machine"],
        1,
        entry,
        values["phoff"],
        0,
        0,
        64,
        values["phentsize"],
        values["phnum"],
        0,
        0,
        0,
    )
    return head + table + body


def program64(code: bytes, address: int = LOAD_ADDRESS) -> bytes:
    """Return an ELF64 image of one segment that is entered at ``code`` in 64-bit mode."""
    return elf64([segment(address, code)], address)


def note(name: bytes, kind: int, data: bytes) -> bytes:
    """Return an ELF note, its parts padded to four bytes."""
    head = struct.pack("<3I", len(name), len(data), kind)
    return head + name + bytes(-len(name) % 4) + data + bytes(-len(data) % 4)


def pvh(code: bytes, address: int = LOAD_ADDRESS, notes: bytes | None = None) -> bytes:
    """Return an ELF64 image that is entered at ``code`` by its PVH note, never by its own entry."""
    if notes is None:
        notes = note(b"Xen\0", 18, struct.pack("<I", address))
    return elf64([segment(0, notes, type=4), segment(address, code)], 0)


def bzimage(payload: bytes = b"\xf4" * 1024, setup_sectors: int = 4, **fields: int) -> bytes:
    """Return a bzImage whose protected-mode part is ``payload``; its 64-bit entry is 0x200 in.

    ``fields`` replaces values of its setup header by the names of boot.rst.
    """
    places = {
        "setup_sects": (0x1F1, "B", setup_sectors),
        "boot_flag": (0x1FE, "H", 0xAA55),
        "jump": (0x200, "B", 0xEB),
        "jump_over": (0x201, "B", 0x6A),  # the header ends at 0x26c
        "header": (0x202, "I", 0x53726448),
        "version": (0x206, "H", 0x020F),
        "loadflags": (0x211, "B", 0x01),
        "code32_start": (0x214, "I", 0x100000),
        "initrd_addr_max": (0x22C, "I", 0x7FFFFFFF),
        "kernel_alignment": (0x230, "I", 0x200000),
        "relocatable_kernel": (0x234, "B", 1),
        "min_alignment": (0x235, "B", 21),
        "xloadflags": (0x236, "H", 0x3F),
        "cmdline_size": (0x238, "I", 2047),
        "hardware_subarch": (0x23C, "I", 0),
        "payload_offset": (0x248, "I", 0x2D4),
        "payload_length": (0x24C, "I", len(payload)),
        "setup_data": (0x250, "Q", 0),
        "pref_address": (0x258, "Q", 0x1000000),
        "init_size": (0x260, "I", 0x200000),
        "handover_offset": (0x264, "I", 0x190),
        "kernel_info_offset": (0x268, "I", 0),
    }
    setup = bytearray(((setup_sectors or 4) + 1) * 512)
    for name, (at, layout, value) in places.items():
        struct.pack_into("<" + layout, setup, at, fields.get(name, value))
    return bytes(setup) + payload
