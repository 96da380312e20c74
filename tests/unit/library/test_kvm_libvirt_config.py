# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module kvm_libvirt_config, run as Ansible runs it, below a root of the test's own."""

from __future__ import annotations

import json
import runpy

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testing import patch_module_args

QEMU = '# shipped\nuser = "root"\n'
OPTIONS = {
    "files": {"qemu.conf": {"user": "libvirt-qemu", "seccomp_sandbox": True}},
    "defaults": {"qemu.conf": {"user": "libvirt-qemu"}},
    "socket_group": "libvirt",
    "socket_mode": "0660",
}


class Host:
    """Runs the module on a root folder and returns its answer."""

    def __init__(self, repository, folder, capsys):
        self.module = runpy.run_path(str(repository / "library" / "kvm_libvirt_config.py"))
        self.root = folder
        self.capsys = capsys
        (folder / "etc/libvirt").mkdir(parents=True)
        (folder / "etc/libvirt/qemu.conf").write_text(QEMU)

    def run(self, *, check=False, **options):
        arguments = {
            "root": str(self.root),
            "host": "kvm1",
            **options,
            "_ansible_check_mode": check,
        }
        with patch_module_args(arguments), pytest.raises(SystemExit):
            self.module["main"]()
        return json.loads(self.capsys.readouterr().out)

    def files(self):
        found = (p for p in self.root.rglob("*") if p.is_file() and p.name != "lock")
        return {str(path.relative_to(self.root)): path.read_text() for path in found}


@pytest.fixture
def host(repository, tmp_path, capsys):
    return Host(repository, tmp_path, capsys)


def test_check_mode_says_what_a_run_does_and_changes_nothing(host):
    planned = host.run(check=True, **OPTIONS)
    assert planned["changed"] is True
    assert host.files() == {"etc/libvirt/qemu.conf": QEMU}
    assert host.run(**OPTIONS)["actions"] == planned["actions"]
    assert host.run(check=True, **OPTIONS)["changed"] is False


def test_there_and_back_and_each_again(host):
    first = host.run(**OPTIONS)
    assert [action["id"] for action in first["actions"]] == ["a1", "a2", "a3"]
    assert {action["host"] for action in first["actions"]} == {"kvm1"}
    files = host.files()
    assert files["etc/libvirt/qemu.conf"].splitlines()[1:3] == [
        "seccomp_sandbox = 1",
        'user = "libvirt-qemu"',
    ]
    drop_in = files["etc/systemd/system/libvirtd.socket.d/virtfleet.conf"]
    assert drop_in.splitlines()[1:] == ["[Socket]", "SocketMode=0660", "SocketGroup=libvirt"]
    assert host.run(**OPTIONS)["changed"] is False
    assert host.run(state="absent")["changed"] is True
    assert host.files() == {"etc/libvirt/qemu.conf": QEMU}
    assert host.run(state="absent")["changed"] is False


def test_the_diff_tells_the_settings_that_change(host):
    [entry] = host.run(files={"qemu.conf": {"user": "qemu"}})["diff"]
    assert entry["before"] == "user: root\n"
    assert entry["after"] == "user: qemu\n"


def test_confinement_that_is_not_at_work_is_a_warning_too(host, monkeypatch):
    warned = []
    monkeypatch.setattr(AnsibleModule, "warn", lambda _, text: warned.append(text))
    answer = host.run(confinement="apparmor")
    assert answer["changed"] is False
    assert [item["object"] for item in answer["blocked"]] == ["confinement/apparmor"]
    [warning] = warned
    assert warning.startswith("confinement/apparmor: ")


def test_the_diff_shows_a_drop_in_as_the_text_that_it_is(host):
    [entry, _] = host.run(socket_group="libvirt", socket_mode="0660")["diff"]
    assert entry["after"].splitlines()[1:] == [
        "[Socket]",
        "SocketMode=0660",
        "SocketGroup=libvirt",
    ]


def test_wrong_input_changes_nothing(host):
    answer = host.run(files={"qemu.conf": {"user": None}, "x": {}})
    assert answer["failed"] is True
    assert {problem["path"] for problem in answer["problems"]} == {
        "files.qemu.conf.user",
        "files.x",
    }
    assert host.files() == {"etc/libvirt/qemu.conf": QEMU}


def test_a_drop_in_of_somebody_else_is_left_alone(host):
    folder = host.root / "etc/systemd/system/libvirtd.socket.d"
    folder.mkdir(parents=True)
    (folder / "virtfleet.conf").write_text("[Socket]\n")
    answer = host.run(**OPTIONS)
    assert answer["failed"] is True
    assert "libvirtd.socket.d/virtfleet.conf is not virtfleet's" in answer["msg"]
