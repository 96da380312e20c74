# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What tests ask of hosts and their guests by other means than ours: virsh, the guest agent."""

from __future__ import annotations

import base64
import json
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playing import Run
    from virtlab.host import Host

FOLDER = "/var/lib/libvirt/images"
BOOT = {
    "kernel": "/var/lib/virtlab/vmlinuz",
    "initrd": "/var/lib/virtlab/initrd",
    "cmdline": "console=ttyS0 quiet edd=off norandmaps mitigations=off",
}


def virsh(host: Host, words: str) -> str:
    return host.out(f"sudo virsh --connect qemu:///system {words}")


def domains(host: Host) -> set[str]:
    return set(virsh(host, "list --all --name").split())


def journal(host: Host) -> str:
    """Return all that was logged, but for what sudo says of the commands of tests."""
    return host.out("sudo journalctl --no-pager --output=cat | grep -v 'COMMAND='")


def command_lines(host: Host) -> str:
    """Return the command lines of all processes."""
    return host.out("sudo sh -c 'cat /proc/[0-9]*/cmdline' | tr '\\0' ' '")


def files(host: Host) -> list[str]:
    return host.out(f"sudo ls {FOLDER}").split()


def in_guest(host: Host, name: str, script: str) -> str:
    """Run a script in a guest through its agent and return what it printed."""

    def ask(**request: Any) -> Any:
        text = json.dumps({"execute": request.pop("execute"), "arguments": request})
        return json.loads(virsh(host, f"qemu-agent-command {name} '{text}'"))["return"]

    arguments = {"path": "/bin/sh", "arg": ["-c", script], "capture-output": True}
    pid = ask(execute="guest-exec", **arguments)["pid"]
    give_up = time.monotonic() + 60
    while time.monotonic() < give_up:
        status = ask(execute="guest-exec-status", pid=pid)
        if status["exited"]:
            return base64.b64decode(status.get("out-data", "")).decode().strip()
        time.sleep(0.5)
    raise AssertionError(f"{name}: {script} did not end")


def verbs(run: Run, host: Host) -> list[str]:
    found = run.of("kvm_guests", host.name)["actions"]
    return [f"{a['object'][6:]} {a['action']} {a['when']}" for a in found]
