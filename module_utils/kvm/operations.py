# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a running guest can be asked for over its control socket, but for its consoles."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, Callable, Mapping

from . import metrics
from .definition import MINIMUM_LOG, choice, integer
from .errors import EXIT_OK
from .runner import Outcome

if TYPE_CHECKING:
    from .console import Log
    from .ports import Ports
    from .runner import Runner
    from .watchdog import Watchdog

RESET = Outcome(EXIT_OK, "reset on request", reset=True)
_LARGEST_TERMINAL = 0xFFFF


class Operations:
    """The operations of one guest: each takes a request and returns its answer.

    A ValueError refuses; KeyError is for a value that is missing.
    """

    def __init__(self, runner: Runner, log: Log, about: Mapping[str, Any]) -> None:
        self._runner = runner
        self._log = log
        self._about = about  # what never changes: name, helper, definition, jail
        self.watchdog: Watchdog | None = None
        self.ports: Ports | None = None
        self.past = metrics.no_counts()
        self.footprint: metrics.Footprint | None = None
        self.milestones: Callable[[], dict[str, float]] = dict

    def all(self) -> dict[str, Callable[[dict[str, Any]], dict[str, Any]]]:
        """Return the operations by their names."""
        return {
            "status": self.status,
            "metrics": self.metrics,
            "set": self.set,
            "stop": self.stop,
            "shutdown": self.shutdown,
            "reset": self.reset,
            "pause": self.pause,
            "resume": self.resume,
            "resize": self.resize,
            "balloon": self.balloon,
        }

    def status(self, _: dict[str, Any]) -> dict[str, Any]:
        """Say what the guest is and how it is."""
        runner, log = self._runner, self._log
        config = runner.machine.config
        found = {
            **self._about,
            "state": "paused" if runner.paused else "running",
            "pid": os.getpid(),
            "uptime": time.monotonic() - runner.started,
            "boots": runner.boots,
            "vcpus": config.vcpus,
            "memory": config.memory,
            "exits": runner.counts(),
            "log": {"size": log.size, "dropped": log.dropped, "error": log.error},
        }
        machine = runner.machine
        named = zip(metrics.names(machine), machine.devices)
        found["devices"] = {name: device.note for name, device in named if device.note}
        if self.watchdog:
            found["watchdog"] = self.watchdog.state()
        return found

    def metrics(self, message: dict[str, Any]) -> dict[str, Any]:
        """Return what was counted, as a mapping or as text."""
        form = choice(message, "format", "json", ("json", "prometheus"))
        if self.footprint is None:
            self.footprint = metrics.Footprint()
        found = metrics.collect(self._runner, self.past, self.footprint, self.milestones())
        found.update(name=self._about["name"], up=1, log_dropped=self._log.dropped)
        if self.watchdog:
            found["watchdog"] = self.watchdog.fired
        if form == "prometheus":
            return {"text": metrics.text({self._about["name"]: found})}
        return {"metrics": found}

    def set(self, message: dict[str, Any]) -> dict[str, Any]:
        """Change the log's limits."""
        max_size = integer(message, "log_max_size", MINIMUM_LOG)
        self._log.max_size, self._log.keep = max_size, integer(message, "log_keep", 0)
        return {}

    def stop(self, _: dict[str, Any]) -> dict[str, Any]:
        """End the guest at once."""
        self._runner.finish(Outcome(EXIT_OK, "stopped on request"), for_good=True)
        return {}

    def shutdown(self, _: dict[str, Any]) -> dict[str, Any]:
        """Press the power button; say whether the guest listens to it."""
        return {"listens": self._runner.press()}

    def reset(self, _: dict[str, Any]) -> dict[str, Any]:
        """Let the guest begin again."""
        self._runner.finish(RESET)
        return {}

    def pause(self, _: dict[str, Any]) -> dict[str, Any]:
        """Let the guest stand still."""
        if not self._runner.pause():
            raise ValueError("a vCPU does not come out of the guest")
        return {}

    def resume(self, _: dict[str, Any]) -> dict[str, Any]:
        """Let it go on."""
        self._runner.resume()
        return {}

    def resize(self, message: dict[str, Any]) -> dict[str, Any]:
        """Tell the guest the size of a terminal; say whether it has a console that has a size."""
        columns, rows = integer(message, "columns", 1), integer(message, "rows", 1)
        if max(columns, rows) > _LARGEST_TERMINAL:
            raise ValueError(f"a terminal has at most {_LARGEST_TERMINAL} columns and rows")
        if self.ports:
            self.ports.resize(columns, rows)
        return {"resized": self.ports is not None}

    def balloon(self, message: dict[str, Any]) -> dict[str, Any]:
        """Ask the guest to get along with so many bytes, null for all; say what it lends now."""
        balloon = metrics.device_of(self._runner.machine, "balloon")
        if balloon is None:
            raise ValueError("the guest has no balloon")
        target = message["target"]
        balloon.target(None if target is None else integer(message, "target", 0))
        return {"actual": balloon.actual}
