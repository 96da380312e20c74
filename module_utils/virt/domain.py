# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The table of a domain: each key of a spec, and its place in the XML.

https://libvirt.org/formatdomain.html describes the places. The order of the keys is the one in
which they are written, and in which a spec is shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import amounts, character, devices, display, machine, processor
from .disk import DISKS
from .nic import NICS

if TYPE_CHECKING:
    from .fields import Field

FIELDS: tuple[Field, ...] = (
    *machine.FIELDS[:3],
    *amounts.FIELDS,
    *processor.FIELDS,
    *machine.FIELDS[3:],
    DISKS,
    NICS,
    *character.FIELDS,
    *display.FIELDS,
    *devices.FIELDS,
)
KEYS = tuple(one.key for one in FIELDS)
XML = "xml"  # the fragment that is merged after all of them
