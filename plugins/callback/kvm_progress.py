# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Tell what a run is waiting for while a task takes long, and how long all of it took."""

from __future__ import annotations

import runpy
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible import context
from ansible.plugins.callback import CallbackBase

runpy.run_path(str(Path(__file__).parents[1] / "shim.py"))

from ansible.module_utils.converge import tally
from ansible.module_utils.converge.progress import Progress, elapsed

if TYPE_CHECKING:
    from ansible.executor.task_result import CallbackTaskResult

DOCUMENTATION = r"""
name: kvm_progress
type: notification
short_description: Tells what a run is waiting for
version_added: "0.1.0"
description:
  - While a task takes long, a line now and then says how long it is under way, on how many hosts it
    is done, and which are still at work.
  - A host on which a module of this toolkit did something gets a line with what that was and how
    long it took. The time that all of it took is told in the end.
options:
  patience:
    description:
      - Seconds after which a task takes long. Each further line comes after twice the time.
      - By default 10 on a terminal and 60 elsewhere, so that a pipeline's log stays short. 0 is
        never.
    type: float
    env:
      - name: KVM_PROGRESS_PATIENCE
    ini:
      - section: kvm_progress
        key: patience
requirements:
  - Named in C(callbacks_enabled) of ansible.cfg.
"""

_ON_TERMINAL, _ELSEWHERE = 10.0, 60.0
_TICK = 1.0


class CallbackModule(CallbackBase):
    """Watches tasks begin and end, and the clock in between."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "kvm_progress"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._began = time.monotonic()
        self._progress: Progress | None = None

    def v2_playbook_on_start(self, playbook: Any) -> None:
        """Begin to watch the clock."""
        del playbook
        stated = self.get_option("patience")
        usual = _ON_TERMINAL if sys.stdout.isatty() else _ELSEWHERE
        patience = usual if stated is None else float(stated)
        if patience > 0:
            self._progress = Progress(patience)
            # Display holds its own lock where Ansible forks, so that a thread may use it.
            threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while not self._over.wait(_TICK):
            with self._lock:
                line = self._progress.line(time.monotonic()) if self._progress else ""
            if line:
                self._display.display(f"… {line}", color="bright gray")

    def v2_runner_on_start(self, host: Any, task: Any) -> None:
        """Note that a task begins on a host."""
        if self._progress:
            with self._lock:
                self._progress.start(host.get_name(), task.get_name(), time.monotonic())

    def _end(self, result: CallbackTaskResult) -> None:
        took = 0.0
        if self._progress:
            with self._lock:
                took = self._progress.end(result.host.get_name(), time.monotonic())
        done = tally.Tally(check=bool(context.CLIARGS.get("check")))
        answer = dict(result.result)
        if isinstance(answer.get("actions"), list) and answer["actions"]:
            done.add(result.host.get_name(), "", "", {"actions": answer["actions"]})
            self._display.display(f"  {result.host.get_name()}: {done.line()} ({elapsed(took)})")

    def v2_runner_on_ok(self, result: CallbackTaskResult) -> None:
        """Tell what was done."""
        self._end(result)

    def v2_runner_on_failed(self, result: CallbackTaskResult, ignore_errors: bool = False) -> None:
        """Tell what was done all the same."""
        del ignore_errors
        self._end(result)

    def v2_runner_on_unreachable(self, result: CallbackTaskResult) -> None:
        """Wait for the host no longer."""
        self._end(result)

    def v2_runner_on_skipped(self, result: CallbackTaskResult) -> None:
        """Wait for the host no longer."""
        self._end(result)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Tell how long it took."""
        del stats
        self._over.set()
        self._display.display(f"It took {elapsed(time.monotonic() - self._began)}.")
