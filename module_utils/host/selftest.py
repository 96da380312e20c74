# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks over what the self-test measured: a guest ran, and it ran fast enough.

Times may be at most their threshold (microseconds), ratios (guest's speed over native) at least.
"""

from __future__ import annotations

from typing import Any, Mapping, Sequence

from .check import Finding, as_dict, failed, info, passed, unknown, warned
from .verdict import judge

_LIMIT = "guests are slower than the thresholds allow"
_NO_LINUX = "the helper boots no Linux"
_SOURCE = "/dev/kvm (guests of the self-test)"

# Generous: current hardware needs a tenth of these times, and reaches 0.95 and more.
THRESHOLDS: dict[str, float] = {
    "open_to_first_instruction": 20_000.0,
    "pio_exit": 50.0,
    "mmio_exit": 50.0,
    "hlt_wakeup": 500.0,
    "integer_ratio": 0.9,
    "memory_ratio": 0.8,
}
_TITLES = {
    "open_to_first_instruction": "Start to first instruction",
    "pio_exit": "Port exit, round trip",
    "mmio_exit": "MMIO exit, round trip",
    "hlt_wakeup": "Wake-up of a halted vCPU",
    "integer_ratio": "Integer speed, guest over native",
    "memory_ratio": "Memory speed, guest over native",
}
GUEST = "selftest.guest"
LINUX = "selftest.linux"


def guest(result: Mapping[str, Any]) -> Finding:
    """Say whether a guest ran at all, and how its privileged code did."""
    if not result["ok"]:
        return failed(
            result["error"] or "it did not run",
            "a guest runs",
            "see the KVM checks of this host (kvm_host_info), and the kernel log",
        )
    ways = {"native": "ring 0 on the CPU", "emulated": "ring 0 emulated"}
    way = ways.get(result["facts"].get("ring0", ""), "how its ring 0 runs is not known")
    return passed(f"it ran, {way}")


def linux(result: Mapping[str, Any]) -> Finding:
    """Say whether the host's own kernel boots as a guest, and how long that took."""
    error = result["errors"].get("linux_boot")
    if error:
        return warned(error, "it boots", "use the engine libvirt here, and report this console")
    measured = next((one for one in result["measurements"] if one["id"] == "linux_boot"), None)
    if measured is None:
        fact = result["facts"].get("linux_boot")
        return info(f"not tried: {fact}") if fact else unknown("not tried")
    return passed(f"{_number(measured['value'])} ms from power-on to its first process")


def speed(identity: str, result: Mapping[str, Any], threshold: float) -> Finding:
    """Hold one measurement against its threshold; what KVM cannot do here is a fact."""
    measured = next((one for one in result["measurements"] if one["id"] == identity), None)
    if measured is None:
        fact = result["facts"].get(identity)
        return info(f"this KVM cannot do it: {fact}") if fact else unknown("not measured")
    ratio = measured["unit"] == "ratio"
    low, high = _number(measured["min"]), _number(measured["max"])
    unit = "" if ratio else " us"
    found = f"{_number(measured['value'])}{unit} ({low} to {high} in {measured['samples']} samples)"
    if measured["value"] >= threshold if ratio else measured["value"] <= threshold:
        return passed(found)
    bound = f"at {'least' if ratio else 'most'} {threshold:g}{unit}"
    return warned(found, bound, "run it again on an idle host; then look at its CPU's power states")


def _number(value: float) -> str:
    """Return three digits that count."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def assess(result: Mapping[str, Any], thresholds: Mapping[str, float]) -> dict[str, Any]:
    """Return ``measurements``, ``facts``, ``errors``, ``checks`` and ``verdict`` of a self-test."""
    rows: list[dict[str, Any]] = [
        as_dict(GUEST, "A guest runs", _SOURCE, guest(result)),
    ]
    if result["ok"]:
        rows += [
            as_dict(
                f"selftest.{identity}",
                title,
                _SOURCE,
                speed(identity, result, thresholds.get(identity, THRESHOLDS[identity])),
            )
            for identity, title in _TITLES.items()
        ]
        rows.append(as_dict(LINUX, "The host's own Linux boots", _SOURCE, linux(result)))
    limits = {**{row["id"]: _LIMIT for row in rows}, LINUX: _NO_LINUX}
    return {
        "measurements": result["measurements"],
        "facts": result["facts"],
        "errors": result["errors"],
        "checks": rows,
        "verdict": judge(rows, limits),
    }


def names() -> Sequence[str]:
    """Return the names of all checks of the self-test."""
    return (GUEST, *(f"selftest.{identity}" for identity in _TITLES), LINUX)
