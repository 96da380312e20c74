# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Writes when every task began and ended on a host to the file that $TASK_TIMES names."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: task_times
type: notification
short_description: write to a file when tasks began and ended
description:
  - Appends a line of JSON with the task's name, the host, and the seconds of the monotonic clock
    at which it began there and at which its result came.
"""


class CallbackModule(CallbackBase):
    """Measures from a task's start on a host to its result."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "task_times"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._began: dict[str, float] = {}

    def v2_runner_on_start(self, host: Any, task: Any) -> None:
        """Remember when the task began."""
        del task
        self._began[host.get_name()] = time.perf_counter()

    def v2_runner_on_ok(self, result: Any) -> None:
        """Write how long it took."""
        host = result.host.get_name()
        entry = {
            "task": result.task.get_name(),
            "host": host,
            "began": self._began[host],
            "ended": time.perf_counter(),
        }
        with open(os.environ["TASK_TIMES"], "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
