# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Shared folders: the daemon's life, the conversation with it, and a guest's requests through it.

A back-end of our own stands in for virtiofsd, started in the same way; the real one is asked too
where there is one.
"""

from __future__ import annotations

import errno
import os
import resource
import runpy
import signal
import socket
import struct
import sys
import time
from pathlib import Path

import pytest
from ansible.module_utils.kvm import attach
from ansible.module_utils.kvm.errors import ConfigError, HostError, InputFileError
from ansible.module_utils.kvm.memory import Backing, GuestMemory
from ansible.module_utils.kvm.virtio import fs, vhost_user
from ansible.module_utils.kvm.virtio.fs import FileSystem, Share, find_daemon
from ansible.module_utils.kvm.virtio.pmem import open_image
from ansible.module_utils.kvm.virtio.vhost_user import FrontEnd, PeerError

HERE = Path(__file__).parent
Driver = runpy.run_path(str(HERE / "guest_side.py"))["Driver"]
MIB = 1 << 20
SIZE = 16 * MIB
INDIRECT, EVENT_INDEX = 1 << 28, 1 << 29


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "folder"
    made.mkdir()
    return made


@pytest.fixture
def daemon(tmp_path):
    """Return a program that is called as virtiofsd is."""
    path = tmp_path / "virtiofsd"
    path.write_text(f'#!/bin/sh\nexec {sys.executable} -S {HERE / "back_end.py"} "$@"\n')
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def new(folder, daemon):
    """Make a share, a guest's memory and the driver of its device."""
    made = []

    def make(share=None, more=()):
        share = share or Share(str(folder), "tag", binary=daemon)
        memory = GuestMemory(SIZE, Backing(shared=True), more)
        driver = Driver(FileSystem(share), memory)
        made.append((driver, memory, share))
        return driver

    yield make
    for driver, memory, share in made:
        driver.close()
        share.close()
        memory.close()


def ask(driver, index=1):
    """Send a request and return what came into its buffer."""
    place = driver.buffer(bytes(16))
    driver.add(index, [(driver.buffer(b"request"), 7)], [(place, 16)])
    driver.notify(index)
    return place


def answered(driver, index=1):
    """Wait until something comes back with an interrupt, and return it."""
    back = []
    while not back:  # the daemon may raise one for nothing
        wait_for(lambda: driver.interrupted(index))
        back = driver.used(index)
    return back


def wait_for(condition):
    give_up = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.001)


def told(folder):
    """Return the requests that the back-end was told, as its log has them."""
    return [line.split() for line in (folder / "log").read_text().splitlines()]


def gone(pid):
    """Wait for the end of a process that was waited for already."""
    return not os.path.exists(f"/proc/{pid}")


def test_a_guests_requests_reach_the_daemon_and_come_back(new, folder):
    driver = new()
    assert driver.config(0, 8) == int.from_bytes(b"tag".ljust(8, b"\0"), "little")
    assert driver.config(36, 4) == 1
    driver.begin()
    for _ in range(3):
        place = ask(driver)
        ((_, written),) = answered(driver)
        assert written == 2
        assert driver.memory.read(place, 2) == b"ok"
    ask(driver, 0)
    assert len(answered(driver, 0)) == 1
    requests = [int(one[0]) for one in told(folder)]
    assert requests[:4] == [1, 15, 16, 3]
    assert requests[4:6] == [2, 5]
    assert requests[6:] == [8, 10, 9, 13, 12, 18] * 2
    assert driver.device.counts == {"sessions": 1}
    assert driver.device.note == "virtiofsd"


@pytest.mark.parametrize("more", [0, INDIRECT, INDIRECT | EVENT_INDEX])
def test_queues_can_what_the_daemon_can(new, folder, more):
    (folder / "features").write_text(f"{more:x}")
    assert new().offered() == 1 << 32 | more


def test_buffers_that_were_there_before_are_served(new, monkeypatch):
    driver = new()
    begin = driver.device.start

    def start():
        ask(driver)  # the driver's notification comes before the daemon listens
        driver.device.kicks[1].take()
        begin()

    monkeypatch.setattr(driver.device, "start", start)
    driver.begin()
    assert len(answered(driver)) == 1


def test_a_driver_may_begin_again(new, folder):
    driver = new()
    for count in (1, 2, 3):
        driver.begin()
        ask(driver)
        assert len(answered(driver)) == 1
        driver.reset()
        requests = [int(one[0]) for one in told(folder)]
        assert requests.count(11) == 2 * count
        assert requests.count(3) == 1


def test_a_machine_may_begin_again_over_the_same_daemon(new, folder, daemon):
    share = Share(str(folder), "tag", binary=daemon)
    for _ in range(2):
        driver = new(share)
        driver.begin()
        place = ask(driver)
        answered(driver)
        assert driver.memory.read(place, 2) == b"ok"
        maps = Path(f"/proc/{share._pid}/maps")
        assert "memfd:guest" in maps.read_text()
        driver.close()
        # The machine that follows may need the memory that this one had.
        assert "memfd:guest" not in maps.read_text()
        assert "memfd:nothing" in maps.read_text()
    requests = [int(one[0]) for one in told(folder)]
    assert requests.count(1) == 1
    assert requests.count(5) == 4


def test_a_machine_ends_over_a_daemon_that_has_ended(new, folder, daemon):
    share = Share(str(folder), "tag", binary=daemon)
    driver = new(share)
    driver.begin()
    os.kill(share._pid, signal.SIGKILL)
    driver.close()
    assert driver.device.note == "virtiofsd has ended"


def test_an_interrupt_may_become_another(new):
    driver = new()
    driver.begin()
    driver.transport.write(22, 2, 1)
    driver.transport.write(26, 2, 2)
    ask(driver)
    wait_for(lambda: driver.interrupted(2))
    assert not driver.interrupted(1)
    assert len(driver.used(1)) == 1
    driver.transport.write(26, 2, 0xFFFF)  # none
    ask(driver)
    wait_for(lambda: driver.used(1))
    assert not driver.interrupted(2)


def test_memory_of_devices_is_shared_but_what_is_read_only(new, folder, tmp_path):
    regions = []
    for name in ("written", "read"):
        (tmp_path / name).write_bytes(bytes(2 * MIB))
        regions.append(open_image(str(tmp_path / name), read_only=name == "read"))
    driver = new(more=regions)
    driver.begin()
    place = regions[0].start
    driver.add(1, [(driver.buffer(b"x"), 1)], [(place, 16)])
    driver.notify(1)
    answered(driver)
    assert (tmp_path / "written").read_bytes()[:2] == b"ok"
    ((_, table, count),) = [one for one in told(folder) if one[0] == "5"]
    assert (int(table[:2], 16), count) == (2, "2")
    driver.close()
    for region in regions:
        region.close()


def test_memory_that_is_not_shared_is_refused(folder, daemon, new_memory):
    share = Share(str(folder), "tag", binary=daemon)
    with pytest.raises(ConfigError, match="memory that is shared"):
        Driver(FileSystem(share), new_memory(SIZE))
    share.close()


def test_the_daemon_ends_with_the_connection(folder, daemon):
    share = Share(str(folder), "tag", binary=daemon)
    share.negotiate()
    assert not gone(share._pid)
    share.close()
    assert gone(share._pid)
    assert told(folder)[-1] == ["end"]
    share.close()


def test_nobody_else_can_connect(folder, daemon, monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    share = Share(str(folder), "tag", binary=daemon)
    assert not list(tmp_path.glob("virtfleet-*"))
    share.close()


def test_a_host_without_a_place_for_sockets_is_told_so(folder, daemon, monkeypatch, tmp_path):
    before = os.listdir("/proc/self/fd")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    with pytest.raises(HostError, match=r"cannot make a socket in .*missing"):
        Share(str(folder), "tag", binary=daemon)
    (tmp_path / ("x" * 100)).mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / ("x" * 100)))
    with pytest.raises(HostError, match=r"cannot make a socket in .*: AF_UNIX path too long"):
        Share(str(folder), "tag", binary=daemon)
    assert not list((tmp_path / ("x" * 100)).iterdir())
    assert os.listdir("/proc/self/fd") == before


def test_a_daemon_that_ends_at_once_is_the_hosts_error(folder, tmp_path):
    binary = tmp_path / "bad"
    binary.write_text("#!/bin/sh\nexit 3\n")
    binary.chmod(0o755)
    share = Share(str(folder), "tag", binary=str(binary))
    with pytest.raises(HostError, match=r"bad does not serve .*folder"):
        FileSystem(share)
    share.close()


def test_a_daemon_that_cannot_be_run_is_the_hosts_error(folder, tmp_path, capfd):
    binary = tmp_path / "bad"
    binary.write_text("#!/no/such/interpreter\n")
    binary.chmod(0o755)
    share = Share(str(folder), "tag", binary=str(binary))
    with pytest.raises(HostError, match="does not serve"):
        share.negotiate()
    share.close()
    assert "bad: " in capfd.readouterr().err


def test_a_host_without_the_daemon_is_told_so(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(fs, "DAEMONS", ((str(tmp_path / "none"), ()),))
    with pytest.raises(HostError, match="needs virtiofsd") as caught:
        Share(str(folder), "tag")
    assert "Debian 12" in caught.value.remedy


def test_daemons_are_looked_for_in_order(tmp_path, monkeypatch):
    places = [str(tmp_path / name) for name in ("first", "second")]
    monkeypatch.setattr(fs, "DAEMONS", ((places[0], ()), (places[1], ("-o", "quiet"))))
    Path(places[1]).touch(mode=0o755)
    assert find_daemon() == (places[1], ("-o", "quiet"))
    Path(places[0]).touch(mode=0o755)
    assert find_daemon() == (places[0], ())
    assert find_daemon(places[1]) == (places[1], ("-o", "quiet"))
    other = tmp_path / "other"
    other.touch(mode=0o755)
    assert find_daemon(str(other)) == (str(other), ())


@pytest.mark.parametrize("tag", ["", "x" * 37, "ä" * 19, "a\0b"])
def test_a_tag_is_a_short_name(folder, daemon, tag):
    with pytest.raises(ConfigError, match="a tag has 1 to 36 bytes"):
        Share(str(folder), tag, binary=daemon)


def test_a_folder_must_be_one(tmp_path, daemon):
    for name in ("missing", "file"):
        if name == "file":
            (tmp_path / name).touch()
        with pytest.raises(InputFileError, match="is not there or is no folder"):
            Share(str(tmp_path / name), "tag", binary=daemon)
    (tmp_path / "a,b").mkdir()
    with pytest.raises(ConfigError, match="comma"):
        Share(str(tmp_path / "a,b"), "tag", binary=daemon)


@pytest.mark.skipif(os.geteuid() != 0, reason="mount namespaces are root's")
def test_a_read_only_folder_is_read_only_for_the_daemon(folder, tmp_path):
    binary = tmp_path / "daemon"
    binary.write_text(
        f"#!/bin/sh\ntouch {folder}/written 2>/dev/null && s=yes || s=no\n"
        f"echo $s > {tmp_path}/result\n"
    )
    binary.chmod(0o755)
    for read_only in (True, False):
        share = Share(str(folder), "tag", read_only=read_only, binary=str(binary))
        os.waitpid(share._pid, 0)
        share.close()
        assert (tmp_path / "result").read_text().strip() == ("no" if read_only else "yes")
        assert (folder / "written").exists() != read_only


def test_a_refusal_breaks_the_device_and_ends_the_daemon(new, folder):
    (folder / "fail").write_text("5")
    driver = new()
    driver.begin()
    assert "refuses request 5" in driver.broken()
    assert driver.device.note == "virtiofsd has ended"
    driver.reset()


def test_a_daemon_that_dies_breaks_the_device_at_its_next_start(new, folder, daemon):
    share = Share(str(folder), "tag", binary=daemon)
    driver = new(share)
    driver.begin()
    os.kill(share._pid, signal.SIGKILL)
    wait_for(lambda: driver.device.note != "virtiofsd")
    driver.reset()
    driver.begin()
    assert "cannot begin" in driver.broken()
    driver.transport.write(22, 2, 1)
    driver.transport.write(26, 2, 2)  # nobody is told


ANSWERS = [
    (b"", "has ended"),
    (struct.pack("=III", 1, 5, 8), "has ended"),
    (struct.pack("=IIIQ", 2, 5, 8, 0), "was answered by 2"),
    (struct.pack("=IIIQ", 1, 1, 8, 0), "was answered by 1"),
    (struct.pack("=IIIQ", 1, 6, 8, 0), "was answered by 1"),
    (struct.pack("=IIII", 1, 5, 4, 0), "with 4 bytes"),
    (struct.pack("=IIIQ", 1, 5, 0xFFFF_FFFF, 0), "with 4294967295 bytes"),
    (struct.pack("=IIIQ", 1, 5, 8, 1 << 32), "older protocol"),
]


@pytest.mark.parametrize(("answer", "what"), ANSWERS)
def test_an_answer_that_is_none_ends_the_conversation(answer, what):
    ours, theirs = socket.socketpair()
    front = FrontEnd(ours)
    theirs.sendall(answer)
    theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(PeerError, match=what):
        front.negotiate()
    assert front.closed
    assert not front.alive()
    theirs.close()


def test_a_daemon_that_does_not_answer_is_given_up(monkeypatch):
    monkeypatch.setattr(vhost_user, "_TIMEOUT", 0.05)
    ours, theirs = socket.socketpair()
    front = FrontEnd(ours)
    assert front.alive()
    with pytest.raises(PeerError, match="does not answer"):
        front.negotiate()
    assert front.closed
    theirs.close()


def test_whether_a_daemon_is_there_is_seen_beyond_what_select_can_tell():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2048:
        pytest.skip("this process may not have that many files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    ours, theirs = socket.socketpair()
    front = FrontEnd(socket.socket(fileno=os.dup2(ours.fileno(), 1500, inheritable=False)))
    ours.close()
    try:
        assert front.alive()
        theirs.close()
        assert not front.alive()
    finally:
        front.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_connection_that_is_closed_takes_nothing():
    ours, theirs = socket.socketpair()
    theirs.close()
    front = FrontEnd(ours)
    with pytest.raises(PeerError, match="takes no messages"):
        front.negotiate()


def test_a_definition_opens_it(folder, daemon):
    spec = {"shares": [{"path": str(folder), "tag": "tag", "binary": daemon}]}
    opened = attach.open_all(spec)
    (one,) = opened
    assert one.shared
    assert one.make().kind == 26
    attach.close_all(opened)


# The real daemon speaks FUSE (include/uapi/linux/fuse.h).
FUSE_GETATTR, FUSE_MKDIR, FUSE_INIT = 3, 9, 26


def _real():
    try:
        return find_daemon()[0] if os.geteuid() == 0 else None
    except HostError:
        return None


@pytest.mark.skipif(_real() is None, reason="there is no virtiofsd here, or this is not root")
@pytest.mark.parametrize("read_only", [False, True])
def test_the_real_daemon_serves_the_folder(new, folder, read_only):
    share = Share(str(folder), "tag", read_only=read_only)
    for boot in ("first", "second"):
        driver = new(share)
        driver.begin()
        error, body = fuse(driver, FUSE_INIT, 0, struct.pack("<IIII", 7, 31, 65536, 0))
        assert error == 0
        assert struct.unpack_from("<I", body)[0] == 7
        error, body = fuse(driver, FUSE_GETATTR, 1, bytes(16))
        assert error == 0
        assert struct.unpack_from("<Q", body, 16)[0] == folder.stat().st_ino
        name = boot.encode() + b"\0"
        error, _ = fuse(driver, FUSE_MKDIR, 1, struct.pack("<II", 0o755, 0) + name)
        assert error == (-errno.EROFS if read_only else 0)
        assert (folder / boot).exists() != read_only
        driver.close()
    assert share.front_end.alive()


def fuse(driver, opcode, node, body):
    """Send one FUSE request and return the error and the body of its answer."""
    head = struct.pack("<IIQQIIII", 40 + len(body), opcode, 1, node, 0, 0, 0, 0)
    room = driver.buffer(bytes(512))
    request = head + body
    driver.add(1, [(driver.buffer(request), len(request))], [(room, 512)])
    driver.notify(1)
    ((_, written),) = answered(driver)
    _, error, _ = struct.unpack("<IiQ", driver.memory.read(room, 16))
    return error, driver.memory.read(room + 16, max(written, 16) - 16)
