# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Show at the end of a run what it found: the hosts' readiness, their guests, the consoles."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible.plugins.callback import CallbackBase
from ansible.utils.color import ANSIBLE_COLOR

runpy.run_path(str(Path(__file__).parents[1] / "shim.py"))

from ansible.module_utils.guest import report as guest_report
from ansible.module_utils.host import report as host_report

if TYPE_CHECKING:
    from ansible.executor.task_result import CallbackTaskResult

DOCUMENTATION = r"""
name: kvm_report
type: aggregate
short_description: Shows readiness, guests and consoles at the end of a run
version_added: "0.1.0"
description:
  - Collects what the modules M(kvm_host_info), M(kvm_selftest), M(kvm_guests) and
    M(kvm_guests_info) returned and shows it after the recap, also when the run failed.
  - A run in which none of them ran shows nothing more than before.
  - Colours are used where Ansible uses them, so E(NO_COLOR) and E(ANSIBLE_NOCOLOR) hold.
requirements:
  - Named in C(callbacks_enabled) of ansible.cfg.
"""

_WIDEST = 140  # columns; longer lines are hard to read


class Findings:
    """What the hosts answered in the course of a run; the newest answer of each counts."""

    def __init__(self) -> None:
        self.info: dict[str, dict[str, Any]] = {}
        self.selftest: dict[str, dict[str, Any]] = {}
        self.guests: dict[str, list[dict[str, Any]]] = {}
        self.outstanding: dict[str, dict[str, Any]] = {}

    def add(self, host: str, module: str, answer: dict[str, Any]) -> None:
        """Keep what is shown of a module's answer; a module that failed has nothing of it."""
        if module == "kvm_host_info" and "verdict" in answer:
            self.info[host] = answer
        elif module == "kvm_selftest" and "verdict" in answer:
            self.selftest[host] = answer
        elif module in {"kvm_guests", "kvm_guests_info"} and "guests" in answer:
            self.guests[host] = answer["guests"]
        if module == "kvm_guests" and "pending" in answer:
            self.outstanding[host] = answer

    def readiness(self) -> list[host_report.Readiness]:
        """Return what is known of each host, with the self-test's part in it."""
        return [
            host_report.combine(name, info, self.selftest.get(name))
            for name, info in sorted(self.info.items())
        ]


def render(findings: Findings, width: int, *, colour: bool) -> str:
    """Return the report, empty where there is nothing to show."""
    parts = [host_report.render(findings.readiness(), width, colour=colour)]
    for host, guests in sorted(findings.guests.items()):
        text = guest_report.render(guests, width, colour=colour)
        answer = findings.outstanding.get(host, {})
        left = (answer.get("pending", []), answer.get("blocked", []))
        waits = guest_report.outstanding(*left, width, colour=colour)
        text = f"{text}\n{waits}" if waits else text
        parts.append(f"Guests of {host}\n\n{text}" if len(findings.guests) > 1 else text)
    return "\n".join(part for part in parts if part)


class CallbackModule(CallbackBase):
    """Collects results and shows them once, when the run is over."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "kvm_report"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._findings = Findings()

    def _keep(self, result: CallbackTaskResult) -> None:
        module = str(result.task.action).rpartition(".")[2]
        self._findings.add(result.host.get_name(), module, dict(result.result))

    def v2_runner_on_ok(self, result: CallbackTaskResult) -> None:
        """Keep the answer of a task that went well."""
        self._keep(result)

    def v2_runner_on_failed(
        self,
        result: CallbackTaskResult,
        ignore_errors: bool = False,  # noqa: ARG002 - Ansible's signature
    ) -> None:
        """Keep the answer of a task that failed: that is when the table is wanted most."""
        self._keep(result)

    def v2_playbook_on_stats(self, stats: Any) -> None:  # noqa: ARG002 - Ansible's signature
        """Show what was collected."""
        width = min(shutil.get_terminal_size((100, 24)).columns, _WIDEST)
        text = render(self._findings, width, colour=bool(ANSIBLE_COLOR))
        if text:
            self._display.display(f"{text.rstrip()}\n")
