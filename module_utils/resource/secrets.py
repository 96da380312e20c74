# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""libvirt's secrets: what QEMU and pools log in with, or open encrypted disks with.

A secret is told by what it is for: its kind and a name (https://libvirt.org/formatsecret.html). It
bears no mark: one of ours is told by its UUID, or by the host's ledger. Values are compared where
libvirt tells them, and never shown.
"""

from __future__ import annotations

import base64
import binascii
import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Iterator, Mapping, Sequence

from ..converge.action import LIVE, NOW, Action, Blocked, Change, Plan
from ..converge.errors import InputError, Problem, shown, unknown
from ..converge.lock import exclusive, holder
from ..converge.result import accept, result, summary
from ..converge.secrets import HIDDEN
from ..kvm.layout import make_folder
from ..virt.document import Document, Fresh, insert, text_of, tree
from ..virt.identity import uuid_for
from .kind import ABSENT, PRESENT

if TYPE_CHECKING:
    from ..kvm.layout import Layout
    from ..virt.connection import Connection
    from ..virt.document import Element
    from .ledger import Ledger

WORD = "secret"
# The kinds, and the element that holds what a secret is for.
TYPES = {"ceph": "name", "iscsi": "target", "volume": "volume", "tls": "name", "vtpm": "name"}
_FLAGS = ("private", "ephemeral")
_KEYS = (
    *("type", "name", "value", "value_base64", "description", "state", "adopt", "renew"),
    *_FLAGS,
)
_MOST = 65536  # bytes (libvirt: VIR_SECRET_VALUE_BUFFER_MAX)
_OTHER = f"{HIDDEN} (another)"


@dataclass(frozen=True, eq=False)
class Declared:
    """One secret as the user wants it; ``stated`` are the keys of its definition."""

    type: str
    name: str
    where: str
    state: str = PRESENT
    value: bytes | None = field(default=None, repr=False)
    stated: Mapping[str, Any] = field(default_factory=dict)
    adopt: bool = False
    renew: bool = False

    @property
    def object(self) -> str:
        """What it is called in a plan, behind its word."""
        return f"{self.type}/{self.name}"


@dataclass(frozen=True, eq=False)
class Seen:
    """A secret that is there; ``value`` None where it has none, or libvirt does not tell it."""

    uuid: str
    spec: Mapping[str, Any]
    fleet: str | None
    told: bool
    value: bytes | None = field(default=None, repr=False)
    users: Sequence[str] = ()

    def to_dict(self, one: Declared) -> dict[str, Any]:
        """Return plain values, without the value."""
        return {
            "type": one.type,
            "name": one.name,
            "uuid": self.uuid,
            "has_value": self.value is not None if self.told else None,
            "owned": self.fleet is not None,
            "fleet": self.fleet or "",
            **self.spec,
        }


# --- what is declared


class _Reader:
    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def text(self, path: str, value: Any) -> str | None:
        if isinstance(value, str) and value.strip() and value.isprintable():
            return value
        remedy = "quote it" if isinstance(value, (int, float)) else None
        self.problems.append(Problem(path, "text in one line", shown(value), remedy))
        return None

    def flag(self, path: str, value: Any) -> bool:
        if not isinstance(value, bool):
            self.problems.append(Problem(path, "true or false", shown(value)))
        return bool(value)

    def value(self, where: str, entry: Mapping[Any, Any]) -> bytes | None:
        """Return the value, of which no problem shows anything."""
        stated = [key for key in ("value", "value_base64") if entry.get(key) is not None]
        if len(stated) > 1:
            path = f"{where}.value_base64"
            self.problems.append(Problem(path, "none beside value", "one", "state one of them"))
        if not stated:
            return None
        path, raw = f"{where}.{stated[0]}", entry[stated[0]]
        found = raw.encode() if isinstance(raw, str) else b""
        expected = "text"
        if stated[0] == "value_base64":
            expected = "base64"
            try:
                found = base64.b64decode(found, validate=True)
            except binascii.Error:
                found = b""
        if not 0 < len(found) <= _MOST:
            found_words = "something else" if len(found) <= _MOST else f"{len(found)} bytes"
            words = f"{expected}, 1 to {_MOST} bytes of it"
            self.problems.append(Problem(path, words, found_words, "quote it"))
        return found

    def entry(self, where: str, entry: object) -> Declared | None:
        if not isinstance(entry, Mapping):
            self.problems.append(Problem(where, "a mapping that describes a secret", "another"))
            return None
        count = len(self.problems)
        for key in entry:
            if key not in _KEYS:
                self.problems.append(unknown(f"{where}.{str(key)[:64]}", key, "a known key", _KEYS))
        kind, state = entry.get("type"), entry.get("state", PRESENT)
        if kind not in TYPES:
            self.problems.append(unknown(f"{where}.type", kind, "a kind of secret", tuple(TYPES)))
        if state not in (PRESENT, ABSENT):
            self.problems.append(unknown(f"{where}.state", state, "a state", (PRESENT, ABSENT)))
        name = self.text(f"{where}.name", entry.get("name"))
        if kind == "volume" and name and not name.startswith("/"):
            self.problems.append(Problem(f"{where}.name", "the path of the volume", shown(name)))
        stated: dict[str, Any] = {
            key: self.flag(f"{where}.{key}", entry[key]) for key in _FLAGS if key in entry
        }
        if entry.get("description") is not None:
            stated["description"] = self.text(f"{where}.description", entry["description"])
        one = Declared(
            str(kind),
            str(name),
            where,
            str(state),
            self.value(where, entry),
            stated,
            self.flag(f"{where}.adopt", entry.get("adopt", False)),
            self.flag(f"{where}.renew", entry.get("renew", False)),
        )
        return one if len(self.problems) == count else None


def read(entries: Sequence[object]) -> list[Declared]:
    """Return what the list declares; InputError with every problem in it."""
    reader = _Reader()
    declared: list[Declared] = []
    first: dict[str, str] = {}
    for number, entry in enumerate(entries):
        one = reader.entry(f"secrets[{number}]", entry)
        if one is None:
            continue
        if one.object in first:
            found = f"{shown(one.object)}, which {first[one.object]} has already"
            reader.problems.append(Problem(f"{one.where}.name", "a secret of its own", found))
        first.setdefault(one.object, one.where)
        declared.append(one)
    if reader.problems:
        raise InputError(reader.problems)
    return declared


# --- the plan


class _Planner:
    """Plans secret by secret. Pure."""

    def __init__(self, host: str, fleet: str) -> None:
        self.host = host
        self.fleet = fleet
        self.actions: list[Action] = []
        self.blocked: list[Blocked] = []

    def act(
        self,
        one: Declared,
        action: str,
        reason: str,
        changes: Sequence[Change] = (),
        when: str = NOW,
    ) -> None:
        made = Action(1, f"{WORD}/{one.object}", action, self.host, when, reason, tuple(changes))
        self.actions.append(made)

    def block(self, one: Declared, reason: str, remedy: str) -> None:
        self.blocked.append(Blocked(f"{WORD}/{one.object}", self.host, reason, remedy))

    def plan(self, one: Declared, seen: Seen | None) -> None:
        if seen is None:
            if one.state == PRESENT:
                changes = [Change(key, None, value) for key, value in one.stated.items()]
                if one.value is not None:
                    changes.append(Change("value", None, HIDDEN))
                self.act(one, "create", "it is not there", changes)
        elif seen.fleet is None and not (one.adopt and one.state == PRESENT):
            remedy = "state adopt: true to take it over as it is, or choose another name"
            self.block(one, "it was not made by this toolkit for this fleet", remedy)
        elif seen.fleet not in (None, self.fleet):
            self.block(one, f"it belongs to the fleet {seen.fleet!r}", "choose another name")
        elif one.state == ABSENT:
            self.remove(one, seen)
        else:
            self.settle(one, seen)

    def remove(self, one: Declared, seen: Seen) -> None:
        if seen.users:
            reason = f"declared absent, and needed by {', '.join(seen.users)}"
            self.block(one, reason, "let them do without it first")
            return
        changes = [Change("value", HIDDEN, None)]
        made = Action(
            1,
            f"{WORD}/{one.object}",
            "delete",
            self.host,
            NOW,
            "declared absent",
            tuple(changes),
            destructive=True,
        )
        self.actions.append(made)

    def settle(self, one: Declared, seen: Seen) -> None:
        if seen.spec["private"] and one.stated.get("private") is False:
            # Nor would libvirt do it (virSecretObjListAdd).
            self.block(
                one,
                "it is private, which libvirt takes from no secret again",
                "state private: true, or remove it and declare it anew",
            )
            return
        if seen.fleet is None:
            self.act(one, "adopt", "it is not ours yet, and that is asked for")
        changes = [
            Change(key, seen.spec.get(key), value)
            for key, value in one.stated.items()
            if seen.spec.get(key) != value
        ]
        if one.value is not None:
            if seen.told and seen.value != one.value:
                before = None if seen.value is None else HIDDEN
                changes.append(Change("value", before, _OTHER if before else HIDDEN))
            elif not seen.told and one.renew:
                changes.append(Change("value", HIDDEN, _OTHER))
        if changes:
            paths = ", ".join(change.path for change in changes)
            self.act(one, "update", f"{paths} differs", changes, LIVE)


def plan(declared: Sequence[Declared], host: str, fleet: str, seen: Mapping[str, Seen]) -> Plan:
    """Return what has to be done for secrets. Pure."""
    planner = _Planner(host, fleet)
    for one in declared:
        planner.plan(one, seen.get(one.object))
    return Plan.of(planner.actions, (), planner.blocked)


# --- what there is, and what is done


class Secrets:
    """The secrets of one host, over one connection."""

    def __init__(self, connection: Connection, fleet: str, ledger: Ledger) -> None:
        self.connection = connection
        self.libvirt = connection.libvirt
        self.fleet = fleet
        self.ledger = ledger

    def observe(self, declared: Sequence[Declared]) -> dict[str, Seen]:
        """Return the declared secrets that are there."""
        self.ledger.forget()
        wanted = {one.object: one for one in declared}
        found: dict[str, Seen] = {}
        for secret in self.connection.handle.listAllSecrets():
            with self.connection.passing():
                root = tree(secret.XMLDesc(0))
                usage = root.find("usage")
                kind = "" if usage is None else usage.get("type", "")
                name = _text(usage, TYPES[kind]) if usage is not None and kind in TYPES else ""
                one = wanted.get(f"{kind}/{name}")
                if one is not None:
                    found[one.object] = self._look(secret, root, one)
        return found

    def _look(self, secret: Any, root: Element, one: Declared) -> Seen:
        uuid = secret.UUIDString()
        private = root.get("private") == "yes"
        spec = {
            "private": private,
            "ephemeral": root.get("ephemeral") == "yes",
            "description": _text(root, "description") or None,
        }
        users = self._users(uuid, one) if one.state == ABSENT else ()
        value = None if private else self._value(secret)
        return Seen(uuid, spec, self._fleet(one, uuid), not private, value, tuple(users))

    def _fleet(self, one: Declared, uuid: str) -> str | None:
        if uuid == self.uuid(one):
            return self.fleet
        return self.ledger.fleet_of(WORD, uuid)

    def uuid(self, one: Declared) -> str:
        """Return the UUID of a new secret."""
        return uuid_for(one.object, self.fleet, WORD)

    def _value(self, secret: Any) -> bytes | None:
        try:
            return bytes(secret.value())
        except self.libvirt.libvirtError as error:
            if error.get_error_code() != self.libvirt.VIR_ERR_NO_SECRET:
                raise
            return None

    def _users(self, uuid: str, one: Declared) -> Iterator[str]:
        """Yield the guests and pools whose definitions name a secret."""
        handle, inactive = self.connection.handle, self.libvirt.VIR_DOMAIN_XML_INACTIVE
        documents = [
            (f"guest/{domain.name()}", domain.XMLDesc(inactive))
            for domain in handle.listAllDomains()
        ]
        pools = handle.listAllStoragePools()
        documents += [(f"pool/{pool.name()}", pool.XMLDesc(0)) for pool in pools]
        for name, xml in documents:
            for element in tree(xml).iter("secret"):
                if element.get("uuid") == uuid or element.get("usage") == one.name:
                    yield name
                    break

    def written(self, one: Declared, uuid: str, former: Mapping[str, Any]) -> str:
        """Return a definition; what was not stated is as it was."""
        spec = {**former, **one.stated}
        document = Document("<secret>\n</secret>\n", "secret XML")
        root = document.root
        for key in ("ephemeral", "private"):
            root.set(key, "yes" if spec.get(key) else "no")
        parts = [("uuid", uuid), ("description", spec.get("description"))]
        for tag, text in parts:
            if text:
                insert(root, Fresh(tag)).text = str(text)
        usage = insert(root, Fresh("usage", {"type": one.type}))
        insert(usage, Fresh(TYPES[one.type])).text = one.name
        return document.text()

    def apply(self, action: Action, one: Declared, seen: Seen | None) -> None:
        """Carry out one action."""
        handle = self.connection.handle
        if action.action == "adopt" and seen is not None:
            self.ledger.note(WORD, seen.uuid, self.fleet)
        elif action.action == "delete" and seen is not None:
            handle.secretLookupByUUIDString(seen.uuid).undefine()
            self.ledger.note(WORD, seen.uuid, None)
        elif action.action in ("create", "update"):
            uuid = self.uuid(one) if seen is None else seen.uuid
            spec = {} if seen is None else seen.spec
            valued = any(change.path == "value" for change in action.changes)
            if valued:
                # Private only when it has its value: a run that is killed before is seen so.
                open_to_us = {**one.stated, "private": bool(spec.get("private"))}
                first = self.written(replace(one, stated=open_to_us), uuid, spec)
                handle.secretDefineXML(first, 0).setValue(one.value, 0)
            wanted = self.written(one, uuid, spec)
            if not valued or wanted != first:
                handle.secretDefineXML(wanted, 0)  # which keeps its value


def _text(parent: Element, tag: str) -> str:
    found = parent.find(tag)
    return "" if found is None else text_of(found).strip()


def converge(
    secrets: Secrets,
    layout: Layout,
    entries: Sequence[object],
    host: str,
    *,
    check_mode: bool,
) -> dict[str, Any]:
    """Make the secrets the declared ones, and return the module's result.

    Raises InputError with nothing changed, BusyError while another run changes this host, and
    ApplyError where actions failed.
    """
    declared = read(entries)
    seen = secrets.observe(declared)
    planned = plan(declared, host, secrets.fleet, seen)
    done: Sequence[Action] = planned.actions
    failed: list[tuple[Action, str]] = []
    if not check_mode and done:
        make_folder(layout.state)
        with exclusive(os.path.join(layout.state, "lock"), holder("kvm_secrets")):
            seen = secrets.observe(declared)
            planned = plan(declared, host, secrets.fleet, seen)
            failed = _apply(secrets, planned, declared, seen)
        lost = {action.id for action, _ in failed}
        done = [action for action in planned.actions if action.id not in lost]
        seen = secrets.observe(declared)
    there = [(one, seen[one.object]) for one in declared if one.object in seen]
    outcome = result(
        done,
        planned.pending,
        planned.blocked,
        msg=summary(done),
        secrets=[found.to_dict(one) for one, found in there],
    )
    return accept(outcome, failed)


def _apply(
    secrets: Secrets, planned: Plan, declared: Sequence[Declared], seen: Mapping[str, Seen]
) -> list[tuple[Action, str]]:
    by_object = {f"{WORD}/{one.object}": one for one in declared}
    actions = {action.id: action for action in planned.actions}

    def act(number: str) -> None:
        action = actions[number]
        one = by_object[action.object]
        secrets.apply(action, one, seen.get(one.object))

    failed = secrets.connection.each(actions, act)
    return [(actions[number], why) for number, why in failed.items()]
