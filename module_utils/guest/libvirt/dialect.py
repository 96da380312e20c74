# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a guest of libvirt is declared: the keys of virt/'s table, and what differs from a domain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Mapping, Sequence

from ...converge.action import LIVE, NEXT_BOOT, REPLACE, Change, Edit
from ...converge.compare import compare
from ...converge.errors import Problem, shown, unknown
from ...units import UnitError, format_size, parse_duration, parse_size
from ...virt.check import check
from ...virt.domain import FIELDS, KEYS, XML
from ...virt.patcher import patch
from ...virt.writer import complete
from ..engine import ACTIVE, Differences
from ..spec import ABSENT, ASKED, KEPT, PAUSED, PRESENT, RESTARTED, RUNNING, SAVED, STOPPED, Reader

if TYPE_CHECKING:
    from ..engine import Observed
    from .capabilities import HostCapabilities

ENGINE = "libvirt"
WAITS = ("running", "agent", "address", "ssh")
_COMMON = ("name", "engine", *KEPT)


def domain_keys(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a spec says of the domain's XML."""
    return {key: value for key, value in spec.items() if key not in _COMMON}


class _Asked(Reader):
    """Reads what is asked for besides the definition."""

    def wait_for(self, path: str, value: object) -> str:
        """Return what is waited for."""
        if not (isinstance(value, str) and value in WAITS):
            self.problems.append(unknown(path, value, "what can be waited for", WAITS))
        return str(value)

    def wait_timeout(self, path: str, value: object) -> float:
        """Return for how many seconds."""
        try:
            return parse_duration(value)
        except UnitError:
            self.refuse(path, "a duration with a unit such as 30s", value)
            return 0.0


class LibvirtDialect:
    """The dialect of libvirt's guests on one host.

    ``host`` returns what it can run: asked only when a guest is made.
    """

    engine = ENGINE
    states = (PRESENT, RUNNING, STOPPED, PAUSED, RESTARTED, SAVED, ABSENT)
    keys = ("name", "engine", *ASKED, *KEPT, *KEYS, XML)
    autostarts = True

    def __init__(self, host: Callable[[], HostCapabilities], *, fleet: str = "local") -> None:
        self.host = host
        self.fleet = fleet
        self._known: dict[str, tuple[Observed, dict[str, Any], Differences]] = {}

    def read(
        self,
        entry: Mapping[Any, Any],
        path: str,
        problems: list[Problem],
        *,
        new: bool,
        removed: bool,
    ) -> dict[str, Any]:
        """Return the keys of an entry in canonical form."""
        reader = _Asked(problems)
        found: dict[str, Any] = {}
        for key in ASKED:
            if key in entry:
                read: Callable[[str, object], Any] = getattr(reader, key, reader.flag)
                found[key] = read(f"{path}.{key}", entry[key])
        before = len(problems)
        rest = {key: value for key, value in entry.items() if key not in ASKED}
        stated = check(rest, path, problems, new=new)
        if len(problems) == before and not removed and ("memory" in stated or new):
            self._limits(stated, path, problems)
        return {**found, **stated}

    def _limits(self, stated: Mapping[str, Any], path: str, problems: list[Problem]) -> None:
        """Refuse what the host does not have."""
        host = self.host()
        memory = stated.get("memory")
        if memory is not None and host.memory is not None and parse_size(memory) > host.memory:
            most = format_size(host.memory >> 20 << 20)
            expected = f"at most the {most} of memory that this host has"
            problems.append(Problem(f"{path}.memory", expected, shown(memory)))
        arch = stated.get("arch")
        if arch is not None and host.archs and arch not in host.archs:
            known = tuple(sorted(host.archs))
            problems.append(unknown(f"{path}.arch", arch, "one that QEMU has here", known))

    def complete(self, stated: Mapping[str, Any], seen: Observed | None) -> dict[str, Any]:
        """Return the whole spec of a new guest; of one that is there what is stated of it."""
        if seen is not None:
            return dict(stated)
        common = {"name": stated["name"], "engine": ENGINE}
        common.update((key, stated.get(key, default)) for key, default in KEPT.items())
        keys = domain_keys(stated)
        return {**common, **complete(keys, self.host().of(keys))}

    def masked(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """Return a spec as it may be shown: without passwords."""
        masks = {one.key: one.masked for one in FIELDS}
        return {
            key: masks[key](value) if key in masks and value is not None else value
            for key, value in spec.items()
        }

    def differences(self, stated: Mapping[str, Any], seen: Observed) -> Differences:
        """Return what differs from the domain, running and at its next boot.

        A plan is made twice, before and under the lock: for the same question the answer is kept.
        """
        known = self._known.get(seen.name)
        if known is not None and known[0] is seen and known[1] == stated:
            return known[2]
        found = self._differences(stated, seen)
        self._known[seen.name] = (seen, dict(stated), found)
        return found

    def _differences(self, stated: Mapping[str, Any], seen: Observed) -> Differences:
        keys = domain_keys(stated)
        common = {key: stated[key] for key in KEPT if key in stated}
        kept = [Edit(c.path, c.before, c.after, LIVE) for c in compare(common, seen.spec)]
        stored = patch(seen.detail.inactive, keys, fleet=self.fleet).changes
        if seen.state not in ACTIVE or seen.detail.live is None:
            return Differences((*kept, *stored))
        running = patch(seen.detail.live, keys, fleet=self.fleet).changes
        edits, restart = _settled(stored, running)
        return Differences((*kept, *edits), restart)


def _settled(
    stored: Sequence[Edit], running: Sequence[Edit]
) -> tuple[tuple[Edit, ...], tuple[Change, ...]]:
    """Return what to do, and what only a start anew brings.

    What differs in the running domain and can be changed there is changed there, and made
    persistent. What differs in the persistent definition alone is written there.
    """
    unstored = {edit.path for edit in stored}
    # Memory that was asked back already comes when the guest's balloon gives it, if it has one.
    asked = {"memory"} - unstored
    live = [edit for edit in running if edit.when == LIVE and edit.path not in asked]
    done = {edit.path for edit in live}
    later = [
        Edit(edit.path, edit.before, edit.after, REPLACE if edit.when == REPLACE else NEXT_BOOT)
        for edit in stored
        if edit.path not in done
    ]
    restart = [
        Change(edit.path, edit.before, edit.after)
        for edit in running
        if edit.when == NEXT_BOOT or edit.path in asked
    ]
    return (*live, *later), tuple(restart)
