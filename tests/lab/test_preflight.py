# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Readiness and the self-test on hosts that have svm, over SSH."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from ansible.module_utils.host.selftest import names
from validating import disagreements

if TYPE_CHECKING:
    from pathlib import Path

    from playing import Ansible, Run
    from virtlab.host import Host
    from virtlab.lab import Lab


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("preflight") / "readiness.json"


@pytest.fixture(scope="module")
def preflight(ansible: Ansible, results: Path) -> Run:
    return ansible.playbook(
        "preflight", preflight_json=str(results), kvm_preflight_selftest_linux=True
    )


def levels(run: Run, host: Host) -> dict[str, str]:
    return {check["id"]: check["level"] for check in run.of("kvm_host_info", host.name)["checks"]}


def test_the_hosts_are_ready_and_nothing_changed(preflight: Run, lab: Lab) -> None:
    assert preflight.changed() == {}
    for host in lab.hosts.values():
        found = levels(preflight, host)
        for check in ("cpu.virtualization", "kvm.device", "kvm.access", "kvm.vm", "kvm.module"):
            assert found[check] == "pass", (host.name, check)
        assert "fail" not in found.values()


def test_virt_host_validate_agrees_check_by_check(preflight: Run, host: Host) -> None:
    output = host.run("sudo env LC_ALL=C virt-host-validate qemu", check=False).stdout
    assert disagreements(output, levels(preflight, host)) == []


def test_a_guest_ran_with_its_kernel_code_on_the_cpu(preflight: Run, host: Host) -> None:
    checks = preflight.of("kvm_selftest", host.name)["checks"]
    assert [check["id"] for check in checks] == list(names())
    by_id = {check["id"]: check for check in checks}
    assert by_id["selftest.guest"]["level"] == "pass"
    assert "emulated" not in by_id["selftest.guest"]["found"]


def test_the_hosts_own_linux_boots_in_the_helper(preflight: Run, host: Host) -> None:
    checks = preflight.of("kvm_selftest", host.name)["checks"]
    (linux,) = [check for check in checks if check["id"] == "selftest.linux"]
    assert linux["level"] == "pass", linux["found"]
    assert linux["found"].endswith("ms from power-on to its first process")


def test_the_matrix_names_every_host_and_the_file_has_all_of_it(
    preflight: Run, lab: Lab, results: Path
) -> None:
    assert f"readiness of {len(lab.hosts)} hosts" in preflight.output
    found = json.loads(results.read_text())
    assert set(found) == set(lab.hosts)
    for name in lab.hosts:
        assert found[name]["verdict"]["state"] == "ready"
        assert found[name]["host"]["cpuinfo"]["count"] == 2


def test_a_numa_host_is_seen_as_one(preflight: Run) -> None:
    nodes = preflight.of("kvm_host_info", "kvm1")["host"]["memory"]["nodes"]
    assert len(nodes) == 2
    assert len(preflight.of("kvm_host_info", "kvm2")["host"]["memory"]["nodes"]) == 1


def test_a_host_that_is_not_ready_stops_only_itself(ansible: Ansible, kvm1: Host) -> None:
    """Its module is taken away: no /dev/kvm, although the CPU has svm."""
    kvm1.run("sudo modprobe -r kvm_amd kvm")
    try:
        run = ansible.playbook("preflight", status=2)
        assert run.recap["kvm1"]["failures"] == 1
        assert run.recap["kvm2"]["failures"] == 0
        (message,) = run.messages("kvm1")
        assert "kvm1 is not ready" in message
        assert "kvm_amd" in message
        assert levels(run, kvm1)["cpu.virtualization"] == "pass"
        assert levels(run, kvm1)["kvm.device"] == "fail"
    finally:
        kvm1.run("sudo modprobe kvm_amd")
    assert ansible.playbook("preflight", "--limit", "kvm1").recap["kvm1"]["failures"] == 0
