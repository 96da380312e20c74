# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How declared guests live: power button, reset, pause, watchdog, pins, numbers; on /dev/kvm."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.kvm import control
from ansible.module_utils.kvm.errors import EXIT_INPUT
from declared import MIB, Guest

pytestmark = [
    pytest.mark.kvm,
    pytest.mark.skipif(os.geteuid() != 0, reason="guests have users of their own: needs root"),
]

RNG: dict[str, Any] = {"rng": {}, "cmdline": ""}  # a device, with which comes the power button


@pytest.fixture
def flat(host, public_folder, program):
    """Return a guest that runs one of the tests' flat programs."""

    def make(what: str, **machine: Any) -> Guest:
        path = public_folder / f"{what}.img"
        path.write_bytes(program(what))
        path.chmod(0o644)
        made: Guest = host.guest(kernel=str(path), cmdline="", **machine)
        return made

    return make


@pytest.fixture
def with_button(flat, eventually):
    """Return a running guest that listens to the power button, by the way it takes it."""

    def start(what: str, **machine: Any) -> Any:
        guest = flat(what, **{"rng": [{}], **machine})
        served = guest.start()
        assert served.line == "ready\n"
        eventually(lambda: guest.log() == b"r")
        return guest, served

    return start


# The power button.


def test_the_button_turns_a_guest_off_that_listens(with_button):
    guest, served = with_button("button")
    assert guest.ask(op="shutdown") == {"ok": True, "listens": True}
    assert served.end() == (0, "")
    assert guest.last_exit()["reason"] == "turned itself off"


def test_a_guest_that_does_not_listen_is_said_to(host):
    guest = host.guest()
    served = guest.start()
    assert guest.ask(op="shutdown") == {"ok": True, "listens": False}
    assert guest.ask(op="status")["state"] == "running"
    guest.ask(op="stop")
    assert served.end() == (0, "")


def test_a_signal_leaves_the_guest_its_time(with_button):
    guest, served = with_button("button")
    served.process.send_signal(signal.SIGTERM)
    assert served.end() == (0, "")
    assert guest.last_exit()["reason"] == "turned itself off"


def test_a_signal_leaves_no_more_than_its_time(with_button):
    guest, served = with_button("deaf", stop_timeout=0.3)
    begin = time.monotonic()
    served.process.send_signal(signal.SIGTERM)
    assert served.end() == (0, "")
    assert time.monotonic() - begin >= 0.3
    words = "stopped by SIGTERM, as it did not turn itself off within 0.3 s"
    assert guest.last_exit()["reason"] == words


def test_without_a_grace_a_signal_ends_it_at_once(with_button):
    guest, served = with_button("deaf", stop_timeout=0)
    served.process.send_signal(signal.SIGTERM)
    assert served.end() == (0, "")
    assert guest.last_exit()["reason"] == "stopped by SIGTERM"


def test_systemd_is_told_to_wait(flat, host, eventually):
    import socket

    address = os.path.join(host.root, "notify")
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as receiver:
        receiver.bind(address)
        receiver.settimeout(10)
        guest = flat("deaf", rng=[{}], stop_timeout=0.2)
        served = guest.start(env={**os.environ, "NOTIFY_SOCKET": address})
        assert receiver.recv(100) == b"READY=1"
        eventually(lambda: guest.log() == b"r")
        os.unlink(address)
        served.process.send_signal(signal.SIGTERM)
        assert receiver.recv(100) == b"STOPPING=1\nEXTEND_TIMEOUT_USEC=10200000"
        assert served.end() == (0, "")


def test_the_stop_command_presses_the_button(with_button, host):
    guest, served = with_button("button")
    assert host.command("stop", "web").status == 0
    assert served.end() == (0, "")
    assert guest.last_exit()["reason"] == "turned itself off"


def test_the_stop_command_ends_who_does_not_listen(host):
    guest = host.guest()
    served = guest.start()
    assert host.command("stop", "web").status == 0
    assert served.end() == (0, "")
    assert guest.last_exit()["reason"] == "stopped on request"


def test_the_stop_command_ends_who_does_not_heed_it_only_by_force(with_button, host):
    guest, served = with_button("deaf")
    done = host.command("stop", "web", "--timeout", "0.2")
    assert done.status == 124
    assert "web has not stopped within 200.0ms; --force ends it" in done.err
    assert guest.ask(op="status")["state"] == "running"
    assert host.command("stop", "web", "--timeout", "0.2", "--force").status == 0
    assert served.end() == (0, "")
    assert guest.last_exit()["reason"] == "stopped on request"


# Beginning again.


def type_in(guest: Guest, typed: bytes) -> None:
    with closing(guest.connect()) as client:
        control.ask(client, {"op": "console"})
        client.sendall(typed)
        while typed not in guest.log():
            client.recv(4096)


def prompts(guest: Guest, count: int) -> bool:
    """Return whether the greeter has come to its prompt that many times."""
    return guest.log().count(b"Hello from inside") == count and guest.log().endswith(b"> ")


@pytest.mark.parametrize("devices", [{}, {"rng": [{}]}])
def test_a_guest_that_resets_itself_comes_back_in_the_same_process(host, eventually, devices):
    guest = host.guest(on_reboot="restart", log_max_size=MIB, **devices)
    served = guest.start()
    with closing(guest.connect()) as client:
        control.ask(client, {"op": "console"})  # an attached client stays attached
        for boot in range(1, 4):
            eventually(lambda: prompts(guest, boot))  # noqa: B023
            assert guest.ask(op="status")["boots"] == boot
            client.sendall(b"reset\r")
        eventually(lambda: prompts(guest, 4))
        seen = b""
        while not seen.endswith(b"> ") or seen.count(b"Hello") < 3:
            seen += client.recv(4096)
    assert guest.ask(op="status")["pid"] == served.pid
    type_in(guest, b"exit 21\r")
    assert served.end() == (43, "")
    assert guest.last_exit()["reason"] == "debug exit with value 0x15"


def test_who_asks_for_a_reset_gets_it_whatever_the_guests_own_means(host, eventually):
    guest = host.guest()  # on_reboot: stop
    served = guest.start()
    eventually(lambda: prompts(guest, 1))
    assert host.command("reset", "web").status == 0
    eventually(lambda: prompts(guest, 2))
    assert guest.ask(op="status")["boots"] == 2
    type_in(guest, b"reset\r")
    assert served.end() == (0, "")
    assert guest.last_exit()["reason"] == "reset through the keyboard controller"


def test_a_guest_that_only_resets_can_be_asked_and_stopped(flat):
    guest = flat("reset_cf9", on_reboot="restart")
    served = guest.start()
    descriptors = len(os.listdir(f"/proc/{served.pid}/fd"))
    for _ in range(20):
        boots = guest.ask(op="status")["boots"]
        time.sleep(0.01)
    assert boots > 5
    assert abs(len(os.listdir(f"/proc/{served.pid}/fd")) - descriptors) < 12
    served.process.send_signal(signal.SIGTERM)
    assert served.end()[0] == 0


def test_many_resets_leave_nothing_behind(flat, eventually):
    """Neither descriptors nor memory nor threads."""
    guest = flat("reset_cf9", on_reboot="restart", rng=[{}], console={"ports": ["agent"]})
    served = guest.start()

    def size() -> tuple[int, int]:
        """Return its own and the guest's memory in bytes, without what others share, and boots."""
        text = Path(f"/proc/{served.pid}/smaps_rollup").read_text(encoding="ascii")
        (memory,) = re.findall(r"^Anonymous: +(\d+) kB", text, re.MULTILINE)
        return 1024 * int(memory), guest.ask(op="status")["boots"]

    def boots(count: int) -> bool:
        return bool(guest.ask(op="status")["boots"] >= count)

    eventually(lambda: boots(20))
    before, first = size()
    eventually(lambda: boots(first + 150))
    after, last = size()
    assert last - first >= 150
    assert after - before < 2 * MIB
    assert len(os.listdir(f"/proc/{served.pid}/fd")) < 80
    assert len(os.listdir(f"/proc/{served.pid}/task")) < 6
    guest.ask(op="stop")
    assert served.end() == (0, "")


@pytest.mark.parametrize("left", [0, 1])
def test_a_kernel_that_is_cut_short_in_place_ends_its_guest_at_the_next_reset(
    flat, eventually, public_folder, left
):
    guest = flat("flood", log_max_size=MIB)
    served = guest.start()
    eventually(lambda: len(guest.log()) > 100)
    kernel = public_folder / "flood.img"
    size = os.path.getsize(kernel)
    os.truncate(kernel, left)
    guest.ask(op="reset")
    status, said = served.end()
    assert status == EXIT_INPUT
    assert said.endswith(
        f"{kernel} was cut short while its guest ran: expected {size} bytes, found {left}\n"
    )


# Standing still.


def test_a_paused_guest_stands_still_and_goes_on(flat, eventually, host):
    guest = flat("flood", log_max_size=64 * MIB)
    served = guest.start()
    eventually(lambda: len(guest.log()) > 100)
    for _ in range(3):
        assert host.command("pause", "web").status == 0
        stood = len(guest.log())
        assert guest.ask(op="status")["state"] == "paused"
        assert json.loads(host.command("status", "web").out)["state"] == "paused"
        assert host.command("list").out.splitlines()[1].split()[:2] == ["web", "paused"]
        time.sleep(0.1)
        assert len(guest.log()) == stood
        assert host.command("resume", "web").status == 0
        assert guest.ask(op="status")["state"] == "running"
        eventually(lambda: len(guest.log()) > stood + 100)  # noqa: B023
    assert set(guest.log()) == {ord("x")}
    guest.ask(op="pause")
    guest.ask(op="stop")
    assert served.end() == (0, "")


@pytest.mark.parametrize("what", ["halt", "spin"])
def test_whatever_a_guest_does_it_can_be_paused(flat, what):
    guest = flat(what, vcpus=2)
    served = guest.start()
    for _ in range(10):
        guest.ask(op="pause")
        guest.ask(op="resume")
    guest.ask(op="pause")
    served.process.send_signal(signal.SIGTERM)
    assert served.end() == (0, "")


def test_a_paused_guest_is_reset_by_who_asks_for_it(host, eventually):
    guest = host.guest()
    guest.start()
    eventually(lambda: prompts(guest, 1))
    guest.ask(op="pause")
    guest.ask(op="reset")
    eventually(lambda: prompts(guest, 2))
    assert guest.ask(op="status")["state"] == "running"


# The watchdog.


def test_a_guest_that_never_starts_its_watchdog_is_ended(flat):
    guest = flat("halt", watchdog={"timeout": 1.5, "action": "stop"})
    served = guest.start()
    assert 0 < guest.ask(op="status")["watchdog"]["left"] <= 0.75
    assert served.end() == (124, "kvm-helper: the watchdog ran out\n")
    assert guest.last_exit()["reason"] == "the watchdog ran out"
    assert guest.last_exit()["ended"] - guest.last_exit()["started"] >= 1.4


def test_or_reset(flat, eventually):
    guest = flat("halt", watchdog={"timeout": 0.2, "action": "reset"})
    served = guest.start()
    eventually(lambda: guest.ask(op="status")["boots"] >= 3)
    status = guest.ask(op="status")
    assert status["watchdog"]["fired"] == status["boots"] - 1
    guest.ask(op="pause")
    boots = guest.ask(op="status")["boots"]
    time.sleep(0.5)
    assert guest.ask(op="status")["boots"] == boots  # its time stands still, too
    guest.ask(op="resume")
    eventually(lambda: guest.ask(op="status")["boots"] > boots)
    guest.ask(op="stop")
    assert served.end() == (0, "")


# Where it runs.


def allowed(pid: int) -> list[str]:
    """Return the CPUs that each thread of a process may use, the main thread first."""
    found = []
    for task in sorted(os.listdir(f"/proc/{pid}/task"), key=int):
        if Path(f"/proc/{pid}/task/{task}/comm").read_text().startswith("kvm-"):
            continue  # the kernel's own
        lines = Path(f"/proc/{pid}/task/{task}/status").read_text().splitlines()
        (line,) = [line for line in lines if line.startswith("Cpus_allowed_list:")]
        found.append(line.split()[1])
    return found


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="pins take two CPUs")
def test_pins_and_priority(flat):
    first, second, *_ = sorted(os.sched_getaffinity(0))
    tuning = {"vcpu_pins": {"1": str(second)}, "emulator_pin": str(first), "nice": 3}
    guest = flat("halt", vcpus=3, cpu_tuning=tuning)
    served = guest.start()
    guest.ask(op="status")
    rest = allowed(os.getpid())[0]
    assert allowed(served.pid) == [str(first), rest, str(second), rest]
    assert os.getpriority(os.PRIO_PROCESS, served.pid) == 3
    guest.ask(op="stop")
    assert served.end() == (0, "")


def test_a_pin_to_a_cpu_that_is_not_there_says_so(host):
    guest = host.guest(cpu_tuning={"vcpu_pins": {"0": "4095"}})
    served = guest.start()
    assert served.line.startswith("error: cpu_tuning asks for the CPUs 4095, this process may use ")
    assert served.end()[0] == 78
    assert guest.last_exit()["status"] == 78


# Numbers.


def test_numbers_of_a_running_guest(host, eventually):
    guest = host.guest(rng=[{}], vcpus=2, memory=8 * MIB, on_reboot="restart")
    served = guest.start()
    eventually(lambda: prompts(guest, 1))
    found = guest.ask(op="metrics")["metrics"]
    assert (found["name"], found["up"], found["boots"], found["vcpus"]) == ("web", 1, 1, 2)
    assert found["exits"]["io"] == sum(found["port_exits"].values())
    assert found["port_exits"]["0x3f8"] > 100
    assert found["devices"] == {"rng0": {}}
    memory = found["memory"]
    assert memory["size"] == 8 * MIB
    assert 0 < memory["resident"] < 8 * MIB
    assert MIB < memory["helper_proportional"] < 64 * MIB
    marks = found["milestones"]
    order = ["opened", "confined", "built", "first_entry", "first_output"]
    assert sorted(marks, key=marks.__getitem__) == order
    assert 0 < marks["opened"] < marks["first_output"] < 20
    assert found["vcpu_seconds"].keys() == {"0", "1"}
    assert found["process_seconds"] > found["vcpu_seconds"]["0"] > 0
    before = found["port_exits"]["0x3f8"]
    guest.ask(op="reset")
    eventually(lambda: prompts(guest, 2))
    assert guest.ask(op="metrics")["metrics"]["port_exits"]["0x3f8"] > 1.9 * before
    guest.ask(op="stop")
    assert served.end() == (0, "")


def test_numbers_for_prometheus(host, eventually):
    guest = host.guest()
    host.guest("asleep")
    guest.start()
    eventually(lambda: prompts(guest, 1))
    text = guest.ask(op="metrics", format="prometheus")["text"]
    assert 'virtfleet_guest_up{name="web"} 1\n' in text
    done = host.command("metrics", "--prometheus")
    assert done.status == 0
    assert 'virtfleet_guest_up{name="asleep"} 0\n' in done.out
    assert 'virtfleet_guest_up{name="web"} 1\n' in done.out
    assert 'virtfleet_guest_port_exits_total{name="web",port="0x3f8"} ' in done.out
    kinds = [line.split()[2] for line in done.out.splitlines() if line.startswith("# TYPE")]
    assert len(kinds) == len(set(kinds))
    one = json.loads(host.command("metrics", "web").out)
    assert one["web"]["boots"] == 1
    assert host.command("metrics", "nobody").status == 66
