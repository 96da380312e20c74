# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What stands behind a virtio console's ports, over devices whose driver is played here."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
from ansible.module_utils.kvm import attach
from ansible.module_utils.kvm.console import Client
from ansible.module_utils.kvm.errors import ConfigError
from ansible.module_utils.kvm.ports import Ports
from ansible.module_utils.kvm.virtio.console import _MESSAGE

PORT_OPEN, RESIZE = 6, 5


def joined(machine):
    """Return the ports that a definition asks for."""
    (attachment,) = attach.open_all({"console": machine})
    return attachment.ports, attachment.make


def driven(device):
    """Let the device have a driver that knows of several ports; return what it was told."""
    device._multiport = True
    transport = SimpleNamespace(lock=threading.RLock(), running=True, guarded=lambda call: call())
    device.queues = [SimpleNamespace(enabled=False)] * len(device.limits)
    device.attach(transport)
    return device._messages


def told(messages):
    found = [(*_MESSAGE.unpack_from(message), message[_MESSAGE.size :]) for message in messages]
    messages.clear()
    return found


class Peer:
    """A client's connection."""

    def __init__(self):
        self.got = b""

    def send(self, data):
        self.got += data
        return len(data)


def test_a_console_without_a_word():
    ports, make = joined({"ports": []})
    assert [channel.name for channel in ports.channels] == ["hvc0"]
    assert not ports.leads
    assert make().limits == (64,) * 4


def test_ports_are_channels():
    ports, make = joined({"type": "virtio", "ports": ["agent", "org.example.0"]})
    assert ports.leads
    assert [channel.name for channel in ports.channels] == ["hvc0", "agent", "org.example.0"]
    assert [channel.waits for channel in ports.channels] == [False, True, True]
    device = make()
    assert [(port.name, port.opened) for port in device.ports] == [
        ("", True),
        ("agent", False),
        ("org.example.0", False),
    ]
    driven(device)
    peer = Peer()
    ports.channels[1].attach(Client(peer))
    device.ports[1].sink(b"said by the guest")
    device.ports[2].sink(b"heard by nobody")
    assert peer.got == b"said by the guest"


BAD = [
    {"type": "vga"},
    {"type": 7},
    {"ports": "agent"},
    {"ports": {"agent": 1}},
    {"ports": [""]},
    {"ports": ["a b"]},
    {"ports": ["x" * 65]},
    {"ports": ["\u00e4"]},
    {"ports": ["a\n"]},
    {"ports": [7]},
    {"ports": [["a"]]},
    {"ports": ["serial"]},
    {"ports": ["hvc0"]},
    {"ports": ["a", "b", "a"]},
    {"ports": [f"p{number}" for number in range(31)]},
]


@pytest.mark.parametrize("spec", BAD)
def test_consoles_that_cannot_be(spec):
    with pytest.raises(ConfigError, match="expected"):
        attach.open_all({"console": spec})


def test_as_many_as_go():
    ports, make = joined({"ports": [f"p{number}" for number in range(30)]})
    assert len(make().limits) == 64
    assert len(ports.channels) == 31


def test_a_driver_is_told_who_is_there():
    ports, make = joined({"ports": ["agent"]})
    messages = driven(make())
    clients = [Client(Peer()), Client(Peer())]
    for client in clients:
        ports.channels[1].attach(client)
    assert told(messages) == [(1, PORT_OPEN, 1, b"")]
    for client in clients:
        ports.channels[1].detach(client)
    assert told(messages) == [(1, PORT_OPEN, 0, b"")]
    ports.channels[0].attach(clients[0])  # the console is there whoever looks
    assert told(messages) == []


def test_the_next_machine_finds_the_size_and_who_is_there():
    ports, make = joined({"ports": ["agent"]})
    ports.resize(132, 43)  # before there is a device at all
    assert make().config[:4] == bytes([132, 0, 43, 0])
    messages = driven(make())
    ports.resize(200, 50)
    assert told(messages) == [(0, RESIZE, 0, bytes([200, 0, 50, 0]))]
    ports.channels[1].attach(Client(Peer()))
    device = make()
    assert device.config[:4] == bytes([200, 0, 50, 0])
    assert device.ports[1].opened


def test_input_goes_to_the_present_machine():
    ports, make = joined({"ports": ["agent"]})
    assert ports.channels[1].receive(b"too early") == 0
    first = make()
    driven(first)
    assert ports.channels[1].receive(b"one") == 3
    second = make()
    driven(second)
    assert ports.channels[0].receive(b"to the console") == 14
    assert ports.channels[1].receive(b"another") == 7
    assert (first.waiting(1), second.waiting(0), second.waiting(1)) == (3, 14, 7)
    second.transport.running = False
    assert ports.channels[1].receive(b"nobody drives it") == 0
    assert isinstance(ports, Ports)
