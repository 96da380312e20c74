# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Writes what every task answered on every host to the file that $RUN_RESULTS names."""

from __future__ import annotations

import json
import os
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: run_results
type: notification
short_description: write every task's result to a file, a line of JSON each
description:
  - A line has the host, the task, its module, a word for how it ended, and the result.
"""


class CallbackModule(CallbackBase):
    """Writes a line for every task and host, and one a host in the end."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "run_results"
    CALLBACK_NEEDS_ENABLED = True

    def _write(self, entry: dict[str, Any]) -> None:
        with open(os.environ["RUN_RESULTS"], "a", encoding="utf-8") as file:
            file.write(json.dumps(entry, default=str) + "\n")

    def _result(self, word: str, result: Any) -> None:
        self._write(
            {
                "host": result.host.get_name(),
                "task": result.task.get_name(),
                "module": result.task.action,
                "end": word,
                "result": dict(result.result),
            }
        )

    def v2_runner_on_ok(self, result: Any) -> None:
        """Write a success."""
        self._result("ok", result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Write a failure."""
        self._result("ignored" if ignore_errors else "failed", result)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """Write that the host did not answer."""
        self._result("unreachable", result)

    def v2_runner_on_skipped(self, result: Any) -> None:
        """Write that the task was not for this host."""
        self._result("skipped", result)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Write the recap of every host."""
        for host in stats.processed:
            self._write({"recap": host, **stats.summarize(host)})
