# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Taps on bridges, in a network namespace of the test's own; and guests' frames through them."""

from __future__ import annotations

import ctypes
import os
import select
import shutil
import socket
import struct
import subprocess
import threading
import time
from contextlib import suppress

import pytest
from ansible.module_utils.kvm import attach
from ansible.module_utils.kvm import tap as host
from ansible.module_utils.kvm.errors import ConfigError, HostError
from ansible.module_utils.kvm.events import Worker
from ansible.module_utils.kvm.tap import Tap, bridges, parse_mac
from ansible.module_utils.kvm.virtio.net import MRG_RXBUF
from driving import EVERYTHING, Driver

from .test_net import ALWAYS

CLONE_NEWNET = 0x4000_0000
MAC = bytes.fromhex("020000000007")
BROADCAST = b"\xff" * 6 + bytes.fromhex("020000000008") + b"\x88\xb5"  # for experiments
FRAME = BROADCAST + bytes(range(50))


@pytest.fixture
def apart():
    """Enter a network namespace with the bridge br7, or say why that cannot be."""
    if os.geteuid() != 0:
        pytest.skip("taps are made by root")
    if not os.path.exists(host.DEVICE) or not shutil.which("ip"):
        pytest.skip(f"needs {host.DEVICE} and ip")
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    if libc.unshare(CLONE_NEWNET):
        os.close(before)
        pytest.skip(f"no network namespace: {os.strerror(ctypes.get_errno())}")
    try:
        ip("link add br7 type bridge")
        with suppress(OSError), open("/proc/sys/net/ipv6/conf/br7/disable_ipv6", "w") as quiet:
            quiet.write("1")  # or the bridge itself sends what no test has sent
        ip("link set br7 mtu 1400 up")
        yield
    finally:
        assert libc.setns(before, CLONE_NEWNET) == 0
        os.close(before)


def ip(command):
    return subprocess.run(
        [shutil.which("ip"), *command.split()], check=True, capture_output=True, text=True
    ).stdout


@pytest.fixture
def new_tap(apart):
    """Make taps and close them."""
    made = []

    def make(name="vf1", bridge="br7", mac=MAC, queues=1, mtu=None):
        made.append(Tap(name, bridge, mac, queues, mtu))
        return made[-1]

    yield make
    for tap in made:
        tap.close()


@pytest.fixture
def wire(apart):
    """Return a socket that sees the frames on the bridge."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88B5)) as packets:
        packets.bind(("br7", 0x88B5))
        packets.settimeout(10)
        yield packets


def test_a_tap_stands_on_its_bridge(new_tap):
    tap = new_tap()
    shown = ip("link show vf1")
    assert "master br7" in shown
    assert "mtu 1400" in shown
    assert "UP" in shown
    assert "fe:00:00:00:00:07" in shown
    assert tap.mtu == 1400
    assert "fe80" not in ip("addr show vf1")
    tap.close()
    with pytest.raises(subprocess.CalledProcessError):
        ip("link show vf1")
    tap.close()


def test_an_mtu_of_its_own(new_tap):
    assert new_tap(mtu=9000).mtu == 9000
    assert "mtu 9000" in ip("link show vf1")
    assert "mtu 1400" in ip("link show br7")


def test_the_bridges_address_stays(new_tap):
    def address():
        return ip("-o link show br7").split("link/ether ")[1].split()[0]

    ip("tuntap add other mode tap")
    ip("link set other address 02:11:22:33:44:55 master br7 up")
    assert address() == "02:11:22:33:44:55"
    new_tap(mac=bytes.fromhex("020000000001"))
    assert address() == "02:11:22:33:44:55"


def test_a_bridge_that_is_missing_is_named_with_those_that_there_are(new_tap):
    ip("link add br8 type bridge")
    with pytest.raises(
        ConfigError, match="bridge br9 is missing; the bridges of this host: br7, br8"
    ):
        new_tap(bridge="br9")
    with pytest.raises(ConfigError, match=r"lo is no bridge of the kernel; .*: br7, br8"):
        new_tap(bridge="lo")
    assert "vf1" not in ip("link")
    assert bridges() == ["br7", "br8"]
    ip("link del br7")
    ip("link del br8")
    with pytest.raises(ConfigError, match="the bridges of this host: none"):
        new_tap()


def test_a_tap_in_use_is_not_taken(new_tap):
    new_tap()
    with pytest.raises(ConfigError, match="the tap vf1 is in use by another guest"):
        new_tap()
    with pytest.raises(ConfigError, match="br7 is no tap"):
        new_tap(name="br7")


def test_a_tap_that_somebody_made_before(new_tap):
    ip("tuntap add vf5 mode tap")
    ip("link set vf5 mtu 1280")
    tap = new_tap(name="vf5", bridge=None)
    assert tap.mtu == 1280
    tap.close()
    assert "vf5" in ip("link")
    with pytest.raises(ConfigError, match="another number of queues"):
        new_tap(name="vf5", bridge=None, queues=2)


def test_a_named_tap_is_not_made_by_a_slip_of_the_pen(apart):
    with pytest.raises(ConfigError, match="the tap vf5 is missing; with a bridge it would be made"):
        attach.open_all({"nics": [{"tap": "vf5"}]})
    assert "vf5" not in ip("link")
    ip("tuntap add vf5 mode tap")
    (nic,) = attach.open_all({"nics": [{"tap": "vf5", "vhost": False}]})
    nic.close()


def test_queues_are_switched(new_tap):
    tap = new_tap(queues=3)
    assert len(tap.fds) == 3

    def numbers():
        return ip("-d link show vf1").split("numqueues ")[1].split()[0]

    assert numbers() == "1"
    for _ in range(2):
        tap.switch(2, on=True)
    assert numbers() == "2"
    tap.switch(2, on=False)
    assert numbers() == "1"


def test_without_the_right_to_it(new_tap, monkeypatch):
    monkeypatch.setattr(host, "DEVICE", "/dev/net/none")
    with pytest.raises(HostError, match="cannot open /dev/net/none") as failed:
        new_tap()
    assert failed.value.remedy == "load the module tun"


def test_frames_and_offloads(new_tap, wire):
    tap = new_tap()
    for offload in (1, 31, 2, 0):
        tap.set_offload(offload)
    wire.send(FRAME)
    select.select(tap.fds, [], [], 10)
    assert os.read(tap.fds[0], 2000)[host.HEADER :] == FRAME
    os.writev(tap.fds[0], [bytes(host.HEADER), FRAME])
    assert wire.recv(2000) == FRAME
    wire.send(FRAME)
    tap.discard(0)
    with pytest.raises(BlockingIOError):
        os.read(tap.fds[0], 2000)


def test_a_guest_on_a_bridge(apart, wire, new_memory):
    """The whole way: what attach opens, a driver, the worker, the kernel's bridge."""
    (nic,) = attach.open_all(
        {"uid": 0x7000_0042, "nics": [{"bridge": "br7", "vhost": False, "mac": None}]}
    )
    shown = ip("link show vf70000042n0")
    assert "fe:70:00:00:42:00" in shown
    failures = []
    memory = new_memory(16 << 20)
    for _ in range(2):  # a reset of the machine makes the device anew over the same tap
        device = nic.make()
        assert bytes(device.config[:6]) == bytes.fromhex("027000004200")
        device.worker = Worker("net")
        device.worker.start(failures.append)
        driver = Driver(device, memory, worker=device.worker)
        driver.start(ALWAYS | MRG_RXBUF)
        buffers = [driver.buffer(length=1526) for _ in range(8)]
        heads = [driver.ask(0, into=[buffer]) for buffer in buffers]
        wire.send(FRAME)
        limit = time.monotonic() + 10
        done = []
        wanted = struct.pack("<10xH", 1) + FRAME
        while wanted not in done and time.monotonic() < limit:
            for head, length in driver.rings[0].collect():
                done.append(driver.content(buffers[heads.index(head)])[:length])
        assert wanted in done
        driver.ask(1, out=[driver.buffer(bytes(host.HEADER)), driver.buffer(FRAME)])
        assert wire.recv(2000) == FRAME
        # A frame that the kernel refuses: segments of a size of zero.
        wrong = struct.pack("<BBHHHHH", 1, 1, 54, 0, 34, 16, 0)
        driver.ask(1, out=[driver.buffer(wrong), driver.buffer(FRAME)])
        while not device.counts["tx_refused"] and time.monotonic() < limit:
            time.sleep(0.002)
        assert device.counts["tx_refused"] == 1
        driver.close()
        device.worker.close()
    nic.close()
    assert not failures
    assert "vf70000042n0" not in ip("link")


class Kernel:
    """A guest of which nothing is missing but the CPU: a kernel's network behind a driver.

    What the network namespace sends on its interface g0 goes through the device's queues, as a
    guest's kernel does it: it is told by events, and tells only where the device asks for it.
    """

    def __init__(self, driver, tap):
        self.driver, self.tap = driver, tap
        self.rx, self.tx = driver.rings[0], driver.rings[1]
        vectors = driver.transport.msix.vectors
        self.told = [vectors[1].event, vectors[2].event]
        self.where = {}
        for _ in range(200):
            self.give(driver.buffer(length=2048))
        driver.notify(0)
        self.free = [driver.buffer(length=70_000) for _ in range(64)]
        self.busy = {}
        self.end = False
        self.largest = 0
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def give(self, buffer):
        self.where[self.rx.add(into=[buffer])] = buffer

    def run(self):
        poll = select.poll()
        for descriptor in [self.tap.fds[0], *(event.fd for event in self.told)]:
            poll.register(descriptor, select.POLLIN)
        while not self.end:
            if not self.free:
                poll.modify(self.tap.fds[0], 0)
            for event in self.told:
                event.take()
            moved = self.receive() + self.send()
            self.tx.ask_at(self.tx.seen)
            self.rx.ask_at(self.rx.seen)
            # What came before it was asked for is told of by nobody.
            idle = self.rx.device_index() == self.rx.seen
            if not moved and idle and self.tx.device_index() == self.tx.seen:
                poll.poll(200)

    def receive(self):
        pieces, buffers, left = [], [], 0
        moved = self.rx.collect()
        for head, length in moved:
            buffer = self.where.pop(head)
            view = self.driver.memory.view(buffer[0], length)
            if not left:
                left = struct.unpack_from("<H", view, 10)[0]
            pieces.append(view)
            buffers.append(buffer)
            left -= 1
            if not left:
                self.largest = max(self.largest, os.writev(self.tap.fds[0], pieces))
                pieces = []
        assert not left
        for buffer in buffers:
            self.give(buffer)
        if self.rx.wants_notification():
            self.driver.notify(0)
        return len(moved)

    def send(self):
        done = self.tx.collect()
        self.free += [self.busy.pop(head) for head, _ in done]
        sent = 0
        while self.free:
            address, length = self.free[-1]
            try:
                got = os.readv(self.tap.fds[0], [self.driver.memory.view(address, length)])
            except BlockingIOError:
                break
            self.largest = max(self.largest, got)
            self.busy[self.tx.add(out=[(address, 12), (address + 12, got - 12)])] = self.free.pop()
            sent += 1
        if self.tx.wants_notification():
            self.driver.notify(1)
        return len(done) + sent


def carry(source, target, data):
    """Send data from one socket to the other; return what has arrived."""
    source.settimeout(None)
    target.settimeout(20)
    sender = threading.Thread(target=source.sendall, args=(data,))
    sender.start()
    found = bytearray()
    while len(found) < len(data):
        more = target.recv(1 << 16)
        assert more, "the connection has ended"
        found += more
    sender.join()
    return bytes(found)


FEATURES = [EVERYTHING, ALWAYS | MRG_RXBUF, ALWAYS]


@pytest.mark.parametrize("features", FEATURES)
def test_two_kernels_talk(apart, new_memory, features):
    """A connection through all of it: segments that nobody has cut, checksums left to others."""
    talk(new_memory, features, 3 << 20)


@pytest.mark.soak
@pytest.mark.parametrize("features", FEATURES)
def test_two_kernels_talk_for_long(apart, new_memory, features):
    """Nothing is ever forgotten: a notification that does not come ends a connection."""
    talk(new_memory, features, 300 << 20)


def talk(new_memory, features, length):
    ip("addr add 192.0.2.1/24 dev br7")
    libc = ctypes.CDLL(None)
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    assert libc.unshare(CLONE_NEWNET) == 0
    inner = Tap("g0", None, MAC)
    try:
        for command in ("set g0 mtu 1400", "set g0 address 02:00:00:00:00:07", "set g0 up"):
            ip(f"link {command}")
        ip("addr add 192.0.2.2/24 dev g0")
        listener = socket.create_server(("192.0.2.2", 7))
    finally:
        libc.setns(here, CLONE_NEWNET)
        os.close(here)
    (nic,) = attach.open_all({"nics": [{"bridge": "br7", "vhost": False}]})
    device = nic.make()
    device.worker = Worker("net")
    failures = []
    device.worker.start(failures.append)
    driver = Driver(device, new_memory(16 << 20), worker=device.worker)
    driver.start(features)
    inner.set_offload(31 if driver.features & 1 << 11 else 0)
    kernel = Kernel(driver, inner)
    try:
        with socket.create_connection(("192.0.2.2", 7), 20) as outside:
            inside, _ = listener.accept()
            with inside:
                data = os.urandom(length)
                assert carry(outside, inside, data) == data
                assert carry(inside, outside, data) == data
    finally:
        kernel.end = True
        kernel.thread.join()
        listener.close()
        driver.close()
        device.worker.close()
        inner.close()
        nic.close()
    assert not failures
    assert not driver.broken
    assert (kernel.largest > 10_000) == (features == EVERYTHING)
    assert device.counts["tx_refused"] == 0


@pytest.mark.parametrize(
    "text", ["52:54:00:00:00:01", "02:00:00:00:00:00", "FE:ff:FF:ff:ff:ff", "00:00:00:00:00:01"]
)
def test_addresses(text):
    assert parse_mac(text).hex(":") == text.lower()


@pytest.mark.parametrize(
    "text",
    [
        *("", "01:00:00:00:00:00", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00", "02:00:00:00:00"),
        *("02:00:00:00:00:00:00", "02:00:00:00:00:0g", "2:00:00:00:00:00", "02-00-00-00-00-00"),
        *("020000000001", "02:00:00:00:00:1", "02:00:00:00:00:001", " 2:00:00:00:00:00"),
    ],
)
def test_no_addresses(text):
    with pytest.raises(ConfigError, match="not the hardware address of one interface"):
        parse_mac(text)
