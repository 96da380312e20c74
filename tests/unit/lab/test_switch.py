# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The cable: frames arrive whole at everybody else, however they were cut on the way."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from virtlab.switch import Port

LAB = Path(__file__).resolve().parents[2] / "lab"


def frame(data):
    return struct.pack("!I", len(data)) + data


@pytest.fixture
def pair():
    here, there = socket.socketpair()
    with here, there:
        yield Port(here), there


@pytest.mark.parametrize("cut", [1, 3, 4, 5, 9])
def test_frames_are_put_together_again(pair, cut):
    port, there = pair
    stream = frame(b"hello") + frame(b"") + frame(b"world!")
    found = []
    for at in range(0, len(stream), cut):
        there.sendall(stream[at : at + cut])
        found += port.receive()
    assert found == [frame(b"hello"), frame(b""), frame(b"world!")]


def test_a_host_that_is_gone_is_told(pair):
    port, there = pair
    there.close()
    with pytest.raises(ConnectionResetError):
        port.receive()


def test_a_nonsensical_length_is_refused(pair):
    port, there = pair
    there.sendall(struct.pack("!I", 1 << 31))
    with pytest.raises(OSError, match="nonsensical"):
        port.receive()


def test_a_frame_reaches_all_others_and_not_its_sender(tmp_path):
    command = [sys.executable, "-m", "virtlab.switch", str(tmp_path / "s")]
    with subprocess.Popen(
        command, env={"PYTHONPATH": str(LAB)}, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            links = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(3)]
            for link in links:
                link.connect(str(tmp_path / "s"))
                link.settimeout(10)
            time.sleep(0.2)  # the switch takes them in its own time
            links[0].sendall(frame(b"to all"))
            for link in links[1:]:
                assert link.recv(64) == frame(b"to all")
            links[0].settimeout(0.2)
            with pytest.raises(TimeoutError):
                links[0].recv(64)
            links[1].close()
            links[2].sendall(frame(b"again"))
            links[0].settimeout(10)
            assert links[0].recv(64) == frame(b"again")
            for link in links:
                link.close()
        finally:
            process.kill()
