# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The devices of a guest of the helper, as they are declared: one table says what may be stated.

What is read is whole: every field of an entry is there, with its default where it was not stated,
so that two lists can be compared. Pure.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Callable, Mapping, NamedTuple, Sequence

from ...converge.errors import Problem, shown, unknown
from ...units import UnitError, format_size, parse_size
from ...virt.identity import macs_for

if TYPE_CHECKING:
    from ..spec import Reader

DISK_FORMATS = ("raw", "qcow2")
MAX_DEVICES = 24
SECTOR = 512
_TARGET = re.compile(r"vd[a-z]", re.ASCII)
_BRIDGE = re.compile(r"[^\s/:]{1,15}")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_TAG = re.compile(r"[A-Za-z0-9._-]{1,35}", re.ASCII)
_PORT = re.compile(r"[A-Za-z0-9._-]{1,60}", re.ASCII)
_CPUS = re.compile(r"\d{1,4}(-\d{1,4})?(,\d{1,4}(-\d{1,4})?)*", re.ASCII)

Read = Callable[["Reader", str, object], Any]


def _matching(form: re.Pattern[str], expected: str) -> Read:
    def read(reader: Reader, path: str, value: object) -> Any:
        if not isinstance(value, str) or not form.fullmatch(value):
            reader.refuse(path, expected, value)
        return value

    return read


def _one_of(*words: str) -> Read:
    def read(reader: Reader, path: str, value: object) -> Any:
        if value not in words:
            reader.problems.append(unknown(path, value, "one of", words))
        return value

    return read


def _number(low: int, high: int) -> Read:
    def read(reader: Reader, path: str, value: object) -> Any:
        if type(value) is not int or not low <= value <= high:
            reader.refuse(path, f"a whole number, {low} to {high}", value)
        return value

    return read


def _flag(reader: Reader, path: str, value: object) -> Any:
    return reader.flag(path, value)


def _path(reader: Reader, path: str, value: object) -> Any:
    good = isinstance(value, str) and value.startswith("/") and len(value) < 4096
    if not good or not str(value).isprintable():
        reader.refuse(path, "an absolute path", value)
    return value


def _image(reader: Reader, path: str, value: object) -> Any:
    if not isinstance(value, str) or not value or not value.isprintable():
        reader.refuse(path, "the name of an image that the host keeps, or an absolute path", value)
    return value


def _size(low: int, step: int) -> Read:
    def read(reader: Reader, path: str, value: object) -> Any:
        try:
            size = parse_size(value)
        except UnitError:
            reader.refuse(path, "a whole number with a unit (MiB, GiB, TiB)", value)
            return value
        if size < low or size % step:
            multiple = f"a multiple of {format_size(step)}, at least {format_size(low)}"
            reader.refuse(path, multiple, value)
        return format_size(size)

    return read


def _mac(reader: Reader, path: str, value: object) -> Any:
    text = value.lower() if isinstance(value, str) else value
    if not isinstance(text, str) or not _MAC.fullmatch(text):
        reader.refuse(path, "a MAC such as 02:00:00:00:00:01", value)
    elif int(text[:2], 16) & 1:
        reader.refuse(path, "the MAC of one station, whose first octet is even", value)
    return text


def _ports(reader: Reader, path: str, value: object) -> Any:
    if not isinstance(value, list) or len(value) > 8:
        reader.refuse(path, "a list of names, 8 at most", value)
        return value
    for number, name in enumerate(value):
        if not isinstance(name, str) or not _PORT.fullmatch(name) or name in value[:number]:
            reader.refuse(f"{path}[{number}]", "a name of its own for a port", name)
    return value


def _pins(reader: Reader, path: str, value: object) -> Any:
    if not isinstance(value, Mapping):
        reader.refuse(path, "a mapping of vCPUs to CPUs of the host", value)
        return value
    found = {}
    for key, cpus in value.items():
        index = str(key)
        if not index.isdecimal():
            reader.refuse(f"{path}.{index[:20]}", "the number of a vCPU", key)
        elif not isinstance(cpus, (str, int)) or not _CPUS.fullmatch(str(cpus)):
            reader.refuse(f"{path}.{index}", "CPUs of the host, such as 2 or 0-3,8", cpus)
        found[index] = str(cpus)
    return found


class Field(NamedTuple):
    """One field of a device: how it is read, and what it is where it is not stated."""

    read: Read
    default: Any = None
    required: bool = False


class Kind(NamedTuple):
    """One key of a spec: its fields, whether it is a list, and what it means for the reader."""

    what: str
    fields: Mapping[str, Field]
    many: bool = True


KINDS: dict[str, Kind] = {
    "disks": Kind(
        "its disks, in the order of their targets",
        {
            "target": Field(_matching(_TARGET, "vda, vdb and so on"), required=True),
            "file": Field(_path, required=True),
            "format": Field(_one_of(*DISK_FORMATS), "qcow2"),
            "size": Field(_size(1 << 20, SECTOR)),
            "image": Field(_image),
            "backing": Field(_path),
            "readonly": Field(_flag, default=False),
            "serial": Field(_matching(_TAG, "up to 20 letters, digits, dots and hyphens")),
            "queues": Field(_number(1, 16), 1),
        },
    ),
    "nics": Kind(
        "its NICs, each on a bridge of the host",
        {
            "bridge": Field(_matching(_BRIDGE, "the name of a bridge"), required=True),
            "mac": Field(_mac),
            "mtu": Field(_number(68, 65535)),
            "queues": Field(_number(1, 16), 1),
            "vhost": Field(_flag),
        },
    ),
    "pmem": Kind(
        "files mapped into its memory (/dev/pmem0 and so on)",
        {"file": Field(_path, required=True), "readonly": Field(_flag, default=False)},
    ),
    "shares": Kind(
        "folders of the host, over virtio-fs",
        {
            "tag": Field(_matching(_TAG, "up to 35 letters, digits, dots and hyphens"), None, True),
            "path": Field(_path, required=True),
            "readonly": Field(_flag, default=False),
        },
    ),
    "console": Kind(
        "a virtio console (hvc0) and named ports beside the serial port",
        {"ports": Field(_ports, ())},
        many=False,
    ),
    "vsock": Kind("a socket to its host", {"cid": Field(_number(3, 2**32 - 2), None, True)}, False),
    "watchdog": Kind(
        "an i6300ESB that acts when the guest does not feed it",
        {"action": Field(_one_of("reset", "stop"), "reset")},
        many=False,
    ),
    "memory_backing": Kind(
        "where its memory comes from",
        {
            "hugepage_size": Field(_one_of("2MiB", "1GiB")),
            "thp": Field(_flag, default=False),
        },
        many=False,
    ),
    "cpu_tuning": Kind(
        "the host's CPUs that its vCPUs run on",
        {"vcpu_pins": Field(_pins, None), "nice": Field(_number(-20, 19))},
        many=False,
    ),
}
FLAGS = {"rng": "the host's random numbers", "balloon": "gives memory back that it does not use"}
_DEVICES = ("disks", "nics", "pmem", "shares", "console", "vsock", "watchdog")


def read(reader: Reader, key: str, path: str, value: object) -> Any:
    """Return what was stated under a key of `KINDS`, whole; None for none of it."""
    kind = KINDS[key]
    if value is None:
        return None
    if not kind.many:
        return _entry(reader, kind, path, value)
    if not isinstance(value, list):
        reader.refuse(path, "a list", value)
        return None
    found = [_entry(reader, kind, f"{path}[{n}]", entry) for n, entry in enumerate(value)]
    return found or None


def _entry(reader: Reader, kind: Kind, path: str, value: object) -> dict[str, Any]:
    """Return one entry with all its fields."""
    if not isinstance(value, Mapping):
        reader.refuse(path, "a mapping", value)
        return {}
    reader.known(path, value, tuple(kind.fields))
    found: dict[str, Any] = {}
    for name, field in kind.fields.items():
        stated = value.get(name)
        if stated is not None:
            found[name] = field.read(reader, f"{path}.{name}", stated)
        elif field.required:
            reader.problems.append(Problem(f"{path}.{name}", "a value", "nothing"))
            found[name] = None
        else:
            default = field.default
            found[name] = list(default) if isinstance(default, tuple) else default
    return found


def contradictions(stated: Mapping[str, Any], path: str, problems: list[Problem]) -> None:
    """Add what does not go together in what was read."""
    disks = [disk for disk in stated.get("disks") or () if disk]
    for number in range(len(disks)):
        _contradiction(number, disks, f"{path}.disks[{number}]", problems)
    macs = [nic["mac"] for nic in stated.get("nics") or () if nic and nic["mac"]]
    if len(set(macs)) < len(macs):
        problems.append(Problem(f"{path}.nics", "a MAC of its own for each", shown(macs)))
    there = [stated.get(key) for key in _DEVICES]
    count = sum(len(one) if isinstance(one, list) else 1 for one in there if one)
    if count > MAX_DEVICES:
        problems.append(Problem(path, f"{MAX_DEVICES} devices at most", str(count)))
    pins = (stated.get("cpu_tuning") or {}).get("vcpu_pins") or {}
    vcpus = stated.get("vcpus")
    for index in pins:
        if isinstance(vcpus, int) and str(index).isdecimal() and int(index) >= vcpus:
            where = f"{path}.cpu_tuning.vcpu_pins.{index}"
            problems.append(Problem(where, f"a vCPU, 0 to {vcpus - 1}", shown(index)))


def _contradiction(
    number: int, disks: list[dict[str, Any]], where: str, problems: list[Problem]
) -> None:
    """Add what does not go together in a disk, or with those before it."""
    disk = disks[number]
    target = f"vd{chr(ord('a') + number)}"
    if disk["target"] != target and isinstance(disk["target"], str):
        remedy = "the guest numbers its disks as they stand here"
        problems.append(Problem(f"{where}.target", target, shown(disk["target"]), remedy))
    if disk["image"] is not None and disk["size"] is None:
        problems.append(Problem(f"{where}.size", "the size of a disk from an image", "nothing"))
    if disk["image"] is not None and disk["format"] != "qcow2":
        expected = "qcow2, which stands on its image"
        problems.append(Problem(f"{where}.format", expected, shown(disk["format"])))
    if disk["readonly"] and disk["size"] is not None:
        problems.append(Problem(f"{where}.size", "none for a disk that is only read", "one"))
    if disk["file"] in [other["file"] for other in disks[:number]]:
        problems.append(Problem(f"{where}.file", "a file of its own", shown(disk["file"])))


def settled(
    stated: Mapping[str, Any], there: Mapping[str, Any], name: str, fleet: str
) -> dict[str, Any]:
    """Return what was stated, with what a guest keeps: the MACs of its NICs, what disks came from.

    ``there`` is the spec that it has, empty for a new guest.
    """
    found = dict(stated)
    if found.get("nics"):
        before = list(there.get("nics") or ())
        known = [
            nic["mac"] or (before[number]["mac"] if number < len(before) else None)
            for number, nic in enumerate(found["nics"])
        ]
        macs = macs_for(name, known, fleet)
        found["nics"] = [{**nic, "mac": mac} for nic, mac in zip(found["nics"], macs)]
    if found.get("disks"):
        images = {disk["file"]: disk["image"] for disk in there.get("disks") or ()}
        sizes = {disk["file"]: disk["size"] for disk in there.get("disks") or ()}
        found["disks"] = [
            {
                **disk,
                # An image matters when the disk is made, and never again.
                "image": images.get(disk["file"], disk["image"]),
                "size": disk["size"] if disk["size"] is not None else sizes.get(disk["file"]),
            }
            for disk in found["disks"]
        ]
    return found


def shrunk(stated: Mapping[str, Any], there: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return the disks that would become smaller: target, size that is there, size stated."""
    before = {disk["file"]: disk["size"] for disk in there.get("disks") or () if disk["size"]}
    return [
        (disk["target"], before[disk["file"]], disk["size"])
        for disk in stated.get("disks") or ()
        if disk["file"] in before
        and disk["size"] is not None
        and parse_size(disk["size"]) < parse_size(before[disk["file"]])
    ]


def grown(stated: Mapping[str, Any], there: Mapping[str, Any]) -> list[str]:
    """Return the targets of the disks whose images have to grow, or to be made."""
    before = {disk["file"]: disk["size"] for disk in there.get("disks") or ()}
    return [
        disk["target"]
        for disk in stated.get("disks") or ()
        if disk["size"] is not None
        and disk["file"] in before
        and before[disk["file"]] is not None
        and parse_size(disk["size"]) > parse_size(before[disk["file"]])
    ]


def for_helper(
    spec: Mapping[str, Any], seed: str | None, bases: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """Return the devices of a whole spec as the helper's definition has them.

    ``bases`` are the files that the images which were made here stand on, by image.
    """
    found: dict[str, Any] = {}
    disks = [
        {
            "file": disk["file"],
            "format": disk["format"],
            "backing": list(bases.get(disk["file"], ())) or disk.get("backing"),
            "read_only": disk["readonly"],
            "serial": disk["serial"] or "",
            "queues": disk["queues"],
        }
        for disk in spec.get("disks") or ()
    ]
    if seed is not None:
        more = {"format": "raw", "read_only": True, "serial": "seed", "queues": 1}
        disks.append({"file": seed, **more})
    found["disks"] = disks
    for key in ("nics", "pmem", "shares"):
        found[key] = [
            {("read_only" if name == "readonly" else name): value for name, value in entry.items()}
            for entry in spec.get(key) or ()
        ]
    for key in ("console", "vsock", "watchdog", "memory_backing", "cpu_tuning"):
        found[key] = spec.get(key)
    for key in FLAGS:
        found[key] = bool(spec.get(key))
    return {key: value for key, value in found.items() if value}
