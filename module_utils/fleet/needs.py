# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What guests ask of a host, and what hosts have for them, as placing takes it. Pure.

What a guest asks for is a plain mapping first, in which a template may still stand: `asked_of`
makes it of what was declared, `demand` reads it when all is known.
"""

from __future__ import annotations

from typing import Any, Iterable, Mapping, Sequence

from ..converge.errors import Problem, shown
from ..guest.ioctl.dialect import BOOT_FILES, image_named
from ..units import UnitError, parse_size
from .demand import HOST, Demand, Host, Rule
from .merge import as_list

# Pools that a host has for itself: what is in one of another host is somewhere else.
_LOCAL = ("dir", "fs", "logical", "disk", "zfs", "scsi", "mpath")
_OVERCOMMIT = {"vcpus": 4.0, "memory": 1.0, "disk": 1.0}
_RESERVE = 512 << 20  # bytes of memory that a host keeps at least, and
_RESERVED = 20  # a part of so many
_UNMEASURED = 1 << 60  # bytes
_FREELY = ("hosts", "avoid", "spread", "together", "resources", "one_numa_node")


def asked_of(
    spec: Mapping[str, Any], values: Mapping[str, Any], fleet: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what a guest asks of its host: amounts, networks, pools and images, and its rules."""
    asked: dict[str, Any] = {key: values[key] for key in _FREELY if values.get(key) is not None}
    for key in ("hosts", "avoid", "spread", "together"):
        if key in asked:
            asked[key] = as_list(asked[key])
    asked["vcpus"] = spec.get("vcpus", 1)
    asked["memory"] = spec.get("max_memory") or spec.get("memory")
    backing = spec.get("memory_backing")
    if isinstance(backing, Mapping) and backing.get("hugepages"):
        asked["hugepages"] = backing.get("hugepage_size", "")
    cpu = spec.get("cpu")
    if isinstance(cpu, Mapping) and cpu.get("fallback") != "allow":
        asked["cpu"] = cpu.get("model")
    disks = [one for one in spec.get("disks") or () if isinstance(one, Mapping)]
    nics = [one for one in spec.get("nics") or () if isinstance(one, Mapping)]
    networks = fleet.get("networks") or {}
    images = fleet.get("images") or {}
    asked["networks"] = sorted({n["network"] for n in nics if _is_of(networks, n.get("network"))})
    named = [d.get("image") for d in disks] + [image_named(spec.get(key)) for key in BOOT_FILES]
    asked["images"] = sorted({name for name in named if _is_of(images, name)})
    pools = fleet.get("pools") or {}
    asked["disks"] = [
        {"pool": pool, "size": disk.get("size")}
        for disk in disks
        for pool in [_pool_of(disk, pools)]
        if pool is not None
    ]
    return {key: value for key, value in asked.items() if value not in (None, [], {})}


def _is_of(section: Mapping[str, Any], name: Any) -> bool:
    return isinstance(name, str) and name in section


def _pool_of(disk: Mapping[str, Any], pools: Mapping[str, Any]) -> str | None:
    """Return the fleet's pool that a disk is in, None where it is in none."""
    volume = disk.get("volume")
    if isinstance(volume, Mapping):
        pool = volume.get("pool")
        return pool if _is_of(pools, pool) else None
    folder = str(disk.get("file", "")).rpartition("/")[0]
    for name, pool in pools.items():
        path = (pool or {}).get("path")
        if folder and isinstance(path, str) and path.rstrip("/") == folder:
            return str(name)
    return None


def wants_of(asked: Mapping[str, Any]) -> frozenset[str]:
    """Return what a guest wants its host to offer."""
    found = {f"network {name}" for name in asked.get("networks", ())}
    found |= {f"image {name}" for name in asked.get("images", ())}
    found |= {f"pool {disk['pool']}" for disk in asked.get("disks", ())}
    return frozenset(found)


def _rules(entries: Sequence[Any]) -> tuple[Rule, ...]:
    return tuple(
        Rule(one)
        if isinstance(one, str)
        else Rule(one["group"], one.get("over", HOST), bool(one.get("soft", False)))
        for one in entries
    )


def _bytes(path: str, value: Any, problems: list[Problem]) -> int:
    if value is None:
        return 0
    try:
        return parse_size(value)
    except UnitError:
        problems.append(Problem(path, "a size such as 2GiB", shown(value)))
        return 0


def _count(path: str, value: Any, problems: list[Problem]) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and value.isdecimal():
        return int(value)
    problems.append(Problem(path, "a whole number", shown(value)))
    return 0


def demand(
    name: str, asked: Mapping[str, Any], host: str | None, problems: list[Problem]
) -> Demand:
    """Return a guest as placing takes it; what cannot be read is added to the ``problems``."""
    where = f"guests.{name}"
    needs = {
        "vcpus": _count(f"{where}.vcpus", asked.get("vcpus", 1), problems),
        **{f"resource {key}": int(amount) for key, amount in asked.get("resources", {}).items()},
    }
    memory = _bytes(f"{where}.memory", asked.get("memory"), problems)
    pages = asked.get("hugepages")
    needs["memory" if pages is None else f"hugepages {pages}".rstrip()] = memory
    for number, disk in enumerate(asked.get("disks", ())):
        size = _bytes(f"{where}.disks[{number}].size", disk.get("size"), problems)
        key = f"pool {disk['pool']}"
        needs[key] = needs.get(key, 0) + size
    wants = wants_of(asked)
    return Demand(
        name,
        {key: amount for key, amount in needs.items() if amount},
        wants | {f"cpu {asked['cpu']}"} if asked.get("cpu") else wants,
        tuple(asked["hosts"]) if "hosts" in asked else None,
        tuple(asked.get("avoid", ())),
        _rules(asked.get("spread", ())),
        _rules(asked.get("together", ())),
        bool(asked.get("one_numa_node", False)),
        host,
    )


def is_local(kind: str | None) -> bool:
    """Return whether pools of a type are each host's own, not shared."""
    return kind in _LOCAL


def overcommit(*stated: Mapping[str, Any]) -> dict[str, float]:
    """Return how often vCPUs, memory and disks are given out; what is stated later counts."""
    found = dict(_OVERCOMMIT)
    for one in stated:
        found.update(one.get("overcommit") or {})
    return found


def host_room(
    name: str,
    place: Mapping[str, Any],
    seen: Mapping[str, Any],
    placement: Mapping[str, Any],
    strangers: Mapping[str, int],
    cpus_asked: Iterable[str] = (),
    closed: str = "",
) -> Host:
    """Return a host as a place for guests.

    ``seen`` is what kvm_guests_info says of its room, ``strangers`` what guests have there that are
    not the fleet's, ``cpus_asked`` the CPU models that any guest wants ("cpu EPYC").
    """
    often = overcommit(placement, place)
    kept = {**(placement.get("reserve") or {}), **(place.get("reserve") or {})}
    memory = int(seen.get("memory") or 0)
    pools = seen.get("pools") or {}
    huge = {key: int(amount) for key, amount in (seen.get("hugepages") or {}).items()}
    reserve = max(_RESERVE, memory // _RESERVED)
    if "memory" in kept:
        reserve = parse_size(kept["memory"])
    cpus = max(0, int(seen.get("cpus") or 0) - int(kept.get("vcpus", 0)))
    room = {
        "vcpus": int(cpus * often["vcpus"]) - strangers.get("vcpus", 0),
        "memory": int((memory - sum(huge.values())) * often["memory"])
        - reserve
        - strangers.get("memory", 0),
        **{f"hugepages {size}": amount for size, amount in huge.items()},
        **{f"resource {key}": int(n) for key, n in (place.get("resources") or {}).items()},
    }
    if huge:
        room["hugepages"] = max(huge.values())
    for key in place.get("offers", ()):
        # A pool that this very run will make is not measured yet.
        kind, _, pool = key.partition(" ")
        if kind == "pool":
            values = pools.get(pool, {"capacity": _UNMEASURED, "strange": 0})
            room[key] = int(values["capacity"] * often["disk"]) - values["strange"]
    cells = [
        {
            "vcpus": int(int(cell.get("cpus") or 0) * often["vcpus"]),
            "memory": int(cell.get("memory") or 0),
        }
        for cell in seen.get("cells") or ()
    ]
    # What a host does not tell of its processor is not held against it.
    models = seen.get("models")
    offers = {*place.get("offers", ()), *(f"cpu {one}" for one in models or ())}
    return Host(
        name,
        {key: max(0, amount) for key, amount in room.items()},
        str(place.get("zone", "")),
        frozenset(offers if models is not None else offers | set(cpus_asked)),
        closed,
        cells if len(cells) > 1 else (),
    )
