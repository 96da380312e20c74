# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module kvm_host_storage, run as Ansible runs it; what would touch the host is check mode."""

from __future__ import annotations

import json
import os
import runpy

import pytest
from ansible.module_utils.testing import patch_module_args

WORD = "correct horse battery"


@pytest.fixture
def stdin():
    """Keep the test's standard input, which the module gives up."""
    kept = os.dup(0)
    yield
    os.dup2(kept, 0)
    os.close(kept)


@pytest.fixture
def run(repository, capsys, stdin):
    module = runpy.run_path(str(repository / "library" / "kvm_host_storage.py"))

    def call(*, check=True, **options):
        arguments = {"host": "kvm1", **options, "_ansible_check_mode": check}
        with patch_module_args(arguments), pytest.raises(SystemExit):
            module["main"]()
        return json.loads(capsys.readouterr().out)

    return call


def test_nothing_declared_changes_nothing(run):
    for state in ("present", "absent"):
        answer = run(check=False, state=state)
        assert (answer["changed"], answer["actions"], answer["blocked"]) == (False, [], [])


def test_check_mode_says_what_a_run_would_do(run, tmp_path):
    path = str(tmp_path / "images")
    answer = run(directories=[{"path": path, "mode": "0750"}])
    assert answer["changed"] is True
    (action,) = answer["actions"]
    assert (action["id"], action["host"], action["object"]) == ("a1", "kvm1", f"directory{path}")
    assert answer["diff"] == [
        {
            "before_header": f"directory{path}",
            "after_header": f"directory{path}",
            "before": "",
            "after": "mode: 0750\n",
        }
    ]
    assert not os.path.exists(path)


def test_a_disk_that_is_not_there_is_refused_and_nothing_else_is_done(run, tmp_path):
    path = str(tmp_path / "images")
    answer = run(
        check=False,
        directories=[{"path": path}],
        volume_groups=[{"name": "vftest", "disks": ["/dev/disk/by-id/none"]}],
    )
    assert answer["failed"] is True
    assert answer["msg"] == (
        "disk/dev/disk/by-id/none: it is not there: see lsblk for the disks of the host"
    )
    assert [item["object"] for item in answer["blocked"]] == ["disk/dev/disk/by-id/none"]
    assert not os.path.exists(path)


def test_secrets_are_in_no_result(run):
    answer = run(
        mounts=[
            {
                "type": "smb",
                "source": "//192.0.2.5/images",
                "path": "/srv/vftest",
                "username": "kvm",
                "password": WORD,
            }
        ],
        iscsi={
            "portals": [
                {
                    "address": "192.0.2.5",
                    "targets": ["iqn.2026-01.org.example:vftest"],
                    "chap": {"user": "kvm1", "password": WORD},
                }
            ]
        },
    )
    assert answer["changed"] is True
    assert {action["object"].partition("/")[0] for action in answer["actions"]} >= {
        "iscsi",
        "mount",
        "file",
    }
    assert WORD not in json.dumps(answer)


def test_all_that_is_wrong_is_told_at_once(run):
    answer = run(timeout="30", directories=[{"path": "srv"}])
    assert answer["failed"] is True
    assert [problem["path"] for problem in answer["problems"]] == [
        "timeout",
        "directories[0].path",
    ]


def test_what_is_secret_is_marked_for_ansible(repository):
    module = runpy.run_path(str(repository / "library" / "kvm_host_storage.py"))

    def secrets(options):
        for name, option in options.items():
            if option.get("no_log"):
                yield name
            yield from secrets(option.get("options") or {})

    assert sorted(secrets(module["ARGUMENTS"])) == ["mutual_password", "password", "password"]
