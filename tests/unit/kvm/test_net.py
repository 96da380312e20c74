# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The network device without vhost: frames, buffers, pairs of queues, drivers that break rules."""

from __future__ import annotations

import os
import socket
import struct

import pytest
from ansible.module_utils.kvm.virtio import net as virtio_net
from ansible.module_utils.kvm.virtio.net import MRG_RXBUF, Net
from driving import EVENT_INDEX, EVERYTHING, INDIRECT, VERSION_1

MAC = bytes.fromhex("020000000001")
GUEST_CSUM, GUEST_TSO4, CTRL_VQ, MQ = 1 << 1, 1 << 7, 1 << 17, 1 << 22
ALWAYS = VERSION_1 | INDIRECT | EVENT_INDEX
HEADER = 12
FRAME = bytes(range(60))


class FakeTap:
    """A tap whose other ends are sockets: each message is a frame with its header."""

    def __init__(self, queues=1):
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(queues)]
        self.ours, self.host = zip(*pairs)
        for one in (*self.ours, *self.host):
            one.setblocking(False)
        self.fds = [one.fileno() for one in self.ours]
        self.name, self.mtu = "vf0", 1500
        self.offload = None
        self.on = {0}
        self.gone = False

    def set_offload(self, offload):
        if self.gone:
            raise OSError(77, "File descriptor in bad state")
        self.offload = offload

    def switch(self, queue, *, on):
        (self.on.add if on else self.on.discard)(queue)

    def discard(self, queue):
        try:
            while True:
                os.read(self.fds[queue], 1)
        except BlockingIOError:
            pass

    def statistics(self):
        return {"rx_frames": 5, "rx_dropped": 1}

    def close(self):
        for one in (*self.ours, *self.host):
            one.close()

    def arrive(self, frame, queue=0):
        """Let a frame come in from the bridge."""
        self.host[queue].send(bytes(HEADER) + frame)

    def left(self, queue=0):
        """Return the frames that the guest has sent."""
        found = []
        try:
            while True:
                found.append(self.host[queue].recv(1 << 17))
        except BlockingIOError:
            return found


@pytest.fixture
def net(drive):
    """Make network devices over taps of their own, with a driver each."""
    taps = []

    def make(queues=1):
        taps.append(FakeTap(queues))
        driver = drive(Net(taps[-1], MAC, note="without"))
        driver.tap = taps[-1]
        return driver

    yield make
    for tap in taps:
        tap.close()


class Room:
    """A request for frames to be received: its buffers and its head."""

    def __init__(self, driver, lengths, index=0, *, told=True):
        self.driver = driver
        self.buffers = [driver.buffer(length=length) for length in lengths]
        if told:
            self.head = driver.ask(index, into=self.buffers)
        else:
            self.head = driver.rings[index].add(into=self.buffers)

    def holds(self, length):
        """Return the first bytes of the buffers."""
        return b"".join(map(self.driver.content, self.buffers))[:length]


def received(driver, rooms, index=0):
    """Return what came back: bytes for each of the rooms, which come back in their order."""
    used = driver.rings[index].collect()
    assert [one.head for one in used] == [room.head for room in rooms[: len(used)]]
    return [room.holds(one.length) for room, one in zip(rooms, used)]


def arrive(driver, *frames, index=0):
    """Let frames come in from the bridge."""
    for frame in frames:
        driver.tap.arrive(frame, index)
    driver.work()


def send(driver, *pieces, index=1):
    """Let the guest send a frame of these pieces."""
    return driver.ask(index, out=[driver.buffer(piece) for piece in pieces])


def header(count):
    """Return the header of a frame in so many buffers."""
    return struct.pack("<10xH", count)


def test_configuration_and_features(net):
    one, many = net(), net(3)
    assert bytes(one.device.config) == MAC + struct.pack("<HHH", 1, 1, 1500)
    assert bytes(many.device.config) == MAC + struct.pack("<HHH", 1, 3, 1500)
    assert many.device_config(8, 2) == 3
    assert not one.offered() & (CTRL_VQ | MQ)
    assert many.offered() & (CTRL_VQ | MQ) == CTRL_VQ | MQ
    assert one.offered() & 0x1FFFF == 0b1_1111_1111_1010_1011
    assert (len(one.device.limits), len(many.device.limits)) == (2, 7)
    assert one.device.blocking
    assert one.device.note == "without"


@pytest.mark.parametrize(
    ("accepted", "offload"),
    [(0, 0), (GUEST_CSUM, 1), (GUEST_CSUM | GUEST_TSO4, 3), (EVERYTHING, 31)],
)
def test_the_host_leaves_to_the_guest_what_it_accepted(net, accepted, offload):
    driver = net()
    driver.start(ALWAYS | accepted)
    assert driver.tap.offload == offload


def test_a_frame_arrives(net):
    driver = net()
    driver.start(ALWAYS)
    room = Room(driver, [2000])
    arrive(driver, FRAME)
    assert received(driver, [room]) == [header(1) + FRAME]
    assert driver.interrupts(0)


def test_a_frame_takes_as_many_buffers_as_it_needs(net):
    driver = net()
    driver.start(ALWAYS | MRG_RXBUF)
    rooms = [Room(driver, [40, 24], told=False) for _ in range(5)]
    frame = os.urandom(130)
    driver.notify(0)
    arrive(driver, frame, FRAME)
    got = received(driver, rooms)
    assert [len(data) for data in got] == [64, 64, 14, 64, 8]
    assert b"".join(got[:3]) == header(3) + frame
    assert b"".join(got[3:]) == header(2) + FRAME


@pytest.mark.parametrize("known", [False, True])
def test_a_frame_waits_for_the_buffers_that_it_lacks(net, known):
    """Where the frame is read before it is known that there are too few, and where it waits."""
    driver = net()
    driver.start(EVERYTHING)
    frame = os.urandom(5000)
    rooms = [] if known else [Room(driver, [1000])]
    arrive(driver, frame, FRAME)
    assert received(driver, rooms) == []
    rooms += [Room(driver, [1000]) for _ in range(4 if known else 3)]
    assert received(driver, rooms) == []
    rooms += [Room(driver, [1500]), Room(driver, [1500])]
    got = received(driver, rooms)
    assert b"".join(got[:5]) == header(5) + frame
    assert got[5:] == [header(1) + FRAME]


def test_a_frame_for_which_a_driver_can_never_have_room_is_cut(net):
    driver = net()
    driver.start(ALWAYS | MRG_RXBUF, {0: 4, 1: 4})
    rooms = [Room(driver, [100]) for _ in range(4)]
    arrive(driver, bytes(1000))
    assert [len(data) for data in received(driver, rooms)] == [100] * 4
    assert driver.device.counters()["rx_dropped"] == 2  # with the one of the tap
    driver.reset()
    assert driver.device.counters()["rx_dropped"] == 2


def test_a_frame_that_waits_for_room_at_the_end_of_a_turn_is_not_forgotten(net, monkeypatch):
    """No other frame comes that would bring it along."""
    monkeypatch.setattr(virtio_net, "_TURN", 2)
    driver = net()
    driver.start(ALWAYS | MRG_RXBUF)
    rooms = [Room(driver, [100]) for _ in range(2)]
    arrive(driver, FRAME, bytes(150))
    assert received(driver, rooms) == [header(1) + FRAME]
    rooms.append(Room(driver, [100]))
    driver.work()
    assert [len(data) for data in received(driver, rooms[1:])] == [100, 62]


def test_a_frame_too_long_for_the_only_buffer_is_dropped(net):
    driver = net()
    driver.start(ALWAYS)
    rooms = [Room(driver, [100]), Room(driver, [2000])]
    arrive(driver, bytes(1000), FRAME)
    assert received(driver, rooms) == [header(1) + FRAME]
    assert driver.device.counters() == {"rx_frames": 5, "rx_dropped": 2}


@pytest.mark.parametrize("pieces", [[5, 6, 500], [10, 1, 1, 500], [1] * 30 + [500], [11, 0, 500]])
def test_the_header_may_lie_in_pieces(net, pieces):
    driver = net()
    driver.start(ALWAYS)
    room = Room(driver, pieces)
    driver.tap.host[0].send(b"\xaa" * HEADER + FRAME)
    driver.work()
    assert received(driver, [room]) == [b"\xaa" * 10 + b"\1\0" + FRAME]


def test_more_pieces_than_one_read_takes(net):
    driver = net()
    driver.start(ALWAYS | MRG_RXBUF, {0: 256, 1: 4})
    buffers = [driver.buffer(length=12)] + [driver.buffer(length=1)] * 1023
    table = driver.buffer(length=16 * 1024)[0]
    head = driver.rings[0].add(into=buffers, indirect=table)
    driver.notify(0)
    arrive(driver, bytes(900), bytes(2000))
    ((found, length), *others) = driver.rings[0].collect()
    assert (found, length, others) == (head, HEADER + 900, [])
    rooms = [Room(driver, [2012])]
    assert received(driver, rooms) == [header(1) + bytes(2000)]


def test_a_driver_without_buffers_is_left_alone(net):
    """Neither is the tap emptied nor does the thread look at it again and again."""
    driver = net()
    driver.start(ALWAYS)
    arrive(driver, *(bytes([number]) * 60 for number in range(3)))
    assert driver.tap.fds[0] not in driver.worker.calls
    rooms = [Room(driver, [2000]) for _ in range(2)]
    assert [data[HEADER] for data in received(driver, rooms)] == [0, 1]
    assert driver.tap.fds[0] not in driver.worker.calls
    rooms = [Room(driver, [2000])]
    assert [data[HEADER] for data in received(driver, rooms)] == [2]


def test_many_frames_in_order(net):
    driver = net()
    driver.start(ALWAYS | MRG_RXBUF)
    ring, queue = driver.rings[0], driver.device.queues[0]
    ring.begin_at(65_000)
    queue._next = queue._used = queue._signalled = 65_000
    buffers = [driver.buffer(length=1526) for _ in range(32)]
    where = {ring.add(into=[buffer]): buffer for buffer in buffers}
    driver.notify(0)
    got = 0
    for first in range(0, 1200, 30):  # more than an index counts to
        arrive(driver, *(struct.pack("<I", first + one) + FRAME for one in range(30)))
        for head, length in ring.collect():
            assert length == HEADER + 4 + len(FRAME)
            buffer = where.pop(head)
            assert driver.content(buffer)[HEADER : HEADER + 4] == struct.pack("<I", got)
            where[ring.add(into=[buffer])] = buffer
            got += 1
        if ring.wants_notification():
            driver.notify(0)
    assert got == 1200


@pytest.mark.parametrize("lengths", [[11], [0], [4, 4, 3]])
def test_a_buffer_without_room_for_the_header_breaks_the_device(net, lengths):
    driver = net()
    driver.start(ALWAYS | MRG_RXBUF)
    Room(driver, lengths)
    arrive(driver, FRAME)
    assert "with its header" in driver.broken
    driver.start(ALWAYS)
    room = Room(driver, [2000])
    arrive(driver, FRAME)
    assert received(driver, [room]) == [header(1) + FRAME]


def test_a_buffer_that_may_only_be_read_breaks_the_device(net):
    driver = net()
    driver.start(ALWAYS)
    driver.ask(0, out=[driver.buffer(bytes(2000))])
    arrive(driver, FRAME)
    assert "with its header" in driver.broken


@pytest.mark.parametrize("indirect", [True, False])
def test_the_guest_sends(net, indirect):
    driver = net()
    driver.start(ALWAYS)
    pieces = [driver.buffer(piece) for piece in (bytes(HEADER), FRAME[:7], FRAME[7:])]
    heads = [driver.ask(1, out=pieces, indirect=indirect), send(driver, bytes(HEADER) + FRAME)]
    assert [one.head for one in driver.rings[1].collect()] == heads
    assert driver.tap.left() == [bytes(HEADER) + FRAME] * 2
    assert driver.interrupts(1)


def test_what_the_host_does_not_take_is_lost(net):
    driver = net()
    driver.start(ALWAYS)
    driver.tap.host[0].close()
    send(driver, bytes(HEADER), FRAME)
    assert len(driver.rings[1].collect()) == 1
    assert driver.device.counts["tx_refused"] == 1


@pytest.mark.parametrize("pieces", [[b"x" * 11], [b"x"] * 5])
def test_a_frame_without_its_header_breaks_the_device(net, pieces):
    driver = net()
    driver.start(ALWAYS)
    send(driver, *pieces)
    assert driver.broken == "a frame without its header"
    assert driver.tap.left() == []


def test_a_bad_descriptor_breaks_the_device_alone(net):
    driver = net()
    driver.start(ALWAYS)
    driver.rings[1].describe(0, 1 << 40, 100)
    driver.rings[1].offer(0)
    driver.notify(1)
    driver.work()
    assert "outside the guest's" in driver.broken
    arrive(driver, FRAME)
    assert driver.tap.fds[0] not in driver.worker.calls


def test_frames_for_an_earlier_driver_are_forgotten(net):
    driver = net()
    driver.start(ALWAYS)
    driver.reset()
    arrive(driver, b"old" + FRAME)
    driver.start(ALWAYS)
    room = Room(driver, [2000])
    arrive(driver, b"new" + FRAME)
    assert received(driver, [room]) == [header(1) + b"new" + FRAME]


def test_a_reset_takes_hands_off_the_guests_memory(net):
    driver = net()
    driver.start(ALWAYS)
    rooms = [Room(driver, [2000]) for _ in range(4)]
    arrive(driver, FRAME)
    assert len(received(driver, rooms)) == 1
    driver.reset()
    before = driver.memory.read(0, driver.memory.size)
    driver.notify(0)
    arrive(driver, FRAME)
    assert driver.memory.read(0, driver.memory.size) == before
    assert driver.device._receivers == []
    region = driver.memory.regions[0]
    driver.memory.close()
    assert region.map.closed  # nobody holds a piece of it


def test_a_tap_that_is_gone_ends_nothing(net):
    driver = net()
    driver.start(ALWAYS)
    Room(driver, [2000])
    driver.device._receivers[0]._descriptor = 99999  # nobody's
    arrive(driver, FRAME)
    assert driver.device.counts["lost_taps"] == 1
    assert driver.tap.fds[0] not in driver.worker.calls
    driver.tap.gone = True
    driver.start(ALWAYS)
    assert "the tap vf0 is gone" in driver.broken


# The control queue.


def command(driver, data, index, room=1):
    """Return the answer to a command."""
    answer = driver.buffer(length=room)
    driver.ask(index, [driver.buffer(data)], [answer])
    ((_, length),) = driver.rings[index].collect()
    return driver.content(answer)[:length]


def set_pairs(pairs):
    return struct.pack("<BBH", 4, 0, pairs)


def test_pairs_are_served_when_the_driver_asks_for_them(net):
    driver = net(2)
    driver.start()
    room = Room(driver, [2000], 2)
    send(driver, bytes(HEADER), FRAME, index=3)
    assert driver.tap.on == {0}
    assert driver.tap.left(1) == []
    assert command(driver, set_pairs(2), 4) == b"\0"
    assert driver.tap.on == {0, 1}
    assert driver.tap.left(1) == [bytes(HEADER) + FRAME]
    arrive(driver, FRAME, index=1)
    assert received(driver, [room], 2) == [header(1) + FRAME]
    assert command(driver, set_pairs(1), 4) == b"\0"
    assert driver.tap.on == {0}
    Room(driver, [2000], 2)
    arrive(driver, FRAME, index=1)
    assert driver.rings[2].collect() == []
    driver.reset()
    assert driver.tap.on == {0}


def test_a_pair_goes_on_where_it_was(net):
    driver = net(2)
    driver.start()
    rooms = [Room(driver, [2000], 2) for _ in range(3)]
    for count in (2, 1, 2):
        assert command(driver, set_pairs(count), 4) == b"\0"
    arrive(driver, FRAME, index=1)
    assert received(driver, rooms, 2) == [header(1) + FRAME]


@pytest.mark.parametrize(
    "data",
    [
        set_pairs(0),
        set_pairs(3),
        set_pairs(0xFFFF),
        b"\4\1\1\0",  # RSS
        b"\0\0\1",  # promiscuous
        b"\1\0" + bytes(4),
        set_pairs(2) + b"\0",
        b"\4\0\2",
        b"\4",
    ],
)
def test_other_commands_are_refused(net, data):
    driver = net(2)
    driver.start()
    assert command(driver, data, 4, room=3) == b"\1"
    assert driver.tap.on == {0}
    assert not driver.broken


def test_pairs_whose_queues_are_not_set_up_are_refused(net):
    driver = net(2)
    driver.start(EVERYTHING, {0: 8, 1: 8, 2: 8, 4: 8})
    assert command(driver, set_pairs(2), 4) == b"\1"


def test_without_pairs_the_third_queue_is_for_control(net):
    driver = net(2)
    driver.start(ALWAYS | CTRL_VQ, {0: 8, 1: 8, 2: 8})
    assert command(driver, set_pairs(1), 2) == b"\1"


def test_a_command_without_room_for_an_answer_breaks_the_device(net):
    driver = net(2)
    driver.start()
    driver.ask(4, out=[driver.buffer(set_pairs(1))])
    assert driver.broken == "a command without room for its answer"


def test_nothing_is_asked_of_a_device_that_is_never_started(net):
    driver = net(2)
    driver.notify(0)
    assert driver.negotiate(ALWAYS)
    driver.notify(1)
    driver.work()
    driver.reset()
    assert driver.tap.on == {0}
