# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""iSCSI sessions of open-iscsi, logged in now and at every boot.

Secrets must not stand on a command line, as ``iscsiadm -o update -v`` would have it: the records
of the node database, files for root alone, are written directly. A record that states only what
differs is whole, since iscsiadm(8) fills in the defaults as it reads; what else an existing one
says is kept. Portals of IPv6 are written in brackets on command lines, without in the database.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Iterator, Mapping, Sequence

from ...converge.action import LIVE, NEXT_BOOT, Change
from ...host import source
from ..operation import Operation, Run, Step, Write
from ..outcome import Outcome, join
from ..own_files import MARK
from .facet import HIDDEN, INITIATOR, RECORD, SESSION, Context, System
from .held import holders
from .iscsi_wish import AUTH, Node, Wish

if TYPE_CHECKING:
    from ..operation import Runner

INITIATOR_FILE = "/etc/iscsi/initiatorname.iscsi"
_PRIVATE = 0o600
_SESSION = re.compile(r"^tcp: \[([0-9]+)\] \[?([^\]\s]+?)\]?:([0-9]+),\S+ (\S+)", re.MULTILINE)
_SECRETS = frozenset({f"{AUTH}password", f"{AUTH}password_in"})


@dataclass(frozen=True)
class Found:
    """What is on the host; records are (path, text) by the node's place."""

    initiator: str | None = None
    records: Mapping[tuple[str, str, int], tuple[str, str]] = field(
        default_factory=dict, repr=False
    )
    sessions: Mapping[tuple[str, str, int], str] = field(default_factory=dict)  # place → number
    holders: Mapping[tuple[str, str, int], tuple[str, ...]] = field(default_factory=dict)
    enabled: bool = False


def new_path(wish: Wish, node: Node) -> str:
    """Return where iscsiadm(8) keeps the record of a node that no discovery has found."""
    return f"{wish.database}/nodes/{node.target}/{node.address},{node.port}"


def _record(root: str, wish: Wish, node: Node) -> tuple[str, str] | None:
    """Return path and text of a node's record: a file, or one in a folder with the group's tag."""
    folder, _, name = new_path(wish, node).rpartition("/")
    for entry in source.names(root, folder) or []:
        if entry != name and not entry.startswith(f"{name},"):
            continue
        for path in (f"{folder}/{entry}/default", f"{folder}/{entry}"):
            text = source.text(root, path)
            if text is not None:
                return path, text
    return None


def sessions(run: Runner) -> dict[tuple[str, str, int], str]:
    """Return the number of the session of each (target, address, port)."""
    _, out, _ = run(["iscsiadm", "--mode", "session"])  # 21: none; 127: not installed yet
    return {
        (match.group(4), match.group(2), int(match.group(3))): match.group(1)
        for match in _SESSION.finditer(out)
    }


def observe(system: System, wish: Wish) -> Found:
    """Return what there is of iSCSI on the host; nothing is read without a wish."""
    if wish.initiator is None and not wish.nodes:
        return Found()
    name = None
    for line in (source.text(system.root, INITIATOR_FILE) or "").splitlines():
        key, _, value = line.partition("=")
        name = value.strip() if key.strip() == "InitiatorName" else name
    records = {node.place: _record(system.root, wish, node) for node in wish.nodes}
    known = sessions(system.run) if wish.nodes else {}
    status, _, _ = system.run(["systemctl", "is-enabled", "--quiet", wish.service])
    return Found(
        name,
        {place: record for place, record in records.items() if record is not None},
        known,
        {
            node.place: holders(system.root, known[node.place])
            for node in wish.nodes
            if node.place in known
        },
        status == 0,
    )


def settings_of(text: str) -> dict[str, str]:
    """Return what a record says."""
    pairs = (line.partition("=") for line in text.splitlines() if not line.startswith("#"))
    return {key.strip(): value.strip() for key, mark, value in pairs if mark}


def amended(text: str, settings: Mapping[str, str]) -> str:
    """Return a record's text with these settings, and all else as it was."""
    end = "# END RECORD"
    kept = [
        line
        for line in text.splitlines()
        if line.partition("=")[0].strip() not in settings and line.strip() != end
    ]
    lines = kept or [MARK.rstrip(), "# BEGIN RECORD"]
    return "\n".join([*lines, *(f"{key} = {value}" for key, value in settings.items()), end, ""])


def _changes(settings: Mapping[str, str], current: Mapping[str, str]) -> Iterator[Change]:
    for key, value in settings.items():
        before = current.get(key)
        if before != value and key in _SECRETS:
            yield Change(key, None if before is None else HIDDEN, f"{HIDDEN}, differs")
        elif before != value:
            yield Change(key, before, value)


def _initiator(wish: Wish, found: Found, context: Context) -> Outcome:
    if wish.initiator is None or wish.initiator == found.initiator:
        return Outcome()
    action = context.action(
        INITIATOR,
        "iscsi/initiator",
        "update" if found.initiator else "create",
        "its name differs" if found.initiator else "it has no name",
        [Change("name", found.initiator, wish.initiator)],
    )
    operations = (
        Write(INITIATOR_FILE, f"{MARK}InitiatorName={wish.initiator}\n", _PRIVATE),
        Run(("systemctl", "try-restart", "iscsid.service")),
    )
    return Outcome((Step(action, operations),))


def _login(wish: Wish, node: Node, found: Found, context: Context) -> Outcome:
    """Return what makes the record right, and logs in where there is no session."""
    steps = []
    path, text = found.records.get(node.place, (new_path(wish, node), ""))
    changes = list(_changes(node.settings, settings_of(text)))
    logged_in = node.place in found.sessions
    name = f"iscsi/{node.target}@{node.portal}"
    if changes:
        action = context.action(
            RECORD,
            name,
            "update" if text else "create",
            "its record differs" if text else "it has no record",
            changes,
            when=NEXT_BOOT if logged_in else LIVE,
        )
        content = amended(text, node.settings)
        steps.append(Step(action, (Write(path, content, _PRIVATE),)))
    if not logged_in:
        action = context.action(
            SESSION, name, "attach", "there is no session", [Change("session", None, "logged in")]
        )
        # iscsiadm(8) would wait for minutes on a portal that is away.
        operations = (
            Run(("timeout", str(wish.timeout), *node.argv, "--login")),
            Run(("udevadm", "settle", "--timeout=30")),
        )
        steps.append(Step(action, operations))
    return Outcome(tuple(steps))


def _logout(node: Node, found: Found, context: Context) -> Outcome:
    """Return what ends the session and takes the record away; refused while a disk is in use."""
    name = f"iscsi/{node.target}@{node.portal}"
    used = found.holders.get(node.place, ())
    if used and not context.expecting:
        remedy = "free its disks, or let kvm_storage_remove_data remove the volume group on them"
        return Outcome(blocked=(context.blocked(name, "; ".join(used), remedy),))
    steps = []
    if node.place in found.sessions:
        action = context.action(
            SESSION, name, "detach", "it shall be absent", [Change("session", "logged in", None)]
        )
        steps.append(Step(action, (Run((*node.argv, "--logout")),)))
    if node.place in found.records:
        action = context.action(
            RECORD, name, "delete", "it shall be absent", [Change("record", "present", None)]
        )
        steps.append(Step(action, (Run((*node.argv, "--op", "delete")),)))
    return Outcome(tuple(steps))


def _service(wish: Wish, found: Found, context: Context) -> Outcome:
    """Return what has the sessions come back at boot."""
    if found.enabled or not wish.nodes:
        return Outcome()
    name = f"service/{wish.service}"
    changes = [Change("enabled", False, True)]
    action = context.action(
        INITIATOR, name, "update", "it logs in at boot", changes, when=NEXT_BOOT
    )
    operation: Operation = Run(("systemctl", "enable", wish.service))
    return Outcome((Step(action, (operation,)),))


def plan(wish: Wish, found: Found, context: Context) -> Outcome:
    """Return what is to be done; the host's name stays on the way back, others may rely on it."""
    if context.absent:
        return join([_logout(node, found, context) for node in wish.nodes])
    each: Sequence[Outcome] = [_login(wish, node, found, context) for node in wish.nodes]
    return join([_initiator(wish, found, context), _service(wish, found, context), *each])
