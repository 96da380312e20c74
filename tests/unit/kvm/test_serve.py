# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What `serve` does before and beside the guest: definitions, readiness, the control operations."""

from __future__ import annotations

import copy
import json
import os
import socket
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.module_utils.kvm import serve
from ansible.module_utils.kvm.errors import EXIT_CONFIG, EXIT_INPUT, ConfigError, InputFileError
from ansible.module_utils.kvm.layout import Layout

GOOD: dict[str, Any] = {
    "schema": 1,
    "name": "web",
    "digest": "d1",
    "spec": {},
    "machine": {
        "kernel": "greeter",
        "initrd": None,
        "cmdline": "",
        "memory": 4 << 20,
        "vcpus": 1,
        "uid": 0x70000001,
        "log_max_size": 4096,
        "log_keep": 0,
    },
}


@pytest.fixture
def paths(tmp_path):
    guest = Layout(str(tmp_path)).guest("web")
    os.makedirs(guest.folder)
    return guest


def write(paths, content):
    with open(paths.definition, "wb") as file:
        file.write(content)


def changed(**machine):
    """Return the good definition with values of its machine replaced; None removes the key."""
    made = copy.deepcopy(GOOD)
    for key, value in machine.items():
        if value is KeyError:
            del made["machine"][key]
        else:
            made["machine"][key] = value
    return made


def test_a_good_definition(paths):
    write(paths, json.dumps(GOOD).encode())
    assert serve.read_definition(paths) == GOOD
    write(paths, json.dumps(changed(initrd="/boot/initrd", uid=0x77FFFFFF)).encode())
    assert serve.read_definition(paths)["machine"]["initrd"] == "/boot/initrd"


BAD_CONTENT = {
    "empty": b"",
    "cut": json.dumps(GOOD).encode()[:-10],
    "no text": b"\xff\xfe\xfd",
    "a list": b"[]",
    "null": b"null",
    "no machine": b'{"name": "web"}',
    "a machine that is a list": b'{"name": "web", "machine": []}',
    "a machine that is null": b'{"name": "web", "machine": null}',
    "nested without end": b"[" * 200_000,
    "no name": b'{"machine": {}}',
    "another guest's": json.dumps({**GOOD, "name": "app"}).encode(),
}


@pytest.mark.parametrize("case", BAD_CONTENT)
def test_a_corrupt_definition(paths, case):
    write(paths, BAD_CONTENT[case])
    with pytest.raises(ConfigError, match=r"definition\.json") as refused:
        serve.read_definition(paths)
    assert refused.value.status == EXIT_CONFIG


BAD_VALUES = [
    *[(key, KeyError) for key in GOOD["machine"]],
    *[("memory", value) for value in ("4MiB", 0, -4096, 1.5, True, None)],
    *[("vcpus", value) for value in ("1", 0, True, None)],
    *[("uid", value) for value in (0, 1000, 0x6FFFFFFF, 0x78000000, 0xFFFFFFFF, 2**40, -1, "0")],
    *[("log_max_size", value) for value in (0, 4095, "1MiB", None)],
    *[("log_keep", value) for value in (-1, "1", None)],
    *[("kernel", value) for value in (None, 7, ["greeter"])],
    *[("initrd", value) for value in (7, False, ["x"])],
    *[("cmdline", value) for value in (None, 7, ["x"])],
]


@pytest.mark.parametrize(("key", "value"), BAD_VALUES)
def test_a_definition_with_a_bad_value_names_its_key(paths, key, value):
    write(paths, json.dumps(changed(**{key: value}), default=str).encode())
    with pytest.raises(ConfigError, match=key) as refused:
        serve.read_definition(paths)
    assert refused.value.status == EXIT_CONFIG


@pytest.mark.parametrize("kind", ["missing", "link", "folder", "too long"])
def test_no_definition(paths, kind, tmp_path):
    if kind == "link":
        (tmp_path / "elsewhere").write_text(json.dumps(GOOD))
        os.symlink(str(tmp_path / "elsewhere"), paths.definition)
    elif kind == "folder":
        os.mkdir(paths.definition)
    elif kind == "too long":
        write(paths, json.dumps(changed(cmdline="x" * 300_000)).encode())
    with pytest.raises(InputFileError, match="there is no guest web: ") as refused:
        serve.read_definition(paths)
    assert refused.value.status == EXIT_INPUT


@pytest.fixture
def pipe():
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as file:
        yield file, writer


def test_ready_is_told_once(pipe):
    file, writer = pipe
    readiness = serve.Readiness(writer)
    readiness.ready()
    readiness.failed("too late to matter")
    assert file.read() == b"ready\n"


def test_a_failure_is_one_line(pipe):
    file, writer = pipe
    serve.Readiness(writer).failed("cannot\nstart")
    assert file.read() == b"error: cannot start\n"


def test_nobody_waits(pipe):
    serve.Readiness(None).ready()
    file, writer = pipe
    file.close()
    serve.Readiness(writer).ready()  # whoever waited has gone: a broken pipe
    serve.Readiness(writer).ready()  # and the descriptor may be none at all


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_systemd_is_told(tmp_path, monkeypatch, kind):
    address = f"@virtfleet-{os.getpid()}" if kind == "abstract" else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(address.replace("@", "\0"))
        receiver.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        serve.Readiness(None).ready()
        assert receiver.recv(100) == b"READY=1"


def test_a_notify_socket_that_nobody_reads(tmp_path, monkeypatch):
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nowhere"))
    serve.Readiness(None).ready()


@pytest.fixture
def control():
    """Return the control operations, and the log and the run that they work on."""
    config = SimpleNamespace(vcpus=2, memory=4 << 20)
    ended = []
    run = SimpleNamespace(
        machine=SimpleNamespace(config=config),
        started=0.0,
        counts=lambda: {"io": 7},
        finish=ended.append,
    )
    log = SimpleNamespace(size=10, dropped=2, error=None, max_size=4096, keep=1)
    return serve._handlers(run, log, GOOD), log, ended


def test_status(control):
    handlers, _, _ = control
    found = handlers["status"]({})
    assert found.pop("uptime") > 0
    assert found == {
        "name": "web",
        "state": "running",
        "pid": os.getpid(),
        "vcpus": 2,
        "memory": 4 << 20,
        "exits": {"io": 7},
        "log": {"size": 10, "dropped": 2, "error": None},
        "helper": None,
        "definition": "d1",
    }


def test_stop(control):
    handlers, _, ended = control
    assert handlers["stop"]({}) == {}
    assert ended == [(0, "stopped on request", "")]


def test_set(control):
    handlers, log, _ = control
    assert handlers["set"]({"log_max_size": 8192, "log_keep": 0}) == {}
    assert (log.max_size, log.keep) == (8192, 0)


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"log_max_size": 8192},
        {"log_keep": 1},
        {"log_max_size": 4095, "log_keep": 1},
        {"log_max_size": "8192", "log_keep": 1},
        {"log_max_size": True, "log_keep": 1},
        {"log_max_size": 8192, "log_keep": -1},
        {"log_max_size": 8192, "log_keep": None},
        {"log_max_size": 8192.0, "log_keep": 1},
    ],
)
def test_set_changes_all_or_nothing(control, message):
    handlers, log, _ = control
    with pytest.raises((ValueError, KeyError), match="log_"):
        handlers["set"](message)
    assert (log.max_size, log.keep) == (4096, 1)


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
