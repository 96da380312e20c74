# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a machine is and can do: probes read it, checks judge it.

``probes`` reads one source each under a root and returns plain dataclasses; ``checks`` are pure
functions over them; ``verdict`` sums the checks up; ``report`` (for the controller) draws them.
"""

from __future__ import annotations
