# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ends a run at any of its calls, as SIGKILL would."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Sequence

if TYPE_CHECKING:
    import pytest


class KilledError(BaseException):
    """Ends a run as SIGKILL does: nothing catches it, nothing is cleared away but by `finally`."""


class Knife:
    """Counts the calls that change something, each before and after, and ends the run at one.

    ``calls`` are owners with the names of what is called on them. None is ended while ``left``,
    how many calls are let through, is None.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, calls: Sequence[tuple[Any, str]]) -> None:
        self.left: int | None = None
        self.count = 0
        for owner, name in calls:
            monkeypatch.setattr(owner, name, self._guarded(getattr(owner, name)))

    def _guarded(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def inner(*arguments: Any, **more: Any) -> Any:
            self._strike()
            found = call(*arguments, **more)
            self._strike()
            return found

        return inner

    def _strike(self) -> None:
        self.count += 1
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise KilledError
