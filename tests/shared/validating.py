# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""virt-host-validate's verdicts beside ours, on whatever machine both looked at."""

from __future__ import annotations

import re
from collections.abc import Mapping

# virt-host-validate's words → our check (docs/readiness.md has the table). It asks the two IOMMU
# questions only where it knows the answer to the one before.
SAME = {
    "for hardware virtualization": "cpu.virtualization",
    "if device /dev/kvm exists": "kvm.device",
    "if device /dev/kvm is accessible": "kvm.access",
    "for PowerPC KVM module loaded": "kvm.module",
    "if device /dev/vhost-net exists": "device.vhost_net",
    "if device /dev/net/tun exists": "device.tun",
    "for device assignment IOMMU support": "iommu.hardware",
    "if IOMMU is enabled by kernel": "iommu.enabled",
    "for secure guest support": "secure.guests",
}
# What it warns of is a fact for us where the hardware simply has nothing of the kind.
LEVELS = {
    "PASS": {"pass"},
    "WARN": {"warn", "info", "unknown"},
    "NOTE": {"info", "unknown"},
    "FAIL": {"fail"},
}
LINE = re.compile(r"\s*QEMU: Checking (.+?)\s*: (PASS|WARN|FAIL|NOTE)\b")


def _check_of(question: str) -> str:
    controller = re.fullmatch(r"for cgroup '(\w+)' controller support", question)
    if controller:
        return f"cgroup.{controller.group(1)}"
    return SAME[question.replace("'", "")]  # since libvirt 11 devices stand in quotes


def disagreements(output: str, levels: Mapping[str, str]) -> list[str]:
    """Return where virt-host-validate's output and our checks' levels differ, a line each."""
    answers = dict(LINE.findall(output))
    if "for hardware virtualization" not in answers:
        return [f"virt-host-validate did not look at the CPU: {output}"]
    found = []
    for question, answer in answers.items():
        identity = _check_of(question)
        allowed = set(LEVELS[answer])
        if identity == "cpu.virtualization" and levels["kvm.vm"] == "pass":
            allowed |= {"warn"}  # it looks at the flag alone, and KVM works all the same
        if levels[identity] not in allowed:
            found.append(f"{question}: {answer}, {identity}: {levels[identity]}")
    return found
