# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Readiness of this very machine, and its verdicts beside those of virt-host-validate."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
from ansible.module_utils.host.checks import run
from ansible.module_utils.host.observe import observe, to_dict
from ansible.module_utils.host.readiness import assess
from ansible.module_utils.host.selftest import assess as assess_selftest
from ansible.module_utils.host.selftest import names
from ansible.module_utils.kvm.probe import probe
from ansible.module_utils.kvm.selftest import selftest
from validating import disagreements

VALIDATE = shutil.which("virt-host-validate")


@pytest.fixture(scope="module")
def levels():
    return {result["id"]: result["level"] for result in run(observe("/", probe))}


@pytest.mark.kvm
def test_this_machine_runs_guests():
    found = assess(to_dict(observe("/", probe)), [], ["kvm"])
    by_id = {result["id"]: result for result in found["checks"]}
    for identity in ("kvm.device", "kvm.access", "kvm.api", "kvm.vm", "require.kvm"):
        assert by_id[identity]["level"] == "pass", by_id[identity]
    assert found["verdict"]["state"] in ("ready", "limited")
    flags = set(found["host"]["cpuinfo"]["kinds"][0]["flags"])
    if not flags & {"vmx", "svm", "sie"} and found["host"]["cpuinfo"]["architecture"] == "x86":
        assert by_id["cpu.virtualization"]["level"] == "warn"
        assert "yet KVM works" in by_id["cpu.virtualization"]["found"]


@pytest.mark.kvm
def test_the_selftest_becomes_checks():
    found = assess_selftest(selftest(rounds=2), {})
    assert [check["id"] for check in found["checks"]] == list(names())
    assert found["checks"][0]["level"] == "pass"
    assert "fail" not in {check["level"] for check in found["checks"]}


def test_every_probe_reads_this_machine():
    host = to_dict(observe("/", probe))
    assert host["cpuinfo"]["count"] == os.cpu_count()
    assert host["platform"]["machine"] == os.uname().machine
    assert host["platform"]["kernel"] == os.uname().release
    assert host["memory"]["total"] > 0
    assert host["devices"]["kvm"] == os.path.exists("/dev/kvm")
    assert host["kvm"]["device"] == "/dev/kvm"


@pytest.mark.skipif(
    VALIDATE is None, reason="virt-host-validate (libvirt-clients) is not installed"
)
def test_virt_host_validate_agrees(levels):
    output = subprocess.run(
        [VALIDATE, "qemu"],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "LC_ALL": "C"},
    ).stdout
    assert disagreements(output, levels) == []
