# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan of a fleet in a run of ansible-playbook, fed with what hosts would have answered."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.vault import EncryptedString

REPOSITORY = Path(__file__).resolve().parents[3]
EXAMPLE = REPOSITORY / "inventory" / "example"
GIB = 1 << 30
POOL = {"capacity": 2000 * GIB, "available": 2000 * GIB, "committed": 0}
ROOM = {"cpus": 32, "memory": 512 * GIB, "pools": {"local": POOL, "shared": POOL}}
EMPTY: dict[str, Any] = {"guests": [], "room": ROOM, "witness": {}}


def run(folder: Path, inventory: Path, plays: list[dict[str, Any]], *words: str) -> Any:
    book = folder / "book.yml"
    book.write_text(yaml.safe_dump(plays))
    program = str(Path(sys.executable).parent / "ansible-playbook")
    environment = {**os.environ, "ANSIBLE_CONFIG": str(REPOSITORY / "ansible.cfg")}
    (folder / "results").write_text("")
    environment |= {
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_CALLBACK_PLUGINS": str(REPOSITORY / "tests" / "shared" / "callback"),
        "ANSIBLE_CALLBACKS_ENABLED": "run_results",
        "RUN_RESULTS": str(folder / "results"),
    }
    return subprocess.run(
        [program, "-i", str(inventory), "-e", "ansible_connection=local", *words, str(book)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def plays(answers: dict[str, Any], **options: Any) -> list[dict[str, Any]]:
    """Return plays that plan from what hosts answered, and tell what came of it."""
    seen = "{{ answers[inventory_hostname] }}"
    arguments = {"fleet": "{{ kvm_fleet }}", "observed": "seen", **options}
    first: dict[str, Any] = {
        "hosts": "hypervisors",
        "gather_facts": False,
        "vars": {"answers": answers},
        "tasks": [
            {
                "ansible.builtin.set_fact": {"seen": seen},
                "when": "answers[inventory_hostname] is defined",
            },
            {"kvm_fleet_plan": arguments, "run_once": True, "register": "planned"},
            {
                "ansible.builtin.set_fact": {
                    "kvm_fleet_parts": "{{ planned.parts }}",
                    "kvm_fleet_hosts": "{{ planned.hosts }}",
                },
                "run_once": True,
            },
        ],
    }
    return [first]


def telling(hosts: str, word: str) -> dict[str, Any]:
    task = {"ansible.builtin.debug": {"msg": f"{{{{ {word} }}}}"}}
    return {"hosts": hosts, "gather_facts": False, "tasks": [task]}


def planned(
    tmp_path: Path,
    answers: dict[str, Any],
    *words: str,
    then: Sequence[dict[str, Any]] = (),
    **options: Any,
) -> Any:
    done = run(tmp_path, EXAMPLE, [*plays(answers, **options), *then], *words)
    assert done.returncode == 0, done.stdout + done.stderr
    entries = [json.loads(line) for line in (tmp_path / "results").read_text().splitlines()]
    results = [entry for entry in entries if "result" in entry]
    (plan,) = [one["result"] for one in results if one["module"] == "kvm_fleet_plan"]
    told = {
        one["host"]: one["result"]["msg"]
        for one in results
        if one["module"] == "ansible.builtin.debug"
    }
    return {"planned": plan, "told": told}


@pytest.fixture(scope="module")
def empty() -> dict[str, Any]:
    return {f"kvm{number}": EMPTY for number in range(1, 7)}


def test_the_example_is_placed_and_every_host_gets_its_part(
    tmp_path: Path, empty: dict[str, Any]
) -> None:
    # In the plays that follow, guests are told where they are.
    then = [telling("hypervisors", "kvm_guest_specs"), telling("web01", "kvm_guest_host")]
    found = planned(tmp_path, empty, then=then)
    told = found["told"]
    plan = found["planned"]
    assert plan["blocked"] == []
    assert plan["changed"] is False
    assert sorted(plan["new"]) == sorted(plan["hosts"])
    assert plan["machines"] == {}
    assert len(plan["hosts"]) == 40
    racks = [int(plan["hosts"][name][3:]) > 3 for name in ("db01", "db02")]
    assert sorted(racks) == [False, True]
    assert {plan["hosts"][f"build{letter}"] for letter in "abcd"} <= {"kvm1", "kvm2", "kvm3"}
    assert plan["reasons"]["builda"].count("no pool shared") == 1
    assert told.pop("web01") == plan["hosts"]["web01"]
    assert len(told) == 6
    for host, specs in told.items():
        assert [one["name"] for one in specs] == plan["parts"][host]["guests"]
    # What a guest is told is filled in with what its own groups have.
    web = next(one for specs in told.values() for one in specs if one["name"] == "web01")
    assert web["cloud_init"]["ssh_keys"][0].startswith("ssh-ed25519 ")


def test_a_host_that_gave_no_answer_holds_back_what_may_be_on_it(
    tmp_path: Path, empty: dict[str, Any]
) -> None:
    answers = {name: one for name, one in empty.items() if name != "kvm6"}
    plan = planned(tmp_path, answers)["planned"]
    assert plan["new"] == []
    assert len(plan["blocked"]) == 40
    assert plan["msg"] == "0 guests on 5 hosts, 0 of them new, 40 blocked"


def test_what_is_left_out_by_a_limit_was_not_looked_at(
    tmp_path: Path, empty: dict[str, Any]
) -> None:
    witness = {"example": {"serial": 3, "hosts": list(empty), "guests": {"web02": ["kvm2"]}}}
    answers = {**empty, "kvm1": {**EMPTY, "witness": witness}}
    plan = planned(tmp_path, answers, "--limit", "kvm1,kvm3,kvm4,kvm5")["planned"]
    # What is known to be on another host is another run's part.
    assert plan["blocked"] == []
    assert "web02" not in plan["hosts"]
    assert plan["witness"]["guests"]["web02"] == ["kvm2"]
    assert set(plan["hosts"].values()) == {"kvm1", "kvm3", "kvm4", "kvm5"}


def test_all_of_it_goes_where_that_is_asked_for(tmp_path: Path, empty: dict[str, Any]) -> None:
    guest = {"name": "web01", "state": "running", "owned": True, "fleet": "example", "digest": "d"}
    answers = {**empty, "kvm2": {**EMPTY, "guests": [guest]}}
    plan = planned(tmp_path, answers, state="absent")["planned"]
    assert plan["hosts"] == {"web01": "kvm2"}
    # It is there until a later run has seen that it is not.
    assert plan["witness"]["guests"] == {"web01": ["kvm2"]}


def test_a_plan_that_removes_too_much_fails_with_what_to_do(
    tmp_path: Path, empty: dict[str, Any]
) -> None:
    def guest(name: str) -> dict[str, Any]:
        return {"name": name, "state": "running", "owned": True, "fleet": "example", "digest": ""}

    answers = {**empty, "kvm2": {**EMPTY, "guests": [guest(f"old{n}") for n in range(3)]}}
    done = run(tmp_path, EXAMPLE, plays(answers, prune=True))
    assert done.returncode == 2
    assert "the plan would remove 3 of 3 guests, more than 20%: old0, old1, old2" in done.stdout
    plan = planned(tmp_path, answers, prune=True, allow_removals=True)["planned"]
    assert plan["parts"]["kvm2"]["gone"] == ["old0", "old1", "old2"]


def test_a_saved_plan_is_held_to(tmp_path: Path, empty: dict[str, Any]) -> None:
    file = str(tmp_path / "plan")
    planned(tmp_path, empty, save=file)
    assert planned(tmp_path, empty, saved=file)["planned"]["changed"] is False
    answers = {name: one for name, one in empty.items() if name != "kvm6"}
    done = run(tmp_path, EXAMPLE, plays(answers, saved=file))
    assert done.returncode == 2
    assert "the plan is stale: kvm6 does not answer now" in done.stdout
    done = run(tmp_path, EXAMPLE, plays(empty, saved=f"{file}.none"))
    assert "the plan cannot be read" in done.stdout
    assert "No such file" in done.stdout


FLEET = """\
plugin: kvm_fleet
hypervisors: {kvm1: }
guests:
  web01:
    memory: "{{ size }}"
    cloud_init:
      ssh_keys: ["{{ admin_key }}"]
      user_data: {packages: ["{{ package }}"], chpasswd: {list: "ops:{{ word }}"}}
"""
SETTINGS = {"size": "1GiB", "admin_key": "ssh-ed25519 AAAA a", "package": "vim", "word": "s3cr3t"}


@pytest.mark.parametrize(
    ("changed", "stale"),
    [
        ({}, False),
        ({"size": "2GiB"}, True),
        ({"admin_key": "ssh-ed25519 AAAA b"}, True),
        ({"package": "nano"}, True),
        ({"word": "other"}, False),  # nobody shall guess it from a digest
    ],
)
def test_a_saved_plan_holds_what_templates_make(
    tmp_path: Path, changed: dict[str, str], stale: bool
) -> None:
    folder = tmp_path / "inventory"
    (folder / "group_vars").mkdir(parents=True)
    (folder / "fleet.yml").write_text(FLEET)
    file, answers = str(tmp_path / "plan"), {"kvm1": EMPTY}

    def settle(values: dict[str, str]) -> None:
        (folder / "group_vars" / "all.yml").write_text(yaml.safe_dump(values))

    settle(SETTINGS)
    assert run(tmp_path, folder, plays(answers, save=file)).returncode == 0
    settle({**SETTINGS, **changed})
    done = run(tmp_path, folder, plays(answers, saved=file))
    assert ("the plan is stale: web01 is declared otherwise by now" in done.stdout) is stale
    assert done.returncode == (2 if stale else 0), done.stdout


def test_what_is_in_a_vault_is_not_opened_for_a_plan_that_is_saved() -> None:
    sealed = runpy.run_path(str(REPOSITORY / "plugins/action/kvm_fleet_plan.py"))["_sealed"]
    word = EncryptedString(ciphertext="$ANSIBLE_VAULT;1.1;AES256\n3132")
    assert sealed({"a": [word, 1], "b": "c"}) == {
        "a": ["$ANSIBLE_VAULT;1.1;AES256\n3132", 1],
        "b": "c",
    }


def test_capacity_is_told_by_size(tmp_path: Path, empty: dict[str, Any]) -> None:
    found = planned(tmp_path, empty, capacity=True)["planned"]["capacity"]
    assert set(found) == {"small", "medium", "large"}
    assert found["small"]["count"] > found["medium"]["count"] > found["large"]["count"] > 0


def test_specs_of_guests_without_a_host_need_a_plan(tmp_path: Path) -> None:
    play = {
        "hosts": "kvm1",
        "gather_facts": False,
        "tasks": [{"ansible.builtin.debug": {"msg": "{{ kvm_guest_specs }}"}}],
    }
    done = run(tmp_path, EXAMPLE, [play])
    assert done.returncode == 2
    assert "it has to be planned first: import playbooks/plan.yml" in done.stdout + done.stderr
