# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The canonical guest: its keys, their rules, and everything that is wrong with a list of them.

A declaration holds only what the user stated, in canonical form: sizes as text in their largest
unit, so that 2048MiB and 2GiB are no difference. What is left out is kept as it is observed, or
takes its default when the guest is made.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Callable, Collection, Mapping, Sequence

from ..converge.errors import InputError, Problem, nearest, shown, unknown
from ..kvm.layout import valid_name
from ..units import UnitError, format_size, parse_size

ENGINES = ("ioctl",)
DEFAULT_ENGINE = "libvirt"  # what a fleet means by a guest; nothing here implements it yet

PRESENT = "present"
RUNNING = "running"
STOPPED = "stopped"
RESTARTED = "restarted"
ABSENT = "absent"
STATES = (PRESENT, RUNNING, STOPPED, RESTARTED, ABSENT)

LOG_DEFAULTS = {"max_size": "1MiB", "keep": 3}
DEFAULTS: dict[str, Any] = {
    "memory": "128MiB",
    "vcpus": 1,
    "initrd": "",
    "cmdline": "",
    "autostart": False,
    "log": LOG_DEFAULTS,
    "protected": False,
}
KEYS = ("name", "engine", "state", "kernel", *DEFAULTS)
ORDER = ("name", "engine", "kernel", *DEFAULTS)  # of a whole spec, as it is stored and shown

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
    engines: tuple[str, ...] = ENGINES


@dataclass(frozen=True)
class Declared:
    """One guest as the user wants it.

    ``path`` is where it stands in the input; ``stated`` holds the keys of a spec that were stated.
    """

    name: str
    path: str
    state: str = RUNNING
    stated: dict[str, Any] = field(default_factory=dict)


def digest(spec: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a spec's canonical JSON, in hex."""
    text = json.dumps(spec, sort_keys=True, separators=(",", ":"))
    return sha256(text.encode()).hexdigest()


def complete(stated: Mapping[str, Any], base: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the whole spec: what was stated, over ``base`` or over the defaults."""
    spec = dict(DEFAULTS if base is None else base)
    spec.update(stated)
    below = LOG_DEFAULTS if base is None else base.get("log", LOG_DEFAULTS)
    spec["log"] = {**below, **stated.get("log", {})}
    return {key: spec[key] for key in ORDER if key in spec}


class _Reader:
    """Reads one entry of the list, collecting what is wrong with it."""

    def __init__(self, limits: Limits, problems: list[Problem]) -> None:
        self.limits = limits
        self.problems = problems

    def unlimited(self) -> _Reader:
        """Return a reader into the same problems that knows no limits of this host."""
        limits = Limits(programs=self.limits.programs, engines=self.limits.engines)
        return _Reader(limits, self.problems)

    def refuse(self, path: str, expected: str, found: object, remedy: str | None = None) -> None:
        """Note a problem."""
        self.problems.append(Problem(path, expected, shown(found), remedy))

    def known(self, path: str, entry: Mapping[Any, Any], keys: Sequence[str]) -> None:
        """Refuse every key of ``entry`` that is not one of ``keys``."""
        for key in entry:
            if key not in keys:
                text = key if isinstance(key, str) and key.isprintable() else shown(key)
                self.problems.append(unknown(f"{path}.{text[:64]}", key, "a known key", keys))

    def flag(self, path: str, value: object) -> bool:
        """Return a truth value."""
        if not isinstance(value, bool):
            self.refuse(path, "true or false", value)
        return bool(value)

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
            self.refuse(path, "text", value, "quote it" if _quotable(value) else None)
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
        """Return an absolute path, or one of the reserved words."""
        before = len(self.problems)
        name = self.text(path, value, MAX_PATH)
        if len(self.problems) > before or name in words or name.startswith("/"):
            return name
        known = "an absolute path"
        if words:
            known += " or one of " + ", ".join(words)
        guess = nearest(name, words)
        self.refuse(path, known, name, f"did you mean {guess}?" if guess else None)
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
        """Return the kernel's path or reserved word."""
        return self.file(path, value, self.limits.programs)

    def initrd(self, path: str, value: object) -> str:
        """Return the initrd's path; empty for none."""
        return "" if value == "" else self.file(path, value, ())

    def cmdline(self, path: str, value: object) -> str:
        """Return the kernel's command line; empty for none."""
        return self.text(path, value, MAX_CMDLINE)

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

    def engine(self, path: str, entry: Mapping[Any, Any], state: str) -> str | None:
        """Return the engine; a guest to be removed is found whatever its engine is."""
        if "engine" not in entry and state == ABSENT:
            return None
        engines = self.limits.engines
        value = entry.get("engine", DEFAULT_ENGINE)
        if isinstance(value, str) and value in engines:
            return value
        expected = f"an engine that is implemented ({', '.join(engines)})"
        if "engine" not in entry:
            remedy = f"state engine: {engines[0]}"
            self.problems.append(
                Problem(f"{path}.engine", expected, f"nothing, which means {value}", remedy)
            )
        else:
            self.refuse(f"{path}.engine", expected, value)
        return None

    def state(self, path: str, entry: Mapping[Any, Any]) -> str:
        """Return the state that is asked for."""
        value = entry.get("state", RUNNING)
        if isinstance(value, str) and value in STATES:
            return value
        self.problems.append(unknown(f"{path}.state", value, "a state", STATES))
        return RUNNING

    def name(self, path: str, entry: Mapping[Any, Any]) -> str | None:
        """Return the guest's name, None where there is none that can be used."""
        if "name" not in entry:
            self.problems.append(Problem(f"{path}.name", "a name", "nothing"))
            return None
        value = entry["name"]
        if valid_name(value):
            return str(value)
        expected = "an RFC 1123 label (1 to 63 of a-z, 0-9 and -, neither first nor last a hyphen)"
        self.refuse(f"{path}.name", expected, value, "quote it" if _quotable(value) else None)
        return None

    def read(self, path: str, entry: object) -> Declared | None:
        """Return what an entry declares, None where it has no usable name."""
        if not isinstance(entry, Mapping):
            self.refuse(path, "a mapping that describes a guest", entry)
            return None
        self.known(path, entry, KEYS)
        name = self.name(path, entry)
        state = self.state(path, entry)
        # A guest can be removed on a host that has become too small for it.
        keys = self.unlimited() if state == ABSENT else self
        stated: dict[str, Any] = {"name": name}
        engine = self.engine(path, entry, state)
        if engine is not None:
            stated["engine"] = engine
        for key in ("kernel", *DEFAULTS):
            if key in entry:
                read: Callable[[str, object], Any] = getattr(keys, key, keys.flag)
                stated[key] = read(f"{path}.{key}", entry[key])
        return None if name is None else Declared(name, path, state, stated)


def _quotable(value: object) -> bool:
    """Return whether YAML probably made a number or a truth value of a word."""
    return isinstance(value, (bool, int, float))


def read(
    entries: Sequence[object],
    limits: Limits,
    existing: Collection[str] = (),
    root: str = "guests",
) -> list[Declared]:
    """Return what the list declares; InputError with every problem in it, none of them acted on.

    What is not among the ``existing`` guests is new and needs a kernel.
    """
    problems: list[Problem] = []
    reader = _Reader(limits, problems)
    declared: list[Declared] = []
    first: dict[str, str] = {}
    for number, entry in enumerate(entries):
        guest = reader.read(f"{root}[{number}]", entry)
        if guest is None:
            continue
        if guest.name in first:
            where = f"{first[guest.name]}.name"
            found = f"{shown(guest.name)}, which {where} has already"
            problems.append(Problem(f"{guest.path}.name", "a name of its own", found))
        elif guest.state != ABSENT and guest.name not in existing and "kernel" not in guest.stated:
            expected = "the kernel of a guest that is not there yet"
            problems.append(Problem(f"{guest.path}.kernel", expected, "nothing"))
        first.setdefault(guest.name, guest.path)
        declared.append(guest)
    if problems:
        raise InputError(problems)
    return declared
