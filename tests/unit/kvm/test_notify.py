# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What whoever started a guest's process is told."""

from __future__ import annotations

import os
import socket

import pytest
from ansible.module_utils.kvm.notify import Readiness


@pytest.fixture
def pipe():
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as file:
        yield file, writer


def test_ready_is_told_once(pipe):
    file, writer = pipe
    readiness = Readiness(writer)
    readiness.ready()
    readiness.failed("too late to matter")
    assert file.read() == b"ready\n"


def test_a_failure_is_one_line(pipe):
    file, writer = pipe
    Readiness(writer).failed("cannot\nstart")
    assert file.read() == b"error: cannot start\n"


def test_nobody_waits(pipe):
    Readiness(None).ready()
    file, writer = pipe
    file.close()
    Readiness(writer).ready()  # whoever waited has gone: a broken pipe
    Readiness(writer).ready()  # and the descriptor may be none at all


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_systemd_is_told(tmp_path, monkeypatch, kind):
    address = f"@virtfleet-{os.getpid()}" if kind == "abstract" else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(address.replace("@", "\0"))
        receiver.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        readiness = Readiness(None)
        readiness.ready()
        assert receiver.recv(100) == b"READY=1"
        readiness.close()


def test_systemd_waits_as_long_as_the_guest_may_take(tmp_path, monkeypatch):
    """What it speaks to was opened before it went into a jail: the path is gone then."""
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(address)
        receiver.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        readiness = Readiness(None)
        os.unlink(address)
        readiness.stopping(30.5)
        assert receiver.recv(100) == b"STOPPING=1\nEXTEND_TIMEOUT_USEC=40500000"
        readiness.close()
        readiness.stopping(1)  # and what is closed says nothing


def test_a_notify_socket_that_nobody_reads(tmp_path, monkeypatch):
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nowhere"))
    Readiness(None).ready()
