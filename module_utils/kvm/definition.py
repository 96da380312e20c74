# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A guest's definition as it lies on the host, read and checked before anything is opened.

What the devices stand on is checked by those that open it (attach.py).
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Mapping, NamedTuple

from .errors import ConfigError, InputFileError
from .layout import FIRST_UID, UID_MASK, GuestPaths, read_untrusted

if TYPE_CHECKING:
    from collections.abc import Collection

_LIMIT = 256 * 1024  # bytes
MINIMUM_LOG = 4096  # bytes
_LEAST_VALUES = (("memory", 1), ("vcpus", 1), ("log_max_size", MINIMUM_LOG), ("log_keep", 0))
_LAST_UID = FIRST_UID | UID_MASK
_STOP_TIMEOUT = 30.0  # seconds
_LONGEST_STOP = 1_000_000
_LONGEST_WATCH = 2000  # seconds that the watchdog's counters hold
_CPUS = re.compile(r"(\^?)([0-9]{1,4})(?:-([0-9]{1,4}))?", re.ASCII)
_MOST_CPUS = 8192  # of any Linux (NR_CPUS)


def integer(message: Mapping[str, Any], key: str, least: int) -> int:
    """Return a whole number of at least ``least``; ValueError, or KeyError where it is missing."""
    value = message[key]
    if type(value) is not int or value < least:
        raise ValueError(f"{key} must be a whole number of at least {least}")
    return value


def choice(message: Mapping[str, Any], key: str, default: str, allowed: Collection[str]) -> str:
    """Return one of the allowed words; ValueError for another."""
    value = message.get(key) or default
    if value not in allowed:
        raise ValueError(f"{key} must be one of {', '.join(allowed)}, found {value!r}")
    return str(value)


def mapping(message: Mapping[str, Any], key: str, known: Collection[str]) -> Mapping[str, Any]:
    """Return a mapping, empty where there is none; ValueError for a key that is not known."""
    value = message.get(key) or {}
    if not isinstance(value, dict):
        raise TypeError(f"{key} must be a mapping")
    unknown = sorted(set(value) - set(known))
    if unknown:
        raise ValueError(f"{key} has no {', '.join(map(str, unknown))}")
    return value


def cpu_list(text: object) -> frozenset[int]:
    """Read ``0-3,8,^2`` as the CPUs that it names; ValueError if it is none."""
    found: set[int] = set()
    for part in str(text).split(","):
        matched = _CPUS.fullmatch(part.strip())
        first, last = (matched[2], matched[3] or matched[2]) if matched else (1, 0)
        numbers = range(int(first), int(last) + 1)
        if not matched or not numbers or numbers[-1] >= _MOST_CPUS:
            raise ValueError(f"expected CPUs such as 0-3,8,^2, found {text!r}")
        if matched[1]:
            found.difference_update(numbers)
        else:
            found.update(numbers)
    if not found:
        raise ValueError(f"{text!r} names no CPU")
    return frozenset(found)


class Tuning(NamedTuple):
    """Where the threads run: CPUs by vCPU and of all other threads, and how nice all are."""

    vcpu_pins: Mapping[int, frozenset[int]]
    emulator_pin: frozenset[int] | None
    nice: int


class Life(NamedTuple):
    """How a guest lives and ends; times in seconds.

    ``watch_from_start`` is None without a watchdog, and 0 where only a driver starts it.
    """

    restarts: bool
    stop_timeout: float
    watch_from_start: float | None
    watchdog_resets: bool
    tuning: Tuning


def _tuning(machine: Mapping[str, Any]) -> Tuning:
    tuning = mapping(machine, "cpu_tuning", ("vcpu_pins", "emulator_pin", "nice"))
    pins = {}
    for key, value in mapping(tuning, "vcpu_pins", tuning.get("vcpu_pins") or ()).items():
        if not str(key).isdigit() or int(key) >= machine["vcpus"]:
            raise ValueError(f"vcpu_pins names vCPU {key!r}, the guest has {machine['vcpus']}")
        pins[int(key)] = cpu_list(value)
    emulator = tuning.get("emulator_pin")
    nice = tuning.get("nice") or 0
    if type(nice) is not int or not -20 <= nice <= 19:
        raise ValueError("nice must be a whole number from -20 to 19")
    return Tuning(pins, None if emulator is None else cpu_list(emulator), nice)


def _seconds(message: Mapping[str, Any], key: str, default: float, most: float) -> float:
    value = message.get(key)
    if value is None:
        value = default
    if type(value) not in {int, float} or not 0 <= value <= most:
        raise ValueError(f"{key} must be a number of seconds from 0 to {most}")
    return float(value)


def life(machine: Mapping[str, Any]) -> Life:
    """Return how the guest lives; ValueError or TypeError where its words are wrong."""
    watchdog = mapping(machine, "watchdog", ("timeout", "action"))
    return Life(
        choice(machine, "on_reboot", "stop", ("restart", "stop")) == "restart",
        _seconds(machine, "stop_timeout", _STOP_TIMEOUT, _LONGEST_STOP),
        _seconds(watchdog, "timeout", 0.0, _LONGEST_WATCH)
        if machine.get("watchdog") is not None
        else None,
        choice(watchdog, "action", "reset", ("reset", "stop")) == "reset",
        _tuning(machine),
    )


def _check(definition: dict[str, Any], name: str) -> None:
    """Raise ValueError, or KeyError for what is missing, unless the guest can be built."""
    if definition["name"] != name:
        raise ValueError(f"it is of the guest {definition['name']!r}")
    machine = definition["machine"]
    for key, least in _LEAST_VALUES:
        integer(machine, key, least)
    if not FIRST_UID <= integer(machine, "uid", 0) <= _LAST_UID:
        raise ValueError(f"uid {machine['uid']} is not a guest's")
    for key in ("kernel", "cmdline", "initrd"):
        may_be_null = key == "initrd" and machine[key] is None
        if not may_be_null and not isinstance(machine[key], str):
            raise TypeError(f"{key} must be text")
    life(machine)


def read_definition(paths: GuestPaths) -> dict[str, Any]:
    """Return the guest's definition; InputFileError if there is none, ConfigError if it is bad."""
    try:
        definition = json.loads(read_untrusted(paths.definition, _LIMIT).decode())
        _check(definition, paths.name)
    except OSError as error:
        raise InputFileError(
            f"there is no guest {paths.name}: {error.strerror or error}"
        ) from error
    except KeyError as error:
        raise ConfigError(f"{paths.definition} lacks {error}") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise ConfigError(f"{paths.definition} is not a guest's definition: {error}") from error
    return definition  # type: ignore[no-any-return]
