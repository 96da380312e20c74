# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What `serve` does before and beside the guest: the lock, the control socket, its version."""

from __future__ import annotations

import os
import socket

import pytest
from ansible.module_utils.kvm import serve
from ansible.module_utils.kvm.definition import Tuning
from ansible.module_utils.kvm.errors import ConfigError, HostError
from ansible.module_utils.kvm.layout import Layout


@pytest.fixture
def paths(tmp_path):
    guest = Layout(str(tmp_path)).guest("web")
    os.makedirs(guest.folder)
    return guest


def test_the_version_is_the_name_of_the_folder_it_was_installed_in(monkeypatch):
    monkeypatch.setattr(serve, "__file__", "/usr/lib/virtfleet/helper/abc/virtfleet/kvm/serve.py")
    assert serve.running_version() == "abc"
    monkeypatch.setattr(serve, "__file__", "/srv/build/kvm-helper.pyz/virtfleet/kvm/serve.py")
    assert serve.running_version() is None


def test_a_control_socket_of_root_alone_replaces_one_left_over(paths):
    os.makedirs(paths.run)
    mask = os.umask(0)
    os.umask(mask)
    for _ in range(2):
        listener = serve._listen(paths)
        assert os.stat(paths.control).st_mode & 0o777 == 0o600
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.connect(paths.control)
        listener.close()
    assert os.umask(mask) == mask
    assert os.listdir(paths.run) == ["control.sock"]


def test_a_folder_is_locked_for_one(paths):
    before = set(os.listdir("/proc/self/fd"))
    held = serve._lock(paths)
    with pytest.raises(ConfigError, match="guest web is already running"):
        serve._lock(paths)
    os.close(held)
    os.close(serve._lock(paths))
    assert set(os.listdir("/proc/self/fd")) == before


def test_no_way_leads_from_the_lock_to_the_folders_above(paths):
    """A process that was taken over holds that descriptor, and nothing else of a folder."""
    if os.geteuid() != 0:
        pytest.skip("a mount of its own takes root")
    held = serve._lock(paths)
    try:
        above = os.open("../../..", os.O_PATH, dir_fd=held)
        same = os.fstat(above).st_ino == os.fstat(held).st_ino
        os.close(above)
        assert same
    finally:
        os.close(held)


def test_pins_are_of_cpus_that_are_there():
    mine = os.sched_getaffinity(0)
    one = frozenset({min(mine)})
    assert serve._tune(Tuning({}, None, 0), 2) == {}
    assert serve._tune(Tuning({0: one}, None, 0), 2) == {0: one}
    for tuning in (Tuning({0: frozenset({8191})}, None, 0), Tuning({}, frozenset({8191}), 0)):
        with pytest.raises(ConfigError, match="cpu_tuning asks for the CPUs 8191, this process"):
            serve._tune(tuning, 1)
    assert os.sched_getaffinity(0) == mine


def test_all_other_threads_are_pinned_and_vcpus_are_not():
    mine = os.sched_getaffinity(0)
    one = frozenset({min(mine)})
    try:
        pins = serve._tune(Tuning({1: one}, one, 0), 3)
        assert os.sched_getaffinity(0) == one
    finally:
        os.sched_setaffinity(0, mine)
    assert pins == {0: mine, 1: one, 2: mine}


def test_a_priority_that_is_refused(monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "setpriority", refuse)
    with pytest.raises(HostError, match="cannot set nice -5: Permission denied"):
        serve._tune(Tuning({}, None, -5), 1)
