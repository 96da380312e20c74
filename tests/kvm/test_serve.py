# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""`kvm-helper serve` on the real /dev/kvm, below a root of the test's own, as root."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.kvm import control, process
from declared import MIB, UID, Guest

pytestmark = [
    pytest.mark.kvm,
    pytest.mark.skipif(os.geteuid() != 0, reason="guests have users of their own: needs root"),
]

MOUNT, UMOUNT = (str(shutil.which(tool)) for tool in ("mount", "umount"))


# Starting, and what keeps a guest from it.


def test_ready_and_what_is_recorded(host, eventually):
    guest = host.guest()
    before = time.time()
    served = guest.start()
    assert served.line == "ready\n"
    record = json.loads(Path(guest.paths.pid).read_text())
    assert record.pop("helper") is None
    assert record.pop("definition") == "d1"
    assert process.Identity.from_dict(record) == process.identity(served.pid)
    status = guest.ask(op="status")
    assert 0 <= status.pop("uptime") < 20
    assert all(count > 0 for count in status.pop("exits").values())
    assert status.pop("log").keys() == {"size", "dropped", "error"}
    assert status.pop("devices") == {}
    assert status.pop("jail").keys() == {"namespaces", "root", "seccomp", "refused"}
    assert status == {
        "ok": True,
        "name": "web",
        "state": "running",
        "pid": served.pid,
        "vcpus": 1,
        "memory": 4 * MIB,
        "boots": 1,
        "helper": None,
        "definition": "d1",
    }
    eventually(lambda: guest.log().endswith(b"> "))
    assert b"cmdline  console=ttyS0\r\n" in guest.log()
    assert guest.ask(op="stop") == {"ok": True}
    assert served.end() == (0, "")
    ended = guest.last_exit()
    assert before <= ended.pop("started") <= ended.pop("ended") <= time.time()
    assert ended == {"status": 0, "reason": "stopped on request", "detail": "", "helper": None}


def corrupt(guest: Guest) -> None:
    Path(guest.paths.definition).write_text('{"name": "web", "machine": {"memory": ')


# what is wrong → the error line, the exit status, and whether the end is recorded
BAD_STARTS: dict[str, tuple[Callable[[Guest], None], list[str], str, int, bool]] = {
    "no definition": (
        lambda guest: os.unlink(guest.paths.definition),
        [],
        "there is no guest web: No such file or directory",
        66,
        False,
    ),
    "corrupt definition": (corrupt, [], "is not a guest's definition: ", 78, False),
    "a user of the system": (
        lambda guest: guest.define(uid=1000),
        [],
        "uid 1000 is not a guest's",
        78,
        False,
    ),
    "no kernel": (
        lambda guest: guest.define(kernel="/nowhere/kernel"),
        [],
        "cannot open /nowhere/kernel: No such file or directory",
        66,
        True,
    ),
    "no initrd": (
        lambda guest: guest.define(initrd="/nowhere/initrd"),
        [],
        "cannot open /nowhere/initrd: No such file or directory",
        66,
        True,
    ),
    "a kernel that is none": (
        lambda guest: guest.define(kernel="/bin/sh"),
        [],
        "/bin/sh is no usable ELF64 image: expected an executable",
        66,
        True,
    ),
    "too little memory": (
        lambda guest: guest.define(memory=MIB),
        [],
        "greeter needs at least 2MiB of memory, the guest has 1MiB",
        78,
        True,
    ),
    "too many vCPUs": (
        lambda guest: guest.define(vcpus=1 << 20),
        [],
        "vCPUs, found 1048576",
        78,
        True,
    ),
    "no device": (
        lambda _: None,
        ["--device", "/nowhere/kvm"],
        "/nowhere/kvm is missing",
        78,
        True,
    ),
    "another device": (
        lambda _: None,
        ["--device", "/dev/null"],
        "/dev/null is not a KVM device",
        78,
        True,
    ),
}


@pytest.mark.parametrize("case", BAD_STARTS)
def test_a_start_that_fails_says_why(host, case):
    spoil, arguments, words, status, recorded = BAD_STARTS[case]
    guest = host.guest()
    spoil(guest)
    served = guest.start(*arguments)
    assert served.line.startswith("error: ")
    assert words in served.line
    ended, complaint = served.end()
    assert ended == status
    assert complaint.startswith("kvm-helper: ")
    assert "Traceback" not in complaint
    assert os.path.exists(guest.paths.last_exit) == recorded
    if recorded:
        assert guest.last_exit()["status"] == status
        assert words in guest.last_exit()["reason"]
        assert os.stat(guest.paths.last_exit).st_uid == UID


def test_a_guest_that_is_repaired_starts(host):
    guest = host.guest(kernel="/nowhere/kernel")
    assert guest.start().line.startswith("error: ")
    guest.define()
    assert guest.start().line == "ready\n"


def test_a_second_process_for_the_same_guest_is_refused(host):
    guest = host.guest()
    first = guest.start()
    record = Path(guest.paths.pid).read_bytes()
    second = guest.start()
    assert second.line == "error: guest web is already running\n"
    assert second.end()[0] == 78
    assert Path(guest.paths.pid).read_bytes() == record
    assert guest.ask(op="status")["pid"] == first.pid
    assert not os.path.exists(guest.paths.last_exit)


def test_of_several_that_start_at_once_one_runs(host):
    guest = host.guest()
    lines: list[str] = []
    threads = [threading.Thread(target=lambda: lines.append(guest.start().line)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(lines) == ["error: guest web is already running\n"] * 3 + ["ready\n"]
    assert guest.ask(op="status")["state"] == "running"


def own_pid(**changes: Any) -> dict[str, Any]:
    who = process.identity(os.getpid())
    assert who is not None
    return {**who.to_dict(), "helper": None, **changes}


LEFT_OVER = {
    "a process that has gone": own_pid(pid=2**22 - 1),
    "a pid that is another's now": own_pid(start=1),
    "another boot's": own_pid(boot_id="00000000-0000-0000-0000-000000000000"),
    "garbage": ["garbage"],
}


@pytest.mark.parametrize("case", LEFT_OVER)
def test_what_is_left_over_is_no_hindrance(host, case):
    guest = host.guest()
    os.makedirs(guest.paths.run)
    Path(guest.paths.pid).write_text(json.dumps(LEFT_OVER[case]))
    with closing(socket.socket(socket.AF_UNIX)) as left_over:
        left_over.bind(guest.paths.control)
    assert json.loads(host.command("status", "web").out)["state"] != "running"
    served = guest.start()
    assert served.line == "ready\n"
    assert guest.ask(op="status")["pid"] == served.pid


def test_a_plain_file_in_the_sockets_place_is_replaced(host):
    guest = host.guest()
    os.makedirs(guest.paths.run)
    Path(guest.paths.control).write_text("in the way")
    assert guest.start().line == "ready\n"
    assert guest.ask(op="status")["ok"] is True


def test_killed_and_started_again(host, eventually):
    guest = host.guest()
    first = guest.start()
    first.process.send_signal(signal.SIGKILL)
    assert first.end()[0] == -signal.SIGKILL
    assert not os.path.exists(guest.paths.last_exit)
    found = json.loads(host.command("status", "web").out)
    assert (found["state"], found["exit"]["status"]) == ("failed", None)
    assert host.command("stop", "web").status == 0
    second = guest.start()
    assert second.line == "ready\n"
    assert host.command("stop", "web").status == 0
    assert second.end() == (0, "")
    assert guest.last_exit()["reason"] == "stopped on request"


def test_systemd_is_told_when_it_runs(host):
    guest = host.guest()
    address = os.path.join(host.root, "notify")
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as receiver:
        receiver.bind(address)
        os.chmod(address, 0o777)  # noqa: S103 - systemd's own socket is open to its services
        receiver.settimeout(10)
        served = guest.start(env={**os.environ, "NOTIFY_SOCKET": address})
        assert served.line == "ready\n"
        assert receiver.recv(100) == b"READY=1"


def test_a_root_that_is_given_from_where_one_stands(host, eventually):
    guest = host.guest()
    folder, name = os.path.split(host.root)
    root, host.root = host.root, name
    try:
        served = guest.start(cwd=folder, umask=0o077)
    finally:
        host.root = root
    assert served.line == "ready\n"
    eventually(lambda: guest.log().endswith(b"> "))
    assert guest.ask(op="stop") == {"ok": True}
    assert served.end() == (0, "")
    assert guest.last_exit()["status"] == 0


# Privileges, and what is written.


def status_of(pid: int) -> dict[str, list[str]]:
    lines = [line.partition(":") for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
    return {key: value.split() for key, _, value in lines}


def test_privileges_are_given_up_for_good(host):
    served = host.guest(vcpus=2).start()
    for task in os.listdir(f"/proc/{served.pid}/task"):
        found = status_of(int(task))
        assert found["Uid"] == found["Gid"] == [str(UID)] * 4
        assert found["Groups"] == []
        assert found["NoNewPrivs"] == ["1"]
        for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
            assert int(found[name][0], 16) == 0, name
    limits = Path(f"/proc/{served.pid}/limits").read_text().splitlines()
    (core,) = [line for line in limits if line.startswith("Max core file size")]
    assert core.split()[4:6] == ["0", "0"]


def test_nothing_is_written_outside_the_guests_own_folder(host, tmp_path):
    """The whole root is compared: only state/ and the guest's run folder may differ."""
    guest, other = host.guest(), host.guest("other")
    host.command("list")
    before = host.tree()
    served = guest.start(cwd=str(tmp_path), env={**os.environ, "HOME": str(tmp_path)})
    assert served.line == "ready\n"
    guest.ask(op="stop")
    served.end()
    after = host.tree()
    new = {path: after.pop(path) for path in list(after) if path not in before}
    assert after == before
    state = os.path.relpath(guest.paths.state, host.root)
    run = os.path.relpath(guest.paths.run, host.root)
    user, root = (UID, UID), (0, 0)
    assert {path: value[:2] for path, value in new.items()} == {
        "run": ("0o40755", root),
        "run/virtfleet": ("0o40755", root),
        run: ("0o40755", root),
        f"{run}/pid.json": ("0o100644", root),
        f"{run}/control.sock": ("0o140600", root),
        f"{state}/console.log": ("0o100640", user),
        f"{state}/last-exit.json": ("0o100644", user),
    }
    assert not os.listdir(tmp_path)
    assert not os.listdir(other.paths.state)


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_what_the_guests_user_planted_does_no_harm(host, kind):
    guest = host.guest()
    precious = Path(host.root, "precious")
    precious.write_text("untouched")
    for path in (guest.paths.log, guest.paths.last_exit):
        if kind == "link":
            os.symlink(str(precious), path)
        elif kind == "pipe":
            os.mkfifo(path)
        else:
            os.mkdir(path)
    served = guest.start()
    assert served.line == "ready\n"
    status = guest.ask(op="status")
    assert status["log"]["size"] == 0
    assert status["log"]["error"]
    guest.ask(op="stop")
    assert served.end() == (0, "")
    assert precious.read_text() == "untouched"
    for command in ("list", "status", "logs"):
        name = [] if command == "list" else ["web"]
        assert "untouched" not in host.command(command, *name).out


# The control socket and the console.


def test_the_control_socket_survives_nonsense(host):
    guest = host.guest()
    served = guest.start()
    for nonsense in (b"\n", b"\xff\xfe\n", b"[" * 60_000 + b"\n", b"null\n", b'{"op": 1}\n'):
        with closing(guest.connect()) as client:
            client.sendall(nonsense)
            assert json.loads(control.read_line(client))["ok"] is False
    with closing(guest.connect()) as silent, closing(guest.connect()) as half:
        half.sendall(b'{"op": "st')
        assert silent.fileno() > 0
        assert guest.ask(op="status")["pid"] == served.pid
    assert guest.ask(op="status")["pid"] == served.pid


def read_until(client: socket.socket, words: bytes) -> bytes:
    data = b""
    while words not in data:
        piece = client.recv(4096)
        assert piece, data
        data += piece
    return data


def test_an_attached_console_talks_with_the_guest(host, eventually):
    guest = host.guest()
    guest.start()
    eventually(lambda: guest.log().endswith(b"> "))
    with closing(guest.connect()) as first, closing(guest.connect()) as second:
        for client in (first, second):
            assert control.ask(client, {"op": "console"}) == {"ok": True}
        first.sendall(b"echo seen by both\r")
        for client in (first, second):
            assert b"\r\nseen by both\r\n" in read_until(client, b"both\r\n> ")
        assert guest.ask(op="status")["ok"] is True
    assert guest.log().endswith(b"> echo seen by both\r\nseen by both\r\n> ")


def test_the_console_command_takes_typed_commands(host, eventually):
    guest = host.guest()
    served = guest.start()
    eventually(lambda: guest.log().endswith(b"> "))
    done = host.command("console", "web", stdin=b"echo typed\rexit 5\r")
    assert (done.status, done.err) == (0, "")
    assert done.out == "echo typed\r\ntyped\r\n> exit 5\r\n"
    assert served.end() == (11, "")
    assert guest.last_exit()["reason"] == "debug exit with value 0x5"


def test_list_status_and_logs(host, eventually):
    guest = host.guest()
    host.guest("asleep")
    served = guest.start()
    eventually(lambda: guest.log().endswith(b"> "))
    rows = [line.split() for line in host.command("list").out.splitlines()]
    assert rows[1] == ["asleep", "stopped"]
    assert rows[2][:2] == ["web", "running"]
    assert rows[2][-2:] == ["1", "4MiB"]
    assert json.loads(host.command("status", "web").out)["pid"] == served.pid
    assert host.command("logs", "web", "-n", "1").out == ">\x20\n"
    assert "Hello from inside" in host.command("logs", "web").out


# Ends.


@pytest.mark.parametrize(
    ("typed", "status", "reason"),
    [
        (b"exit 21\r", 43, "debug exit with value 0x15"),
        (b"reset\r", 0, "reset through the keyboard controller"),
        (b"crash\r", 72, "triple fault: vCPU 0 at "),
    ],
)
def test_how_the_guest_ends_itself_is_kept(host, eventually, typed, status, reason):
    guest = host.guest()
    served = guest.start()
    eventually(lambda: guest.log().endswith(b"> "))
    with closing(guest.connect()) as client:
        control.ask(client, {"op": "console"})
        client.sendall(typed)
        while client.recv(4096):
            pass
    ended, complaint = served.end()
    assert ended == status
    found = guest.last_exit()
    assert (found["status"], found["reason"].startswith(reason)) == (status, True)
    assert ("rip=" in found["detail"]) == ("rip=" in complaint) == (status == 72)
    row = host.command("list").out.splitlines()[1].split()
    assert row[:2] == ["web", "stopped" if status == 0 else "failed"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(host, number):
    guest = host.guest()
    served = guest.start()
    assert served.line == "ready\n"
    served.process.send_signal(number)
    assert served.end() == (0, "")
    assert guest.last_exit()["reason"] == f"stopped by {signal.Signals(number).name}"


def test_an_internal_error_of_kvm_is_kept(host, image, ring0):
    if ring0 != "emulated":
        pytest.skip(f"ring 0 is {ring0} here: the CPU itself carries the instruction out")
    guest = host.guest(kernel=image("popcnt"), cmdline="")
    served = guest.start()
    ended, complaint = served.end()
    assert ended == 70
    assert "66 f3 0f b8 c1" in complaint
    assert guest.last_exit()["reason"].startswith("KVM internal error: ")
    assert "rip=0x7c00" in guest.last_exit()["detail"]


# The log, under a guest that writes without end.


def flooding(guest: Guest) -> None:
    """Let the greeter print for ever."""
    with closing(guest.connect()) as client:
        control.ask(client, {"op": "console"})
        client.sendall(b"flood\r")
        read_until(client, b"quick brown fox")


def used(guest: Guest) -> dict[str, int]:
    """Return the bytes of each file of its state; one that is renamed just now may be left out."""
    sizes = {}
    for path in Path(guest.paths.state).iterdir():
        with suppress(FileNotFoundError):
            sizes[path.name] = path.stat().st_size
    return sizes


def test_an_endless_writer_uses_no_more_disk_than_allowed(host, eventually):
    guest = host.guest(log_max_size=4096, log_keep=2)
    served = guest.start()
    flooding(guest)
    eventually(lambda: len(used(guest)) == 3)
    for _ in range(20):
        time.sleep(0.01)
        assert all(size <= 4096 for size in used(guest).values())
        assert set(used(guest)) <= {"console.log", "console.log.1", "console.log.2"}
    status = guest.ask(op="status")
    assert (status["log"]["dropped"], status["log"]["error"]) == (0, None)
    assert host.command("logs", "web", "-n", "1").status == 0
    guest.ask(op="stop")
    assert served.end() == (0, "")


def test_the_logs_limits_change_while_it_runs(host, eventually):
    guest = host.guest(log_max_size=4096, log_keep=3)
    guest.start()
    flooding(guest)
    eventually(lambda: len(used(guest)) == 4)
    assert guest.ask(op="set", log_max_size=16_384, log_keep=1) == {"ok": True}
    eventually(lambda: set(used(guest)) == {"console.log", "console.log.1"})
    eventually(lambda: used(guest).get("console.log.1", 0) > 8192)
    with pytest.raises(control.ControlError, match="log_max_size must be a whole number"):
        guest.ask(op="set", log_max_size=1, log_keep=1)


@pytest.fixture
def small_disk(host) -> Iterator[Guest]:
    """Return a guest whose state folder is a file system of 32 KiB."""
    guest: Guest = host.guest(log_max_size=MIB, log_keep=1)
    options = f"size=32k,mode=0700,uid={UID},gid={UID}"
    command = [MOUNT, "-t", "tmpfs", "-o", options, "tmpfs", guest.paths.state]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield guest
    host.helper.close()
    subprocess.run([UMOUNT, guest.paths.state], check=True)


def test_a_full_disk_loses_output_but_neither_the_guest_nor_its_console(small_disk, eventually):
    guest = small_disk
    served = guest.start()
    flooding(guest)
    eventually(lambda: guest.ask(op="status")["log"]["dropped"] > 0)
    assert guest.ask(op="status")["log"]["error"] == "No space left on device"
    with closing(guest.connect()) as client:
        control.ask(client, {"op": "console"})
        read_until(client, b"quick brown fox")
    subprocess.run([MOUNT, "-o", "remount,size=1m", guest.paths.state], check=True)
    eventually(lambda: guest.ask(op="status")["log"]["error"] is None)
    dropped = guest.ask(op="status")["log"]["dropped"]
    eventually(lambda: guest.ask(op="status")["log"]["size"] > 40_000)
    assert guest.ask(op="status")["log"]["dropped"] == dropped
    guest.ask(op="stop")
    assert served.end() == (0, "")
    assert guest.last_exit()["reason"] == "stopped on request"


def test_a_disk_that_is_full_at_the_end_does_not_hide_the_status(small_disk, eventually):
    guest = small_disk
    served = guest.start()
    flooding(guest)
    eventually(lambda: guest.ask(op="status")["log"]["dropped"] > 0)
    served.process.send_signal(signal.SIGTERM)
    assert served.end() == (0, "")
    assert set(used(guest)) <= {"console.log", "last-exit.json"}


def test_many_guests_at_once(host):
    guests = [host.guest(f"g{number}", memory=2 * MIB) for number in range(10)]
    served = [guest.start() for guest in guests]
    assert [one.line for one in served] == ["ready\n"] * 10
    rows = host.command("list").out.splitlines()[1:]
    assert [row.split()[:2] for row in rows] == [[f"g{n}", "running"] for n in range(10)]
    for guest in guests:
        guest.ask(op="stop")
    assert [one.end() for one in served] == [(0, "")] * 10
