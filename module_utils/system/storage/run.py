# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""All facets in order: surveyed as a whole first, then each is looked at again and carried out.

The survey is the plan that check mode shows, and a refusal in it stops everything before anything
is touched. A facet is planned again when its turn comes, because a session may have brought disks.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Callable, Mapping, Sequence

from ...converge.errors import InputError, VirtfleetError
from ..operation import Executor, OperationError
from ..outcome import Outcome, join
from . import folders, iscsi, lvm, mounting, multipath
from .facet import Checker, Context, System
from .groups import GroupWish, parse_groups
from .iscsi_wish import Wish as IscsiWish
from .iscsi_wish import parse as parse_iscsi
from .mount_wish import Wish as MountWish
from .mount_wish import parse as parse_mounts
from .mount_wish import parse_timeout

if TYPE_CHECKING:
    from ...converge.action import Blocked

Facet = Callable[[Context], Outcome]
Probe = Callable[[str, int], bool]  # a host and a TCP port → whether it answers
_PROBE_SECONDS = 3


@dataclass(frozen=True)
class Storage:
    """All that is declared."""

    folders: tuple[folders.Wish, ...] = ()
    groups: tuple[GroupWish, ...] = ()
    mounts: tuple[MountWish, ...] = ()
    iscsi: IscsiWish = field(default_factory=IscsiWish)
    multipath: multipath.Wish = field(default_factory=multipath.Wish)


class RefusedError(VirtfleetError):
    """Something was asked for that would lose data or cannot be; ``blocked`` says what."""

    def __init__(self, blocked: Sequence[Blocked]) -> None:
        lines = [f"{item.object}: {item.reason}: {item.remedy}" for item in blocked]
        super().__init__("\n".join(lines), blocked=[item.to_dict() for item in blocked])


def parse(params: Mapping[str, Any]) -> Storage:
    """Return what the module's parameters declare; InputError with all that is wrong in them."""
    check = Checker()
    timeout = check.parsed("timeout", params["timeout"], parse_timeout, 30)
    storage = Storage(
        folders.parse(params["directories"], "directories", check),
        tuple(parse_groups(params["volume_groups"], "volume_groups", check)),
        parse_mounts(params["mounts"], timeout, "mounts", check),
        parse_iscsi(params["iscsi"], timeout, "iscsi", check),
        multipath.parse(params["multipath"], "multipath", check),
    )
    if check.problems:
        raise InputError(check.problems)
    return storage


def facets(storage: Storage, system: System, *, absent: bool) -> list[Facet]:
    """Return the facets in the order of their turn, each reading the host and planning."""
    found: list[Facet] = [
        lambda context: iscsi.plan(storage.iscsi, iscsi.observe(system, storage.iscsi), context),
        lambda context: multipath.plan(
            storage.multipath, multipath.observe(system, storage.multipath), context
        ),
        lambda context: lvm.plan_all_groups(
            storage.groups, lvm.observe(system, storage.groups), context
        ),
        lambda context: lvm.plan_all_pools(
            storage.groups, lvm.observe(system, storage.groups), context
        ),
        lambda context: mounting.plan(
            storage.mounts, mounting.observe(system, storage.mounts), context
        ),
        lambda context: folders.plan(
            storage.folders, folders.observe(system, storage.folders), context
        ),
    ]
    return found[::-1] if absent else found


def survey(
    turns: Sequence[Facet], host: str, *, absent: bool = False, remove_data: bool = False
) -> Outcome:
    """Return what all facets would do, without doing it; RefusedError if one of them must not."""
    outcomes: list[Outcome] = []
    for turn in turns:
        expecting = any(outcome.steps for outcome in outcomes)
        outcomes.append(turn(Context(host, absent, remove_data, expecting)))
    found = join(outcomes)
    if found.blocked:
        raise RefusedError(found.blocked)
    return found


def reachable(host: str, port: int) -> bool:
    """Say whether a server answers on a TCP port within seconds."""
    try:
        socket.create_connection((host, port), _PROBE_SECONDS).close()
    except OSError:
        return False
    return True


class Applier:
    """Carries out one facet after the other."""

    def __init__(self, system: System, storage: Storage, probe: Probe = reachable) -> None:
        self._system = system
        self._units = {wish.unit: wish for wish in storage.mounts}
        self._nodes = {node.argv: node for node in storage.iscsi.nodes}
        self._probe = probe

    def apply(
        self,
        turns: Sequence[Facet],
        host: str,
        *,
        absent: bool = False,
        remove_data: bool = False,
    ) -> Outcome:
        """Return what was done; RefusedError or OperationError where it ended."""
        executor = Executor(self._system.root, self._system.run)
        outcomes = []
        for turn in turns:
            outcome = turn(Context(host, absent, remove_data))
            if outcome.blocked:
                raise RefusedError(outcome.blocked)
            try:
                executor.apply(outcome.steps)
            except OperationError as error:
                raise self._explained(error) from error
            outcomes.append(outcome)
        return join(outcomes)

    def _explained(self, error: OperationError) -> VirtfleetError:
        """Return the failure of a mount or a login in words that name it; any other as it is."""
        argv = error.data.get("argv") or [""]
        node = self._nodes.get(tuple(argv[2:-1]))
        if node is not None and not self._probe(node.address, node.port):
            return OperationError(
                f"no login at {node.target}: "
                f"{node.portal} does not answer within {_PROBE_SECONDS}s",
                remedy="its record is written: run again when the portal is there",
                target=node.target,
            )
        wish = self._units.get(argv[-1])
        if wish is None:
            return error
        if "stop" in argv:
            return OperationError(
                f"{wish.path} cannot be unmounted",
                remedy=f"stop what uses it (fuser --mount {wish.path}), then run again",
                mount=wish.path,
            )
        return OperationError(
            f"{wish.source} was not mounted at {wish.path}: {self._why(wish)}",
            remedy="it is in fstab: run again when that is put right",
            mount=wish.path,
        )

    def _why(self, wish: MountWish) -> str:
        if wish.server is not None and not self._probe(*wish.server):
            host, port = wish.server
            return f"{host} does not answer on TCP port {port} within {_PROBE_SECONDS}s"
        argv = ["systemctl", "show", "--property", "Result", "--value", wish.unit]
        if self._system.run(argv)[1].strip() == "timeout":
            return f"it took longer than {wish.timeout}s"
        argv = ["journalctl", "--unit", wish.unit, "--lines", "5", "--output", "cat", "--no-pager"]
        said = [line for line in self._system.run(argv)[1].splitlines() if "mount" in line]
        return " ".join(said[-3:]) or f"see journalctl --unit {wish.unit}"
