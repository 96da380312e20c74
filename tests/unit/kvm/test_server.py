# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The control server over real sockets, turned by a runner that has no machine."""

from __future__ import annotations

import json
import selectors
import socket

import pytest
from ansible.module_utils.kvm import server
from ansible.module_utils.kvm.console import Channel, Console, Nowhere
from ansible.module_utils.kvm.control import LINE_LIMIT
from ansible.module_utils.kvm.serial import Serial

NEVER = 5.0  # seconds


class Turner:
    """What the server wants of a runner: a selector, turned here by hand."""

    def __init__(self):
        self.selector = selectors.DefaultSelector()
        self.ticks = []
        self.woken = 0

    def watch(self, source, callback):
        self.selector.register(source, selectors.EVENT_READ, callback)

    def unwatch(self, source):
        self.selector.unregister(source)

    def each_turn(self, callback):
        self.ticks.append(callback)

    def wake(self):
        self.woken += 1

    def turn(self, timeout=NEVER):
        """Take one turn of the main loop; return whether something happened."""
        for tick in self.ticks:
            tick()
        ready = self.selector.select(timeout)
        for key, _ in ready:
            key.data()
        return bool(ready)


class Output:
    def __init__(self):
        self.data = b""

    def write(self, data):
        self.data += data


class Fixture:
    def __init__(self, folder):
        self.path = str(folder / "control.sock")
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(self.path)
        self.listener.listen(64)
        self.listener.setblocking(False)
        self.turner = Turner()
        self.output = Output()
        self.console = Console(self.output)
        self.serial = Serial(self.console.write, lambda _: None)
        main = Channel("serial", self.console)
        main.receive = self.serial.receive
        self.port = Channel("agent", Console(Nowhere()), waits=True)
        self.port.receive = self.take
        self.room, self.taken = 0, b""
        self.asked = []
        handlers = {"status": self.status, "refuse": self.refuse, "lacking": self.lacking}
        self.server = server.ControlServer(self.listener, self.turner, [main, self.port], handlers)
        self.clients = []

    def status(self, message):
        self.asked.append(message)
        return {"state": "running"}

    def take(self, data):
        """Take as much as there is room for."""
        taken = data[: self.room]
        self.taken += taken
        self.room -= len(taken)
        return len(taken)

    def refuse(self, _):
        raise ValueError("not today")

    @staticmethod
    def lacking(message):
        return {"value": message["value"]}

    def connect(self):
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        client.settimeout(NEVER)
        client.connect(self.path)
        self.clients.append(client)
        self.turner.turn()
        return client

    def ask(self, client, line):
        client.sendall(line)
        self.turner.turn()
        return self.answer(client)

    @staticmethod
    def answer(client):
        line = b""
        while not line.endswith(b"\n"):
            piece = client.recv(1)
            if not piece:
                return None
            line += piece
        return json.loads(line.decode())

    def flood(self, client, data):
        """Send the data again and again, for ever."""
        while True:
            client.sendall(data)
            self.turner.turn(0)

    def quiet(self):
        """Turn until nothing more happens."""
        while self.turner.turn(0):
            pass

    def close(self):
        for client in self.clients:
            client.close()
        self.quiet()
        assert not self.server._connections
        self.turner.selector.close()
        self.listener.close()


@pytest.fixture
def guest(tmp_path):
    made = Fixture(tmp_path)
    yield made
    made.close()


def test_a_request_is_answered_and_more_may_follow(guest):
    client = guest.connect()
    for number in range(3):
        request = {"op": "status", "number": number}
        assert guest.ask(client, json.dumps(request).encode() + b"\n") == {
            "ok": True,
            "state": "running",
        }
    assert [one["number"] for one in guest.asked] == [0, 1, 2]


def test_a_request_in_pieces_and_several_in_one(guest):
    client = guest.connect()
    for piece in (b'{"op"', b': "stat', b'us"}'):
        client.sendall(piece)
        guest.turner.turn()
    assert guest.asked == []
    client.sendall(b'\n{"op": "status"}\n{"op": "status"}\n{"op"')
    guest.turner.turn()
    assert [guest.answer(client)["ok"] for _ in range(3)] == [True] * 3


BAD = {
    "unknown operation": (b'{"op": "fly"}', "unknown operation or missing value 'fly'"),
    "no operation": (b"{}", "unknown operation or missing value 'op'"),
    "missing value": (b'{"op": "lacking"}', "unknown operation or missing value 'value'"),
    "refused": (b'{"op": "refuse"}', "not understood: not today"),
    "a list": (b'["status"]', "not understood"),
    "a number": (b"17", "not understood"),
    "null": (b"null", "not understood"),
    "a string": (b'"op"', "not understood"),
    "an operation that is a list": (b'{"op": ["status"]}', "not understood"),
    "an operation that is an object": (b'{"op": {}}', "not understood"),
    "not JSON": (b"status please", "not understood"),
    "an empty line": (b"", "not understood"),
    "not text": (b"\xff\xfe\x00", "not understood"),
    "nested without end": (b"[" * 50_000, "not understood"),
    "objects nested without end": (b'{"a":' * 10_000, "not understood"),
    "attach is ours to say": (b'{"op": "lacking", "value": 1, "attach": true}', None),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_is_refused_and_the_connection_stays(guest, case):
    line, words = BAD[case]
    client = guest.connect()
    answer = guest.ask(client, line + b"\n")
    if words is None:
        assert answer == {"ok": True, "value": 1}
    else:
        assert answer["ok"] is False
        assert words in answer["error"]
    assert guest.ask(client, b'{"op": "status"}\n')["ok"] is True


def test_a_line_without_an_end_is_cut_off(guest):
    client = guest.connect()
    client.settimeout(0.5)
    with pytest.raises(OSError, match=r"timed out|Broken pipe|Connection reset"):
        guest.flood(client, b"x" * LINE_LIMIT)
    guest.quiet()
    assert not guest.server._connections


def test_a_flood_of_requests_by_somebody_who_reads_no_answer(guest):
    client = guest.connect()
    client.settimeout(0.2)
    with pytest.raises(OSError, match=r"timed out|Broken pipe|Connection reset"):
        guest.flood(client, b"x\n" * (LINE_LIMIT // 2))
    guest.quiet()
    assert guest.ask(guest.connect(), b'{"op": "status"}\n')["ok"] is True


def test_only_so_many_connections(guest):
    kept = [guest.connect() for _ in range(server._MAX_CONNECTIONS)]
    refused = guest.connect()
    assert refused.recv(1) == b""
    assert guest.ask(kept[0], b'{"op": "status"}\n')["ok"] is True
    kept.pop().close()
    guest.quiet()
    assert guest.ask(guest.connect(), b'{"op": "status"}\n')["ok"] is True


def test_very_many_connections_that_come_and_go(guest):
    for _ in range(200):
        guest.connect().close()
    guest.quiet()
    assert guest.ask(guest.connect(), b'{"op": "status"}\n')["ok"] is True


def test_an_attached_console_carries_bytes_both_ways(guest):
    client = guest.connect()
    # What is typed with the request already belongs to the guest.
    client.sendall(b'{"op": "console"}\nearly ')
    guest.turner.turn()
    assert guest.answer(client) == {"ok": True}
    client.sendall(b'{"op": "stop"}\n')
    guest.turner.turn()
    typed = bytes(guest.serial.read(0, 1) for _ in range(guest.serial.waiting()))
    assert typed == b'early {"op": "stop"}\n'
    guest.serial.write(0, 1, ord("!"))
    assert client.recv(10) == b"!"
    assert guest.output.data == b"!"


def test_several_consoles_see_the_same(guest):
    clients = [guest.connect() for _ in range(3)]
    for client in clients:
        assert guest.ask(client, b'{"op": "console"}\n') == {"ok": True}
    guest.console.write(b"to all")
    assert [client.recv(10) for client in clients] == [b"to all"] * 3
    clients[1].close()
    guest.quiet()
    guest.console.write(b"to two")
    assert [clients[0].recv(10), clients[2].recv(10)] == [b"to two"] * 2


def test_a_console_that_does_not_read_is_closed_and_the_others_go_on(guest):
    slow, good = guest.connect(), guest.connect()
    for client in (slow, good):
        guest.ask(client, b'{"op": "console"}\n')
    good.setblocking(False)
    received = 0
    for _ in range(100):
        guest.console.write(b"x" * 10_000)
        received += len(good.recv(1 << 20))
    guest.quiet()
    assert guest.turner.woken
    assert received == 1_000_000
    assert len(guest.server._connections) == 1


def test_input_beyond_what_the_guest_takes_is_dropped(guest):
    client = guest.connect()
    guest.ask(client, b'{"op": "console"}\n')
    for _ in range(10):
        client.sendall(b"x" * 32_768)
        guest.turner.turn()
    assert guest.serial.waiting() == 64 * 1024


def test_a_port_is_attached_to_by_its_name(guest):
    there = []
    guest.port.on_presence = there.append
    client, other = guest.connect(), guest.connect()
    for one in (client, other):
        assert guest.ask(one, b'{"op": "console", "port": "agent"}\n') == {"ok": True}
    guest.console.write(b"of the serial port")
    guest.port.console.write(b"of the agent")
    assert client.recv(100) == b"of the agent"
    guest.room = 100
    client.sendall(b"to the agent")
    guest.turner.turn()
    assert guest.taken == b"to the agent"
    assert guest.serial.waiting() == 0
    assert there == [True]
    client.close()
    guest.quiet()
    assert there == [True]
    other.close()
    guest.quiet()
    assert there == [True, False]


@pytest.mark.parametrize("name", ["nobody", "", 7, ["agent"]])
def test_a_port_that_is_not_there(guest, name):
    client = guest.connect()
    answer = guest.ask(client, json.dumps({"op": "console", "port": name}).encode() + b"\n")
    assert "the guest has no port" in answer["error"]
    assert "it has serial, agent" in answer["error"]
    assert guest.ask(client, b'{"op": "status"}\n')["ok"] is True


def test_a_port_keeps_what_the_guest_has_no_room_for_and_holds_its_client_up(guest):
    client = guest.connect()
    guest.ask(client, b'{"op": "console", "port": "agent"}\n')
    guest.room = 10
    sent = bytes(range(256)) * 4
    client.sendall(sent)
    guest.turner.turn()
    assert guest.taken == sent[:10]
    client.sendall(b"later")
    assert not guest.turner.turn(0)  # what it sends now stays with it
    guest.room = 100
    guest.quiet()
    assert guest.taken == sent[:110]
    guest.room = 10_000
    guest.quiet()
    assert guest.taken == sent + b"later"


def test_a_client_that_goes_while_the_guest_has_no_room(guest):
    client = guest.connect()
    guest.ask(client, b'{"op": "console", "port": "agent"}\n')
    client.sendall(b"x" * 100)
    guest.turner.turn()
    client.close()
    for _ in range(2):
        guest.port.console.write(b"nobody takes this")
        guest.quiet()
    assert not guest.server._connections
