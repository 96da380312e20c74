# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a running guest tells of itself in numbers, as JSON and in Prometheus' text format.

What the guest's process answers may be made up by the guest: `text` takes nothing but numbers from
it, and escapes every name.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Callable, Iterator, List, Mapping, NamedTuple, Tuple

if TYPE_CHECKING:
    from .builder import Machine
    from .console import Console
    from .runner import Runner

_SMAPS = "/proc/self/smaps"
_PIECE = 1 << 20
_MOST_LABELS = 1024  # of one metric
_LABEL_LIMIT = 128  # characters


class Footprint:
    """The memory that this process takes, told by the kernel (proc(5), smaps).

    The file is opened once: in the jail there is none.
    """

    def __init__(self) -> None:
        self._descriptor = -1
        try:
            self._descriptor = os.open(_SMAPS, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return

    def measure(self, machine: Machine) -> dict[str, int | None]:
        """Return bytes: of the guest's memory, those that the host holds; of the helper, its own.

        ``proportional`` shares what several processes have among them (PSS).
        """
        regions = [(one.address, one.address + one.size) for one in machine.memory.regions]
        guest: Counter[str] = Counter()
        own: Counter[str] = Counter()
        counted = own
        for line in self._lines():
            head, _, rest = line.partition(b" ")
            if head in {b"Rss:", b"Pss:"}:
                counted[head[:-1].decode()] += int(rest.split()[0]) << 10
            elif b"-" in head and not head.endswith(b":"):
                start = int(head.partition(b"-")[0], 16)
                inside = any(first <= start < behind for first, behind in regions)
                counted = guest if inside else own
        known = bool(guest or own)
        return {
            "size": machine.memory.size,
            "resident": guest["Rss"] if known else None,
            "proportional": guest["Pss"] if known else None,
            "helper_resident": own["Rss"] if known else None,
            "helper_proportional": own["Pss"] if known else None,
        }

    def _lines(self) -> Iterator[bytes]:
        if self._descriptor < 0:
            return
        content = b""
        try:
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            while True:
                piece = os.read(self._descriptor, _PIECE)
                if not piece:
                    break
                content += piece
        except OSError:
            return
        yield from content.splitlines()

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def names(machine: Machine) -> list[str]:
    """Return a name for each of the machine's devices: its kind, and how many there were before."""
    seen: Counter[str] = Counter()
    found = []
    for device in machine.devices:
        found.append(f"{device.name}{seen[device.name]}")
        seen[device.name] += 1
    return found


def device_of(machine: Machine, name: str) -> Any:
    """Return the first device of that kind, None where the machine has none."""
    return next((device for device in machine.devices if device.name == name), None)


class Counts(NamedTuple):
    """What was counted of one machine, or of all of a guest."""

    ports: Counter[str]
    mmio: Counter[str]
    devices: dict[str, Counter[str]]

    def add(self, machine: Machine, *, runs: bool = False) -> None:
        """Add what was counted of the machine; of one that runs, at its host's side as well."""
        known = names(machine)
        places = {one.address: name for one, name in zip(machine.transports, known)}
        places.update((function.address, function.name) for function in machine.functions)
        # Copies, as the vCPUs go on counting.
        for port, count in machine.bus.port_exits.copy().items():
            self.ports[f"{port:#x}"] += count
        for address, count in machine.bus.mmio_exits.copy().items():
            name = "none" if address < 0 else places.get(address, f"{address:#x}")
            self.mmio[name] += count
        for device, name in zip(machine.devices, known):
            # What the host counts goes on from one machine to the next.
            counted = device.counters() if runs else device.counts.copy()
            self.devices.setdefault(name, Counter()).update(counted)

    def copy(self) -> Counts:
        """Return a copy that does not change with this one."""
        devices = {name: counter.copy() for name, counter in self.devices.items()}
        return Counts(self.ports.copy(), self.mmio.copy(), devices)


def no_counts() -> Counts:
    """Return counts of nothing."""
    return Counts(Counter(), Counter(), {})


class Milestones:
    """How far a guest came, in seconds since its process was started."""

    def __init__(self, start_ticks: int) -> None:
        """Take the start of the process as /proc/PID/stat has it, in clock ticks since boot."""
        since_boot = start_ticks / os.sysconf("SC_CLK_TCK")
        boot = time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
        self._start = since_boot - boot
        self._reached: dict[str, float] = {}

    def reach(self, name: str) -> None:
        """Note that it came to this point just now."""
        self._reached[name] = time.monotonic()

    def tell(self, runner: Runner, console: Console) -> dict[str, float]:
        """Return all of them; those of the guest itself are of its present start."""
        found: dict[str, float | None] = dict(self._reached)
        found["first_entry"] = runner.booted or None
        found["first_output"] = console.began
        for device, name in zip(runner.machine.devices, names(runner.machine)):
            found[f"{name}_ready"] = device.ready_at
        return {
            name: round(moment - self._start, 6)
            for name, moment in found.items()
            if moment is not None
        }


def vcpu_seconds(runner: Runner) -> dict[str, float]:
    """Return the CPU time of each vCPU's thread; it begins anew with every start of the guest."""
    found = {}
    for index, clock in sorted(runner.clocks.copy().items()):
        with suppress(OSError):  # the thread has ended
            found[str(index)] = round(time.clock_gettime(clock), 6)
    return found


def collect(
    runner: Runner, past: Counts, footprint: Footprint, milestones: dict[str, float]
) -> dict[str, Any]:
    """Return the numbers of a running guest; ``past`` is of the machines that it had before."""
    machine = runner.machine
    counts = past.copy()
    counts.add(machine, runs=True)
    balloon = device_of(machine, "balloon")
    return {
        "uptime": time.monotonic() - runner.started,
        "boots": runner.boots,
        "paused": int(runner.paused),
        "vcpus": machine.config.vcpus,
        "exits": runner.counts(),
        "port_exits": dict(counts.ports),
        "mmio_exits": dict(counts.mmio),
        "devices": {name: dict(counter) for name, counter in counts.devices.items()},
        "devices_broken": {
            name: int(bool(transport.broken))
            for name, transport in zip(names(machine), machine.transports)
        },
        "memory": footprint.measure(machine),
        "balloon": balloon.actual if balloon else None,
        "guest_memory": balloon.stats() if balloon else {},
        "milestones": milestones,
        "vcpu_seconds": vcpu_seconds(runner),
        "process_seconds": time.process_time(),
    }


# Prometheus' text format, as node_exporter's textfile collector reads it
# (https://prometheus.io/docs/instrumenting/exposition_formats/).

_Samples = List[Tuple[Mapping[str, str], float]]


def _number(value: object) -> float | None:
    """Return a number as it is, None for anything else."""
    plain = type(value) in {int, float}
    return value if plain and -(2.0**63) < value < 2.0**63 else None  # type: ignore[operator,return-value]


def _plain(key: str) -> Callable[[Mapping[str, Any]], _Samples]:
    def take(found: Mapping[str, Any]) -> _Samples:
        number = _number(found.get(key))
        return [] if number is None else [({}, number)]

    return take


def _by(key: str, label: str) -> Callable[[Mapping[str, Any]], _Samples]:
    def take(found: Mapping[str, Any]) -> _Samples:
        values = found.get(key)
        if not isinstance(values, dict):
            return []
        numbers = [(name, _number(value)) for name, value in list(values.items())[:_MOST_LABELS]]
        return [({label: str(name)}, value) for name, value in numbers if value is not None]

    return take


def _devices(found: Mapping[str, Any]) -> _Samples:
    devices = found.get("devices")
    if not isinstance(devices, dict):
        return []
    samples: _Samples = []
    for device, counts in devices.items():
        for labels, number in _by("counts", "count")({"counts": counts}):
            samples.append(({"device": str(device), **labels}, number))
    return samples[:_MOST_LABELS]


# name, type, help, and how its samples are taken from what `collect` made
_METRICS: tuple[tuple[str, str, str, Callable[[Mapping[str, Any]], _Samples]], ...] = (
    ("up", "gauge", "Whether the guest runs.", _plain("up")),
    ("paused", "gauge", "Whether the guest is paused.", _plain("paused")),
    ("uptime_seconds", "gauge", "Seconds since the guest was first entered.", _plain("uptime")),
    (
        "boots_total",
        "counter",
        "How often the guest was started, resets included.",
        _plain("boots"),
    ),
    ("vcpus", "gauge", "The guest's vCPUs.", _plain("vcpus")),
    ("exits_total", "counter", "Exits from the guest by reason.", _by("exits", "reason")),
    ("port_exits_total", "counter", "Exits by I/O port.", _by("port_exits", "port")),
    ("mmio_exits_total", "counter", "Exits by MMIO device.", _by("mmio_exits", "device")),
    ("device_total", "counter", "What the virtio devices count.", _devices),
    (
        "device_broken",
        "gauge",
        "Whether the device waits for a reset by its driver, which broke a rule.",
        _by("devices_broken", "device"),
    ),
    ("memory_bytes", "gauge", "Memory of the guest and of its helper.", _by("memory", "kind")),
    ("balloon_bytes", "gauge", "Memory that the guest lent to the host.", _plain("balloon")),
    (
        "guest_memory",
        "gauge",
        "What the guest says of its memory: bytes, and counts of events.",
        _by("guest_memory", "kind"),
    ),
    (
        "milestone_seconds",
        "gauge",
        "When the guest came this far, after the start of its process.",
        _by("milestones", "milestone"),
    ),
    (
        "vcpu_seconds_total",
        "counter",
        "CPU time of each vCPU since the guest's present start.",
        _by("vcpu_seconds", "vcpu"),
    ),
    (
        "process_seconds_total",
        "counter",
        "CPU time of the guest's process.",
        _plain("process_seconds"),
    ),
    ("log_dropped_bytes_total", "counter", "Console output that was lost.", _plain("log_dropped")),
    ("watchdog_fired_total", "counter", "How often the watchdog ran out.", _plain("watchdog")),
)


def _escape(value: str) -> str:
    clean = "".join(c if c.isprintable() else "?" for c in value[:_LABEL_LIMIT])
    return clean.replace("\\", "\\\\").replace('"', '\\"')


def text(guests: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the guests' numbers in Prometheus' text format; ``guests`` is by their names."""
    lines = []
    for metric, kind, words, take in _METRICS:
        # One of each: a reader refuses the whole file for one that is there twice.
        series: dict[str, float] = {}
        for guest, found in guests.items():
            for labels, value in take(found):
                pairs = {"name": guest, **labels}.items()
                inside = ",".join(f'{key}="{_escape(one)}"' for key, one in pairs)
                series[f"virtfleet_guest_{metric}{{{inside}}}"] = value
        if series:
            lines += [f"# HELP virtfleet_guest_{metric} {words}"]
            lines += [f"# TYPE virtfleet_guest_{metric} {kind}"]
            lines += [f"{name} {value!r}" for name, value in series.items()]
    return "\n".join(lines) + "\n" if lines else ""
