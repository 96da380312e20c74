# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The client's side of the control socket, against guests that answer wrongly or not at all."""

from __future__ import annotations

import os
import socket
import threading
import time

import pytest
from ansible.module_utils.kvm import control
from ansible.module_utils.kvm.errors import EXIT_IO, ControlError


@pytest.fixture
def pair():
    """Return a connection as the client holds it, and the guest's end."""
    client, guest = socket.socketpair()
    client.settimeout(5)
    guest.settimeout(5)
    yield client, guest
    client.close()
    guest.close()


def test_one_request_one_answer(pair):
    client, guest = pair
    guest.sendall(b'{"ok": true, "pid": 7}\nraw bytes of the console')
    assert control.ask(client, {"op": "status"}) == {"ok": True, "pid": 7}
    assert guest.recv(100) == b'{"op": "status"}\n'
    assert client.recv(100) == b"raw bytes of the console"  # not a byte too much was taken


ANSWERS = {
    "refused": (b'{"ok": false, "error": "too late"}\n', "refuses 'stop': too late"),
    "refused without a reason": (b"{}\n", "refuses 'stop': None"),
    "no JSON": (b"hello\n", "without an answer"),
    "no text": (b"\xff\xfe\n", "without an answer"),
    "JSON, but no object": (b"[1, 2]\n", r"refuses 'stop': \[1, 2\]"),
    "nothing": (b"", "without an answer"),
    "half a line": (b'{"ok": tr', "without an answer"),
    "a line without an end": (b"x" * (control.LINE_LIMIT + 10), "without an answer"),
    "nested without end": (b"[" * 60_000 + b"\n", "without an answer"),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_what_is_no_good_answer(pair, case):
    client, guest = pair
    answer, words = ANSWERS[case]
    guest.sendall(answer)
    guest.shutdown(socket.SHUT_WR)
    with pytest.raises(ControlError, match=words) as failed:
        control.ask(client, {"op": "stop"})
    assert failed.value.status == EXIT_IO


def test_a_guest_that_is_silent(pair):
    client, _ = pair
    client.settimeout(0.05)
    with pytest.raises(ControlError, match="does not answer: timed out"):
        control.ask(client, {"op": "status"})


def test_a_guest_that_drips_its_answer_gains_no_time(pair):
    client, guest = pair
    client.settimeout(0.2)
    done = threading.Event()

    def drip():
        while not done.wait(0.05):
            guest.send(b" ")

    thread = threading.Thread(target=drip)
    thread.start()
    begin = time.monotonic()
    with pytest.raises(ControlError, match="does not answer: timed out"):
        control.ask(client, {"op": "status"})
    assert time.monotonic() - begin < 2
    done.set()
    thread.join()


def test_a_guest_that_has_gone(pair):
    client, guest = pair
    guest.close()
    with pytest.raises(ControlError, match="does not answer: Broken pipe"):
        control.ask(client, {"op": "status"})


def test_a_path_of_any_length(tmp_path):
    folder = tmp_path / ("long" * 60)
    folder.mkdir()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    handle = os.open(str(folder), os.O_PATH)
    listener.bind(f"/proc/self/fd/{handle}/control.sock")
    os.close(handle)
    listener.listen(1)
    before = set(os.listdir("/proc/self/fd"))
    with control.connect(str(folder / "control.sock"), 1.0) as client:
        assert client.gettimeout() == 1.0
    listener.close()
    with pytest.raises(ControlError, match="Connection refused"):
        control.request(str(folder / "control.sock"), {"op": "status"})
    assert len(os.listdir("/proc/self/fd")) == len(before) - 1  # the listener


@pytest.mark.parametrize("name", ["nowhere/control.sock", "control.sock", "file/control.sock"])
def test_nobody_there(tmp_path, name):
    (tmp_path / "file").touch()
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(ControlError, match="no guest answers at"):
        control.request(str(tmp_path / name), {"op": "status"})
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_plain_file_in_the_sockets_place(tmp_path):
    (tmp_path / "control.sock").touch()
    with pytest.raises(ControlError, match="no guest answers at"):
        control.request(str(tmp_path / "control.sock"), {"op": "status"})
