# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Guest programs that travel with the helper, by the name under which ``kernel:`` knows them."""

from __future__ import annotations

from .greeter import IMAGE as _GREETER

PROGRAMS = {"greeter": _GREETER}
