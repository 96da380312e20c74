# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where output goes: a stream, a log that rotates and survives everything, slow clients."""

from __future__ import annotations

import os
import socket

import pytest
from ansible.module_utils.kvm import console
from ansible.module_utils.kvm.console import Client, Console, Log, Stream
from ansible.module_utils.kvm.errors import EXIT_IO, OutputError


@pytest.fixture
def new_log(tmp_path):
    """Make logs in a folder of the test's own, and close them."""
    made = []

    def make(max_size=10, keep=2, path=None):
        made.append(Log(str(path or tmp_path / "console.log"), max_size, keep))
        return made[-1]

    yield make
    for log in made:
        log.close()


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_stream_writes_all(monkeypatch):
    """A pipe takes all at once when it is empty: short writes are made by replacing os.write."""
    taken = []

    def short_write(descriptor, data):
        taken.append((descriptor, data[:3]))
        return min(len(data), 3)

    monkeypatch.setattr(console.os, "write", short_write)
    Stream(7).write(b"abcdefgh")
    assert taken == [(7, b"abc"), (7, b"def"), (7, b"gh")]


def test_a_stream_nobody_reads_is_an_output_error():
    reader, writer = os.pipe()
    os.close(reader)
    with pytest.raises(OutputError, match="cannot write the guest's output: Broken pipe") as failed:
        Stream(writer).write(b"x")
    assert failed.value.status == EXIT_IO
    os.close(writer)
    with pytest.raises(OutputError, match="Bad file descriptor"):
        Stream(writer).write(b"x")


# writes, limits → what lies in the folder afterwards
ROTATIONS = {
    "below the limit": ([b"12345", b"67890"], 10, 2, {"": b"1234567890"}),
    "one byte more": ([b"1234567890", b"a"], 10, 2, {"": b"a", ".1": b"1234567890"}),
    "a write is never split": ([b"123456", b"abcdef"], 10, 2, {"": b"abcdef", ".1": b"123456"}),
    "the oldest goes": (
        [b"1" * 10, b"2" * 10, b"3" * 10, b"4" * 10],
        10,
        2,
        {"": b"4" * 10, ".1": b"3" * 10, ".2": b"2" * 10},
    ),
    "none is kept": ([b"1" * 10, b"2" * 10, b"3"], 10, 0, {"": b"3"}),
    "larger than the limit": ([b"1" * 25, b"2"], 10, 1, {"": b"2", ".1": b"1" * 25}),
    "larger than the limit in an empty log": ([b"1" * 25], 10, 1, {"": b"1" * 25}),
}


@pytest.mark.parametrize("case", ROTATIONS)
def test_rotation(new_log, tmp_path, case):
    writes, max_size, keep, expected = ROTATIONS[case]
    log = new_log(max_size, keep)
    for data in writes:
        log.write(data)
    assert files(tmp_path) == {f"console.log{end}": data for end, data in expected.items()}
    assert (log.dropped, log.error, log.size) == (0, None, len(expected[""]))


def test_disk_use_is_bounded_whatever_is_written(new_log, tmp_path):
    log = new_log(max_size=100, keep=3)
    for number in range(5000):
        log.write(b"%d\n" % number)
    found = files(tmp_path)
    assert len(found) == 4
    assert max(len(data) for data in found.values()) <= 100
    newest = b"".join(found[f"console.log{end}"] for end in (".3", ".2", ".1", ""))
    numbers = [int(line) for line in newest.split()]
    assert numbers == list(range(numbers[0], 5000))


def test_keeping_fewer_takes_away_what_is_too_many(new_log, tmp_path):
    log = new_log(max_size=1, keep=4)
    for data in (b"1", b"2", b"3", b"4", b"5"):
        log.write(data)
    log.keep = 1
    log.write(b"6")
    assert files(tmp_path) == {"console.log": b"6", "console.log.1": b"5"}


def test_a_log_goes_on_where_it_was(new_log, tmp_path):
    (tmp_path / "console.log").write_bytes(b"before\n")
    log = new_log(max_size=20)
    assert log.size == 7
    log.write(b"after\n")
    assert files(tmp_path) == {"console.log": b"before\nafter\n"}


def test_a_log_is_for_the_guests_user_and_group_alone(new_log, tmp_path):
    new_log()
    assert (tmp_path / "console.log").stat().st_mode & 0o007 == 0


def test_a_full_disk_loses_output_and_nothing_else(new_log, tmp_path):
    """/dev/full is a disk that is always full; a link in the folder's place leads to it."""
    log = new_log()
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, log._descriptor)
    os.close(full)
    for _ in range(3):
        log.write(b"1234")
    assert (log.dropped, log.size) == (12, 0)
    assert log.error == "No space left on device"


def test_output_goes_on_once_there_is_room_again(new_log, tmp_path, monkeypatch):
    """Takes nothing, then two bytes, then all, as a disk does that is emptied meanwhile."""
    log = new_log()
    room = [OSError(28, "No space left on device"), 2]
    write = os.write

    def scarce(descriptor, data):
        if not room:
            return write(descriptor, data)
        now = room.pop(0)
        if isinstance(now, OSError):
            raise now
        return write(descriptor, data[:now])

    monkeypatch.setattr(console.os, "write", scarce)
    log.write(b"aaaa")
    assert (log.dropped, log.error) == (4, "No space left on device")
    log.write(b"bbbb")
    log.write(b"cccc")
    assert (log.dropped, log.error, log.size) == (6, None, 6)
    assert files(tmp_path) == {"console.log": b"bbcccc"}


def test_a_folder_that_comes_back_is_used_again(new_log, tmp_path):
    log = new_log(path=tmp_path / "later" / "console.log")
    log.write(b"lost")
    assert (log.dropped, log.error) == (4, "No such file or directory")
    (tmp_path / "later").mkdir()
    log.write(b"kept")
    assert (log.dropped, log.error) == (4, None)
    assert files(tmp_path / "later") == {"console.log": b"kept"}


def test_a_folder_that_cannot_be_written_when_rotating(new_log, tmp_path):
    log = new_log(max_size=4, keep=1)
    log.write(b"1234")
    (tmp_path / "console.log.1").mkdir()
    log.write(b"5678")  # cannot rotate, and goes on in the same file
    assert (tmp_path / "console.log").read_bytes() == b"12345678"


@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe", "folder"])
def test_what_a_hostile_guest_user_plants_is_not_followed(new_log, tmp_path, kind):
    target = tmp_path / "precious"
    planted = tmp_path / "state" / "console.log"
    planted.parent.mkdir()
    if kind == "pipe":
        os.mkfifo(str(planted))  # opening it for writing must not wait for a reader
    elif kind == "folder":
        planted.mkdir()
    else:
        if kind == "link":
            target.write_bytes(b"untouched")
        planted.symlink_to(target)
    log = new_log(path=planted)
    log.write(b"12345")
    log.write(b"67890!")
    assert log.dropped == 11
    assert log.error not in {None, "Bad file descriptor"}
    assert target.exists() == (kind == "link")
    assert kind != "link" or target.read_bytes() == b"untouched"


def test_a_link_planted_before_rotation_is_moved_not_followed(new_log, tmp_path):
    target = tmp_path / "precious"
    target.write_bytes(b"untouched")
    (tmp_path / "state").mkdir()
    log = new_log(max_size=4, keep=2, path=tmp_path / "state" / "console.log")
    log.write(b"1234")
    (tmp_path / "state" / "console.log.1").symlink_to(target)
    log.write(b"5678")
    log.write(b"90ab")
    log.write(b"cdef")
    assert target.read_bytes() == b"untouched"
    assert not (tmp_path / "state" / "console.log").is_symlink()
    assert log.dropped == 0


class Target:
    def __init__(self):
        self.data = b""

    def write(self, data):
        self.data += data


@pytest.fixture
def attached():
    """Return a console with one attached client, and the client's other end."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.settimeout(5)
    terminal = Console(Target())
    client = Client(ours)
    terminal.attach(client)
    yield terminal, client, theirs
    ours.close()
    theirs.close()


def test_a_client_gets_what_comes_after_it_attached(attached):
    terminal, client, theirs = attached
    terminal.write(b"hello")
    assert theirs.recv(100) == b"hello"
    terminal.detach(client)
    terminal.write(b" and more")
    assert terminal.target.data == b"hello and more"
    theirs.setblocking(False)
    with pytest.raises(BlockingIOError):
        theirs.recv(100)


def test_a_slow_client_is_served_later_and_misses_nothing(attached):
    terminal, client, theirs = attached
    woken = []
    terminal.on_backlog = lambda: woken.append(True)
    sent = b""
    while not client.backlog:
        sent += b"%06d\n" % len(sent) * 1000
        terminal.write(sent[-7000:])
    assert woken == [True]
    received = b""
    while len(received) < len(sent):
        received += theirs.recv(1 << 20)
        behind = terminal.flush()
    assert received == sent
    assert not behind
    assert not client.lost


def test_a_client_that_never_reads_is_given_up_and_the_guest_goes_on(attached):
    terminal, client, _ = attached
    for _ in range(200):
        terminal.write(b"x" * 10_000)
    assert client.lost
    assert len(terminal.target.data) == 2_000_000


def test_a_client_that_has_gone_is_lost(attached):
    terminal, client, theirs = attached
    theirs.close()
    terminal.write(b"x")
    assert client.lost
    assert terminal.target.data == b"x"
