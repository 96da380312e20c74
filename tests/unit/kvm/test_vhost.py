# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""vhost: what is asked of the kernel and in which order. A table stands for the kernel."""

from __future__ import annotations

import errno
import os
import struct
from types import SimpleNamespace

import pytest
from ansible.module_utils.kvm import attach
from ansible.module_utils.kvm.errors import ConfigError, HostError, KvmError
from ansible.module_utils.kvm.memory import GAP_END, GAP_START
from ansible.module_utils.kvm.virtio import vhost
from ansible.module_utils.kvm.virtio.net import MRG_RXBUF, Net
from ansible.module_utils.kvm.virtio.vhost import VhostNet, VhostVsock, memory_table
from ansible.module_utils.kvm.virtio.vsock import Vsock
from driving import DRIVER_OK, EVERYTHING

from .test_net import ALWAYS, CTRL_VQ, MAC, FakeTap, command, set_pairs

# include/uapi/linux/vhost.h, as a C compiler has them.
NUMBERS = {
    0x8008_AF00: "get_features",
    0x4008_AF00: "set_features",
    0x0000_AF01: "owner",
    0x4008_AF03: "memory",
    0x4008_AF10: "num",
    0x4028_AF11: "addr",
    0x4008_AF12: "base",
    0xC008_AF12: "get_base",
    0x4008_AF20: "kick",
    0x4008_AF21: "call",
    0x4008_AF30: "backend",
    0x4008_AF60: "cid",
    0x4004_AF61: "running",
}
SEQPACKET = 1 << 1
SIZES = {0: 64, 1: 64}
OFFERED = ALWAYS | MRG_RXBUF | 1 << 26 | 1 << 27 | SEQPACKET


class Kernel:
    """Answers the ioctls, remembers them, and fails where it is told to."""

    def __init__(self):
        self.features = OFFERED
        self.calls = []
        self.fails = {}
        self.position = 0

    def ioctl(self, descriptor, request, argument=0):
        name = NUMBERS[request]
        assert name == "owner" or len(argument) >= request >> 16 & 0x3FFF
        self.calls.append((descriptor, name, bytes(argument) if argument else b""))
        releases = name == "backend" and struct.unpack("Ii", argument)[1] < 0
        failure = self.fails.get("release" if releases else name)
        if failure:
            raise OSError(failure, os.strerror(failure))
        if name == "get_features":
            struct.pack_into("Q", argument, 0, self.features)
        if name == "get_base":
            struct.pack_into("I", argument, 4, self.position)
        return 0

    def named(self, *names):
        """Return the calls of these names: name, the numbers in what was given."""
        forms = {"owner": "", "addr": "IIQQQQ", "backend": "Ii", "kick": "Ii", "call": "Ii"}
        forms.update(cid="Q", running="i", set_features="Q", get_features="Q")
        return [
            (name, *struct.unpack(forms.get(name, "II"), data))
            for _, name, data in self.calls
            if name in names
        ]

    def forget(self):
        self.calls.clear()


@pytest.fixture
def kernel(monkeypatch, tmp_path):
    kernel = Kernel()
    monkeypatch.setattr(vhost, "fcntl", SimpleNamespace(ioctl=kernel.ioctl))
    kernel.path = str(tmp_path / "vhost")
    with open(kernel.path, "wb"):
        return kernel


@pytest.fixture
def net(kernel, drive):
    """Make network devices over vhost, with a driver each."""
    made = []

    def make(queues=1):
        tap = FakeTap(queues)
        vhosts = [VhostNet(descriptor, MRG_RXBUF, kernel.path) for descriptor in tap.fds]
        driver = drive(Net(tap, MAC, vhosts, "vhost"))
        driver.tap, driver.vhosts = tap, vhosts
        made.append(driver)
        return driver

    yield make
    kernel.fails = {}
    for driver in made:
        driver.close()
        driver.tap.close()
        for one in driver.vhosts:
            one.close()


@pytest.fixture
def sockets(kernel, drive):
    """Make socket devices over vhost, with a driver each."""
    vhosts = []

    def make():
        vhosts.append(VhostVsock(7, kernel.path))
        return drive(Vsock(vhosts[-1], 7))

    yield make
    kernel.fails = {}
    for one in vhosts:
        one.stop()
        one.close()


def test_the_table_of_memory(new_memory):
    memory = new_memory(GAP_START + (1 << 20))
    table = memory_table(memory)
    low, high = memory.regions
    assert struct.unpack_from("II", table) == (2, 0)
    assert struct.unpack_from("QQQQ", table, 8) == (0, GAP_START, low.address, 0)
    assert struct.unpack_from("QQQQ", table, 40) == (GAP_END, 1 << 20, high.address, 0)
    assert len(table) == 72


def test_a_device_starts_and_ends(net, kernel):
    driver = net()
    fd = driver.vhosts[0].fd
    assert kernel.named("owner") == [("owner",)]
    kernel.forget()
    driver.start(ALWAYS | MRG_RXBUF, SIZES)
    region = driver.memory.regions[0]
    kicks, vectors = driver.transport.kicks, driver.transport.msix.vectors
    assert {descriptor for descriptor, _, _ in kernel.calls} == {fd}
    assert [name for _, name, _ in kernel.calls] == [
        *("set_features", "memory"),
        *("num", "base", "addr", "kick", "call") * 2,
        *("backend", "backend"),
    ]
    assert kernel.named("set_features") == [("set_features", ALWAYS | MRG_RXBUF)]
    assert kernel.named("num") == [("num", 0, 64), ("num", 1, 64)]
    assert kernel.named("base") == [("base", 0, 0), ("base", 1, 0)]
    rings = [driver.rings[0], driver.rings[1]]
    assert kernel.named("addr") == [
        ("addr", i, 0, *(region.address + at for at in (r.table, r.used, r.avail)), 0)
        for i, r in enumerate(rings)
    ]
    assert kernel.named("kick") == [("kick", i, kicks[i].fd) for i in (0, 1)]
    assert kernel.named("call") == [("call", i, vectors[i + 1].event.fd) for i in (0, 1)]
    assert kernel.named("backend") == [("backend", i, driver.tap.fds[0]) for i in (0, 1)]
    assert all(kick.pending() for kick in kicks)  # what was there before the kernel listened
    kernel.forget()
    driver.reset()
    assert [name for _, name, _ in kernel.calls] == [
        *("backend", "backend"),
        *("get_base", "kick", "call") * 2,
    ]
    assert kernel.named("backend", "kick", "call") == [
        *(("backend", 0, -1), ("backend", 1, -1)),
        *(("kick", 0, -1), ("call", 0, -1), ("kick", 1, -1), ("call", 1, -1)),
    ]
    kernel.forget()
    driver.reset()
    assert kernel.calls == []
    driver.start(ALWAYS | MRG_RXBUF, SIZES)
    assert kernel.named("owner") == []  # once and for good


def test_a_vector_that_changes_is_followed(net, kernel):
    driver = net()
    driver.start(ALWAYS)
    vectors = driver.transport.msix.vectors
    kernel.forget()
    driver.write(22, 2, 1)
    driver.write(26, 2, 0)
    driver.write(26, 2, 0xFFFF)
    driver.write(26, 2, 99)
    driver.write(26, 2, 2)
    ends = [vectors[0].event.fd, -1, -1, vectors[2].event.fd]
    assert kernel.named("call") == [("call", 1, end) for end in ends]
    driver.reset()
    kernel.forget()
    assert driver.negotiate(ALWAYS)
    driver.set_up(0, driver.make_ring(0), vector=0)
    assert kernel.calls == []


def test_a_queue_without_a_vector(net, kernel):
    driver = net()
    assert driver.negotiate(ALWAYS)
    driver.set_up(0, driver.make_ring(0), vector=0xFFFF)
    kernel.forget()
    driver.add_status(DRIVER_OK)
    assert kernel.named("call") == [("call", 0, -1)]
    assert kernel.named("backend") == [("backend", 0, driver.tap.fds[0])]


@pytest.mark.parametrize("step", ["set_features", "memory", "num", "base", "addr", "backend"])
def test_queues_that_the_kernel_does_not_take_break_the_device(net, kernel, step):
    driver = net()
    kernel.fails = {step: errno.EFAULT}
    driver.start(ALWAYS)
    assert "does not take the queues: Bad address" in driver.broken
    backends = kernel.named("backend")
    assert backends[-2:] == [("backend", 0, -1), ("backend", 1, -1)]
    kernel.fails = {}
    driver.start(ALWAYS)
    assert not driver.broken


def test_memory_may_not_be_given_away_while_the_kernel_holds_it(net, kernel):
    driver = net()
    driver.start(ALWAYS)
    kernel.fails = {"release": errno.EPERM}
    with pytest.raises(KvmError, match="cannot stop"):
        driver.reset()


def test_the_control_queue_is_served_here(net, kernel):
    driver = net(2)
    assert list(driver.device.in_kernel) == [0, 1, 2, 3]
    assert not driver.device.blocking
    driver.start()
    first, second = (one.fd for one in driver.vhosts)
    assert {descriptor for descriptor, name, _ in kernel.calls if name == "addr"} == {first}
    kernel.forget()
    kernel.position = 9
    assert command(driver, set_pairs(2), 4) == b"\0"
    assert driver.tap.on == {0, 1}
    assert {descriptor for descriptor, _, _ in kernel.calls} == {second}
    assert kernel.named("backend") == [("backend", i, driver.tap.fds[1]) for i in (0, 1)]
    assert kernel.named("base") == [("base", 0, 0), ("base", 1, 0)]
    kernel.forget()
    assert command(driver, set_pairs(1), 4) == b"\0"
    assert kernel.named("backend") == [("backend", 0, -1), ("backend", 1, -1)]
    assert command(driver, set_pairs(2), 4) == b"\0"
    assert kernel.named("base") == [("base", 0, 9), ("base", 1, 9)]  # it goes on where it was
    driver.reset()
    assert driver.tap.on == {0}
    kernel.forget()
    driver.start()
    assert kernel.named("base") == [("base", 0, 0), ("base", 1, 0)]
    assert len(kernel.named("backend")) == 2


def test_a_driver_without_pairs_has_its_control_queue_elsewhere(net, kernel):
    driver = net(2)
    driver.start(ALWAYS | CTRL_VQ, {0: 8, 1: 8, 2: 8})
    assert list(driver.device.in_kernel) == [0, 1, 3]
    kernel.forget()
    assert command(driver, b"\0\0\1", 2) == b"\1"
    driver.write(22, 2, 2)
    driver.write(26, 2, 1)
    assert kernel.calls == []
    for index in range(3):
        driver.notify(index)
    driver.work()
    assert [kick.pending() for kick in driver.transport.kicks[:3]] == [True, True, False]


def test_the_socket_device(sockets, kernel):
    driver = sockets()
    assert kernel.named("cid") == [("cid", 7)]
    assert kernel.named("owner") == [("owner",)]
    assert driver.offered() == ALWAYS | SEQPACKET
    assert driver.device_config(0, 8) == 7
    kernel.forget()
    driver.start(EVERYTHING, {0: 64, 1: 64, 2: 8})
    assert kernel.named("set_features") == [("set_features", ALWAYS | SEQPACKET)]
    assert kernel.named("num") == [("num", 0, 64), ("num", 1, 64)]
    assert kernel.named("running") == [("running", 1)]
    assert kernel.calls[-1][1] == "running"
    kernel.forget()
    driver.write(22, 2, 0)
    driver.write(26, 2, 0)
    driver.write(22, 2, 2)
    driver.write(26, 2, 0)
    assert kernel.named("call") == [("call", 0, driver.transport.msix.vectors[0].event.fd)]
    kernel.forget()
    driver.reset()
    assert kernel.calls[0][1:] == ("running", struct.pack("i", 0))
    driver.start(EVERYTHING, {0: 8, 1: 8})
    assert not driver.broken


@pytest.mark.parametrize("queues", [(), (0,), (1, 2)])
def test_a_socket_device_needs_its_queues(sockets, queues):
    driver = sockets()
    assert driver.negotiate()
    for index in queues:
        driver.set_up(index, driver.make_ring(index))
    driver.add_status(DRIVER_OK)
    assert driver.broken == "a socket device without its queues"


def test_a_cid_belongs_to_one_guest(kernel):
    kernel.fails = {"cid": errno.EADDRINUSE}
    with pytest.raises(ConfigError, match="the CID 7 is in use by another guest"):
        VhostVsock(7, kernel.path)
    kernel.fails = {"cid": errno.EINVAL}
    with pytest.raises(ConfigError, match="7 cannot be a guest's CID: Invalid"):
        VhostVsock(7, kernel.path)


def test_what_is_no_vhost(kernel, tmp_path):
    with pytest.raises(HostError, match=r"cannot open .*none: No such file"):
        VhostNet(3, 0, str(tmp_path / "none"))
    kernel.features = ALWAYS & ~(1 << 29)
    with pytest.raises(HostError, match="lacks the features 0x20008000"):
        VhostNet(3, MRG_RXBUF, kernel.path)
    kernel.fails = {"get_features": errno.ENOTTY}
    with pytest.raises(HostError, match="is no vhost device"):
        VhostNet(3, MRG_RXBUF, kernel.path)


def test_an_owner_that_the_kernel_refuses(kernel):
    one = VhostNet(3, MRG_RXBUF, kernel.path)
    kernel.fails = {"owner": errno.ENOMEM}
    with pytest.raises(KvmError, match=r"cannot take .*: Cannot allocate memory"):
        one.own()
    one.close()
    one.close()


class TestOpeners:
    """What a definition may say of NICs and sockets."""

    @pytest.fixture(autouse=True)
    def _taps(self, kernel, monkeypatch):
        self.kernel, self.taps = kernel, []

        def make(*values):
            self.taps.append(FakeTap(values[3]))
            self.taps[-1].asked = values
            return self.taps[-1]

        monkeypatch.setattr("ansible.module_utils.kvm.tap.Tap", make)
        self.path = kernel.path
        for opener in (VhostNet, VhostVsock):
            *others, _ = opener.__init__.__defaults__
            monkeypatch.setattr(opener.__init__, "__defaults__", (*others, kernel.path))
        yield
        for tap in self.taps:
            tap.close()

    def test_what_is_stated_reaches_the_tap(self):
        nics = [
            {"bridge": "br0", "mac": "02:00:00:00:00:09", "queues": "2", "mtu": 9000},
            {"bridge": "br1", "mac": None, "queues": 1, "mtu": None, "vhost": None},
            {"tap": "lo"},
        ]
        opened = attach.open_all({"uid": 0x7000_0001, "nics": nics, "vsock": {"cid": 5}})
        derived = bytes.fromhex("027000000101")
        assert [tap.asked for tap in self.taps] == [
            ("vf70000001n0", "br0", bytes.fromhex("020000000009"), 2, 9000),
            ("vf70000001n1", "br1", derived, 1, None),
            ("lo", None, bytes.fromhex("027000000102"), 1, None),
        ]
        assert self.kernel.named("cid") == [("cid", 5)]
        assert [type(one.make()).__name__ for one in opened] == ["Net", "Net", "Net", "Vsock"]
        attach.close_all(opened)

    def test_guests_without_a_user_get_addresses_by_chance(self):
        attach.close_all(attach.open_all({"nics": [{"bridge": "br0"}] * 2}))
        first, second = (tap.asked for tap in self.taps)
        assert first[2] != second[2]
        assert first[2][0] == second[2][0] == 2
        assert first[0] != second[0]

    @pytest.mark.parametrize("wanted", [None, "auto", True, "true", "on", False, "off", "false"])
    @pytest.mark.parametrize("there", [True, False])
    def test_vhost(self, wanted, there, tmp_path):
        if not there:
            os.unlink(self.path)
        machine = {"nics": [{"bridge": "br0", "queues": 2, "vhost": wanted}]}
        if not there and str(wanted) in {"True", "true", "on"}:
            with pytest.raises(HostError, match="cannot open"):
                attach.open_all(machine)
            return
        opened = attach.open_all(machine)
        device = opened[0].make()
        if str(wanted) in {"False", "false", "off"}:
            assert device.note == "without vhost, as declared"
        elif there:
            assert device.note == "vhost"
            assert list(device.in_kernel) == [0, 1, 2, 3]
        else:
            assert "without vhost: cannot open" in device.note
            assert not device.in_kernel
        attach.close_all(opened)

    @pytest.mark.parametrize(
        ("nic", "message"),
        [
            ({}, "a NIC needs a bridge"),
            ({"bridge": ""}, "bridge must be an interface's name"),
            ({"bridge": "b" * 16}, "bridge must be an interface's name"),
            ({"bridge": True}, "bridge must be an interface's name"),
            ({"bridge": "br0", "tap": 7}, "tap must be an interface's name"),
            ({"bridge": "br0", "quues": 1}, "a NIC has no quues"),
            ({"bridge": "br0", "queues": 0}, "queues must be a whole number from 1 to 16"),
            ({"bridge": "br0", "queues": 17}, "queues must be"),
            ({"bridge": "br0", "queues": "two"}, "queues must be"),
            ({"bridge": "br0", "queues": True}, "queues must be"),
            ({"bridge": "br0", "mtu": 67}, "mtu must be a whole number from 68 to 65535"),
            ({"bridge": "br0", "mtu": 1500.5}, "mtu must be"),
            ({"bridge": "br0", "vhost": "maybe"}, "vhost must be auto, true or false"),
            ({"bridge": "br0", "mac": "01:00:00:00:00:00"}, "not the hardware address"),
        ],
    )
    def test_bad_nics(self, nic, message):
        with pytest.raises(ConfigError, match=message):
            attach.open_all({"nics": [nic]})
        assert self.taps == []

    @pytest.mark.parametrize("cid", [None, 0, 2, 1 << 32, 0xFFFF_FFFF, "x", True, 7.0, []])
    def test_bad_sockets(self, cid):
        with pytest.raises(ConfigError, match="cid must be a whole number from 3 to 4294967294"):
            attach.open_all({"vsock": {"cid": cid}})
