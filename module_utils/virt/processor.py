# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""CPU, NUMA, what backs the memory, and the shares of the host that a guest may have.

Sources: formatdomain, "CPU Allocation", "IOThreads Allocation", "CPU Tuning", "Memory Allocation",
"Memory Backing", "Memory Tuning", "NUMA Node Tuning", "Block I/O Tuning", "Resource partitioning",
"CPU model and topology".
"""

from __future__ import annotations

from typing import Any, Mapping

from ..converge.action import LIVE
from .codecs import Pattern, Refused, Size, Whole
from .document import Element, remove
from .fields import Field, Group, Leaf, live_if_set
from .lists import Items, Map
from .words import CPUS, INDEX, ON, PATH, SIZE, THERE, YES, choice


class _Quota(Whole):
    """Microseconds in a period; libvirt takes fewer than a thousand for a mistake."""

    def check(self, value: Any) -> int:
        """Return the canonical value."""
        if type(value) is int and value == _NO_LIMIT:
            return value
        try:
            return super().check(value)
        except Refused as refused:
            raise Refused(f"{refused.expected}, or {_NO_LIMIT} for no limit") from None


_NO_LIMIT = -1
_POSITIVE = Whole("a whole number", 1, 8192)
_PERIOD = Whole("microseconds", 1000, 1_000_000)
_QUOTA = _Quota("microseconds", 1000, 17_592_186_044_415)
_SHARES = Whole("a weight (to 10000 where the host has cgroups v2)", 2, 262144)
_WEIGHT = Whole("a weight", 100, 1000)
_NUMA_MODE = choice("a mode", "strict preferred interleave restrictive")


class _IoThreads(Leaf):
    """<iothreads>; libvirt lists them in <iothreadids> too, and there must not be more of those."""

    def put(self, scope: Element, value: Any) -> None:
        """Write the value."""
        super().put(scope, value)
        listed = scope.find("iothreadids")
        if listed is not None:
            for child in listed.findall("iothread")[value:]:
                remove(listed, child)


class _OfVcpu(Leaf):
    """An attribute of <vcpu>, which has to say how many there are."""

    def put(self, scope: Element, value: Any) -> None:
        """Write the value."""
        super().put(scope, value)
        vcpu = scope.find("vcpu")
        if vcpu is not None and not vcpu.text:
            vcpu.text = "1"


class _CpuMode(Leaf):
    """How the CPU is chosen; a model alone is libvirt's older way to say custom."""

    def needed(self) -> str | None:
        """Return None: it may be the attribute or the model."""

    def get(self, scope: Element) -> Any:
        """Return what is there, None for nothing."""
        found = super().get(scope)
        return "custom" if found is None and scope.find("model") is not None else found


def _cell_name(entry: Mapping[str, Any]) -> str | None:
    number = entry.get("id")
    return None if number is None else str(number)


NUMA_CELLS = Items(
    "numa",
    "cell",
    (
        Leaf("id", "@id", Whole("a cell's number", 0, 1023)),
        Leaf("cpus", "@cpus", CPUS),
        Leaf("memory", "@memory", Size(low=1 << 20), required=True),
        Leaf("access", "@memAccess", choice("an access", "shared private")),
        Leaf("discard", "@discard", YES),
    ),
    name=_cell_name,
    at="numa",
    needs=("id", "memory"),
)

CPU = Group(
    "cpu",
    (
        _CpuMode(
            "mode",
            "@mode",
            choice("a mode", "custom host-model host-passthrough maximum"),
            clears=("model", "vendor"),
        ),
        Leaf("match", "@match", choice("a match", "minimum exact strict")),
        Leaf("check", "@check", choice("a check", "none partial full")),
        Leaf("migratable", "@migratable", ON),
        Leaf("model", "model", Pattern("a CPU model", r"[a-zA-Z0-9_.+\-]+")),
        Leaf("fallback", "model@fallback", choice("a fallback", "allow forbid")),
        Leaf("vendor", "vendor", Pattern("a vendor", r"[a-zA-Z0-9_.\-]+")),
        Group(
            "topology",
            (
                Leaf("sockets", "@sockets", _POSITIVE, required=True),
                Leaf("dies", "@dies", _POSITIVE, absent=1),
                Leaf("cores", "@cores", _POSITIVE, required=True),
                Leaf("threads", "@threads", _POSITIVE, required=True),
            ),
            at="topology",
            thing=True,
            fresh=lambda _stated: {"sockets": 1, "cores": 1, "threads": 1},
        ),
        Group(
            "cache",
            (
                Leaf(
                    "mode", "@mode", choice("a mode", "emulate passthrough disable"), required=True
                ),
                Leaf("level", "@level", Whole("a level", 1, 3)),
            ),
            at="cache",
            thing=True,
            fresh=lambda _stated: {"mode": "passthrough"},
        ),
        Map(
            "features",
            "",
            "feature",
            "name",
            "policy",
            Pattern("a feature's name", r"[a-zA-Z0-9_.\-]{1,64}"),
            choice("a policy", "force require optional disable forbid"),
        ),
        NUMA_CELLS,
    ),
    at="cpu",
)

BACKING = Group(
    "memory_backing",
    (
        Leaf("hugepages", "memoryBacking/hugepages", THERE, absent=False),
        Leaf("hugepage_size", "memoryBacking/hugepages/page@size", SIZE),
        Leaf("nosharepages", "memoryBacking/nosharepages", THERE, absent=False),
        Leaf("locked", "memoryBacking/locked", THERE, absent=False),
        Leaf("source", "memoryBacking/source@type", choice("a source", "file anonymous memfd")),
        Leaf("access", "memoryBacking/access@mode", choice("an access", "shared private")),
        Leaf("allocation", "memoryBacking/allocation@mode", choice("a mode", "immediate ondemand")),
        Leaf("allocation_threads", "memoryBacking/allocation@threads", _POSITIVE),
        Leaf("discard", "memoryBacking/discard", THERE, absent=False),
    ),
)

FIELDS: tuple[Field, ...] = (
    Group(
        "hotplug_memory",
        (
            Leaf("max", "", Size(low=1 << 20, high=1 << 50), required=True),
            Leaf("slots", "@slots", Whole("a number of slots", 1, 256), required=True),
        ),
        at="maxMemory",
        thing=True,
        needs=("max",),
        fresh=lambda _stated: {"slots": 16},
    ),
    BACKING,
    CPU,
    _IoThreads("iothreads", "iothreads", Whole("a whole number", 0, 1024), absent=0),
    Group(
        "cpu_tuning",
        (
            Leaf("shares", "cputune/shares", _SHARES, live_if_set),
            Leaf("period", "cputune/period", _PERIOD, live_if_set),
            Leaf("quota", "cputune/quota", _QUOTA, live_if_set),
            Leaf("global_period", "cputune/global_period", _PERIOD, live_if_set),
            Leaf("global_quota", "cputune/global_quota", _QUOTA, live_if_set),
            Leaf("emulator_period", "cputune/emulator_period", _PERIOD, live_if_set),
            Leaf("emulator_quota", "cputune/emulator_quota", _QUOTA, live_if_set),
            Leaf("iothread_period", "cputune/iothread_period", _PERIOD, live_if_set),
            Leaf("iothread_quota", "cputune/iothread_quota", _QUOTA, live_if_set),
            Map("vcpu_pins", "cputune", "vcpupin", "vcpu", "cpuset", INDEX, CPUS, live_if_set),
            Leaf("emulator_pin", "cputune/emulatorpin@cpuset", CPUS, live_if_set),
            Map(
                "iothread_pins",
                "cputune",
                "iothreadpin",
                "iothread",
                "cpuset",
                INDEX,
                CPUS,
                live_if_set,
            ),
            _OfVcpu("cpus", "vcpu@cpuset", CPUS),
            _OfVcpu(
                "placement",
                "vcpu@placement",
                choice("a placement", "static auto"),
                absent="static",
                silent=True,
            ),
        ),
    ),
    Group(
        "memory_tuning",
        (
            Leaf("hard_limit", "memtune/hard_limit", SIZE, LIVE),
            Leaf("soft_limit", "memtune/soft_limit", SIZE, LIVE),
            Leaf("swap_hard_limit", "memtune/swap_hard_limit", SIZE, LIVE),
        ),
    ),
    Group(
        "numa_tuning",
        (
            Leaf("mode", "numatune/memory@mode", _NUMA_MODE),
            Leaf(
                "placement",
                "numatune/memory@placement",
                choice("a placement", "static auto"),
                clears=("@nodeset",),
            ),
            Leaf("nodes", "numatune/memory@nodeset", CPUS),
        ),
    ),
    Leaf("block_weight", "blkiotune/weight", _WEIGHT, live_if_set),
    Leaf("resource_partition", "resource/partition", PATH, absent="/machine", silent=True),
)
