# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The inventory of a fleet, as ansible-inventory shows it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml
from ansible.module_utils.fleet.schema import fleet_schema

REPOSITORY = Path(__file__).resolve().parents[3]
WORD = "s3cret"
FLEET = """
plugin: kvm_fleet
fleet: test
hypervisors:
  kvm[1:2]: {ansible_user: admin, groups: [rack_a]}
networks:
  lan: {mode: bridge, bridge: br0}
  inner: {mode: nat}
defaults:
  host: kvm1
  memory: 1GiB
  cloud_init: {user: ops, ssh_keys: "{{ keys }}"}
guests:
  web[1:2]: {groups: [webservers], vars: {http_port: 80}}
  near: {network: {network: lan, ip: {addresses: [192.0.2.9/24]}}}
  far: {network: {network: inner, ip: {addresses: [10.9.0.9/24]}}, vars: {tier: back}}
compose: {http_url: "'http://' ~ inventory_hostname"}
keyed_groups: [{key: tier, prefix: tier}]
"""


def inventory(folder, *words, status=0, **settings):
    """Return what ansible-inventory answers; settings are variables of the environment."""
    program = str(Path(sys.executable).parent / "ansible-inventory")
    environment = {**os.environ, "ANSIBLE_CONFIG": str(REPOSITORY / "ansible.cfg"), **settings}
    environment["ANSIBLE_NOCOLOR"] = "1"
    done = subprocess.run(
        [program, "-i", str(folder), *words],
        env=environment,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done


def listed(folder):
    found = json.loads(inventory(folder, "--list").stdout)
    return found, found["_meta"]["hostvars"]


@pytest.fixture
def scratch(tmp_path):
    """Return a folder that is no inventory."""
    return tmp_path


@pytest.fixture
def folder(tmp_path):
    """Return an inventory: a fleet, more of it, and variables of a group."""
    tmp_path = tmp_path / "inventory"
    tmp_path.mkdir()
    (tmp_path / "fleet.yml").write_text(FLEET)
    (tmp_path / "fleet.d").mkdir()
    (tmp_path / "fleet.d" / "db.yml").write_text("guests:\n  db01: {host: kvm2}\n")
    (tmp_path / "group_vars").mkdir()
    (tmp_path / "group_vars" / "guests.yml").write_text("keys: [ssh-ed25519 AAAA ops]\n")
    return tmp_path


def test_hosts_and_guests_are_in_their_groups(folder):
    found, variables = listed(folder)
    assert found["hypervisors"]["hosts"] == found["rack_a"]["hosts"] == ["kvm1", "kvm2"]
    assert found["guests"]["hosts"] == ["web1", "web2", "near", "far", "db01"]
    assert found["webservers"]["hosts"] == ["web1", "web2"]
    assert found["tier_back"]["hosts"] == ["far"]
    assert variables["web1"]["http_port"] == 80
    assert variables["web1"]["http_url"] == "http://web1"
    assert variables["kvm1"]["ansible_user"] == "admin"
    assert variables["kvm2"]["kvm_guest_pinned"] == ["db01"]
    assert variables["db01"]["kvm_guest_spec"]["name"] == "db01"
    assert set(variables) == {"kvm1", "kvm2", "web1", "web2", "near", "far", "db01"}


def test_a_guest_is_reached_directly_or_through_its_host(folder):
    _, variables = listed(folder)
    assert variables["near"]["ansible_host"] == "192.0.2.9"
    assert "ansible_ssh_common_args" not in variables["near"]
    assert variables["far"]["ansible_host"] == "10.9.0.9"
    assert "hostvars[kvm_guest_host]" in variables["far"]["ansible_ssh_common_args"]
    assert variables["far"]["ansible_user"] == "ops"


def told(folder, scratch, host, words, *arguments, **settings):
    """Return what a play on a host says."""
    book = scratch / "book.yml"
    task = {"ansible.builtin.debug": {"msg": words}}
    book.write_text(yaml.safe_dump([{"hosts": host, "gather_facts": False, "tasks": [task]}]))
    program = str(Path(sys.executable).parent / "ansible-playbook")
    done = subprocess.run(
        [program, "-i", str(folder), "-e", "ansible_connection=local", *arguments, str(book)],
        env={**os.environ, "ANSIBLE_CONFIG": str(REPOSITORY / "ansible.cfg"), **settings},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_templates_are_filled_in_with_what_the_guest_has(folder, scratch):
    """The fleet's templates are the user's own, and group_vars/ works."""
    output = told(folder, scratch, "kvm1", "{{ kvm_guest_specs[0].cloud_init.ssh_keys[0] }}")
    assert "ssh-ed25519 AAAA ops" in output
    output = told(folder, scratch, "far", "{{ ansible_ssh_common_args }}")
    assert "-p 22 -W %h:%p admin@kvm1" in " ".join(output.split())


def test_a_vault_is_opened_when_it_is_used(folder, scratch):
    password = scratch / "password"
    password.write_text("word")
    program = str(Path(sys.executable).parent / "ansible-vault")
    done = subprocess.run(
        [program, "encrypt_string", "--vault-password-file", str(password), WORD],
        capture_output=True,
        text=True,
        check=True,
    )
    block = done.stdout.strip().replace("\n", "\n    ")
    more = f"guests:\n  hidden:\n    vars:\n     password: {block}\n"
    (folder / "fleet.d" / "vault.yml").write_text(more)
    assert WORD not in inventory(folder, "--list").stdout
    way = ("--vault-password-file", str(password))
    opened = told(folder, scratch, "hidden", "{{ password }}", *way)
    assert WORD in opened


def test_what_is_wrong_ends_the_run_with_all_of_it(folder):
    (folder / "fleet.d" / "db.yml").write_text("guests:\n  db01: {host: kvm3}\n  web1: {}\n")
    done = inventory(folder, "--graph", status=1)
    expected = (
        "fleet.d/db.yml:2:10: guests.db01.host: expected a hypervisor (kvm1, kvm2),"
        " found 'kvm3': did you mean kvm2?"
    )
    assert expected in done.stderr
    assert "fleet.d/db.yml:3:3: guests.web1: expected a name of its own" in done.stderr
    assert "kvm1" not in done.stdout


def test_another_inventory_is_left_to_others(tmp_path):
    (tmp_path / "hosts.yml").write_text("all: {hosts: {a: {}}}\n")
    (tmp_path / "zbuilt.yml").write_text("plugin: ansible.builtin.constructed\ngroups: {g: true}\n")
    found, _ = listed(tmp_path)
    assert found["g"]["hosts"] == ["a"]


def test_what_is_shipped_of_the_schema_is_the_schema():
    sys.path.insert(0, str(REPOSITORY / "scripts"))
    import fleet_schema as script

    for path, make in script.FILES.items():
        assert path.read_text(encoding="utf-8") == make(), "run scripts/fleet_schema.py"
    jsonschema.Draft202012Validator.check_schema(fleet_schema())
    keys = script.reference()
    for key in ("`spread`", "`overcommit.vcpus`", "`most_removals`", "`cloud_init`", "`mode`"):
        assert key in keys


def test_the_example_is_a_fleet():
    found, variables = listed(REPOSITORY / "inventory" / "example")
    assert len(found["hypervisors"]["hosts"]) == 6
    assert len(found["guests"]["hosts"]) >= 40
    assert variables["kvm1"]["kvm_guest_pinned"] == ["probe1", "probe2"]
    assert variables["db01"]["kvm_guest_asked"]["asked"]["spread"] == [
        {"group": "db", "over": "zone"}
    ]


@pytest.fixture
def cached(scratch):
    """Return settings that keep what was read, and the folder where it is."""
    kept = scratch / "kept"
    return kept, {
        "ANSIBLE_INVENTORY_CACHE": "1",
        "ANSIBLE_INVENTORY_CACHE_PLUGIN": "ansible.builtin.jsonfile",
        "ANSIBLE_INVENTORY_CACHE_CONNECTION": str(kept),
    }


def test_what_is_kept_is_the_same_until_a_file_is_another(folder, cached, scratch):
    kept, settings = cached
    first = inventory(folder, "--list", **settings).stdout
    assert first == inventory(folder, "--list").stdout
    (file,) = kept.iterdir()
    # That it is used is seen by what is only there.
    content = json.loads(file.read_text())
    text = file.read_text().replace("webservers", "fromcache")
    file.write_text(text)
    assert "fromcache" in inventory(folder, "--list", **settings).stdout
    words = "{{ kvm_guest_specs[0].cloud_init.ssh_keys[0] }}"
    assert "ssh-ed25519 AAAA ops" in told(folder, scratch, "kvm1", words, **settings)
    assert inventory(folder, "--list", "--flush-cache", **settings).stdout == first
    file.write_text(text)
    (folder / "fleet.d" / "db.yml").write_text("guests:\n  db02: {host: kvm2}\n")
    found = inventory(folder, "--list", **settings).stdout
    assert "fromcache" not in found
    assert "db02" in json.loads(found)["guests"]["hosts"]
    assert json.loads(file.read_text()) != content
    # What is wrong is told as ever, and nothing of it is kept.
    (folder / "fleet.d" / "db.yml").write_text("guests:\n  db02: {hots: kvm2}\n")
    assert "hots" in inventory(folder, "--list", status=1, **settings).stderr


def test_a_secret_stays_in_its_vault_in_the_cache_too(folder, cached, scratch):
    kept, settings = cached
    (scratch / "password").write_text(WORD)
    vault = str(Path(sys.executable).parent / "ansible-vault")
    lock = ["--vault-password-file", str(scratch / "password")]
    done = subprocess.run(
        [vault, "encrypt_string", *lock, "--name", "x", "t0psecret"],
        capture_output=True,
        text=True,
        check=True,
    )
    sealed = "\n".join("      " + line for line in done.stdout.splitlines())
    file = folder / "fleet.d" / "db.yml"
    file.write_text(f"guests:\n  db01:\n    host: kvm2\n    vars:\n{sealed}\n")
    found = inventory(folder, *lock, "--host", "db01").stdout
    assert list(json.loads(found)["x"]) == ["__ansible_vault"]
    for _ in range(2):
        assert inventory(folder, *lock, "--host", "db01", **settings).stdout == found
    assert "t0psecret" in told(folder, scratch, "db01", "{{ x }}", *lock, **settings)
    (one,) = kept.iterdir()
    assert "t0psecret" not in one.read_text()
    assert "$ANSIBLE_VAULT" in one.read_text()
    # A whole file in a vault would lie open in the cache.
    one.unlink()
    subprocess.run([vault, "encrypt", *lock, str(file)], check=True, capture_output=True)
    inventory(folder, *lock, "--list", **settings)
    assert list(kept.iterdir()) == []
