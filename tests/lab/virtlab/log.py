# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Progress, told at once and on one line each."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


def say(message: str) -> None:
    """Tell the user."""
    sys.stderr.write(f"lab: {message}\n")
    sys.stderr.flush()


@contextmanager
def step(message: str) -> Iterator[None]:
    """Tell that something begins, and how long it took when it is done."""
    started = time.monotonic()
    say(f"{message} …")
    yield
    say(f"{message}: {time.monotonic() - started:.1f} s")
