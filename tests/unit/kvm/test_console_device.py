# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The console device: output, input that waits, ports and their control messages."""

from __future__ import annotations

import struct

import pytest
from ansible.module_utils.kvm.virtio.console import INPUT_LIMIT, Port, VirtioConsole
from driving import EVERYTHING, NEEDS_RESET

SIZE, MULTIPORT = 1 << 0, 1 << 1
IN, OUT, CONTROL_IN, CONTROL_OUT, SECOND_IN, SECOND_OUT = range(6)
READY, ADD, REMOVE, PORT_READY, CONSOLE, RESIZE, OPEN, NAME = range(8)


@pytest.fixture
def outputs():
    return [bytearray(), bytearray()]


@pytest.fixture
def console(drive, outputs):
    names = ("", "org.example.agent")
    ports = [Port(name, taken.extend) for name, taken in zip(names, outputs)]
    return drive(VirtioConsole(ports, columns=132, rows=43))


@pytest.fixture
def started(console):
    console.start()
    return console


def say(driver, port, event, value):
    """Send a control message (struct virtio_console_control) to the device."""
    driver.ask(CONTROL_OUT, [driver.buffer(struct.pack("<IHH", port, event, value))])


def offer(driver, index, *lengths):
    """Offer buffers to be filled; return them by the heads of their requests."""
    buffers = {}
    for length in lengths:
        buffer = driver.buffer(length=length)
        buffers[driver.ask(index, into=[buffer])] = buffer
    return buffers


def filled(driver, index, buffers):
    """Return what came into the buffers, in order."""
    return [
        driver.memory.read(buffers[head][0], length)
        for head, length in driver.rings[index].collect()
    ]


def messages(driver, buffers):
    return [
        (*struct.unpack_from("<IHH", one), one[8:]) for one in filled(driver, CONTROL_IN, buffers)
    ]


def test_configuration(console):
    found = [console.device_config(at, size) for at, size in ((0, 2), (2, 2), (4, 4), (8, 4))]
    assert found == [132, 43, 2, 0]
    assert console.offered() & 0xF == SIZE | MULTIPORT
    assert console.read(18, 2) == 6


@pytest.mark.parametrize("indirect", [False, True])
@pytest.mark.parametrize(("index", "port"), [(OUT, 0), (SECOND_OUT, 1)])
def test_output(started, outputs, index, port, indirect):
    pieces = [started.buffer(text) for text in (b"Hello", b", ", b"world\n")]
    head = started.ask(index, pieces, indirect=indirect)
    assert started.rings[index].collect() == [(head, 0)]
    assert started.interrupts(index)
    assert outputs[port] == b"Hello, world\n"
    assert outputs[1 - port] == b""
    assert started.device.counts["output_bytes"] == 13


def test_output_of_many_requests(started, outputs):
    ring = started.rings[OUT]
    for number in range(ring.size):
        ring.add([started.buffer(b"%d\n" % number)])
    started.notify(OUT)
    started.work()
    assert outputs[0].split() == [b"%d" % number for number in range(ring.size)]


def test_output_that_is_none(started, outputs):
    """A request without a readable buffer, or one of no length."""
    started.ask(OUT, into=[started.buffer(length=8)])
    started.ask(OUT, [(0x20_0000, 0)])
    assert [used.length for used in started.rings[OUT].collect()] == [0, 0]
    assert outputs[0] == b""


def test_more_output_than_is_taken_at_once(started, outputs):
    started.ask(OUT, [started.buffer(b"x" * 0x8000) for _ in range(3)])
    assert len(outputs[0]) == 0x1_0000


@pytest.mark.parametrize(("index", "port"), [(IN, 0), (SECOND_IN, 1)])
def test_input_for_a_driver_that_waits(started, index, port):
    buffers = offer(started, index, 64, 64)
    assert started.device.receive(b"one", port) == 3
    assert filled(started, index, buffers) == [b"one"]
    assert started.interrupts(index)
    assert started.device.receive(b"two", port) == 3
    assert filled(started, index, buffers) == [b"two"]
    assert started.device.waiting(port) == 0


def test_input_that_waits_for_the_driver(started):
    assert started.device.receive(b"early and long") == 14
    assert started.device.waiting() == 14
    buffers = offer(started, IN, 5, 64)
    assert filled(started, IN, buffers) == [b"early", b" and long"]
    assert started.device.waiting() == 0


def test_input_over_several_buffers_of_a_request(started):
    first, second = started.buffer(length=4), started.buffer(length=4)
    started.ask(IN, into=[first, second])
    started.device.receive(b"abcdefgh-rest")
    assert [used.length for used in started.rings[IN].collect()] == [8]
    assert started.content(first) + started.content(second) == b"abcdefgh"
    assert started.device.waiting() == 5


def test_input_has_a_limit(started):
    assert started.device.receive(bytes(INPUT_LIMIT - 1)) == INPUT_LIMIT - 1
    assert started.device.receive(b"abc") == 1
    assert started.device.receive(b"abc") == 0
    assert started.device.waiting() == INPUT_LIMIT
    offer(started, IN, 10)
    assert started.device.receive(b"x" * 20) == 10


def test_input_without_a_driver_is_refused(console):
    assert console.device.receive(b"hello?") == 0
    console.start()
    assert console.device.receive(b"hello?") == 6
    console.reset()
    assert console.device.receive(b"hello?") == 0
    assert console.device.waiting() == 0


def test_buffers_that_take_nothing(started):
    """Nothing to write to: given back, and what waits waits on."""
    started.device.receive(b"abc")
    started.ask(IN, into=[(0x20_0000, 0)])
    started.ask(IN, [started.buffer(b"readable")])
    assert [used.length for used in started.rings[IN].collect()] == [0, 0]
    assert started.device.waiting() == 3
    buffers = offer(started, IN, 8)
    assert filled(started, IN, buffers) == [b"abc"]


def test_a_driver_that_never_ceases_to_take_nothing(started):
    """Its buffers have no length, and each that comes back is offered again at once."""
    ring, queue = started.rings[IN], started.device.queues[IN]
    started.device.receive(b"abc")
    turns = []

    def push(head, written):
        type(queue).push(queue, head, written)
        turns[-1] += 1
        assert turns[-1] < 5000, "it keeps the device's lock for ever"
        ring.collect()
        if sum(turns) < 20_000:
            ring.add(into=[(0x20_0000, 0)])

    queue.push = push
    handle = started.device.handle

    def counted(index):
        turns.append(0)
        handle(index)

    started.device.handle = counted
    ring.add(into=[(0x20_0000, 0)])
    started.notify(IN)
    started.work()
    assert sum(turns) >= 20_000


# Control.


def test_the_ports_are_announced(started):
    buffers = offer(started, CONTROL_IN, *[64] * 16)
    say(started, 0, READY, 1)
    assert messages(started, buffers) == [(0, ADD, 0, b""), (1, ADD, 0, b"")]
    say(started, 0, PORT_READY, 1)
    assert messages(started, buffers) == [(0, CONSOLE, 1, b""), (0, OPEN, 1, b"")]
    say(started, 1, PORT_READY, 1)
    assert messages(started, buffers) == [
        (1, NAME, 0, b"org.example.agent\0"),
        (1, OPEN, 1, b""),
    ]
    assert started.interrupts(CONTROL_IN)


def test_messages_wait_for_buffers(started):
    say(started, 0, READY, 1)
    buffers = offer(started, CONTROL_IN, 64)
    buffers.update(offer(started, CONTROL_IN, 64, 64))
    assert messages(started, buffers) == [(0, ADD, 0, b""), (1, ADD, 0, b"")]


IGNORED = {
    "too short": b"\0" * 7,
    "nothing": b"",
    "a driver that is not ready": struct.pack("<IHH", 0, READY, 0),
    "a port that is not ready": struct.pack("<IHH", 1, PORT_READY, 0),
    "a port that is none": struct.pack("<IHH", 2, PORT_READY, 1),
    "the greatest port": struct.pack("<IHH", 0xFFFF_FFFF, PORT_READY, 1),
    "opened": struct.pack("<IHH", 1, OPEN, 1),
    "an event that is the device's": struct.pack("<IHH", 0, RESIZE, 1),
    "an event from the future": struct.pack("<IHH", 0, 99, 1),
    "very long": struct.pack("<IHH", 7, PORT_READY, 1) + bytes(5000),
}


@pytest.mark.parametrize("case", IGNORED)
def test_a_message_without_an_answer(started, case):
    buffers = offer(started, CONTROL_IN, 64, 64)
    head = started.ask(CONTROL_OUT, [started.buffer(IGNORED[case], length=1)])
    assert started.rings[CONTROL_OUT].collect() == [(head, 0)]
    assert messages(started, buffers) == []
    assert not started.status & NEEDS_RESET


def test_a_buffer_too_short_for_its_message(started):
    buffers = offer(started, CONTROL_IN, 4, 64)
    say(started, 0, READY, 1)
    assert filled(started, CONTROL_IN, buffers) == [
        struct.pack("<I", 0),
        struct.pack("<IHH", 1, ADD, 0),
    ]


def test_questions_without_end_do_not_fill_the_helper(started):
    for _ in range(1000):
        say(started, 1, PORT_READY, 1)
        started.rings[CONTROL_OUT].collect()
    assert len(started.device._messages) <= 256
    started.reset()
    assert not started.device._messages


def test_a_new_size_of_the_terminal(started):
    buffers = offer(started, CONTROL_IN, 64)
    started.device.resize(100, 30)
    size = struct.pack("<HH", 100, 30)
    assert messages(started, buffers) == [(0, RESIZE, 0, size)]
    assert (started.device_config(0, 2), started.device_config(2, 2)) == (100, 30)
    assert not started.interrupts(None)


def test_a_new_size_for_a_driver_of_one_port(console):
    console.start(EVERYTHING & ~MULTIPORT, {0: 64, 1: 64})
    generation = console.read(21, 1)
    console.device.resize(100, 30)
    assert console.interrupts(None)
    assert console.read(21, 1) == generation + 1
    assert console.device_config(0, 2) == 100


def test_a_new_size_before_the_driver_is_there(console):
    console.device.resize(100, 30)
    assert console.device_config(2, 2) == 30
    console.start()
    assert not console.device._messages


def test_a_driver_of_one_port(console, outputs):
    console.start(EVERYTHING & ~MULTIPORT, {0: 64, 1: 64})
    console.ask(OUT, [console.buffer(b"only me")])
    assert outputs[0] == b"only me"
    buffers = offer(console, IN, 64)
    console.device.receive(b"yes")
    assert filled(console, IN, buffers) == [b"yes"]


def test_what_waited_is_forgotten_with_a_reset(started):
    started.device.receive(b"of the time before")
    started.start()
    buffers = offer(started, IN, 64)
    assert filled(started, IN, buffers) == []


@pytest.mark.parametrize("index", [IN, CONTROL_IN])
def test_a_broken_driver_is_found_by_what_comes_from_outside(started, index):
    """Input and messages come on other threads than the worker's."""
    started.rings[index].describe(0, 1 << 50, 8, 2)
    started.rings[index].offer(0)
    if index == IN:
        started.device.receive(b"abc")
    else:
        started.device.resize(1, 1)
    assert "lie outside" in started.broken
    assert started.device.receive(b"abc") == 0
