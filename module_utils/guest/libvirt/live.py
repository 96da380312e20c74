# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Changes of a guest that runs: one call of libvirt for all that it can make at once.

`WAYS` names a call for each part of the table whose change can be live, and `DEVICES` what comes
and goes as a whole. What is to be called (`calls`) and with which devices (`look`) is worked out
before anything is touched. Only what runs is changed here: the definition is the caller's.
"""

from __future__ import annotations

import copy
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Iterable, Iterator, Mapping, Sequence

from ...converge.errors import VirtfleetError
from ...units import parse_size
from ...virt.character import CHANNELS
from ...virt.codecs import cpu_set
from ...virt.connection import said
from ...virt.devices import FILESYSTEMS, HOSTDEVS, RNG, VSOCK, WATCHDOGS
from ...virt.disk import DISKS, RATES, THROTTLE
from ...virt.display import GRAPHICS, INPUTS
from ...virt.document import to_text
from ...virt.fields import Edits, Group, patch_fields
from ...virt.lists import Items
from ...virt.nic import NICS
from ...virt.patcher import patch_root
from ...virt.reader import domain as document_of
from ...virt.reader import name_of

if TYPE_CHECKING:
    from ...converge.action import Change
    from ...virt.document import Element

DETACH_TIMEOUT = 20.0  # seconds that a guest has to let a device go
_TICK = 0.2  # seconds between two looks whether it did
_OF_THE_CALLER = ("autostart", "protected")  # no part of what runs

CONFIRM = (
    "the guest did not confirm it: see that its operating system runs and does not use the"
    " device, and run again, or stop the guest first"
)
STOP = "stop the guest first: a stopped one takes every change"
_REMEDIES = {
    "VIR_ERR_OPERATION_TIMEOUT": CONFIRM,
    "VIR_ERR_OPERATION_UNSUPPORTED": STOP,
    "VIR_ERR_CONFIG_UNSUPPORTED": STOP,
    "VIR_ERR_NO_SUPPORT": STOP,
}


class LiveError(VirtfleetError):
    """A change that the running guest did not take; the message begins with its path."""


# What is to be called.


@dataclass(frozen=True)
class Way:
    """How a change is made; ``together`` is whether one call makes all of one thing."""

    make: Callable[[Running, Call], None]
    together: bool = False
    remedy: str | None = None


@dataclass(frozen=True)
class Call:
    """Changes that are made at once; ``thing`` is the device or the key that they are of."""

    way: Way
    thing: str
    changes: tuple[Change, ...]

    @property
    def path(self) -> str:
        """The path that an error is told of."""
        return self.changes[0].path if len(self.changes) == 1 else self.thing

    @property
    def value(self) -> Any:
        """What shall be, of a change that is made alone."""
        return self.changes[0].after


# A path of the table: disks[vda].throttle.total_iops_sec, disks[sda].network.hosts[0].port. A
# device's name may have any character in it.
_STEP = r"[A-Za-z0-9_]+(?:\[[0-9]+\])?"
_PATH = re.compile(rf"([a-z_]+)(?:\[(.*?)\])?(?:\.({_STEP}(?:\.{_STEP})*))?", re.DOTALL)


def _of_a_list(inside: str) -> str:
    """Return where in a device a change is: a list in it is changed as a whole."""
    return inside.partition("[")[0]


def _way_of(change: Change) -> tuple[Way, str]:
    """Return how a change is made, and of which thing it is; LiveError where there is no way."""
    match = _PATH.fullmatch(change.path)
    root, name, inside = match.groups() if match else ("", None, None)
    label = root if name is None else f"{root}[{name}]"
    if root in DEVICES and not inside:
        return (ATTACH if change.before is None else DETACH), label
    steps = [root, *(_of_a_list(inside).split(".") if inside else ())]
    for count in range(len(steps), 0, -1):
        way = WAYS.get(".".join(steps[:count]))
        if way is not None:
            return way, label
    raise LiveError(f"{change.path}: cannot be changed in a running guest", remedy=STOP)


def _rank(call: Call) -> int:
    """Return when a call is made: what comes is first, what goes is last.

    Memory grows after its limits did: the host would end a guest that is above them.
    """
    if call.way in (ATTACH, DETACH):
        return 0 if call.way is ATTACH else 3
    if call.path != "memory":
        return 1
    (change,) = call.changes
    return 2 if parse_size(change.after) > parse_size(change.before or "0B") else 1


def calls(changes: Iterable[Change]) -> list[Call]:
    """Return the calls that make the changes, in their order; LiveError where there is no way."""
    parts: dict[tuple[Way, str], list[Change]] = {}
    for change in changes:
        if change.path not in _OF_THE_CALLER:
            way, thing = _way_of(change)
            parts.setdefault((way, thing if way.together else change.path), []).append(change)
    found = [Call(way, thing, tuple(same)) for (way, thing), same in parts.items()]
    return sorted(found, key=_rank)


# The devices of a running guest.


def labels(root: Element) -> Iterator[tuple[str, Element]]:
    """Yield each device that can come and go, with its path."""
    for key, one in DEVICES.items():
        if isinstance(one, Items):
            for number, entry in enumerate(one.found(root)):
                yield f"{key}[{entry.name or number}]", entry.element
        else:
            for element in root.findall(one.at):
                yield key, element


def _by_label(found: Iterable[tuple[str, Element]]) -> dict[str, list[Element]]:
    sorted_out: dict[str, list[Element]] = {}
    for label, element in found:
        sorted_out.setdefault(label, []).append(element)
    return sorted_out


@dataclass(frozen=True)
class Look:
    """A running guest's tree as it is, and the devices that come and go, by their paths.

    ``controllers`` are those that come because a device needs one.
    """

    root: Element
    stated: Mapping[str, Any]
    came: Mapping[str, list[Element]]
    went: Mapping[str, list[Element]]
    controllers: tuple[Element, ...]


def look(xml: str, stated: Mapping[str, Any], fleet: str) -> Look:
    """Return what a running guest has, and what it would have as stated."""
    patched = document_of(xml).root
    controllers = patched.findall("devices/controller")
    before = list(labels(patched))
    patch_root(patched, stated, name=name_of(patched), fleet=fleet)
    after = list(labels(patched))
    old = {id(element) for _, element in before}
    new = {id(element) for _, element in after}
    return Look(
        document_of(xml).root,
        stated,
        _by_label(pair for pair in after if id(pair[1]) not in old),
        _by_label(pair for pair in before if id(pair[1]) not in new),
        tuple(e for e in patched.findall("devices/controller") if e not in controllers),
    )


def part(stated: Any, insides: Iterable[str]) -> dict[str, Any]:
    """Return the values of a spec at some paths alone; what is not stated there is None."""
    chosen: dict[str, Any] = {}
    for inside in insides:
        *way, key = inside.split(".")
        value, here = stated, chosen
        for step in way:
            value = value.get(step) if isinstance(value, Mapping) else None
            here = here.setdefault(step, {})
        here[key] = value.get(key) if isinstance(value, Mapping) else None
    return chosen


def _device(seen: Look, label: str) -> tuple[Element, Mapping[str, Any]]:
    """Return a device as it is, and what is stated of it; LiveError where it is not there."""
    key = label.partition("[")[0]
    items = DEVICES[key]
    if isinstance(items, Items):
        stated = seen.stated.get(key) or ()
        for wanted, known in zip(stated, items.pair(stated, items.found(seen.root))):
            if known is not None and f"{key}[{known.name}]" == label:
                return known.element, wanted
    raise LiveError(f"{label}: the running guest has no such device", remedy="restart the guest")


def changed(seen: Look, label: str, changes: Iterable[Change]) -> tuple[Element, Element]:
    """Return a device as it is, and with these changes made and no other."""
    key = label.partition("[")[0]
    element, stated = _device(seen, label)
    insides = [_of_a_list(change.path[len(label) + 1 :]) for change in changes]
    wanted = part(stated, insides)
    made = copy.deepcopy(element)
    patch_fields(made, DEVICES[key].fields, wanted, Edits(seen.root), label)
    return element, made


# The calls.


@dataclass(frozen=True)
class Running:
    """A running guest, libvirt's module, and what was seen of the guest."""

    domain: Any
    libvirt: Any
    seen: Look
    timeout: float

    @property
    def live(self) -> Any:
        """The flag of every call: what runs alone is changed."""
        return self.libvirt.VIR_DOMAIN_AFFECT_LIVE


def _attach(guest: Running, call: Call) -> None:
    """Add the devices of one path; those that are there already stay as they are."""
    elements = guest.seen.came.get(call.thing, ())
    if not elements and call.thing not in dict(labels(guest.seen.root)):
        raise LiveError(f"{call.path}: expected it to be stated, found that it is not")
    for element in elements:
        target = element.find("target")
        if element.tag == "disk" and target is not None and target.get("bus") == "scsi":
            _controllers(guest)
        guest.domain.attachDeviceFlags(to_text(element), guest.live)


def _controllers(guest: Running) -> None:
    """Add the SCSI controller of the definition: libvirt's own choice would be another model."""
    now = document_of(guest.domain.XMLDesc(0)).root
    if now.find("devices/controller[@type='scsi']") is not None:
        return
    for element in guest.seen.controllers:
        if element.get("type") == "scsi":
            guest.domain.attachDeviceFlags(to_text(element), guest.live)


def _detach(guest: Running, call: Call) -> None:
    """Remove the devices of one path, and wait until they are gone."""
    left = [label for label, _ in labels(guest.seen.root)].count(call.thing)
    for element in guest.seen.went.get(call.thing, ()):
        guest.domain.detachDeviceFlags(to_text(element), guest.live)
        left -= 1
        _until_gone(guest, call, left)


def _until_gone(guest: Running, call: Call, left: int) -> None:
    """Wait until no more devices of a path are there than are left; LiveError if that fails."""
    until = time.monotonic() + guest.timeout
    while True:
        now = document_of(guest.domain.XMLDesc(0)).root
        if [label for label, _ in labels(now)].count(call.thing) <= left:
            return
        if time.monotonic() >= until:
            waited = f"expected it to be gone within {guest.timeout:g} s, found it still there"
            raise LiveError(f"{call.path}: {waited}", remedy=CONFIRM)
        time.sleep(_TICK)


def _update(guest: Running, call: Call) -> None:
    _, made = changed(guest.seen, call.thing, call.changes)
    guest.domain.updateDeviceFlags(to_text(made), guest.live)


def throttle(disk: Element) -> dict[str, Any]:
    """Return all limits of a disk for setBlockIoTune: 0 is none, and none at all leaves a group."""
    wanted = THROTTLE.get(disk) or {}
    found: dict[str, Any] = {
        key: parse_size(wanted[key]) if "bytes" in key and key in wanted else wanted.get(key, 0)
        for key in RATES
    }
    group = wanted.get("group")
    return found if group is None else {**found, "group_name": group}


def _target(disk: Element) -> str:
    target = disk.find("target")
    return "" if target is None else target.get("dev", "")


def _throttle(guest: Running, call: Call) -> None:
    _, made = changed(guest.seen, call.thing, call.changes)
    guest.domain.setBlockIoTune(_target(made), throttle(made), guest.live)


def _memory(guest: Running, call: Call) -> None:
    guest.domain.setMemoryFlags(parse_size(call.value) >> 10, guest.live)


def _vcpus(guest: Running, call: Call) -> None:
    guest.domain.setVcpusFlags(call.value, guest.live)


def _metadata(guest: Running, call: Call) -> None:
    kind = getattr(guest.libvirt, f"VIR_DOMAIN_METADATA_{call.path.upper()}")
    guest.domain.setMetadata(kind, call.value, None, None, guest.live)


_ENDS = {
    "destroy": "DESTROY",
    "restart": "RESTART",
    "rename-restart": "RESTART_RENAME",
    "preserve": "PRESERVE",
    "coredump-destroy": "COREDUMP_DESTROY",
    "coredump-restart": "COREDUMP_RESTART",
}
_LIFECYCLE = {  # the event, and what happens then where nothing is stated
    "on_poweroff": ("POWEROFF", "destroy"),
    "on_reboot": ("REBOOT", "restart"),
    "on_crash": ("CRASH", "destroy"),
}


def _lifecycle(guest: Running, call: Call) -> None:
    event, default = _LIFECYCLE[call.path]
    end = _ENDS[call.value or default]
    guest.domain.setLifecycleAction(
        getattr(guest.libvirt, f"VIR_DOMAIN_LIFECYCLE_{event}"),
        getattr(guest.libvirt, f"VIR_DOMAIN_LIFECYCLE_ACTION_{end}"),
        guest.live,
    )


_SCHEDULER = {  # virsh schedinfo(1) has the names
    "shares": "cpu_shares",
    "period": "vcpu_period",
    "quota": "vcpu_quota",
    "global_period": "global_period",
    "global_quota": "global_quota",
    "emulator_period": "emulator_period",
    "emulator_quota": "emulator_quota",
    "iothread_period": "iothread_period",
    "iothread_quota": "iothread_quota",
}


def _scheduler(guest: Running, call: Call) -> None:
    parameters = {_SCHEDULER[_last(change)]: change.after for change in call.changes}
    guest.domain.setSchedulerParametersFlags(parameters, guest.live)


def cpu_map(cpus: str, count: int) -> tuple[bool, ...]:
    """Return the CPUs of a list as libvirt takes them.

    ValueError names those that a host with so many does not have.
    """
    numbers = cpu_set(cpus) or set()
    beyond = numbers - set(range(count))
    if beyond:
        raise ValueError(", ".join(str(number) for number in sorted(beyond)))
    return tuple(number in numbers for number in range(count))


def _pins(guest: Running, call: Call) -> tuple[bool, ...]:
    count = guest.domain.connect().getCPUMap(0)[0]
    try:
        return cpu_map(call.value, count)
    except ValueError as beyond:
        most = f"CPUs from 0 to {count - 1}, as this host has them"
        raise LiveError(f"{call.path}: expected {most}, found {beyond}") from None


def _pin_vcpu(guest: Running, call: Call) -> None:
    guest.domain.pinVcpuFlags(int(_last(call.changes[0])), _pins(guest, call), guest.live)


def _pin_emulator(guest: Running, call: Call) -> None:
    guest.domain.pinEmulator(_pins(guest, call), guest.live)


def _pin_iothread(guest: Running, call: Call) -> None:
    guest.domain.pinIOThread(int(_last(call.changes[0])), _pins(guest, call), guest.live)


def _last(change: Change) -> str:
    """Return the end of a path: the key, or the number of a pin."""
    return change.path.rpartition(".")[2]


# VIR_DOMAIN_MEMORY_PARAM_UNLIMITED of libvirt-domain.h, which the binding lacks.
_UNLIMITED = 9007199254740991


def _limit(value: Any) -> int:
    return _UNLIMITED if value is None else parse_size(value) >> 10


def _memory_limits(guest: Running, call: Call) -> None:
    whole = call.changes[0]
    if whole.path == "memory_tuning":
        limits = dict.fromkeys(whole.before, _UNLIMITED)
    else:
        limits = {_last(change): _limit(change.after) for change in call.changes}
    guest.domain.setMemoryParameters(limits, guest.live)


def _block_weight(guest: Running, call: Call) -> None:
    guest.domain.setBlkioParameters({"weight": call.value}, guest.live)


def _stats_period(guest: Running, call: Call) -> None:
    guest.domain.setMemoryStatsPeriod(call.value or 0, guest.live)


ATTACH = Way(_attach, together=True)
DETACH = Way(_detach, together=True, remedy=CONFIRM)
UPDATE = Way(_update, together=True)
SCHEDULE = Way(_scheduler, together=True)
LIMIT = Way(_memory_limits, together=True)

DEVICES: Mapping[str, Items | Group] = {
    one.key: one
    for one in (
        DISKS,
        NICS,
        CHANNELS,
        INPUTS,
        GRAPHICS,
        FILESYSTEMS,
        HOSTDEVS,
        WATCHDOGS,
        RNG,
        VSOCK,
    )
}

# The beginning of a path, without the names of entries; the longest one holds.
WAYS: Mapping[str, Way] = {
    "title": Way(_metadata),
    "description": Way(_metadata),
    "memory": Way(_memory),
    "vcpus": Way(_vcpus),
    **{f"cpu_tuning.{key}": SCHEDULE for key in _SCHEDULER},
    "cpu_tuning.vcpu_pins": Way(_pin_vcpu),
    "cpu_tuning.emulator_pin": Way(_pin_emulator),
    "cpu_tuning.iothread_pins": Way(_pin_iothread),
    "memory_tuning": LIMIT,
    "block_weight": Way(_block_weight),
    "on_poweroff": Way(_lifecycle),
    "on_reboot": Way(_lifecycle),
    "on_crash": Way(_lifecycle),
    "disks": UPDATE,
    "disks.throttle": Way(_throttle, together=True),
    "nics": UPDATE,
    "graphics": UPDATE,
    "memballoon.stats_period": Way(_stats_period),
}


def _make(guest: Running, call: Call) -> None:
    try:
        call.way.make(guest, call)
    except guest.libvirt.libvirtError as error:
        codes = {getattr(guest.libvirt, name): remedy for name, remedy in _REMEDIES.items()}
        remedy = codes.get(error.get_error_code(), call.way.remedy)
        raise LiveError(f"{call.path}: {said(error)}", remedy=remedy) from error


def apply_live(
    domain: Any,
    libvirt: Any,
    xml: str,
    stated: Mapping[str, Any],
    changes: Sequence[Change],
    *,
    fleet: str,
    timeout: float = DETACH_TIMEOUT,
) -> None:
    """Make the changes in a running guest, and in nothing else.

    ``xml`` is the domain's as it runs, with its secrets; ``stated`` is what the patch took that
    found the changes. A device that goes has ``timeout`` seconds to do so. LiveError at the first
    change that the guest does not take: those before it are made.
    """
    planned = calls(changes)
    if not planned:
        return
    guest = Running(domain, libvirt, look(xml, stated, fleet), timeout)
    for call in planned:
        _make(guest, call)
