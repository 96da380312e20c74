# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""inventory/lab as it stands: Debian under the helper and under libvirt, reached over the bridge.

It is what `make lab` brings up, from bare hosts to guests that Ansible configures.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from asking import configuring, domains, there, virsh
from playing import REPOSITORY, Ansible
from virtlab import images
from virtlab.recipe import GUEST, golden

if TYPE_CHECKING:
    from pathlib import Path

    from playing import Run
    from virtlab.host import Host
    from virtlab.lab import Lab

pytestmark = [pytest.mark.soak, pytest.mark.sampled]
INVENTORY = REPOSITORY / "inventory" / "lab"
SETTINGS: dict[str, Any] = {"kvm_preflight_selftest": False}
DEBIAN = ["app1", "app2", "web1"]
MOTD = {"dest": "/etc/motd", "content": "by git\n", "mode": "0644"}
CONFIGURED = configuring("app*:web*", {"ansible.builtin.copy": MOTD})


class Site:
    """The repository's inventory over the hosts of the tests' lab."""

    def __init__(self, folder: Path, lab: Lab) -> None:
        self.folder = folder
        images.ensure([golden(*GUEST)])
        (folder / "hosts.yml").symlink_to(lab.inventory / "hosts.yml")
        (folder / "group_vars").symlink_to(INVENTORY / "group_vars")
        self.fleet = yaml.safe_load((INVENTORY / "fleet.yml").read_text())

    def ansible(self, **guests: dict[str, Any]) -> Ansible:
        """Write the fleet, with other keys of some guests, and return what runs on it."""
        entries: dict[str, dict[str, Any]] = self.fleet["guests"]
        known = {name: {**entry, **guests.get(name, {})} for name, entry in entries.items()}
        (self.folder / "fleet.yml").write_text(yaml.safe_dump({**self.fleet, "guests": known}))
        return Ansible(self.folder)


@pytest.fixture(scope="module")
def site(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("site"), lab)


@pytest.fixture(scope="module")
def planned(site: Site, kvm1: Host, kvm2: Host) -> Run:
    run = site.ansible().playbook("site", "--check", "--diff", **SETTINGS)
    assert there(kvm1, kvm2) == {"kvm1": set(), "kvm2": set()}
    assert kvm1.run("test -e /srv/guests", check=False).returncode
    return run


@pytest.fixture(scope="module")
def made(planned: Run, site: Site) -> Run:
    del planned
    return site.ansible().playbook("site", "--diff", **SETTINGS)


def test_one_run_makes_hosts_and_guests(planned: Run, made: Run, kvm1: Host, kvm2: Host) -> None:
    for host in (kvm1, kvm2):
        told = [run.of("kvm_guests", host.name)["actions"] for run in (planned, made)]
        assert told[0] == told[1]
    assert there(kvm1, kvm2) == {"kvm1": {"app1", "hello1", "web1"}, "kvm2": {"app2", "hello2"}}
    for host, name in ((kvm1, "app1"), (kvm2, "app2")):
        assert json.loads(host.out(f"sudo kvm-helper status {name}"))["state"] == "running"
        assert name not in domains(host)


@pytest.fixture(scope="module")
def configured(made: Run, site: Site) -> Run:
    del made
    return site.ansible().plays([CONFIGURED])


def test_ansible_reaches_every_guest(configured: Run) -> None:
    facts = {
        entry["host"]: entry["result"]["ansible_facts"]
        for entry in configured.results
        if "ansible_facts" in entry["result"]
    }
    assert sorted(facts) == DEBIAN
    assert {name: one["ansible_hostname"] for name, one in facts.items()} == {n: n for n in DEBIAN}
    assert {one["ansible_distribution"] for one in facts.values()} == {"Debian"}
    assert configured.changed() == {name: ["Configure it"] for name in DEBIAN}


def test_a_second_run_changes_nothing(configured: Run, site: Site) -> None:
    del configured
    assert site.ansible().playbook("site", **SETTINGS).changed() == {}
    assert site.ansible().plays([CONFIGURED]).changed() == {}


def test_the_nightly_check_tells_what_somebody_changed(
    configured: Run, site: Site, kvm1: Host
) -> None:
    del configured
    ansible = site.ansible()
    refused = ansible.playbook("drift", status=2, **SETTINGS)
    assert "expected --check" in " ".join(refused.output.split())
    clean = ansible.playbook("drift", "--check", **SETTINGS)
    assert clean.changed() == {}
    assert "plan: nothing to do" in clean.output
    title = "desc web1 --config --live --title --new-desc"
    virsh(kvm1, f"{title} 'by hand'")
    declared = site.ansible(web1={"title": "declared"})
    for book, settings in (("drift", {}), ("site", {"fail_on_changes": True})):
        found = declared.playbook(book, "--check", status=2, **SETTINGS, **settings)
        (message,) = [text for host in ("kvm1", "kvm2") for text in found.messages(host)]
        assert "title: by hand → declared" in message
    assert "by hand" in virsh(kvm1, "dumpxml web1")
    done = declared.playbook("site", **SETTINGS)
    assert list(done.changed()) == ["kvm1"]
    assert "<title>declared</title>" in virsh(kvm1, "dumpxml web1")


def test_guests_are_changed_and_removed_by_their_declaration(
    configured: Run, site: Site, kvm1: Host, kvm2: Host
) -> None:
    del configured
    edited: dict[str, dict[str, Any]] = {
        "app1": {"memory": "352MiB", "state": "restarted"},
        "app2": {"state": "absent", "remove_disks": True},
        "web1": {"vcpus": 2},
    }
    ansible = site.ansible(**edited)
    planned = ansible.playbook("guests", "--check", "--diff", **SETTINGS)
    done = ansible.playbook("guests", "--diff", **SETTINGS)
    for host in (kvm1, kvm2):
        told = [run.of("kvm_guests", host.name)["actions"] for run in (planned, done)]
        assert told[0] == told[1]
    assert there(kvm1, kvm2) == {"kvm1": {"app1", "hello1", "web1"}, "kvm2": {"hello2"}}
    assert json.loads(kvm1.out("sudo kvm-helper status app1"))["memory"] == 352 << 20
    assert kvm2.run("test -e /srv/guests/app2.qcow2", check=False).returncode
    # It came up again from its own disk: what was configured is there.
    again = Ansible(site.folder, "app1").plays([CONFIGURED])
    assert again.changed() == {}
