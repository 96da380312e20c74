# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the devices of a guest stand on: opened once, as root, before the guest runs.

Each key of a definition that asks for devices has an opener here, which returns `Attachment`s: how
the device is made for a new machine (after every reset there is one), and how what it stands on is
given back. What cannot be had raises KvmError, with all that was opened closed again.
"""

from __future__ import annotations

import os
import struct
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, Callable, Mapping, NamedTuple, Sequence

from ..units import UnitError, parse_size
from .errors import ConfigError, HostError
from .memory import Backing
from .privileges import passing_uid

if TYPE_CHECKING:
    from .builder import MachineConfig
    from .disk import Disk
    from .memory import Region
    from .ports import Ports
    from .tap import Tap
    from .virtio.device import VirtioDevice
    from .virtio.vhost import VhostNet


class Attachment(NamedTuple):
    """One device to be: ``make`` makes it, ``close`` gives back what it stands on.

    ``regions`` are what it has in the guest's memory; ``shared`` is True where another process has
    to map the guest's own; ``ports`` are what a console's ports are joined to.
    """

    make: Callable[[], VirtioDevice]
    close: Callable[[], None] = lambda: None
    regions: Sequence[Region] = ()
    shared: bool = False
    ports: Ports | None = None


def _disk(spec: Mapping[str, Any]) -> Attachment:
    """Open one of ``disks``: file, format (raw or qcow2), backing, read_only, serial, queues."""
    from .virtio.block import Block  # only what a guest has is loaded

    backing = spec.get("backing") or None
    disk = open_disk(
        spec["file"],
        spec.get("format", "raw"),
        read_only=bool(spec.get("read_only")),
        backing=[backing] if isinstance(backing, str) else backing,
    )
    make = partial(Block, disk, spec.get("serial") or "", int(spec.get("queues") or 1))
    return Attachment(make, disk.close)


def open_disk(
    path: str, form: str, *, read_only: bool, backing: Sequence[str] | None = None
) -> Disk:
    """Return the opened and claimed image at ``path``; ``form`` is raw or qcow2.

    ``backing`` names the files that a qcow2 image may stand on, needed unless they are beside it.
    """
    if form == "raw":
        from .disk import Raw

        return Raw(path, read_only=read_only)
    if form == "qcow2":
        from .qcow2 import Qcow2

        return Qcow2(path, read_only=read_only, backing=backing)
    raise ConfigError(f"{path}: expected a disk in the format raw or qcow2, found {form!r}")


def _rng(spec: Mapping[str, Any]) -> Attachment:
    """Give the guest the host's random numbers."""
    from .virtio.entropy import Entropy

    del spec
    return Attachment(Entropy)


_NIC_KEYS = frozenset(("bridge", "mac", "mtu", "queues", "tap", "vhost", "uid", "index"))
_SWITCH = {"auto": None, "true": True, "on": True, "false": False, "off": False}


def _whole(spec: Mapping[str, Any], key: str, default: int | None, least: int, most: int) -> Any:
    """Return a whole number of a device's description."""
    value = spec.get(key)
    if value is None and default is not None:
        return default
    try:
        number = int(value)  # type: ignore[arg-type]  # that is what is found out
    except (TypeError, ValueError):
        number = least - 1
    if isinstance(value, (bool, float)) or not least <= number <= most:
        raise ConfigError(f"{key} must be a whole number from {least} to {most}, found {value!r}")
    return number


def _nic(spec: Mapping[str, Any]) -> Attachment:
    """Open one of ``nics``: bridge, mac, queues, mtu, vhost (auto, true, false), tap (its name).

    ``auto`` takes vhost-net where it can be had. A tap that is named may do without a bridge.
    """
    from .tap import MOST_QUEUES, NAME_LIMIT, Tap, is_interface, parse_mac
    from .virtio.net import Net

    unknown = sorted(set(spec) - _NIC_KEYS)
    if unknown:
        raise ConfigError(f"a NIC has no {', '.join(unknown)}")
    bridge, name, stated = spec.get("bridge"), spec.get("tap"), spec.get("vhost")
    switch = "auto" if stated is None else str(stated).lower()
    for key, value in (("bridge", bridge), ("tap", name)):
        if value is not None and not (isinstance(value, str) and 0 < len(value) <= NAME_LIMIT):
            raise ConfigError(f"{key} must be an interface's name, found {value!r}")
    if bridge is None and name is None:
        raise ConfigError("a NIC needs a bridge")
    if bridge is None and not is_interface(str(name)):
        raise ConfigError(f"the tap {name} is missing; with a bridge it would be made")
    if switch not in _SWITCH:
        raise ConfigError(f"vhost must be auto, true or false, found {stated!r}")
    queues = _whole(spec, "queues", 1, 1, MOST_QUEUES)
    mtu = _whole(spec, "mtu", 0, 68, 65535) or None
    uid, index = spec.get("uid"), spec["index"]
    if spec.get("mac") is not None:
        mac = parse_mac(str(spec["mac"]))
    else:
        mac = b"\x02" + (os.urandom(5) if uid is None else struct.pack(">IB", uid, index & 0xFF))
    # A guest's user is its own on this host, and so is what is named by it.
    name = name or f"vf{passing_uid() if uid is None else uid:08x}n{index}"
    with ExitStack() as undo:
        tap = Tap(name, bridge, mac, queues, mtu)
        undo.callback(tap.close)
        vhosts, note = _vhosts(tap, _SWITCH[switch])
        for vhost in vhosts:
            undo.callback(vhost.close)
        return Attachment(partial(Net, tap, mac, vhosts, note), undo.pop_all().close)


def _vhosts(tap: Tap, wanted: bool | None) -> tuple[list[VhostNet], str]:
    """Open vhost-net for every queue, or say why not; HostError if it is a must."""
    from .virtio.net import MRG_RXBUF
    from .virtio.vhost import VhostNet

    if wanted is False:
        return [], "without vhost, as declared"
    opened: list[VhostNet] = []
    with ExitStack() as undo:
        try:
            for descriptor in tap.fds:
                opened.append(VhostNet(descriptor, MRG_RXBUF))
                undo.callback(opened[-1].close)
        except HostError as error:
            if wanted:
                raise
            return [], f"without vhost: {error}"
        undo.pop_all()
    return opened, "vhost"


def _vsock(spec: Mapping[str, Any]) -> Attachment:
    """Open the sockets of ``vsock``: cid."""
    from .virtio.vhost import VhostVsock
    from .virtio.vsock import Vsock

    cid = _whole(spec, "cid", None, 3, 0xFFFF_FFFE)
    vhost = VhostVsock(cid)
    return Attachment(partial(Vsock, vhost, cid), vhost.close)


def _check(spec: Mapping[str, Any], what: str, needed: str, *others: str) -> None:
    """Raise ConfigError for a key that ``what`` has not, and for one that it needs."""
    unknown = sorted(set(spec) - {needed, *others, "uid", "index"} - {""})
    if unknown:
        raise ConfigError(f"{what} has no {', '.join(unknown)}")
    if needed and not (isinstance(spec.get(needed), str) and spec[needed]):
        raise ConfigError(f"{what} needs a {needed}")


def _pmem(spec: Mapping[str, Any]) -> Attachment:
    """Map one of ``pmem`` into the guest's memory: file, read_only."""
    from .virtio.pmem import Pmem, open_image

    _check(spec, "persistent memory", "file", "read_only")
    region = open_image(spec["file"], read_only=bool(spec.get("read_only")))
    return Attachment(partial(Pmem, region), region.close, regions=[region])


def _share(spec: Mapping[str, Any]) -> Attachment:
    """Share one of ``shares`` with the guest: path, tag, read_only, binary (the daemon)."""
    from .virtio.fs import FileSystem, Share

    _check(spec, "a shared folder", "path", "tag", "read_only", "binary")
    share = Share(
        spec["path"],
        str(spec.get("tag") or ""),
        read_only=bool(spec.get("read_only")),
        binary=spec.get("binary"),
    )
    return Attachment(partial(FileSystem, share), share.close, shared=True)


def _balloon(spec: Mapping[str, Any]) -> Attachment:
    """Give the guest a balloon: target (bytes that the guest is to keep), free_page_reporting."""
    from .virtio.balloon import Balloon, Target

    _check(spec, "a balloon", "", "target", "free_page_reporting")
    stated = spec.get("target") is not None
    target = Target(_whole(spec, "target", None, 0, 1 << 62) if stated else None)
    reporting = spec.get("free_page_reporting") is not False
    return Attachment(partial(Balloon, target, reporting=reporting))


def _console(spec: Mapping[str, Any]) -> Attachment:
    """Join the ports of ``console``: names in ``ports``; ``type`` says which console leads.

    That is the serial port, or virtio: what is kept in the log, and attached to without a name.
    """
    from .ports import Ports

    names = spec.get("ports") or ()
    kind = spec.get("type") or "serial"
    if kind not in {"serial", "virtio"} or not isinstance(names, (list, tuple)):
        raise ConfigError(
            "expected a console of the type serial or virtio, with a list of names as ports,"
            f" found {spec.get('type')!r} with {names!r}"
        )
    ports = Ports(names, leads=kind == "virtio")
    return Attachment(ports.make, ports=ports)


# The keys of a definition in the order in which their devices stand on the bus.
_OPENERS: tuple[tuple[str, Callable[[Mapping[str, Any]], Attachment]], ...] = (
    ("disks", _disk),
    ("nics", _nic),
    ("vsock", _vsock),
    ("pmem", _pmem),
    ("shares", _share),
    ("rng", _rng),
    ("balloon", _balloon),
    ("console", _console),
)


def open_all(machine: Mapping[str, Any]) -> list[Attachment]:
    """Open all that a definition's devices stand on; a key holds one mapping or a list of them."""
    opened: list[Attachment] = []
    with ExitStack() as undo:
        for key, opener in _OPENERS:
            specs = machine.get(key)
            if not specs:
                continue
            for index, spec in enumerate(specs if isinstance(specs, list) else [specs]):
                stated = spec if isinstance(spec, Mapping) else {}
                opened.append(opener({**stated, "uid": machine.get("uid"), "index": index}))
                undo.callback(opened[-1].close)
        undo.pop_all()
    return opened


def equip(
    config: MachineConfig, machine: Mapping[str, Any], opened: Sequence[Attachment]
) -> MachineConfig:
    """Return ``config`` with the devices, and with memory as they and the definition want it.

    ``memory_backing`` has hugepage_size (bytes, or text such as 2MiB; none for ordinary pages) and
    thp (true or false).
    """
    backing = machine.get("memory_backing") or {}
    _check(backing, "memory_backing", "", "hugepage_size", "thp")
    page = backing.get("hugepage_size") or 0
    if isinstance(page, str):
        try:
            page = parse_size(page)
        except UnitError as error:
            raise ConfigError(f"hugepage_size: {error}") from error
    return config._replace(
        devices=[one.make for one in opened],
        regions=[region for one in opened for region in one.regions],
        backing=Backing(page, bool(backing.get("thp")), any(one.shared for one in opened)),
    )


def close_all(opened: Sequence[Attachment]) -> None:
    """Give back what the devices stood on."""
    for one in reversed(opened):
        one.close()
