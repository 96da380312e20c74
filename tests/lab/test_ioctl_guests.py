# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Guests of the bundled helper on real hosts: units of systemd, reboots, and a way back."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playing import Ansible
    from virtlab.host import Host

pytestmark = [pytest.mark.sampled, pytest.mark.module_of("the lab")]


def guests(*names: str, **settings: Any) -> list[dict[str, Any]]:
    base = {"engine": "ioctl", "kernel": "greeter", "memory": "16MiB", **settings}
    return [{"name": name, **base} for name in names]


def everything(host: Host) -> str:
    """Return what a run could have left on the host, by its own tools."""
    places = "/var/lib/virtfleet /run/virtfleet /usr/lib/virtfleet /usr/local/bin"
    files = host.out(f"sudo find {places} /etc/systemd/system -ls 2>/dev/null || true")
    return files + host.out("systemctl list-units --all --no-legend 'virtfleet*'")


@pytest.fixture(scope="module", autouse=True)
def _helper_alone(ansible: Ansible, hosts: list[Host]) -> None:
    """Check mode on a bare host first: it plans everything and touches nothing."""
    before = {host.name: everything(host) for host in hosts}
    specs = guests("one", "two", autostart=True)
    run = ansible.playbook("site", "--check", kvm_host_helper_only=True, kvm_guest_specs=specs)
    assert {len(tasks) for tasks in run.changed().values()} == {2}
    assert {host.name: everything(host) for host in hosts} == before
    run = ansible.playbook("site", kvm_host_helper_only=True, kvm_guest_specs=specs)
    assert {len(tasks) for tasks in run.changed().values()} == {2}


def test_a_second_run_changes_nothing(ansible: Ansible) -> None:
    specs = guests("one", "two", autostart=True)
    run = ansible.playbook("site", kvm_host_helper_only=True, kvm_guest_specs=specs)
    assert run.changed() == {}


def test_guests_are_hardened_units_with_users_of_their_own(host: Host) -> None:
    users = set()
    for name in ("one", "two"):
        unit = f"virtfleet-guest@{name}.service"
        assert host.out(f"systemctl is-active {unit}; systemctl is-enabled {unit}").split() == [
            "active",
            "enabled",
        ]
        pid = host.out(f"systemctl show --value -p MainPID {unit}")
        status = host.out(f"sudo cat /proc/{pid}/status")
        fields = dict(re.findall(r"^(\w+):\s*(.*)$", status, re.MULTILINE))
        uid = fields["Uid"].split()
        assert len(set(uid)) == 1
        assert int(uid[0]) >= 0x70000000
        users.add(uid[0])
        assert int(fields["CapEff"], 16) == 0
        assert fields["NoNewPrivs"] == "1"
        assert fields["Seccomp"] == "2"
        for kind in ("mnt", "net"):
            own, hosts = (host.out(f"sudo readlink /proc/{one}/ns/{kind}") for one in (pid, 1))
            assert own != hosts, f"it is in the host's own namespace ({kind})"
    assert len(users) == 2
    # What systemd measures is how it starts, as root; the jail above is what the guest meets.
    exposure = host.out("systemd-analyze security virtfleet-guest@one.service --no-pager | tail -1")
    assert float(re.findall(r"\d+\.\d+", exposure)[0]) < 4.5


def test_guests_answer_on_their_consoles(host: Host) -> None:
    log = host.out("sudo kvm-helper logs one")
    assert "Hello from inside a virtfleet guest." in log
    assert "16 MiB" in log


def test_a_killed_guest_is_reported_and_started_again(ansible: Ansible, hosts: list[Host]) -> None:
    for host in hosts:
        host.run("sudo systemctl kill --signal=SIGKILL virtfleet-guest@one.service")
        host.run("while systemctl -q is-active virtfleet-guest@one.service; do sleep 0.2; done")
    specs = guests("one", "two", autostart=True)
    run = ansible.playbook("guests", kvm_guest_specs=specs)
    for host in hosts:
        (action,) = run.of("kvm_guests", host.name)["actions"]
        assert (action["object"], action["action"]) == ("guest/one", "start")
        assert host.out("systemctl is-active virtfleet-guest@one.service") == "active"


@pytest.mark.soak
def test_two_dozen_guests_run_at_once(ansible: Ansible, hosts: list[Host]) -> None:
    names = [f"many{number:02}" for number in range(24)]
    run = ansible.playbook("guests", kvm_guest_specs=guests(*names))
    for host in hosts:
        assert len(run.of("kvm_guests", host.name)["actions"]) == 48  # created, and started
        units = "systemctl list-units --no-legend --state=active 'virtfleet-guest@many*'"
        assert len(host.out(units).splitlines()) == 24
        for name in names:
            log = host.out(f"sudo kvm-helper logs {name}")
            assert "Hello from inside a virtfleet guest." in log, name
        users = host.out(
            "for unit in $(systemctl list-units --no-legend --plain 'virtfleet-guest@many*'"
            " | cut -d' ' -f1); do stat -c %u /proc/$(systemctl show --value -p MainPID $unit);"
            " done | sort -u | wc -l"
        )
        assert users == "24"
    assert ansible.playbook("guests", kvm_guest_specs=guests(*names)).changed() == {}
    gone = [{"name": name, "engine": "ioctl", "state": "absent"} for name in names]
    run = ansible.playbook("guests", kvm_guest_specs=gone)
    for host in hosts:
        assert len(run.of("kvm_guests", host.name)["actions"]) == 48  # stopped, and deleted
        assert host.out(units) == ""


def test_the_way_back_is_refused_while_there_are_guests(
    ansible: Ansible, hosts: list[Host]
) -> None:
    specs = guests("one", "two")
    before = {host.name: everything(host) for host in hosts}
    run = ansible.playbook("teardown", status=2, kvm_host_helper_only=True, kvm_guest_specs=specs)
    for host in hosts:
        (message,) = run.messages(host.name)
        assert "one" in message
        assert "remove_guests" in message
        assert everything(host) == before[host.name]


def test_the_way_back_leaves_the_host_as_it_was(ansible: Ansible, hosts: list[Host]) -> None:
    stated = {"kvm_host_helper_only": True, "kvm_guest_specs": guests("one", "two")}
    ansible.playbook("teardown", **stated, remove_guests=True)
    for host in hosts:
        assert host.run("command -v kvm-helper", check=False).returncode
        left = host.out(
            "sudo find /var/lib/virtfleet /usr/lib/virtfleet -type f 2>/dev/null || true"
        )
        assert [line for line in left.splitlines() if not line.endswith("/lock")] == []
        assert host.out("systemctl list-units --all --no-legend 'virtfleet*'") == ""
    assert ansible.playbook("teardown", **stated, remove_guests=True).changed() == {}
