# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Waiting on a connection: what is asked, of which domains, and when.

SIMULATED. The event loop here is a script over a clock that stands still between its steps.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from ansible.module_utils.virt import connection as module
from ansible.module_utils.virt.connection import Connection


class Loop:
    """An event loop whose domains have events at given times; it stands for binding and handle."""

    VIR_DOMAIN_EVENT_ID_LIFECYCLE, VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE = 0, 18

    class libvirtError(Exception):  # noqa: N801
        pass

    def __init__(self, *events, deaf=False):
        self.now, self.events, self.deaf = 1000.0, sorted(events), deaf
        self.calls, self.left, self.names = {}, [], set()

    def domainEventRegisterAny(self, _domain, kind, call, _opaque):  # noqa: N802
        if self.deaf:
            raise self.libvirtError
        self.calls[kind] = call
        return kind

    def domainEventDeregisterAny(self, kind):  # noqa: N802
        self.left.append(kind)

    # What it stands for of Heard.

    def add(self, name):
        self.names.add(name)

    def take(self):
        names, self.names = frozenset(self.names), set()
        return names

    def wait(self, seconds):
        end = self.now + seconds
        if self.calls and self.events and 1000 + self.events[0][0] <= end:
            at, name = self.events.pop(0)
            self.now = max(self.now, 1000 + at)
            domain = SimpleNamespace(name=lambda: name)
            next(iter(self.calls.values()))(self, domain, None, None, None)
        else:
            self.now = max(self.now, end)


def waited(monkeypatch, loop, timeout, until=math.inf):
    """Return whether it ended well, and when which domains were asked for."""
    one = Connection.__new__(Connection)
    one.libvirt = one.handle = one._hears = loop
    one._lock = nullcontext()
    monkeypatch.setattr(module.time, "monotonic", lambda: loop.now)
    monkeypatch.setattr(module, "Heard", lambda: loop)
    asked = []

    def done(names):
        asked.append((round(loop.now - 1000, 3), None if names is None else set(names)))
        return loop.now - 1000 >= until

    found = one.wait(done, timeout)
    assert set(loop.left) == {*loop.calls}, "what was registered is let go"
    return found, asked


def test_an_event_asks_for_its_domain_alone(monkeypatch):
    loop = Loop((0.1, "web"), (0.2, "db"))
    ended, asked = waited(monkeypatch, loop, math.inf, until=0.2)
    assert ended
    assert asked == [(0, None), (0.1, {"web"}), (0.2, {"db"})]


def test_all_are_asked_now_and_then_and_the_less_often_the_longer_it_takes(monkeypatch):
    ended, asked = waited(monkeypatch, Loop(), math.inf, until=300)
    assert ended
    assert {names for _, names in asked} == {None}
    times = [at for at, _ in asked]
    assert times[:4] == [0, 0.5, 1.0, 1.5]
    gaps = [later - at for at, later in zip(times, times[1:])]
    assert all(0.499 <= gap <= max(0.5, at * 0.1) + 0.01 for at, gap in zip(times, gaps))
    assert max(gaps) == pytest.approx(5.0, abs=0.01)
    assert len(times) < 110


def test_many_events_keep_no_other_from_being_asked(monkeypatch):
    loop = Loop(*((number / 100, "noisy") for number in range(1, 1000)))
    _, asked = waited(monkeypatch, loop, math.inf, until=5)
    assert sum(names is None for _, names in asked) >= 10


@pytest.mark.parametrize("deaf", [False, True])
def test_the_end_of_the_time_is_not_missed_and_asks_all_once_more(monkeypatch, deaf):
    ended, asked = waited(monkeypatch, Loop((0.3, "web"), deaf=deaf), 2.2)
    assert not ended
    at, names = asked[-1]
    assert (at, names) == (pytest.approx(2.2, abs=0.002), None)
    assert waited(monkeypatch, Loop(), 2.2, until=2.2)[0]
    assert waited(monkeypatch, Loop(), 0) == (False, [(0, None)])
