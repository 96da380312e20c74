# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What must hold between the keys of one guest; each rule names the key that has to change.

The rules see what was stated, in canonical form, and nothing else: what is not stated is kept as it
is, and libvirt has the last word on it.
"""

from __future__ import annotations

from typing import Any, Iterator, Mapping

from ..converge.compare import join
from ..converge.errors import Problem, shown
from ..units import UnitError, format_size, parse_size
from . import disk, nic
from . import encryption as luks
from .codecs import cpu_set
from .display import ONLY

Stated = Mapping[str, Any]
_HOSTDEV = ("pci", "usb", "usb_device", "mdev")
_NO_IDE = ("q35", "pc-q35", "virt", "microvm")
_VNC = 8  # characters of a password (RFC 6143, 7.2.2)
_CONTRADICTS = "state one of them"


def _group(stated: Stated, key: str) -> Stated:
    value = stated.get(key)
    return value if isinstance(value, Mapping) else {}


def _entries(stated: Stated, key: str, path: str) -> Iterator[tuple[str, Stated]]:
    for number, entry in enumerate(stated.get(key) or ()):
        if isinstance(entry, Mapping):
            yield f"{join(path, key)}[{number}]", entry


def _size(value: Any) -> int | None:
    try:
        return parse_size(value)
    except UnitError:
        return None


def _number(value: Any) -> int | None:
    return value if type(value) is int else None


def _one_of(entry: Stated, keys: tuple[str, ...], where: str) -> Iterator[Problem]:
    """Yield a problem where more than one of the keys is stated."""
    found = [key for key in keys if entry.get(key) is not None]
    if len(found) > 1:
        yield Problem(where, f"one of {', '.join(keys)}", " and ".join(found), _CONTRADICTS)


def amounts(stated: Stated, path: str) -> Iterator[Problem]:
    """Yield what exceeds a maximum, or does not add up to it."""
    memory, most = _size(stated.get("memory")), _size(stated.get("max_memory"))
    if memory is not None and most is not None and memory > most:
        expected = f"at most max_memory, {format_size(most)}"
        yield Problem(join(path, "memory"), expected, shown(stated["memory"]))
    hotplug = _size(_group(stated, "hotplug_memory").get("max"))
    largest = max(filter(None, (memory, most)), default=None)
    if hotplug is not None and largest is not None and largest > hotplug:
        where = join(path, "hotplug_memory.max")
        yield Problem(where, f"at least {format_size(largest)}", format_size(hotplug))
    vcpus, limit = _number(stated.get("vcpus")), _number(stated.get("max_vcpus"))
    if vcpus is not None and limit is not None and vcpus > limit:
        yield Problem(join(path, "vcpus"), f"at most max_vcpus, {limit}", shown(vcpus))
    total = limit if limit is not None else vcpus
    yield from _topology(stated, path, total)
    yield from _cells(stated, path, most if most is not None else memory, total)
    if total is not None:
        for name in _group(_group(stated, "cpu_tuning"), "vcpu_pins"):
            if int(name) >= total:
                where = join(path, f"cpu_tuning.vcpu_pins.{name}")
                yield Problem(where, f"one of the {total} vCPUs, counted from 0", shown(name))


def _topology(stated: Stated, path: str, total: int | None) -> Iterator[Problem]:
    topology = _group(_group(stated, "cpu"), "topology")
    parts = [_number(topology.get(key)) for key in ("sockets", "cores", "threads")]
    if not topology or total is None or None in parts:
        return
    product = _number(topology.get("dies")) or 1
    for part in parts:
        product *= part or 1
    if product != total:
        where = join(path, "cpu.topology")
        expected = (
            f"sockets, dies, cores and threads whose product is {total}, the most vCPUs there are"
        )
        yield Problem(where, expected, shown(product))


def _cells(stated: Stated, path: str, memory: int | None, total: int | None) -> Iterator[Problem]:
    seen: dict[int, str] = {}
    sizes: list[int] = []
    for where, cell in _entries(_group(stated, "cpu"), "numa", join(path, "cpu")):
        sizes.append(_size(cell.get("memory")) or 0)
        cpus = cpu_set(cell["cpus"]) if isinstance(cell.get("cpus"), str) else None
        for number in sorted(cpus or ()):
            if number in seen:
                found = f"CPU {number}, which {seen[number]} has already"
                yield Problem(f"{where}.cpus", "CPUs of no other cell", found)
                break
            if total is not None and number >= total:
                expected = f"some of the {total} vCPUs, counted from 0"
                yield Problem(f"{where}.cpus", expected, shown(cell["cpus"]))
                break
        seen.update(dict.fromkeys(cpus or (), where))
    if sizes and memory is not None and sum(sizes) != memory:
        expected = f"cells that add up to the memory, {format_size(memory)}"
        yield Problem(join(path, "cpu.numa"), expected, format_size(sum(sizes)))


def firmware(stated: Stated, path: str) -> Iterator[Problem]:
    """Yield what is asked of a firmware that does not have it."""
    asked, where = _group(stated, "firmware"), join(path, "firmware")
    if asked.get("type") == "bios":
        for key in ("secure_boot", "enrolled_keys", "nvram", "nvram_template"):
            if asked.get(key):
                yield Problem(f"{where}.{key}", "type: uefi with it", "type: bios")
        if asked.get("loader_type") == "pflash":
            yield Problem(f"{where}.loader_type", "rom with type: bios", "'pflash'")
    elif asked.get("type") and asked.get("loader_type") == "rom":
        yield Problem(f"{where}.loader_type", "no type beside a loader in ROM", "type: uefi")
    elif not asked.get("type") and not asked.get("loader"):
        for key in ("secure_boot", "enrolled_keys"):
            if asked.get(key) is not None:
                yield Problem(f"{where}.{key}", "type: uefi with it", "no type")
    kind = stated.get("machine")
    i440fx = isinstance(kind, str) and (kind == "pc" or kind.startswith("pc-i440fx"))
    if asked.get("secure_boot") and i440fx:
        remedy = "state machine: q35"
        yield Problem(f"{where}.secure_boot", "a machine with SMM", shown(kind), remedy)


def machine(stated: Stated, path: str) -> Iterator[Problem]:
    """Yield what CPU, features and accelerator do not have together."""
    features = _group(stated, "features")
    if features.get("apic") is False and features.get("apic_eoi") is not None:
        yield Problem(join(path, "features.apic_eoi"), "apic: true with it", "apic: false")
    cpu = _group(stated, "cpu")
    if cpu.get("model") and cpu.get("mode") not in ("custom", "host-model"):
        found = f"mode: {cpu['mode']}" if cpu.get("mode") else "no mode"
        yield Problem(join(path, "cpu.model"), "mode: custom with it", found)
    if stated.get("accel") == "tcg" and cpu.get("mode") in ("host-passthrough", "host-model"):
        remedy = "state mode: maximum, or custom with a model"
        yield Problem(join(path, "cpu.mode"), "a mode that TCG has", shown(cpu["mode"]), remedy)
    backing = _group(stated, "memory_backing")
    if backing.get("hugepages") is False and backing.get("hugepage_size"):
        where = join(path, "memory_backing.hugepage_size")
        yield Problem(where, "hugepages: true with it", "hugepages: false")


_OFFSETS = {  # what each way to set the clock takes besides
    "timezone": ("timezone",),
    "adjustment": ("utc", "localtime", "variable"),
    "basis": ("variable",),
    "start": ("absolute",),
}


def clock(stated: Stated, path: str) -> Iterator[Problem]:
    """Yield what does not belong to the way that the clock is set."""
    asked, path = _group(stated, "clock"), join(path, "clock")
    offset = asked.get("offset") or "utc"
    for key, offsets in _OFFSETS.items():
        if asked.get(key) is not None and offset not in offsets:
            expected = f"offset: {' or '.join(offsets)} with it"
            yield Problem(f"{path}.{key}", expected, f"offset: {offset}")
    if offset == "absolute" and asked.get("start") is None:
        yield Problem(f"{path}.start", "the time that the guest starts at", "nothing")
    if asked.get("adjustment") == "reset" and offset == "variable":
        yield Problem(f"{path}.adjustment", "seconds with offset: variable", "'reset'")


def numa(stated: Stated, path: str) -> Iterator[Problem]:
    """Yield nodes that are named where numad chooses them."""
    asked = _group(stated, "numa_tuning")
    if asked.get("placement") == "auto" and asked.get("nodes"):
        where = join(path, "numa_tuning.nodes")
        yield Problem(where, "placement: static with it", "placement: auto")


def hyperv(stated: Stated, path: str) -> Iterator[Problem]:
    """Yield what is chosen one by one beside all that the host has."""
    asked = _group(stated, "hyperv")
    if asked.get("mode") == "passthrough":
        for key in asked:
            if key != "mode" and asked[key] is not None:
                where = join(path, f"hyperv.{key}")
                yield Problem(where, "mode: custom with it", "mode: passthrough")


def disks(stated: Stated, path: str) -> Iterator[Problem]:
    """Yield disks with two sources, on a bus that there is not, or with keys that do not fit."""
    sources = tuple(one.key for one in disk.SOURCES)
    kind = stated.get("machine")
    no_ide = isinstance(kind, str) and kind.startswith(_NO_IDE)
    yield from _files_once(stated, path)
    for where, entry in _entries(stated, "disks", path):
        yield from _one_of(entry, sources, where)
        bus = disk.bus_of(entry)
        at = f"{where}.bus" if entry.get("bus") else f"{where}.target"
        if no_ide and bus in ("ide", "fdc"):
            yield Problem(at, f"a bus that {kind} has", shown(bus), "state bus: sata, or virtio")
        if entry.get("device") == "cdrom":
            if entry.get("readonly") is False:
                yield Problem(f"{where}.readonly", "true for a cdrom", "False")
            if bus == "virtio":
                yield Problem(at, "a bus for a cdrom (sata, scsi, ide, usb)", shown(bus))
        if entry.get("device") == "lun" and (entry.get("file") or entry.get("nvme")):
            yield Problem(f"{where}.device", "a lun's source (block, volume, network)", "another")
        if entry.get("size") is not None:
            yield from _sized(entry, where)
        elif entry.get("image") is not None:
            remedy = "state the size of the disk that is made from it"
            yield Problem(f"{where}.size", "a size with image", "nothing", remedy)
        yield from luks.contradictions(entry.get("encryption"), f"{where}.encryption")
        yield from _network(_group(entry, "network"), f"{where}.network")
        yield from _driver(entry, bus, _number(stated.get("iothreads")), where)
        yield from _throttle(_group(entry, "throttle"), f"{where}.throttle")


def _sized(entry: Stated, where: str) -> Iterator[Problem]:
    """Yield a size that no image can have, or of a disk that has no image of its own."""
    size = _size(entry["size"])
    if size is not None and size % disk.SECTOR:
        yield Problem(
            f"{where}.size", f"whole sectors of {disk.SECTOR} bytes", shown(entry["size"])
        )
    others = [one.key for one in disk.SOURCES if one.key != "file"]
    others = [key for key in others if entry.get(key) is not None]
    if others:
        yield Problem(f"{where}.size", "file with it", others[0])
    if entry.get("encryption"):
        remedy = "make it a volume (kvm_volumes), and leave size out"
        yield Problem(f"{where}.size", "nothing with encryption", shown(entry["size"]), remedy)
    if entry.get("device") not in (None, "disk"):
        yield Problem(f"{where}.size", "device: disk with it", f"device: {entry['device']}")


def _files_once(stated: Stated, path: str) -> Iterator[Problem]:
    """Yield an image that a guest would have twice."""
    first: dict[Any, tuple[str, bool]] = {}
    for where, entry in _entries(stated, "disks", path):
        for key in ("file", "block"):
            source = entry.get(key)
            if source is None or entry.get("shareable"):
                continue
            holder, held = first.setdefault(source, (where, disk.writes(entry)))
            if holder != where and (held or disk.writes(entry)):
                found = f"{shown(source)}, which {holder} has already"
                yield Problem(f"{where}.{key}", "a source of its own", found)


def _network(stated: Stated, path: str) -> Iterator[Problem]:
    """Yield what a protocol lacks."""
    protocol = stated.get("protocol")
    hosts = stated.get("hosts") or ()
    if protocol in disk.NEEDS_NAME and stated.get("name") is None:
        yield Problem(f"{path}.name", f"a name with protocol: {protocol}", "nothing")
    if protocol in disk.NEEDS_HOST and not hosts:
        yield Problem(f"{path}.hosts", f"a host with protocol: {protocol}", "nothing")
    for number, host in enumerate(hosts):
        yield from _one_of(host, ("name", "socket"), f"{path}.hosts[{number}]")


def _driver(entry: Stated, bus: str | None, threads: int | None, where: str) -> Iterator[Problem]:
    """Yield what cannot be asked of QEMU's driver together."""
    if entry.get("shareable") and entry.get("format") not in (None, "raw"):
        found = f"format: {entry['format']}"
        yield Problem(f"{where}.shareable", "format: raw with it", found)
    for key in ("iothread", "queues", "queue_size"):
        if entry.get(key) is not None and bus != "virtio":
            yield Problem(f"{where}.{key}", "bus: virtio with it", f"bus: {bus}")
    thread = _number(entry.get("iothread"))
    if thread is not None and threads is not None and thread > threads:
        yield Problem(f"{where}.iothread", f"one of the {threads} iothreads", shown(thread))
    if entry.get("io") == "native" and entry.get("cache") not in (None, "none", "directsync"):
        found = f"cache: {entry['cache']}"
        yield Problem(f"{where}.io", "cache: none or directsync with native", found)


def _throttle(stated: Stated, path: str) -> Iterator[Problem]:
    """Yield a group of no limits, and a limit of the whole beside that of a part."""
    if stated.get("group") is not None and not any(map(stated.get, disk.RATES)):
        yield Problem(f"{path}.group", "the group's limits with it", "none")
    for key in stated:
        if key.startswith("total_") and stated[key] is not None:
            rest = key[len("total") :]
            for half in ("read", "write"):
                if stated.get(half + rest) is not None:
                    found = f"{half}{rest} beside it"
                    yield Problem(f"{path}.{key}", "no limit of a part beside the total", found)


def nics(stated: Stated, path: str) -> Iterator[Problem]:
    """Yield NICs with two sources, or with keys of another source than theirs."""
    for where, entry in _entries(stated, "nics", path):
        yield from _one_of(entry, nic.SOURCES, where)
        others = [key for key in nic.SOURCES if entry.get(key) is not None]
        for key, owner in (("mode", "direct"), ("managed", "hostdev"), ("portgroup", "network")):
            if entry.get(key) is not None and others and owner not in others:
                yield Problem(f"{where}.{key}", f"{owner} with it", " and ".join(others))
        if entry.get("mode") is not None and not others:
            yield Problem(f"{where}.mode", "direct with it", "nothing")
        port = _group(entry, "virtualport")
        if port and others and not set(others) & set(nic.WITH_PORT):
            expected = f"{' or '.join(nic.WITH_PORT)} with it"
            yield Problem(f"{where}.virtualport", expected, " and ".join(others))
        if port.get("type") == "802.1Qbh" and port.get("interface_id"):
            found = "type: 802.1Qbh"
            yield Problem(f"{where}.virtualport.interface_id", "type: openvswitch with it", found)
        if port.get("type") == "midonet" and (
            port.get("profile_id") or not port.get("interface_id")
        ):
            yield Problem(
                f"{where}.virtualport", "interface_id alone with type: midonet", "another"
            )
        parameters = _group(entry, "filter_parameters").values()
        if "filter" in entry and entry["filter"] is None and any(parameters):
            yield Problem(f"{where}.filter_parameters", "filter with them", "filter: null")
        if entry.get("queues") and entry.get("model") not in (None, "virtio"):
            yield Problem(f"{where}.queues", "model: virtio with it", f"model: {entry['model']}")


def displays(stated: Stated, path: str) -> Iterator[Problem]:
    """Yield what a kind of graphics or video does not have."""
    for where, entry in _entries(stated, "graphics", path):
        password = entry.get("password")
        if entry.get("type") == "vnc" and isinstance(password, str) and len(password) > _VNC:
            found = f"{len(password)} of them"
            yield Problem(join(where, "password"), f"at most {_VNC} characters with VNC", found)
        for key, types in ONLY.items():
            if entry.get(key) is not None and entry.get("type") not in types:
                expected = f"type: {' or '.join(types)} with it"
                yield Problem(f"{where}.{key}", expected, f"type: {entry.get('type')}")
        if entry.get("render_node") and not entry.get("gl"):
            yield Problem(f"{where}.render_node", "gl: true with it", shown(entry.get("gl")))
    for where, entry in _entries(stated, "videos", path):
        for key in ("ram", "vgamem"):
            if entry.get(key) is not None and entry.get("model") != "qxl":
                found = f"model: {entry.get('model')}"
                yield Problem(f"{where}.{key}", "model: qxl with it", found)


def hostdevs(stated: Stated, path: str) -> Iterator[Problem]:
    """Yield what does not say one device of the host, or more of it than it has."""
    for where, entry in _entries(stated, "hostdevs", path):
        yield from _one_of(entry, _HOSTDEV, where)
        if not any(entry.get(key) for key in _HOSTDEV):
            yield Problem(where, f"one of {', '.join(_HOSTDEV)}", "none of them")
        for key in ("model", "display"):
            if entry.get(key) is not None and not entry.get("mdev"):
                yield Problem(f"{where}.{key}", "mdev with it", "another device")


def logs(stated: Stated, path: str) -> Iterator[Problem]:
    """Yield a way to write a log that is not written."""
    for key in ("serials", "consoles", "channels"):
        for where, entry in _entries(stated, key, path):
            if entry.get("log_append") is not None and not entry.get("log"):
                yield Problem(f"{where}.log_append", "log with it", "nothing to append to")
            if entry.get("path") and entry.get("type") == "pty":
                yield Problem(f"{where}.path", "another type with it", "type: pty")


def shares(stated: Stated, path: str) -> Iterator[Problem]:
    """Yield what a share needs and does not have, or has and does not need."""
    shared = _group(stated, "memory_backing").get("access") == "shared"
    cells = _group(stated, "cpu").get("numa") or ()
    shared = shared or any(cell.get("access") == "shared" for cell in cells)
    for where, entry in _entries(stated, "filesystems", path):
        if entry.get("driver") == "virtiofs" and not shared:
            remedy = "state memory_backing: {source: memfd, access: shared}"
            yield Problem(f"{where}.driver", "memory shared with virtiofsd", "none", remedy)
        for key in ("queue", "binary", "xattr", "cache"):
            if entry.get(key) is not None and entry.get("driver") != "virtiofs":
                found = f"driver: {entry.get('driver') or '9p'}"
                yield Problem(f"{where}.{key}", "driver: virtiofs with it", found)


def backends(stated: Stated, path: str) -> Iterator[Problem]:
    """Yield what the backend of a TPM or an RNG does not take."""
    tpm, where = _group(stated, "tpm"), join(path, "tpm")
    kind = tpm.get("type") or ("passthrough" if tpm.get("device") else "emulator")
    for key, owner in (
        ("device", "passthrough"),
        ("secret", "emulator"),
        ("persistent_state", "emulator"),
    ):
        if tpm.get(key) is not None and kind != owner:
            yield Problem(f"{where}.{key}", f"type: {owner} with it", f"type: {kind}")
    rng, where = _group(stated, "rng"), join(path, "rng")
    if rng.get("device") and rng.get("backend") == "builtin":
        yield Problem(f"{where}.device", "backend: random with it", "backend: builtin")
    if rng.get("rate_period") is not None and rng.get("rate_bytes") is None:
        yield Problem(f"{where}.rate_period", "rate_bytes with it", "nothing")


def boot(stated: Stated, path: str) -> Iterator[Problem]:
    """Yield what makes the order of boot ambiguous, or a timeout of nothing."""
    if stated.get("boot_menu_timeout") is not None and not stated.get("boot_menu"):
        found = shown(stated.get("boot_menu"))
        yield Problem(join(path, "boot_menu_timeout"), "boot_menu: true with it", found)
    first: dict[int, str] = {}
    for key in ("disks", "nics", "hostdevs"):
        for where, entry in _entries(stated, key, path):
            number = _number(entry.get("boot"))
            if number is None:
                continue
            if stated.get("boot_devices"):
                expected = "no boot_devices beside it"
                yield Problem(
                    f"{where}.boot", expected, shown(stated["boot_devices"]), _CONTRADICTS
                )
            if number in first:
                found = f"{number}, which {first[number]} has already"
                yield Problem(f"{where}.boot", "a place of its own in the order of boot", found)
            first.setdefault(number, where)


RULES = (
    amounts,
    firmware,
    machine,
    clock,
    numa,
    hyperv,
    disks,
    nics,
    displays,
    hostdevs,
    logs,
    shares,
    backends,
    boot,
)


def for_new(stated: Stated, path: str) -> Iterator[Problem]:
    """Yield what a guest that is not there yet lacks."""
    sources = tuple(one.key for one in disk.SOURCES)
    for where, entry in _entries(stated, "disks", path):
        if entry.get("device") not in disk.REMOVABLE and not any(map(entry.get, sources)):
            yield Problem(where, f"a source ({', '.join(sources)})", "none")
        elif entry.get("device") == "lun" and not (entry.get("block") or entry.get("network")):
            yield Problem(where, "block or network for a lun", "neither")
    for where, entry in _entries(stated, "nics", path):
        if not any(map(entry.get, nic.SOURCES)):
            yield Problem(where, f"what it is connected to ({', '.join(nic.SOURCES)})", "nothing")
