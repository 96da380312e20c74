# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""libvirt's event loop runs by itself while there is a connection, and no longer."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

libvirt = pytest.importorskip("libvirt", reason="the binding is built for the controller's Python")

from ansible.module_utils.virt import connection  # noqa: E402
from ansible.module_utils.virt.connection import ConnectError, Connection  # noqa: E402
from ansible.module_utils.virt.events import EventLoop  # noqa: E402

URI = "test:///default"
SOON = 10.0  # seconds


def ticks():
    """Return whether something that libvirt's loop is to do is done without anybody waiting."""
    done = threading.Event()
    timer = libvirt.virEventAddTimeout(1, lambda *_: done.set(), None)
    try:
        return done.wait(SOON)
    finally:
        libvirt.virEventRemoveTimeout(timer)


class Binding:
    """Stands for the binding: one turn of its loop ends when a timer is set to now."""

    libvirtError = libvirt.libvirtError  # noqa: N815

    def __init__(self):
        self.timers, self.due, self.turns = set(), threading.Event(), 0

    def virEventRegisterDefaultImpl(self):  # noqa: N802
        pass

    def virEventAddTimeout(self, milliseconds, *_):  # noqa: N802
        assert milliseconds == -1
        self.timers.add(7)
        return 7

    def virEventUpdateTimeout(self, timer, milliseconds):  # noqa: N802
        assert (timer in self.timers, milliseconds) == (True, 0)
        self.due.set()

    def virEventRemoveTimeout(self, timer):  # noqa: N802
        self.timers.remove(timer)

    def virEventRunDefaultImpl(self):  # noqa: N802
        self.turns += 1
        assert self.due.wait(SOON)
        self.due.clear()


def test_it_runs_as_long_as_anybody_wants_it():
    before, binding, loop = threading.active_count(), Binding(), EventLoop()
    for _ in range(3):
        loop.want(binding)
        loop.want(binding)
        assert threading.active_count() == before + 1
        loop.leave(binding)
        assert threading.active_count() == before + 1
        loop.leave(binding)
        assert threading.active_count() == before
        assert binding.timers == set()
    assert binding.turns >= 3


def test_a_loop_that_fails_ends_alone(monkeypatch):
    binding, loop = Binding(), EventLoop()

    def fail():
        raise libvirt.libvirtError("no loop")

    monkeypatch.setattr(binding, "virEventRunDefaultImpl", fail)
    loop.want(binding)
    loop.leave(binding)
    assert binding.timers == set()


def test_it_is_wanted_as_long_as_a_connection_is_open(monkeypatch):
    wanted = []
    loop = SimpleNamespace(want=wanted.append, leave=wanted.remove)
    monkeypatch.setattr(connection, "LOOP", loop)
    one, two = Connection(URI), Connection(URI)
    assert len(wanted) == 2
    one.close()
    one.close()  # which is the same
    assert len(wanted) == 1
    two.close()
    with pytest.raises(ConnectError):
        Connection("test:///nowhere.xml")
    assert wanted == []


def test_what_the_loop_is_to_do_is_done_while_nobody_waits():
    one = Connection(URI)
    assert ticks()
    one.close()
    two = Connection(URI)
    assert ticks()
    two.close()


def test_an_event_ends_a_wait():
    one = Connection(URI)
    asked = []

    def done(names):
        asked.append(names)
        if len(asked) == 1:
            threading.Timer(0.05, one.handle.lookupByName("test").suspend).start()
        return names is not None

    assert one.wait(done, SOON)
    assert asked[-1] == {"test"}
    one.handle.lookupByName("test").resume()
    one.close()
