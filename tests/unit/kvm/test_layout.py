# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Places, names, and reading what a guest's user may have planted."""

from __future__ import annotations

import os
import socket

import pytest
from ansible.module_utils.kvm.layout import Layout, read_untrusted, tail_untrusted, valid_name

NAMES = ["a", "0", "web", "web-01", "a" * 63, "1-2-3", "xn--bcher-kva"]
NO_NAMES = [
    "",
    "a" * 64,
    "a" * 300,
    "-a",
    "a-",
    "-",
    "Web",
    "a.b",
    "a_b",
    "a/b",
    "..",
    ".",
    "/",
    "a\n",
    "\na",
    "a b",
    "a;b",
    "$(a)",
    "`a`",
    "a*",
    "a\0b",
    "ä",
    "\u0661",  # a digit, but not one of ours
    None,
    7,
    b"web",
    ["web"],
]


@pytest.mark.parametrize("name", NAMES)
def test_names(name):
    assert valid_name(name)
    assert Layout().guest(name).name == name


@pytest.mark.parametrize("name", NO_NAMES)
def test_no_names(name):
    assert not valid_name(name)
    with pytest.raises(ValueError, match="RFC 1123 label"):
        Layout().guest(name)


def test_places_are_those_of_the_design():
    layout = Layout()
    guest = layout.guest("web")
    assert (layout.state, layout.guests, layout.run, layout.helpers, layout.command) == (
        "/var/lib/virtfleet",
        "/var/lib/virtfleet/guests",
        "/run/virtfleet",
        "/usr/lib/virtfleet/helper",
        "/usr/local/bin/kvm-helper",
    )
    assert (guest.folder, guest.definition, guest.state, guest.log, guest.last_exit) == (
        "/var/lib/virtfleet/guests/web",
        "/var/lib/virtfleet/guests/web/definition.json",
        "/var/lib/virtfleet/guests/web/state",
        "/var/lib/virtfleet/guests/web/state/console.log",
        "/var/lib/virtfleet/guests/web/state/last-exit.json",
    )
    assert (guest.run, guest.control, guest.pid) == (
        "/run/virtfleet/web",
        "/run/virtfleet/web/control.sock",
        "/run/virtfleet/web/pid.json",
    )


def test_a_root_prefixes_every_place(tmp_path):
    root = str(tmp_path)
    layout = Layout(root)
    places = [value for value in vars(layout).values() if value != root]
    places += [value for value in vars(layout.guest("web")).values() if value != "web"]
    assert places
    assert all(place.startswith(root + "/") for place in places)


def test_names_of_those_that_are_there(tmp_path):
    layout = Layout(str(tmp_path))
    assert layout.names() == []
    for name in ("web-2", "web-10", "app", ".hidden", "NOT", "un_der"):
        os.makedirs(os.path.join(layout.guests, name))
    assert layout.names() == ["app", "web-10", "web-2"]


def plant_link(path):
    (path.parent / "target").write_bytes(b"secret")
    path.symlink_to("target")


def plant_pipe(path):
    os.mkfifo(str(path))


def plant_socket(path):
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    folder = os.open(str(path.parent), os.O_PATH)
    listener.bind(f"/proc/self/fd/{folder}/{path.name}")
    os.close(folder)
    listener.close()


PLANTED = {
    "nothing": lambda _: None,
    "link": plant_link,
    "link to nowhere": lambda path: path.symlink_to("nowhere"),
    "link to itself": lambda path: path.symlink_to(path.name),
    "pipe, which must not block": plant_pipe,
    "socket": plant_socket,
    "folder": lambda path: path.mkdir(),
}


@pytest.mark.parametrize("read", [read_untrusted, tail_untrusted])
@pytest.mark.parametrize("kind", PLANTED)
def test_only_plain_files_are_read(tmp_path, read, kind):
    path = tmp_path / "file"
    PLANTED[kind](path)
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="file"):
        read(str(path), 100)
    assert set(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(("size", "fits"), [(0, True), (99, True), (100, True), (101, False)])
def test_reading_has_a_limit(tmp_path, size, fits):
    path = tmp_path / "file"
    path.write_bytes(b"x" * size)
    if fits:
        assert read_untrusted(str(path), 100) == b"x" * size
        return
    with pytest.raises(OSError, match="longer than 100 bytes"):
        read_untrusted(str(path), 100)


@pytest.mark.parametrize("size", [0, 3, 10, 11, 1000])
def test_the_tail_is_the_end(tmp_path, size):
    path = tmp_path / "file"
    content = bytes(n % 256 for n in range(size))
    path.write_bytes(content)
    assert tail_untrusted(str(path), 10) == content[-10:]


def test_a_file_of_a_terabyte_costs_no_more_than_the_limit(tmp_path):
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    assert tail_untrusted(str(path), 10) == bytes(10)
    with pytest.raises(OSError, match="longer than"):
        read_untrusted(str(path), 10)
