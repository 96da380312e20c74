# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The registry of checks, in the order of the table, and the way through it.

Root causes stand before what follows from them (firmware, flag, module, device), so that the
remedies of a host that is not ready come out with the most likely one first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Iterable

from ..check import INFO, PASS, Check, Finding, as_dict
from . import cpu, io, kvm, memory, system

if TYPE_CHECKING:
    from ..observe import Host

CHECKS = (
    *cpu.CHECKS,
    *kvm.CHECKS,
    *kvm.FEATURE_CHECKS,
    *memory.CHECKS,
    *io.CHECKS,
    *system.CHECKS,
)
BY_ID: dict[str, Check] = {check.id: check for check in CHECKS}


def run(host: Host, ignore: Iterable[str] = ()) -> list[dict[str, Any]]:
    """Return what every check that applies to this machine finds, as plain values.

    An ignored check stays in the list, as a fact.
    """
    ignored = set(ignore)
    results = []
    for check in CHECKS:
        finding = check.test(host)
        if finding is None:
            continue
        if check.id in ignored and finding.level not in (PASS, INFO):
            finding = Finding(INFO, f"ignored ({finding.level}): {finding.found}")
        results.append(as_dict(check.id, check.title, check.source, finding))
    return results
