# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every engine offers, and the shape in which it shows guests and its host.

An engine reads (`observe`), says what could not work (`preflight`) and carries out what was planned
(`apply`). It plans nothing: that is done once, in plan.py, for all of them. What its guests are
made of is its `Dialect`, which is pure: it checks input and finds differences.
"""

from __future__ import annotations

from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Collection,
    Iterable,
    Mapping,
    NamedTuple,
    Protocol,
    Sequence,
)

if TYPE_CHECKING:
    from ..converge.action import Action, Change, Edit
    from ..converge.errors import Problem
    from .spec import Declared

RUNNING = "running"
STOPPED = "stopped"
PAUSED = "paused"
SAVED = "saved"  # stopped, with its memory kept
FAILED = "failed"  # it ended by itself, and not well

ACTIVE = (RUNNING, PAUSED)

NAME = "name"  # the path of the change by which a guest gets another name

# The keys that a running guest of the helper keeps until it is started anew.
BOOT_KEYS = (
    *("memory", "vcpus", "kernel", "initrd", "cmdline"),
    *("disks", "nics", "pmem", "shares", "console", "vsock", "watchdog", "rng", "balloon"),
    *("memory_backing", "cpu_tuning", "on_reboot", "seed"),
)


class Observed(NamedTuple):
    """One guest as it is.

    ``spec`` is its definition, None where a process of that name runs without one. ``machine`` is
    what the next start boots and ``booted`` what the running guest was started with, both by
    `BOOT_KEYS` with kernel and initrd as files. ``problem`` says why what lies there must not be
    touched. ``owned`` is whether this toolkit made it or took it over, ``files`` are disks that go
    with it if that is asked for, and ``detail`` is what only its engine reads.
    """

    name: str
    engine: str
    state: str = STOPPED
    spec: dict[str, Any] | None = None
    digest: str = ""
    fleet: str = ""
    uuid: str = ""
    machine: dict[str, Any] | None = None
    booted: dict[str, Any] | None = None
    pid: int | None = None
    uptime: float | None = None
    helper: str | None = None
    exit: dict[str, Any] | None = None
    problem: str | None = None
    remedy: str | None = None
    owned: bool = True
    files: tuple[str, ...] = ()
    detail: Any = None


def describe(seen: Observed) -> dict[str, Any]:
    """Return a guest as plain values."""
    return {
        "name": seen.name,
        "engine": seen.engine,
        "state": seen.state,
        "spec": seen.spec,
        "digest": seen.digest,
        "fleet": seen.fleet,
        "owned": seen.owned,
        "adoptable": not seen.owned and seen.problem is None,
        "uuid": seen.uuid,
        "pid": seen.pid,
        "uptime": seen.uptime,
        "exit": seen.exit,
        "autostart": bool((seen.spec or {}).get("autostart")),
        "helper": seen.helper,
        "restart_required": seen.booted is not None and seen.booted != seen.machine,
        "problem": seen.problem,
    }


def brief(seen: Observed) -> dict[str, Any]:
    """Return a guest as it is, its size instead of its definition: there may be hundreds."""
    guest = describe(seen)
    spec = guest.pop("spec") or {}
    return {**guest, **{key: spec.get(key) for key in ("vcpus", "memory", "max_memory")}}


def _no_image(_: str) -> None:
    return None


class Host(NamedTuple):
    """What planning must know of the host.

    ``name`` is its inventory name, ``kernel`` the file of the kernel that it runs itself,
    ``helper`` the digest of the installed helper (None: there is none), ``supervised`` whether
    something there starts the helper's guests at boot, ``image`` the file of an image by its name.
    """

    name: str
    kernel: str
    helper: str | None = None
    supervised: bool = False
    image: Callable[[str], str | None] = _no_image


class Differences(NamedTuple):
    """What differs between what was stated and a guest that is there.

    ``edits`` are to be made. ``restart`` is what a running guest has not taken over even then, and
    takes over by being started anew. ``refused`` are, each with its remedy, the reasons why what
    was stated cannot be made of it.
    """

    edits: tuple[Edit, ...] = ()
    restart: tuple[Change, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()


class Failure(NamedTuple):
    """An action that could not be carried out."""

    action: Action
    message: str


def former_name(actions: Iterable[Action]) -> str | None:
    """Return the name that a guest has until these actions give it another, None where none do."""
    changes = (change for action in actions for change in action.changes)
    return next((str(change.before) for change in changes if change.path == NAME), None)


class Dialect(Protocol):
    """How the guests of one engine are declared on one host. Pure."""

    @property
    def engine(self) -> str:
        """The engine's name."""

    @property
    def states(self) -> Sequence[str]:
        """The states that can be asked for."""

    @property
    def keys(self) -> Sequence[str]:
        """Every key that an entry may have."""

    @property
    def autostarts(self) -> bool:
        """Whether something there starts guests when the host boots."""

    def read(
        self,
        entry: Mapping[Any, Any],
        path: str,
        problems: list[Problem],
        *,
        new: bool,
        removed: bool,
    ) -> dict[str, Any]:
        """Return the engine's own keys of an entry in canonical form, and add its problems.

        ``new`` is a guest that is not there yet, ``removed`` one that shall go.
        """

    def complete(self, stated: Mapping[str, Any], seen: Observed | None) -> dict[str, Any]:
        """Return the whole spec for `Engine.apply`: of a new guest, or of the one that is there."""

    def masked(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """Return a spec as it may be shown."""

    def differences(self, stated: Mapping[str, Any], seen: Observed) -> Differences:
        """Return what differs from a guest that is there."""


class Engine(Protocol):
    """One way to run guests on a host.

    ``warnings`` are what a user should know of a plan that is none of its problems.
    """

    name: str
    warnings: list[str]

    def host(self, name: str) -> Host:
        """Return the facts of this host, under its inventory name."""

    def dialect(self) -> Dialect:
        """Return how guests are declared on this host."""

    def observe(self, names: Collection[str] | None = None) -> dict[str, Observed]:
        """Return the guests of this engine on this host by name; reads only.

        All of them, or at least those of the names.
        """

    def capabilities(self) -> dict[str, Any]:
        """Return what the engine can do here, as plain values."""

    def room(self) -> dict[str, Any] | None:
        """Return what this host has for guests, None where the engine cannot say."""

    def console(self, name: str, limit: int) -> bytes:
        """Return the last ``limit`` bytes of a guest's console at most; written by the guest."""

    def status(self, name: str) -> dict[str, Any] | None:
        """Return what a running guest says of itself, None where it does not answer."""

    def running(self, seen: Observed) -> tuple[dict[str, Any] | None, bool]:
        """Return the definition that a guest runs with, None where that is not known.

        And whether it differs from what the guest would be started with.
        """

    def addresses(self, name: str) -> list[str]:
        """Return the addresses of a running guest, as far as they are known."""

    def preflight(
        self, actions: Sequence[Action], specs: Mapping[str, Mapping[str, Any]], *, check_mode: bool
    ) -> list[Problem]:
        """Return why actions of the plan could not work; reads only.

        The path of a problem with a guest begins with its name. In check mode, what an earlier task
        of the same run would install may be missing.
        """

    def unfinished(self) -> bool:
        """Return whether an interrupted run left something that `sweep` clears away."""

    def sweep(self) -> None:
        """Clear away what an interrupted run left; the host is held against other runs."""

    def apply(
        self, actions: Sequence[Action], specs: Mapping[str, Mapping[str, Any]]
    ) -> list[Failure]:
        """Carry out the actions of one step, and return those that failed.

        ``specs`` holds, by name, the whole spec of each guest that is created, updated or started.
        """

    def close(self) -> None:
        """Let go of what was opened."""

    def settle(self, guests: Sequence[Declared]) -> Mapping[str, str]:
        """Wait for what is asked of the guests; return the reason for each that is not there."""
