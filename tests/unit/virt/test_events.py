# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""libvirt's event loop runs by itself while there is a connection, and no longer."""

from __future__ import annotations

import threading

import pytest

libvirt = pytest.importorskip("libvirt", reason="the binding is built for the controller's Python")

from ansible.module_utils.virt.connection import ConnectError, Connection  # noqa: E402
from ansible.module_utils.virt.events import LOOP  # noqa: E402

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


def test_it_runs_while_there_is_a_connection():
    before = threading.active_count()
    one, two = Connection(URI), Connection(URI)
    assert threading.active_count() == before + 1
    assert ticks()
    one.close()
    one.close()  # which is the same
    assert ticks()
    two.close()
    assert threading.active_count() == before
    three = Connection(URI)
    assert ticks()
    three.close()
    assert threading.active_count() == before


def test_a_connection_that_fails_leaves_nothing():
    before = threading.active_count()
    with pytest.raises(ConnectError):
        Connection("test:///nowhere.xml")
    assert threading.active_count() == before


def test_an_event_ends_a_wait():
    connection = Connection(URI)
    asked = []

    def done(names):
        asked.append(names)
        if len(asked) == 1:
            threading.Timer(0.05, connection.handle.lookupByName("test").suspend).start()
        return names is not None

    assert connection.wait(done, SOON)
    assert asked[-1] == {"test"}
    connection.handle.lookupByName("test").resume()
    connection.close()


def test_the_loop_that_nobody_wants_is_not_there():
    assert LOOP._thread is None
