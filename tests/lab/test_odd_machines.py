# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A machine with IOMMU, SR-IOV and USB, what guests get of it, and one that is no KVM host."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from asking import BOOT, in_guest, verbs, virsh
from playing import Ansible, Run
from validating import disagreements
from virtlab.lab import DESCRIPTIONS, Lab

if TYPE_CHECKING:
    from virtlab.host import Host

pytestmark = pytest.mark.module_of("the lab")

MAC = "52:54:00:5a:10:01"
STICK = "46f4:0001"  # QEMU's USB drive
RULE = "/etc/udev/rules.d/66-virtfleet-sriov.rules"


@pytest.fixture(scope="module")
def odd() -> Iterator[Lab]:
    lab = Lab("odd", DESCRIPTIONS / "odd.yml")
    lab.down()
    try:
        lab.up()
        yield lab
    finally:
        lab.down()


@pytest.fixture(scope="module")
def rich(odd: Lab) -> Host:
    return odd["rich"]


@pytest.fixture(scope="module")
def ansible(odd: Lab) -> Ansible:
    return Ansible(odd.inventory, "rich")


@pytest.fixture(scope="module")
def preflight(odd: Lab) -> Run:
    return Ansible(odd.inventory).playbook("site", status=2, kvm_host_helper_only=True)


def by_id(run: Run, host: str) -> dict[str, dict[str, str]]:
    return {check["id"]: check for check in run.of("kvm_host_info", host)["checks"]}


def test_iommu_and_sriov_are_seen(preflight: Run, rich: Host) -> None:
    checks = by_id(preflight, "rich")
    assert checks["iommu.hardware"]["level"] == "pass"
    host = preflight.of("kvm_host_info", "rich")["host"]
    functions = [d for d in host["pci"]["devices"] if d.get("total_vfs")]
    assert sorted(device["total_vfs"] for device in functions) == [4, 7]
    output = rich.run("sudo env LC_ALL=C virt-host-validate qemu", check=False).stdout
    levels = {name: check["level"] for name, check in checks.items()}
    assert disagreements(output, levels) == []
    nvme = rich.run("cat /sys/class/nvme/nvme0/state").stdout
    assert nvme == "live\n"


def test_a_machine_without_svm_is_named_with_the_reason_and_stops_alone(preflight: Run) -> None:
    checks = by_id(preflight, "poor")
    assert checks["cpu.virtualization"]["level"] == "fail"
    (message,) = preflight.messages("poor")
    assert "poor is not ready" in message
    assert preflight.recap["poor"]["failures"] == 1
    assert preflight.recap["rich"]["failures"] == 0, preflight.output
    assert preflight.recap["rich"]["changed"] > 0
    assert "poor" not in preflight.changed()


def place(host: Host, driver: str) -> str:
    """Return the PCI address of the first device that a driver has."""
    return host.out(f"cd /sys/bus/pci/drivers/{driver} && ls -d 0000:* | head -n 1")


def functions(host: Host, driver: str) -> list[str]:
    """Return the virtual functions of a device, in their order."""
    folder = f"/sys/bus/pci/devices/{place(host, driver)}"
    return host.out(f"cd {folder} && readlink virtfn* | xargs -r -n 1 basename || true").split()


@pytest.fixture(scope="module")
def stated(rich: Host) -> dict[str, Any]:
    """Return what the host is to have: functions of the NIC, kept for guests, and of the drive."""
    interface = rich.out(f"ls /sys/bus/pci/devices/{place(rich, 'igb')}/net")
    wanted = [
        {"device": interface, "count": 2, "probe": False},
        {"device": place(rich, "nvme"), "count": 1},
    ]
    return {"kvm_host_virtual_functions": wanted}


@pytest.fixture(scope="module")
def made(ansible: Ansible, rich: Host, stated: dict[str, Any]) -> Run:
    planned = ansible.playbook("hosts", "--check", "--diff", **stated)
    assert functions(rich, "igb") == functions(rich, "nvme") == []
    assert rich.run(f"test -e {RULE}", check=False).returncode == 1
    done = ansible.playbook("hosts", **stated)
    answers = [run.of("kvm_host_config", "rich")["actions"] for run in (planned, done)]
    assert answers[0] == answers[1]
    return done


def test_functions_are_there_and_kept_for_guests(
    made: Run, ansible: Ansible, rich: Host, stated: dict[str, Any]
) -> None:
    touched = [action["object"] for action in made.of("kvm_host_config", "rich")["actions"]]
    assert {f"virtual_functions/{place(rich, driver)}" for driver in ("igb", "nvme")} < set(touched)
    assert (len(functions(rich, "igb")), len(functions(rich, "nvme"))) == (2, 1)
    listed = rich.out("lspci -Dk -d 8086:10ca")
    assert listed.count("Virtual Function") == 2
    assert "driver in use" not in listed
    assert ansible.playbook("hosts", **stated).changed() == {}


def test_functions_come_back_with_the_host(
    made: Run, ansible: Ansible, rich: Host, stated: dict[str, Any]
) -> None:
    del made
    rich.reboot()
    assert (len(functions(rich, "igb")), len(functions(rich, "nvme"))) == (2, 1)
    assert "driver in use" not in rich.out("lspci -Dk -d 8086:10ca")
    assert ansible.playbook("hosts", **stated).changed() == {}


@pytest.fixture(scope="module")
def passed(made: Run, ansible: Ansible, rich: Host) -> list[dict[str, Any]]:
    """Start a guest with a NIC of the pool of functions, one of the drive's, and the USB drive."""
    del made
    interface = rich.out(f"ls /sys/bus/pci/devices/{place(rich, 'igb')}/net")
    rich.run(f"sudo ip link set {interface} up")
    network = {"name": "functions", "mode": "hostdev", "pf": interface}
    guest = {
        "name": "passed",
        "memory": "256MiB",
        **BOOT,
        "nics": [{"network": "functions", "mac": MAC}],
        "hostdevs": [{"pci": functions(rich, "nvme")[0]}, {"usb": STICK}],
        "wait_for": "agent",
    }
    common = {"hosts": "hypervisors", "become": True, "gather_facts": False}
    play = {**common, "roles": ["kvm_network"], "vars": {"kvm_network_networks": [network]}}
    ansible.plays([play])
    assert ansible.plays([play]).changed() == {}
    ansible.playbook("guests", kvm_guest_specs=[guest])
    return [guest]


def test_a_guest_has_what_was_passed_through(passed: list[dict[str, Any]], rich: Host) -> None:
    """As the guest's own drivers see it; nothing that a function sends behind amd-iommu arrives."""
    del passed
    script = (
        "cat /sys/class/net/eth0/address; basename $(readlink /sys/class/net/eth0/device/driver)"
    )
    script += "; cat /sys/block/sda/size; cat /sys/bus/pci/devices/*/class | grep -c 0x010802"
    assert in_guest(rich, "passed", script).split() == [MAC, "igbvf", str(8 << 11), "1"]
    xml = virsh(rich, "dumpxml passed")
    assert f"<mac address='{MAC}'/>" in xml
    used = rich.out("lspci -Dk -d 8086:10ca")
    assert used.count("Kernel driver in use: vfio-pci") == 1


def test_functions_that_a_guest_holds_are_not_taken_from_it(
    passed: list[dict[str, Any]], ansible: Ansible, rich: Host, stated: dict[str, Any]
) -> None:
    nic, drive = stated["kvm_host_virtual_functions"]
    more = {"kvm_host_virtual_functions": [{**nic, "count": 3}, drive]}
    run = ansible.playbook("hosts", "--check", **more)
    (pending,) = [
        item
        for item in run.of("kvm_host_config", "rich")["pending"]
        if item["object"].startswith("virtual_functions/")
    ]
    assert pending["kind"] == "reboot_required"
    assert "guests hold" in pending["reason"]
    assert len(functions(rich, "igb")) == 2
    assert ansible.playbook("guests", kvm_guest_specs=passed).changed() == {}


def test_a_device_leaves_and_joins_a_running_guest(
    passed: list[dict[str, Any]], ansible: Ansible, rich: Host
) -> None:
    (guest,) = passed
    fewer = {**guest, "hostdevs": guest["hostdevs"][:1]}
    planned = ansible.playbook("guests", "--check", "--diff", kvm_guest_specs=[fewer])
    assert in_guest(rich, "passed", "ls /sys/block").split().count("sda") == 1
    done = ansible.playbook("guests", kvm_guest_specs=[fewer])
    assert verbs(done, rich) == verbs(planned, rich) == ["passed update live"]
    assert "sda" not in in_guest(rich, "passed", "ls /sys/block").split()
    assert rich.out("ls -d /sys/block/sd*") == "/sys/block/sda", "the host has it again"
    ansible.playbook("guests", kvm_guest_specs=passed)
    assert "sda" in in_guest(rich, "passed", "sleep 3; ls /sys/block").split()


def test_all_of_it_goes_again(passed: list[dict[str, Any]], ansible: Ansible, rich: Host) -> None:
    gone = {"kvm_guest_specs": passed, "kvm_guest_state": "absent", "kvm_guest_force": True}
    ansible.playbook("guests", kvm_guest_stop_timeout="2s", **gone)
    run = ansible.role("kvm_host", kvm_host_state="absent")
    assert functions(rich, "igb") == functions(rich, "nvme") == []
    assert rich.run(f"test -e {RULE}", check=False).returncode == 1
    assert run.of("kvm_host_config", "rich")["pending"] == []
