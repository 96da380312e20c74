# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Connect to a host anew after its network was changed, and confirm the change if that works."""

from __future__ import annotations

import runpy
import time
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase

runpy.run_path(str(Path(__file__).parents[1] / "shim.py"))

from ansible.module_utils.units import UnitError, parse_duration

_OURS = {"host", "confirm", "final"}
_DELAY = 1.0  # seconds: what the watchdog waits before it applies, and some
_INTERVAL = 1.0
_RETURN = 90.0  # seconds that a host may take to be back after its watchdog has undone the change
_OVER = {"confirmed", "rolled_back"}


class ActionModule(ActionBase):
    """The controller's side of the kvm_host_network module."""

    TRANSFERS_FILES = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Let the host change its network, and confirm that it can still be reached."""
        task_vars = task_vars or {}
        result: dict[str, Any] = super().run(tmp, task_vars)
        given = _OURS & set(self._task.args)
        if given:
            names = ", ".join(sorted(given))
            raise AnsibleActionFail(
                f"kvm_host_network gives {names} itself: leave it out of the task"
            )
        name = task_vars.get("inventory_hostname", "localhost")
        self._arguments = {**self._task.args, "host": name}
        self._vars = task_vars
        answer = self._apply()
        change = answer.get("change")
        if not change or answer.get("failed"):
            return {**result, **answer}
        seconds = self._timeout()
        time.sleep(_DELAY)
        state = self._confirm(change, seconds)
        if state.get("state") == "confirmed":
            return {**result, **answer}
        return {**result, **answer, "failed": True, "msg": self._message(state, seconds)}

    def _timeout(self) -> float:
        try:
            return parse_duration(self._task.args.get("rollback_timeout", "60s"))
        except UnitError:
            return 60.0  # the module has refused it by then

    def _apply(self) -> dict[str, Any]:
        """Run the module; where another change is on its way, wait for its end and run it again."""
        answer = self._call(self._arguments)
        if not answer.get("failed") or "busy" not in answer:
            return answer
        self._display.display(f"{self._arguments['host']}: {answer['msg']}")
        end = time.monotonic() + float(answer["busy"]) + _RETURN
        time.sleep(float(answer["busy"]))
        while answer.get("failed") and "busy" in answer and time.monotonic() < end:
            time.sleep(_INTERVAL)
            answer = self._try(self._arguments) or answer
        return answer

    def _call(self, arguments: dict[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = self._execute_module(
            module_name="kvm_host_network", module_args=arguments, task_vars=self._vars
        )
        return answer

    def _try(self, arguments: dict[str, Any]) -> dict[str, Any] | None:
        """Run the module over a new connection; None where the host does not answer."""
        # The folder of the call before went with its connection.
        self._connection._shell.tmpdir = None  # noqa: SLF001 - as Ansible's own plugins do
        try:
            self._connection.reset()
            answer = self._call(arguments)
        except AnsibleError:  # not only a lost connection: sudo's prompt that never came as well
            return None
        return None if answer.get("unreachable") else answer

    def _confirm(self, change: str, seconds: float) -> dict[str, Any]:
        """Confirm the change twice; return the state that the host was in last, {} if none."""
        state: dict[str, Any] = {}
        final = False
        # Each confirmation has the timeout for itself, and afterwards the host may need to return.
        end = time.monotonic() + seconds + _RETURN
        while time.monotonic() < end:
            arguments = {"confirm": change, "final": final}
            answer = self._try(arguments)
            state = answer if answer and "state" in answer else state
            if state.get("state") in _OVER:
                return state
            if answer and answer.get("state") == "persisted" and not final:
                final, end = True, time.monotonic() + seconds + _RETURN
                continue
            time.sleep(_INTERVAL)
        return state

    def _message(self, state: dict[str, Any], seconds: float) -> str:
        address = self._play_context.remote_addr or self._arguments["host"]
        if state.get("state") != "rolled_back":
            return (
                f"the host does not answer on {address} after the change, although its watchdog"
                " should have brought the former network back: look at its console"
            )
        late = "was not confirmed" in state.get("reason", "")
        why = (
            f"the host did not answer on {address} within {seconds:g} s"
            if late
            else state["reason"]
        )
        errors = "; ".join(state.get("errors", ()))
        back = f"what could not be undone: {errors}" if errors else "its former network is back"
        return f"rolled back: {why}; {back}"
