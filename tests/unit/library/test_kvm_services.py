# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module kvm_services, run as Ansible runs it, with a systemctl of the test's own."""

from __future__ import annotations

import json
import runpy

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.system import execution
from ansible.module_utils.testing import patch_module_args

# It knows the units that the folder has a file of, and writes down what it is told to do.
SYSTEMCTL = """#!/bin/sh
cd "${0%/*}" || exit 1
verb=$1
shift
if [ "$verb" != show ]; then echo "$verb $*" >> log; exit 0; fi
shift 2
for unit; do cat "$unit" 2>/dev/null || echo LoadState=not-found; echo; done
"""


class Host:
    """Runs the module in front of a fake systemd and returns its answer."""

    def __init__(self, repository, folder, capsys):
        self.module = runpy.run_path(str(repository / "library" / "kvm_services.py"))
        self.folder = folder
        self.capsys = capsys
        (folder / "systemctl").write_text(SYSTEMCTL)
        (folder / "systemctl").chmod(0o755)

    def unit(self, name, state, active="inactive", load="loaded"):
        text = f"Id={name}\nLoadState={load}\nUnitFileState={state}\nActiveState={active}\n"
        (self.folder / name).write_text(text)

    def run(self, *, check=False, **options):
        arguments = {"host": "kvm1", **options, "_ansible_check_mode": check}
        with patch_module_args(arguments), pytest.raises(SystemExit):
            self.module["main"]()
        return json.loads(self.capsys.readouterr().out)

    def done(self):
        log = self.folder / "log"
        return log.read_text().splitlines() if log.exists() else []


@pytest.fixture
def host(repository, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(execution, "_SBIN", str(tmp_path))
    monkeypatch.setattr(execution, "FOLDER", str(tmp_path / "lock"))
    return Host(repository, tmp_path, capsys)


def test_units_are_brought_to_what_is_stated(host):
    host.unit("a.socket", "disabled")
    host.unit("b.service", "disabled")
    host.unit("c.socket", "enabled", "active")
    wanted = {"started": ["a.socket"], "enabled": ["b.service"], "disabled": ["c.socket"]}
    planned = host.run(check=True, **wanted)
    assert planned["changed"] is True
    assert host.done() == []
    answer = host.run(**wanted)
    assert answer["actions"] == planned["actions"]
    assert host.done() == [
        "enable b.service",
        "enable a.socket",
        "start a.socket",
        "stop c.socket",
        "disable c.socket",
    ]


def test_what_is_right_stays(host):
    host.unit("a.socket", "enabled", "active")
    answer = host.run(started=["a.socket"], disabled=["none.socket"])
    assert (answer["changed"], answer["actions"], host.done()) == (False, [], [])


def test_a_unit_that_is_not_there_is_planned_and_then_named(host):
    assert host.run(check=True, started=["a.socket"])["changed"] is True
    answer = host.run(started=["a.socket"])
    assert answer["failed"] is True
    assert "does not know a.socket" in answer["msg"]
    assert host.done() == []


def test_a_masked_unit_is_refused_with_a_warning(host, monkeypatch):
    warned = []
    monkeypatch.setattr(AnsibleModule, "warn", lambda _, text: warned.append(text))
    host.unit("a.socket", "masked", load="masked")
    answer = host.run(started=["a.socket"])
    assert answer["changed"] is False
    assert [item["object"] for item in answer["blocked"]] == ["unit/a.socket"]
    assert warned == ["unit/a.socket: it is masked: systemctl unmask it"]


def test_wrong_input_is_told_by_its_path(host):
    answer = host.run(enabled=["chrony"])
    assert answer["failed"] is True
    assert answer["msg"].startswith("enabled[0]: expected the full name of a unit")
