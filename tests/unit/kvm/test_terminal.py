# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Terminals: raw while they are used, restored after; the feeder; a console that is attached to."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import socket
import struct
import termios
import threading
import time
from contextlib import suppress

import pytest
from ansible.module_utils.kvm import terminal
from ansible.module_utils.kvm.serial import Serial

ECHO_AND_LINES = termios.ECHO | termios.ICANON | termios.ISIG


@pytest.fixture
def tty():
    """Return a terminal: the person's side and the program's side."""
    person, program = pty.openpty()
    yield person, program
    for descriptor in (person, program):
        with suppress(OSError):
            os.close(descriptor)


@pytest.fixture
def stdin(monkeypatch):
    """Use another descriptor as standard input."""
    return lambda descriptor: monkeypatch.setattr(terminal, "STDIN", descriptor)


def local_modes(descriptor):
    return termios.tcgetattr(descriptor)[3] & ECHO_AND_LINES


def test_raw_and_back(tty):
    _, program = tty
    before = termios.tcgetattr(program)
    with terminal.raw_terminal(program) as is_terminal:
        assert is_terminal
        assert local_modes(program) == 0
    assert termios.tcgetattr(program) == before


def leave_by_an_error(program):
    with terminal.raw_terminal(program):
        raise KeyError("an error inside")


def test_restored_after_an_error(tty):
    _, program = tty
    before = termios.tcgetattr(program)
    with pytest.raises(KeyError, match="an error inside"):
        leave_by_an_error(program)
    assert termios.tcgetattr(program) == before


def test_what_is_no_terminal_is_left_alone():
    with open(os.devnull, "rb") as file, terminal.raw_terminal(file.fileno()) as is_terminal:
        assert not is_terminal


class Turns:
    """What the feeder wants of a runner."""

    def __init__(self):
        self.tick = None

    def each_turn(self, callback):
        self.tick = callback


@pytest.fixture
def feeder(stdin):
    """Make a feeder from a descriptor; return its tick, the port and how often it escaped."""

    def make(descriptor):
        stdin(descriptor)
        turns, escapes = Turns(), []
        serial = Serial(lambda _: None, lambda _: None)
        terminal.Feeder(turns, serial, lambda: escapes.append(True))
        return turns.tick, serial, escapes

    return make


def take(serial):
    return bytes(serial.read(0, 1) for _ in range(serial.waiting()))


def test_input_reaches_the_guest_and_its_end_only_ends_the_feeding(feeder):
    reader, writer = os.pipe()
    tick, serial, escapes = feeder(reader)
    assert tick() > 0  # nothing there: come back soon
    os.write(writer, b"hello")
    assert tick() > 0
    assert take(serial) == b"hello"
    os.close(writer)
    assert tick() is None
    assert tick() is None
    assert (take(serial), escapes) == (b"", [])
    os.close(reader)


def test_no_faster_than_the_guest_reads(feeder, tmp_path):
    path = tmp_path / "input"
    path.write_bytes(bytes(n % 256 for n in range(10_000)))
    with path.open("rb") as file:
        tick, serial, _ = feeder(file.fileno())
        received = b""
        while tick() is not None:
            assert serial.waiting() <= 2 * terminal._FEED_BELOW
            received += take(serial)
    assert received + take(serial) == path.read_bytes()


def test_a_pipe_may_carry_the_escape_byte(feeder):
    reader, writer = os.pipe()
    tick, serial, escapes = feeder(reader)
    os.write(writer, b"a\x1db")
    tick()
    assert (take(serial), escapes) == (b"a\x1db", [])
    os.close(reader)
    os.close(writer)


def test_the_escape_key_on_a_terminal(feeder, tty):
    person, program = tty
    with terminal.raw_terminal(program):
        tick, serial, escapes = feeder(program)
        os.write(person, b"ls\r")
        tick()
        assert take(serial) == b"ls\r"
        os.write(person, b"\x1d")
        assert tick() is None
        assert (take(serial), escapes) == (b"", [True])


def test_an_input_that_is_closed(feeder):
    reader, writer = os.pipe()
    os.close(writer)
    os.close(reader)
    tick, _, escapes = feeder(reader)
    assert tick() is None
    assert escapes == []


class Attached:
    """Runs `converse` in a thread, between pipes and a socket."""

    def __init__(self, monkeypatch, stdin):
        self.typed, out = None, None
        reader, self.typed = os.pipe()
        self.shown, out = os.pipe()
        self.descriptors = [reader, self.typed, self.shown, out]
        monkeypatch.setattr(terminal, "STDIN", reader if stdin is None else stdin)
        monkeypatch.setattr(terminal, "STDOUT", out)
        ours, self.guest = socket.socketpair()
        self.guest.settimeout(5)
        self.ended = []
        self.connection = ours
        self.thread = threading.Thread(
            target=lambda: self.ended.append(terminal.converse(self.connection))
        )
        self.thread.start()

    def end_of_input(self):
        os.close(self.typed)
        self.descriptors.remove(self.typed)

    def wait(self):
        self.thread.join(5)
        return self.ended

    def close(self):
        self.guest.close()
        self.thread.join(5)
        self.connection.close()
        for descriptor in self.descriptors:
            os.close(descriptor)


@pytest.fixture
def attach(monkeypatch):
    made = []

    def make(stdin=None):
        made.append(Attached(monkeypatch, stdin))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_a_conversation_that_the_guest_ends(attach):
    talk = attach()
    os.write(talk.typed, b"exit 3\r")
    assert talk.guest.recv(100) == b"exit 3\r"
    talk.guest.sendall(b"bye")
    assert os.read(talk.shown, 100) == b"bye"
    talk.guest.close()
    assert talk.wait() == ["guest"]


def test_a_guest_that_ends_before_it_has_read_everything(attach):
    """Closing a socket with unread input resets the connection, which is an end like another."""
    talk = attach()
    os.write(talk.typed, b"exit 3\rand more")
    time.sleep(0.05)
    talk.guest.close()
    assert talk.wait() == ["guest"]


def test_the_end_of_the_input_still_shows_the_answer(attach, monkeypatch):
    monkeypatch.setattr(terminal, "_SILENCE", 0.2)
    talk = attach()
    os.write(talk.typed, b"info\r")
    talk.end_of_input()
    assert talk.guest.recv(100) == b"info\r"
    talk.guest.sendall(b"all is well")
    assert talk.wait() == ["user"]
    assert os.read(talk.shown, 100) == b"all is well"


def test_the_escape_key_leaves(attach, tty):
    person, program = tty
    before = termios.tcgetattr(program)
    talk = attach(program)
    while local_modes(program):  # until it is raw: before, the terminal would take the key
        time.sleep(0.001)
    os.write(person, b"w\x03")
    assert talk.guest.recv(100) == b"w\x03"  # Ctrl-C is the guest's
    os.write(person, b"\x1d")
    assert talk.wait() == ["user"]
    assert termios.tcgetattr(program) == before


def test_the_size_of_the_terminal_is_told_at_first_and_when_it_changes(monkeypatch, tty):
    person, program = tty
    out, shown = os.pipe()
    monkeypatch.setattr(terminal, "STDIN", program)
    monkeypatch.setattr(terminal, "STDOUT", shown)
    before = signal.getsignal(signal.SIGWINCH)
    ours, guest = socket.socketpair()
    sizes = []

    def on_resize(columns, rows):
        sizes.append((columns, rows))
        if len(sizes) == 1:
            fcntl.ioctl(program, termios.TIOCSWINSZ, struct.pack("4H", 50, 132, 0, 0))
            os.kill(os.getpid(), signal.SIGWINCH)
        else:
            os.write(person, terminal.ESCAPE)

    fcntl.ioctl(program, termios.TIOCSWINSZ, struct.pack("4H", 25, 80, 0, 0))
    assert terminal.converse(ours, on_resize) == "user"
    assert sizes == [(80, 25), (132, 50)]
    assert signal.getsignal(signal.SIGWINCH) == before
    for one in (ours, guest):
        one.close()
    for descriptor in (out, shown):
        os.close(descriptor)


def test_what_is_no_terminal_has_no_size(attach, monkeypatch):
    sizes = []
    converse = terminal.converse
    monkeypatch.setattr(terminal, "converse", lambda c: converse(c, lambda *s: sizes.append(s)))
    talk = attach()
    talk.guest.sendall(b"x")
    assert os.read(talk.shown, 10) == b"x"
    talk.guest.close()
    assert talk.wait() == ["guest"]
    assert sizes == []
