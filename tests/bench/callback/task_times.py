# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Writes the wall time of every task, in seconds, to the file that $TASK_TIMES names."""

from __future__ import annotations

import os
import time
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: task_times
type: notification
short_description: write the wall time of every task to a file
description:
  - Appends a line with the seconds between a task's start on a host and its result.
"""


class CallbackModule(CallbackBase):
    """Measures from a task's start on a host to its result."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "task_times"
    CALLBACK_NEEDS_ENABLED = True

    def v2_runner_on_start(self, host: Any, task: Any) -> None:
        """Remember when the task began."""
        del host, task
        self._began = time.perf_counter()

    def v2_runner_on_ok(self, result: Any) -> None:
        """Write how long it took."""
        del result
        with open(os.environ["TASK_TIMES"], "a", encoding="ascii") as file:
            file.write(f"{time.perf_counter() - self._began:.6f}\n")
