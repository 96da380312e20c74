# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter of system calls: interpreted here call by call, and by the kernel in a process."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import re
import signal
import socket
import struct
import sys
import threading
from pathlib import Path

import pytest
from ansible.module_utils.kvm import seccomp

X86_64 = 0xC000003E
ALLOWED, KILLED = "allowed", "killed"
_HEADER = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
linux = pytest.mark.skipif(
    sys.platform != "linux" or os.uname().machine != "x86_64", reason="the filter is for x86-64"
)


def interpret(program, data):
    """Run a filter over a struct seccomp_data; return its answer."""
    accumulator = at = 0
    for _ in range(len(program) + 1):
        code, true, false, value = program[at]
        at += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("I", data, value)
        elif code == 0x54:
            accumulator &= value
        elif code == 0x06:
            return value
        else:
            holds = {
                0x15: accumulator == value,
                0x35: accumulator >= value,
                0x45: bool(accumulator & value),
            }[code]
            at += true if holds else false
    raise AssertionError("a filter that does not end")


def decide(number, *arguments, arch=X86_64):
    """Return what becomes of a call: the strictest of the filters' answers decides."""
    values = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("IIQ6Q", number & 0xFFFFFFFF, arch, 0, *values)
    answers = [interpret(program, data) for program, _ in seccomp.programs()]
    if seccomp.KILL in answers:
        return KILLED
    refusals = [one & 0xFFFF for one in answers if one & 0x7FFF0000 == 0x00050000]
    if refusals:
        return errno.errorcode[refusals[0]]
    assert set(answers) == {seccomp.ALLOW}
    return ALLOWED


def test_the_numbers_are_the_kernels():
    if not _HEADER.exists():
        pytest.skip("linux-libc-dev is not installed")
    found = dict(re.findall(r"#define __NR_(\w+) (\d+)", _HEADER.read_text(encoding="utf-8")))
    ours = {**seccomp._FREE, **seccomp._HOSTILE}
    known = {name: number for name, number in ours.items() if name in found}
    assert len(known) > 100
    assert {name: int(found[name]) for name in known} == known
    for name in ("ioctl", "mmap", "mprotect", "clone", "prctl", "openat", "clone3"):
        assert int(found[name]) == getattr(seccomp, f"_{name.upper()}")


def test_no_call_is_on_two_lists():
    numbers = [*seccomp._FREE.values(), *seccomp._HOSTILE.values()]
    special = [16, 9, 10, 56, 157, 257, 435]
    assert len({*numbers, *special}) == len(numbers) + len(special)


def test_every_call_has_an_answer():
    for number in range(600):
        expected = (
            ALLOWED
            if number in seccomp._FREE.values()
            else KILLED
            if number in seccomp._HOSTILE.values()
            else {16: "EPERM", 9: ALLOWED, 10: ALLOWED, 435: "ENOSYS"}.get(number, "EPERM")
        )
        assert decide(number) == expected, number


@pytest.mark.parametrize("number", [0x40000000, 0x40000001, 0x7FFFFFFF, 0xFFFFFFFF])
def test_another_abi_ends_the_process(number):
    assert decide(number) == KILLED


@pytest.mark.parametrize("arch", [0x40000003, 0xC00000B7, 0])
def test_another_architecture_ends_the_process(arch):
    """The 32-bit entry of an x86-64 kernel is one: its numbers mean other calls."""
    assert decide(0, arch=arch) == KILLED


ARGUMENTS = {
    "KVM_RUN": (16, (5, 0xAE80), ALLOWED),
    "KVM_IRQFD": (16, (5, 0x4020AE76), ALLOWED),
    "a request whose upper half is ignored by the kernel": (16, (5, 1 << 40 | 0xAE80), ALLOWED),
    "VHOST_SET_OWNER": (16, (5, 0xAF01), ALLOWED),
    "BLKDISCARD": (16, (5, 0x1277), ALLOWED),
    "TUNSETOFFLOAD": (16, (5, 0x400454D0), ALLOWED),
    "isatty": (16, (5, 0x5401), ALLOWED),
    "FIONBIO": (16, (5, 0x5421), ALLOWED),
    "TIOCSTI, which types for whoever sits at the terminal": (16, (0, 0x5412), "EPERM"),
    "TIOCLINUX, which does as well": (16, (0, 0x541C), "EPERM"),
    "TIOCSCTTY": (16, (0, 0x540E), "EPERM"),
    "TUNSETIFF": (16, (5, 0x400454CA), "EPERM"),
    "SIOCSIFADDR": (16, (5, 0x8916), "EPERM"),
    "FS_IOC_SETFLAGS": (16, (5, 0x40086602), "EPERM"),
    "memory": (9, (0, 4096, 3, 0x22), ALLOWED),
    "memory that code may lie in": (9, (0, 4096, 7, 0x22), "EPERM"),
    "code": (9, (0, 4096, 4, 0x22), "EPERM"),
    "memory made writable": (10, (0, 4096, 3), ALLOWED),
    "memory made executable": (10, (0, 4096, 5), "EPERM"),
    "a thread": (56, (0x3D0F00,), ALLOWED),
    "a process": (56, (0x1200011,), "EPERM"),
    "a process in a namespace of its own": (56, (0x20000 | 17,), "EPERM"),
    "a path": (257, (0xFFFFFF9C,), ALLOWED),
    "a path, sign-extended": (257, (0xFFFFFFFFFFFFFF9C,), ALLOWED),
    "a path below a descriptor": (257, (3,), "EPERM"),
    "a thread's name": (157, (15,), ALLOWED),
    "a new seccomp filter": (157, (22,), "EPERM"),
    "being traced": (157, (0x59616D61,), "EPERM"),
    "a clone whose flags lie in memory": (435, (), "ENOSYS"),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_arguments_decide(case):
    number, arguments, expected = ARGUMENTS[case]
    assert decide(number, *arguments) == expected


def test_the_kernel_takes_the_filters():
    for program, flags in seccomp.programs():
        assert 0 < len(program) <= 4096  # BPF_MAXINSNS
        assert flags in {0, 2}
        for at, (code, true, false, value) in enumerate(program):
            assert code in {0x20, 0x54, 0x06, 0x15, 0x35, 0x45}
            assert 0 <= value < 1 << 32
            assert at + max(true, false) + 1 < len(program) or code == 0x06


# By the kernel: in a process of its own.


def in_child(function):
    """Run a function in a process with the filters; return its answer, or the signal of its end."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            libc.prctl(38, 1, 0, 0, 0)
            seccomp.install()
            answer = json.dumps(function(libc))
        except BaseException as error:  # noqa: BLE001 - this process must not come back into pytest
            answer = json.dumps(repr(error))
        os.write(writer, answer.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        said = file.read().decode()
    _, status = os.waitpid(pid, 0)
    return signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else json.loads(said)


def error_of(call, *arguments):
    try:
        call(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "allowed"


@linux
def test_what_a_helper_does_is_allowed(tmp_path):
    def child(libc):
        path = str(tmp_path / "file")
        with open(path, "w+b", buffering=0) as file:
            os.pwritev(file.fileno(), [b"written"], 0)
            os.fdatasync(file.fileno())
            os.preadv(file.fileno(), [bytearray(4)], 0)
        os.replace(path, path + ".1")
        os.unlink(path + ".1")
        one, other = os.pipe2(os.O_CLOEXEC)
        os.write(other, b"x")
        done = []
        threads = [threading.Thread(target=done.append, args=(n,)) for n in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        signal.pthread_kill(threading.get_ident(), 0)
        os.sched_setaffinity(0, os.sched_getaffinity(0))
        return [os.read(one, 1).decode(), sorted(done), len(os.urandom(8)), libc.eventfd(0, 0) > 0]

    assert in_child(child) == ["x", [0, 1, 2], 8, True]


REFUSED = {
    "a socket": lambda _: error_of(socket.socket),
    "a process": lambda _: error_of(os.fork),
    "a folder": lambda _: error_of(os.mkdir, "/tmp/x"),
    "a list of a folder": lambda _: error_of(os.listdir, "/"),
    "another user": lambda _: error_of(os.setuid, 1),
    "another's priority": lambda _: error_of(os.setpriority, os.PRIO_PROCESS, 1, 1),
}


@linux
@pytest.mark.parametrize("case", REFUSED)
def test_what_it_does_not_do_is_refused(case):
    assert in_child(REFUSED[case]) == "EPERM"


KILLING = {
    "another program": lambda _: error_of(os.execv, "/bin/true", ["true"]),
    "a debugger": lambda libc: libc.ptrace(0, 0, 0, 0),
    "a mount": lambda libc: libc.mount(None, b"/", None, 0, None),
    "another root": lambda _: error_of(os.chroot, "/"),
    "a namespace": lambda libc: libc.unshare(0x10000000),
    "a program in the kernel": lambda libc: libc.syscall(321, 0, 0, 0),
    "another's memory": lambda libc: libc.syscall(310, 1, 0, 0, 0, 0, 0),
}


@linux
@pytest.mark.parametrize("case", KILLING)
def test_what_only_an_intruder_does_ends_the_process(case):
    assert in_child(KILLING[case]) == "SIGSYS"


@linux
def test_threads_that_were_there_before_are_held_to_it_too():
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        go, gone = threading.Event(), threading.Event()
        answers = []

        def later():
            go.wait()
            answers.append(error_of(socket.socket))
            gone.set()

        threading.Thread(target=later, daemon=True).start()
        ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)
        seccomp.install()
        go.set()
        gone.wait(5)
        os.write(writer, json.dumps(answers).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        assert json.loads(file.read().decode()) == ["EPERM"]
    os.waitpid(pid, 0)
