# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""`make up`, `make up` again, `make down`: the whole way, on this machine's KVM.

It runs in namespaces of its own: the places that virtfleet writes to are empty there and gone
afterwards, and the processes end with the test, so that guests of this machine are neither seen
nor touched. systemd is outside of the namespaces and is hidden: guests are detached processes.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.kvm

# Mounted over with an empty file system, those that do not exist are made for it.
PLACES = ("/usr/lib/virtfleet", "/usr/local/bin", "/var/lib/virtfleet", "/run/virtfleet")
HIDDEN = "/run/systemd"
ENTER = """
set -e
for place; do mount -t tmpfs -o mode=0755 tmpfs "$place"; done
echo ready
exec cat
"""


class Namespace:
    """A view of this machine in which nothing of virtfleet is installed."""

    def __init__(self, repository: Path) -> None:
        self.repository = repository
        self.made = [place for place in PLACES if not os.path.isdir(place)]
        for place in self.made:
            os.makedirs(place)
        hidden = [HIDDEN] if os.path.isdir(HIDDEN) else []
        options = ["--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
        self.holder = subprocess.Popen(
            [str(shutil.which("unshare")), *options, "sh", "-c", ENTER, "sh", *PLACES, *hidden],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self.holder.stdout is not None
        self.answer = self.holder.stdout.readline().strip()
        children = Path(f"/proc/{self.holder.pid}/task/{self.holder.pid}/children")
        self.pid = children.read_text().split()[0] if self.answer == "ready" else ""

    def close(self) -> None:
        """End everything inside, and leave no folder that was made for it."""
        self.holder.communicate()
        for place in self.made:
            with contextlib.suppress(OSError):  # somebody uses it by now
                os.rmdir(place)

    def run(self, *command: str, status: int | None = 0) -> str:
        """Run a command inside; return what it printed."""
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("MAKE", "MFLAGS", "ANSIBLE_"))
        }
        enter = [str(shutil.which("nsenter")), "-t", self.pid, "-m", "-p"]
        done = subprocess.run(
            [*enter, f"--wd={self.repository}", *command],
            env={**environment, "NO_COLOR": "1", "COLUMNS": "120"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert status is None or done.returncode == status, done.stdout
        return done.stdout

    def make(self, *arguments: str, status: int = 0) -> str:
        return self.run("make", "--no-print-directory", *arguments, status=status)

    def ansible(self, module: str, arguments: dict[str, object]) -> str:
        """Run one module."""
        return self.run(
            *(".venv/bin/ansible", "hypervisors", "--become"),
            *("-m", module, "-a", json.dumps(arguments)),
        )


@pytest.fixture
def machine(repository) -> Iterator[Namespace]:
    if os.geteuid() != 0:
        pytest.skip("namespaces and guests' users need root")
    if not all(shutil.which(tool) for tool in ("unshare", "nsenter", "make")):
        pytest.skip("unshare, nsenter or make is not here")
    namespace = Namespace(repository)
    try:
        if namespace.answer != "ready":
            pytest.skip(f"namespaces cannot be made here: {namespace.answer}")
        yield namespace
    finally:
        namespace.close()


def changed(output: str) -> int:
    found = re.search(r"^localhost\s.*\bchanged=(\d+)", output, re.MULTILINE)
    assert found, output
    return int(found.group(1))


def test_up_again_and_down(machine):
    plan = machine.make("up", "ARGS=--check --diff")
    assert changed(plan) > 0
    assert (
        not os.path.exists("/usr/local/bin/kvm-helper") or machine.run("ls", "/usr/local/bin") == ""
    )

    first = machine.make("up")
    assert changed(first) > 0
    for word in ("ready", "hello", "pair", "running", "console of hello"):
        assert word in first

    second = machine.make("up")
    assert changed(second) == 0
    assert changed(machine.make("up", "ARGS=--check --diff")) == 0
    assert "running" in machine.run("kvm-helper", "list")

    other = {"guests": [{"name": "other", "engine": "ioctl", "kernel": "greeter"}]}
    machine.ansible("kvm_guests", other)
    kept = machine.make("up")
    assert changed(kept) == 0

    down = machine.make("down")
    assert changed(down) > 0
    assert changed(machine.make("down")) == 0
    left = machine.run("kvm-helper", "list")
    assert "other" in left
    assert "running" in left
    assert "hello" not in left

    refused = machine.run(
        *(".venv/bin/ansible-playbook", "playbooks/hosts.yml", "-e", "kvm_host_state=absent"),
        status=2,
    )
    assert "other" in refused
    other["guests"][0]["state"] = "absent"
    machine.ansible("kvm_guests", other)
    gone = machine.run(
        ".venv/bin/ansible-playbook", "playbooks/hosts.yml", "-e", "kvm_host_state=absent"
    )
    assert changed(gone) == 1
    assert machine.run("find", *PLACES, "-type", "f", "-not", "-name", "lock") == ""


def test_a_machine_without_usable_kvm_is_left_as_it_was(machine, tmp_path):
    nothing = tmp_path / "kvm"
    nothing.touch()
    machine.run("mount", "--bind", str(nothing), "/dev/kvm")
    output = machine.make("up", status=2)
    assert "not ready" in output.lower()
    assert "/dev/kvm" in output
    assert "Bring the guests to the state" not in output
    assert machine.run("find", *PLACES, "-type", "f") == ""
