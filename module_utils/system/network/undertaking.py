# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The three lists of operations of a change, from what is to be done to each interface."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Collection, Mapping, Sequence

from ..operation import Write
from . import live as live_plan
from . import snapshot
from .backend import ANY, Telling

if TYPE_CHECKING:
    from ..operation import Operation
    from .backend import Backend, File
    from .ledger import Ledger
    from .observe import Live
    from .part import Part

_DELETES = {"delete", "replace"}


@dataclass(frozen=True)
class Undertaking:
    """A change before it is written down.

    ``before`` is what the files hold now, ``kept`` names the interfaces that are ours afterwards.
    """

    backend: Backend
    live: Live
    ledger: Ledger
    before: Mapping[str, str | None]
    parts: Sequence[Part]
    writes: Sequence[Write]
    rendered: Mapping[str, File]
    kept: Collection[str]

    @property
    def touched(self) -> tuple[str, ...]:
        """The interfaces that are there and will be changed."""
        names = dict.fromkeys(name for part in self.parts for name in part.touched)
        return tuple(name for name in names if name in self.live.links)

    @property
    def leased(self) -> tuple[str, ...]:
        """Those of them whose DHCP lease ends or moves with the change."""
        links = self.live.links
        return tuple(name for name in self.touched if live_plan.leased(links[name]))

    @property
    def deleted(self) -> set[str]:
        """The links that the change deletes, and those that go with them."""
        named = {part.name for part in self.parts if part.action in _DELETES}
        return set(self.live.links) - set(live_plan.without(self.live, named).links)

    @property
    def removed(self) -> tuple[str, ...]:
        """The links that go for good."""
        return tuple(part.name for part in self.parts if part.action == "delete")

    @property
    def telling(self) -> Telling:
        """What the network manager may have to know."""
        return Telling(
            files=self.rendered,
            started=tuple(self._started()),
            touched=self.touched,
            leased=self.leased,
            removed=self.removed,
            returned={n: f for n, f in self.ledger.former.items() if n not in self.kept},
            grows=any(part.action != "delete" for part in self.parts),
        )

    def _started(self) -> list[str]:
        """Return the interfaces that ask for a lease: new ones, and ports that had one before."""
        former = self.ledger.former
        asking = [part.name for part in self.parts if part.starts_dhcp]
        return [*asking, *(n for n, f in former.items() if f.dhcp and n not in self.kept)]

    def apply(self) -> list[Operation]:
        """Return what makes the new network live, which a reboot forgets."""
        found = self.backend.before(self.telling)
        for part in self.parts:
            found += part.operations
        return [*found, *self.backend.live(self.telling)]

    def persist(self) -> list[Operation]:
        """Return what makes it last."""
        # A manager may have made again what its files still named a moment ago.
        again = [
            replace(snapshot.ip("link", "delete", "dev", name), ok=ANY) for name in self.removed
        ]
        return [*self.writes, *self.backend.persist(self.telling), *again]

    def rollback(self) -> list[Operation]:
        """Return what undoes both: the manager knows first what shall be, then it is made so."""
        made = [part.name for part in self.parts if part.made]
        files = [Write(w.path, self.before.get(w.path), w.mode) for w in self.writes]
        return [
            *files,
            *self.backend.forget(self.telling),
            *snapshot.former(self.live, self.touched, made, self.deleted),
            *self.backend.resume(self.telling),
        ]
