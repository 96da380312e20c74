# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A fleet of two hosts, declared in one file: planned as a whole, placed, and held to."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from asking import BOOT, there, virsh
from playing import REPOSITORY, Ansible

if TYPE_CHECKING:
    from pathlib import Path

    from playing import Run
    from virtlab.host import Host
    from virtlab.lab import Lab

pytestmark = pytest.mark.module_of("the lab")
WITNESS = "/var/lib/virtfleet/witness.json"
GUEST = {key: value for key, value in BOOT.items() if key != "wait_timeout"}
GUESTS: dict[str, Any] = {
    "web[1:2]": {"spread": "web", "groups": ["web"]},
    "db": {"together": "db", "vcpus": 2},
    "log": {"together": "db"},
    "near": {"host": "kvm1"},
    "tiny": {"engine": "ioctl", "memory": "16MiB", "kernel": "greeter"},
}


# As others make them, with what libvirt fills in.
FOREIGN = """
<domain type='kvm'>
  <name>foreign</name>
  <title>made by hand</title>
  <memory unit='MiB'>128</memory>
  <vcpu>2</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type><boot dev='hd'/></os>
  <features><acpi/><apic/></features>
  <cpu mode='host-passthrough'/>
  <clock offset='utc'><timer name='rtc' tickpolicy='catchup'/></clock>
  <on_reboot>destroy</on_reboot>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' cache='none' discard='unmap'/>
      <source file='{disk}'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <interface type='network'><source network='default'/><model type='virtio'/></interface>
    <serial type='pty'/>
    <console type='pty'/>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <input type='tablet' bus='usb'/>
    <graphics type='vnc' port='-1' autoport='yes' passwd='s3cr3tvn'/>
    <video><model type='virtio'/></video>
    <memballoon model='virtio'/>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
  </devices>
</domain>
"""


class Site:
    """A fleet's file over the hosts of the lab, and what runs do with it."""

    def __init__(self, folder: Path, lab: Lab) -> None:
        self.folder = folder
        self.hosts = {
            host.name: {k: v for k, v in lab.variables(host).items() if k.startswith("ansible_")}
            for host in lab.hosts.values()
        }

    def write(self, guests: dict[str, Any], **sections: Any) -> Ansible:
        """Write the file and return what runs on it."""
        fleet = {
            "plugin": "kvm_fleet",
            "fleet": "lab",
            "hypervisors": self.hosts,
            "defaults": {"memory": "160MiB", **GUEST},
            "guests": guests,
            **sections,
        }
        (self.folder / "fleet.yml").write_text(yaml.safe_dump(fleet, sort_keys=False))
        return Ansible(self.folder)

    def run(self, guests: dict[str, Any], *arguments: str, **settings: Any) -> Run:
        """Bring the guests to their state; a host that cannot be reached is waited for briefly."""
        sections = settings.pop("sections", {})
        settings = {"kvm_guest_force": True, "kvm_guest_stop_timeout": "2s", **settings}
        return self.write(guests, **sections).playbook("guests", *arguments, **settings)

    def plan(self, guests: dict[str, Any], *arguments: str, **settings: Any) -> dict[str, Any]:
        """Return the plan alone."""
        run = self.write(guests).playbook("plan", *arguments, **settings)
        return planned(run)


def planned(run: Run) -> dict[str, Any]:
    (found,) = [e["result"] for e in run.results if e["module"] == "kvm_fleet_plan"]
    result: dict[str, Any] = found
    return result


def blocked(run: Run) -> list[tuple[str, str]]:
    return [(one["object"], one["host"]) for one in planned(run)["blocked"]]


@pytest.fixture(scope="module")
def site(lab: Lab, kvm1: Host, kvm2: Host, tmp_path_factory: pytest.TempPathFactory) -> Site:
    for host in (kvm1, kvm2):
        assert host.out("test -e /usr/local/bin/kvm-helper || echo none") == "none"
    site = Site(tmp_path_factory.mktemp("fleet"), lab)
    helper: dict[str, Any] = {"hosts": "hypervisors", "become": True, "gather_facts": False}
    site.write({}).plays([{**helper, "tasks": [{"kvm_helper": {}}]}])
    return site


@pytest.fixture(scope="module")
def seen(site: Site, kvm1: Host, kvm2: Host) -> Run:
    run = site.run(GUESTS, "--check", "--diff")
    assert there(kvm1, kvm2) == {"kvm1": set(), "kvm2": set()}, "check mode made something"
    for host in (kvm1, kvm2):
        assert host.run(f"sudo test -e {WITNESS}", check=False).returncode
    return run


@pytest.fixture(scope="module")
def done(seen: Run, site: Site) -> Run:
    del seen
    return site.run(GUESTS)


def test_every_guest_is_where_it_was_planned(
    seen: Run, done: Run, site: Site, kvm1: Host, kvm2: Host
) -> None:
    hosts = planned(seen)["hosts"]
    assert planned(done)["hosts"] == hosts
    found = there(kvm1, kvm2)
    assert {name: host for host, names in found.items() for name in names} == hosts
    assert {hosts["web1"], hosts["web2"]} == {"kvm1", "kvm2"}
    assert hosts["db"] == hosts["log"]
    assert hosts["near"] == "kvm1"
    running = virsh(kvm1, "list --name").split() + virsh(kvm2, "list --name").split()
    assert sorted(running) == ["db", "log", "near", "web1", "web2"]
    # One host has QEMU 7.2, the other a newer one: each guest could go to either.
    for host in (kvm1, kvm2):
        for name in virsh(host, "list --name").split():
            assert "machine='pc-q35-7.2'" in virsh(host, f"dumpxml {name}")
    assert "create (6)" in done.output
    assert "done: 6 created" in done.output
    assert "plan: 6 to create" in seen.output
    # Both remember where all of them are.
    for host in (kvm1, kvm2):
        witness = json.loads(host.out(f"sudo cat {WITNESS}"))["lab"]
        assert witness["guests"] == {name: [host] for name, host in hosts.items()}
        assert witness["hosts"] == ["kvm1", "kvm2"]


def test_a_second_run_changes_nothing_and_passes_the_gate(done: Run, site: Site) -> None:
    del done
    book = str(REPOSITORY / "playbooks" / "guests.yml")
    gate = {
        "hosts": "hypervisors",
        "gather_facts": False,
        "tasks": [{"kvm_no_changes": {}, "run_once": True}],
    }
    plays: list[dict[str, Any]] = [{"import_playbook": book}, gate]
    run = site.write(GUESTS).plays(plays)
    assert run.changed() == {}
    # And the gate says what there is to do.
    more = {**GUESTS, "web[1:2]": {**GUESTS["web[1:2]"], "vcpus": 2}}
    run = site.write(more).plays(plays, "--check", status=2)
    (message,) = run.messages("kvm1")
    assert "change at next boot (2)" in message
    assert "vcpus: 1 → 2" in message


def test_what_differs_is_changed_where_the_guest_is(
    done: Run, site: Site, kvm1: Host, kvm2: Host
) -> None:
    hosts = planned(done)["hosts"]
    more = {**GUESTS, "log": {**GUESTS["log"], "title": "new"}}
    run = site.run(more)
    host = {"kvm1": kvm1, "kvm2": kvm2}[hosts["log"]]
    assert "<title>new</title>" in virsh(host, "dumpxml log")
    assert [list(run.changed()), "1 changed live" in run.output] == [[host.name], True]


@pytest.mark.one_of("a lost host")
def test_a_host_that_is_lost_holds_its_guests_back_and_no_others(
    done: Run, site: Site, kvm1: Host, kvm2: Host
) -> None:
    hosts = planned(done)["hosts"]
    before = there(kvm1, kvm2)
    kvm2.close_ssh()
    try:
        late = {**GUESTS, "late": {"host": "kvm1"}}
        run = site.run({**late, "free": {}}, status=None, patience=600)
        assert run.recap["kvm2"]["unreachable"]
        on_lost = {f"guest/{name}" for name, host in hosts.items() if host == "kvm2"}
        # One of two is no majority: what is placed could have been placed by a run that kvm2 knows.
        assert {name for name, _ in blocked(run)} == {*on_lost, "guest/free"}
        assert "more than half of the hosts have to be looked at" in " ".join(run.output.split())
        assert planned(run)["hosts"]["late"] == "kvm1"
        assert there(kvm1)["kvm1"] == {*before["kvm1"], "late"}
    finally:
        kvm2.open_ssh()
    run = site.run(late)
    assert run.changed() == {}
    assert blocked(run) == []
    assert there(kvm2)["kvm2"] == before["kvm2"]
    site.run({**GUESTS, "late": {"state": "absent"}})
    gone = site.run(GUESTS)
    assert gone.changed() == {}
    assert set(planned(gone)["witness"]["guests"]) == set(hosts)


@pytest.mark.one_of("a lost host")
def test_a_guest_that_runs_twice_is_told_and_left_alone(
    done: Run, site: Site, kvm1: Host, kvm2: Host
) -> None:
    del done
    kvm2.run("cat > /tmp/twin.xml", stdin=virsh(kvm1, "dumpxml --inactive near"))
    virsh(kvm2, "define /tmp/twin.xml")
    virsh(kvm2, "start near")
    before = there(kvm1, kvm2)
    run = site.run(GUESTS, status=2)
    assert blocked(run) == [("guest/near", "kvm1"), ("guest/near", "kvm2")]
    assert "it RUNS on several hosts at once" in run.output
    assert run.changed() == {}
    assert there(kvm1, kvm2) == before
    assert "near" in virsh(kvm1, "list --name")
    assert "near" in virsh(kvm2, "list --name")
    virsh(kvm2, "destroy near")
    virsh(kvm2, "undefine near")
    assert site.run(GUESTS).changed() == {}


@pytest.mark.one_of("a fleet's plan")
def test_a_saved_plan_is_carried_out_or_refused(
    done: Run, site: Site, kvm1: Host, tmp_path: Path
) -> None:
    del done
    file = str(tmp_path / "plan.json")
    more = {**GUESTS, "near": {"host": "kvm1", "description": "planned"}}
    site.plan(more, save=file)
    virsh(kvm1, "desc near --config --new-desc 'by hand'")
    run = site.run(more, status=2, plan=file)
    assert "the plan is stale: near changed on kvm1 meanwhile" in " ".join(run.output.split())
    site.plan(more, save=file)
    site.run(more, plan=file)
    assert "planned" in virsh(kvm1, "desc near")


@pytest.mark.one_of("a fleet's plan")
def test_how_much_more_there_is_room_for_is_told(done: Run, site: Site) -> None:
    del done
    sizes = {"sizes": {"small": {"vcpus": 1, "memory": "256MiB"}}}
    run = site.write(GUESTS, **sizes).playbook("capacity")
    capacity = planned(run)["capacity"]
    assert capacity["small"]["count"] > 0
    assert "refused: " in capacity["small"]["limit"]
    assert f"small: {capacity['small']['count']} more" in " ".join(run.output.split())


@pytest.mark.one_of("a fleet's plan")
def test_guests_that_nobody_declared_are_written_down_and_taken_over(
    done: Run, site: Site, lab: Lab, kvm2: Host, tmp_path: Path
) -> None:
    """The plan of the file that is written is empty."""
    del done
    disk = "/var/lib/libvirt/images/foreign.qcow2"
    kvm2.run(f"sudo qemu-img create -q -f qcow2 {disk} 16M")
    kvm2.run("cat > /tmp/foreign.xml", stdin=FOREIGN.format(disk=disk))
    virsh(kvm2, "define /tmp/foreign.xml")
    inventory = Ansible(lab.inventory, "kvm1,kvm2")
    folder = tmp_path / "imported"
    folder.mkdir()
    file = folder / "fleet.yml"
    settings = {"into": str(file), "fleet_name": "lab", "adopt": True}
    inventory.playbook("import", "--check", **settings)
    assert not file.exists()
    assert "urn:virtfleet" not in virsh(kvm2, "dumpxml foreign")
    run = inventory.playbook("import", **settings)
    assert run.of("kvm_fleet_import", "kvm1")["left_out"] == []
    found = yaml.safe_load(file.read_text())
    assert set(found["guests"]) == {"web1", "web2", "db", "log", "near", "tiny", "foreign"}
    assert found["guests"]["foreign"]["host"] == "kvm2"
    again = Ansible(folder).playbook("guests", "--check")
    assert again.changed() == {}
    assert planned(again)["new"] == []
    assert "already: state another place" in " ".join(
        inventory.playbook("import", status=2, **settings).output.split()
    )
    site.run({**GUESTS, "foreign": {"host": "kvm2", "state": "absent"}}, allow_removals=True)


def test_too_many_removals_are_refused_until_they_are_allowed(
    done: Run, site: Site, kvm1: Host, kvm2: Host
) -> None:
    del done
    before = there(kvm1, kvm2)
    kept = {name: spec for name, spec in GUESTS.items() if name in {"near", "tiny"}}
    sections = {"sections": {"prune": True}}
    run = site.run(kept, status=2, **sections)
    assert "the plan would remove 4 of 6 guests, more than 20%" in " ".join(run.output.split())
    assert there(kvm1, kvm2) == before
    run = site.run(kept, allow_removals=True, **sections)
    names = set.union(*there(kvm1, kvm2).values())
    assert names == {"near", "tiny"}
    assert "4 removed" in run.output


def test_all_of_it_goes_and_a_second_time_there_is_nothing(
    done: Run, site: Site, kvm1: Host, kvm2: Host
) -> None:
    del done
    site.run(GUESTS, kvm_guest_state="absent")
    assert there(kvm1, kvm2) == {"kvm1": set(), "kvm2": set()}
    assert site.run(GUESTS, kvm_guest_state="absent").changed() == {}
