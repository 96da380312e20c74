# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the module kvm_host_info returns: the probes, the checks over them, the verdict."""

from __future__ import annotations

from typing import Any, Sequence

from .checks import CHECKS, run
from .observe import KvmProbe, observe, to_dict
from .verdict import judge


def assess(
    root: str,
    ignore: Sequence[str],
    require: Sequence[str],
    kvm_probe: KvmProbe | None = None,
) -> dict[str, Any]:
    """Return ``host``, ``checks`` and ``verdict`` of the machine under ``root``.

    ``kvm_probe`` asks the running kernel's KVM, so it is called for the running system alone.
    Raises InputError for names that no check and no feature has.
    """
    if ignore or require:
        from .checks.require import check_names, required  # noqa: PLC0415 - not every run needs it

        check_names(ignore, require)
    host = observe(root, kvm_probe if root == "/" else None)
    results = run(host, ignore)
    if require:
        results += required(host, require)
    limits = {check.id: check.limit for check in CHECKS}
    vital = [check.id for check in CHECKS if check.vital]
    return {"host": to_dict(host), "checks": results, "verdict": judge(results, limits, vital)}
