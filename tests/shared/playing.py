# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs of ansible-playbook, and what they answered as data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
_HERE = Path(__file__).parent


@dataclass
class Run:
    """One run: its exit status, its output, the tasks' results and the recap of every host."""

    status: int
    output: str
    results: list[dict[str, Any]] = field(default_factory=list)
    recap: dict[str, dict[str, int]] = field(default_factory=dict)

    def of(self, module: str, host: str) -> dict[str, Any]:
        """Return the last result of a module on a host."""
        found = [e for e in self.results if (e["module"], e["host"]) == (module, host)]
        assert found, f"{module} did not run on {host}:\n{self.output}"
        result: dict[str, Any] = found[-1]["result"]
        return result

    def changed(self) -> dict[str, list[str]]:
        """Return the tasks that changed something, by host."""
        found: dict[str, list[str]] = {}
        for entry in self.results:
            if entry["end"] == "ok" and entry["result"].get("changed"):
                found.setdefault(entry["host"], []).append(entry["task"])
        return found

    def messages(self, host: str) -> list[str]:
        """Return why tasks failed on a host, or why it was not reached."""
        ends = {"failed", "unreachable"}
        return [
            str(entry["result"].get("msg", ""))
            for entry in self.results
            if entry["host"] == host and entry["end"] in ends
        ]


@dataclass(frozen=True)
class Ansible:
    """ansible-playbook with an inventory; every run is checked to have ended as expected.

    ``limit`` is for runs that state none. ``prefix`` goes before the command, as that which enters
    a namespace.
    """

    inventory: Path
    limit: str = ""
    prefix: tuple[str, ...] = ()

    def command(self, book: Path, *arguments: str) -> list[str]:
        """Return the command line that runs a playbook."""
        program = str(Path(sys.executable).parent / "ansible-playbook")
        limited = not self.limit or "--limit" in arguments
        limit = [] if limited else ["--limit", self.limit]
        return [*self.prefix, program, "-i", str(self.inventory), str(book), *limit, *arguments]

    def environment(self, results: str) -> dict[str, str]:
        """Return what a run of this checkout sees, and where its results go."""
        return {
            **os.environ,
            "ANSIBLE_CONFIG": str(REPOSITORY / "ansible.cfg"),
            "ANSIBLE_CALLBACK_PLUGINS": f"{_HERE / 'callback'}:{REPOSITORY / 'plugins/callback'}",
            "ANSIBLE_CALLBACKS_ENABLED": "run_results,kvm_report",
            "ANSIBLE_NOCOLOR": "1",
            "RUN_RESULTS": results,
        }

    def run(
        self,
        book: Path,
        *arguments: str,
        status: int | None = 0,
        patience: float = 1500,
        **extra: Any,
    ) -> Run:
        """Run a playbook; ``extra`` are its extra variables. ``status`` None accepts any."""
        with tempfile.TemporaryDirectory() as scratch:
            results = Path(scratch) / "results"
            results.touch()
            variables = ["-e", json.dumps(extra)] if extra else []
            done = subprocess.run(
                self.command(book, *arguments, *variables),
                env=self.environment(str(results)),
                cwd=REPOSITORY,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
                timeout=patience,
            )
            run = Run(done.returncode, done.stdout)
            for line in results.read_text().splitlines():
                entry = json.loads(line)
                if "recap" in entry:
                    run.recap[entry.pop("recap")] = entry
                else:
                    run.results.append(entry)
        if status is not None:
            assert run.status == status, f"ended with {run.status}:\n{run.output}"
        return run

    def playbook(self, name: str, *arguments: str, **settings: Any) -> Run:
        """Run one of the repository's playbooks."""
        return self.run(REPOSITORY / "playbooks" / f"{name}.yml", *arguments, **settings)

    def role(self, name: str, *arguments: str, hosts: str = "hypervisors", **settings: Any) -> Run:
        """Run one role as root on the hosts."""
        play = {"hosts": hosts, "become": True, "gather_facts": False, "roles": [name]}
        return self.plays([play], *arguments, **settings)

    def plays(self, plays: list[dict[str, Any]], *arguments: str, **settings: Any) -> Run:
        """Run plays that are given as data."""
        with tempfile.NamedTemporaryFile("w", suffix=".yml", dir=self.inventory.parent) as file:
            yaml.safe_dump(plays, file, sort_keys=False)
            file.flush()
            return self.run(Path(file.name), *arguments, **settings)
