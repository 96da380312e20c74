# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""libvirt's domains: their XML read into a spec's shape, written anew, and patched in place.

One table (domain.py) binds each key of a spec to its place in the XML; reader, writer, patcher, the
check of input and the liveness of a change all follow it. Nothing here does I/O.
"""

from __future__ import annotations
