# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What guests refer to, and what only one of them can have: checked before anything is touched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Collection, Iterator, Mapping, Sequence

from ...converge.errors import Problem, nearest, shown
from ...virt.disk import writes as writes_to
from .seeding import KEY

Spec = Mapping[str, Any]


@dataclass(frozen=True)
class Surroundings:
    """What there is on the host that guests can refer to.

    ``exists`` tells whether a file does, ``holds`` whether a pool has a volume, ``chain`` on which
    files an image of a format stands.
    """

    networks: Collection[str] = ()
    pools: Collection[str] = ()
    exists: Callable[[str], bool] = lambda _path: True
    holds: Callable[[str, str], bool] = lambda _pool, _volume: True
    chain: Callable[[str, str], Sequence[str]] = lambda _file, _format: ()


def _missing(path: str, kind: str, name: str, known: Collection[str]) -> Problem:
    listed = ", ".join(sorted(known)) or "it has none"
    guess = nearest(name, known)
    remedy = f"did you mean {guess}?" if guess else f"make the {kind} first"
    return Problem(path, f"a {kind} of this host ({listed})", shown(name), remedy)


def _entries(spec: Spec, key: str) -> Iterator[tuple[int, Spec]]:
    yield from enumerate(spec.get(key) or ())


FOLDER = "a folder that is there"  # of a new disk; that of a pool is made with the pool
_MADE_EARLIER = (".network", ".bridge", ".volume.pool", ".volume")


def may_come(problem: Problem) -> bool:
    """Return whether an earlier task of the same run may make what is missing."""
    return problem.path.endswith(_MADE_EARLIER) or problem.expected == FOLDER


def absent(name: str, spec: Spec, host: Surroundings) -> Iterator[Problem]:
    """Yield what a guest refers to that is not there."""
    for number, nic in _entries(spec, "nics"):
        path = f"{name}.nics[{number}]"
        network, bridge = nic.get("network"), nic.get("bridge")
        if network is not None and network not in host.networks:
            yield _missing(f"{path}.network", "network", network, host.networks)
        if bridge is not None and not host.exists(f"/sys/class/net/{bridge}"):
            yield Problem(
                f"{path}.bridge",
                "a bridge of this host",
                shown(bridge),
                "make it first, as the role kvm_network does",
            )
    for number, disk in _entries(spec, "disks"):
        path = f"{name}.disks[{number}]"
        pool = (disk.get("volume") or {}).get("pool")
        if pool is not None and pool not in host.pools:
            yield _missing(f"{path}.volume.pool", "pool", pool, host.pools)
        elif pool is not None and not host.holds(pool, disk["volume"]["volume"]):
            volume = shown(disk["volume"]["volume"])
            remedy = "make it first, as kvm_volumes does"
            yield Problem(f"{path}.volume", f"a volume of the pool {pool}", volume, remedy)
        if disk.get("startup_policy") in (None, "mandatory"):
            yield from _files(path, disk, ("file", "block"), host)
            yield from _below(path, disk, host)
    yield from _files(name, spec, ("kernel", "initrd", "dtb"), host)
    given = spec.get("fw_cfg") or {}
    yield from _files(f"{name}.fw_cfg", given, tuple(given), host)


def _below(path: str, disk: Spec, host: Surroundings) -> Iterator[Problem]:
    """Yield the file that the image of a disk stands on and that is gone."""
    file, kind = disk.get("file"), str(disk.get("format") or "raw")
    if file and kind != "raw" and host.exists(file):
        gone = [below for below in host.chain(file, kind) if not host.exists(below)]
        for below in gone[:1]:
            expected = f"an image whose backing file is there ({below})"
            yield Problem(f"{path}.file", expected, "it is gone", "bring it back, or rebase")


def _files(path: str, spec: Spec, keys: Collection[str], host: Surroundings) -> Iterator[Problem]:
    for key in keys:
        file = spec.get(key)
        if isinstance(file, str) and not host.exists(file):
            yield Problem(f"{path}.{key}", "a file that is there", shown(file))


def _sources(spec: Spec) -> Iterator[tuple[str, str, bool]]:
    """Yield the sources that a guest shares with no writer, and whether it writes itself."""
    for number, disk in _entries(spec, "disks"):
        if disk.get("shareable"):
            continue
        writes = writes_to(disk)
        for key in ("file", "block"):
            if disk.get(key):
                yield f"disks[{number}].{key}", str(disk[key]), writes
        volume = disk.get("volume") or {}
        if volume:
            name = f"{volume.get('pool')}/{volume.get('volume')}"
            yield f"disks[{number}].volume", name, writes
        if disk.get("network"):
            yield f"disks[{number}].network", _export(disk["network"]), writes


def _export(network: Mapping[str, Any]) -> str:
    """Return what a disk over the network is, whichever of Ceph's monitors leads there."""
    protocol, name = str(network.get("protocol")), str(network.get("name") or "")
    if protocol == "rbd":
        return f"rbd:{name}"
    hosts = (
        str(host.get("socket") or f"{host.get('name')}:{host.get('port') or ''}")
        for host in network.get("hosts") or ()
    )
    return f"{protocol}://{','.join(sorted(hosts))}/{name}"


def _macs(spec: Spec) -> Iterator[tuple[str, str, bool]]:
    for number, nic in _entries(spec, "nics"):
        if nic.get("mac"):
            yield f"nics[{number}].mac", str(nic["mac"]), True


def _addresses(spec: Spec) -> Iterator[tuple[str, str, bool]]:
    """Yield the addresses that a guest gives itself, each with the network that it is on."""
    network = (spec.get(KEY) or {}).get("network_config")
    ethernets = network.get("ethernets") if isinstance(network, Mapping) else None
    for number, nic in _entries(spec, "nics"):
        place = nic.get("network") or nic.get("bridge")
        own = (ethernets or {}).get(f"nic{number}") or {}
        for address in own.get("addresses") or () if place else ():
            plain = str(address).partition("/")[0]
            yield f"nics[{number}].ip.addresses", f"{plain} on {place}", True


def _cids(spec: Spec) -> Iterator[tuple[str, str, bool]]:
    cid = (spec.get("vsock") or {}).get("cid")
    if cid is not None:
        yield "vsock.cid", str(cid), True


def shared(wanted: Mapping[str, Spec], others: Mapping[str, Spec]) -> Iterator[Problem]:
    """Yield what two guests would have that only one can: ``wanted`` among each other, and others.

    What two of the others have already is not this run's doing.
    """
    for what, remedy, found in (
        ("a disk of its own", "state shareable: true for both, if they can share it", _sources),
        ("a MAC of its own", "state another one, or none", _macs),
        ("an address of its own", "state another one", _addresses),
        ("a context ID of its own", "state another one, or none", _cids),
    ):
        holders: dict[str, tuple[str, bool]] = {}
        for name, spec in others.items():
            for _, value, alone in found(spec):
                if alone or value not in holders:
                    holders[value] = name, alone
        for name, spec in wanted.items():
            for path, value, alone in found(spec):
                holder, held = holders.setdefault(value, (name, alone))
                if holder != name and (alone or held):
                    text = f"{shown(value)}, which {holder} has"
                    yield Problem(f"{name}.{path}", what, text, remedy)
