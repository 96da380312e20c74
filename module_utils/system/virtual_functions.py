# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Virtual functions of PCI devices (SR-IOV): how many there are, now and after every boot.

linux: PCI/pci-iov-howto.rst, ABI/testing/sysfs-bus-pci. A device takes another number only while it
has none, and a driver has to be bound to it: at boot a rule of udev waits for that.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Mapping, Sequence

from ..converge.action import Change, Pending
from ..converge.errors import Problem, nearest, shown
from ..host.probes import pci
from ..host.source import names, target
from .outcome import REBOOT, Outcome
from .setting import VIRTUAL_FUNCTIONS, Setting

if TYPE_CHECKING:
    from .record import Record

FILE = "/etc/udev/rules.d/66-virtfleet-sriov.rules"
OBJECT = "virtual_functions"
_DEVICES = "/sys/bus/pci/devices"
_ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]", re.ASCII)
_INTERFACE = re.compile(r"[^\s/:.][^\s/:]{0,14}")
_LIMIT = 0xFFFF  # NumVFs has 16 bits (PCI Express 6.0, 9.3.3.7)
_GUESTS = "vfio-pci"  # the driver of what is handed to a guest
_DEVICE = "the address of a PCI device, such as 0000:01:00.0, or the name of a network interface"


@dataclass(frozen=True)
class Functions:
    """How many virtual functions a device shall have.

    ``device`` is a PCI address or a network interface. ``probe`` is whether the host's own drivers
    take them; None leaves that as it is.
    """

    device: str
    count: int
    probe: bool | None = None


@dataclass(frozen=True)
class Observed:
    """The most that each device can have, the address behind each interface, and what guests hold.

    ``most`` is None where there is no bus to look at.
    """

    most: Mapping[str, int] | None = None
    interfaces: Mapping[str, str] = field(default_factory=dict)
    held: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def parse(stated: Sequence[Mapping[str, Any]], problems: list[Problem]) -> list[Functions]:
    """Return what was stated; what is wrong goes to ``problems``."""
    found: list[Functions] = []
    for number, entry in enumerate(stated):
        path = f"{OBJECT}[{number}]"
        device, count = entry.get("device"), entry.get("count")
        known = isinstance(device, str) and (_ADDRESS.fullmatch(device) or _name(device))
        if not known:
            problems.append(Problem(f"{path}.device", _DEVICE, shown(device)))
        whole = isinstance(count, int) and not isinstance(count, bool) and 0 <= count <= _LIMIT
        if not whole:
            expected = f"a number of virtual functions, 0 to {_LIMIT}"
            problems.append(Problem(f"{path}.count", expected, shown(count)))
        if known and whole:
            found.append(Functions(str(device), int(str(count)), entry.get("probe")))
    return found


def _name(device: str) -> bool:
    return _INTERFACE.fullmatch(device) is not None


def read(root: str) -> Observed:
    """Return what the machine under ``root`` offers."""
    bus = pci.probe(root, lambda _name: None)
    if bus.devices is None:
        return Observed()
    most = {device.address: device.total_vfs for device in bus.devices if device.total_vfs}
    return Observed(
        most=most,
        interfaces={net.name: net.pci for net in bus.nets or [] if net.pci},
        held={address: _held(root, address) for address in most},
    )


def in_record(known: Record) -> bool:
    """Return whether earlier runs made functions, which the way back takes away."""
    return any(path.endswith(VIRTUAL_FUNCTIONS) for path in known.changed)


def _held(root: str, address: str) -> tuple[str, ...]:
    """Return the functions of a device that are handed to guests, or kept for them."""
    folder = f"{_DEVICES}/{address}"
    functions = [name for name in names(root, folder) or [] if name.startswith("virtfn")]
    held = [name for name in functions if target(root, f"{folder}/{name}/driver") == _GUESTS]
    return tuple(sorted(target(root, f"{folder}/{name}") or name for name in held))


def resolve(
    stated: Sequence[Functions], observed: Observed, problems: list[Problem]
) -> list[Functions]:
    """Return the same by PCI address; what this machine lacks goes to ``problems``."""
    found: dict[str, Functions] = {}
    for number, item in enumerate(stated):
        path = f"{OBJECT}[{number}]"
        address = observed.interfaces.get(item.device, item.device)
        problem = _lacking(path, item, address, observed)
        if problem is None and address in found:
            expected = f"each device once ({address} is stated twice)"
            problem = Problem(f"{path}.device", expected, item.device)
        if problem is None:
            found[address] = Functions(address, item.count, item.probe)
        else:
            problems.append(problem)
    return list(found.values())


def _lacking(path: str, item: Functions, address: str, observed: Observed) -> Problem | None:
    named = _ADDRESS.fullmatch(address) is None
    if observed.most is None:
        expected = "a PCI address, as there is no machine to ask for an interface's"
        return Problem(f"{path}.device", expected, item.device) if named else None
    if address not in observed.most:
        known = [*observed.most, *(n for n, a in observed.interfaces.items() if a in observed.most)]
        expected = f"a device with virtual functions ({', '.join(sorted(known)) or 'none'})"
        guess = nearest(item.device, known)
        remedy = f"did you mean {guess}?" if guess else "the firmware may have SR-IOV switched off"
        return Problem(f"{path}.device", expected, item.device, remedy)
    if item.count > observed.most[address]:
        expected = f"at most {observed.most[address]}, as many as {item.device} can have"
        return Problem(f"{path}.count", expected, str(item.count))
    return None


def settings(wanted: Sequence[Functions]) -> list[Setting]:
    """Return what is stated (by address), as values that the kernel keeps."""
    found = []
    for item in wanted:
        name, folder = f"{OBJECT}/{item.device}", f"{_DEVICES}/{item.device}"
        if item.probe is not None:
            value = "1" if item.probe else "0"
            # It counts for the functions that come after it.
            found.append(Setting(name, "probe", f"{folder}/sriov_drivers_autoprobe", value))
        found.append(Setting(name, "count", f"{folder}{VIRTUAL_FUNCTIONS}", str(item.count)))
    return found


def lines(wanted: Sequence[Functions]) -> list[str]:
    """Return the lines of udev(7) that make them as soon as a driver has the device.

    A driver that the initramfs bound is met by the event that udev asks for when it starts.
    """
    found = []
    for item in wanted:
        line = f'ACTION=="add|bind", SUBSYSTEM=="pci", KERNEL=="{item.device}", DRIVER=="?*"'
        if item.probe is not None:
            line += f', ATTR{{sriov_drivers_autoprobe}}="{int(item.probe)}"'
        found.append(f'{line}, ATTR{{sriov_numvfs}}="{item.count}"')
    return found


def withhold(
    found: list[Setting], live: Mapping[str, str | None], observed: Observed, host: str
) -> tuple[list[Setting], Outcome]:
    """Return the settings that can be put now, and what is to be told of the others.

    To change the number takes all functions away, also those that guests hold.
    """
    held = [item for item in found if _waits(item, live, observed)]
    pending = tuple(_in_use(item, live, observed, host) for item in held)
    return [item for item in found if item not in held], Outcome(pending=pending)


def _address(item: Setting) -> str:
    return item.path.split("/")[5] if item.path.startswith(f"{_DEVICES}/") else ""


def _waits(item: Setting, live: Mapping[str, str | None], observed: Observed) -> bool:
    if not item.path.endswith(VIRTUAL_FUNCTIONS) or live.get(item.path) in (None, item.value):
        return False
    return bool(observed.held.get(_address(item)))


def _in_use(
    item: Setting, live: Mapping[str, str | None], observed: Observed, host: str
) -> Pending:
    address = _address(item)
    return Pending(
        object=f"{OBJECT}/{address}",
        kind=REBOOT,
        host=host,
        reason=f"guests hold functions of it ({', '.join(observed.held[address])}), and another"
        " number takes all of them away",
        remedy="stop those guests and run again, or reboot the host",
        changes=(Change("count", live.get(item.path), item.value),),
    )
