# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The jail, in processes of its own: what is left in it, and what is told if a wall is missing.

What is seen from outside, and that nothing is missing in it, is tested with guests that run
(tests/kvm/test_jail.py).
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import traceback

import pytest
from ansible.module_utils.kvm import jail, layout, privileges, seccomp
from ansible.module_utils.kvm.errors import KvmError
from ansible.module_utils.kvm.jail import Jail

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="namespaces and users take root")
UID = layout.FIRST_UID | 4712


@pytest.fixture
def places(tmp_path):
    """Return the folder that stays, with a file in it, and the stage."""
    state, stage = tmp_path / "guests" / "web" / "state", tmp_path / "run"
    state.mkdir(parents=True)
    stage.mkdir()
    (state / "kept").write_text("kept")
    os.chown(state, UID, UID)
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "secret").chmod(0o644)
    return str(state), str(stage)


def in_child(function):
    """Run a function in a forked process and return what it returns, or the signal of its end."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writer, json.dumps(function()).encode())
        except BaseException:  # noqa: BLE001 - this process must not come back into pytest
            os.write(writer, json.dumps(traceback.format_exc()).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        answer = file.read().decode()
    _, status = os.waitpid(pid, 0)
    return (
        signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else json.loads(answer)
    )


def attempt(function, *arguments):
    """Return the name of the error that the call ends in."""
    try:
        function(*arguments)
    except OSError as error:
        return type(error).__name__
    return "allowed"


WHOLE = {"namespaces": ["ipc", "mnt", "net", "uts"], "root": "own", "seccomp": True, "refused": []}


@as_root
def test_all_walls_stand(places):
    state, stage = places
    assert in_child(lambda: Jail(UID, state, stage).enter(1, 0)) == WHOLE


@as_root
def test_the_folder_is_all_that_is_left(places, tmp_path):
    state, stage = places

    def child():
        Jail(UID, state, stage).enter(1, 0)
        return [
            attempt(open, f"{state}/kept"),
            attempt(open, tmp_path / "secret"),
            attempt(open, "/etc/passwd"),
            attempt(open, "/proc/self/status"),
            attempt(open, "/dev/null"),
            attempt(open, f"{state}/new", "w"),
            attempt(open, "/new", "w"),
            attempt(open, f"{os.path.dirname(state)}/new", "w"),
        ]

    missing = "FileNotFoundError"
    assert in_child(child) == ["allowed", *[missing] * 4, "allowed", "OSError", "OSError"]
    assert os.path.exists(f"{state}/new")
    assert os.listdir(stage) == []


@as_root
def test_a_strict_umask_shuts_nobody_out(places):
    state, stage = places

    def child():
        os.umask(0o077)
        Jail(UID, state, stage).enter(1, 0)
        return [attempt(open, f"{state}/kept"), os.umask(0)]

    assert in_child(child) == ["allowed", 0o077]


@as_root
def test_nothing_else_is_in_the_new_root(places):
    state, stage = places

    def child():
        seccomp.install = lambda: None  # listing is not among the calls of a helper
        Jail(UID, state, stage).enter(1, 0)
        return sorted(folder for folder, _, _ in os.walk("/"))

    parts = state.strip("/").split("/")
    above = ["/" + "/".join(parts[:count]) for count in range(1, len(parts) + 1)]
    assert in_child(child) == ["/", *above]


@as_root
def test_what_is_open_leads_nowhere(places):
    """Neither what a descriptor of a folder stands on, nor the working directory."""
    state, stage = places

    def child():
        held = jail.open_folder(os.path.dirname(state))
        seccomp.install = lambda: None
        Jail(UID, state, stage).enter(1, 0)
        up = os.open("../../../../..", os.O_PATH, dir_fd=held)
        return [sorted(os.listdir(held)), os.getcwd(), os.fstat(up).st_ino]

    names, where, inode = in_child(child)
    assert (names, where) == (["state"], "/")
    assert inode == os.stat(os.path.dirname(state)).st_ino


@as_root
def test_privileges_and_limits(places):
    state, stage = places

    def child():
        # A process that may read nothing of itself any more holds it from before.
        with open("/proc/self/status", "rb", buffering=0) as file:
            Jail(UID, state, stage).enter(2, 3)
            text = file.read(1 << 16).decode()
        found = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
        limits = [
            resource.getrlimit(one)[0]
            for one in (
                resource.RLIMIT_CORE,
                resource.RLIMIT_NPROC,
                resource.RLIMIT_MEMLOCK,
                resource.RLIMIT_MSGQUEUE,
            )
        ]
        return [found, limits, resource.getrlimit(resource.RLIMIT_NOFILE)[1]]

    found, limits, files = in_child(child)
    assert found["Uid"].split() == found["Gid"].split() == [str(UID)] * 4
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(found[name], 16) == 0, name
    assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")
    assert limits == [0, 2 + 3 * 16 + 64, 0, 0]
    assert files <= 8192


@as_root
def test_what_is_forbidden_in_it(places):
    state, stage = places

    def forbidden(call):
        def child():
            Jail(UID, state, stage).enter(1, 0)
            return call()

        return in_child(child)

    program = ["/bin/true"]
    assert forbidden(lambda: os.execv(program[0], program)) == "SIGSYS"  # noqa: S606
    assert forbidden(lambda: ctypes.CDLL(None).unshare(0x10000000)) == "SIGSYS"
    assert forbidden(lambda: attempt(os.fork)) == "PermissionError"
    assert forbidden(lambda: attempt(os.setuid, 0)) == "PermissionError"


def refusing(*names):
    """Return a C library that refuses these functions, as a container's sandbox does."""
    real = ctypes.CDLL(None, use_errno=True)

    class Library:
        def __getattr__(self, name):
            if name not in names:
                return getattr(real, name)

            def refuse(*_):
                ctypes.set_errno(1)
                return -1

            return refuse

    return Library()


MISSING = {
    "namespaces": (
        ["unshare"],
        {
            "namespaces": [],
            "root": "host",
            "seccomp": True,
            "refused": [
                f"{name} namespace: Operation not permitted"
                for name in ("mnt", "ipc", "uts", "net")
            ],
        },
    ),
    "mounts": (["mount"], {**WHOLE, "root": "host", "refused": ["root: Operation not permitted"]}),
}


@as_root
@pytest.mark.parametrize("case", MISSING)
def test_a_host_that_refuses_a_wall_is_told_and_the_others_stand(places, case):
    state, stage = places
    names, expected = MISSING[case]

    def child():
        library = refusing(*names)
        jail.ctypes.CDLL = lambda *_, **__: library
        entered = Jail(UID, state, stage).enter(1, 0)
        return [entered, os.getuid(), attempt(os.fork)]

    assert in_child(child) == [expected, UID, "PermissionError"]


@as_root
def test_a_root_that_cannot_be_exchanged_is_moved_over(places):
    """As one in the initial RAM disk: pivot_root(2) refuses it."""
    state, stage = places

    def child():
        library, real = refusing(), ctypes.CDLL(None, use_errno=True)
        library.syscall = lambda number, *rest: -1 if number == 155 else real.syscall(number, *rest)
        jail.ctypes.CDLL = lambda *_, **__: library
        entered = Jail(UID, state, stage).enter(1, 0)
        return [entered["root"], attempt(open, "/etc/passwd"), attempt(open, f"{state}/kept")]

    assert in_child(child) == ["own", "FileNotFoundError", "allowed"]


@as_root
def test_without_a_filter_that_is_told(places):
    state, stage = places

    def child():
        def refuse():
            raise OSError(22, "Invalid argument")

        seccomp.install = refuse
        return Jail(UID, state, stage).enter(1, 0)

    refused = ["seccomp: Invalid argument"]
    assert in_child(child) == {**WHOLE, "seccomp": False, "refused": refused}


@as_root
def test_without_the_users_own_privileges_there_is_no_going_on(places):
    state, stage = places

    def child():
        def refuse(_):
            raise KvmError("cannot become user 7")

        privileges.drop = refuse
        try:
            Jail(UID, state, stage).enter(1, 0)
        except KvmError as error:
            return str(error)
        return "went on"

    assert in_child(child) == "cannot become user 7"


@as_root
def test_a_folder_is_opened_even_where_it_gets_no_mount_of_its_own(places, monkeypatch):
    state, _ = places
    library = refusing("syscall")
    monkeypatch.setattr(jail.ctypes, "CDLL", lambda *_, **__: library)
    held = jail.open_folder(state)
    assert os.fstat(held).st_ino == os.stat(state).st_ino
    assert not os.get_inheritable(held)
    os.close(held)
    with pytest.raises(FileNotFoundError):
        jail.open_folder(state + "/nowhere")
