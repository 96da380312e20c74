# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Show at the end of a run what it found: readiness, guests, consoles, and each host's ending."""

from __future__ import annotations

import json
import runpy
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible import context
from ansible.plugins.callback import CallbackBase
from ansible.utils.color import ANSIBLE_COLOR

runpy.run_path(str(Path(__file__).parents[1] / "shim.py"))

from ansible.module_utils.converge import tally
from ansible.module_utils.guest import report as guest_report
from ansible.module_utils.host import report as host_report
from ansible.module_utils.host import summary

if TYPE_CHECKING:
    from ansible.executor.stats import AggregateStats
    from ansible.executor.task_result import CallbackTaskResult
    from ansible.playbook.play import Play

DOCUMENTATION = r"""
name: kvm_report
type: aggregate
short_description: Shows readiness, guests and consoles at the end of a run
version_added: "0.1.0"
description:
  - Collects what the modules M(kvm_host_info), M(kvm_selftest), M(kvm_networks), M(kvm_pools),
    M(kvm_volumes), M(kvm_secrets), M(kvm_images), M(kvm_guests) and M(kvm_guests_info) returned and
    shows it after the recap, also when the run failed.
  - Ends with a line for each host, that says whether it was changed, failed and why, could not be
    reached, was stopped because of others, or needs a reboot. A single host that ended well has
    none, as the recap says so already.
  - Shows before that what was done, in check mode what would be, grouped by what it means for an
    object, with the values that change, and in a line how many objects that are.
  - Colours are used where Ansible uses them, so E(NO_COLOR) and E(ANSIBLE_NOCOLOR) hold.
options:
  json_file:
    description: A file that gets the same as JSON, for tools.
    type: path
    env:
      - name: KVM_REPORT_JSON
    ini:
      - section: kvm_report
        key: json_file
requirements:
  - Named in C(callbacks_enabled) of ansible.cfg.
"""

_OF_GUESTS = ("kvm_networks", "kvm_pools", "kvm_secrets", "kvm_volumes", "kvm_images", "kvm_guests")
_WIDEST = 140  # columns; longer lines are hard to read


class Findings:
    """What the hosts answered in the course of a run; the newest answer of each counts."""

    def __init__(self) -> None:
        self.info: dict[str, dict[str, Any]] = {}
        self.selftest: dict[str, dict[str, Any]] = {}
        self.guests: dict[str, list[dict[str, Any]]] = {}
        self._outstanding: dict[str, dict[str, dict[str, Any]]] = {}  # by host and module
        self.fleet: dict[str, Any] = {}  # what the plan of the whole fleet answered

    def add(self, host: str, module: str, answer: dict[str, Any]) -> None:
        """Keep what is shown of a module's answer; a module that failed has nothing of it."""
        if module == "kvm_host_info" and "verdict" in answer:
            self.info[host] = answer
        elif module == "kvm_selftest" and "verdict" in answer:
            self.selftest[host] = answer
        elif module in {"kvm_guests", "kvm_guests_info"} and "guests" in answer:
            self.guests[host] = answer["guests"]
        if module == "kvm_fleet_plan" and "blocked" in answer:
            self.fleet = answer
        if module in _OF_GUESTS and "pending" in answer:
            self._outstanding.setdefault(host, {})[module] = answer

    def outstanding(self, host: str) -> tuple[list[Any], list[Any]]:
        """Return what is pending and what was blocked on a host, what guests stand on first."""
        answers = self._outstanding.get(host, {})
        ordered = [answers[module] for module in _OF_GUESTS if module in answers]
        return (
            [item for answer in ordered for item in answer["pending"]],
            [item for answer in ordered for item in answer.get("blocked", [])],
        )

    def hosts(self) -> list[str]:
        """Return the hosts of which something is shown beside their readiness."""
        waiting = [host for host in self._outstanding if any(self.outstanding(host))]
        return sorted({*self.guests, *waiting})

    def readiness(self) -> list[host_report.Readiness]:
        """Return what is known of each host, with the self-test's part in it."""
        return [
            host_report.combine(name, info, self.selftest.get(name))
            for name, info in sorted(self.info.items())
        ]


class Course:
    """The course of a run over its plays: which hosts got where, and what stopped them."""

    def __init__(self) -> None:
        self._reached: list[tuple[str, set[str]]] = []  # of each play its hosts' pattern, and they
        self._ended_early = False
        self._reasons: dict[str, str] = {}
        self._reboots: dict[str, dict[str, str]] = {}

    def begin(self, pattern: str, name: str) -> None:
        """Note that a play begins; its further batches are the same play."""
        key = f"{name}\0{pattern}"
        if not self._reached or self._reached[-1][0] != key:
            self._reached.append((key, set()))

    def reach(self, result: CallbackTaskResult) -> None:
        """Note that a task of the play reached a host; what runs once tells of none but one."""
        if self._reached and not result.task.run_once:
            self._reached[-1][1].add(result.host.get_name())

    def fail(self, host: str, answer: dict[str, Any]) -> None:
        """Note why a host failed; of several reasons the last is the one that ended it."""
        said = answer.get("msg") or answer.get("stderr") or answer.get("reason") or "no message"
        self._reasons[host] = str(said)

    def end_early(self) -> None:
        """Note that the play ended for all hosts, those that did not fail included."""
        self._ended_early = True

    def add(self, host: str, module: str, answer: dict[str, Any]) -> None:
        """Keep whether a module of ours says that the host needs a reboot; the newest counts."""
        if "pending" not in answer:
            return
        reasons = [
            str(item.get("reason", ""))
            for item in answer["pending"]
            if item.get("kind") == "reboot_required"
        ]
        found = self._reboots.setdefault(host, {})
        found.pop(module, None)
        if reasons or answer.get("reboot_required"):
            found[module] = "; ".join(reasons)

    def _was_stopped(self, host: str) -> bool:
        """Return whether a host got no further because of others."""
        # A play of which no task was asked for (--tags) reaches nobody, and stops nobody.
        plays = [one for one in self._reached if one[1]]
        if not plays:
            return False
        key, reached = plays[-1]
        pattern = key.partition("\0")[2]
        before = [hosts for other, hosts in self._reached if other.partition("\0")[2] == pattern]
        expected = any(host in hosts for hosts in before)
        return expected and (self._ended_early or host not in reached)

    def endings(self, stats: AggregateStats) -> list[summary.Ending]:
        """Return how the run ended on each host."""
        return [self._ending(host, stats) for host in sorted(stats.processed)]

    def _ending(self, host: str, stats: AggregateStats) -> summary.Ending:
        counts = stats.summarize(host)
        reboots = self._reboots.get(host)
        reboot = "; ".join(reason for reason in reboots.values() if reason) if reboots else None
        if counts["unreachable"]:
            return summary.Ending(host, summary.UNREACHABLE, self._reasons.get(host, ""), reboot)
        if counts["failures"]:
            return summary.Ending(host, summary.FAILED, self._reasons.get(host, ""), reboot)
        if self._was_stopped(host):
            why = "it went no further, as others failed"
            return summary.Ending(host, summary.STOPPED, why, reboot)
        state = summary.CHANGED if counts["changed"] else summary.UNCHANGED
        return summary.Ending(host, state, "", reboot)


def render(findings: Findings, endings: list[summary.Ending], width: int, *, colour: bool) -> str:
    """Return the report, empty where there is nothing to show."""
    parts = [host_report.render(findings.readiness(), width, colour=colour)]
    hosts = findings.hosts()
    for host in hosts:
        guests = findings.guests.get(host)
        text = "" if guests is None else guest_report.render(guests, width, colour=colour)
        waits = guest_report.outstanding(*findings.outstanding(host), width, colour=colour)
        text = "\n".join(part for part in (text, waits) if part)
        title = f"Outstanding on {host}" if guests is None else f"Guests of {host}"
        parts.append(f"{title}\n\n{text}" if len(hosts) > 1 or guests is None else text)
    if findings.fleet:
        pending, blocked = (
            guest_report.alike(findings.fleet[key]) for key in ("pending", "blocked")
        )
        waits = guest_report.outstanding(pending, blocked, width, colour=colour)
        parts.append(f"Outstanding in the fleet\n\n{waits}" if waits else "")
    parts.append(tally.so_far().render(width, colour=colour))
    parts.append(summary.render(endings, width, colour=colour))
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
        self._course = Course()
        self._tally = tally.begin(check=bool(context.CLIARGS.get("check")))

    def _keep(self, result: CallbackTaskResult) -> None:
        host, module = result.host.get_name(), str(result.task.action).rpartition(".")[2]
        answer = dict(result.result)
        self._findings.add(host, module, answer)
        self._tally.add(host, module, str(result.task.get_name()), answer)
        self._course.reach(result)
        self._course.add(host, module, answer)

    def v2_playbook_on_play_start(self, play: Play) -> None:
        """Note which hosts the play is for."""
        self._course.begin(str(play.hosts), play.get_name())

    def v2_playbook_on_no_hosts_remaining(self) -> None:
        """Note that the play is over for everybody."""
        self._course.end_early()

    def v2_runner_on_ok(self, result: CallbackTaskResult) -> None:
        """Keep the answer of a task that went well."""
        self._keep(result)

    def v2_runner_on_skipped(self, result: CallbackTaskResult) -> None:
        """Note how far the host got."""
        self._course.reach(result)

    def v2_runner_on_failed(
        self,
        result: CallbackTaskResult,
        ignore_errors: bool = False,
    ) -> None:
        """Keep the answer of a task that failed: that is when the table is wanted most."""
        self._keep(result)
        if not ignore_errors:
            self._course.fail(result.host.get_name(), dict(result.result))

    def v2_runner_on_unreachable(self, result: CallbackTaskResult) -> None:
        """Keep why a host could not be reached."""
        self._course.reach(result)
        self._course.fail(result.host.get_name(), dict(result.result))

    def v2_playbook_on_stats(self, stats: AggregateStats) -> None:
        """Show what was collected."""
        width = min(shutil.get_terminal_size((100, 24)).columns, _WIDEST)
        endings = self._course.endings(stats)
        text = render(self._findings, endings, width, colour=bool(ANSIBLE_COLOR))
        self._write_json()
        if text:
            self._display.display(f"{text.rstrip()}\n")

    def _write_json(self) -> None:
        """Write what was done for tools, where that is asked for."""
        path = self.get_option("json_file")
        if path:
            told = json.dumps(self._tally.to_dict(), indent=1, default=str)
            Path(path).write_text(f"{told}\n", encoding="utf-8")
