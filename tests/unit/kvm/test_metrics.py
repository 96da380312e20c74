# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Numbers of a guest: how they are counted, and that nothing made up is published."""

from __future__ import annotations

import mmap
import os
import threading
import time
from collections import Counter
from types import SimpleNamespace

import pytest
from ansible.module_utils.kvm import metrics, process
from ansible.module_utils.kvm.bus import Bus

MIB = 1 << 20


def device(name, **counts):
    found = Counter(counts)
    return SimpleNamespace(name=name, counts=found, counters=lambda: found, ready_at=None)


def machine(*devices, memory=None):
    made = SimpleNamespace(
        devices=list(devices),
        transports=[
            SimpleNamespace(address=0xC0000000 + 0x4000 * number, broken="")
            for number in range(len(devices))
        ],
        functions=[SimpleNamespace(address=0xE0000000, name="watchdog")],
        bus=Bus(),
        memory=memory,
        config=SimpleNamespace(vcpus=2),
    )
    made.bus.port_exits.update({0x3F8: 5, 0xF4: 1})
    made.bus.mmio_exits.update({0xC0004000: 7, 0xD0000000: 2, 0xE0000000: 3, -1: 1})
    return made


def test_devices_are_named_by_their_kind_and_number():
    devices = [device(name) for name in ("block", "rng", "block", "net", "block")]
    assert metrics.names(machine(*devices)) == ["block0", "rng0", "block1", "net0", "block2"]


def test_counts_of_one_machine_after_the_other():
    past = metrics.no_counts()
    past.add(machine(device("block", reads=3), device("rng")))
    past.add(machine(device("block", reads=4, writes=1), device("rng")))
    assert past.ports == {"0x3f8": 10, "0xf4": 2}
    assert past.mmio == {"rng0": 14, "0xd0000000": 4, "watchdog": 6, "none": 2}
    assert past.devices == {"block0": {"reads": 7, "writes": 1}, "rng0": {}}
    copy = past.copy()
    copy.add(machine(device("block", reads=1)))
    assert past.devices["block0"]["reads"] == 7
    assert past.ports["0x3f8"] == 10


def test_what_the_host_counts_is_not_counted_twice():
    """A tap goes on counting from one machine to the next."""
    net = device("net", resets=1)
    net.counters = lambda: {"rx_bytes": 100, **net.counts}
    past = metrics.no_counts()
    past.add(machine(net))
    assert past.devices == {"net0": {"resets": 1}}
    past.add(machine(net), runs=True)
    assert past.devices == {"net0": {"resets": 2, "rx_bytes": 100}}


def test_memory_is_told_apart(new_memory):
    memory = new_memory(8 * MIB)
    memory.write(MIB, b"x" * (2 * MIB))
    footprint = metrics.Footprint()
    found = footprint.measure(machine(memory=memory))
    assert found["size"] == 8 * MIB
    assert 2 * MIB <= found["resident"] <= 4 * MIB
    assert found["proportional"] <= found["resident"]
    assert found["helper_resident"] >= found["helper_proportional"] > MIB
    memory.write(4 * MIB, b"x" * (3 * MIB))
    later = footprint.measure(machine(memory=memory))  # the same file, read again
    assert later["resident"] - found["resident"] >= 3 * MIB
    # What is advised in parts lies in several mappings, all of which are the guest's.
    memory.regions[0].map.madvise(mmap.MADV_DONTDUMP, MIB, MIB)
    assert footprint.measure(machine(memory=memory))["resident"] == later["resident"]
    footprint.close()


def test_where_memory_cannot_be_told_it_is_not(new_memory, monkeypatch):
    monkeypatch.setattr(metrics, "_SMAPS", "/nowhere/smaps")
    memory = new_memory(4096)
    footprint = metrics.Footprint()
    found = footprint.measure(machine(memory=memory))
    assert found.pop("size") == 4096
    assert set(found.values()) == {None}
    footprint.close()


def test_milestones_are_told_from_the_start_of_the_process():
    who = process.identity(os.getpid())
    milestones = metrics.Milestones(who.start)
    milestones.reach("opened")
    block = device("block")
    running = SimpleNamespace(booted=time.monotonic(), machine=machine(block, device("rng")))
    console = SimpleNamespace(began=None)
    found = milestones.tell(running, console)
    assert found.keys() == {"opened", "first_entry"}
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - who.start / os.sysconf("SC_CLK_TCK")
    assert age - 1 < found["opened"] <= found["first_entry"] <= age
    console.began = block.ready_at = time.monotonic()
    assert milestones.tell(running, console).keys() == {*found, "first_output", "block0_ready"}


def test_what_is_collected(new_memory):
    clock = time.pthread_getcpuclockid(threading.get_ident())
    running = SimpleNamespace(
        machine=machine(device("block", reads=1), memory=new_memory(MIB)),
        started=time.monotonic() - 5,
        boots=2,
        paused=True,
        counts=lambda: {"io": 3},
        clocks={1: clock, 0: 0x7FFFFFFE},  # the second of a thread that is no more
    )
    running.machine.transports[0].broken = "a loop"
    past = metrics.no_counts()
    past.add(machine(device("block", reads=9)))
    found = metrics.collect(running, past, metrics.Footprint(), {"opened": 0.1})
    assert 5 <= found["uptime"] < 10
    assert (found["boots"], found["paused"], found["vcpus"]) == (2, 1, 2)
    assert found["devices"] == {"block0": {"reads": 10}}
    assert found["devices_broken"] == {"block0": 1}
    assert found["port_exits"] == {"0x3f8": 10, "0xf4": 2}
    assert found["vcpu_seconds"].keys() == {"1"}
    assert (found["balloon"], found["guest_memory"]) == (None, {})
    assert past.devices["block0"] == {"reads": 9}


def lines(guests):
    return metrics.text(guests).splitlines()


def test_the_text_format():
    found = lines(
        {
            "web": {
                "up": 1,
                "uptime": 1.5,
                "exits": {"io": 7, "mmio": 8},
                "devices": {"block0": {"reads": 3}},
                "memory": {"size": 4096, "resident": None},
                "watchdog": 2,
            },
            "db": {"up": 0},
        }
    )
    assert found == [
        "# HELP virtfleet_guest_up Whether the guest runs.",
        "# TYPE virtfleet_guest_up gauge",
        'virtfleet_guest_up{name="web"} 1',
        'virtfleet_guest_up{name="db"} 0',
        "# HELP virtfleet_guest_uptime_seconds Seconds since the guest was first entered.",
        "# TYPE virtfleet_guest_uptime_seconds gauge",
        'virtfleet_guest_uptime_seconds{name="web"} 1.5',
        "# HELP virtfleet_guest_exits_total Exits from the guest by reason.",
        "# TYPE virtfleet_guest_exits_total counter",
        'virtfleet_guest_exits_total{name="web",reason="io"} 7',
        'virtfleet_guest_exits_total{name="web",reason="mmio"} 8',
        "# HELP virtfleet_guest_device_total What the virtio devices count.",
        "# TYPE virtfleet_guest_device_total counter",
        'virtfleet_guest_device_total{name="web",device="block0",count="reads"} 3',
        "# HELP virtfleet_guest_memory_bytes Memory of the guest and of its helper.",
        "# TYPE virtfleet_guest_memory_bytes gauge",
        'virtfleet_guest_memory_bytes{name="web",kind="size"} 4096',
        "# HELP virtfleet_guest_watchdog_fired_total How often the watchdog ran out.",
        "# TYPE virtfleet_guest_watchdog_fired_total counter",
        'virtfleet_guest_watchdog_fired_total{name="web"} 2',
    ]


def test_no_guests_no_text():
    assert metrics.text({}) == ""


@pytest.mark.parametrize(
    "value", [None, True, "7", [7], {"a": 1}, float("nan"), float("inf"), 1 << 70, -(1 << 70)]
)
def test_what_is_no_number_is_left_out(value):
    found = metrics.text(
        {"web": {"up": 1, "uptime": value, "exits": {"io": value}, "memory": value}}
    )
    assert "uptime" not in found
    assert "exits" not in found


@pytest.mark.parametrize("value", [None, 7, "x", ["x"], {"block0": 7}, {"block0": {"x": "y"}}])
def test_devices_that_are_none(value):
    assert "device_total" not in metrics.text({"web": {"devices": value}})


def test_names_cannot_break_out_of_their_quotes():
    names = ['"} 1\nvirtfleet_guest_up{name="db', "\\", "\x1b[2J", "\ud800", "x" * 1000]
    (line, *rest) = lines({"web": {"exits": dict.fromkeys(names, 1)}})[2:]
    assert len(rest) == len(names) - 1
    assert line == (
        'virtfleet_guest_exits_total{name="web",reason="\\"} 1?virtfleet_guest_up{name=\\"db"} 1'
    )
    assert rest[0].endswith('reason="\\\\"} 1')
    assert rest[1].endswith('reason="?[2J"} 1')
    assert rest[2].endswith('reason="?"} 1')
    assert len(rest[3]) < 200


def test_nothing_is_there_twice():
    """A reader refuses the whole file for that, all other guests' numbers with it."""
    found = lines({"web": {"exits": {"x" * 200 + "1": 1, "x" * 200 + "2": 2, "\0": 3, "\1": 4}}})
    names = [line.rpartition(" ")[0] for line in found if not line.startswith("#")]
    assert len(set(names)) == len(names) == 2


def test_a_flood_of_names_is_cut():
    flood = {str(number): number for number in range(100_000)}
    found = metrics.text({"web": {"exits": flood, "devices": {"a": flood, "b": flood}}})
    assert len(found.splitlines()) < 5000
