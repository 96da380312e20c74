# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""One call for all images of a host: read, desire, plan, apply, result; check mode stops before.

What is fetched is verified before it gets a name, and a name leads to the former image until then.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Mapping, Sequence

from ..converge.action import NOW, Action, Change, Pending, Plan, differs
from ..converge.errors import InputError, Problem, VirtfleetError, shown, system_says
from ..converge.lock import exclusive, holder
from ..converge.result import accept, result, summary
from ..kvm.layout import Layout, make_folder
from . import checksum as sums
from .fetch import Download, text
from .spec import ABSENT, Declared, read
from .store import ImageError, Kept, Store, convert, copy, look

if TYPE_CHECKING:
    from .checksum import Checksum

IN_USE = "in_use"
# Returns, for files of the store, what stands on each; None where that cannot be said.
Users = Callable[[Sequence[str]], "Mapping[str, Sequence[str]] | None"]


@dataclass(frozen=True, eq=False, repr=False)
class Wanted:
    """A declared image, and what its publisher says that it is, where that was asked."""

    declared: Declared
    upstream: Checksum | None = None

    @property
    def checksum(self) -> Checksum | None:
        """What the image has to be, as far as that is known before it is there."""
        return self.declared.checksum or self.upstream


def _stamp(path: str) -> list[int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns]


def differences(wanted: Wanted, kept: Kept | None, stamp: Sequence[int] | None) -> list[Change]:
    """Return what differs between an image as it is declared and as it is kept. Pure.

    ``stamp`` is the size and time of a file of this host, None for one that is not there.
    """
    one = wanted.declared
    source = one.source
    if kept is None:
        found = [("source", None, source), ("format", None, one.format)]
        if wanted.checksum is not None:
            found.append(("checksum", None, str(wanted.checksum)))
        return [Change(*change) for change in found]
    changes = []
    if kept.format != one.format:
        changes.append(Change("format", kept.format, one.format))
    expected = wanted.checksum
    if expected is not None:
        have = kept.record.get("checksums", {}).get(expected.algorithm)
        if have != expected.digest:
            before = f"{expected.algorithm}:{have}" if have else None
            changes.append(Change("checksum", before, str(expected)))
    elif kept.record.get("source") != source:
        changes.append(Change("source", kept.record.get("source"), source))
    elif one.path is not None and kept.record.get("stamp") != list(stamp or ()):
        changes.append(Change("content", "as it was taken", "changed since"))
    return changes


class _Planner:
    """Collects what has to be done."""

    def __init__(self, host: str, kept: Mapping[str, Kept]) -> None:
        self.host = host
        self.kept = kept
        self.actions: list[Action] = []

    def act(self, name: str, action: str, reason: str, changes: Sequence[Change]) -> None:
        step = 2 if action == "delete" else 1
        made = Action(step, f"image/{name}", action, self.host, NOW, reason, tuple(changes))
        self.actions.append(made)

    def go(self, name: str, reason: str) -> None:
        self.act(name, "delete", reason, [Change("blob", self.kept[name].blob, None)])

    def settle(self, one: Wanted, stamp: Sequence[int] | None) -> None:
        name = one.declared.name
        have = self.kept.get(name)
        if one.declared.state == ABSENT:
            if have is not None:
                self.go(name, "declared absent")
            return
        changes = differences(one, have, stamp)
        if have is None:
            self.act(name, "create", "it is not there", changes)
        elif changes:
            self.act(name, "update", differs(changes), changes)


def plan(
    wanted: Sequence[Wanted],
    kept: Mapping[str, Kept],
    stamps: Mapping[str, Sequence[int] | None],
    host: str,
    *,
    prune: bool,
) -> Plan:
    """Return what has to be done on a host for its images. Pure."""
    planner = _Planner(host, kept)
    for one in wanted:
        planner.settle(one, stamps.get(one.declared.name))
    declared = {one.declared.name for one in wanted}
    for name in kept if prune else ():
        if name not in declared:
            planner.go(name, "nobody declares it, and prune is asked for")
    return Plan.of(planner.actions)


class Publisher:
    """Asks publishers for the checksums that they vouch for; each file of theirs once."""

    def __init__(self) -> None:
        self._listings: dict[tuple[str, str | None], str] = {}

    def checksum(self, one: Declared) -> Checksum:
        """Return the checksum of an image; ImageError where its publisher has none."""
        if one.checksums is None or one.url is None:
            raise ImageError("nobody vouches for it")
        key = (one.checksums, one.signature)
        if key not in self._listings:
            listing = text(one.checksums)
            if one.signature is not None and one.keyring is not None:
                _verify(listing, text(one.signature), one.keyring, one.checksums)
            self._listings[key] = listing
        name = one.url.rpartition("/")[2]
        found = sums.find(self._listings[key], name)
        if found is None:
            raise ImageError(f"{one.checksums} has no checksum of {name}")
        return found


def _verify(listing: str, signature: str, keyring: str, what: str) -> None:
    """Verify a detached signature with gpgv; ImageError where it is not a good one."""
    program = shutil.which("gpgv")
    if program is None:
        raise ImageError("expected gpgv, found none", remedy="install the package gpgv")
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for name, content in (("signature", signature), ("content", listing)):
            path = os.path.join(folder, name)
            with open(path, "w", encoding="utf-8") as file:
                file.write(content)
            paths.append(path)
        done = subprocess.run(
            [program, "--keyring", keyring, *paths], check=False, capture_output=True, text=True
        )
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise ImageError(f"{what}: its signature is not good ({lines[-1] if lines else 'gpgv'})")


class Fetcher:
    """Brings images into the store of one host."""

    def __init__(self, store: Store, publisher: Publisher) -> None:
        self.store = store
        self.publisher = publisher

    def bring(self, wanted: Wanted) -> None:
        """Have an image under its name, verified; the former one stays until then."""
        one = wanted.declared
        expected = wanted.checksum
        if expected is None and one.checksums is not None:
            expected = self.publisher.checksum(one)
        blob = self._known(expected, one.format)
        if blob is None:
            blob = self._take(one, expected)
        self.store.link(one.name, blob)

    def _known(self, expected: Checksum | None, kind: str) -> str | None:
        """Return an image of that content that another name brought."""
        if expected is None:
            return None
        for blob in self.store.blobs():
            record = self.store.record(blob)
            have = record.get("checksums", {}).get(expected.algorithm)
            if have == expected.digest and blob.endswith(f".{kind}"):
                return blob
        return None

    def _take(self, one: Declared, expected: Checksum | None) -> str:
        source = str(one.url or one.path)
        part = self.store.part(source)
        stamp = None
        if one.url is not None:
            Download(one.url, part).run()
        made = f"{part}.made"
        try:
            if one.url is None:
                stamp = _stamp(source)
                copy(source, part)
            algorithms = {"sha256"} | ({expected.algorithm} if expected else set())
            found = sums.compute(part, sorted(algorithms))
            if expected is not None and found[expected.algorithm] != expected:
                raise ImageError(
                    f"{source}: expected {expected}, found {found[expected.algorithm].digest}",
                    remedy="nothing was taken: see whether the checksum is of this very file",
                )
            is_now = look(part)
            blob = f"{found['sha256'].digest}.{one.format}"
            final = part
            if is_now["format"] != one.format:
                convert(part, is_now["format"], made, one.format)
                final = made
            with open(final, "rb+") as file:
                os.fsync(file.fileno())
            record = {
                "source": one.source,
                "checksums": {name: one_sum.digest for name, one_sum in found.items()},
                "source_format": is_now["format"],
                "size": is_now["size"],
                "stamp": stamp,
            }
            self.store.put(final, blob, record)
        finally:
            for left in (part, made):
                with suppress(FileNotFoundError):
                    os.unlink(left)
        return blob


def _upstream(one: Declared, publisher: Publisher, unasked: dict[str, str]) -> Wanted:
    """Return an image with what its publisher says of it now, if that is to be asked.

    Why a publisher does not say it is noted by name: the other images can be had all the same.
    """
    if one.state == ABSENT or one.checksums is None or not one.refresh:
        return Wanted(one)
    try:
        return Wanted(one, publisher.checksum(one))
    except VirtfleetError as error:
        unasked[one.name] = str(error)
    except OSError as error:
        unasked[one.name] = system_says(error)
    return Wanted(one)


def _missing(wanted: Sequence[Wanted], planned: Plan) -> list[Problem]:
    """Return the files of this host that are wanted now and are not there."""
    touched = {action.name for action in planned.actions if action.action != "delete"}
    found = []
    for one in (each.declared for each in wanted if each.declared.name in touched):
        for key in ("path", "keyring"):
            path = getattr(one, key)
            if path is not None and not os.path.isfile(path):
                found.append(Problem(f"{one.where}.{key}", "a file that is there", shown(path)))
    return found


def converge(
    entries: Sequence[object],
    host: str | None,
    users: Users,
    *,
    root: str = "/",
    prune: bool = False,
    check_mode: bool = False,
    catalogue: object = None,
) -> dict[str, Any]:
    """Have the declared images on this host, and return the module's result.

    ``catalogue`` has further short names, or others than the built-in ones.
    Raises InputError with nothing changed, BusyError while another run changes this host, and
    ApplyError where images could not be had; the others are there then.
    """
    host = host or os.uname().nodename
    declared = read(entries, catalogue)
    store, publisher = Store(root), Publisher()
    unasked: dict[str, str] = {}
    wanted = [_upstream(one, publisher, unasked) for one in declared]
    stamps = {one.name: _stamp(one.path) for one in declared if one.path is not None}
    planned = plan(wanted, store.names(), stamps, host, prune=prune)
    # In check mode an earlier task of the same run, or the controller, may yet bring them.
    problems = [] if check_mode else _missing(wanted, planned)
    if problems:
        raise InputError(problems)
    failures: list[tuple[Action, str]] = []
    pending: list[Pending] = []
    done: Sequence[Action] = planned.actions
    if not check_mode and (done or store.loose()):
        layout = Layout(root)
        make_folder(layout.state)
        with exclusive(os.path.join(layout.state, "images.lock"), holder("kvm_images")):
            store.prepare()
            store.sweep()
            planned = plan(wanted, store.names(), stamps, host, prune=prune)
            failures = _apply(planned.actions, wanted, Fetcher(store, publisher))
            failed = {action.id for action, _ in failures}
            done = [action for action in planned.actions if action.id not in failed]
            pending = _collect(store, users, host, check_mode=False)
    elif check_mode:
        pending = _collect(store, users, host, check_mode=True)
    kept = store.names()
    outcome = result(
        done,
        pending,
        msg=summary(done),
        images=[_told(store, kept[one.name]) for one in declared if one.name in kept],
    )
    named = {action.object for action, _ in failures}
    late = {f"image/{name}": f"not asked for a newer one: {why}" for name, why in unasked.items()}
    return accept(outcome, failures, {name: why for name, why in late.items() if name not in named})


def _told(store: Store, kept: Kept) -> dict[str, Any]:
    return {
        "name": kept.name,
        "path": store.path(kept.blob),
        "format": kept.format,
        "size": kept.record.get("size"),
        "checksums": dict(kept.record.get("checksums", {})),
        "source": kept.record.get("source"),
    }


def _apply(
    actions: Sequence[Action], wanted: Sequence[Wanted], fetcher: Fetcher
) -> list[tuple[Action, str]]:
    """Carry out the actions and return those that failed, with the reason."""
    by_name = {one.declared.name: one for one in wanted}
    told = ((action, _attempt(action, by_name, fetcher)) for action in actions)
    return [(action, why) for action, why in told if why is not None]


def _attempt(action: Action, wanted: Mapping[str, Wanted], fetcher: Fetcher) -> str | None:
    """Carry out one action; return why that failed, None if it did not."""
    try:
        if action.action == "delete":
            fetcher.store.unlink(action.name)
        else:
            fetcher.bring(wanted[action.name])
    except VirtfleetError as error:
        return str(error)
    except OSError as error:
        return system_says(error)
    return None


def _collect(store: Store, users: Users, host: str, *, check_mode: bool) -> list[Pending]:
    """Remove images that no name leads to and nothing stands on; tell those that something does.

    What cannot be known to stand on nothing stays. Check mode removes none.
    """
    loose = store.loose()
    known = users([store.path(blob) for blob in loose]) if loose else {}
    pending = []
    for blob in loose:
        standing = None if known is None else known.get(store.path(blob), ())
        if standing is None:
            why = "libvirt cannot be asked what stands on it"
        elif standing:
            why = f"these stand on it: {', '.join(standing)}"
        else:
            if not check_mode:
                store.remove(blob)
            continue
        remedy = "it goes with a later run, once nothing does"
        reason = f"no name leads to it, and {why}"
        pending.append(Pending(f"image/{blob}", IN_USE, host, reason, remedy))
    return pending
