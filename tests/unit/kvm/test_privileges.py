# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Giving up root, in processes of their own, seen from outside as far as it goes."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import shutil
import subprocess
import traceback

import pytest
from ansible.module_utils.kvm import layout, privileges
from ansible.module_utils.kvm.errors import KvmError

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has something to give up")
UID = layout.FIRST_UID | 4711


def in_child(function):
    """Run a function in a forked process and return what it returns, through JSON."""
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
        answer = json.loads(file.read().decode())
    os.waitpid(pid, 0)
    return answer


def status():
    # As bytes: an interpreter in root's own folder finds no codecs once root is given up.
    with open("/proc/self/status", "rb") as file:
        lines = [line.decode().partition(":") for line in file]
    return {key: value.split() for key, _, value in lines}


def attempt(function, *arguments):
    """Return the name of the error that the call ends in."""
    try:
        function(*arguments)
    except OSError as error:
        return type(error).__name__
    return "allowed"


@as_root
def test_everything_is_given_up():
    def child():
        os.setgroups([0, 4, 27])
        privileges.drop(UID)
        return status()

    found = in_child(child)
    uid = str(UID)
    assert (found["Uid"], found["Gid"], found["Groups"]) == ([uid] * 4, [uid] * 4, [])
    assert found["NoNewPrivs"] == ["1"]
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(found[name][0], 16) == 0, name


@as_root
def test_capabilities_that_are_inherited_go_as_well():
    """A change of the user leaves them, and a program with file capabilities would get them."""

    def child():
        libc = ctypes.CDLL(None, use_errno=True)
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)
        everything = (ctypes.c_uint32 * 6)()
        assert libc.syscall(125, header, everything) == 0
        everything[2] = everything[1]  # inheritable as permitted
        assert libc.syscall(126, header, everything) == 0
        before = int(status()["CapInh"][0], 16)
        privileges.drop(UID)
        return [before != 0, int(status()["CapInh"][0], 16)]

    assert in_child(child) == [True, 0]


@as_root
def test_there_is_no_way_back():
    def child():
        privileges.drop(UID)
        return [
            attempt(os.setuid, 0),
            attempt(os.seteuid, 0),
            attempt(os.setgid, 0),
            attempt(os.setgroups, [0]),
            attempt(os.chroot, "/"),
            attempt(open, "/etc/shadow"),
            attempt(os.kill, 1, 0),
        ]

    assert in_child(child) == ["PermissionError"] * 7


@as_root
def test_a_program_that_is_started_gains_nothing():
    """The set-uid programs of the system stay without effect."""

    def child():
        privileges.drop(UID)
        show = [str(shutil.which("grep")), "-E", "^(Uid|NoNewPrivs):", "/proc/self/status"]
        return subprocess.check_output(show, text=True).split()

    assert in_child(child) == ["Uid:", *[str(UID)] * 4, "NoNewPrivs:", "1"]


@as_root
def test_no_core_will_hold_the_guests_memory():
    def child():
        privileges.drop(UID)
        return resource.getrlimit(resource.RLIMIT_CORE)

    assert in_child(child) == [0, 0]


@as_root
@pytest.mark.parametrize("uid", [0xFFFFFFFF, -1])
def test_a_user_that_is_none_is_refused(uid):
    """User -1 means "unchanged" to the kernel: the process would stay root."""

    def child():
        try:
            privileges.drop(uid)
        except KvmError as error:
            return str(error)
        return "stayed root"

    assert in_child(child) == f"cannot become user {uid}"


@as_root
def test_a_kernel_that_refuses_is_an_error():
    """A filter on setresuid is not at hand: the call is replaced in the child."""

    def child():
        def refuse(*_):
            raise PermissionError(1, "Operation not permitted")

        os.setresuid = refuse
        try:
            privileges.drop(UID)
        except KvmError as error:
            return str(error)
        return "went on"

    assert in_child(child) == f"cannot become user {UID}: Operation not permitted"


def test_without_root_it_is_only_locked():
    def child():
        if os.geteuid() == 0:
            os.setresuid(UID, UID, UID)
        before = os.getresuid()
        privileges.drop(UID + 1)
        return [os.getresuid() == before, status()["NoNewPrivs"]]

    assert in_child(child) == [True, ["1"]]


def test_passing_users_are_of_one_process_and_in_the_range():
    mine = privileges.passing_uid()
    assert mine == privileges.passing_uid()
    assert layout.FIRST_UID <= mine <= layout.FIRST_UID | layout.UID_MASK
    assert in_child(privileges.passing_uid) != mine


def test_the_range_is_one_that_no_distribution_allocates():
    # systemd, docs/UIDS-GIDS.md: 1879048192 (0x70000000) to 2147483647 is not used.
    assert layout.FIRST_UID == 1879048192
    assert layout.FIRST_UID | layout.UID_MASK < 2**31 - 1
