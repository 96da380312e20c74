# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module kvm_helper, run as Ansible runs it, below a root of the test's own."""

from __future__ import annotations

import json
import os
import runpy

import pytest
from ansible.module_utils.kvm import archive
from ansible.module_utils.testing import patch_module_args

ACTION_KEYS = {
    *("id", "step", "object", "action", "host", "target", "when", "changes", "reason"),
    "destructive",
}


class Host:
    """Runs the module on a root folder and returns its answer."""

    def __init__(self, repository, folder, capsys):
        self.module = runpy.run_path(str(repository / "library" / "kvm_helper.py"))
        self.root = folder / "root"
        self.root.mkdir()
        self.archive = folder / "helper.pyz"
        self.digest = archive.write(str(self.archive))
        self.capsys = capsys

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

    def install(self, **options):
        return self.run(digest=self.digest, archive=str(self.archive), **options)


@pytest.fixture
def host(repository, tmp_path, capsys):
    return Host(repository, tmp_path, capsys)


def test_without_the_archive_it_asks_for_it_and_changes_nothing(host):
    answer = host.run(digest=host.digest)
    assert answer["archive_wanted"] is True
    assert answer["changed"] is False
    assert answer["actions"] == []
    assert os.listdir(host.root) == []


def test_check_mode_says_what_a_run_would_do_without_the_archive(host):
    answer = host.run(check=True, digest=host.digest)
    assert answer["changed"] is True
    assert answer["archive_wanted"] is False
    assert os.listdir(host.root) == []
    assert host.install()["actions"] == answer["actions"]


def test_actions_have_the_fixed_shape(host):
    (host.root / "usr/lib/systemd/system").mkdir(parents=True)
    answer = host.install()
    assert [action["object"].partition("/")[0] for action in answer["actions"]] == [
        "helper",
        "command",
        "unit",
    ]
    for number, action in enumerate(answer["actions"], start=1):
        assert set(action) == ACTION_KEYS
        assert action["id"] == f"a{number}"
        assert action["host"] == "kvm1"
        assert action["destructive"] is False


def test_the_unit_is_shown_as_text_in_the_diff(host):
    (host.root / "usr/lib/systemd/system").mkdir(parents=True)
    diffs = {entry["after_header"]: entry for entry in host.install()["diff"]}
    assert (
        "\nExecStart=/usr/local/bin/kvm-helper" in diffs["unit/virtfleet-guest@.service"]["after"]
    )
    assert diffs["command/kvm-helper"]["after"] == f"version: {host.digest}\n"


def test_there_and_back_and_each_again(host):
    assert host.install()["changed"] is True
    again = host.install()
    assert (again["changed"], again["actions"], again["digest"]) == (False, [], host.digest)
    gone = host.run(state="absent")
    assert gone["changed"] is True
    assert gone["digest"] is None
    assert host.run(state="absent")["changed"] is False


def test_it_is_not_taken_away_from_under_a_guest(host):
    host.install()
    (host.root / "var/lib/virtfleet/guests/web").mkdir(parents=True)
    answer = host.run(state="absent")
    assert answer["failed"] is True
    assert "web" in answer["msg"]
    assert "remove them first" in answer["msg"]
    assert host.install()["changed"] is False


def test_a_disk_that_refuses_is_named(host):
    (host.root / "usr").write_text("not a folder", encoding="ascii")
    answer = host.install()
    assert answer["failed"] is True
    assert "/usr" in answer["msg"]


def test_without_a_digest_it_says_what_it_expects(host):
    answer = host.run()
    assert answer["failed"] is True
    assert "expected the SHA-256" in answer["msg"]
