# Copyright (C) 2026 virtfleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The probe and the self-test where there is no KVM: plain values and a reason, never an error."""

from __future__ import annotations

import json
import os

import pytest
from ansible.module_utils.kvm import device, probe, selftest
from ansible.module_utils.kvm.errors import HostError

KEYS = {
    "device",
    "machine",
    "present",
    "permitted",
    "error",
    "api_version",
    "capabilities",
    "vm_created",
    "vcpu_mmap_size",
    "cpuid",
    "feature_msrs",
    "ring0",
}


def check_nothing_found(found):
    assert set(found) == KEYS
    assert json.loads(json.dumps(found)) == found
    assert (found["api_version"], found["vcpu_mmap_size"], found["vm_created"]) == (
        None,
        None,
        False,
    )
    assert (found["cpuid"], found["feature_msrs"], found["ring0"]) == ([], {}, "unknown")
    assert found["capabilities"] == {"system": {}, "vm": {}}


def test_a_missing_device(tmp_path):
    found = probe.probe(str(tmp_path / "kvm"))
    check_nothing_found(found)
    assert (found["present"], found["permitted"]) == (False, None)
    assert found["error"] == f"{tmp_path}/kvm is missing"


def test_what_is_no_kvm_device():
    found = probe.probe(os.devnull)
    check_nothing_found(found)
    assert (found["present"], found["permitted"]) == (True, True)
    assert found["error"].startswith("/dev/null is not a KVM device")


def test_a_forbidden_device(monkeypatch):
    """Root may open everything: the refusal is put in the place of os.open and os.access."""

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(device.os, "open", refuse)
    monkeypatch.setattr(probe.os, "access", lambda *_: False)
    found = probe.probe(os.devnull)
    check_nothing_found(found)
    assert (found["present"], found["permitted"]) == (True, False)
    assert found["error"] == "/dev/null may not be opened by this user"


def test_a_kvm_that_makes_no_vm(monkeypatch):
    """Only a KVM that is held by another hypervisor would answer so: its class is replaced."""

    class Busy:
        def __init__(self, path):
            self.path = path

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def vcpu_mmap_size(self):
            return 12288

        def check_extension(self, number):
            return number

        def create_vm(self):
            raise HostError("cannot create a VM: Device or resource busy")

    monkeypatch.setattr(probe, "Kvm", Busy)
    found = probe.probe("/dev/kvm")
    assert found["error"] == "cannot create a VM: Device or resource busy"
    assert (found["api_version"], found["vm_created"]) == (12, False)
    assert found["capabilities"]["system"]["max_vcpus"] == 66
    assert (found["capabilities"]["vm"], found["ring0"]) == ({}, "unknown")


@pytest.mark.parametrize("name", ["missing", "null"])
def test_a_selftest_without_kvm(tmp_path, name):
    path = os.devnull if name == "null" else str(tmp_path / "kvm")
    result = selftest.selftest(path)
    assert (result["ok"], result["measurements"], result["facts"]) == (False, [], {})
    words = "is not a KVM device" if name == "null" else "is missing; load kvm_intel or kvm_amd"
    assert words in result["error"]


def test_assemble_reads_the_first_column_alone():
    assert selftest.assemble("\ne6 f4                             out 0xf4, al\n") == b"\xe6\xf4"
