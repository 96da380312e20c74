# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""From what was asked for and what there is to a change: actions, and operations with a way back.

A change has three lists. ``apply`` touches only what a reboot forgets; ``persist`` writes the files
once the host has answered over its new network; ``rollback`` undoes both.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Mapping, Sequence

from ...converge.action import LIVE, NEXT_BOOT, Action, Blocked, Change
from ...converge.errors import InputError
from ..operation import Write
from . import live as live_plan
from . import outstanding, removal, snapshot
from .backend import Foreign
from .checks import Facts, claimed, foreign_problems, problems
from .ledger import PATH as LEDGER
from .ledger import Ledger
from .observe import Live
from .order import ordered
from .spec import ABSENT, BOND, BRIDGE, ETHERNET, PRESENT, Interface
from .undertaking import Undertaking

if TYPE_CHECKING:
    from ...converge.action import Pending
    from ..operation import Operation
    from .backend import Backend, Edits, File
    from .part import Part


@dataclass(frozen=True)
class Request:
    """What was asked for; ``timeout`` in seconds."""

    interfaces: tuple[Interface, ...]
    host: str
    state: str = PRESENT
    adopt: bool = False
    timeout: float = 60.0


@dataclass(frozen=True)
class Observed:
    """What there is. ``live`` is None below another root than the running system's."""

    backend: Backend
    live: Live | None
    ledger: Ledger = field(default_factory=Ledger)
    files: Mapping[str, str] = field(default_factory=dict)
    resolver: bool = True  # whether the name servers of an interface come into resolv.conf


@dataclass(frozen=True)
class ChangePlan:
    """What is to be done."""

    actions: tuple[Action, ...] = ()
    pending: tuple[Pending, ...] = ()
    blocked: tuple[Blocked, ...] = ()
    apply: tuple[Operation, ...] = ()
    persist: tuple[Operation, ...] = ()
    rollback: tuple[Operation, ...] = ()


def plan(request: Request, observed: Observed) -> ChangePlan:
    """Return the change; InputError with all that is wrong in what was asked for."""
    return _Planner(request, observed).plan()


class _Planner:
    """The state of one planning."""

    def __init__(self, request: Request, observed: Observed) -> None:
        self.request = request
        self.observed = observed
        self.backend = observed.backend
        self.ledger = observed.ledger
        self.live = observed.live or Live()
        self.blocked: list[Blocked] = []

    def plan(self) -> ChangePlan:
        """Return the change."""
        gone = self._gone()
        after = self._after(gone)
        kept = claimed(after)
        returned = [name for name in claimed(self.ledger.interfaces) if name not in kept]
        disowned = self.backend.disown(self.observed.files, returned, last=not after)
        files = _edited(self.observed.files, disowned)
        foreign = self.backend.foreign(files, kept, self._macs()) if after else Foreign()
        self._check(foreign)
        parts = self._parts(gone, after) if self.observed.live is not None else []
        rendered = self.backend.render(after)
        edits = {**disowned, **foreign.edits}
        ledger = self._ledger(after, kept)
        own = self._own_files(rendered)
        actions = self._actions(parts, own, edits, foreign.edits)
        if not actions and ledger.content() != self.ledger.content():
            actions = [self._file(LEDGER, self.ledger.content(), ledger.content(), 1)]
        numbered = tuple(replace(action, id=f"a{n}") for n, action in enumerate(actions, start=1))
        pending = (
            *outstanding.name_servers(after, self.request.host, resolver=self.observed.resolver),
            *outstanding.routes(parts, self.live, self.request.host),
        )
        if not numbered:
            return ChangePlan(pending=pending, blocked=tuple(self.blocked))
        writes = [*own, *self._edit_files(edits), Write(LEDGER, ledger.content(), 0o600)]
        before = {**self.observed.files, LEDGER: self.ledger.content()}
        undertaking = Undertaking(
            self.backend, self.live, self.ledger, before, parts, writes, rendered, kept
        )
        return ChangePlan(
            actions=numbered,
            pending=pending,
            blocked=tuple(self.blocked),
            apply=tuple(undertaking.apply()),
            persist=tuple(undertaking.persist()),
            rollback=tuple(undertaking.rollback()),
        )

    def _gone(self) -> list[Interface]:
        """Return what is ours and shall be absent, users before what they use."""
        if self.request.state == ABSENT:
            names = {interface.name for interface in self.ledger.interfaces}
        else:
            names = {i.name for i in self.request.interfaces if i.state == ABSENT}
        return [i for i in reversed(self.ledger.interfaces) if i.name in names and self._free(i)]

    def _free(self, interface: Interface) -> bool:
        """Return whether nobody else uses the interface; note it where somebody does."""
        name = interface.name
        if interface.type == ETHERNET:
            return True
        own = set(interface.ports or ())
        ours = {other.name for other in self.ledger.interfaces}
        others = [port for port in self.live.ports(name) if port not in own]
        others += [
            link.name
            for link in self.live.links.values()
            if link.link == name and link.name not in ours
        ]
        if others:
            self.blocked.append(
                Blocked(
                    object=f"interface/{name}",
                    host=self.request.host,
                    reason=f"{', '.join(others)} is attached to it",
                    remedy="stop the guest that it belongs to, or detach it",
                )
            )
        return not others

    def _after(self, gone: Sequence[Interface]) -> list[Interface]:
        """Return all interfaces that shall be ours, each after what it uses."""
        names = {interface.name for interface in gone}
        found = {i.name: i for i in self.ledger.interfaces if i.name not in names}
        if self.request.state == PRESENT:
            for interface in self.request.interfaces:
                if interface.state == PRESENT:
                    found[interface.name] = interface.over(self.ledger.get(interface.name))
        for name in ordered({name: interface.uses for name, interface in found.items()}):
            found[name] = replace(found[name], mac=self._mac(found[name], found))
        return [found[name] for name in ordered({n: i.uses for n, i in found.items()})]

    def _mac(self, interface: Interface, found: Mapping[str, Interface]) -> str | None:
        """Return the MAC of a bridge or bond: the one it has, else that of its first port.

        A stated one does not change with the ports that come and go, and is the one that a DHCP
        server and the switch know.
        """
        if interface.type not in {BRIDGE, BOND}:
            return None
        if interface.mac is not None or self.observed.live is None:
            return interface.mac
        known = (self._mac_of(n, found) for n in (interface.name, *(interface.ports or ())[:1]))
        return next((mac for mac in known if mac), None) or self._derived_mac(interface.name)

    def _mac_of(self, name: str, found: Mapping[str, Interface]) -> str | None:
        """Return the MAC that an interface has or will have; a VLAN has that of its carrier."""
        if name in self.live.links:
            return self.live.links[name].mac
        interface = found.get(name)
        if interface is not None and interface.link:
            return self._mac_of(interface.link, found)
        return interface.mac if interface is not None else None

    def _derived_mac(self, name: str) -> str:
        """Return a local MAC for what has no port to take one from (docs/design.md, rule 7)."""
        text = f"virtfleet:{self.request.host}/interface/{name}"
        return ":".join(["02", *(f"{b:02x}" for b in hashlib.sha256(text.encode()).digest()[:5])])

    def _macs(self) -> dict[str, str]:
        return {name: link.mac for name, link in self.live.links.items()}

    def _check(self, foreign: Foreign) -> None:
        if self.request.state == ABSENT:
            return
        declared = {f"interfaces[{n}]": i for n, i in enumerate(self.request.interfaces)}
        facts = Facts(
            declared=declared,
            live=self.live,
            ledger=self.ledger,
            foreign=foreign,
            manager=self.backend.name,
            adopt=self.request.adopt,
            timeout=self.request.timeout,
        )
        found = problems(facts) if self.observed.live is not None else foreign_problems(facts)
        if found:
            raise InputError(found)

    def _parts(self, gone: Sequence[Interface], after: Sequence[Interface]) -> list[Part]:
        """Return what is to be done to each interface, in order."""
        found = [removal.remove(interface, self.live, self.ledger) for interface in gone]
        removed = {interface.name for interface in gone if interface.type != ETHERNET}
        anew = {i.name: live_plan.replaced(i, self.live) for i in after}
        anew = {name: changes for name, changes in anew.items() if changes}
        view = live_plan.without(self.live, removed | set(anew))
        filtering = {link.name for link in view.links.values() if link.vlan_filtering}
        filtering |= {interface.name for interface in after if interface.vlan_filtering}
        filtering -= {i.name for i in after if i.vlan_filtering is False}
        for interface in after:
            part = live_plan.plan(interface, view, self.ledger, filtering)
            if part is not None and interface.name in anew:
                part = _replacing(part, anew[interface.name])
            found.append(part)
        return [part for part in found if part is not None]

    def _ledger(self, after: Sequence[Interface], kept: Sequence[str]) -> Ledger:
        made = {interface.name for interface in after if interface.type != ETHERNET}
        former = {name: item for name, item in self.ledger.former.items() if name in kept}
        ledger = Ledger(tuple(after), former)
        return ledger.with_former(self.live, [name for name in kept if name not in made])

    def _own_files(self, rendered: Mapping[str, File]) -> list[Write]:
        """Return the writes of those files of ours that differ."""
        ours = self.backend.paths(self.observed.files)
        writes = [Write(path, None) for path in ours if path not in rendered]
        return writes + [
            Write(path, content, mode)
            for path, (content, mode) in rendered.items()
            if self.observed.files.get(path) != content
        ]

    def _edit_files(self, edits: Edits) -> list[Write]:
        return [Write(path, content) for path, content in edits.items()]

    def _actions(
        self, parts: Sequence[Part], own: Sequence[Write], edits: Edits, foreign: Edits
    ) -> list[Action]:
        actions = [
            Action(
                step=step,
                object=f"interface/{part.name}",
                action=part.action,
                host=self.request.host,
                when=LIVE,
                reason=part.reason,
                changes=part.changes,
                destructive=part.destructive,
            )
            for step, part in enumerate(parts, start=1)
        ]
        last = len(actions) + 1
        old = self.observed.files
        actions += [self._file(w.path, old.get(w.path), w.content, last) for w in own]
        for path, content in edits.items():
            action = self._file(path, old.get(path), content, last)
            if path in foreign:
                action = replace(action, action="adopt", reason="it configures what is ours")
            else:
                action = replace(action, reason="what was taken over is given back")
            actions.append(action)
        return actions

    def _file(self, path: str, before: str | None, after: str | None, step: int) -> Action:
        verb = "create" if before is None else "delete" if after is None else "update"
        return Action(
            step=step,
            object=f"file{path}",
            action=verb,
            host=self.request.host,
            when=NEXT_BOOT,
            reason={"create": "it is missing", "delete": "nothing needs it any more"}.get(
                verb, "its content differs"
            ),
            changes=(Change("content", before, after),),
        )


def _edited(files: Mapping[str, str], edits: Edits) -> dict[str, str]:
    """Return the files as they are after the edits."""
    found = {**files, **edits}
    return {path: content for path, content in found.items() if content is not None}


def _replacing(part: Part, changes: Sequence[Change]) -> Part:
    """Return the part that deletes the link first."""
    delete = snapshot.ip("link", "delete", "dev", part.name)
    others = tuple(c for c in part.changes if c.path not in {change.path for change in changes})
    reason = f"{', '.join(change.path for change in changes)} can only be changed by making it anew"
    return replace(
        part,
        action="replace",
        reason=reason,
        changes=(*changes, *others),
        operations=(delete, *part.operations),
    )
