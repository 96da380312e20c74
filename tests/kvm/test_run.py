# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""`kvm-helper run` and its sister commands, as the built archive, seen from outside."""

from __future__ import annotations

import fcntl
import gzip
import json
import os
import pty
import select
import signal
import stat
import subprocess
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.kvm import layout

pytestmark = pytest.mark.kvm
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has something to give up")

GREETING = "Hello from inside a virtfleet guest."

# arguments, where {name} stands for the file of an image; input → status, output, complaint
RUNS: dict[str, tuple[str, bytes, int, str, str]] = {
    "real mode": ("{real}", b"", 43, "R", ""),
    "protected mode": ("{protected} --memory 2MiB", b"", 45, "", ""),
    "two vCPUs": ("{smp} --vcpus 2", b"", 49, "ab", ""),
    "interrupts": ("{timer}", b"", 51, "", ""),
    "input": ("{strings}", b"12345678", 53, "ready: 12345678", ""),
    "module and command line": ("{multiboot} --initrd {real} --cmdline hello", b"", 3, "hello", ""),
    "the greeter": ("greeter", b"echo hi there\nexit 21\n", 43, "\nhi there\n", ""),
    "a status of 255": ("greeter", b"exit 127\n", 255, GREETING, ""),
    "a status that wraps": ("greeter", b"exit 128\n", 1, GREETING, ""),
    "reset": ("greeter", b"reset\n", 0, GREETING, ""),
    "the other reset": ("{reset_cf9}", b"", 0, "", ""),
    "triple fault": ("greeter", b"crash\n", 72, GREETING, "triple fault: vCPU 0 at "),
    "timeout": ("{spin} --timeout 0.05", b"", 124, "", "timed out"),
    "timeout in another unit": ("{halt} --timeout 50ms", b"", 124, "", "timed out"),
    "no kernel": ("/nowhere/kernel", b"", 66, "", "cannot open /nowhere/kernel: No such file"),
    "a folder": ("/", b"", 66, "", "/ is not a regular file"),
    "a device": ("/dev/zero", b"", 66, "", "/dev/zero is not a regular file"),
    "a foreign format": ("{gzip}", b"", 66, "", "is a gzip archive, not a guest image"),
    "a kernel that is cut": ("{cut}", b"", 66, "", "is no usable multiboot ELF32 image"),
    "no initrd": ("greeter --initrd /nowhere", b"", 66, "", "cannot open /nowhere"),
    "too little memory": ("greeter --memory 1MiB", b"", 78, "", "needs at least 2MiB of memory"),
    "memory that is no page": ("greeter --memory 4194305B", b"", 78, "", "multiple of 4096"),
    "memory that no host has": ("greeter --memory 9999999TiB", b"", 78, "", "cannot map"),
    "too many vCPUs": ("greeter --vcpus 99999", b"", 78, "", "vCPUs, found 99999"),
    "a control character": ("greeter --cmdline a\x07b", b"", 78, "", "control characters"),
    "a flat image with an initrd": ("{real} --initrd {real}", b"", 78, "", "cannot take an initrd"),
    "no device": ("greeter --device /nowhere/kvm", b"", 78, "", "/nowhere/kvm is missing; load"),
    "another device": ("greeter --device /dev/null", b"", 78, "", "is not a KVM device"),
    "wrong usage": ("greeter --memory 4", b"", 64, "", "with a unit such as 128MiB, found '4'"),
}


@pytest.fixture
def paths(image) -> Callable[[str], list[str]]:
    """Put the files of images in the place of their names in braces."""
    special = {
        "{gzip}": lambda: image(gzip.compress(b"kernel")),
        "{cut}": lambda: image(Path(image("multiboot")).read_bytes()[:-20]),
    }

    def resolve(text: str) -> list[str]:
        words = []
        for word in text.split(" "):
            if word.startswith("{"):
                words.append(special[word]() if word in special else image(word.strip("{}")))
            else:
                words.append(word)
        return words

    return resolve


@pytest.mark.parametrize("case", RUNS)
def test_run(any_helper, paths, case):
    arguments, stdin, status, shown, complaint = RUNS[case]
    done = any_helper.run("run", "--kernel", *paths(arguments), stdin=stdin)
    assert done.status == status, done
    assert shown in done.out.replace("\r\n", "\n")
    assert complaint in done.err
    assert bool(done.err) == bool(complaint)
    assert "Traceback" not in done.err


def test_an_internal_error_of_kvm(any_helper, image, ring0):
    if ring0 != "emulated":
        pytest.skip(f"ring 0 is {ring0} here: the CPU itself carries the instruction out")
    done = any_helper.run("run", "--kernel", image("popcnt"))
    assert done.status == 70
    first, *registers = done.err.splitlines()
    assert first.startswith("kvm-helper: KVM internal error: ")
    assert "66 f3 0f b8 c1" in first
    assert any("rip=0x7c00" in line for line in registers)


def test_a_triple_fault_puts_the_registers_on_standard_error(any_helper):
    done = any_helper.run("run", "--kernel", "greeter", stdin=b"crash\n")
    assert done.status == 72
    words = dict(word.split("=") for line in done.err.splitlines()[1:] for word in line.split())
    assert {"rax", "rip", "rflags", "cr0", "cr3", "cr4", "efer", "cs"} <= set(words)
    assert words["cs"].startswith("0x8/")


BASICS: dict[str, tuple[list[str], int]] = {
    "probe": (["probe"], 0),
    "probe --json": (["probe", "--json"], 0),
    "list": (["list"], 0),
    "status": (["status", "nobody"], 66),
    "logs": (["logs", "nobody"], 66),
    "console": (["console", "nobody"], 74),
    "stop": (["stop", "nobody"], 66),
    "serve": (["serve", "nobody"], 66),
    "help": (["--help"], 0),
    "nothing": ([], 64),
}


@pytest.mark.parametrize("case", BASICS)
def test_every_command_runs_from_the_archive(any_helper, tmp_path, case):
    arguments, status = BASICS[case]
    takes_root = arguments and arguments[0] not in {"probe", "--help"}
    root = ["--root", str(tmp_path)] if takes_root else []
    done = any_helper.run(*arguments, *root)
    assert done.status == status, done
    assert "Traceback" not in done.err
    if arguments[-1:] == ["--json"]:
        assert json.loads(done.out)["api_version"] == 12


def test_standard_output_that_is_closed(helper):
    command = ["sh", "-c", 'exec "$@" >&-', "sh", *helper.command]
    for arguments in (["run", "--kernel", "greeter"], ["probe"], ["list"]):
        done = subprocess.run(
            [*command, *arguments], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False
        )
        assert done.returncode == 74, arguments
        assert b"Bad file descriptor" in done.stderr


@pytest.mark.parametrize("arguments", [["run", "--kernel", "greeter"], ["probe", "--json"]])
def test_standard_output_that_nobody_reads(helper, arguments):
    reader, writer = os.pipe()
    os.close(reader)
    done = helper.run(*arguments, stdout=writer)
    os.close(writer)
    assert done.status == 74
    assert "Traceback" not in done.err
    assert "Exception ignored" not in done.err


@pytest.mark.parametrize("arguments", [["run", "--kernel", "greeter"], ["probe"]])
def test_standard_output_on_a_full_disk(helper, arguments):
    with open("/dev/full", "wb") as full:
        done = helper.run(*arguments, stdout=full)
    assert done.status == 74
    assert "No space left on device" in done.err


def test_standard_input_and_error_that_are_closed(helper):
    command = ["sh", "-c", 'exec "$@" <&- 2>&-', "sh", *helper.command]
    command += ["run", "--kernel", "greeter", "--timeout", "0.3"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    assert done.returncode == 124
    assert GREETING.encode() in done.stdout


def read_until(stream: Any, words: bytes) -> bytes:
    data = b""
    while words not in data:
        ready, _, _ = select.select([stream], [], [], 20)
        piece = os.read(stream if isinstance(stream, int) else stream.fileno(), 4096)
        assert ready, data
        assert piece, data
        data += piece
    return data


def test_a_conversation(helper):
    process = helper.start("run", "--kernel", "greeter", "--cmdline", "x=1")
    greeting = read_until(process.stdout, b"\n> ")
    assert b"cmdline  x=1\r\n" in greeting
    process.stdin.write(b"what\n")
    process.stdin.flush()
    assert b"Unknown command" in read_until(process.stdout, b"\n> ")
    process.stdin.write(b"ecko\x08\x08ho back\x7fk\r")
    process.stdin.flush()
    assert b"\r\nback\r\n" in read_until(process.stdout, b"back\r\n> ")
    process.stdin.write(b"exit 3\n")
    process.stdin.close()
    assert process.wait(20) == 7


NEVER_ENDING = {"spin": "{spin}", "halt": "{halt}", "greeter": "greeter", "flood": "{flood}"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("guest", ["greeter", "halt"])
def test_signals_end_it_cleanly(helper, paths, eventually, guest, number):
    process = helper.start("run", "--kernel", *paths(NEVER_ENDING[guest]))
    # SIGHUP is the last of them that the runner takes over.
    eventually(lambda: catches(process.pid, signal.SIGHUP))
    process.send_signal(number)
    assert process.wait(20) == 0
    assert process.stderr.read() == b""


def catches(pid: int, number: int) -> bool:
    return bool(int(status_of(pid)["SigCgt"][0], 16) >> (number - 1) & 1)


@pytest.mark.parametrize("guest", NEVER_ENDING)
def test_a_timeout_is_kept(helper, paths, guest):
    begin = time.monotonic()
    arguments = ["--vcpus", "2", "--timeout", "0.2", "--memory", "8MiB"]
    done = helper.run("run", "--kernel", *paths(NEVER_ENDING[guest]), *arguments)
    assert done.status == 124
    assert 0.2 <= time.monotonic() - begin < 3


def test_a_timeout_is_kept_although_nobody_reads_the_output(helper, image):
    """The vCPU's thread waits in a write to a full pipe, where no signal reaches it."""
    reader, writer = os.pipe()
    room = fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    arguments = ["run", "--kernel", image("flood"), "--timeout", "3"]
    process = helper.start(*arguments, stdout=writer)
    os.close(writer)
    begin = time.monotonic()
    assert process.wait(20) == 124
    assert time.monotonic() - begin < 3 + 5.7
    assert process.stderr.read() == b"kvm-helper: timed out\n"
    with os.fdopen(reader, "rb") as file:
        assert file.read() == b"x" * room


class Terminal:
    """A terminal with the helper on it."""

    def __init__(self, command: list[str]) -> None:
        self.pid, self.person = pty.fork()
        if self.pid == 0:
            os.execv(command[0], command)  # noqa: S606 - the child of pty.fork has to

    def close(self) -> int:
        _, status = os.waitpid(self.pid, 0)
        os.close(self.person)
        return os.waitstatus_to_exitcode(status)


def test_a_terminal_is_raw_and_ctrl_bracket_leaves(helper):
    command = [*helper.command, "run", "--kernel", "greeter"]
    # The shell stays, so that the terminal can be looked at afterwards.
    shell = ["/bin/sh", "-c", '"$@"; echo "status $?"; read line', "sh", *command]
    terminal = Terminal(shell)
    before = termios.tcgetattr(terminal.person)
    read_until(terminal.person, b"\n> ")
    assert not termios.tcgetattr(terminal.person)[3] & (termios.ECHO | termios.ICANON)
    os.write(terminal.person, b"echo \x03ctrl-c is the guest's\r")
    assert b"\r\nctrl-c is the guest's" in read_until(terminal.person, b"guest's\r\n> ")
    os.write(terminal.person, b"\x1d")
    read_until(terminal.person, b"status 0")
    assert termios.tcgetattr(terminal.person) == before
    os.write(terminal.person, b"\n")
    assert terminal.close() == 0


def status_of(pid: int) -> dict[str, list[str]]:
    lines = [line.partition(":") for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
    return {key: value.split() for key, _, value in lines}


@as_root
def test_privileges_are_given_up_before_the_guest_runs(helper):
    process = helper.start("run", "--kernel", "greeter", "--vcpus", "2")
    read_until(process.stdout, b"\n> ")
    for task in os.listdir(f"/proc/{process.pid}/task"):
        found = status_of(int(task))
        uid = int(found["Uid"][0])
        assert layout.FIRST_UID <= uid <= layout.FIRST_UID | layout.UID_MASK
        assert found["Uid"] == found["Gid"] == [str(uid)] * 4
        assert found["Groups"] == []
        assert found["NoNewPrivs"] == ["1"]
        for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
            assert int(found[name][0], 16) == 0
    process.kill()


@as_root
def test_only_its_streams_and_kvm_stay_open(helper):
    process = helper.start("run", "--kernel", "greeter")
    read_until(process.stdout, b"\n> ")
    folder = f"/proc/{process.pid}/fd"
    opened = [os.readlink(f"{folder}/{name}").partition(":[")[0] for name in os.listdir(folder)]
    assert set(opened) == {
        "pipe",
        "/dev/kvm",
        "anon_inode",  # of epoll
        "anon_inode:kvm-vm",
        "anon_inode:kvm-vcpu:0",
    }
    assert opened.count("pipe") == 3 + 2  # the streams, and what the main thread is woken with
    process.kill()


def tree(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return what lies in a folder, by path: mode, owner, size, and times of change."""
    found = {}
    for path in sorted([folder, *folder.rglob("*")]):
        status = path.lstat()
        times = (status.st_mtime_ns, status.st_ctime_ns) if stat.S_ISREG(status.st_mode) else ()
        found[str(path)] = (status.st_mode, status.st_uid, status.st_size, *times)
    return found


def test_nothing_is_written_anywhere(helper, image, tmp_path):
    """Home, temporary and working folder are of the test's own, and stay as they are."""
    place = tmp_path / "place"
    for name in ("home", "tmp", "work", "cache"):
        (place / name).mkdir(parents=True)
        (place / name).chmod(0o777)
    kernel = image("smp")
    environment = {
        **os.environ,
        "HOME": str(place / "home"),
        "TMPDIR": str(place / "tmp"),
        "XDG_CACHE_HOME": str(place / "cache"),
    }
    before = tree(tmp_path)
    for arguments in (
        ["run", "--kernel", kernel, "--vcpus", "2"],
        ["run", "--kernel", "greeter", "--timeout", "0.1"],
        ["probe"],
        ["list", "--root", str(place)],
    ):
        done = helper.run(*arguments, cwd=str(place / "work"), env=environment)
        assert done.status in {0, 49, 124}
    assert tree(tmp_path) == before


def test_warnings_are_none(pythons, archived_helper):
    """Every file, socket and thread is closed by its owner, not by the interpreter's end."""
    command = [str(pythons["host"]), "-X", "dev", "-W", "error", str(archived_helper)]
    for arguments, status in (
        (["run", "--kernel", "greeter", "--timeout", "0.2"], 124),
        (["probe", "--json"], 0),
    ):
        done = subprocess.run(
            [*command, *arguments], stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
        assert done.returncode == status
        assert b"Warning" not in done.stderr
