# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""libvirt's event loop runs by itself, from the first wait until nobody needs it."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

libvirt = pytest.importorskip("libvirt", reason="the binding is built for the controller's Python")

from ansible.module_utils.virt import connection  # noqa: E402
from ansible.module_utils.virt.connection import ConnectError, Connection  # noqa: E402
from ansible.module_utils.virt.events import NAME, EventLoop  # noqa: E402

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


@pytest.fixture
def loop(monkeypatch):
    """Give a loop that nobody in this process has wanted yet."""
    made = EventLoop()
    monkeypatch.setattr(connection, "LOOP", made)
    return made


@pytest.fixture
def running():
    """Give what says whether there is a loop, besides those that other tests left."""

    def count():
        return sum(thread.name == NAME for thread in threading.enumerate())

    before = count()
    return lambda: count() > before


def test_what_only_reads_has_none(loop, running):
    one = Connection(URI)
    assert one.handle.numOfDomains() == 1
    assert not running()
    one.close()
    assert loop.join(libvirt) is False


def test_it_runs_from_the_first_wait_until_the_last_connection_is_closed(loop, running):
    one = Connection(URI)
    assert one.wait(lambda _names: True, SOON)
    assert running()
    two = Connection(URI)  # whose keepalives somebody has to answer now
    one.close()
    one.close()  # which is the same
    assert running()
    two.close()
    assert not running()
    with pytest.raises(ConnectError):
        Connection("test:///nowhere.xml")
    assert not running()


def test_events_come_over_a_connection_of_their_own(loop, running, monkeypatch):
    """A daemon's: the driver here stands for it, as its connections share what they have."""
    opened = []

    def opening(uri):
        opened.append(libvirt.open(URI))
        return opened[-1]

    binding = SimpleNamespace(**{**vars(libvirt), "open": opening})
    monkeypatch.setattr(connection, "binding", lambda: binding)
    one = Connection("qemu:///system")
    assert len(opened) == 1
    for _ in range(2):
        assert one.wait(lambda _names: True, SOON)
    assert len(opened) == 2
    one.close()
    assert not running()
    for handle in opened:
        with pytest.raises(libvirt.libvirtError):
            handle.close()  # as it is closed


def test_where_libvirt_went_away_the_clock_alone_ends_a_wait(loop, running, monkeypatch):
    one = Connection(URI)

    def refuse(_uri):
        raise libvirt.libvirtError("gone")

    binding = SimpleNamespace(**{**vars(libvirt), "open": refuse})
    one.libvirt, one._uri = binding, "qemu:///system"
    assert not one.wait(lambda _names: False, 0.1)
    one.close()
    assert not running()


def test_what_the_loop_is_to_do_is_done_while_nobody_waits():
    one = Connection(URI)
    one.wait(lambda _names: True, SOON)
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
