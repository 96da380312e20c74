# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A guest of the helper that is declared under another name: it gets that name and is the same.

Processes are simulated. What is planned stands in cases/guest/plan.json, and what is left by a run
that ends at any moment is test_interrupt's.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from ansible.module_utils.converge.action import Action, Change
from ansible.module_utils.converge.errors import ApplyError
from ansible.module_utils.guest.ioctl import store
from ansible.module_utils.guest.spec import digest
from ansible.module_utils.seed import store as seed_store
from ansible.module_utils.virt.identity import mac_for, uuid_for

needs_isos = pytest.mark.skipif(seed_store.tool() is None, reason="no program here makes ISOs")


def verbs(outcome):
    return [f"{a['action']} {a['object'].partition('/')[2]}" for a in outcome["actions"]]


def waiting(outcome):
    return [(p["object"], p["kind"]) for p in outcome["pending"]]


def test_a_folder_gets_the_name_and_all_in_it_stays(machine):
    machine.run({"name": "old", "state": "stopped", "vcpus": 2})
    before = machine.definition("old")
    machine.write_exit("old", {"status": 72, "reason": "triple fault"})
    wish = {"name": "new", "was": "old", "state": "stopped"}
    planned = machine.run(wish, check_mode=True)
    assert [guest["name"] for guest in planned["guests"]] == ["old"]
    done = machine.run(wish)
    assert planned["actions"] == done["actions"]
    assert verbs(done) == ["update new"]
    assert done["diff"][0]["before"] == "name: old\n"
    assert done["diff"][0]["after"] == "name: new\n"
    assert os.listdir(machine.layout.guests) == ["new"]
    after = machine.definition("new")
    for key in ("uuid", "fleet"):
        assert after[key] == before[key]
    assert after["machine"] == before["machine"]
    assert os.path.exists(machine.layout.guest("new").last_exit)
    assert done["guests"][0]["state"] == "failed"
    assert machine.run(wish)["changed"] is False
    assert machine.run({**wish, "was": None})["changed"] is False


def test_one_that_runs_is_told_and_changed_as_it_is(machine):
    machine.run({"name": "old"})
    wish = {"name": "new", "was": "old", "vcpus": 2}
    done = machine.run(wish)
    assert verbs(done) == ["update old"]
    assert waiting(done) == [("guest/new", "rename_waits"), ("guest/old", "restart_required")]
    assert machine.run(wish)["changed"] is False
    assert [guest["name"] for guest in machine.run(wish)["guests"]] == ["old"]
    done = machine.run({**wish, "state": "restarted"})
    assert verbs(done) == ["stop old", "update new", "start new"]
    again = machine.run(wish)
    assert (again["changed"], waiting(again)) == (False, [])
    assert [(g["name"], g["state"]) for g in again["guests"]] == [("new", "running")]
    assert os.listdir(machine.layout.guests) == ["new"]


def test_what_starts_it_at_boot_follows(supervised_machine):
    machine = supervised_machine
    machine.run({"name": "old", "state": "stopped", "autostart": True})
    machine.run({"name": "new", "was": "old", "state": "stopped"})
    assert machine.supervisor.autostarted() == {"new"}
    assert machine.supervisor.calls[1:] == [
        ("enable", "new"),
        ("disable", "old"),
        ("forget", "old"),
    ]
    assert machine.definition("new")["spec"]["autostart"] is True


def test_it_goes_under_either_name_and_its_user_is_not_given_out_twice(machine):
    machine.run({"name": "old", "state": "stopped"})
    uid = machine.definition("old")["machine"]["uid"]
    machine.run({"name": "new", "was": "old", "state": "stopped"})
    machine.run({"name": "old", "state": "stopped"})
    assert machine.definition("old")["machine"]["uid"] != uid
    both = machine.run({"name": "new", "was": "old", "state": "absent"})
    assert verbs(both) == []
    assert both["blocked"][0]["reason"] == "old is there too, which it was"
    machine.run({"name": "new", "state": "absent"})
    assert verbs(machine.run({"name": "new", "was": "old", "state": "absent"})) == ["delete old"]


def test_while_a_run_is_between_two_names_the_guest_is_there_under_the_new_one(machine):
    machine.run({"name": "old", "state": "stopped"})
    before = machine.definition("old")
    former, paths = machine.layout.guest("old"), machine.layout.guest("new")
    made = {**before, "name": "new", "spec": {**before["spec"], "name": "new"}}
    made["digest"] = digest(made["spec"])
    store.lay_ready(paths, json.dumps(made).encode())
    assert set(machine.engine().observe()) == {"old"}
    store.move(former, paths)
    (seen,) = machine.engine().observe().values()
    assert (seen.name, seen.problem, seen.uuid) == ("new", None, before["uuid"])
    wish = {"name": "new", "was": "old", "state": "stopped"}
    assert machine.run(wish, check_mode=True)["changed"] is False
    assert machine.run(wish)["changed"] is False
    assert machine.definition("new") == made
    assert os.listdir(machine.layout.guests) == ["new"]


def test_what_was_laid_ready_for_a_folder_of_somebody_else_s_is_dropped(machine):
    machine.run({"name": "old", "state": "stopped"}, {"name": "b", "state": "stopped"})
    store.lay_ready(machine.layout.guest("new"), b"half")
    store.lay_ready(machine.layout.guest("b"), json.dumps(machine.definition("b")).encode())
    foreign = machine.layout.guest("theirs")
    os.mkdir(foreign.folder)
    content = json.dumps({**machine.definition("old"), "uuid": "another"}).encode()
    Path(foreign.definition).write_bytes(content)
    store.lay_ready(foreign, json.dumps(machine.definition("b")).encode())
    machine.run({"name": "old", "state": "stopped"})
    assert sorted(os.listdir(machine.layout.guests)) == ["b", "old", "theirs"]
    assert Path(foreign.definition).read_bytes() == content


def test_one_that_was_started_meanwhile_is_not_renamed(machine):
    machine.run({"name": "old", "state": "stopped"})
    machine.supervisor.write_pid("old")
    change = Change("name", "old", "new")
    action = Action(1, "guest/new", "update", "kvm1", "now", "name differs", (change,))
    spec = {**machine.definition("old")["spec"], "name": "new"}
    (failure,) = machine.engine().apply([action], {"new": spec})
    assert failure.message == "it runs again"
    assert os.listdir(machine.layout.guests) == ["old"]


def test_a_step_that_failed_is_not_followed_up_under_the_other_name(machine):
    machine.run({"name": "old"})
    machine.supervisor.broken = {"old": "it does not stop"}
    with pytest.raises(ApplyError, match=r"^stop guest/old: it does not stop$"):
        machine.run({"name": "new", "was": "old", "state": "restarted"})
    assert os.listdir(machine.layout.guests) == ["old"]


def test_what_cannot_be_started_at_boot_keeps_its_name(supervised_machine, monkeypatch):
    machine = supervised_machine
    machine.run({"name": "old", "state": "stopped", "autostart": True})
    refusal = {"new": "systemctl: no"}
    with monkeypatch.context() as patch:
        patch.setattr(machine.supervisor, "autostart", lambda *_, **__: refusal)
        with pytest.raises(ApplyError, match=r"^update guest/new: systemctl: no$"):
            machine.run({"name": "new", "was": "old", "state": "stopped"})
    assert set(machine.engine().observe()) == {"old"}
    assert machine.run({"name": "old", "state": "stopped"})["changed"] is False
    assert os.listdir(machine.layout.guests) == ["old"]
    assert machine.supervisor.autostarted() == {"old"}


# Seeds, images and identity.


def disk(machine, name="old"):
    file = os.path.join(machine.layout.root, f"{name}.qcow2")
    return {"target": "vda", "file": file, "size": "1MiB"}


def seeds(machine):
    folder = Path(machine.layout.state, "seeds-ioctl")
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def seed_of(machine, name):
    (file,) = [one["file"] for one in machine.definition(name)["machine"]["disks"]]
    return json.loads(Path(file).with_suffix(".json").read_text(encoding="utf-8"))


@needs_isos
def test_a_seed_follows_with_its_name_and_the_instance_stays(machine):
    machine.run({"name": "old", "state": "stopped", "cloud_init": {"instance_id": "first"}})
    wish = {"name": "new", "was": "old", "state": "stopped", "cloud_init": {}}
    assert [c["path"] for c in machine.run(wish)["actions"][0]["changes"]] == [
        "name",
        "cloud_init.meta_data.local-hostname",
    ]
    assert seeds(machine) == ["new", "new/1.iso", "new/1.json"]
    meta = seed_of(machine, "new")["meta_data"]
    assert meta == {"instance-id": "first", "local-hostname": "new"}
    assert machine.run(wish)["changed"] is False


@needs_isos
@pytest.mark.parametrize("more", [{}, {"cloud_init": {"hostname": "stays"}}])
def test_a_seed_that_stays_as_it_is_follows_too(machine, more):
    machine.run({"name": "old", "state": "stopped", "cloud_init": {"hostname": "stays"}})
    wish = {"name": "new", "was": "old", "state": "stopped", **more}
    assert [c["path"] for c in machine.run(wish)["actions"][0]["changes"]] == [
        "name",
        "cloud_init.file",
    ]
    assert seeds(machine) == ["new", "new/1.iso", "new/1.json"]
    assert seed_of(machine, "new")["meta_data"]["local-hostname"] == "stays"
    assert machine.run(wish)["changed"] is False


def test_images_stay_the_guest_s_own(machine):
    machine.run({"name": "old", "state": "stopped", "disks": [disk(machine)]})
    more = {**disk(machine, "more"), "target": "vdb"}
    wish = {"name": "new", "was": "old", "state": "stopped", "disks": [disk(machine), more]}
    machine.run(wish)
    assert machine.run(wish)["changed"] is False
    machine.run({"name": "new", "was": "old", "state": "absent", "remove_disks": True})
    assert [name for name in os.listdir(machine.layout.root) if name.endswith(".qcow2")] == []


def test_its_identity_is_that_of_the_name_it_had_wherever_it_is_made(machine):
    dialect = machine.engine().dialect()
    entry = {"name": "new", "was": "old", "engine": "ioctl", "kernel": "greeter"}
    stated = {**entry, "nics": [{"bridge": "br0", "mac": None}]}
    assert dialect.complete(stated, None)["nics"][0]["mac"] == mac_for("old", 0)
    wish = {"name": "new", "was": "old", "state": "stopped"}
    machine.run(wish)
    made = machine.definition("new")
    assert made["uuid"] == uuid_for("old")
    assert "was" not in made["spec"]
    assert machine.run(wish)["changed"] is False
