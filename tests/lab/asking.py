# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What tests ask of hosts and their guests by other means than ours: virsh, the guest agent."""

from __future__ import annotations

import base64
import json
import re
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playing import Run
    from virtlab.host import Host

VIRSH = "sudo virsh --connect qemu:///system"
FOLDER = "/var/lib/libvirt/images"
BOOT = {
    "kernel": "/var/lib/virtlab/vmlinuz",
    "initrd": "/var/lib/virtlab/initrd",
    "cmdline": "console=ttyS0 quiet edd=off norandmaps mitigations=off",
    "wait_timeout": "600s",  # it takes a fiftieth where nothing else runs
}


def virsh(host: Host, words: str) -> str:
    return host.out(f"{VIRSH} {words}")


def domains(host: Host) -> set[str]:
    return set(virsh(host, "list --all --name").split())


def there(*hosts: Host) -> dict[str, set[str]]:
    """Return what is on the hosts, by other tools than ours."""
    return {
        host.name: domains(host)
        | set(host.out("sudo ls /var/lib/virtfleet/guests 2>/dev/null || true").split())
        for host in hosts
    }


def configuring(hosts: str, task: dict[str, Any]) -> dict[str, Any]:
    """Return a play that waits for guests, asks what they are, and carries out the task there."""
    return {
        "hosts": hosts,
        "become": True,
        "gather_facts": False,
        "tasks": [
            {"name": "Wait for it", "ansible.builtin.wait_for_connection": {"timeout": 300}},
            {"name": "Ask what it is", "ansible.builtin.setup": {"gather_subset": "min"}},
            {"name": "Configure it", **task},
        ],
    }


def journal(host: Host) -> str:
    """Return all that was logged, but for what sudo says of the commands of tests."""
    return host.out("sudo journalctl --no-pager --output=cat | grep -v 'COMMAND='")


def command_lines(host: Host) -> str:
    """Return the command lines of all processes."""
    return host.out("sudo sh -c 'cat /proc/[0-9]*/cmdline' | tr '\\0' ' '")


def files(host: Host) -> list[str]:
    return host.out(f"sudo ls {FOLDER}").split()


def lost_guests(host: Host) -> list[str]:
    """Return the guests that the emulator has lost, which never go on.

    QEMU's SVM at times writes the host's registers to where a guest's are kept (seen with 10.0 and
    two CPUs): such a guest has its page tables outside of the memory that it has.
    """
    listed = host.run(f"{VIRSH} list --name --state-running", patience=30, check=False)
    found = []
    for name in listed.stdout.split():
        ask = (
            f"{VIRSH} qemu-monitor-command {name} --hmp 'info registers' | grep -o 'CR3=[0-9a-f]*'"
        )
        ask += f"; {VIRSH} dominfo {name} | grep 'Max memory'"
        told = re.fullmatch(
            r"CR3=([0-9a-f]+)\s+Max memory:\s+(\d+) KiB\s*",
            host.run(ask, patience=30, check=False).stdout,
        )
        if told and int(told[1], 16) >= int(told[2]) << 10:
            found.append(f"{name} of {host.name} (CR3={told[1]}, memory {told[2]} KiB)")
    return found


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
