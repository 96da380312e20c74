# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The codecs that several parts of the table share; the forms are those of libvirt's schema."""

from __future__ import annotations

from .codecs import Codec, CpuSet, Flag, Lines, Pattern, Present, Size, Whole, Words
from .compound import Pci

TEXT = Codec()
LINES = Lines()
YES = Flag()
ON = Flag(yes="on", no="off")
THERE = Present()
CPUS = CpuSet()
PCI = Pci()
COUNT = Whole("a whole number", 1)
NUMBER = Whole("a whole number", 0)
PORT = Whole("a port", 1, 65535)
ORDER = Whole("a place in the order of boot", 1, 65535)
BYTES = Size(unit="B", unit_in=None)  # in the XML a bare number of bytes
SIZE = Size()
PATH = Pattern("an absolute path", r"/.+")
DEVICE = Pattern("a device's name", r"[a-zA-Z0-9_.\-:/]+")  # the schema's deviceName
NAME = Pattern("a name of letters, digits, _, + and -", r"[a-zA-Z0-9_+\-]+")
OBJECT = Pattern("a name without a slash", r"[^/]+")
HOST = Pattern("a host's name or address", r"[a-zA-Z0-9.\-]+|[0-9a-fA-F:.]*:[0-9a-fA-F:.]*")
UUID = Pattern("a UUID", r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}", lower=True)
MAC = Pattern(
    "a unicast MAC address such as 02:00:00:00:00:01",
    r"[0-9a-fA-F][02468aceACE](?::[0-9a-fA-F]{2}){5}",
    lower=True,
)
INDEX = Pattern("a number", r"0|[1-9][0-9]{0,3}")


def choice(expected: str, words: str) -> Words:
    """Return a choice of words, given in one text with spaces between them."""
    return Words(expected, tuple(words.split()))
