# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Readiness of a machine with IOMMU and SR-IOV, and of one without hardware virtualization."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playing import Ansible, Run
from validating import disagreements
from virtlab.lab import DESCRIPTIONS, Lab

pytestmark = pytest.mark.module_of("the lab")


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
def preflight(odd: Lab) -> Run:
    return Ansible(odd.inventory).playbook("site", status=2, kvm_host_helper_only=True)


def by_id(run: Run, host: str) -> dict[str, dict[str, str]]:
    return {check["id"]: check for check in run.of("kvm_host_info", host)["checks"]}


def test_iommu_and_sriov_are_seen(preflight: Run, odd: Lab) -> None:
    checks = by_id(preflight, "rich")
    assert checks["iommu.hardware"]["level"] == "pass"
    host = preflight.of("kvm_host_info", "rich")["host"]
    functions = [d for d in host["pci"]["devices"] if d.get("total_vfs")]
    assert [device["total_vfs"] for device in functions] == [4]
    output = odd["rich"].run("sudo env LC_ALL=C virt-host-validate qemu", check=False).stdout
    levels = {name: check["level"] for name, check in checks.items()}
    assert disagreements(output, levels) == []
    nvme = odd["rich"].run("cat /sys/class/nvme/nvme0/state").stdout
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
