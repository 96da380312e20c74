# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The engines of one host side by side: each gets its own guests, a name belongs to one of them."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Collection, Iterator, Mapping, Sequence

from ..converge.lock import exclusive, holder
from ..kvm.layout import make_folder

if TYPE_CHECKING:
    from ..converge.action import Action
    from ..converge.errors import Problem
    from ..kvm.layout import Layout
    from .engine import Dialect, Engine, Failure, Observed
    from .spec import Declared

Specs = Mapping[str, Mapping[str, Any]]


class Engines:
    """What observes, checks and applies for all guests of a host."""

    def __init__(self, engines: Sequence[Engine], layout: Layout) -> None:
        self.by_name = {engine.name: engine for engine in engines}
        self.layout = layout
        self._seen: dict[str, Observed] = {}

    def observe(self, names: Collection[str] | None = None) -> dict[str, Observed]:
        """Return the guests of this host by name, all of them or at least those of the names.

        Of two with one name, which only a stranger can bring about, it is the one that is ours.
        """
        found: dict[str, Observed] = {}
        for engine in self.by_name.values():
            for name, seen in engine.observe(names).items():
                known = found.get(name)
                if known is None or (seen.owned and not known.owned):
                    found[name] = seen
        self._seen = found
        return found

    def dialects(self) -> dict[str, Dialect]:
        """Return how guests are declared on this host, by engine."""
        return {name: engine.dialect() for name, engine in self.by_name.items()}

    def _apart(
        self, actions: Sequence[Action], specs: Specs
    ) -> Iterator[tuple[Engine, list[Action], dict[str, Mapping[str, Any]]]]:
        """Yield each engine that has something to do, with its actions and specs."""
        for name, engine in self.by_name.items():
            own = [action for action in actions if self._engine_of(action, specs) == name]
            if own:
                names = {action.name for action in own}
                yield engine, own, {key: spec for key, spec in specs.items() if key in names}

    def _engine_of(self, action: Action, specs: Specs) -> str:
        if action.name in self._seen:
            return self._seen[action.name].engine
        return str(specs[action.name]["engine"])

    def preflight(
        self, actions: Sequence[Action], specs: Specs, *, check_mode: bool
    ) -> list[Problem]:
        """Return why actions of the plan could not work."""
        problems: list[Problem] = []
        for engine, own, theirs in self._apart(actions, specs):
            problems += engine.preflight(own, theirs, check_mode=check_mode)
        return problems

    def warnings(self) -> list[str]:
        """Return what a user should know of the plan."""
        return [text for engine in self.by_name.values() for text in engine.warnings]

    def unfinished(self) -> bool:
        """Return whether an interrupted run left something."""
        return any(engine.unfinished() for engine in self.by_name.values())

    @contextmanager
    def session(self) -> Iterator[None]:
        """Hold this host against other runs, and clear away what an interrupted one left."""
        make_folder(self.layout.state)
        with exclusive(os.path.join(self.layout.state, "lock"), holder("kvm_guests")):
            for engine in self.by_name.values():
                engine.sweep()
            yield

    def apply(self, actions: Sequence[Action], specs: Specs) -> list[Failure]:
        """Carry out the actions of one step, and return those that failed."""
        failures: list[Failure] = []
        for engine, own, theirs in self._apart(actions, specs):
            failures += engine.apply(own, theirs)
        return failures

    def addresses(self, name: str) -> list[str]:
        """Return the addresses of a running guest, as far as they are known."""
        seen = self._seen.get(name)
        return [] if seen is None else self.by_name[seen.engine].addresses(name)

    def close(self) -> None:
        """Let go of what was opened."""
        for engine in self.by_name.values():
            engine.close()

    def settle(self, guests: Sequence[Declared]) -> dict[str, str]:
        """Wait for what was asked for; return the reason for each guest that did not get there."""
        failures: dict[str, str] = {}
        for name, engine in self.by_name.items():
            own = [guest for guest in guests if guest.engine == name]
            if own:
                failures.update(engine.settle(own))
        return failures
