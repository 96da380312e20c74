# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""libvirt's daemons: what systemd tells of them, their sockets, what confines their guests."""

from __future__ import annotations

import os
import socket

import pytest
from ansible.module_utils.system.libvirt_daemons import (
    Service,
    confines,
    parse_services,
    read_services,
    read_socket,
    socket_files,
)

SHOWN = """\
KillMode=process
ExecMainStartTimestampMonotonic=17500000
Id=libvirtd.service
ActiveState=active

KillMode=control-group
ExecMainStartTimestampMonotonic=0
Id=virtlogd.service
ActiveState=inactive
"""
ENABLED = "/sys/module/apparmor/parameters/enabled"
PROFILES = "/sys/kernel/security/apparmor/profiles"
ENFORCE = "/sys/fs/selinux/enforce"


def test_what_systemd_tells_is_understood():
    assert parse_services(SHOWN) == {
        "libvirtd": Service(active=True, spares_guests=True, since=17.5),
        "virtlogd": Service(active=False, spares_guests=False, since=0.0),
    }


def test_all_services_are_asked_for_at_once():
    asked = []

    def run(argv):
        asked.append(argv)
        return 0, SHOWN, ""

    assert set(read_services(["libvirtd", "virtlogd"], run)) == {"libvirtd", "virtlogd"}
    [argv] = asked
    assert argv[:2] == ["systemctl", "show"]
    assert argv[3:] == ["--", "libvirtd.service", "virtlogd.service"]


def test_without_systemd_there_are_no_services():
    assert read_services(["libvirtd"], lambda argv: (1, SHOWN, f"{argv[0]}: no")) == {}


@pytest.mark.parametrize(
    ("daemon", "path"),
    [
        ("libvirtd", "/run/libvirt/libvirt-sock"),
        ("virtproxyd", "/run/libvirt/libvirt-sock"),
        ("virtqemud", "/run/libvirt/virtqemud-sock"),
    ],
)
def test_each_daemon_has_its_sockets(daemon, path):
    assert socket_files(daemon) == {f"{daemon}.socket": path, f"{daemon}-ro.socket": f"{path}-ro"}


def test_a_socket_is_read_with_mode_and_group(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("s")
        os.chmod("s", 0o660)
        found = read_socket(str(tmp_path), "/s")
    assert found is not None
    assert found.mode == 0o660
    assert str(found).startswith("0660 ")
    assert read_socket(str(tmp_path), "/none") is None


@pytest.mark.parametrize(
    ("files", "driver", "daemon", "result"),
    [
        ({}, "apparmor", "libvirtd", False),
        ({ENABLED: "Y\n"}, "apparmor", "libvirtd", False),
        ({ENABLED: "Y\n", PROFILES: "libvirtd (enforce)\n"}, "apparmor", "libvirtd", True),
        ({ENABLED: "N\n", PROFILES: "libvirtd (enforce)\n"}, "apparmor", "libvirtd", False),
        ({ENABLED: "Y\n", PROFILES: "libvirtd (complain)\n"}, "apparmor", "libvirtd", False),
        ({ENABLED: "Y\n", PROFILES: "libvirtd//qemu (enforce)\n"}, "apparmor", "libvirtd", False),
        (
            {ENABLED: "Y\n", PROFILES: "/usr/sbin/libvirtd (enforce)\n"},
            "apparmor",
            "libvirtd",
            True,
        ),
        ({ENABLED: "Y\n", PROFILES: "libvirtd (enforce)\n"}, "apparmor", "virtqemud", False),
        ({ENFORCE: "1"}, "selinux", "virtqemud", True),
        ({ENFORCE: "0"}, "selinux", "virtqemud", False),
        ({}, "selinux", "virtqemud", False),
    ],
)
def test_confinement_counts_when_it_is_enforced(tmp_path, files, driver, daemon, result):
    for path, content in files.items():
        place = tmp_path / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(content)
    assert confines(str(tmp_path), driver, daemon) is result
