# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role kvm_host on a Debian: planned, done, proven by other tools, kept over a reboot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playing import Ansible, Run
    from virtlab.host import Host

pytestmark = [pytest.mark.sampled, pytest.mark.module_of("the lab")]

# What a site would state; the second NUMA node is kvm1's alone.
STATED: dict[str, Any] = {
    "kvm_guest_specs": [],
    "kvm_host_module_options": {"vendor": {"nested": True}, "kvm": {"halt_poll_ns": 100000}},
    "kvm_host_sysctl": {"vm.swappiness": 10},
    "kvm_host_hugepages": [{"size": "2MiB", "count": 16, "node": 0}],
    "kvm_host_ksm": {"run": True, "pages_to_scan": 200},
    "kvm_host_thp": {"enabled": "madvise"},
    "kvm_host_cmdline": ["iommu=pt"],
}
HUGE = "/sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages"


def fingerprint(host: Host) -> dict[str, str]:
    """Return what a run could change on a host, by the host's own tools."""
    questions = {
        "files": "sudo find /etc /usr/local /usr/lib/virtfleet /var/lib/virtfleet -type f"
        " -not -path /etc/mtab -printf '%p %s %T@ %m\\n' 2>/dev/null | sort || true",
        "modules": "lsmod | awk '{print $1}' | sort",
        "settings": f"cat {HUGE} /proc/sys/vm/swappiness /sys/kernel/mm/ksm/run"
        " /sys/kernel/mm/transparent_hugepage/enabled /sys/module/kvm/parameters/halt_poll_ns",
        "units": "systemctl list-unit-files --no-legend --type=service,socket | sort",
        "active": "systemctl list-units --no-legend --plain --type=socket | cut -d' ' -f1 | sort",
    }
    return {name: host.out(question) for name, question in questions.items()}


def actions(run: Run, host: str) -> list[tuple[str, str]]:
    found = run.of("kvm_host_config", host)["actions"]
    return [(action["object"], action["action"]) for action in found]


def settings(host: Host) -> dict[str, str]:
    """Return what was stated, as the running kernel has it."""
    questions = {
        "swappiness": "cat /proc/sys/vm/swappiness",
        "huge": f"cat {HUGE}",
        "ksm": "cat /sys/kernel/mm/ksm/run /sys/kernel/mm/ksm/pages_to_scan",
        "thp": "grep -o '\\[.*\\]' /sys/kernel/mm/transparent_hugepage/enabled",
        "nested": "cat /sys/module/kvm_amd/parameters/nested",
        "polling": "cat /sys/module/kvm/parameters/halt_poll_ns",
    }
    return {name: host.out(question) for name, question in questions.items()}


WANTED = {
    "swappiness": "10",
    "huge": "16",
    "ksm": "1\n200",
    "thp": "[madvise]",
    "nested": "1",
    "polling": "100000",
}


@pytest.fixture(scope="module")
def former(hosts: list[Host]) -> dict[str, dict[str, str]]:
    return {host.name: fingerprint(host) for host in hosts}


@pytest.fixture(scope="module")
def planned(ansible: Ansible, former: dict[str, dict[str, str]]) -> Run:
    del former  # taken before
    return ansible.playbook("hosts", "--check", "--diff", **STATED)


@pytest.fixture(scope="module")
def done(ansible: Ansible, planned: Run) -> Run:
    del planned  # proven before anything is done
    return ansible.playbook("hosts", **STATED)


def test_check_mode_plans_and_touches_nothing(
    planned: Run, hosts: list[Host], former: dict[str, dict[str, str]]
) -> None:
    assert set(planned.changed()) == {host.name for host in hosts}
    assert "+vm.swappiness = 10" in planned.output
    for host in hosts:
        assert fingerprint(host) == former[host.name]


def test_what_was_planned_was_done(planned: Run, done: Run, hosts: list[Host]) -> None:
    for name in (host.name for host in hosts):
        assert actions(done, name) == actions(planned, name)
        assert done.of("kvm_host_config", name)["reboot_required"] is True
    assert "needs a reboot" in done.output


def test_the_kernel_has_what_was_stated(done: Run, host: Host) -> None:
    del done
    assert settings(host) == WANTED
    loaded = host.out("lsmod | awk '{print $1}'").split()
    assert {"kvm_amd", "vhost_net", "vhost_vsock", "tun"} <= set(loaded)
    assert "iommu=pt" not in host.out("cat /proc/cmdline"), "only a reboot brings it"


def test_libvirt_serves_its_group_and_nobody_else(done: Run, host: Host) -> None:
    del done
    assert "QEMU" in host.out("sudo virsh --connect qemu:///system version")
    assert host.run("virsh --connect qemu:///system version", check=False).returncode
    mode = host.out("stat -c '%a %U:%G' /run/libvirt/libvirt-sock")
    assert mode == "660 root:libvirt"
    listening = host.out("sudo ss -Hltn | awk '{print $4}'")
    assert ":16509" not in listening
    assert host.out("sudo aa-status --enabled && echo enforced") == "enforced"
    assert "seccomp_sandbox" in host.out("sudo cat /etc/libvirt/qemu.conf")


def test_a_second_run_changes_nothing(ansible: Ansible, done: Run) -> None:
    del done
    assert ansible.playbook("hosts", **STATED).changed() == {}


def test_a_changed_input_changes_just_that(ansible: Ansible, done: Run, hosts: list[Host]) -> None:
    del done
    stated = {**STATED, "kvm_host_sysctl": {"vm.swappiness": 20}}
    run = ansible.playbook("hosts", **stated)
    for host in hosts:
        names = [name for name, _ in actions(run, host.name)]
        assert set(names) == {"file/etc/sysctl.d/60-virtfleet.conf", "sysctl/vm.swappiness"}
        assert settings(host) == {**WANTED, "swappiness": "20"}
    assert {len(tasks) for tasks in run.changed().values()} == {1}


# What is wrong in itself, and what only this host lacks: each time all of it at once.
NONSENSE = {
    "kvm_host_hugepages": [{"size": "2MB", "count": 1}],
    "kvm_host_cmdline": ['quiet" init=/bin/sh'],
    "kvm_host_governor": "per formance",
}
NOT_HERE = {
    "kvm_host_hugepages": [{"size": "2MiB", "count": 1, "node": 7}],
    "kvm_host_sysctl": {"vm.swapiness": 10},
    "kvm_host_module_options": {"kvm_amd": {"nestd": True}},
}


@pytest.mark.parametrize(
    ("wrong", "messages"),
    [
        (NONSENSE, ["hugepages[0].size", "cmdline[0]", "governor"]),
        (NOT_HERE, ["hugepages[0].node", "did you mean swappiness", "nested"]),
    ],
    ids=["nonsense", "not here"],
)
def test_bad_input_is_refused_before_anything_is_touched(
    ansible: Ansible, done: Run, some: Host, wrong: dict[str, Any], messages: list[str]
) -> None:
    del done
    before = fingerprint(some)
    run = ansible.playbook(
        "hosts",
        "--limit",
        some.name,
        "--tags",
        "kvm_host_config",
        status=2,
        **{**STATED, **wrong},
    )
    for message in messages:
        assert message in "\n".join(run.messages(some.name))
    assert fingerprint(some) == before


def guests(name: str, **settings: Any) -> dict[str, Any]:
    return {"name": name, "engine": "ioctl", "kernel": "greeter", "memory": "16MiB", **settings}


GUESTS = [guests("comes-back", autostart=True), guests("stays-off", autostart=False)]
BOOT_ID = "cat /proc/sys/kernel/random/boot_id"
UNITS = " ".join(f"virtfleet-guest@{guest['name']}.service" for guest in GUESTS)


def test_no_reboot_ends_a_guest_unasked(ansible: Ansible, done: Run, hosts: list[Host]) -> None:
    del done
    ansible.playbook("guests", kvm_guest_specs=GUESTS)
    boots = {host.name: host.out(BOOT_ID) for host in hosts}
    run = ansible.playbook("hosts", **STATED, kvm_host_reboot=True)
    for host in hosts:
        told = f"{host.name} needs a reboot, and guests run there: comes-back, stays-off"
        assert told in run.output
        assert host.out(BOOT_ID) == boots[host.name]
        assert host.out(f"systemctl is-active {UNITS}").split() == ["active", "active"]


@pytest.mark.one_of("a reboot")
def test_a_reboot_is_made_when_it_is_needed_and_allowed(
    ansible: Ansible, done: Run, hosts: list[Host]
) -> None:
    """What was stated, and guests that start by themselves, are there afterwards."""
    del done
    boots = {host.name: host.out(BOOT_ID) for host in hosts}
    allowed = {"kvm_host_reboot": True, "kvm_host_reboot_with_guests": True}
    run = ansible.playbook("hosts", **STATED, **allowed)
    for host in hosts:
        host.ssh.forget_connections(host.name)
        assert host.out(BOOT_ID) != boots[host.name]
        assert "iommu=pt" in host.out("cat /proc/cmdline").split()
        assert settings(host) == WANTED
        assert "vhost_net" in host.out("lsmod")
        states = host.out(f"systemctl is-active {UNITS} || true").split()
        assert states == ["active", "inactive"]
        assert "Hello from inside" in host.out("sudo kvm-helper logs comes-back")
    assert "needs a reboot" not in run.output
    again = ansible.playbook("hosts", **STATED, **allowed)
    assert again.changed() == {}


def test_the_way_back_takes_what_was_put_there(
    ansible: Ansible, done: Run, hosts: list[Host], former: dict[str, dict[str, str]]
) -> None:
    del done
    # Whatever the sample left out: guests of the tests before may still be there.
    ansible.playbook("teardown", **{**STATED, "kvm_guest_specs": GUESTS}, remove_guests=True)
    for host in hosts:
        now = fingerprint(host)
        assert now["settings"] == former[host.name]["settings"]

        def names(text: str) -> set[str]:
            return {line.split()[0] for line in text.splitlines()}

        left = names(now["files"]) - names(former[host.name]["files"])
        assert {path for path in left if not path.startswith("/var/lib/virtfleet/")} == set()
        assert host.out("sudo cat /etc/libvirt/qemu.conf | grep -c virtfleet || true") == "0"
    assert ansible.playbook("teardown", **STATED).changed() == {}
