# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules for guests, run as Ansible runs them, below a root without guests."""

from __future__ import annotations

import json
import os
import runpy

import pytest
from ansible.module_utils.converge.lock import exclusive
from ansible.module_utils.testing import patch_module_args

GUEST = {"name": "a", "engine": "ioctl", "kernel": "/nowhere/kernel", "state": "present"}


@pytest.fixture
def run(repository, tmp_path, capsys):
    def run_module(module="kvm_guests", *, check=True, **options):
        arguments = {"root": str(tmp_path), **options, "_ansible_check_mode": check}
        main = runpy.run_path(str(repository / "library" / f"{module}.py"))["main"]
        with patch_module_args(arguments), pytest.raises(SystemExit):
            main()
        return json.loads(capsys.readouterr().out)

    return run_module


def test_nothing_declared(run, tmp_path):
    answer = run(check=False, host="kvm1")
    assert (answer["changed"], answer["actions"], answer["msg"]) == (False, [], "nothing to do")
    assert answer["pending"] == answer["blocked"] == answer["guests"] == answer["diff"] == []
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("check", [True, False])
def test_bad_input_is_told_with_its_paths(run, tmp_path, check):
    answer = run(check=check, guests=[{**GUEST, "vcpus": 0}, {**GUEST, "name": "/"}])
    assert answer["failed"] is True
    assert answer["msg"].startswith(
        "2 problems in the input, nothing was changed:\nguests[0].vcpus"
    )
    assert [problem["path"] for problem in answer["problems"]] == [
        "guests[0].vcpus",
        "guests[1].name",
    ]
    assert os.listdir(tmp_path) == []


def test_a_kernel_that_is_not_there_is_told_in_check_mode_too(run):
    answer = run(guests=[GUEST])
    assert answer["failed"] is True
    assert "guests[0].kernel: expected a kernel that starts with 128MiB of memory" in answer["msg"]
    assert "/nowhere/kernel" in answer["msg"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stop_timeout": "30"}, "stop_timeout: expected a duration with a unit"),
        ({"stop_timeout": "soon"}, "stop_timeout: expected a duration"),
        ({"expect": {"a": 7}}, "expect.a: expected a digest, found 7"),
        ({"guests": "a"}, "guests"),
        ({"gests": []}, "gests"),
    ],
)
def test_wrong_options_are_told(run, options, message):
    answer = run(**options)
    assert answer["failed"] is True
    assert message in answer["msg"]


def test_what_is_blocked_is_told_and_no_change(run, tmp_path):
    (tmp_path / "var/lib/virtfleet/guests/a").mkdir(parents=True)
    answer = run(check=False, guests=[{"name": "a", "state": "absent"}])
    assert answer["changed"] is False
    assert [item["object"] for item in answer["blocked"]] == ["guest/a"]
    (found,) = run("kvm_guests_info", check=False)["guests"]
    assert found["name"] == "a"
    assert "not a guest of ours" in found["problem"]


def test_what_a_digest_of_null_means(run, tmp_path):
    (tmp_path / "var/lib/virtfleet/guests").mkdir(parents=True)
    answer = run(guests=[{"name": "a", "state": "absent"}], expect={"a": None})
    assert (answer["changed"], answer["blocked"]) == (False, [])


def test_looking_changes_nothing_and_tells_what_can_be_done(run, tmp_path):
    answer = run("kvm_guests_info", check=False, console_lines=5, status=True)
    assert (answer["changed"], answer["guests"]) == (False, [])
    assert answer["capabilities"]["ioctl"]["kernels"] == ["greeter", "host"]
    assert answer["capabilities"]["ioctl"]["helper"] is None
    assert os.listdir(tmp_path) == []


WITNESS = {"serial": 3, "hosts": ["kvm1"], "guests": {"a": ["kvm1"]}, "seen": {"run": ""}}


def test_a_host_remembers_the_newest_witness_of_each_fleet(run, tmp_path):
    def remembered():
        return run("kvm_guests_info", check=False, brief=True, engines=["ioctl"])["witness"]

    run(check=True, witness=WITNESS)
    assert remembered() == {}
    run(check=False, witness=WITNESS)
    run(check=False, witness=WITNESS)
    run(check=False, witness={**WITNESS, "serial": 9}, fleet="other")
    found = remembered()
    assert {fleet: one["serial"] for fleet, one in found.items()} == {"local": 3, "other": 9}
    assert found["local"]["guests"] == {"a": ["kvm1"]}
    # What cannot be read is not known, and the next run writes it anew.
    (tmp_path / "var/lib/virtfleet/witness.json").write_text("{")
    assert remembered() == {}
    run(check=False, witness=WITNESS)
    assert remembered()["local"]["serial"] == 3


def test_of_two_runs_a_host_takes_the_plan_of_one(run):
    first, second = ({**WITNESS, "run": one} for one in ("a", "b"))
    assert "failed" not in run(check=False, witness=first)
    assert "failed" not in run(check=False, witness=first), "it goes on with its own"
    for late in (second, {**second, "serial": 4}):
        answer = run(check=False, witness=late)
        assert answer["failed"] is True
        assert "the fleet local was planned by another run meanwhile (20" in answer["msg"]
        assert answer["msg"].endswith(": plan again")
    assert "failed" not in run(check=False, witness={**second, "seen": {"run": "a"}})
    assert run(check=False, witness=first)["failed"] is True, "the other one took its place"


def test_new_guests_are_made_only_where_those_are_there_that_were_seen(run, tmp_path):
    new = {**WITNESS, "run": "a", "new": ["b"], "seen": {"run": "", "guests": ["a"]}}
    answer = run(check=False, witness=new)
    assert answer["failed"] is True
    assert answer["msg"] == "guests of the fleet local came or went here meanwhile: a: plan again"
    new["seen"]["guests"] = []
    state = tmp_path / "var/lib/virtfleet"
    with exclusive(str(state / "lock"), {"run": "another run"}):
        assert "another run" in run(check=False, witness=new)["msg"]
    assert not (state / "witness.json").exists()
    assert "failed" not in run(check=False, witness=new)
    assert json.loads((state / "witness.json").read_text())["local"]["new"] == ["b"]


def test_what_is_brief_has_the_room_of_the_host(run):
    answer = run("kvm_guests_info", brief=True, engines=["ioctl"])
    assert answer["room"]["cpus"] == os.cpu_count()
    assert answer["room"]["memory"] > 1 << 28
    assert "capabilities" not in answer


@pytest.mark.parametrize(
    ("witness", "message"),
    [
        ({"serial": 0, "guests": {}}, "witness.serial: expected a number above 0, found 0"),
        ({"serial": True, "guests": {}}, "witness.serial"),
        ({"guests": {}}, "witness.serial"),
        ({"serial": 1, "guests": []}, "witness.guests: expected a mapping of guests to hosts"),
        ({"serial": 1, "guests": {}}, "witness.seen: expected what the plan saw of the host"),
        ({"serial": 1, "guests": {}, "seen": {"run": 7}}, "witness.seen"),
    ],
)
def test_a_witness_that_is_none_is_refused(run, tmp_path, witness, message):
    answer = run(check=False, witness=witness)
    assert answer["failed"] is True
    assert message in answer["msg"]
    assert os.listdir(tmp_path) == []


def test_a_place_that_cannot_be_read_is_an_error_with_its_path(run, tmp_path):
    (tmp_path / "var/lib/virtfleet").mkdir(parents=True)
    (tmp_path / "var/lib/virtfleet/guests").touch()
    for module in ("kvm_guests", "kvm_guests_info"):
        answer = run(module)
        assert answer["failed"] is True
        assert answer["msg"].endswith("virtfleet/guests: Not a directory")


@pytest.mark.parametrize("verbosity", [0, 3])
def test_a_password_is_not_echoed(run, verbosity):
    guest = {"name": "a", "graphics": [{"type": "vnc", "password": "s3cr3tvn"}]}
    answer = run(guests=[guest], _ansible_verbosity=verbosity)
    assert answer["actions"][0]["action"] == "create"
    assert "s3cr3tvn" not in json.dumps(answer)
    echoed = answer["invocation"]["module_args"]["guests"]
    if verbosity:
        assert echoed[0]["graphics"][0]["type"] == "vnc"
    else:
        assert echoed == "a list of 1, shown with -vvv"
