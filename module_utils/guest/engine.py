# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every engine offers, and the shape in which it shows guests and its host.

An engine reads (`observe`), says what could not work (`preflight`) and carries out what was planned
(`apply`). It plans nothing and compares nothing: that is done once, in plan.py, for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ContextManager, Mapping, Protocol, Sequence

if TYPE_CHECKING:
    from ..converge.action import Action
    from ..converge.errors import Problem
    from .spec import Limits

RUNNING = "running"
STOPPED = "stopped"
FAILED = "failed"  # it ended by itself, and not well

# The keys that a running guest keeps until it is started anew.
BOOT_KEYS = ("memory", "vcpus", "kernel", "initrd", "cmdline")


@dataclass(frozen=True)
class Observed:
    """One guest as it is.

    ``spec`` is its definition, None where a process of that name runs without one. ``machine`` is
    what the next start boots and ``booted`` what the running guest was started with, both by
    `BOOT_KEYS` with the kernel as a file. ``problem`` says why what lies there must not be touched.
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


@dataclass(frozen=True)
class Host:
    """What planning must know of the host.

    ``name`` is its inventory name, ``kernel`` the file of the kernel that it runs itself,
    ``helper`` the digest of the installed helper (None: there is none), ``supervised`` whether
    something there starts guests at boot.
    """

    name: str
    kernel: str
    helper: str | None = None
    supervised: bool = False


@dataclass(frozen=True)
class Failure:
    """An action that could not be carried out."""

    action: Action
    message: str


class Engine(Protocol):
    """One way to run guests on a host."""

    name: str

    def host(self, name: str) -> Host:
        """Return the facts of this host, under its inventory name."""

    def limits(self) -> Limits:
        """Return what this host allows a guest to have."""

    def observe(self) -> dict[str, Observed]:
        """Return every guest of this engine on this host, by name; reads only."""

    def console(self, name: str, limit: int) -> bytes:
        """Return the last ``limit`` bytes of a guest's console at most; written by the guest."""

    def status(self, name: str) -> dict[str, Any] | None:
        """Return what a running guest says of itself, None where it does not answer."""

    def preflight(
        self, actions: Sequence[Action], specs: Mapping[str, Mapping[str, Any]], *, check_mode: bool
    ) -> list[Problem]:
        """Return why actions of the plan could not work; reads only.

        The path of a problem with a guest begins with its name. In check mode, what an earlier task
        of the same run would install may be missing.
        """

    def unfinished(self) -> bool:
        """Return whether an interrupted run left something that `session` clears away."""

    def session(self) -> ContextManager[None]:
        """Hold this host against other runs, and clear away what an interrupted one left."""

    def apply(
        self, actions: Sequence[Action], specs: Mapping[str, Mapping[str, Any]]
    ) -> list[Failure]:
        """Carry out the actions of one step, and return those that failed.

        ``specs`` holds, by name, the whole spec of each guest that is created, updated or started.
        """
