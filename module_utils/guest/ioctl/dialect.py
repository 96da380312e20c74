# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a guest of the bundled helper is declared: its keys, their rules, and what differs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Mapping, Sequence

from ...converge.action import LIVE, NEXT_BOOT, Change, Edit
from ...converge.compare import compare
from ...converge.errors import Problem, nearest
from ...image.store import NAME
from ...units import UnitError, format_size, parse_duration, parse_size
from ..engine import ACTIVE, BOOT_KEYS, Differences
from ..spec import ABSENT, CALLED, KEPT, PRESENT, RESTARTED, RUNNING, STOPPED, WAS, Reader, quotable
from . import devices, seeding

if TYPE_CHECKING:
    from ...seed.store import Seeds
    from ..engine import Host, Observed

ENGINE = "ioctl"
OWN_KERNEL = "host"  # the kernel that the host runs itself, by a bare word
IMAGE = "image:"  # before the name of an image that the host keeps
BOOT_FILES = ("kernel", "initrd")
LOG_DEFAULTS = {"max_size": "1MiB", "keep": 3}
FEW: dict[str, Any] = {  # that every spec has
    "memory": "128MiB",
    "vcpus": 1,
    "initrd": "",
    "cmdline": "",
    "autostart": KEPT["autostart"],
    "log": LOG_DEFAULTS,
    "protected": KEPT["protected"],
}
DEFAULTS: dict[str, Any] = {
    **FEW,
    "on_reboot": None,  # as definition.follows says
    "stop_timeout": "30s",
    **dict.fromkeys(devices.FLAGS, False),
    **dict.fromkeys(devices.KINDS),
}
ASKED = ("wait_for", "wait_timeout", "remove_disks")
WAITS = ("running", "address", "ssh")
KEYS = (*CALLED, "engine", "state", "kernel", *DEFAULTS, seeding.KEY, *ASKED)
# Of a whole spec, as it is stored and shown; of a seed it has the file alone.
ORDER = ("name", "engine", "kernel", *DEFAULTS, seeding.FILE)

PAGE = 4096
MIN_MEMORY = 1 << 20
MIN_LOG = 4096
MAX_LOG = 1 << 40
MAX_KEEP = 99
MAX_CMDLINE = 2047  # bytes; Linux takes COMMAND_LINE_SIZE (2048) with the final NUL on x86
MAX_PATH = 4095  # bytes; PATH_MAX with the final NUL


@dataclass(frozen=True)
class Limits:
    """What the host and its engine allow; None where that is not known."""

    memory: int | None = None  # bytes
    vcpus: int | None = None
    programs: tuple[str, ...] = ()  # kernels that are meant by a bare word


def complete(stated: Mapping[str, Any], base: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the whole spec: what was stated, over ``base`` or over the defaults."""
    spec = dict(DEFAULTS if base is None else base)
    spec.update(stated)
    below = LOG_DEFAULTS if base is None else base.get("log", LOG_DEFAULTS)
    spec["log"] = {**below, **stated.get("log", {})}
    # Most guests have few of the devices: what one does not have is not in its spec.
    return {k: spec[k] for k in ORDER if k in spec and (k in FEW or spec[k] != DEFAULTS.get(k))}


def machine(spec: Mapping[str, Any], host: Host) -> dict[str, Any]:
    """Return what a spec boots on this host: `BOOT_KEYS`, with the files that are meant.

    An image that the host does not have stays as it is called.
    """
    found = {key: spec.get(key, DEFAULTS.get(key)) for key in BOOT_KEYS}
    if found["kernel"] == OWN_KERNEL:
        found["kernel"] = host.kernel
    for key in BOOT_FILES:
        name = image_named(found[key])
        if name is not None:
            found[key] = host.image(name) or found[key]
    return found


def image_named(value: object) -> str | None:
    """Return the name of the image that a kernel or an initrd is; None where it is none."""
    named = isinstance(value, str) and value.startswith(IMAGE)
    return str(value)[len(IMAGE) :] if named else None


class _Reader(Reader):
    """Reads the keys of one entry."""

    def __init__(self, limits: Limits, problems: list[Problem]) -> None:
        super().__init__(problems)
        self.limits = limits

    def whole(self, path: str, value: object, low: int, high: int | None) -> int:
        """Return a whole number in the range."""
        limit = f"{low} or more" if high is None else f"{low} to {high}"
        if type(value) is not int:
            self.refuse(path, f"a whole number, {limit}", value)
            return low
        if value < low or (high is not None and value > high):
            self.refuse(path, f"a whole number, {limit}", value)
        return value

    def size(self, path: str, value: object, low: int, high: int, step: int = 1) -> str:
        """Return a size in its canonical text."""
        try:
            size = parse_size(value)
        except UnitError:
            self.refuse(path, "a whole number with a unit (B, KiB, MiB, GiB, TiB)", value)
            return format_size(low)
        if not low <= size <= high:
            self.refuse(path, f"{format_size(low)} to {format_size(high)}", value)
        elif size % step:
            self.refuse(path, f"a multiple of {format_size(step)}", value)
        return format_size(size)

    def text(self, path: str, value: object, limit: int) -> str:
        """Return one line of text without control characters, ``limit`` bytes at most."""
        if not isinstance(value, str):
            self.refuse(path, "text", value, "quote it" if quotable(value) else None)
            return ""
        if any(ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0 for char in value):
            self.refuse(path, "one line without control characters", value)
        elif any(0xD800 <= ord(char) < 0xE000 for char in value):
            self.refuse(path, "text that can be written as UTF-8", value)
        elif len(value.encode()) > limit:
            self.refuse(path, f"at most {limit} bytes", value)
        else:
            return value
        return ""

    def file(self, path: str, value: object, words: Sequence[str]) -> str:
        """Return an absolute path, an image that the host keeps, or one of the reserved words."""
        before = len(self.problems)
        name = self.text(path, value, MAX_PATH)
        if len(self.problems) > before or name in words or name.startswith("/"):
            return name
        image = image_named(name)
        if image is not None and NAME.fullmatch(image):
            return name
        known = ["an absolute path", f"{IMAGE} and the name of an image"]
        known += [f"one of {', '.join(words)}"] if words else []
        guess = nearest(name, words)
        expected = f"{', '.join(known[:-1])}, or {known[-1]}"
        self.refuse(path, expected, name, f"did you mean {guess}?" if guess else None)
        return name

    # The keys of a spec, each with its reader.

    def memory(self, path: str, value: object) -> str:
        """Return the guest's memory; the host's own is the most there can be."""
        before = len(self.problems)
        size = self.size(path, value, MIN_MEMORY, 1 << 50, PAGE)
        most = self.limits.memory
        if len(self.problems) == before and most is not None and parse_size(size) > most:
            mib = most >> 20
            self.refuse(path, f"at most the {mib}MiB of memory that this host has", value)
        return size

    def vcpus(self, path: str, value: object) -> int:
        """Return the number of vCPUs; KVM says how many it allows."""
        return self.whole(path, value, 1, self.limits.vcpus)

    def kernel(self, path: str, value: object) -> str:
        """Return the kernel's path, image or reserved word."""
        return self.file(path, value, self.limits.programs)

    def initrd(self, path: str, value: object) -> str:
        """Return the initrd's path or image; empty for none."""
        return "" if value == "" else self.file(path, value, ())

    def cmdline(self, path: str, value: object) -> str:
        """Return the kernel's command line; empty for none."""
        return self.text(path, value, MAX_CMDLINE)

    def on_reboot(self, path: str, value: object) -> str:
        """Return what follows when the guest resets itself."""
        if value not in ("restart", "stop"):
            self.refuse(path, "restart or stop", value)
        return str(value)

    def duration(self, path: str, value: object) -> float:
        """Return seconds."""
        try:
            return float(parse_duration(value))
        except UnitError:
            self.refuse(path, "a duration such as 30s", value)
            return 0.0

    def stop_timeout(self, path: str, value: object) -> str:
        """Return how long the guest may take to turn itself off, in seconds as text."""
        return f"{self.duration(path, value):g}s"

    def wait_for(self, path: str, value: object) -> str:
        """Return what is waited for."""
        if value not in WAITS:
            self.refuse(path, ", ".join(WAITS), value)
        return str(value)

    def wait_timeout(self, path: str, value: object) -> float:
        """Return the seconds that are waited at most."""
        return self.duration(path, value)

    def log(self, path: str, value: object) -> dict[str, Any]:
        """Return the stated limits of the console's log."""
        if not isinstance(value, Mapping):
            self.refuse(path, "a mapping with max_size and keep", value)
            return {}
        self.known(path, value, tuple(LOG_DEFAULTS))
        stated: dict[str, Any] = {}
        if "max_size" in value:
            stated["max_size"] = self.size(f"{path}.max_size", value["max_size"], MIN_LOG, MAX_LOG)
        if "keep" in value:
            stated["keep"] = self.whole(f"{path}.keep", value["keep"], 0, MAX_KEEP)
        return stated


class IoctlDialect:
    """The dialect of the helper's guests on one host."""

    engine = ENGINE
    states = (PRESENT, RUNNING, STOPPED, RESTARTED, ABSENT)
    keys = KEYS

    def __init__(
        self, limits: Limits, host: Host, seeds: Seeds | None = None, fleet: str = "local"
    ) -> None:
        self.limits = limits
        self.host = host
        self.seeds = seeds
        self.fleet = fleet
        self.autostarts = host.supervised

    def read(
        self,
        entry: Mapping[Any, Any],
        path: str,
        problems: list[Problem],
        *,
        new: bool,
        removed: bool,
    ) -> dict[str, Any]:
        """Return the keys of an entry in canonical form; a new guest needs a kernel."""
        # A guest can be removed on a host that has become too small for it.
        limits = Limits(programs=self.limits.programs) if removed else self.limits
        reader = _Reader(limits, problems)
        reader.known(path, entry, KEYS)
        stated: dict[str, Any] = {}
        before = len(problems)
        rest, first_boot = seeding.read(entry, path, problems)
        for key in ("kernel", *DEFAULTS, *ASKED):
            if key not in rest:
                continue
            where = f"{path}.{key}"
            if key in devices.KINDS:
                stated[key] = devices.read(reader, key, where, rest[key])
            else:
                read: Callable[[str, object], Any] = getattr(reader, key, reader.flag)
                stated[key] = read(where, rest[key])
        stated.update(first_boot)
        if len(problems) == before:
            devices.contradictions(stated, path, problems)
        if new and "kernel" not in entry:
            expected = "the kernel of a guest that is not there yet"
            problems.append(Problem(f"{path}.kernel", expected, "nothing"))
        return stated

    def complete(self, stated: Mapping[str, Any], seen: Observed | None) -> dict[str, Any]:
        """Return the whole spec that the guest shall have, with the documents of a new seed."""
        there = {} if seen is None else seen.spec or {}
        whole = complete(self._settled(stated, there), None if seen is None else there)
        seed = seeding.seeding(self.seeds, stated, seen, self.fleet, whole)
        whole.pop(seeding.FILE, None)
        if seed is not None and seed.file is not None:
            whole[seeding.FILE] = seed.file
            whole[seeding.KEY] = seed.documents
        if seen is None and WAS in stated:  # its identity follows from that name
            whole[WAS] = stated[WAS]
        return whole

    def _settled(self, stated: Mapping[str, Any], there: Mapping[str, Any]) -> dict[str, Any]:
        name = str(stated.get(WAS) or stated["name"])
        return devices.settled(stated, there, name, self.fleet)

    def masked(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """Return a spec as it may be shown: what a seed holds may be a secret."""
        return seeding.masked(spec)

    def differences(self, stated: Mapping[str, Any], seen: Observed) -> Differences:
        """Return what differs from the guest that is there.

        A spec that says ``kernel: host`` follows the host's kernel to another file, and one that
        names an image what that leads to.
        """
        there = seen.spec or {}
        plain = self._settled(stated, there)
        seed = seeding.seeding(self.seeds, stated, seen, self.fleet, complete(plain, there))
        skipped = (*ASKED, *CALLED, seeding.KEY)
        plain = {key: value for key, value in plain.items() if key not in skipped}
        # What no earlier version of a definition could say is as its default.
        changes = compare(plain, {**DEFAULTS, **there})
        boots = machine({**complete(plain, there), seeding.FILE: seed and seed.file}, self.host)
        for key in BOOT_FILES:
            before = (seen.machine or {}).get(key, boots[key])
            if before != boots[key] and key not in {change.path for change in changes}:
                changes.append(Change(key, before, boots[key]))
        edits = [
            Edit(part.path, part.before, part.after, moment(part.path))
            for change in changes
            for part in _parts(change)
        ]
        edits += seed.edits if seed is not None else ()
        restart = [] if seen.booted is None else compare(boots, seen.booted)
        return Differences(tuple(edits), tuple(restart), self._refused(plain, there, seen))

    @staticmethod
    def _refused(
        stated: Mapping[str, Any], there: Mapping[str, Any], seen: Observed
    ) -> tuple[tuple[str, str], ...]:
        """Return what cannot be made of the disks that are there, each with its remedy."""
        refused = [
            (
                f"disks[{target}]: its image of {before} would shrink to {after}",
                "state at least that: an image is never made smaller",
            )
            for target, before, after in devices.shrunk(stated, there)
        ]
        if seen.state in ACTIVE:
            refused += [
                (
                    f"disks[{target}]: it runs, and its image can only grow while it does not",
                    "ask for state: stopped first",
                )
                for target in devices.grown(stated, there)
            ]
        return tuple(refused)


def moment(path: str) -> str:
    """Return when a change at this path takes effect."""
    boots = re.split(r"[.\[]", path, maxsplit=1)[0] in BOOT_KEYS
    return NEXT_BOOT if boots else LIVE


def _parts(change: Change) -> list[Change]:
    """Return a change of a list of devices as those of its entries, where each has its place."""
    before, after = change.before, change.after
    if not isinstance(before, list) or not isinstance(after, list) or len(before) != len(after):
        return [change]
    return [
        Change(f"{change.path}[{number}].{part.path}", part.before, part.after)
        for number, (one, two) in enumerate(zip(before, after))
        for part in compare(two, one)
    ]
